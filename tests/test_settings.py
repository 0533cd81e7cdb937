"""No setting of a method is accepted and does nothing: each changes what is sampled, computed or paid, or is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from isoalign.baselines.grpo import GRPO
from isoalign.baselines.rloo import RLOO
from isoalign.baselines.trl_pairs import LOSSES
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.training import registry
from workbench import Bench, algorithms, loops, quick, small

OTHERS = {  # values of settings of which twice or half as much is not allowed, or of no effect in a few steps
    "reward_clip": (0.01,), "target_kl": (1.0,), "cap": (1.01,), "clip": (0.002,), "clip_high": (0.002,),
    "num_generations": (2,), "value_clip": (0.002,), "epsilon": (0.002,), "epsilon_high": (0.002,), "level": ("token",),
    "mode": ("canonical", "direct"), "labelled_by": ("judge", "reward"), "loss_type": ("hinge",), "scale_rewards": ("batch",),
    "f_divergence": ("forward_kl",), "start": ("reward",),
}  # fmt: skip
ALIKE = "hardly an answer of the tiny bench ends before its last token"
NO_EFFECT = {
    ("grpo", "scale_length"): ALIKE,
    ("reinforce_pp", "scale_length"): ALIKE,
    ("dapo", "overlong"): ALIKE,
    ("dice", "length_penalty"): ALIKE,
    ("dapo", "tries"): "the rewards of the tiny bench differ in every group",
    ("ppo_lora", "lora"): "a run reads it, no lab",
    ("trl_rloo", "epsilon"): "it uses its samples once, so that all ratios are 1",
    ("trl_grpo", "loss_type"): "hinge is none of its",
    ("trl_gspo", "loss_type"): "hinge is none of its",
}


def another(name: str, value: Any) -> Any:
    """Another value of a setting."""
    if name in OTHERS:
        return next(each for each in OTHERS[name] if each != value)
    if isinstance(value, bool):
        return not value
    return value * 2 or 1 if isinstance(value, int) else value / 2 or 0.1


def outcome(bench: Bench, folder: Path, algorithm: Any, steps: int) -> list[dict[str, float]]:
    """The log of a few steps: losses, gradients and what is paid."""
    folder.mkdir()
    trainer = bench.trainer(algorithm, Budget(1e15, steps=steps), folder)
    trainer.run("settings")
    return trainer.log


@pytest.mark.parametrize(
    ("name", "algorithm"), quick([each for each in algorithms() + loops() if each.id != "trl_pairs"], "ipo", "rpo")
)
def test_every_setting_has_an_effect(tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any) -> None:
    bench, settings = tiny_bench.replace(ends=True), registry.hyperparameters(algorithm)
    steps, conditions = 5 if hasattr(algorithm, "train") else 9, getattr(algorithm, "acts_with", {})
    usual = outcome(bench, tmp_path / "usual", algorithm, steps)
    for field, value in settings.items():
        if (name, field) in NO_EFFECT:
            continue
        changed = dataclasses.replace(algorithm, **{field: another(field, value)})
        if field in conditions and settings[conditions[field][0]] not in conditions[field][1]:
            with pytest.raises(UserError, match=f"algorithm.{field} has an effect only with algorithm.{conditions[field][0]}"):
                registry.with_checked_settings(changed)
        else:
            assert outcome(bench, tmp_path / field, changed, steps) != usual, field


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_setting_has_an_effect_on_a_loss_of_trls_or_is_refused(
    tiny_bench: Bench, tmp_path: Path, loss_type: str
) -> None:
    base = small("trl_pairs", loss_type=loss_type, label_smoothing=0.01 if loss_type == "exo_pair" else 0.0)
    usual = outcome(tiny_bench, tmp_path / "usual", base, steps=2)
    for field in ("beta", "label_smoothing", "discopop_tau", "f_divergence", "ld_alpha", "weighting", "sft_weight"):
        changed = dataclasses.replace(base, **{field: another(field, getattr(base, field))})
        other, values = base.acts_with.get(field, ("loss_type", (loss_type,)))
        if getattr(base, other) in values:
            assert outcome(tiny_bench, tmp_path / field, changed, steps=2) != usual, field
        else:
            with pytest.raises(UserError, match=f"{field} has an effect only with algorithm.{other} .*not with {loss_type}"):
                registry.with_checked_settings(changed)


def test_a_setting_without_effect_is_one_line_and_its_default_is_none() -> None:
    base = registry.algorithm("trl_pairs")
    wanted = "only with algorithm.loss_type exo_pair or robust or aot or aot_unpaired, not with sigmoid_norm; leave it at 0.0"
    with pytest.raises(UserError, match=f"algorithm.label_smoothing has an effect {wanted}"):
        registry.with_checked_settings(base(label_smoothing=0.1))
    registry.with_checked_settings(base(label_smoothing=0.1, loss_type="robust"))
    with pytest.raises(UserError, match=r"algorithm\.alpha has an effect only with algorithm.f_divergence alpha_divergence"):
        registry.with_checked_settings(base(alpha=0.3))
    with pytest.raises(UserError, match=r"algorithm\.epsilon has an effect only with algorithm.loss_type grpo or dapo"):
        registry.with_checked_settings(registry.algorithm("trl_cispo")(epsilon=0.1))
    for name in registry.algorithm_names():
        registry.default_algorithm(name)


def test_conditions_name_fields_of_the_method() -> None:
    for name in registry.algorithm_names():
        cls = registry.algorithm(name)
        fields = {field.name for field in dataclasses.fields(cls)}
        for field, (other, values) in getattr(cls, "acts_with", {}).items():
            assert {field, other} <= fields, name
            assert values


def test_rollouts_that_draws_or_minibatch_do_not_divide_are_refused() -> None:
    assert registry.with_checked_settings(RLOO(rollouts=64, draws=8)).rollouts == 64
    with pytest.raises(UserError, match=r"algorithm\.rollouts=60 is no multiple of algorithm\.draws=8"):
        registry.with_checked_settings(RLOO(rollouts=60, draws=8))
    assert registry.with_checked_settings(GRPO(rollouts=8, draws=4, minibatch=32)), "one step of all"
    other = dataclasses.make_dataclass("Other", [("rollouts", int, 3), ("draws", int, 2)])()
    assert registry.with_checked_settings(other) is other, "names of another package are its own"
    with pytest.raises(UserError, match=r"algorithm\.rollouts=64 is no multiple of algorithm\.minibatch=48"):
        registry.with_checked_settings(GRPO(rollouts=64, draws=8, minibatch=48))
