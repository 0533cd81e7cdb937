"""One run in several processes, over gloo: the same bill, labels, losses, weights and samples as in one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from processes import outcome
from workbench import Bench, algorithms

HERE = Path(__file__).parent
QUICK = ["dpo", "kto", "ppo", "rloo:4"]
ALL = [each.id for each in algorithms()]


def launch(count: int, folder: Path, environment: dict[str, str], names: Sequence[str]) -> dict[str, Any]:
    """What comes of algorithms in so many processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [*torchrun, str(HERE / "processes.py"), str(folder / "bench"), str(folder / "out.pt"), *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = torch.load(folder / "out.pt")
    return found


def check_same(one: dict[str, Any], several: dict[str, Any]) -> tuple[float, float]:
    """All that is counted is equal, losses and weights are so to float error; returns the largest of each."""
    assert several["spent"] == one["spent"]
    assert several["state"].keys() == one["state"].keys()
    assert [row.keys() for row in several["log"]] == [row.keys() for row in one["log"]]
    assert [row["flops_spent"] for row in several["log"]] == [row["flops_spent"] for row in one["log"]]
    least = 0.1  # of a loss by which an error is divided: its terms cancel where it is near 0
    losses = [abs(a["loss"] - b["loss"]) / max(abs(a["loss"]), least) for a, b in zip(one["log"], several["log"], strict=True)]
    assert max(losses) < 2e-5
    moved = torch.cat([(a - b).abs().flatten() for a, b in zip(one["weights"], several["weights"], strict=True)])
    assert (moved > 1e-6).float().mean() < 1e-3  # Adam divides what rounding leaves of a gradient that is 0 by almost 0
    assert moved.max() < 1e-4
    return max(losses), moved.max().item()


@pytest.mark.parametrize(
    ("count", "names"),
    [(2, QUICK), pytest.param(2, ALL, marks=pytest.mark.slow), pytest.param(3, ALL, marks=pytest.mark.slow)],
)
def test_in_several_processes_the_bill_is_the_same_and_so_are_losses_and_weights_to_float_error(
    tiny_bench: Bench, tmp_path: Path, environment: dict[str, str], count: int, names: list[str]
) -> None:
    found = launch(count, tmp_path, environment, names)
    for name in names:
        one = outcome(tiny_bench, name, tmp_path / "one" / name)
        assert len(one["log"]) >= 3
        loss, weight = check_same(one, found[name])
        print(f"{count} processes, {name}: {len(one['log'])} steps, losses to {loss:.1e}, weights to {weight:.1e}")


@pytest.mark.parametrize("name", ["ppo", pytest.param("dpo:4", marks=pytest.mark.slow)])
def test_a_run_goes_on_in_another_number_of_processes(
    tiny_bench: Bench, tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    one = outcome(tiny_bench, name, tmp_path / "one")
    launch(2, tmp_path, environment, [f"{name}!5"])
    assert list((tmp_path / name / "checkpoint").glob("*.pt"))
    outcome(tiny_bench, f"{name}!4", tmp_path / name)
    check_same(one, launch(3, tmp_path, environment, [name])[name])
