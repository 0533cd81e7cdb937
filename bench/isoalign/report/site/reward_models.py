"""Reward models: how often their preferences agree with held-out verdicts, and what noise lets them reach."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from isoalign.config.feedback import PanelConfig
from isoalign.core.lazy import scipy
from isoalign.core.records import Card
from isoalign.report.board.sections import Section
from isoalign.report.charts.reliability import Bins, reliability_by_model
from isoalign.report.site.charts import chart
from isoalign.report.site.parts import SAYS, SHAPES, html_table, shown

TINTS = ("pairs", "reward", "judge", "unpaired", "distillation")
QUANTITY: dict[str, Any] = {"type": "quantitative", "scale": {"zero": False}}


def reliability(section: Section, identifier: str) -> Markup:
    """The share of verdicts that agreed against the probability that the model gave, with intervals and the noise ceiling."""
    models = reliability_by_model(section)
    if not models:
        return Markup("")
    marks, rows = [], []
    for name, bins in models.items():
        for right in _right(bins):
            says = f"{name}\nprobability {right['confidence']:.3f}: {right['said']} agreed, of {right['count']:.0f} pairs"
            marks.append(right | {"model": name, "says": says})
            rows.append([name, f"{right['confidence']:.3f}", right["said"], f"{right['count']:.0f}"])
    ceiling = noise_ceiling(section)
    x = QUANTITY | {"field": "confidence", "title": "Probability of the answer that the model preferred"}
    y = QUANTITY | {"field": "right", "title": "Share of verdicts that agreed", "axis": {"format": ".0%"}}
    legend = {"orient": "bottom", "columns": 1, "title": None}
    own = {"field": "model", "type": "nominal", "legend": legend}
    colour = own | {"scale": {"domain": [*models], "range": [f"var(--hue-{name})" for name in TINTS]}}
    shape = own | {"scale": {"domain": [*models], "range": [*SHAPES.values()]}}
    perfect = {"data": {"values": [{"confidence": 0.5, "right": 0.5}, {"confidence": 1.0, "right": 1.0}]}}
    bar = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": colour}
    point = {"type": "point", "filled": True, "size": 80, "opacity": 1}
    layers: list[dict[str, Any]] = [
        perfect | {"mark": {"type": "line", "color": "var(--faint)", "strokeDash": [4, 3]}, "encoding": {"x": x, "y": y}},
        {"mark": {"type": "rule", "strokeWidth": 1.6, "aria": False}, "encoding": bar},
        {"mark": point, "encoding": {"x": x, "y": y, "color": colour, "shape": shape} | SAYS},
    ]
    if ceiling is not None:
        layers.append(
            {"mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 2}, "encoding": {"y": {"datum": ceiling}}}
        )
    limit = "the noise ceiling is not known" if ceiling is None else f"noise lets a perfect one reach {ceiling:.1%} (the line)"
    title = f"Reward models agree with {_accuracies(section)} of held-out verdicts; {limit}"
    table = html_table(title, ["Reward model", "Mean probability", "Share agreed", "Pairs"], rows)
    note = "Dashes: perfect calibration. Bars: Wilson's 95% intervals, as if pairs of one prompt were independent."
    return chart(identifier, title, {"height": 340, "data": {"values": marks}, "layer": layers}, table, note)


def _right(bins: Bins) -> list[dict[str, Any]]:
    """The upper half of the bins, each pair once, with the interval of the share that agreed."""
    found = []
    for one in bins:
        low, confidence, right, count = (one.get(name) for name in ("low", "confidence", "right", "count"))
        if low is None or confidence is None or right is None or count is None or low < 0.5 or count < 1:
            continue
        agreed = min(max(round(right * count), 0), int(count))
        bounds = scipy.stats.binomtest(agreed, int(count)).proportion_ci(method="wilson")
        said = f"{right:.3f} [{bounds.low:.3f}, {bounds.high:.3f}]"
        found.append({"confidence": confidence, "right": right, "count": count, "said": said}
                     | {"low": bounds.low, "high": bounds.high})  # fmt: skip
    return found


def _accuracies(section: Section) -> str:
    """The accuracies of the models behind the rows on held-out verdicts, of more than two the least and the greatest."""
    found = {e for card in _judged(section) if (e := card.metrics["rm_accuracy"]).value is not None}
    texts = list(dict.fromkeys(shown(e) for e in sorted(found, key=lambda e: e.value or 0.0)))
    if not texts:
        return "a share that is not measured"
    return " and ".join(texts) if len(texts) < 3 else f"{texts[0]} to {texts[-1]}"


def _judged(section: Section) -> list[Card]:
    """The cards with the accuracy of a reward model."""
    return [card for row in section.rows for card in row.cards if "rm_accuracy" in card.metrics]


def noise_ceiling(section: Section) -> float | None:
    """The accuracy of a model without fault on noisy verdicts, 1 - noise: known where a single annotator without bias gave
    them, and all cards say the same noise."""
    found = set(map(_ceiling, _judged(section)))
    return found.pop() if len(found) == 1 else None


def _ceiling(card: Card) -> float | None:
    task = card.config.get("task")
    feedback, panel = (task.get(name) if isinstance(task, dict) else None for name in ("feedback", "panel"))
    if not isinstance(feedback, dict) or feedback.get("file"):
        return None
    single = json.loads(json.dumps(asdict(PanelConfig())))
    noise = feedback.get("noise")
    alone = isinstance(panel, dict) and all(panel.get(name, value) == value for name, value in single.items())
    return 1 - float(noise) if alone and isinstance(noise, int | float) else None
