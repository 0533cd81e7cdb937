"""Every configuration composes into its frozen dataclasses, and whatever is misspelt is named."""

import dataclasses
import itertools
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from isoalign.config.fill import build_config
from isoalign.config.search_path import options
from isoalign.config.task import FeedbackConfig, ModelConfig, TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.places import PACKAGE
from isoalign.core.records import Budget
from isoalign.runs.overrides import check_overrides
from isoalign.training import registry


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)  # type: ignore[return-value]


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config["algorithm"].items() if key not in ("name", "of")}


TASKS = [pytest.param(task, marks=[] if task == "nano" else pytest.mark.slow) for task in options("task")]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.slow
def test_every_algorithm_and_budget_composes_on_every_task(task: str) -> None:
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        for algorithm, budget in itertools.product(options("algorithm"), options("budget")):
            node = compose("config", overrides=[f"task={task}", f"algorithm={algorithm}", f"budget={budget}"])
            config: Any = OmegaConf.to_container(node, resolve=True)
            built = build_config(registry.algorithm(config["algorithm"]["name"]), settings_of(config), "algorithm")
            assert dataclasses.asdict(built) == settings_of(config)
            money = build_config(Budget, config["budget"], "budget")
            found = build_config(TaskConfig, config["task"], "task")
            assert found.name == task
            assert money.flops == found.budgets[budget]
            assert dataclasses.is_dataclass(found.training)


def test_files_of_algorithms_and_their_yamls_are_one_list() -> None:
    assert options("algorithm") == registry.algorithm_names()


