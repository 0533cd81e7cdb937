"""The card of a run."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict, replace
from typing import Any

from isoalign.core import plugins
from isoalign.core.manifests import content
from isoalign.core.records import Card
from isoalign.evaluation import curve, metric_values
from isoalign.evaluation.card import CODE, key_of
from isoalign.evaluation.scoring import scored
from isoalign.runs import notes
from isoalign.runs.pipeline import Run
from isoalign.training.meter import Meter
from isoalign.training.registry import source_digest

PACKAGES = ("torch", "transformers", "trl", "peft", "evaluate", "hydra-core", "numpy", "scipy")
# of training
RECORD_FIELDS = ("steps", "skipped", "reported", "reported_error", "rounds", "loop", "device", "dtype", "sampler", "sharded")


def make_card(run: Run, command: str) -> Card:
    """Make all missing stages and return the card. ``command``: reproduces the run."""
    parents, record = run.parents(), run.read_record() or _base_record(run)
    package = plugins.distribution(type(run.algorithm))
    plugin = dict([package, (package[0] + CODE, source_digest(type(run.algorithm))[:8])]) if package else {}
    card = Card(
        key="",
        task=run.task.name,
        algorithm=run.name,
        config={"algorithm": run.settings, "task": asdict(run.task)},
        seed=run.seed,
        budget=asdict(run.budget),
        spent=record.get("spent") or Meter(run.budget).spent() | {"seconds": 0.0},
        metrics={},
        parents={name: stage.key for name, stage in parents.items()},
        versions=packages() | plugin,
        command=command,
        training={key: record[key] for key in RECORD_FIELDS if key in record} | _policy(run),
        notes=notes.make_notes(run),
        contents={name: content(run.shared.get(stage)) for name, stage in parents.items()},
    )
    own, base = (metric_values.read_metrics(run.shared.get(row.metrics())) for row in (run, run.base))
    points = curve.read_curve(run.shared.get(run.curve())) if run.trains else []
    return scored(replace(card, key=key_of(card)), own, base if run.trains else None, points)


def _policy(run: Run) -> dict[str, str]:
    """Where the policy lies in the store; nothing for a method that trains none."""
    return {"policy": run.policy_folder} if run.policy_folder else {}


def _base_record(run: Run) -> dict[str, Any]:
    """What the record of the SFT base says for its own row: the device that trained it."""
    record = json.loads((run.shared.get(run.shared.sft) / "record.json").read_text())
    return {"device": record["device"]} if "device" in record else {}


def packages() -> dict[str, str]:
    """Versions of the packages that results may depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("isoalign", *PACKAGES)}
    return {"python": platform.python_version()} | versions
