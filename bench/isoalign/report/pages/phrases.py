"""What is said of a board in the same words wherever it is shown."""

from collections.abc import Sized
from dataclasses import replace

from isoalign.core.display import clean, escape, plain, scientific
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import metric
from isoalign.report.board.rows import METHOD, Row
from isoalign.report.board.sections import Section


def budget_phrase(section: Section) -> str:
    """The budget of each run of a section."""
    if not section.metered:
        return "not metered"
    others = [f"{plain(limit)} {name}" for name, limit in sorted(section.budget.items()) if name != "flops"]
    return ", ".join([f"{scientific(section.budget.get('flops'))} FLOP", *others])


def rank_phrase(rank: tuple[int, int]) -> str:
    """First and last rank as text: ``3``, ``2–5``."""
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"


def pairs_phrase(pairs: Sized) -> str:
    """The number of pairs."""
    return f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}"


def ranking_phrase(section: Section) -> str:
    """What the ranks rest on, in a sentence; empty if there is nothing to rank."""
    ranking = section.ranking
    if ranking.unpaired:
        lacking = ", ".join(map(clean, ranking.unpaired))
        return f"by overlapping intervals, not in pairs: values on the same prompts are missing for {lacking}"
    if not ranking.pairs:
        return ""
    n = min(c.n for c in ranking.pairs.values())
    spans = f"spans of possible ranks, jointly at 95%; {pairs_phrase(ranking.pairs)} compared on {n} prompts, Holm-corrected"
    least = f"; smallest resolvable difference {ranking.smallest:.3f} (nominal power 80%)"
    return spans + ("" if ranking.smallest is None else least)


def brief_cell(row: Row, name: str) -> str:
    """A metric without its interval, but for the gain."""
    if row.is_outdated(name) and name in row.metrics:
        return "old"
    e = replace(row.estimate(name), missing=0)
    return cell(e if name == row.objective.gain else replace(e, low=None, high=None), metric(name).digits)


def row_name(row: Row) -> str:
    """The name of a row in Markdown, in italics if it is not a method."""
    return escape(row.name) if row.part == METHOD else f"*{escape(row.name)}*"
