"""The report along a setting as a Markdown page and for a terminal."""

import dataclasses
import io
import json
from collections.abc import Callable

from isoalign.core.display import clean, escape, grid, plain, printable, scientific
from isoalign.core.records import Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import COLUMNS
from isoalign.report.board.rows import METHOD, PROTOCOL, Row, flatten
from isoalign.report.pages.page import commands_of
from isoalign.report.sweeps.series import ACCURACIES, SCORE
from isoalign.report.sweeps.sweep_report import CORRELATION, Along, file_of

NOISE = "task.feedback.noise"
_ORDERS = ["At", "Methods", "Spearman", "Kendall", "Not at both"]
_ROOM = 4  # axis values whose intervals a terminal has room for

NOTES = """\
- Toxicity is a mean over seeds and prompts, lower is better, in brackets its 95% interval. What failed a quality gate (under
  any seed), the SFT base and the control are shown and not ranked, and have no slope.
- A rank is the place of a method's mean, 1 being the least toxic; its interval says where other prompts and seeds might have
  put it. Whether one method is better than another at an axis value is for a board to say, or `isoalign compare`.
- Slope: least squares of a method's means over its axis values, in toxicity for a unit of the axis. Toxicity *rises* or
  *falls* where its interval leaves out 0. A bend is not seen.
- Rank correlations are those of the order of methods with the order at the lowest axis value: 1 is the same order, −1 the
  reverse. The ranking *changes* where an interval of Spearman's lies below 1 and is no longer than 1, is *stable* where all
  reach 1 and lie above 0, and else it is not resolved. Few methods, or ones that hardly differ, leave it so.
- Intervals allow for the prompts, resampled for all methods and axis values together, and for the seeds, which were trained
  apart; with one seed they hold for that trained policy only. They are not corrected for how many one looks at."""

ACCURACY_NOTES = """\
How often the reward model that a method was trained on agrees with the annotators' held-out verdicts: *as told*, with the
noise of the axis, and *without noise*."""
_CEILING = "A model that is always right agrees with 1 − e of the first and with all of the second."


def markdown(report: Along) -> str:
    """The report as a Markdown page."""
    key, axis = escape(report.sweep.key), [plain(value) for value in report.values]
    named = {name: escape(name) if row.part == METHOD else f"*{escape(name)}*" for name, row in report.rows.items()}
    told = "\n".join(f"- **{escape(title)}:** {escape(line)}" for title, line in _told(report))
    means = [[shown, *_means(report, name, _full), *_slope(report, name)] for name, shown in named.items()]
    ranks = [[named[name], *_ranks(report, name, _full)] for name in report.methods]
    parts = [f"# Along {key}: {escape(report.sweep.task)}", f"**{escape(report.verdict)}**", told]
    parts += [f"![Mean toxicity and rank of each method along {key}]({file_of(report.sweep.key)}.svg)"]
    parts += ["## Mean toxicity", grid(["Method", *axis, "Slope a unit", "Toxicity"], means, (0, len(axis) + 2))]
    parts += ["## Rank", grid(["Method", *_ranked(report)], ranks)]
    parts += [f"## Order of methods, beside that at {axis[0]}", grid(_ORDERS, _orders(report, escape), (0, 4))]
    if accuracies := _accuracies(report, _full):
        rows = [[escape(name), *cells] for name, *cells in accuracies]
        notes = f"{ACCURACY_NOTES} {_CEILING}" if _one_rater(report) else ACCURACY_NOTES
        parts += ["## Reward models", grid(["Method", "Verdicts", *axis], rows, (0, 1)), notes]
    return "\n\n".join([*parts, commands_of(report.sweep.cards), "## How to read it", NOTES]) + "\n"


def terminal(report: Along, width: int = 110) -> str:
    """The report for a terminal, as plain text; of many axis values without their intervals."""
    from rich.console import Console
    from rich.text import Text

    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, highlight=False)
    key, axis = clean(report.sweep.key), [plain(value) for value in report.values]
    shown = _full if len(axis) <= _ROOM else _brief
    means = [[clean(name), *_means(report, name, shown), _slope(report, name)[1]] for name in report.rows]
    ranks = [[clean(name), *_ranks(report, name, shown)] for name in report.methods]
    console.print(Text(clean(report.verdict)))
    console.print(printable(f"\nmean toxicity along {key}", ["method", *axis, ""], means))
    console.print(printable("rank", ["method", *_ranked(report)], ranks))
    console.print(printable(f"order of methods beside that at {axis[0]}", [*map(str.lower, _ORDERS)], _orders(report, clean)))
    if accuracies := _accuracies(report, shown):
        rows = [[clean(name), *cells] for name, *cells in accuracies]
        console.print(printable("accuracy of reward models on held-out verdicts", ["method", "verdicts", *axis], rows, 2))
    for title, line in _told(report):
        console.print(Text(clean(f"{title}: {line}")))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _full(estimate: Estimate) -> str:
    return cell(estimate, COLUMNS[SCORE])


def _brief(estimate: Estimate) -> str:
    return cell(dataclasses.replace(estimate, low=None, high=None), COLUMNS[SCORE])


