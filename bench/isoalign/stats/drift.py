"""What drift alone explains: the gain of a method beyond that of a control which moved without a preference, at equal KL.

A control moves in a random direction, and directions differ much: the draw of a direction is its unit, as the seed is a
method's. One draw says nothing of drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from isoalign.stats.comparisons import compare
from isoalign.stats.corrections import benjamini_hochberg
from isoalign.stats.curves import Curves
from isoalign.stats.equal_kl import Reading, line_error, reaches, read_curves, read_off, widen
from isoalign.stats.intervals import LEVEL, Array
from isoalign.stats.lines import Line, Statistic, by_prompt
from isoalign.stats.pairs import Comparison

FEWEST = 2  # draws of a control that a reading may rest on
MOST_LOST = 0.1  # of the draws that passed a KL, between whose snapshots they may not be known there
Draws = Mapping[str, Curves]
"""The draws of a control, each with the curves of its training seeds."""


@dataclass(frozen=True)
class Beyond:
    """A method at the end of its curves and a control at the same KL.

    ``kl``, ``gain``: of the method, means over its seeds; ``beyond``: its gain minus that of the control, the KL of each seed
    matched; ``control``, ``draws``: which control, and how many of its draws are known at that KL; ``unknown``: controls of
    which too little is known there, so that nothing is said of how far they would have come; ``doubt``: the control of which
    least is sure, whose p it is, with its draws; ``as_far``: draws of all controls that gain as much there; ``p_fdr``: p after
    correction over all methods, None of a method of one seed and where a control is unknown.
    """

    kl: float
    gain: float
    beyond: Comparison
    control: str
    draws: int
    unknown: tuple[str, ...] = ()
    doubt: tuple[str, int] = ("", 0)
    as_far: int = 0
    p_fdr: float | None = None

    @property
    def drift(self) -> float:
        """The gain of the control at the method's KL."""
        return self.gain - (self.beyond.value or 0.0)

    @property
    def above(self) -> bool | None:
        """Whether the method is shown to gain more than drift does on average, after correction over all methods, and gains
        more than each draw; None of a method of one seed, of which nothing is shown, and where a control is unknown."""
        if self.beyond.single or self.unknown:
            return None
        return self.p_fdr is not None and self.p_fdr < 1 - LEVEL and (self.beyond.value or 0.0) > 0 and not self.as_far


def beyond_drift(methods: Mapping[str, Curves], controls: Mapping[str, Draws]) -> dict[str, Beyond]:
    """For each method what it gains beyond drift, of several controls beyond the one that leaves least; methods at whose KL
    none is known are left out.

    A method must be above every control, so the lower bound and p are those of the control of which they are worst, and the
    choice needs no correction. Where one is unknown, as none of its draws came so far, nothing is said: to lack the harder
    control would be a way to pass. The test is of the mean of all draws that could be. A method that only drifts, all its
    seeds in one direction, may gain more than that mean, so it must also gain more than each draw: of k draws and a method
    that is one more, it does so by chance in one of k + 1 cases.

    Each method has a question of its own, so what is held over all of them is the share of wrong answers among those that are
    called above drift: at most 5% on average, and where all only drift as the mean does, one is called so on 5% of boards.
    Methods that join cost the others little, as long as most are above.
    """
    found = {}
    for name, curves in methods.items():
        against = {control: one for control, draws in controls.items() if (one := _against(curves, control, draws))}
        if against:
            least = least_beyond({control: one.beyond for control, one in against.items()})
            unknown = tuple(control for control in controls if control not in against)
            worst = max(against, key=lambda control: against[control].beyond.p or 0.0)
            found[name] = replace(
                against[least[0]], beyond=least[1], unknown=unknown, doubt=(worst, against[worst].draws),
                as_far=sum(one.as_far for one in against.values()),
            )  # fmt: skip
    told = {name: one.beyond.p for name, one in found.items() if not (one.beyond.single or one.unknown)}
    tested = {name: p for name, p in told.items() if p is not None}
    corrected = dict(zip(tested, benjamini_hochberg(list(tested.values())), strict=True))
    alone = {name: replace(one.beyond, p_holm=None) for name, one in found.items()}  # which stands for one pair's
    return {name: replace(one, beyond=alone[name], p_fdr=corrected.get(name)) for name, one in found.items()}


def least_beyond(against: Mapping[str, Comparison]) -> tuple[str, Comparison]:
    """The control that leaves least of a gain and what it leaves, with the least lower bound and the largest p of all."""
    name = min(against, key=lambda control: -np.inf if (left := against[control].value) is None else left)
    lows = [None if one.low is None else float(one.low) for one in against.values()]
    ps = [one.p for one in against.values()]
    low = None if None in lows else min(low for low in lows if low is not None)
    p = None if None in ps else max(p for p in ps if p is not None)
    return name, replace(against[name], low=low, p=p)


