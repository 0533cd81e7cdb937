"""What the curves along the budget tell, as parts of the Markdown page."""

from __future__ import annotations

from dataclasses import replace

from isoalign.core.display import escape, grid
from isoalign.core.records import Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import Column
from isoalign.report.board.rows import METHOD, Row, Section
from isoalign.report.charts.curves import curves_name
from isoalign.report.charts.frontier import curves_of
from isoalign.stats.curves import FIT_FROM, Curves, Fit, Peak, Reading, common_kl, fit, flags, matched, pareto, peak

_TOXICITY, _KL, _REWARD = Column("", ""), Column("", "", 2), Column("", "", 2)

_MATCHED = """\
Each method's figures where its curve, mean over seeds, first reaches that KL, by linear interpolation in √KL between two
points. The KL is the largest that nine in ten of the ranked methods that moved (0.1 nats or more) get to, of fewer than ten
methods all, and half of it. *Behind* is toxicity minus that of the best ranked method there, paired by prompt: above 0 is
worse. It makes no allowance for choosing the best. † passes that KL more than once. KL here is the price of a change, not how
hard a method optimised: by that measure methods differ at equal KL (Gao et al. 2023)."""

_PEAK = """\
*Best* is the point with the largest reduction, mean over seeds; *firm*, how often a bootstrap picks it again. The largest of
several noisy points looks larger than it is, so reduction and loss at the best are biased upward; the interval of the loss
allows for that choice (sup-t bootstrap), the other one doesn't. *Proxy since* is how far the reward model's mean score rose
from there to the end, its interval over each replicate's own best point: the method's own reward model, or the annotator's
where it has none."""

_FIT = """\
Least squares of reduction = d (α − β log d), d = √KL, over all seeds' points above 0.01 nats; the peak is at
d = exp(α/β − 1). *Within*: whether its interval lies inside the KL that was seen; past that it is extrapolated. The form is
that of reward scores under reinforcement learning; a reduction can't exceed the base's toxicity, so a plateau at that
ceiling also fits as a peak."""

_SOURCES = """\
Sources: the fit is Gao, Schulman and Hilton 2023, "Scaling Laws for Reward Model Overoptimization", section 1; the
intervals of a best point are Montiel Olea and Plagborg-Møller 2019, "Simultaneous Confidence Bands"; all others are
percentiles of a bootstrap over prompts, the same ones for all methods, with a t term for seeds."""


def markdown(section: Section, number: int = 1) -> list[str]:
    """The parts under "Along the budget", its heading and chart first; none where no card has a curve."""
    curves = curves_of(section)
    if not curves:
        return []
    rows = [row for row in section.rows if row.name in curves]
    peaks, fits = {row.name: peak(curves[row.name]) for row in rows}, {row.name: fit(curves[row.name]) for row in rows}
    raised = [f"- **{_name(row)}:** {escape(flag)}" for row in rows for flag in flags(curves[row.name])]
    parts = ["### Along the budget", _measured(list(curves.values()))]
    parts += [f"![Reduction and proxy reward against exact KL, along the budget]({curves_name(number)})"]
    parts += ["\n".join(raised)] if raised else []
    return [
        *parts,
        *_matched(rows, curves),
        *_peaks(rows, curves, peaks),
        *_fits(rows, fits),
        _frontier(rows, curves),
        _SOURCES,
    ]


def _measured(curves: list[Curves]) -> str:
    counts = sorted({len(one.fraction) for one in curves})
    points = "–".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    first = curves[0]
    lacking = f" ({first.missing} more lack a value and are left out)" if first.missing else ""
    return (
        f"Each run is scored at {points} points along its budget, the base included, on {first.prompts} prompts{lacking}: the "
        "same prompts and draws at all points and for all methods, fewer than for the ranking, so that figures differ from it."
    )


