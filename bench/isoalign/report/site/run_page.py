"""The page of a run: what came out and at what price, what to know before believing it, and how to make it again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from isoalign.core.display import clean, count, plain, scientific, share
from isoalign.core.records import Card, Flag
from isoalign.evaluation.kept import Kept
from isoalign.evaluation.metrics import Metric
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import gain_digits, leading, metric, tables
from isoalign.report.board.rows import REFERENCE, UNMETERED, Row, total
from isoalign.report.board.sections import PROTOCOL, Section
from isoalign.report.pages.equal_kl import area_cell, area_title
from isoalign.report.pages.phrases import budget_phrase
from isoalign.report.site.document import document, render, script
from isoalign.report.site.log_charts import charts_of, curve_series, log_series
from isoalign.report.site.names import pairs_path, run_id, samples_path
from isoalign.report.site.parts import learns_from
from isoalign.report.site.settings import algorithm_settings, task_settings

SCRIPTS = ("assets/vega.js", "assets/charts.js", "assets/copy.js")
DEPTH = 2  # folders between the report and a run's page
ROLES = {"feedback": "answers to be judged", "judge": "AI judge", "reward": "reward model", "value": "value model"}


def run_page(section: Section, number: int, row: Row, card: Card, kept: Kept) -> str:
    """The page of a run of a row. ``number``: of its section, from 1."""
    values = {
        "card": card,
        "name": run_name(card),
        "row": row,
        "lead": _lead(row, card),
        "facts": _facts(section, row, card),
        "gates": [flag.text for flag in card.flags if flag.kind == "gate"],
        "warnings": [flag.text for flag in card.flags if flag.kind != "gate"],
        "of_row": [flag.text for flag in _of_row(row)],
        "groups": _metric_groups(row, card),
        "pooled": len(row.cards) > 1,
        "alone": row.clusters == 1 and row.part not in (REFERENCE, UNMETERED),
        "bill": _bill(card),
        "limits": _limits(card),
        "settings": algorithm_settings(card),
        "task_settings": task_settings(card),
        "curves": charts_of(curve_series(card, row.objective)),
        "logs": charts_of(log_series(kept.log)),
        "no_log": kept.lacking.get("train", "" if kept.log else "nothing was trained"),
        "about": _about(card),
        "stages": sorted(card.parents.items()),
        "others": [(run_name(one), quote(f"{run_id(one)}.html")) for one in row.cards if one is not card],
        "links": {
            "json": quote(f"{run_id(card)}.json"),
            "samples": f"../../{samples_path(card.task)}#{urlencode({'runs': run_id(card)})}",
            "pairs": f"../../{pairs_path(card.task)}#{urlencode({'section': number, 'a': clean(row.name)})}",
        },
        "plain": _shown,
    }
    scripts = [script(path, DEPTH) for path in SCRIPTS]
    return document(f"{run_name(card)} on {card.task}", render("run.html", **values), depth=DEPTH, scripts=scripts)


def run_name(card: Card) -> str:
    """Algorithm and seed."""
    return clean(f"{card.algorithm}, seed {card.seed}")


def _lead(row: Row, card: Card) -> str:
    """The result in a sentence."""
    objective, own = row.objective, card.metrics.get(row.objective.gain)
    kl = card.metrics.get("kl")
    gained = (
        f"{objective.gain_heading} {cell(own, gain_digits(objective))}"
        if own and own.value is not None
        else "No gain is on this card"
    )
    price = f" at a KL of {cell(kl, 2)} nats" if kl and kl.value is not None and own else ""
    return unbroken(f"{gained}{price}.")


def unbroken(text: str) -> str:
    """The text with intervals and counts that no line breaks."""
    return re.sub(r"[\[(][^\])]*[\])]", lambda found: found[0].replace(" ", "\u00a0"), text)


def _facts(section: Section, row: Row, card: Card) -> list[tuple[str, str]]:
    """What stands on top, by name."""
    ranks = {"gate": "none: it failed a gate", "outdated": "none: scored by an outdated metric", "–": "none"}
    place = ranks.get(row.place, row.place)
    seeds = "this run alone" if len(row.cards) == 1 else f"{len(row.cards)} runs"
    facts = [
        ("Learns from", learns_from(row)),
        ("Rank of its row", f"{place} ({seeds})"),
        *_area(section, row),
        ("Budget", budget_phrase(section) if card.metered else "none: made elsewhere"),
        ("Base", str(section.base or "unknown") + ("" if card.base is None else f", base {card.base} of the task's")),
        ("Settings", str(card.notes.get("tuning") or "not said")),
    ]
    return [(name, clean(text)) for name, text in facts]


def _area(section: Section, row: Row) -> list[tuple[str, str]]:
    """The area under the curve of its row, by its title, where the board has areas and the row a curve."""
    title, told = area_title(section), area_cell(section, row)
    return [(f"{title}, of its row", told.replace("; ", "; rank "))] if title and told != "–" else []


def _of_row(row: Row) -> list[Flag]:
    """What shows when the cards of a row stand together."""
    own = {flag.text for card in row.cards for flag in card.flags}
    return [flag for flag in row.flags if not any(flag.text.startswith(text) for text in own)]


def _metric_groups(row: Row, card: Card) -> list[tuple[str, list[dict[str, Any]]]]:
    """Every metric that the card has: first those of the ranking, then by table, then the others."""
    objective = row.objective
    groups: dict[str, tuple[Metric, ...]] = {"Result": tuple(metric(name, objective) for name in leading(objective))}
    groups |= tables([card], objective)
    named = {one.name for metrics in groups.values() for one in metrics}
    groups["Others"] = tuple(metric(name, objective) for name in sorted(card.metrics) if name not in named)
    lines = {
        title: [_metric_line(row, card, one) for one in metrics if one.name in card.metrics]
        for title, metrics in groups.items()
    }
    return [(title, found) for title, found in lines.items() if found]


def _metric_line(row: Row, card: Card, one: Metric) -> dict[str, Any]:
    own = card.metrics[one.name]
    old = " (outdated)" if row.is_outdated(one.name) else ""
    return {
        "heading": clean(one.heading), "description": clean(one.description), "own": unbroken(cell(own, one.digits) + old),
        "row": unbroken(cell(row.metrics.get(one.name), one.digits)), "n": count(own.n),
    }  # fmt: skip


def _bill(card: Card) -> list[dict[str, Any]]:
    """The FLOPs by role, the largest first, with their kinds."""
    roles: dict[str, dict[str, float]] = {}
    for item in card.spent.get("items") or []:
        kinds = roles.setdefault(str(item["role"]), {})
        kind = str(item.get("kind", ""))
        kinds[kind] = kinds.get(kind, 0.0) + float(item["flops"])
    whole = sum(sum(kinds.values()) for kinds in roles.values())
    return [
        {
            "role": clean(ROLES.get(role, role)), "flops": scientific(flops),
            "percent": 100 * flops / whole if whole else 0.0, "share": share(100 * flops / whole if whole else None),
            "kinds": ", ".join(f"{clean(kind)} {scientific(each)}" for kind, each in sorted(kinds.items())),
        }
        for role, kinds in sorted(roles.items(), key=lambda item: -sum(item[1].values()))
        for flops in [sum(kinds.values())]
    ]  # fmt: skip


def _limits(card: Card) -> list[tuple[str, str, str, str]]:
    """What was spent of each limit: its name, what was spent, the limit, the share."""
    lines = []
    for name in dict.fromkeys([*card.budget, *(name for name in card.spent if name != "items")]):
        spent, limit = total(card.spent.get(name)), card.budget.get(name)
        number = scientific if name == "flops" else count
        used = share(100 * spent / limit) if limit and spent is not None else "–"
        sources = card.spent.get(name)
        by = ", ".join(f"{count(n)} {clean(str(who))}" for who, n in sources.items()) if isinstance(sources, dict) else ""
        title = "FLOP" if name == "flops" else clean(name)
        lines.append((title, number(spent) + (f" ({by})" if by else ""), "none" if limit is None else number(limit), used))
    return lines


def _about(card: Card) -> list[tuple[str, str]]:
    """How it was measured and on what it ran, by name; what the card does not say is left out."""
    notes = card.notes
    told = [(title, notes.get(name)) for name, title in PROTOCOL.items()]
    told += [(name.replace("_", " ").capitalize(), value) for name, value in notes.items()
             if name not in PROTOCOL and name not in ("tuning", "flags") and value is not None]  # fmt: skip
    told += [(f"Training: {name}", value) for name, value in card.training.items() if value not in (None, {}, [])]
    told += [("Versions", card.versions)]
    return [(clean(name), _shown(value)) for name, value in told if value not in (None, "", {}, [])]


def _shown(value: Any) -> str:
    """A value of a card as a line of text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{clean(str(name))} {_shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return clean(plain(value)) or ("none" if value is None else "empty")
