"""The sweep report as a Markdown page and for a terminal."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace

from rich.text import Text

from isoalign.config.feedback import PanelConfig
from isoalign.core.display import clean, escape, grid, plain, scientific
from isoalign.core.objective import Objective
from isoalign.core.records import Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.rows import METHOD, Row, flatten
from isoalign.report.board.sections import PROTOCOL
from isoalign.report.board.unequal import unequal
from isoalign.report.pages.console import plain_table, rendered
from isoalign.report.pages.page import commands_block
from isoalign.report.pages.phrases import row_name
from isoalign.report.sweeps.crossings import UNDECIDED
from isoalign.report.sweeps.rows import ACCURACIES
from isoalign.report.sweeps.sweep_report import DIGITS, FLOPS, SweepReport, axis_value, file_stem

NOISE = "task.feedback.noise"
_ORDERS = ["At", "Methods", "Spearman", "Kendall", "Not at both"]
_DIGITS = 3  # of a score
_ROOM = 4  # axis values for whose intervals a terminal has room

_HOW_TO_READ = """\
- {title} is a mean over seeds and prompts, {direction}, with its 95% interval in brackets. Rows that failed a gate (for
  any seed), the SFT base and the control are shown but not ranked, and have no slope.
- A rank is the place of a method's mean, 1 for the {first}; its interval shows the ranks that other prompts and seeds
  might give. Whether one method is better than another at an axis value is decided by a board, or by `isoalign compare`.
- Slope: least squares of a method's means over its axis values, in {noun} per unit of the axis. {title} *rises* or *falls*
  if its interval excludes 0. A slope does not show a bend.
- Rank correlations compare the order of methods with the order at the lowest axis value: 1 is the same order, −1 the reverse.
  The ranking *changes* if an interval of Spearman's lies below 1 and is at most 1 long, or if pairs change order. It is
  *stable* only if all pairs are shown to keep theirs: an interval that reaches 1 does not show that nothing changes.
- Intervals allow for the prompts, resampled for all methods and axis values together, and for the seeds, which were trained
  independently. They are not corrected for their number. With one seed those of a mean and of a slope hold for that trained
  policy only, and nothing else is decided: the method may have any rank, its trend and any order with it are not resolved."""

ACCURACY_NOTES = """\
How often the reward model that a method was trained on agrees with the annotators' held-out verdicts: *with noise*, that of
the axis, and *without noise*."""
_CEILING = "A model that is always right agrees with 1 − e of the first and with all of the second."

_CROSSINGS = """Which of two methods is shown to be better at each value: paired by prompt, Holm's correction over all pairs at
all values. The order *changes* where each is shown to be better somewhere, *stays* where one is at all values, else it is *not
decided*."""


def how_to_read(objective: Objective) -> str:
    """What the report's tables mean."""
    words = {
        "title": objective.title,
        "noun": objective.noun,
        "direction": objective.direction,
        "first": objective.superlative,
    }
    return _HOW_TO_READ.format(**words)


def sweep_page(report: SweepReport) -> str:
    """The report as a Markdown page."""
    key, axis, objective = escape(report.sweep.key), [axis_value(value) for value in report.values], report.objective
    noun = escape(objective.noun)
    named = {name: row_name(row) for name, row in report.rows.items()}
    setting = "\n".join(f"- **{escape(title)}:** {escape(line)}" for title, line in _setting_lines(report))
    means = [[shown, *_means(report, name, _full), *_slope(report, name)] for name, shown in named.items()]
    ranks = [[named[name], *_ranks(report, name, _full)] for name in report.methods]
    parts = [f"# Along {key}: {escape(report.sweep.task)}", f"**{escape(report.verdict)}**", setting]
    parts += [f"![Mean {noun} and rank of each method along {key}]({file_stem(report.sweep.key)}.svg)"]
    titles = ["Method", *axis, "Slope per unit", escape(objective.title)]
    parts += [f"## Mean {noun}", grid(titles, means, (0, len(axis) + 2))]
    parts += ["## Rank", grid(["Method", *_rank_titles(report)], ranks)]
    parts += [f"## Order of methods, compared with that at {axis[0]}", grid(_ORDERS, _orders(report, escape), (0, 4))]
    if report.crossings:
        lines = [[*map(escape, pair), *at] for *pair, at in _crossed(report)]
        parts += ["## Pairs that change order", grid(["A", "B", *axis, "Order"], lines, (0, 1, len(axis) + 2)), _CROSSINGS]
    if accuracies := _accuracies(report, _full):
        rows = [[escape(name), *cells] for name, *cells in accuracies]
        notes = f"{ACCURACY_NOTES} {_CEILING}" if _has_one_annotator(report) else ACCURACY_NOTES
        parts += ["## Reward models", grid(["Method", "Verdicts", *axis], rows, (0, 1)), notes]
    return "\n\n".join([*parts, commands_block(report.sweep.cards), "## How to read it", how_to_read(objective)]) + "\n"


