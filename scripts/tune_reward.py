"""Choose a task's reward model on validation pairs, before any method is tuned on it.

    python scripts/tune_reward.py nano --store FOLDER

Trains every setting of the grid at three rates of label noise. Of the settings that the task's smallest named budget pays for,
it chooses the cheapest within one standard error of the best mean accuracy on noiseless verdicts. The record is written to
results/tuning/<task>/reward.json; copy the chosen settings to conf/task/<task>.yaml by hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from isoalign.config.task import TaskConfig
from isoalign.core import runtime
from isoalign.core.files import save
from isoalign.core.store import Store
from isoalign.data import assets
from isoalign.data.preferences import Feedback
from isoalign.evaluation import samples, scores
from isoalign.evaluation.metrics.reward_accuracy import right
from isoalign.models import loading
from isoalign.runs.overrides import task_named
from isoalign.stages.shared import SharedStages

NOISE = (0.05, 0.2, 0.35)
RULE = (
    "of those that the smallest named budget pays, the cheapest within one standard error of the best mean accuracy on "
    "verdicts before noise, over three rates of noise"
)
GRID: dict[str, dict[str, list[Any]]] = {
    "nano": {"size": [(640, 1), (1000, 1), (640, 2)], "lr": [3e-4, 7e-4, 1e-3, 1.5e-3]},
    "smol": {"size": [(400, 1), (800, 1)], "lr": [5e-4, 1e-3, 2e-3]},
}


def measure(task: TaskConfig, store: Store) -> dict[str, Any]:
    """Accuracy on validation pairs, with noiseless and noisy verdicts, and training FLOPs."""
    shared = SharedStages(task, store)
    model = shared.reward("annotator")
    judged = Feedback.read(shared.get(shared.pairs("annotator", "validation")))
    both = samples.chosen_and_rejected(judged, int(loading.load_tokenizer(task.model.name).pad_token_id))
    chosen, rejected = (scores.rewards_of(model, side) for side in both.values())
    noisy = [float(right(a - b) or 0.0) for a, b in zip(chosen, rejected, strict=True)]
    clean = [value if row.get("clean", True) else 1 - value for value, row in zip(noisy, judged.rows, strict=True)]
    flops = sum(flops for role, _, flops in model.training_bill() if role == "reward")
    return {"clean": sum(clean) / len(clean), "noisy": sum(noisy) / len(noisy), "pairs": len(clean), "flops": flops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(GRID))
    parser.add_argument("--store", type=Path, default=assets.cache_dir() / "store")
    parser.add_argument("--results", type=Path, default=Path("results/tuning"))
    options = parser.parse_args()
    runtime.quiet()
    runtime.threads(1)
    task, rows = task_named(options.task), []
    for (pairs, epochs), lr in itertools.product(*GRID[options.task].values()):
        config = replace(task.reward, pairs=pairs, epochs=epochs, lr=lr)
        by_noise = {}
        for noise in NOISE:
            noised = replace(task, reward=config, feedback=replace(task.feedback, noise=noise))
            by_noise[f"{noise:g}"] = measure(noised, Store(options.store))
        mean = sum(each["clean"] for each in by_noise.values()) / len(by_noise)
        flops = by_noise[f"{NOISE[0]:g}"]["flops"]
        rows.append({"pairs": pairs, "epochs": epochs, "lr": lr, "clean": mean, "flops": flops, "noise": by_noise})
        accuracies = ", ".join(f"{noise}: {each['clean']:.3f}" for noise, each in by_noise.items())
        print(f"pairs={pairs} epochs={epochs} lr={lr:g}: {mean:.3f} ({accuracies}), {flops:.2e} FLOPs", flush=True)
    payable = [row for row in rows if row["flops"] <= min(task.budgets.values())]
    best = max(payable, key=lambda row: row["clean"])
    count = sum(each["pairs"] for each in best["noise"].values())
    error = math.sqrt(best["clean"] * (1 - best["clean"]) / count)
    near = [row for row in payable if row["clean"] >= best["clean"] - error]
    chosen = min(near, key=lambda row: (row["flops"], -row["clean"]))
    record = {
        "task": task.name, "command": f"python scripts/tune_reward.py {task.name}", "split": "validation", "rule": RULE,
        "standard_error": error, "trials": rows, "chosen": chosen,
    }  # fmt: skip
    save(options.results / task.name / "reward.json", json.dumps(record, indent=1) + "\n")
    print(f"chosen: pairs={chosen['pairs']} epochs={chosen['epochs']} lr={chosen['lr']:g}")


if __name__ == "__main__":
    main()