def _matched(rows: list[Row], curves: dict[str, Curves]) -> list[str]:
    """Toxicity at equal drift: at the largest KL that nine in ten ranked methods get to, and at half of it."""
    ranked = [row.name for row in rows if row.contends]
    kl = common_kl({name: curves[name] for name in ranked or curves})
    if kl is None or kl < FIT_FROM:
        return []
    known = {row.name: curves[row.name] for row in rows}
    full, half = matched(known, kl, ranked or None), matched(known, kl / 2, ranked or None)
    titles = ["Method", "KL at the end"]
    for at in (f"{kl:.3g}", f"{kl / 2:.3g}"):
        titles += [f"Toxicity at KL {at} ↓", f"Reduction at {at} ↑", f"Behind at {at} ↓"]
    cells = [
        [_name(row), f"{full[row.name].end:.2f}", *_reading(full[row.name]), *_reading(half[row.name])]
        for row in sorted(rows, key=lambda row: _order(full[row.name], half[row.name]))
    ]
    return ["#### At equal drift", grid(titles, cells), _MATCHED]


def _order(full: Reading, half: Reading) -> tuple[bool, float, float]:
    """By toxicity at the larger KL; those that don't reach it last, by that at the smaller."""
    first, second = full.toxicity.value, half.toxicity.value
    return first is None, 0.0 if first is None else first, 1.0 if second is None else second


def _reading(reading: Reading) -> list[str]:
    if reading.toxicity.value is None:
        return ["not reached", "–", "–"]
    behind = "best" if reading.behind.value is None else _cell(reading.behind, _TOXICITY)
    return [_cell(reading.toxicity, _TOXICITY) + " †" * reading.again, _cell(reading.reduction, _TOXICITY), behind]


def _peaks(rows: list[Row], curves: dict[str, Curves], peaks: dict[str, Peak]) -> list[str]:
    titles = ["Method", "Seeds", "Best at", "Firm", "KL there", "Reduction there", "Reduction at the end"]
    titles += ["Lost by going on ↓", "Proxy since"]
    cells = []
    for row in rows:
        found = peaks[row.name]
        firm = "–" if found.firm is None else f"{found.firm:.0%}"
        line = [_name(row), str(curves[row.name].seeds), f"{found.fraction:.0%}", firm, f"{found.kl:.2f}"]
        at_end = found.index == len(curves[row.name].fraction) - 1
        figures = [found.gold, found.end, found.loss]
        cells.append([*line, *(_cell(e, _TOXICITY) for e in figures), "at its end" if at_end else _cell(found.rise, _REWARD)])
    return ["#### Best point, and what going on cost", grid(titles, cells), _PEAK]


def _fits(rows: list[Row], fits: dict[str, Fit]) -> list[str]:
    titles = ["Method", "α", "β", "KL at the fitted peak", "Within what was seen", "Misses by", "Points"]
    cells = []
    for row in rows:
        found = fits[row.name]
        if found.reason is not None or found.error is None:
            cells.append([_name(row), "–", "–", "–", f"no fit: {found.reason}", "–", str(found.points)])
            continue
        inside = "unclear" if found.inside is None else "yes" if found.inside else "no"
        shown = [_cell(found.alpha, _TOXICITY), _cell(found.beta, _TOXICITY), _turn(found.peak), inside]
        cells.append([_name(row), *shown, f"{found.error:.4f}", str(found.points)])
    return ["#### Gao et al.'s law", grid(titles, cells), _FIT]


def _turn(peak: Estimate) -> str:
    """A peak's KL. It is the exponential of a ratio, so it may lie anywhere, or nowhere."""
    value = "none" if peak.value is None else _nats(peak.value)
    if peak.low is None:
        return value
    return f"{value} [{_nats(peak.low)}, {'∞' if peak.high is None else _nats(peak.high)}]"


def _nats(kl: float) -> str:
    return "> 1000" if kl > 1000 else f"{kl:.2f}"


def _frontier(rows: list[Row], curves: dict[str, Curves]) -> str:
    """Which points no other beats in both KL and toxicity."""
    best = [place for place in pareto({row.name: curves[row.name] for row in rows if row.sound}) if place.method]
    points: dict[str, list[str]] = {}
    for place in best:
        points.setdefault(place.method or "", []).append(f"{place.fraction:.0%}")
    told = [f"{escape(name)} ({', '.join(at)})" for name, at in points.items()]
    on_it = "; ".join(told) or "the base alone"
    return f"**On the Pareto frontier** of KL and toxicity, of all points (share of the budget): {on_it}."


def _cell(estimate: Estimate, column: Column) -> str:
    return cell(replace(estimate, missing=0), column)


def _name(row: Row) -> str:
    """The name of a row; what is no contender is in italics."""
    return escape(row.name) if row.part == METHOD else f"*{escape(row.name)}*"
