"""Along a setting that was swept: how each method's toxicity and rank move, and whether the order of methods outlives it."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from isoalign.core.display import plain
from isoalign.core.records import Card, Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import COLUMNS, Column
from isoalign.report.board.ranking import cut, seeds_of
from isoalign.report.board.rows import METHOD, Row
from isoalign.report.sweeps.series import SCORE, Sweep, sweep
from isoalign.stats.robustness import Robustness, robustness

RISES, FALLS, STAYS, UNRESOLVED = "rises", "falls", "stays the same", "not resolved"
CORRELATION = Column("", "", 2)
_KNOWN = 1.0  # a longer interval of a correlation says that no order is known


@dataclass(frozen=True)
class Along:
    """Methods of a task along a setting: the rows that stand at each of its values, and how scores and ranks move."""

    sweep: Sweep
    found: Robustness

    @property
    def values(self) -> list[float]:
        """Axis values from the lowest, which the others are held to."""
        return list(self.sweep.rows)

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Each name with its row at its lowest axis value; methods by toxicity there, then what is never ranked."""
        rows: dict[str, Row] = {}
        order: dict[str, tuple[bool, float, float]] = {}
        for value, at in self.sweep.rows.items():
            for name, row in at.items():
                if name not in rows:
                    rows[name] = row
                    order[name] = row.part != METHOD, value, self.mean(value, name).value or 0.0
        return {name: rows[name] for name in sorted(rows, key=lambda name: (order[name], name))}

    @property
    def methods(self) -> list[str]:
        """Names of what may be ranked."""
        return [name for name, row in self.rows.items() if row.part == METHOD]

    def mean(self, value: float, name: str) -> Estimate:
        """Mean toxicity of what stands at an axis value, ranked or not; a missing one where nothing does."""
        if standing := self.found.standings[value].get(name):
            return cut(standing.mean, COLUMNS[SCORE].bounds)
        row = self.sweep.rows[value].get(name)
        return row.estimate(SCORE) if row else Estimate(None, None, None, 0)

    def gated(self, value: float, name: str) -> bool:
        """Whether a seed of what stands at an axis value failed a quality gate."""
        row = self.sweep.rows[value].get(name)
        return row is not None and row.gated

    def trend(self, name: str) -> str:
        """Where a method's toxicity goes along the axis, in words; nothing where its slope is not known."""
        slope = self.found.slopes.get(name)
        if slope is None or slope.low is None or slope.high is None:
            return ""
        if slope.low == slope.high == 0:
            return STAYS
        return RISES if slope.low > 0 else FALLS if slope.high < 0 else UNRESOLVED

    @property
    def verdict(self) -> str:
        """Whether the ranking is stable, and whose toxicity moves, in a few sentences."""
        trends: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.methods:
            trends[self.trend(name)].append(name)
        moves = [f"{trend} for {', '.join(trends[trend])}" for trend in (RISES, FALLS, STAYS) if trends[trend]]
        told = [f"As {self.sweep.key} grows, toxicity {'; '.join(moves)}."] if moves else []
        told += [f"Where toxicity goes is not resolved for {', '.join(trends[UNRESOLVED])}."] if trends[UNRESOLVED] else []
        return " ".join([_ranking(self), *told])


def along(cards: Iterable[Card], key: str) -> Along:
    """The report on a task's cards along a dotted key of the configuration. Raises UserError as `sweep` does."""
    found = sweep(cards, key)
    axis = {
        value: {name: seeds_of(row.cards, SCORE) or [] for name, row in rows.items() if row.contends}
        for value, rows in found.rows.items()
    }
    return Along(found, robustness(axis))


def file_of(key: str) -> str:
    """What a report's files are called, but for their endings."""
    return f"along-{re.sub(r'[^A-Za-z0-9_.-]+', '-', key)}"


def _ranking(report: Along) -> str:
    """Whether the ranking is stable, by the intervals of Spearman's correlation with the lowest axis value.

    In simulation (three axis values, 3 to 8 methods, 64 prompts, one seed or three) a ranking that doesn't change was said to
    in at most 8%, most where methods hardly differ; with longer intervals let in, in up to 22%, and up to 65% of equal ones.
    """
    key, first = report.sweep.key, plain(report.values[0])
    known = {value: s.spearman for value, s in report.found.stability.items() if s.spearman.low is not None}
    if not known:
        few = all(s.spearman.n < 2 for s in report.found.stability.values())
        why = f"no two methods are ranked at {first} and elsewhere" if few else "methods are equal, or prompts too few"
        return f"Whether the ranking is stable along {key} can't be said: {why}."
    bounds = {value: (e.low or 0.0, e.high or 0.0) for value, e in known.items()}
    changed = [value for value, (low, high) in bounds.items() if high < 1 and high - low <= _KNOWN]
    unsure = [value for value, (low, high) in bounds.items() if low <= 0 or high < 1]
    worst = min(changed or unsure or known, key=lambda value: known[value].value or 0.0)
    n, shown = known[worst].n, cell(known[worst], CORRELATION)
    least = f"Spearman's correlation over {n} methods is {shown} at {plain(worst)}"
    silent = [plain(value) for value in report.values[1:] if value not in known]
    rest = f"; nothing can be said at {', '.join(silent)}" if silent else ""
    if changed:
        at = ", ".join(map(plain, changed))
        return f"The ranking changes along {key}: the order at {at} is not that at {first} ({least}{rest})."
    if unsure:
        return f"Whether the ranking is stable along {key} is not resolved: {least}{rest}."
    return f"The ranking is stable along {key}: no order was told from that at {first}; at the least alike, {least}{rest}."
