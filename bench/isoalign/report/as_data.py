"""Boards, reports and cards as plain data, as ``--json`` prints them. Names that are here stay: docs/json.md lists them."""

from __future__ import annotations

from typing import Any

from isoalign.core.records import Card
from isoalign.evaluation.card import file_name, redacted
from isoalign.report.board.rows import Row
from isoalign.report.board.sections import Section
from isoalign.report.cross_task import CrossTask
from isoalign.report.leaderboard import Board
from isoalign.report.sweeps.sweep_report import SweepReport
from isoalign.stats import Comparison
from isoalign.stats.equal_kl import GRID, AtKL

BULK = ("values", "curve", "data", "seals", "contents", "families")  # of a card: what its file is read for


def board_data(board: Board) -> dict[str, Any]:
    """The rows of a board by section, with all estimates and pairs."""
    return {"task": board.task, "sections": [_section(one) for one in board.sections]}


def _section(section: Section) -> dict[str, Any]:
    objective, ranking = section.objective, section.ranking
    return {
        "budget": section.budget,
        "base": section.base,
        "protocol": section.protocol,
        "ranked_by": {"gain": objective.gain, "level": objective.level, "higher_is_better": objective.higher_is_better},
        "smallest_resolvable": ranking.smallest,
        "kl_grid": list(section.equal_kl),
        "area_nats": [GRID[0], section.areas[0]] if section.areas[0] > GRID[0] else None,
        "warnings": section.warnings,
        "unequal": section.unequal,
        "rows": [_row(section, row) for row in section.rows],
        "pairs": [_pair(*names, c) for names, c in (ranking.pairs | ranking.others).items()],
    }


def _row(section: Section, row: Row) -> dict[str, Any]:
    above = section.drift.rows.get(row.name)
    area, rank = section.areas[1].get(row.name, (None, None))
    return {
        "name": row.name,
        "algorithm": row.cards[0].algorithm,
        "part": row.part,
        "rank": row.rank,
        "rankable": row.rankable,
        "pareto": row.pareto,
        "on_frontier": row.on_frontier,
        "seeds": sorted({card.seed for card in row.cards}),
        "cards": [file_name(card) for card in row.cards],
        "metrics": row.metrics,
        "outdated": row.outdated,
        "flops": row.spent("flops"),
        "flops_by_role": row.flops_by_role(),
        "percent_of_budget": row.percent,
        "tuning": row.tuning,
        "above_drift": above
        and {
            "gain": above.gain,
            "drift": above.drift,
            "kl": above.kl,
            "control": above.control,
            "draws": above.draws,
            "unknown": above.unknown,
            "as_far": above.as_far,
            "shown": above.above,
            **{name: value for name, value in difference_data(above.beyond).items() if name != "p_holm"},
            "p_fdr": above.p_fdr,
        },
        "at_kl": [{"kl": kl} | _reading(at[row.name]) for kl, at in section.equal_kl.items() if row.name in at],
        "area": area and vars(area) | {"rank": rank},
        "flags": row.flags,
    }


def _reading(at: AtKL) -> dict[str, Any]:
    """A row at a KL; without a gain where it is not reached, or not measured between the nats of the gap."""
    return vars(at.gain) | {"behind": at.behind, "rank": at.rank, "gap": at.gap, "crossed_again": at.again}


def _pair(a: str, b: str, c: Comparison) -> dict[str, Any]:
    return {"a": a, "b": b} | difference_data(c) | {"resolved": c.resolved}


def difference_data(c: Comparison) -> dict[str, Any]:
    """A paired difference, its interval and its p-values."""
    names = ("value", "low", "high", "p", "p_holm", "n", "missing", "single")
    return {name: getattr(c, name) for name in names}


def cross_task_data(found: CrossTask) -> dict[str, Any]:
    """A report across tasks."""
    methods = [{"name": m.name, "part": m.part, "iqm": m.iqm, "runs": m.runs, "gated": m.gated} for m in found.methods]
    better = [{"a": a, "b": b, "probability": each} for (a, b), each in found.improvement.items()]
    return {"tasks": found.setting, "methods": methods, "improvement": better}


def sweep_data(report: SweepReport) -> dict[str, Any]:
    """A report along a setting."""
    rows = [
        {
            "value": value,
            "name": name,
            "part": row.part,
            "gated": report.gated(value, name),
            "score": report.mean(value, name),
            "seeds": sorted({card.seed for card in row.cards}),
            "flags": row.flags,
        }
        for value in report.values
        for name, row in report.sweep.rows[value].items()
    ]
    slopes = report.robustness.slopes
    crossed = [
        {"a": one.a, "b": one.b, "verdict": one.verdict, "ahead": [{"value": v, "name": n} for v, n in one.ahead.items()]}
        for one in report.crossings
    ]
    return {
        "task": report.sweep.task,
        "key": report.sweep.key,
        "verdict": report.verdict,
        "rows": rows,
        "slopes": slopes,
        "crossings": crossed,
        "left_out": report.sweep.left_out,
    }


def card_data(card: Card) -> dict[str, Any]:
    """A card without what only plots and pairings read."""
    return {name: value for name, value in vars(redacted(card)).items() if name not in BULK} | {"points": len(card.curve)}