def _means(report: Along, name: str, shown: Callable[[Estimate], str]) -> list[str]:
    return [shown(report.mean(value, name)) + " (gate)" * report.gated(value, name) for value in report.values]


def _ranks(report: Along, name: str, shown: Callable[[Estimate], str]) -> list[str]:
    """A rank with its interval; ties have halves."""
    found = [standings[name].rank if name in standings else None for standings in report.found.standings.values()]
    return [
        "–" if e is None else f"{e.value:g}" if e.low is None or shown is _brief else f"{e.value:g} [{e.low:g}, {e.high:g}]"
        for e in found
    ]


def _ranked(report: Along) -> list[str]:
    """Axis values, each with how many methods are ranked there: the first of one is no better than the second of five."""
    return [f"{plain(value)} (of {len(standings)})" for value, standings in report.found.standings.items()]


def _slope(report: Along, name: str) -> list[str]:
    """The slope with its interval, three digits of each, and in words."""
    e = report.found.slopes.get(name)
    if e is None or e.value is None:
        return ["–", "–"]
    value, *bounds = ["–" if figure is None else f"{figure:.3g}".replace("-", "−") for figure in (e.value, e.low, e.high)]
    return [f"{value} [{', '.join(bounds)}]" if e.low is not None else value, report.trend(name) or "–"]


def _orders(report: Along, text: Callable[[str], str]) -> list[list[str]]:
    lines = []
    for value, s in report.found.stability.items():
        correlations = [cell(s.spearman, CORRELATION), cell(s.kendall, CORRELATION)]
        lines.append([plain(value), str(s.spearman.n), *correlations, text(", ".join(s.left_out)) or "–"])
    return lines


def _accuracies(report: Along, shown: Callable[[Estimate], str]) -> list[list[str]]:
    """Method, verdicts and accuracies of the reward models that methods were trained on, and above them what is to be had;
    along the raters' noise only."""
    if report.sweep.key != NOISE:
        return []
    lines = []
    for name in report.methods:
        row = report.rows[name]
        if any(card.metrics.get("reward_optimised", Estimate(0.0, None, None, 0)).value for card in row.cards):
            taught = " (taught by the judge)" * any("reward_judge" in card.parents for card in row.cards)
            for metric, verdicts in ACCURACIES.items():
                found = [_accuracy(at.get(name), metric, shown) for at in report.sweep.rows.values()]
                lines.append([name + taught, verdicts, *found])
    ceiling = ["at most, 1 − e", "as told", *(f"{1 - value:.3f}" for value in report.values)]
    return [ceiling, *lines] if lines and _one_rater(report) else lines


def _accuracy(row: Row | None, metric: str, shown: Callable[[Estimate], str]) -> str:
    if row is None:
        return "–"
    return "outdated" if row.old(metric) else shown(row.estimate(metric))


def _one_rater(report: Along) -> bool:
    """Whether verdicts are those of one simulated rater without leanings, so that noise alone bounds the accuracy."""
    from isoalign.config.feedback import PanelConfig

    usual = flatten({"task": {"panel": json.loads(json.dumps(dataclasses.asdict(PanelConfig()))), "feedback": {"file": ""}}})
    return all(report.sweep.setting.get(name, value) == value for name, value in usual.items())


def _told(report: Along) -> list[tuple[str, str]]:
    """What was compared, what is missing, and what was left out."""
    setting, found = report.sweep.setting, report.found
    base = setting.get("the weights of the SFT base") or "not the same along the axis"
    prompts = f"{found.prompts}" + (f" ({found.missing} left out, which lack a value)" if found.missing else "")
    lines = [("Budget of each run", f"{scientific(setting.get('budget.flops'))} FLOP"), ("SFT base", base)]
    lines += [("Prompts", prompts), ("Seeds", _seeds(report))]
    notes = {title: setting.get(f"notes.{name}") for name, title in PROTOCOL.items() if name != "prompts"}
    lines += [(title, plain(note)) for title, note in notes.items() if note is not None]
    lines += [("Missing", missing)] if (missing := _missing(report)) else []
    for value, rows in report.sweep.rows.items():
        lines += [
            ("Gate", f"{row.name} at {plain(value)}: {'; '.join(flag.text for flag in row.flags)}")
            for row in rows.values()
            if row.gated
        ]
    return lines + [(f"Left out, {why}", " ".join(files)) for why, files in report.sweep.left_out.items()]


def _seeds(report: Along) -> str:
    """The number of seeds that each method has at each axis value, what is usual first."""
    numbers = {(name, value): row.seeds for value, rows in report.sweep.rows.items() for name, row in rows.items()
               if row.part == METHOD}  # fmt: skip
    counts = list(numbers.values())
    usual = max(sorted(set(counts)), key=counts.count)
    others = [f"{name} at {plain(value)} has {n}" for (name, value), n in numbers.items() if n != usual]
    return "; ".join([str(usual), *others])


def _missing(report: Along) -> str:
    lacking = {name: [plain(v) for v in report.values if name not in report.sweep.rows[v]] for name in report.methods}
    return "; ".join(f"{name} at {', '.join(at)}" for name, at in lacking.items() if at)
