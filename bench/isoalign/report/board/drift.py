"""What of each row's gain drift alone explains, by the controls for drift on the same board."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from isoalign.core.records import Estimate, Flag
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import gain_digits
from isoalign.report.board.rows import DRIFT, INFERENCE, REFERENCE, UNMETERED, Row
from isoalign.stats.curves import Curves
from isoalign.stats.drift import Beyond, Draws, beyond_drift

NOT_MEASURED = "not measured"
WHY = "no control for drift; have some draws of one: isoalign run -m algorithm=drift_rloo algorithm.reward_seed=0,1,2"


@dataclass(frozen=True)
class DriftOnBoard:
    """The controls of a board, by algorithm and draw, and rows by name with what they gain beyond them."""

    controls: Mapping[str, Draws]
    rows: Mapping[str, Beyond]

    def cell(self, row: Row) -> str:
        """The gain above drift with its interval, and the share that is drift, with the controls that are not known at the
        row's KL; "not measured" where no two draws of any are."""
        if not concerns(row):
            return "–"
        found = self.rows.get(row.name)
        if found is None:
            return NOT_MEASURED
        shown = cell(estimate_of(found), gain_digits(row.objective))
        shown += f"; drift {found.drift / found.gain:.0%}" if found.gain > 0 else ""
        every = len(self.controls[found.control])
        shown += f" ({found.draws} of {every} draws)" if found.draws < every else ""
        return f"{shown}, {' and '.join(found.unknown)} unknown" if found.unknown else shown

    def sentence(self, rows: Sequence[Row]) -> str:
        """How many rows gain more than drift, of how many that is not known, and of how many a control is not."""
        asked = [row for row in rows if concerns(row)]
        found = [one for row in asked if (one := self.rows.get(row.name)) is not None]
        told = [one for one in found if one.above is not None]
        if not found:
            return f"what of it is drift: {NOT_MEASURED}"
        lone, unknown = sum(one.beyond.single and not one.unknown for one in found), len(asked) - len(found)
        above = sum(one.above is True for one in told)
        said = [f"{above} of {len(told)} rows gain more than drift at their KL"] if told else []
        said += [f"whether {lone} of one seed do{'es' * (lone == 1)} is not told"] if lone else []
        said += [f"{unknown} not measured"] if unknown else []
        for control in self.controls:
            lacking = sum(control in one.unknown for one in found)
            said += [f"{control} is not known at the KL of {lacking}, of which nothing is told"] if lacking else []
        return ", ".join(said)

    def flagged(self, row: Row) -> Row:
        """The row, with a flag if it is not shown to gain more than drift."""
        found = self.rows.get(row.name)
        if found is None or found.above is not False:
            return row
        digits = gain_digits(row.objective)
        gains = f"{found.control} ({found.draws} draws) gains {found.drift:.{digits}f}, this {found.gain:.{digits}f}"
        other, draws = found.doubt
        if found.as_far:
            gains += f"; {found.as_far} of all draws gain{'s' * (found.as_far == 1)} as much"
        elif other != found.control:
            gains += f"; the {draws} draws of {other} that came so far differ too much to tell"
        flag = Flag("warning", f"not shown to be above drift: at {found.kl:.2g} nats {gains}")
        return replace(row, flags=(*row.flags, flag))


def estimate_of(found: Beyond) -> Estimate:
    """The gain beyond drift with its interval."""
    c = found.beyond
    return Estimate(c.value, c.low, c.high, c.n)


def concerns(row: Row) -> bool:
    """Whether a row's gain is read against drift: not the base, which has none, nor the control itself, nor what trained
    nothing or cannot be compared."""
    return row.part not in (REFERENCE, UNMETERED, INFERENCE) and row.algorithm not in DRIFT and row.comparable


def drift_on_board(rows: Sequence[Row], curves: Mapping[str, Curves]) -> DriftOnBoard:
    """What rows with curves gain beyond drift. Training seeds of one draw are one draw, whatever else is set. A draw counts
    wherever its curve is known: a gate is of the text at its end, which may lie far beyond any method."""
    found: defaultdict[str, defaultdict[str, list[Curves]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.name in curves and row.algorithm in DRIFT and row.current:
            settings = row.cards[0].config.get("algorithm")
            draw = settings.get(DRIFT[row.algorithm]) if isinstance(settings, dict) else None
            found[row.algorithm][str(draw)].append(curves[row.name])
    controls = {name: {draw: _joined(same) for draw, same in sorted(draws.items())} for name, draws in sorted(found.items())}
    methods = {row.name: curves[row.name] for row in rows if row.name in curves and concerns(row)}
    return DriftOnBoard(controls, beyond_drift(methods, controls))


def _joined(same: Sequence[Curves]) -> Curves:
    """The curves of one draw as one."""
    runs = tuple(runs for curves in same for runs in curves.own)
    return replace(same[0], runs=runs, bases=tuple(base for curves in same for base in curves.bases))
