"""Results for a model's repository on the Hugging Face hub: `.eval_results/*.yaml` (https://huggingface.co/docs/hub/eval-results)
and the model-index of a model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from isoalign.core.display import clean, escape, plain
from isoalign.core.files import save
from isoalign.core.lazy import huggingface_hub
from isoalign.core.objective import objective_of
from isoalign.core.records import Card, Estimate
from isoalign.report.board.columns import leading, metric
from isoalign.tools.exports.evidence import Evidence

NAME = "isoalign"


def write_eval_results(evidence: Sequence[Evidence], folder: Path, dataset: str) -> None:
    """Write ``NAME/.eval_results/isoalign.yaml`` for each card: its gain, as a result on the benchmark ``dataset``."""
    for one in evidence:
        gain = objective_of(one.card).gain
        if (estimate := one.card.metrics.get(gain)) is None or estimate.value is None:
            continue  # the base, which gains nothing
        entry = huggingface_hub.EvalResultEntry(
            dataset_id=dataset, task_id=one.task, value=estimate.value, notes=_note(one.card, gain, estimate)
        )
        text = yaml.safe_dump(huggingface_hub.eval_result_entries_to_yaml([entry]), sort_keys=False)
        save(folder / one.name / ".eval_results" / f"{NAME}.yaml", text)


def write_model_index(evidence: Sequence[Evidence], folder: Path, dataset: str) -> None:
    """Write ``NAME/README.md`` for each card, with its leading metrics as model-index."""
    for one in evidence:
        data = huggingface_hub.ModelCardData(model_name=one.name, eval_results=eval_results(one.card, dataset), tags=[NAME])
        lines = [f"---\n{data.to_yaml()}\n---", f"# {one.name}", "Results of isoalign with 95% intervals in `metrics.args`."]
        lines += ["\n".join(f"- {escape(str(flag))}" for flag in one.card.flags)] if one.card.flags else []
        save(folder / one.name / "README.md", "\n\n".join(lines) + "\n")


def eval_results(card: Card, dataset: str = "") -> list[Any]:
    """The leading metrics of a card as the hub's EvalResult, with interval and number of prompts."""
    objective, task = objective_of(card), clean(card.task)
    known = [(name, card.metrics[name]) for name in leading(objective) if name in card.metrics]
    return [
        huggingface_hub.EvalResult(
            task_type="text-generation", dataset_type=dataset or f"{NAME}-{task}", dataset_name=f"{NAME} {task}",
            dataset_split=str(card.notes.get("split", "test")), metric_type=name, metric_name=metric(name, objective).heading,
            metric_value=estimate.value,
            metric_args={"low": estimate.low, "high": estimate.high, "n": estimate.n, "missing": estimate.missing}
            | ({"flags": [clean(str(flag)) for flag in card.flags]} if card.flags else {}),
        )
        for name, estimate in known if estimate.value is not None
    ]  # fmt: skip


def _note(card: Card, name: str, estimate: Estimate) -> str:
    """What the value is, how sure, and under which budget."""
    span = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.4g}, {estimate.high:.4g}]"
    budget = f", budget {plain(card.budget['flops'])} FLOP" if card.metered else ", unmetered"
    flags = "".join(f"; {flag}" for flag in card.flags)
    return clean(f"{name}{span}, n={estimate.n}, {card.algorithm} seed {card.seed}{budget}, card {card.key}{flags}")
