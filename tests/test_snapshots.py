"""Where along the budget the policy is saved: at shares of what is left, and at values of its KL, the same for all methods."""

from pathlib import Path
from typing import Any

import pytest
import torch

from isoalign.config.training import TrainConfig
from isoalign.core.records import Budget
from isoalign.models import kl
from isoalign.training.lab import session_of
from isoalign.training.snapshots import SnapshotPlan
from isoalign.training.trainer import Trainer
from workbench import Bench, nudge, small

BUDGET = Budget(3e8)


def trained(bench: Bench, folder: Path, algorithm: Any, budget: Budget = BUDGET, **config: Any) -> Trainer:
    trainer = bench.trainer(algorithm, budget, folder, config=TrainConfig(warmup=0, **config))
    trainer.run("it")
    return trainer


@pytest.fixture
def lab(tiny_bench: Bench, tmp_path: Path) -> Any:
    return tiny_bench.trainer(small("dpo"), BUDGET, tmp_path).lab


def test_the_kl_that_decides_is_the_exact_one_on_its_answers_and_leaves_the_run_as_it_was(lab: Any) -> None:
    session = session_of(nudge(lab, by=0.02))
    before = session.meter.spent() | {"seconds": 0}, session.generator.get_state(), torch.get_rng_state()
    plan = SnapshotPlan(session, (0.5,), (1.0,))
    found = plan._drift()
    prompts = session.source.prompts()  # ten, of which all are asked
    uniforms = torch.rand(len(prompts), session.new_tokens, generator=torch.Generator().manual_seed(0))
    drawn = session.policy.generate(prompts, uniforms)
    assert found > 0.01
    assert found == pytest.approx(float(kl.compare(session.policy, session.reference, drawn).kl.sum(1).mean()), rel=1e-4)
    assert plan._drift() == found, "the same random numbers at every look"
    after = session.meter.spent() | {"seconds": 0}, session.generator.get_state(), torch.get_rng_state()
    assert before[0] == after[0], "nothing is billed"
    assert all(torch.equal(one, other) for one, other in zip(before[1:], after[1:], strict=True))


def test_a_policy_is_saved_when_it_first_passes_a_value_and_once_where_it_passes_several(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([0.1, 0.3, 0.3, 0.2, 0.3, 1.9, 5.0])
    plan = SnapshotPlan(session_of(lab), (0.95,), (0.25, 0.5, 1.0, 2.0))
    monkeypatch.setattr(plan, "_drift", lambda: next(seen))
    places = iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.96])
    monkeypatch.setattr(type(plan.session), "progress", property(lambda _: next(places)))
    assert [plan.due() for _ in range(7)] == [False, True, False, False, False, True, True]
    assert plan.passed == 2.0
    assert [plan.due() for _ in range(2)] == [False, True], "no look where all are passed; then the share"


def test_shares_are_of_what_is_left_after_the_start_up_cost(tiny_bench: Bench, tmp_path: Path) -> None:
    """A run of which reward model and rollouts take a part before the first step."""
    trainer = trained(tiny_bench, tmp_path, small("ppo"), Budget(6e7), snapshots=(0.25, 0.5, 0.75), kl_snapshots=())
    start, flops = trainer.session.started_at, [row["flops_spent"] for row in trainer.log]
    assert start > 0.1
    hoped = []
    for share in (0.25, 0.5, 0.75):
        first = next(step for step, spent in enumerate(flops, 1) if (spent / 6e7 - start) / (1 - start) >= share)
        hoped.append(first)
    assert [place["steps"] for place in trainer.snapshots] == list(dict.fromkeys(hoped))


def test_without_shares_there_are_no_looks_at_the_kl(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = trained(tiny_bench, tmp_path, small("dpo", lr=0.02))
    assert trainer.snapshots == []
    assert trainer.plan.passed == 0
    assert TrainConfig().most_snapshots == 0


def test_a_run_that_drifts_is_saved_along_its_kl_and_the_weights_do_not_depend_on_that(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    plain = trained(tiny_bench, tmp_path / "a", small("dpo", lr=0.001))
    saved = trained(tiny_bench, tmp_path / "b", small("dpo", lr=0.001), snapshots=(0.9,), kl_snapshots=(1e-3, 1e-2, 0.1))
    assert len(saved.snapshots) >= 3
    assert saved.plan.passed == 0.1
    assert plain.log == saved.log
    for one, other in zip(plain.trained, saved.trained, strict=True):
        assert torch.equal(one, other)


def test_labels_that_are_used_up_before_the_first_step_neither_stop_the_schedule_nor_pass_every_share(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    """A limit of labels that a reward model's verdicts use up to the last: the FLOPs are what is left."""
    free = trained(tiny_bench, tmp_path / "free", small("ppo", lr=0.01), snapshots=(0.5,), kl_snapshots=())
    labels = free.meter.label_count
    tight = trained(
        tiny_bench, tmp_path / "tight", small("ppo", lr=0.01), Budget(3e8, labels=labels), snapshots=(0.5,), kl_snapshots=()
    )
    assert tight.meter.label_count == labels
    assert [row["lr"] for row in tight.log] == pytest.approx([row["lr"] for row in free.log])
    assert tight.log[-1]["lr"] < 0.5 * tight.log[0]["lr"]
    assert tight.snapshots == free.snapshots


@pytest.mark.parametrize("more", [0, 5])
def test_a_limit_that_all_verdicts_lie_within_neither_ends_a_run_nor_its_learning_rate(
    more: int, tiny_bench: Bench, tmp_path: Path
) -> None:
    """Reading a verdict again costs nothing, so that such a limit is never passed: the FLOPs are what is left."""
    free = trained(tiny_bench, tmp_path / "free", small("dpo", lr=0.001), snapshots=(0.5,), kl_snapshots=())
    every = sum(free.session.verdicts.values())
    assert free.meter.label_count == every, "all are read"
    limit = Budget(3e8, labels=every + more)
    tight = trained(tiny_bench, tmp_path / "tight", small("dpo", lr=0.001), limit, snapshots=(0.5,), kl_snapshots=())
    assert (tight.log, tight.snapshots) == (free.log, free.snapshots)
    fewer = trained(tiny_bench, tmp_path / "fewer", small("dpo", lr=0.001), Budget(3e8, labels=every - 1), snapshots=())
    assert fewer.meter.steps < free.meter.steps
    assert fewer.log[-1]["lr"] < free.log[fewer.meter.steps - 1]["lr"]


@pytest.mark.parametrize(("values", "part"), [((0.5, 0.5), "increasing"), ((0.0, 1.0), "above 0")])
def test_values_of_kl_must_be_increasing_and_above_0(values: tuple[float, ...], part: str) -> None:
    with pytest.raises(ValueError, match=f"task.training.kl_snapshots must be .*{part}"):
        TrainConfig(kl_snapshots=values)