@pytest.mark.parametrize("name", registry.algorithm_names())
def test_a_yaml_says_every_field_of_its_dataclass_its_default_and_its_own_name(name: str) -> None:
    config = composed(f"algorithm={name}")
    assert config["algorithm"]["name"] == name
    cls = registry.algorithm(name)
    assert cls.__module__ == f"isoalign.baselines.{config['algorithm'].get('of', name)}"
    assert list(settings_of(config)) == [field.name for field in dataclasses.fields(cls)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().anything = 1


@pytest.mark.parametrize("group", ["algorithm", "task", "budget"])
def test_an_unknown_choice_lists_the_known_ones(group: str) -> None:
    with pytest.raises(UserError) as caught:
        check_overrides([f"{group}=nonsense"], sweep=False)
    assert f"unknown {group} 'nonsense'" in str(caught.value)
    assert all(name in str(caught.value) for name in options(group))


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "algorithm=dpoo",
            f"unknown algorithm 'dpoo'; did you mean 'dpo'? known: {', '.join(registry.algorithm_names())}",
        ),
        ("algorithm.bta=0.2", "unknown key 'algorithm.bta'; did you mean 'algorithm.beta'?"),
        ("task.modle.lora=4", "unknown key 'task.modle.lora'; did you mean 'task.model.lora'?"),
        ("sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("budget.flop=1", "unknown key 'budget.flop'; did you mean 'budget.flops'?"),
        ("dpo", "'dpo' is not KEY=VALUE"),
        ("seed=0,1", "seed=0,1: several values make a sweep; add -m"),
        ("algorithm=dpo,kto", "several values make a sweep; add -m"),
        ("algorithm=choice(dpo,kto)", "several values make a sweep; add -m"),
        ("algorithm.beta=[1", "algorithm.beta=[1: no viable alternative"),
        ("+lr=1e-3", "+lr: nothing reads this key; settings are of algorithm, task or budget, such as algorithm.lr"),
        ("++seeds=3", "+seeds: nothing reads this key"),
    ],
)
def test_a_word_that_is_wrong_is_named_with_its_neighbour(word: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        check_overrides([word], sweep=False)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"training": {"clip": 0}}, "task.training.clip must be above 0, not 0.0; for no clipping set it to 1e9"),
        ({"reward": {"epochs": 0}}, "task.reward.pairs and task.reward.epochs must be 1 or more"),
        ({"reward": {"lr": -0.1}}, "task.reward.lr must be finite and above 0, not -0.1"),
        ({"reward": {"batch_size": 0}}, "task.reward.batch_size must be 1 or more, not 0"),
        ({"sft": {"lr": 0.0}}, "task.sft.lr must be finite and above 0, not 0.0"),
        ({"prompts": {"clean": 1.5}}, r"task.prompts.clean must lie in \[0, 1\], not 1.5"),
        ({"prompts": {"words": 0}}, "task.prompts.words must be 1 or more, not 0"),
        ({"feedback": {"judge_margin": -1.0}}, "task.feedback.judge_margin must be finite and 0 or more, not -1.0"),
        ({"feedback": {"margin": float("nan")}}, "task.feedback.margin must be finite and 0 or more, not nan"),
        ({"feedback": {"judge_questions": -1}}, "task.feedback.judge_questions 0 or more"),
        ({"training": {"weight_decay": -0.1}}, "task.training.weight_decay must be finite and 0 or more"),
        ({"shaping": {"combine": "worst"}}, "task.shaping.combine=worst has no effect on one member"),
        ({"shaping": {"members": 2, "uncertainty": 5.0}}, "task.shaping.uncertainty has no effect unless"),
        ({"reward": {"classifier": "annotator", "golden": 8}}, "for a head that is trained; task.reward.classifier is not"),
        (
            {"reward": {"classifier": "annotator"}, "shaping": {"members": 3}},
            "task.reward.classifier is not trained: set",
        ),
        ({"judge": {"model": "smollm2"}}, "task.judge.model has no effect on a judge of kind classifier; set task.judge.kind"),
        (
            {"judge": {"kind": "lm", "model": "nano", "base_url": "http://a"}},
            "task.judge.base_url has no effect on a judge of kind lm",
        ),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(settings: dict[str, dict[str, Any]], line: str) -> None:
    task = composed()["task"]
    with pytest.raises(UserError, match=line):
        build_config(TaskConfig, task | {name: task[name] | given for name, given in settings.items()}, "task")


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("dpo", {"beta": -0.1}, "algorithm.beta must be 0 or more, not -0.1"),
        ("ppo", {"reward_clip": -1.0}, "algorithm.reward_clip must be 0 or more"),
        ("grpo", {"clip": -1.0}, "algorithm.clip must be 0 or more"),
        ("rloo", {"kl": -0.5}, "algorithm.kl must be 0 or more"),
        ("trl_dpo", {"beta": -0.1}, "algorithm.beta must be 0 or more"),
        ("ppo", {"gamma": 2.0}, r"algorithm.gamma must lie in \[0, 1\], not 2.0"),
        ("ppo", {"kl": 0.0, "target_kl": 0.01}, "algorithm.target_kl scales algorithm.kl, which is 0"),
        ("trl_grpo", {"loss_type": "cispo"}, "algorithm.loss_type must be grpo, dapo, dr_grpo or bnpo, not cispo"),
        ("trl_grpo", {"scale_rewards": "std"}, "algorithm.scale_rewards must be group, batch or none, not std"),
        ("trl_gspo", {"loss_type": "sapo"}, "algorithm.loss_type must be grpo, dapo, dr_grpo, bnpo or cispo, not sapo"),
    ],
)
def test_a_setting_beyond_its_range_is_refused(name: str, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        registry.with_checked_settings(build_config(registry.algorithm(name), settings, "algorithm"))
    registry.with_checked_settings(build_config(registry.algorithm("simpo"), {"gamma": 2.0}, "algorithm"))  # a margin


def test_ranges_are_those_of_the_settings_that_baselines_declare() -> None:
    @dataclasses.dataclass(frozen=True)
    class Theirs(registry.algorithm("dpo")):  # type: ignore[misc]
        alpha: float = -0.5
        target_kl: float = 1.0

    registry.with_checked_settings(Theirs())
    with pytest.raises(UserError, match=r"algorithm\.beta must be 0 or more"):
        registry.with_checked_settings(Theirs(beta=-1.0))


def test_the_keys_of_the_chosen_algorithm_are_the_known_ones() -> None:
    check_overrides(["algorithm=ppo", "algorithm.clip=0.1", "seed=3", "store=/tmp/x"], sweep=False)
    check_overrides(["-m", "algorithm=ppo,rlaif", "seed=0,1", "algorithm.kl=0.1"], sweep=True)
    check_overrides(["+sweep=dpo", "++seed=3", "+task.reward.hard=0.1"], sweep=False)
    check_overrides(["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], sweep=True)
    with pytest.raises(UserError, match=r"algorithm\.beta"):
        check_overrides(["algorithm=ppo", "algorithm.beta=0.1"], sweep=False)


@pytest.mark.parametrize("algorithms", ["dpo,ppo", "choice(dpo,ppo)", "glob('[dp]po')"])
def test_a_sweep_is_refused_for_the_one_algorithm_that_lacks_a_key(algorithms: str) -> None:
    check_overrides(["-m", f"algorithm={algorithms}", "algorithm.lr=.1,.3"], sweep=True)
    with pytest.raises(UserError, match=r"^algorithm=ppo: unknown key 'algorithm\.beta'"):
        check_overrides(["-m", f"algorithm={algorithms}", "algorithm.beta=.3"], sweep=True)


def test_a_sweep_over_nothing_or_over_one_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"algorithm=glob\(z\*\): matches nothing"):
        check_overrides(["-m", "algorithm=glob(z*)"], sweep=True)
    with pytest.raises(UserError, match="unknown algorithm 'dop'"):
        check_overrides(["-m", "algorithm=choice(kto,dop)"], sweep=True)


@pytest.mark.parametrize(
    ("schema", "settings", "words"),
    [
        (Budget, {"flops": "much"}, ["budget.flops", "much"]),
        (Budget, {"flops": None, "steps": 3}, ["budget.flops: must be a number, not null"]),
        (Budget, {"flops": 1.0, "time": 3}, ["budget.time"]),
        (ModelConfig, {"name": "nano", "eos": "never"}, ["eos must be masked or open, not 'never'"]),
        (FeedbackConfig, {"noise": 0.5}, ["noise must lie in [0, 0.5), not 0.5"]),
        (registry.algorithm("kto"), {"batch_size": 1}, ["batch_size must be 2 or more"]),
        (registry.algorithm("rlaif"), {"mode": "fast"}, ["mode must be canonical or direct, not 'fast'"]),
        (registry.algorithm("dpo"), {"beta": "big"}, ["beta"]),
    ],
)
def test_a_value_that_cannot_be_is_named(schema: type, settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_config(schema, settings, "budget" if schema is Budget else "algorithm")
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_every_key_of_the_run_is_read() -> None:
    """The top level is small enough to list."""
    keys = set(composed()) - {"task", "algorithm", "budget", "hydra"}
    source = "".join((PACKAGE / "runs" / name).read_text() for name in ("run.py", "tuned.py"))
    assert [key for key in keys if f"config.{key}" not in source] == []


def test_an_algorithm_of_a_name_that_nobody_has_is_refused() -> None:
    with pytest.raises(UserError, match="unknown algorithm 'nobody'"):
        registry.algorithm("nobody")


def test_the_defaults_of_a_class_are_those_that_it_states_not_what_it_derives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a setting that follows another one would follow its default, whatever is given."""

    @dataclasses.dataclass(frozen=True)
    class Mine:
        batch_size: int = 16
        minibatch: int = 0  # as large as the batch

        def __post_init__(self) -> None:
            object.__setattr__(self, "minibatch", self.minibatch or self.batch_size)

    monkeypatch.setattr(registry, "algorithm", lambda name: Mine)
    stated = registry.default_settings("mine")
    assert stated == {"batch_size": 16, "minibatch": 0}
    assert Mine(**stated | {"batch_size": 32}).minibatch == 32