def sweep_text(report: SweepReport, width: int = 110) -> str:
    """The report for a terminal, as plain text; with many axis values without their intervals."""
    key, axis = clean(report.sweep.key), [axis_value(value) for value in report.values]
    shown = _full if len(axis) <= _ROOM else _brief
    means = [[clean(name), *_means(report, name, shown), _slope(report, name)[1]] for name in report.rows]
    ranks = [[clean(name), *_ranks(report, name, shown)] for name in report.methods]
    orders = _orders(report, clean)
    parts = [
        Text(clean(report.verdict)),
        plain_table(f"\nmean {clean(report.objective.noun)} along {key}", ["method", *axis, ""], means),
        plain_table("rank", ["method", *_rank_titles(report)], ranks),
        plain_table(f"order of methods, compared with that at {axis[0]}", [*map(str.lower, _ORDERS)], orders),
    ]
    if decided := [[*map(clean, pair), *at] for *pair, at in _crossed(report) if at[-1] != UNDECIDED]:
        parts += [plain_table("which is shown to be better", ["A", "B", *axis, "order"], decided, 2)]
    if accuracies := _accuracies(report, shown):
        rows = [[clean(name), *cells] for name, *cells in accuracies]
        parts += [plain_table("accuracy of reward models on held-out verdicts", ["method", "verdicts", *axis], rows, 2)]
    parts += [Text(clean(f"{title}: {line}")) for title, line in _setting_lines(report)]
    return rendered(parts, width)


def _crossed(report: SweepReport) -> list[tuple[str, str, list[str]]]:
    """The pairs with the method that is ahead at each value, and what becomes of their order."""
    return [
        (one.a, one.b, [clean(one.ahead.get(value) or "–") for value in report.values] + [one.verdict])
        for one in report.crossings
    ]


def _full(estimate: Estimate) -> str:
    return cell(estimate, _DIGITS)


def _brief(estimate: Estimate) -> str:
    return cell(replace(estimate, low=None, high=None), _DIGITS)


def _means(report: SweepReport, name: str, shown: Callable[[Estimate], str]) -> list[str]:
    return [shown(report.mean(value, name)) + " (gate)" * report.gated(value, name) for value in report.values]


def _ranks(report: SweepReport, name: str, shown: Callable[[Estimate], str]) -> list[str]:
    """A method's ranks with their intervals; those of ties end in .5."""
    ranks = [standings[name].rank if name in standings else None for standings in report.robustness.standings.values()]
    return [
        "–" if e is None else f"{e.value:g}" if e.low is None or shown is _brief else f"{e.value:g} [{e.low:g}, {e.high:g}]"
        for e in ranks
    ]


def _rank_titles(report: SweepReport) -> list[str]:
    """Axis values, each with the number of methods ranked there, without which ranks can't be compared."""
    return [f"{axis_value(value)} (of {len(standings)})" for value, standings in report.robustness.standings.items()]


def _slope(report: SweepReport, name: str) -> list[str]:
    """The slope with its interval, three digits of each, and as a word."""
    e = report.robustness.slopes.get(name)
    if e is None or e.value is None:
        return ["–", "–"]
    value, *bounds = ["–" if v is None else _three_digits(v) for v in (e.value, e.low, e.high)]
    return [f"{value} [{', '.join(bounds)}]" if e.low is not None else value, report.trend(name) or "–"]


def _three_digits(value: float) -> str:
    """A number with three digits and, if it is very large or small, a short exponent."""
    return re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", f"{value:.3g}").replace("-", "−")


