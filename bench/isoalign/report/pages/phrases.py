"""What is said of a board in the same words wherever it is shown."""

from collections.abc import Sized
from dataclasses import replace

from isoalign.core.display import clean, escape, plain, scientific
from isoalign.core.objective import Objective
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import gain_digits, metric
from isoalign.report.board.rows import CONTROL, DRIFT, METHOD, REFERENCE, Row, settings_of
from isoalign.report.board.sections import Section
from isoalign.stats import Comparison

SEEDS = 3  # the fewest with which methods are told apart


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
    ranking, ranked = section.ranking, [row for row in section.rows if row.rankable]
    unit = "seed" if all(card.base is None for row in section.rows for card in row.cards) else "base"
    if len(ranked) > 1 and all(row.name in ranking.lone for row in ranked):
        return (
            f"none, from one {unit} of each method: rows are in the order of their gain, and intervals cover the prompts alone"
        )
    if ranking.unpaired:
        lacking = ", ".join(map(clean, ranking.unpaired))
        return f"by overlapping intervals, not in pairs: values on the same prompts are missing for {lacking}"
    asked = [c for c in ranking.pairs.values() if not c.single]
    judged = [c for c in asked if c.p is not None]
    if not asked:
        return ""
    if not judged:
        return "none: no two rows have values on the same prompts"
    counts = sorted({c.n for c in judged})
    on = f"{counts[0]} prompts" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} prompts"
    spans = f"spans of possible ranks, jointly at 95%; {pairs_phrase(judged)} compared on {on}, Holm-corrected"
    spans += f"; {len(asked) - len(judged)} not compared, for want of values" if len(judged) < len(asked) else ""
    smallest, digits = ranking.smallest, gain_digits(section.objective)
    least = "" if smallest is None else f"; smallest resolvable difference {smallest:.{digits}f} (power 80%)"
    lone = [clean(row.name) for row in ranked if row.name in ranking.lone]
    alone = f"; of one {unit} nothing is said: {', '.join(lone)}" if lone else ""
    return spans + least + alone


def difference_phrase(objective: Objective) -> str:
    """Which way the difference of a pair A, B is taken."""
    a, b = ("A", "B") if objective.higher_is_better else ("B", "A")
    return f"{objective.title} of {a} minus that of {b} on the same prompts: above 0 A is better."


def verdict_phrase(a: str, b: str, c: Comparison, objective: Objective) -> str:
    """What a comparison of two rows says, after correction for the number of pairs."""
    if c.single:
        return "one seed"
    if c.p_holm is None or c.value is None:
        return "too few prompts"
    return f"{a if c.value > 0 else b} is {objective.comparative}" if c.resolved else "not resolved"


def more_seeds_phrase(section: Section) -> str:
    """What three seeds of every trained row, or a run on three bases where the task has several, would cost beyond what is
    there; empty if all have them. A task of two bases gets no third one, whatever more runs cost."""
    rows: dict[tuple[str, str], Row] = {}  # seeds that were scored by another version are there, too
    for row in section.rows:
        if row.part in (METHOD, CONTROL) and row.algorithm not in DRIFT:
            method = row.algorithm, settings_of(row.cards[0])
            rows[method] = replace(rows[method], cards=rows[method].cards + row.cards) if method in rows else row
    trained = list(rows.values())
    bases = {task["bases"] for row in trained for card in row.cards if card.base is not None and (task := card.config["task"])}
    wanted = min([SEEDS, *bases])
    few = [row for row in trained if row.clusters < wanted and row.spent("flops")]
    if not few:
        return ""
    flops, seconds = (sum((wanted - row.clusters) * (row.spent(name) or 0.0) for row in few) for name in ("flops", "seconds"))
    runs = sum(wanted - row.clusters for row in few)
    plural = "" if runs == 1 else "s"
    cost = f"{scientific(flops)} FLOP, and {plain(round(seconds / 60, 1))} minutes of training as on these cards"
    if bases:
        lacking = sorted({seed for row in few for seed in _other_bases(row, wanted)})
        seeds = ", ".join(f"seed={seed}" for seed in lacking)
        where = f"{'two' if wanted == 2 else 'three'} bases of each"
        return (
            f"{where} would take {runs} more run{plural} ({seeds}): {cost}, evaluation and the bases' own training not counted"
        )
    lacking = sorted({seed for row in few for seed in _other_seeds(row, wanted)})
    seeds = ", ".join(f"seed={seed}" for seed in lacking)
    return f"three seeds of each would take {runs} more run{plural} ({seeds}): {cost}, evaluation not counted"


def _other_seeds(row: Row, wanted: int) -> list[int]:
    """The smallest seeds that a row lacks."""
    known = {card.seed for card in row.cards}
    return [seed for seed in range(wanted + len(known)) if seed not in known][: wanted - row.clusters]


def _other_bases(row: Row, wanted: int) -> list[int]:
    """Seeds of the first bases that a row lacks."""
    known = {card.base for card in row.cards}
    return [base for base in range(row.cards[0].config["task"]["bases"]) if base not in known][: wanted - row.clusters]


def chance_phrase(section: Section) -> str:
    """Which share of the variance of runs is their base's, of a task with several bases; empty for a task of one."""
    bases = {card.base for row in section.rows for card in row.cards if card.base is not None}
    if not bases:
        return ""
    known = {card.base for row in section.rows if row.part == REFERENCE for card in row.cards}
    if known and (lacking := sorted(bases - known)):
        seeds = ",".join(map(str, lacking))
        return f"the reference lacks bases, so gains on them are the cards' own: isoalign run -m algorithm=sft seed={seeds}"
    if (found := section.chance) is None:
        return "between bases and seeds not told apart: that takes two bases or more with two seeds or more on each"
    if not found.high:
        return "between bases and seeds not told apart: bases differ less than their seeds do"
    return (
        f"of the variance of a run's gain {found.share:.0%} is between bases (95% interval: {found.low:.0%} to "
        f"{found.high:.0%}), the rest between seeds of one base"
    )


def pareto_phrase(row: Row) -> str:
    """In which share of resamples a row is on the Pareto frontier, if in one of twenty; "yes" where that is not known, and
    nothing of a method by one seed."""
    if row.lone:
        return ""
    if row.on_frontier is None:
        return "yes" if row.pareto else ""
    return f"{row.on_frontier:.0%}" if row.on_frontier >= 0.05 else ""


def surely_pareto(row: Row) -> bool:
    """Whether a row is on the Pareto frontier in 95% of resamples; no method is by one seed, which says nothing of others."""
    if row.lone:
        return False
    return row.pareto if row.on_frontier is None else row.on_frontier >= 0.95


def brief_cell(row: Row, name: str) -> str:
    """A metric without its interval, but for the gain."""
    if row.is_outdated(name) and name in row.metrics:
        return "old"
    e = replace(row.estimate(name), missing=0)
    return cell(e if name == row.objective.gain else replace(e, low=None, high=None), metric(name, row.objective).digits)


def row_name(row: Row) -> str:
    """The name of a row in Markdown, in italics if it is not a method."""
    return escape(row.name) if row.part == METHOD else f"*{escape(row.name)}*"