def drift_at(draws: Draws, kl: float) -> Reading | None:
    """The gain of a control at a KL: its draws that are known there are the seeds; None where too few are (`_enough`)."""
    known = {draw: found for draw, curves in draws.items() if (found := read_curves(curves, _at(kl), gain=True)) is not None}
    if not _enough(known.keys(), {draw for draw, curves in draws.items() if reaches(curves, kl)}):
        return None
    readings = list(known.values())
    return Reading(np.array([reading.seeds.mean(0) for reading in readings]), float(np.mean([one.error for one in readings])))


def _enough(known: Set[str], came: Set[str]) -> bool:
    """Whether so many draws are known at a KL, of those that came so far, that they stand for all: `FEWEST` or more, and no
    more than `MOST_LOST` are lost between two snapshots, as whether a draw is lost may depend on what it gains."""
    return len(known) >= FEWEST and len(came - known) <= MOST_LOST * len(came)


def _against(method: Curves, control: str, draws: Draws) -> Beyond | None:
    """A method against a control; None if too few draws are known at the KL of each seed (`_enough`).

    Of seed s and draw d, the excess is the gain of s minus that of d at the KL of s. Its mean over draws varies with the seeds
    alone, and its mean over seeds with the draws: these are the two sides of a paired comparison, prompts crossed with both.
    Of a task with several bases s is a base, and its gain is compared with those of the draws on that base: what a base does
    to both cancels.
    """
    ends = [[float(run[0, -1].mean()) for run in same] for same in method.own]
    beside = {draw: [_on_base(curves, base) for base in method.bases or [None] * len(ends)] for draw, curves in draws.items()}
    errors = {draw: _errors(on, ends) for draw, on in beside.items()}
    known = {draw: found for draw, found in errors.items() if np.isfinite(found).all()}
    came = {draw for draw, on in beside.items() if _came(on, ends)}
    if not _enough(known.keys(), came):
        return None
    told = [[on for draw in known if (on := beside[draw][s])] for s in range(len(ends))]
    excess = np.array(
        [np.mean([_excess(line, own) for line in same], axis=0) for same, own in zip(method.gains, told, strict=True)]
    )  # [seeds, draws, prompts]
    sides = {"method": excess.mean(1), "drift": excess.mean((0, 1)) - excess.mean(0)}
    compared = compare(sides, trained=["method"])["method", "drift"]
    gain = float(np.mean([np.mean([line.score[-1] for line in same]) for same in method.gains]))
    error, as_far = float(np.mean(list(known.values()))), int((excess.mean((0, 2)) <= 0).sum())
    kl = float(np.mean([np.mean(same) for same in ends]))
    return Beyond(kl, gain, widen(compared, error), control, len(known), as_far=as_far)


def _came(beside: Sequence[Curves | None], ends: Sequence[Sequence[float]]) -> bool:
    """Whether all runs of a draw reach the ends of a method's seeds, or bases."""
    pairs = list(zip(beside, ends, strict=True))
    return all(on is not None and reaches(on, max(same)) for on, same in pairs)


def _on_base(draw: Curves, base: int | None) -> Curves | None:
    """The runs of a draw that started from a base; all where the task has one, None where the draw was not run on it."""
    if base is None:
        return draw
    runs = tuple(same for same, own in zip(draw.own, draw.bases, strict=True) if own == base) if draw.bases else ()
    return replace(draw, runs=runs, bases=()) if runs else None


def _errors(beside: Sequence[Curves | None], ends: Sequence[Sequence[float]]) -> Array:
    """The error of the readings of a draw at the ends of a method's seeds, or bases; NaN where one is not known."""
    if len(set(map(id, beside))) == 1:
        beside, ends = beside[:1], [[kl for same in ends for kl in same]]
    return np.concatenate(
        [
            np.full(len(same), np.nan) if on is None else line_error(on, _at(np.array(same)), gain=True)
            for on, same in zip(beside, ends, strict=True)
        ]
    )


def _excess(run: Line, draws: Sequence[Curves]) -> Array:
    """By draw of the control and prompt [draws, prompts], how much more a run gains at its end than the draw at the same KL,
    mean over the training seeds of the draw."""
    controls = [[line for same in draw.gains for line in same] for draw in draws]
    both = [
        Line(np.concatenate([run.kl[-1:], c.kl]), np.concatenate([run.score[-1:], c.score])) for own in controls for c in own
    ]
    each = iter(by_prompt(both, _end_minus_read))
    return np.array([np.mean(list(islice(each, len(own))), axis=0) for own in controls])


def _end_minus_read(kl: Array, gain: Array) -> Array:
    """The gain of a method minus that of a control at its KL, of KL and gain [..., 1 + points], the method's first."""
    return gain[..., 0] - read_off(kl[..., 1:], gain[..., 1:], kl[..., 0])


def _at(kl: float | Array) -> Statistic:
    """Of a curve, what is read off it at a KL, or at several."""
    return lambda d, gain: read_off(d, gain, kl) if np.ndim(kl) == 0 else read_off(d[..., None, :], gain[..., None, :], kl)
