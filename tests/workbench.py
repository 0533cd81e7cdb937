"""What tests share beside `isoalign.tools.conformance.workbench`: oracles' trainers, algorithms as parameters, a terminal."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from isoalign.core import plugins
from isoalign.core.batches import Pairs
from isoalign.tools.conformance.workbench import (
    Bench,
    FixedSource,
    Size,
    make_bench,
    make_feedback,
    same,
    weights,
    write_model,
    write_reward,
)
from isoalign.tools.conformance.workbench import small as cut
from isoalign.training import registry
from isoalign.training.lab import Lab, session_of

__all__ = [
    "Bench", "FixedSource", "Size", "make_bench", "make_feedback", "same", "weights", "write_model", "write_reward",
]  # fmt: skip


def nudge(lab: Lab, seed: int = 1, by: float = 0.05) -> Lab:
    """Move the policy away from its base, so that log-ratios are not all 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in session_of(lab).policy.inner.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return lab


def open_vocabulary(lab: Lab) -> Lab:
    """Let both models give every token, as trainers that know no banned tokens do."""
    for model in (session_of(lab).policy, session_of(lab).reference):
        model.banned = model.banned[:0]
    return lab


def trl_arguments(folder: Path) -> dict[str, Any]:
    """Arguments of a TRL trainer that computes losses and nothing else."""
    return {
        "output_dir": str(folder), "report_to": "none", "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
        "per_device_train_batch_size": 2, "disable_tqdm": True, "remove_unused_columns": False,
    }  # fmt: skip


def trl_trainer(kind: Any, config: Any, lab: Lab, folder: Path, **settings: Any) -> Any:
    """One of TRL's trainers on pairs, with copies of a lab's models and its own settings; DPO's has a reference."""
    from datasets import Dataset

    words = Dataset.from_list([{"prompt": "you", "chosen": " are kind", "rejected": " idiot"}])
    models = (
        [session_of(lab).policy.inner, session_of(lab).reference.inner]
        if kind.__name__ == "DPOTrainer"
        else [session_of(lab).policy.inner]
    )
    policy, *reference = [copy.deepcopy(model) for model in models]
    policy.zero_grad()
    arguments = config(**trl_arguments(folder), **settings)
    return kind(policy, *reference, args=arguments, train_dataset=words, processing_class=session_of(lab).policy.tokenizer)


def assert_same_gradients(ours: Any, theirs: Any, times: float = 1.0) -> None:
    """Ours are theirs, times a factor, to float32's last digits."""
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, times * other.grad, atol=1e-5 * max(1.0, times), rtol=1e-4)


class FixedRatios:
    """A lab of which only the log-ratios matter."""

    def __init__(self, chosen: list[float], rejected: list[float]) -> None:
        self.ratios = {"chosen": torch.tensor(chosen), "rejected": torch.tensor(rejected)}

    def log_ratio(self, side: str) -> torch.Tensor:
        return self.ratios[side]

    def log(self, **_: torch.Tensor) -> None:
        pass


def loss_of_ratios(algorithm: Any, chosen: list[float], rejected: list[float]) -> list[float]:
    """What a loss on pairs makes of given log-ratios."""
    pairs: Any = Pairs("chosen", "rejected", torch.zeros(1))  # type: ignore[arg-type]
    lab: Any = FixedRatios(chosen, rejected)
    found: list[float] = algorithm.loss(lab, pairs).tolist()
    return found


def small(name: str, **settings: Any) -> Any:
    """An algorithm by name, its batches cut to what the tiny bench holds."""
    return replace(cut(registry.algorithm(name)()), **settings)


CLASSES = [name for name in registry.algorithm_names() if name not in plugins.rows()]


def algorithms() -> list[Any]:
    """Every registered algorithm that trains, as a pytest parameter; one with modes comes in each. Those that are a yaml over
    another one's class are not among them."""
    names = [name for name in CLASSES if hasattr(registry.algorithm(name), "iteration")]
    found = [(name, small(name)) for name in names] + [("rlaif", small("rlaif", mode="direct"))]
    return [pytest.param(name, made, id=f"{name}-{getattr(made, 'mode', '')}".rstrip("-")) for name, made in found]


def loops() -> list[Any]:
    """Every registered algorithm that brings a training loop of its own, as a pytest parameter."""
    names = [name for name in CLASSES if hasattr(registry.algorithm(name), "train")]
    return [pytest.param(name, small(name), id=name) for name in names]


FAST = (
    "dpo", "kto", "ppo", "ppo_critic", "rloo", "grpo", "online_dpo", "rlaif-canonical", "rlaif-direct", "orpo",
    "cai-canonical", "remax", "xpo", "trl_dpo", "trl_grpo",
)  # fmt: skip


def quick(params: list[Any], *fast: str) -> list[Any]:
    """Parameters of which all but a few are slow."""
    return [each if each.id in fast else pytest.param(*each.values, id=each.id, marks=pytest.mark.slow) for each in params]


PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def page(file: str) -> str:
    """The block of docs/extending.md that is said to be a file."""
    return re.split(r"```\w+\n", PAGE.split(f"`{file}`", 1)[1], maxsplit=1)[1].split("```")[0]


COMMAND = str(Path(sys.executable).parent / "isoalign")

TINY = [
    "task.model.new_tokens=6", "task.model.prompt_tokens=16", "task.prompts.train=24", "task.prompts.test=16",
    "task.prompts.validation=8", "task.sft.steps=3", "task.sft.batch_size=8", "task.feedback.margin=0.0",
    "task.feedback.judge_margin=0.0", "task.reward.pairs=16", "task.reward.batch_size=4", "task.evaluation.draws=2",
    "task.training.checkpoint_seconds=0", "threads=1", "tracking=off",
]  # fmt: skip


SmallDisk = Callable[..., subprocess.CompletedProcess[str]]  # of conftest.py's fixture


@dataclass(frozen=True)
class Terminal:
    """Where a test types commands: a folder of its own, a store, and the environment."""

    home: Path
    store: Path
    model: Path
    env: dict[str, str]

    def run(self, *words: str) -> list[str]:
        """The words of `isoalign run` on the tiny model with few of everything."""
        places = [f"task.model.name={self.model}", f"store={self.store}", f"results={self.home / 'results'}"]
        flags = [word for word in words if word.startswith("-")]
        return [COMMAND, "run", *flags, *TINY, *places, *(word for word in words if word not in flags)]

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=self.home, env=self.env)

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, cwd=self.home, env=self.env)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command that failed says; no traceback, nothing on stdout, exit status 2."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and "%|" not in line]  # progress bars aside
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("isoalign: ")
    assert done.stdout == "", done.stdout
    return lines[0]


def finished(store: Path) -> dict[str, int]:
    """The stages that lie in a store, with the time of their last change; a half-written one is an error."""
    if not store.is_dir():
        return {}
    assert not list(store.glob(".work-*"))
    stages = [folder for folder in store.iterdir() if folder.is_dir()]
    files = [file for stage in stages for file in [stage, *stage.rglob("*")]]
    return {str(file.relative_to(store)): file.stat().st_mtime_ns for file in files}


def stages(store: Path, kind: str = "") -> list[str]:
    """The stages of a kind that lie in a store, or all."""
    return sorted(file.name for file in store.glob(f"{kind or '[!.]*'}-*") if file.is_dir())
