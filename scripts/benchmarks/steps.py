"""CPU milliseconds of a training step on nano, on one thread: pairs and prompts of 24 + 20 tokens, default settings.

    python scripts/benchmarks/steps.py [dpo kto ...]

The first epoch and later ones are apart, as the reference is read in the first. Another checkout is measured by its Python.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from isoalign.config.task import ModelConfig
from isoalign.config.training import TrainConfig
from isoalign.core import runtime
from isoalign.core.batches import Step
from isoalign.core.records import Budget
from isoalign.models import reward
from isoalign.models.language import LanguageModel
from isoalign.models.loading import load_model
from isoalign.tools.conformance.workbench import FixedSource, prompts_and_verdicts, write_reward
from isoalign.training import registry
from isoalign.training.meter import Meter
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer

NAMES = ["dpo", "kto", "rloo", "grpo", "orpo", "simpo", "ppo"]
PROMPT, ANSWER, PAIRS, WARM = 24, 20, 256, 2


class Timed(Trainer):
    """A trainer that keeps the CPU seconds from step to step, sampling and scoring included, and how much of the feedback had
    been read by then."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.times: list[tuple[float, float]] = []
        self._since = time.process_time()

    def _step(self, step: Step) -> None:
        super()._step(step)
        now = time.process_time()
        epochs = max((cursor.position / cursor.size for cursor in self.session.cursors.values()), default=0.0)
        self.times.append((epochs, now - self._since))
        self._since = now


def milliseconds(name: str, folder: Path, steps: int) -> tuple[float, float]:
    """Means over the first epoch and over later ones."""
    prompts, verdicts = prompts_and_verdicts([PROMPT] * PAIRS, [ANSWER] * PAIRS, 4096)
    models = []
    for trained in (True, False):
        model, tokenizer = load_model("nano")
        models.append(LanguageModel(model.requires_grad_(trained), tokenizer, ends=False))
    base = folder / "base"
    models[1].inner.save_pretrained(base)
    models[1].tokenizer.save_pretrained(base)
    rewarder = reward.HeadReward(write_reward(folder / "reward", base, 1), ModelConfig(str(base)), device="cpu")
    source: Any = FixedSource(prompts, verdicts, {"annotator": rewarder}, None)
    session = Session(models[0], models[1], source, Meter(Budget(1e18, steps=steps)), ANSWER, 0)
    trainer = Timed(registry.algorithm(name)(), session, TrainConfig(warmup=2, checkpoint_seconds=1e9), folder)
    trainer.run(name)
    times = trainer.times[WARM:]
    first = [seconds for epochs, seconds in times if epochs <= 1]
    later = [seconds for epochs, seconds in times if epochs > 1] or first
    return 1000 * statistics.mean(first), 1000 * statistics.mean(later)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="algorithm", help="by default " + ", ".join(NAMES))
    parser.add_argument("--steps", type=int, default=18)
    arguments = parser.parse_args()
    runtime.quiet()
    torch.set_num_threads(1)
    print("| algorithm | first epoch (ms) | later (ms) |\n| --- | ---: | ---: |")
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            first, later = milliseconds(name, Path(folder), arguments.steps)
        print(f"| {name} | {first:.0f} | {later:.0f} |", flush=True)


if __name__ == "__main__":
    main()
