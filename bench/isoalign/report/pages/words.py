"""What is said of a board in the same words wherever it is shown."""

import dataclasses
from collections.abc import Sized

from isoalign.core.display import clean, plain, scientific
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import COLUMNS
from isoalign.report.board.rows import Row, Section


def budget(section: Section) -> str:
    """What each run of a section might spend."""
    if not section.metered:
        return "not metered"
    others = [f"{plain(limit)} {name}" for name, limit in sorted(section.budget.items()) if name != "flops"]
    return ", ".join([f"{scientific(section.budget.get('flops'))} FLOP", *others])


def pairs_in(pairs: Sized) -> str:
    """How many pairs."""
    return f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}"


def standing(section: Section) -> str:
    """What the ranks rest on, in a sentence; nothing where there is nothing to rank."""
    held = section.contest
    if held.unpaired:
        lacking = ", ".join(map(clean, held.unpaired))
        return f"by overlapping intervals, not in pairs: no values on the same prompts in {lacking}"
    if not held.pairs:
        return ""
    n = min(c.n for c in held.pairs.values())
    found = f"each that the data allow, jointly at 95%; {pairs_in(held.pairs)} compared on {n} prompts, Holm-corrected"
    least = "" if held.smallest is None else f"; a difference of {held.smallest:.3f} could be resolved (nominal power 80%)"
    return found + least


def brief(row: Row, name: str) -> str:
    """A figure, of the reduction with its interval."""
    if row.old(name) and name in row.metrics:
        return "old"
    e = dataclasses.replace(row.estimate(name), missing=0)
    return cell(e if name == "toxicity_reduction" else dataclasses.replace(e, low=None, high=None), COLUMNS[name])
