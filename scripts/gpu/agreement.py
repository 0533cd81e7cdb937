"""Every method that trains, a few steps on nano: its losses and its bill, to be compared with those on another device.

The data are the same on every device: verdicts are fixed, and answers are sampled by the same uniforms.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from report import write

from isoalign.config.task import ModelConfig
from isoalign.core import progress, runtime
from isoalign.core.errors import unforeseen
from isoalign.core.records import Budget
from isoalign.data.comments import Comment
from isoalign.models import loading
from isoalign.models.classifiers import CharClassifier
from isoalign.models.reward import HeadReward
from isoalign.stages.shared import ClassifierJudge
from isoalign.tools.conformance.workbench import (
    KIND,
    RUDE,
    Bench,
    FixedSource,
    nudged,
    prompts_and_verdicts,
    small,
    write_reward,
)
from isoalign.training import registry

STEPS, NEW_TOKENS = 3, 8
PROMPTS, ANSWERS = [6, 17, 9, 12, 5, 16, 8, 11], [8, 5, 7, 8, 6, 8, 4, 8]  # lengths in tokens


def make_bench(folder: Path, device: str) -> Bench:
    """nano with random verdicts and reward models, the same on every device."""
    nano = Path(loading.model_path("nano"))
    config, rewards = ModelConfig(str(nano)), {}
    for seed, by in enumerate(("annotator", "judge"), start=1):
        rewards[by] = HeadReward(write_reward(folder / f"reward-{by}", nano, seed), config, device=device)
    comments = [Comment(f"{text} {n}", text in RUDE) for n in range(3) for text in KIND + RUDE]
    CharClassifier.fit(comments).save(folder / "annotators" / "judge")
    vocabulary = loading.load_tokenizer("nano").vocab_size
    source = FixedSource(*prompts_and_verdicts(PROMPTS, ANSWERS, vocabulary), rewards, ClassifierJudge(folder / "annotators"))
    bench = Bench(nano, source, new_tokens=NEW_TOKENS, device=device)
    source.make_teacher = cache(lambda: nudged(bench.language_model(), seed=3, by=0.01))
    return bench


def train(name: str, bench: Bench, folder: Path) -> dict[str, Any]:
    """Losses of the steps, the bill, and seconds."""
    torch.manual_seed(0)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as work, progress.hidden():
        trainer = bench.trainer(small(registry.algorithm(name)()), Budget(1e18, steps=STEPS), Path(work))
        trainer.run(name)
    spent = trainer.meter.spent()
    bill = {f"{item['role']} {item['kind']}": item["flops"] for item in spent["items"]}
    bill |= {key: spent[key] for key in ("tokens", "steps", "labels")}
    return {
        "losses": [row.get("loss") for row in trainer.log],
        "bill": bill,
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="methods, separated by commas")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    runtime.quiet()
    torch.set_float32_matmul_precision("highest")
    names = [n for n in registry.algorithm_names() if any(hasattr(registry.algorithm(n), m) for m in ("iteration", "train"))]
    only = [name.strip() for name in arguments.only.split(",") if name.strip()]
    if odd := set(only) - set(names):
        parser.error(f"--only: unknown method {', '.join(sorted(odd))}")
    names = [name for name in names if name in only or not only]
    found: dict[str, Any] = {"methods": {}, "not_run": list(names)}
    with tempfile.TemporaryDirectory() as home:
        bench, longest = make_bench(Path(home), arguments.device), 0.0
        for name in names:
            started = time.monotonic()
            if started + longest > end:
                break
            try:
                found["methods"][name] = train(name, bench, Path(home))
            except Exception as error:
                found["methods"][name] = {"error": unforeseen(error)}
            found["not_run"].remove(name)
            write(arguments.out, found)  # what is done is kept if the time is up
            longest = max(longest, time.monotonic() - started)


if __name__ == "__main__":
    main()
