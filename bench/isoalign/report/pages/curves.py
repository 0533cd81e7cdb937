"""The curves along the budget as a section of the board's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isoalign.core.display import escape, grid
from isoalign.core.objective import Objective
from isoalign.core.records import Estimate
from isoalign.evaluation.metrics.metric import with_arrow
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import gain_digits
from isoalign.report.board.rows import Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.curves import curves_chart_name
from isoalign.report.pages.phrases import row_name
from isoalign.stats.curves import Curves
from isoalign.stats.frontier import pareto
from isoalign.stats.overoptimization import Fit, Peak, find_peak, fit_law, peak_warnings

_PEAK = """\
*Best* is the point with the largest {gain}, mean over seeds; *firm* is how often a bootstrap picks the same point. The
largest of several noisy values is biased upward, and so are {gain} and loss at the best point; the interval of the loss
allows for that choice (sup-t bootstrap), the other one does not. *Proxy since* is the rise of the reward model's mean score
from there to the end, with an interval over each replicate's own best point: of the method's own reward model, or of the
annotator's if it has none."""

_FIT = """\
Least squares of {gain} = d (α − β log d), d = √KL, over all seeds' points above 0.01 nats; the peak is at
d = exp(α/β − 1). *Within*: whether its interval lies inside the KL that was seen; a peak past that is extrapolated. The law is
that of reward scores under reinforcement learning; {limit}, so a plateau at that limit
also fits as a peak."""

_KNOWN = """\
The reward is known: the proxy of a method that learned from it is the objective itself, shifted and scaled, so that the two
can't part. Only a method that learned from an AI judge has a proxy of its own."""

_SOURCES = """\
Sources: the fit is from Gao, Schulman and Hilton 2023, "Scaling Laws for Reward Model Overoptimization", section 1; the
intervals of a best point from Montiel Olea and Plagborg-Møller 2019, "Simultaneous Confidence Bands"; all others are
percentiles of a bootstrap over prompts, the same ones for all methods, with a t term for seeds."""


def curves_section(section: Section, number: int = 1) -> list[str]:
    """The parts under "Along the budget", its heading and chart first; empty if no card has a curve."""
    curves, objective = section.curves, section.objective
    if not curves:
        return []
    rows = [row for row in section.rows if row.name in curves]
    peaks, fits = dict[str, Peak](), dict[str, Fit]()
    for row in rows:  # both from the same replicates, which are not kept for long
        peaks[row.name], fits[row.name] = find_peak(curves[row.name]), fit_law(curves[row.name])
    raised = [f"- **{row_name(row)}:** {escape(text)}" for row in rows for text in peak_warnings(curves[row.name])]
    parts = ["### Along the budget", _measured_on(list(curves.values()))]
    parts += [f"![{objective.gain_title} and proxy reward against exact KL, along the budget]({curves_chart_name(number)})"]
    parts += ["\n".join(raised)] if raised else []
    parts += [_KNOWN] if any(card.notes.get("known_reward") for row in rows for card in row.cards) else []
    parts += [*_best_points(rows, curves, peaks, objective), *_fitted_laws(rows, fits, objective)]
    return [*parts, _pareto_points(rows, curves), _SOURCES]


def _measured_on(curves: Sequence[Curves]) -> str:
    counts = sorted({len(one.fraction) for one in curves})
    points = "–".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    first = curves[0]
    lacking = f" ({first.missing} more lack a value and are left out)" if first.missing else ""
    return (
        f"Each run is scored at {points} points along its budget, the base included, on {first.prompts} prompts{lacking}: the "
        "same prompts and draws at all points and for all methods, fewer than for the ranking, so values differ from it."
    )


def _best_points(rows: list[Row], curves: dict[str, Curves], peaks: dict[str, Peak], objective: Objective) -> list[str]:
    titles = ["Method", "Seeds", "Best at", "Firm", "KL there", f"{objective.gain_title} there"]
    titles += [f"{objective.gain_title} at the end"]
    titles += [with_arrow("Lost by going on", False), "Proxy since"]
    cells, digits = [], gain_digits(objective)
    for row in rows:
        peak = peaks[row.name]
        firm = "–" if peak.firm is None else f"{peak.firm:.0%}"
        kl = f"{peak.kl:.2f}" if peak.measured else "–"
        line = [row_name(row), str(curves[row.name].seeds), peak.at, firm, kl]
        at_end = peak.index == len(curves[row.name].fraction) - 1
        line += [_cell(each, digits) for each in (peak.gold, peak.end, peak.loss)]
        cells.append([*line, "at its end" if at_end else _cell(peak.rise, 2)])
    return ["#### Best point, and what going on cost", grid(titles, cells), _PEAK.format(gain=objective.gain_noun)]


def _fitted_laws(rows: list[Row], fits: dict[str, Fit], objective: Objective) -> list[str]:
    titles = ["Method", "α", "β", "KL at the fitted peak", "Within what was seen", "RMS error", "Points"]
    cells, digits = [], gain_digits(objective)
    for row in rows:
        fit = fits[row.name]
        if fit.reason is not None or fit.error is None:
            cells.append([row_name(row), "–", "–", "–", f"no fit: {fit.reason}", "–", str(fit.points)])
            continue
        inside = "unclear" if fit.inside is None else "yes" if fit.inside else "no"
        shown = [_cell(fit.alpha, digits), _cell(fit.beta, digits), _peak_cell(fit.peak), inside]
        cells.append([row_name(row), *shown, f"{fit.error:.{digits + 1}f}", str(fit.points)])
    limit = "a reduction can't exceed the base's toxicity" if objective.is_toxicity else "a gain ends where the scores end"
    return ["#### Gao et al.'s law", grid(titles, cells), _FIT.format(gain=objective.gain_noun, limit=limit)]


def _peak_cell(peak: Estimate) -> str:
    """A fitted peak's KL. It is the exponential of a ratio, so it may be anywhere, or not exist."""
    value = "none" if peak.value is None else _nats(peak.value)
    if peak.low is None:
        return value
    return f"{value} [{_nats(peak.low)}, {'∞' if peak.high is None else _nats(peak.high)}]"


def _nats(kl: float) -> str:
    return "> 1000" if kl > 1000 else f"{kl:.2f}"


def _pareto_points(rows: list[Row], curves: dict[str, Curves]) -> str:
    """Which points no other has both less KL and a better score than."""
    points: dict[str, list[str]] = {}
    for place in pareto({row.name: curves[row.name] for row in rows if row.comparable}):
        if place.method:
            points.setdefault(place.method, []).append(f"{place.fraction:.0%}")
    listed = "; ".join(f"{escape(name)} ({', '.join(at)})" for name, at in points.items())
    noun = rows[0].objective.noun
    return f"**On the Pareto frontier** of KL and {noun}, of all points (share of the budget): {listed or 'the base alone'}."


def _cell(estimate: Estimate, digits: int) -> str:
    return cell(replace(estimate, missing=0), digits)
