"""A card for a terminal."""

from __future__ import annotations

from rich.text import Text

from isoalign.core.display import clean, plain, scientific
from isoalign.core.objective import objective_of
from isoalign.core.records import Card
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import metric, shown
from isoalign.report.pages.console import plain_table, rendered

WIDTH = 110


def card_text(card: Card) -> str:
    """What was run, what it cost, the metrics that boards show with their 95% intervals, and the flags."""
    objective = objective_of(card)
    facts = [[name, clean(text)] for name, text in _facts(card) if text]
    known = [metric(name, objective) for name in shown(objective) if name in card.metrics]
    rows = [[one.heading, cell(card.metrics[one.name], one.digits), str(card.metrics[one.name].n)] for one in known]
    parts = [plain_table(clean(f"{card.task}: {card.algorithm}, seed {card.seed}"), ["", ""], facts, names=2)]
    parts += [plain_table("Result", ["metric", "value [95% interval]", "n"], rows)] if rows else []
    said = [clean(f"- {flag}") for flag in card.flags] or ["- no flag was raised"]
    return rendered([*parts, *map(Text, ["What to know before believing it:", *said])], WIDTH).rstrip()


def _facts(card: Card) -> list[tuple[str, str]]:
    told = card.config.get("algorithm")
    settings = told if isinstance(told, dict) else {}
    limits = [f"{plain(limit)} {name}" for name, limit in card.budget.items() if name != "flops" and limit is not None]
    budget = ", ".join([f"{scientific(card.budget['flops'])} FLOP", *limits]) if card.metered else "none: made elsewhere"
    spent = [f"{scientific(card.spent['flops'])} FLOP"] if "flops" in card.spent else []
    spent += [f"{plain(card.spent[name])} {name}" for name in ("steps", "tokens") if name in card.spent]
    notes = card.notes
    measured = f"{notes.get('prompts')} {notes.get('split', '')} prompts, {notes.get('draws')} samples each"
    return [
        ("command", card.command),
        ("settings", ", ".join(f"{name}={plain(value)}" for name, value in settings.items())),
        ("tuning", str(notes.get("tuning") or "")),
        ("budget", budget),
        ("spent", ", ".join(spent)),
        ("measured on", measured if "prompts" in notes else ""),
        ("scorer", ", ".join(str(notes[name]) for name in ("scorer", "second_scorer") if notes.get(name))),
        ("key", card.key),
    ]