def _orders(report: SweepReport, text: Callable[[str], str]) -> list[list[str]]:
    lines = []
    for value, s in report.robustness.stability.items():
        correlations = [cell(s.spearman, DIGITS), cell(s.kendall, DIGITS)]
        lines.append([axis_value(value), str(s.spearman.n), *correlations, text(", ".join(s.left_out)) or "–"])
    return lines


def _accuracies(report: SweepReport, shown: Callable[[Estimate], str]) -> list[list[str]]:
    """Method, verdicts and accuracies of the reward models that methods were trained on, below the largest possible accuracy;
    only along the annotators' noise."""
    if report.sweep.key != NOISE:
        return []
    lines = []
    for name in report.methods:
        row = report.rows[name]
        if any(card.metrics.get("reward_optimised", Estimate(0.0, None, None, 0)).value for card in row.cards):
            judge = " (the judge's verdicts)" * any("reward_judge" in card.parents for card in row.cards)
            for accuracy, verdicts in ACCURACIES.items():
                own = [_accuracy(at.get(name), accuracy, shown) for at in report.sweep.rows.values()]
                lines.append([name + judge, verdicts, *own])
    ceiling = ["at most, 1 − e", ACCURACIES["rm_accuracy"], *(f"{1 - value:.3f}" for value in report.values)]
    return [ceiling, *lines] if lines and _has_one_annotator(report) else lines


def _accuracy(row: Row | None, name: str, shown: Callable[[Estimate], str]) -> str:
    if row is None:
        return "–"
    return "outdated" if row.is_outdated(name) else shown(row.estimate(name))


def _has_one_annotator(report: SweepReport) -> bool:
    """Whether verdicts are those of one simulated annotator without bias, so that noise alone limits the accuracy."""
    default = flatten({"task": {"panel": json.loads(json.dumps(asdict(PanelConfig()))), "feedback": {"file": ""}}})
    return all(report.sweep.setting.get(name, value) == value for name, value in default.items())


def _setting_lines(report: SweepReport) -> list[tuple[str, str]]:
    """What was compared, what is missing, and what was left out."""
    setting, robustness = report.sweep.setting, report.robustness
    base = setting.get("the weights of the SFT base") or "differs along the axis"
    prompts = f"{robustness.prompts}" + (
        f" ({robustness.missing} lack a value and are left out)" if robustness.missing else ""
    )
    budget = [] if report.sweep.key == FLOPS else [("Budget of each run", f"{scientific(setting.get(FLOPS))} FLOP")]
    lines = [*budget, ("SFT base", base), ("Prompts", prompts), ("Seeds", _seeds(report))]
    notes = {title: setting.get(f"notes.{name}") for name, title in PROTOCOL.items() if name != "prompts"}
    lines += [(title, plain(note)) for title, note in notes.items() if note is not None]
    lines += [("Missing", missing)] if (missing := _missing(report)) else []
    for value, rows in report.sweep.rows.items():
        lines += [
            ("Gate", f"{row.name} at {axis_value(value)}: {'; '.join(flag.text for flag in row.flags if flag.kind == 'gate')}")
            for row in rows.values()
            if row.gated
        ]
        lines += [("Not equal", f"at {axis_value(value)}: {line}") for line in unequal(list(rows.values()))]
    lines += [("Warning", f"{text} ({', '.join(where)})") for text, where in report.warnings.items()]
    return lines + [(f"Left out, {why}", " ".join(files)) for why, files in report.sweep.left_out.items()]


def _seeds(report: SweepReport) -> str:
    """The number of seeds that methods have, and the methods and axis values with other numbers."""
    numbers = {(name, value): row.seeds for value, rows in report.sweep.rows.items() for name, row in rows.items()
               if row.part == METHOD}  # fmt: skip
    counts = list(numbers.values())
    usual = max(sorted(set(counts)), key=counts.count)
    others = [f"{name} at {axis_value(value)} has {n}" for (name, value), n in numbers.items() if n != usual]
    return "; ".join([str(usual), *others])


def _missing(report: SweepReport) -> str:
    lacking = {name: [axis_value(v) for v in report.values if name not in report.sweep.rows[v]] for name in report.methods}
    return "; ".join(f"{name} at {', '.join(at)}" for name, at in lacking.items() if at)
