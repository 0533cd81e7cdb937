"""The leaderboard: a pure function of the cards of one task.

A row is one algorithm in one configuration, its seeds pooled. Rows stand together only where budget, SFT base and
measurement (prompts, draws, scorers) are the same; others get a section of their own. Same cards, same bytes, in
whatever order they come.
"""

import csv
import dataclasses
import io
import json
import math
import re
import sys
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from bench.card import file_name, redacted, save
from bench.errors import UserError
from bench.types import Card, Estimate

Z = 1.96  # an interval's half-width in standard errors

REFERENCE, CONTROL, METHOD = "reference", "control", "method"
_PARTS = {"sft": REFERENCE, "sft_chosen": CONTROL}
_ROLES = ("policy", "reference", "value", "reward", "judge", "feedback")
# Of Card.notes: figures are compared only where the first agree; the others are told.
_PROTOCOL = {"prompts": "Prompts", "draws": "Draws a prompt", "scorer": "Scorer", "second_scorer": "Second scorer"}
_TOLD = {"noise": "Label noise", "correlation": "Rank correlations", "tuning": "Tuning", "caveat": "Caveat"}


@dataclass(frozen=True)
class Column:
    """How a metric is shown. ``bounds``: the values it can take, to which pooled intervals are cut."""

    metric: str
    title: str
    digits: int = 3
    bounds: tuple[float, float] = (0.0, 1.0)


LEADING = (
    Column("toxicity_reduction", "Reduction ↑", bounds=(-1.0, 1.0)),
    Column("toxicity_mean", "Toxicity ↓"),
    Column("toxicity_fraction", "Share ≥ .5 ↓"),
    Column("toxicity_emt", "EMT ↓"),
    Column("kl", "KL, nats", 2, (0.0, math.inf)),
    Column("perplexity", "Perplexity", 1, (1.0, math.inf)),
)
FURTHER = (
    Column("rm_accuracy", "RM accuracy ↑"),
    Column("implicit_accuracy", "Implicit accuracy ↑"),
    Column("distinct_2", "Distinct-2 ↑"),
    Column("ead", "EAD ↑", bounds=(0.0, math.inf)),
    Column("self_bleu", "Self-BLEU ↓"),
    Column("embedding_diversity", "Embedding diversity ↑", bounds=(0.0, 2.0)),
)
_COLUMNS = {column.metric: column for column in LEADING + FURTHER}

NOTES = """\
- Values are means over seeds, with 95% intervals. With one seed the interval is the card's: it covers the prompts, not
  the training. With more, it joins the prompts' variance (averaged over seeds, not divided by their number, since all
  seeds answer the same prompts) and the seeds' variance (with Student's t).
- Reduction is mean toxicity of the SFT base minus that of the method, on the same prompts. Rows stand in its order.
- Methods whose reduction intervals overlap, directly or through others between them, share a rank. Reference and
  control have none; nor has a row that failed a quality gate, which is listed last.
- ↑ more is better, ↓ less is better. Figures of different budgets, bases, prompts or scorers never share a table."""


@dataclass(frozen=True)
class Row:
    """One algorithm in one configuration; ``cards`` are its seeds, in order. ``rank`` is None where it has none."""

    name: str
    part: str
    cards: tuple[Card, ...]
    metrics: dict[str, Estimate]
    flags: tuple[str, ...]
    rank: int | None = None

    @property
    def gated(self) -> bool:
        """Whether a seed failed a quality gate."""
        return any(flag.startswith("gate:") for card in self.cards for flag in card.flags)

    @property
    def place(self) -> str:
        """What stands in the rank column."""
        if self.part != METHOD:
            return self.part
        return "gate" if self.gated else "–" if self.rank is None else str(self.rank)

    @property
    def seeds(self) -> int:
        """How many seeds are pooled."""
        return len({card.seed for card in self.cards})

    def estimate(self, metric: str) -> Estimate:
        """The pooled estimate of a metric, or a missing one."""
        return self.metrics.get(metric, Estimate(None, None, None, 0))

    def spent(self, name: str) -> float | None:
        """Mean over cards of one currency of the bill; None where no card tells it."""
        return _mean(_total(card.spent.get(name)) for card in self.cards)

    def by_role(self) -> dict[str, float]:
        """FLOPs spent on each role, mean over cards."""
        bill: dict[str, list[float]] = defaultdict(list)
        for card in self.cards:
            for item in card.spent.get("items") or []:
                bill[str(item["role"])].append(float(item["flops"]))
        return {role: math.fsum(flops) / len(self.cards) for role, flops in sorted(bill.items())}

    @property
    def percent(self) -> float | None:
        """Share of the budget that was spent, in %, of the limit nearest to its end."""
        return _mean(_percent(card) for card in self.cards)


@dataclass(frozen=True)
class Section:
    """Rows that can be compared: one budget, one base, one way of measuring."""

    budget: dict[str, float | None]
    base: str
    protocol: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def roles(self) -> list[str]:
        """Roles on any bill, the usual ones first."""
        found = {role for row in self.rows for role in row.by_role()}
        return [role for role in _ROLES if role in found] + sorted(found.difference(_ROLES))


@dataclass(frozen=True)
class Board:
    """The leaderboard of one task."""

    task: str
    sections: tuple[Section, ...]

    def markdown(self) -> str:
        """The board as a Markdown page."""
        parts = [f"# Leaderboard: {_escape(self.task)}"]
        parts += ["Same base model, same feedback, same compute: only the algorithm differs."]
        for number, section in enumerate(self.sections, 1):
            parts += _section_markdown(section, number)
        return "\n\n".join([*parts, "## How to read it", NOTES]) + "\n"

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Column names and one row of plain values for each method: what the CSV holds."""
        names = {name for section in self.sections for row in section.rows for name in row.metrics}
        metrics = [*_COLUMNS, *sorted(names.difference(_COLUMNS))]
        roles = list(_ROLES) + sorted({role for section in self.sections for role in section.roles}.difference(_ROLES))
        header = ["section", "budget_flops", "base", "rank", "method", "algorithm", "part", "gated", "seeds", "prompts"]
        header += [name + end for name in metrics for end in ("", "_low", "_high")]
        header += ["spent_percent", *(f"spent_{name}" for name in ("flops", "labels", "tokens", "steps", "seconds"))]
        header += [*(f"flops_{role}" for role in roles), "flags"]
        rows = [
            _plain_row(number, section, row, metrics, roles)
            for number, section in enumerate(self.sections, 1)
            for row in section.rows
        ]
        return header, rows

    def csv(self) -> str:
        """The board as CSV: plain numbers, empty where a figure is missing."""
        header, rows = self.table()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([[_plain(value) for value in row] for row in rows])
        return text.getvalue()

    def terminal(self, width: int = 110, colour: bool = False) -> str:
        """The board for a terminal of 100 columns or more; without colour it is plain text."""
        from rich.console import Console

        text = io.StringIO()
        system: Any = "standard" if colour else None
        console = Console(file=text, width=width, color_system=system, force_terminal=colour, highlight=False)
        for section in self.sections:
            console.print(_terminal_table(self.task, section, wide=width >= 108))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def build(cards: Iterable[Card]) -> Board:
    """The board of some cards, which must be of one task. Raises UserError where they are not, or there are none."""
    cards = sorted(map(redacted, cards), key=lambda card: (card.algorithm, _settings(card), card.seed, _json(card)))
    tasks = sorted({card.task for card in cards})
    if not cards:
        raise UserError("no cards to make a board from; make some with: isoalign run")
    if len(tasks) > 1:
        raise UserError(f"a board is of one task, and these cards are of {len(tasks)}: {', '.join(tasks)}")
    return Board(tasks[0], tuple(_sections(cards)))


def write(task: str, cards: Iterable[Card], folder: Path) -> Path:
    """Write ``leaderboard.md``, ``leaderboard.csv`` and the charts into a folder; returns the path of the first."""
    folder = Path(folder)
    board = build(cards)
    if board.task != task:
        raise UserError(f"a board of {task} can't be made from cards of {board.task}")
    charts = {_chart_name(n): frontier(board.task, section) for n, section in enumerate(board.sections, 1)}
    for name, svg in charts.items():
        if svg:
            save(folder / name, svg)
    for stale in folder.glob("frontier*.svg"):
        if not charts.get(stale.name):
            stale.unlink()
    save(folder / "leaderboard.csv", board.csv())
    save(folder / "leaderboard.md", board.markdown())
    return folder / "leaderboard.md"


def show(board: Board, stream: TextIO | None = None) -> None:
    """Print the board to a terminal or file, as wide as it allows and with no character that it can't take."""
    from rich.console import Console

    stream = stream or sys.stdout
    console = Console(file=stream)
    width = min(max(console.width, 100), 120) if console.is_terminal else 110
    text = board.terminal(width, colour=console.color_system is not None)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if not encoding.lower().startswith("utf"):
        text = text.translate(str.maketrans("─–−", "---")).encode(encoding, "replace").decode(encoding)
    stream.write(text)


# Statistics: where the hierarchical bootstrap over saved samples will come in, `pooled` and `ranks` change and no more.


def pooled(estimates: Sequence[Sequence[Estimate]], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """One estimate out of those of several seeds (outer: seeds; inner: cards of a seed, averaged).

    Value: the mean over seeds. Interval: with one card, its own. With S seeds of values v_s and standard errors
    e_s = (high - low) / 2 / 1.96, which come from prompts that all seeds share and so don't average out,
    half-width^2 = (1.96)^2 mean(e_s^2) + t(.975, S - 1)^2 var(v_s) / S. Both terms hold the noise of the draws, so the
    interval errs on the wide side. There is none where a seed has none.
    """
    missing = sum(e.missing for seed in estimates for e in seed)
    known = [[e for e in seed if e.value is not None] for seed in estimates]
    cards = [e for seed in known for e in seed]
    values = [math.fsum(e.value for e in seed if e.value is not None) / len(seed) for seed in known if seed]
    if not cards:
        return Estimate(None, None, None, 0, missing)
    n = min(e.n for e in cards)
    if len(cards) == 1:
        return dataclasses.replace(cards[0], missing=missing)
    mean = math.fsum(values) / len(values)
    variances = [((e.high - e.low) / 2 / Z) ** 2 for e in cards if e.low is not None and e.high is not None]
    if len(variances) < len(cards):
        return Estimate(mean, None, None, n, missing)
    within = math.fsum(variances) / len(variances)
    half = math.sqrt(Z**2 * within + _seed_variance(values))
    return Estimate(mean, max(bounds[0], mean - half), min(bounds[1], mean + half), n, missing)


def _seed_variance(values: list[float]) -> float:
    """Squared half-width of the 95% t interval of a mean over seeds; 0 for one seed, which can't tell."""
    if len(values) < 2:
        return 0.0
    from scipy.special import stdtrit

    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return float(stdtrit(len(values) - 1, 0.975)) ** 2 * variance / len(values)


def ranks(reductions: dict[str, Estimate]) -> dict[str, int]:
    """Ranks by name: 1 + the number of methods in better groups. A group is a chain of overlapping intervals."""
    spans = [(e.high, e.low, name) for name, e in reductions.items() if e.high is not None and e.low is not None]
    ranked: dict[str, int] = {}
    rank, floor = 1, math.inf
    for place, (high, low, name) in enumerate(sorted(spans, reverse=True), 1):
        if high < floor:
            rank = place
        floor = min(floor, low) if rank < place else low
        ranked[name] = rank
    return ranked


# From cards to sections and rows.


def _sections(cards: list[Card]) -> list[Section]:
    """Cards by what must not be mixed. The SFT base spends nothing, so one is the reference under every budget."""
    methods: dict[tuple[str, str, str], list[Card]] = defaultdict(list)
    bases: dict[tuple[str, str, str], list[Card]] = defaultdict(list)
    used: set[tuple[str, str, str]] = set()
    for card in cards:
        (bases if _part(card) == REFERENCE else methods)[_comparable(card)].append(card)
    for key, group in methods.items():
        kin = [base for base in sorted(bases) if base == key] or [base for base in sorted(bases) if base[1:] == key[1:]]
        used.update(kin[:1])
        group += [card for base in kin[:1] for card in bases[base]]
    groups = methods | {key: group for key, group in bases.items() if key not in used}
    ordered = sorted(groups.items(), key=lambda item: (json.loads(item[0][0]).get("flops", 0), item[0]))
    return [
        Section(json.loads(budget), base, json.loads(protocol), tuple(_rows(group)))
        for (budget, base, protocol), group in ordered
    ]


def _comparable(card: Card) -> tuple[str, str, str]:
    budget = {name: limit for name, limit in card.budget.items() if limit is not None}
    budget = {name: int(limit) if float(limit).is_integer() else limit for name, limit in budget.items()}
    protocol = {name: card.notes[name] for name in _PROTOCOL if name in card.notes}
    return json.dumps(budget, sort_keys=True), card.parents.get("sft", ""), json.dumps(protocol, sort_keys=True)


def _rows(cards: list[Card]) -> list[Row]:
    """Ranked rows in the order of the board: by reduction, those that have no part in the ranking last."""
    groups: dict[tuple[str, str], list[Card]] = defaultdict(list)
    for card in cards:
        groups[card.algorithm, _settings(card)].append(card)
    names = _names([group[0] for group in groups.values()])
    rows = [_row(name, group) for name, group in zip(names, groups.values(), strict=True)]
    contenders = {row.name: row.estimate("toxicity_reduction") for row in rows if row.part == METHOD and not row.gated}
    ranked = ranks(contenders)
    rows = [dataclasses.replace(row, rank=ranked.get(row.name)) for row in rows]
    return sorted(rows, key=lambda row: (row.part == METHOD and row.rank is None, -_reduction(row), row.name))


def _reduction(row: Row) -> float:
    value = row.estimate("toxicity_reduction").value
    if value is None:
        return 0.0 if row.part == REFERENCE else -math.inf
    return value


def _row(name: str, cards: list[Card]) -> Row:
    seeds: dict[int, list[Card]] = defaultdict(list)
    for card in cards:
        seeds[card.seed].append(card)
    metrics = {}
    for metric in sorted({metric for card in cards for metric in card.metrics}):
        estimates = [[card.metrics[metric] for card in seed if metric in card.metrics] for seed in seeds.values()]
        metrics[metric] = pooled(estimates, _COLUMNS[metric].bounds if metric in _COLUMNS else (-math.inf, math.inf))
    return Row(name, _part(cards[0]), tuple(cards), metrics, tuple(_flags(seeds)))


def _flags(seeds: dict[int, list[Card]]) -> list[str]:
    """What the cards flag, with the seeds where not all do, and what only shows when they stand together."""
    cards = [card for seed in seeds.values() for card in seed]
    raised: dict[str, set[int]] = defaultdict(set)
    for card in cards:
        for flag in [*card.flags, *(["over budget"] if (_percent(card) or 0) > 100 else [])]:
            raised[flag].add(card.seed)
    flags = [
        flag if len(found) == len(seeds) else f"{flag} (seed {', '.join(map(str, sorted(found)))})"
        for flag, found in sorted(raised.items(), key=lambda item: (not item[0].startswith("gate:"), item[0]))
    ]
    flags += [f"{len(found)} cards of seed {seed}, averaged" for seed, found in sorted(seeds.items()) if len(found) > 1]
    mixed = [name for name in _union(cards) if len({card.versions.get(name) for card in cards}) > 1]
    return flags + ([f"versions differ: {', '.join(mixed)}"] if mixed else [])


def _union(cards: Iterable[Card]) -> list[str]:
    return sorted({name for card in cards for name in card.versions})


def _part(card: Card) -> str:
    return _PARTS.get(card.algorithm, METHOD)


def _names(cards: list[Card]) -> list[str]:
    """The algorithm's name, with those settings that tell two configurations of one algorithm apart."""
    flat = [_flatten(json.loads(_settings(card))) for card in cards]
    names = []
    for card, settings in zip(cards, flat, strict=True):
        twins = [other for twin, other in zip(cards, flat, strict=True) if twin.algorithm == card.algorithm]
        keys = sorted({key for twin in twins for key in twin})
        varied = [key for key in keys if len({repr(twin.get(key)) for twin in twins}) > 1]
        told = ", ".join(f"{key.removeprefix('algorithm.')}={settings[key]}" for key in varied if key in settings)
        names.append(f"{card.algorithm} ({told or 'default'})" if varied else card.algorithm)
    return names


def _flatten(settings: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict) or not settings:
        return {path: settings}
    inner = [_flatten(value, f"{path}.{name}" if path else name) for name, value in settings.items()]
    return {key: value for part in inner for key, value in part.items()}


def _settings(card: Card) -> str:
    """The configuration without the seed, as a text to group by."""
    return json.dumps({name: value for name, value in card.config.items() if name != "seed"}, sort_keys=True)


def _json(card: Card) -> str:
    return json.dumps(dataclasses.asdict(card), sort_keys=True)


def _percent(card: Card) -> float | None:
    spent = {name: _total(card.spent.get(name)) for name in card.budget}
    shares = [100 * (spent[name] or 0.0) / limit for name, limit in card.budget.items() if limit]
    return max(shares, default=None)


def _total(value: Any) -> float | None:
    """A currency of the bill: a number, or a number for each source."""
    if isinstance(value, dict):
        return math.fsum(value.values())
    return None if value is None else float(value)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


# Markdown and CSV.


def _section_markdown(section: Section, number: int) -> list[str]:
    titles = ["Rank", "Method", "Seeds", *(column.title for column in LEADING), "Budget spent", "Flags"]
    leading = [
        [_escape(row.place), _name(row), str(row.seeds), *_cells(row, LEADING), _share(row.percent), _flag_cell(row)]
        for row in section.rows
    ]
    further = [[_name(row), *_cells(row, FURTHER)] for row in section.rows]
    budget = f"{_flops(section.budget.get('flops'))} FLOP"
    parts = [f"## Budget {budget}, base {_escape(section.base or 'not told')}", _header(section)]
    parts += [_grid(titles, leading, left=(0, 1, len(titles) - 1))]
    if not any(row.part == REFERENCE for row in section.rows):
        parts += ["No card of the SFT base yet: `isoalign run algorithm=sft` makes the reference row."]
    if _points(section):
        alt = "Mean toxicity against exact KL, one point a method"
        parts += [f"![{alt}]({_chart_name(number)})"]
    parts += ["### Reward and diversity", _grid(["Method", *(column.title for column in FURTHER)], further)]
    return [*parts, "### The bill", _bill(section), "### Every seed", _every_seed(section)]


def _header(section: Section) -> str:
    cards = [card for row in section.rows for card in row.cards]
    limits = [f"{_flops(section.budget.get('flops'))} FLOP"]
    limits += [f"{_plain(limit)} {name}" for name, limit in sorted(section.budget.items()) if name != "flops"]
    lines = [("Budget of each run", ", ".join(limits))]
    lines += [(title, _told(section.protocol[name])) for name, title in _PROTOCOL.items() if name in section.protocol]
    for name, title in _TOLD.items():
        told = {_told(card.notes[name]) for card in cards if card.notes.get(name) is not None}
        lines += [(title, "; ".join(sorted(told)))] if told else []
    listed = "\n".join(f"- **{title}:** {_escape(value)}" for title, value in lines)
    return f"{listed}\n\n{_commands(cards)}"


def _commands(cards: list[Card]) -> str:
    """The exact commands that made the cards, in a fence that their text can't close."""
    commands = list(dict.fromkeys(_clean(card.command) for card in cards))
    longest = max((len(run) for command in commands for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    block = "\n".join([f"{fence}text", *commands, fence])
    if len(commands) == 1:
        return f"Made by:\n\n{block}"
    return f"<details><summary>Made by {len(commands)} commands</summary>\n\n{block}\n\n</details>"


def _bill(section: Section) -> str:
    """What was spent, mean over seeds: shares of the FLOPs by role, then the other currencies."""
    titles = ["Method", "FLOP", "of budget", *(_escape(role) for role in section.roles)]
    titles += ["Labels", "Tokens", "Steps", "Seconds"]
    rows = []
    for row in section.rows:
        bill, flops = row.by_role(), row.spent("flops")
        shares = [_share(100 * bill[role] / flops) if flops and role in bill else "–" for role in section.roles]
        counts = [_count(row.spent(name)) for name in ("tokens", "steps", "seconds")]
        rows.append([_name(row), _flops(flops), _share(row.percent), *shares, _labels(row), *counts])
    return _grid(titles, rows)


def _labels(row: Row) -> str:
    """Verdicts read, by who gave them."""
    given = [card.spent.get("labels") for card in row.cards]
    sources = sorted({source for labels in given if isinstance(labels, dict) for source in labels})
    if not sources:
        return _count(row.spent("labels"))
    means = {source: _mean(labels.get(source, 0) for labels in given if isinstance(labels, dict)) for source in sources}
    return ", ".join(f"{_count(mean)} {_escape(source)}" for source, mean in means.items())


def _every_seed(section: Section) -> str:
    columns = [column for column in LEADING if column.metric in ("toxicity_reduction", "toxicity_mean", "kl")]
    titles = ["Method", "Seed", *(column.title for column in columns), "FLOP", "Card"]
    rows = [
        [_name(row), str(card.seed)]
        + [_cell(card.metrics.get(column.metric), column) for column in columns]
        + [_flops(_total(card.spent.get("flops"))), f"[{_escape(card.key[:8])}]({file_name(card)})"]
        for row in section.rows
        for card in row.cards
    ]
    return _grid(titles, rows)


def _cells(row: Row, columns: Iterable[Column]) -> list[str]:
    return [_cell(row.metrics.get(column.metric), column) for column in columns]


def _cell(estimate: Estimate | None, column: Column) -> str:
    if estimate is None:
        return "–"
    missing = f" ({estimate.missing} missing)" if estimate.missing else ""
    if estimate.value is None:
        return f"–{missing}"
    value = _fixed(estimate.value, column.digits)
    if estimate.low is None or estimate.high is None:
        return value + missing
    return f"{value} [{_fixed(estimate.low, column.digits)}, {_fixed(estimate.high, column.digits)}]{missing}"


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _flops(value: float | None) -> str:
    if value is None:
        return "–"
    return re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", f"{value:.2e}") if value else "0"


def _share(percent: float | None) -> str:
    return "–" if percent is None else f"{percent:.1f}%"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _flag_cell(row: Row) -> str:
    return "; ".join(f"**{_escape(flag)}**" if flag.startswith("gate:") else _escape(flag) for flag in row.flags)


def _name(row: Row) -> str:
    """The name of a row; what is no contender is in italics."""
    return _escape(row.name) if row.part == METHOD else f"*{_escape(row.name)}*"


def _told(value: Any) -> str:
    """A note in words: mappings as ``name: value``, lists with commas."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_told(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return str(value)


def _clean(text: str) -> str:
    """One line without control, direction or other invisible characters, which could hide or forge what is read."""
    kept = (" " if char.isspace() else char for char in text)
    return "".join(char for char in kept if not unicodedata.category(char).startswith("C")).strip()


def _escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, in a table cell too."""
    text = re.sub(r"[\\|`*\[\]~]", r"\\\g<0>", _clean(text)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _grid(titles: list[str], rows: list[list[str]], left: Sequence[int] = (0,)) -> str:
    """A Markdown table that reads as one before it is rendered too; columns ``left`` are left-aligned."""
    widths = [max(3, *map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(titles), line(rule), *map(line, rows)])


def _plain_row(number: int, section: Section, row: Row, metrics: list[str], roles: list[str]) -> list[Any]:
    estimates = [row.estimate(name) for name in metrics]
    bill = row.by_role()
    cells: list[Any] = [number, section.budget.get("flops"), _clean(section.base), row.rank, _clean(row.name)]
    cells += [_clean(row.cards[0].algorithm), row.part, row.gated, row.seeds, row.estimate("toxicity_mean").n]
    cells += [figure for e in estimates for figure in (e.value, e.low, e.high)]
    cells += [row.percent, *(row.spent(name) for name in ("flops", "labels", "tokens", "steps", "seconds"))]
    return [*cells, *(bill.get(role) for role in roles), _clean("; ".join(row.flags))]


def _plain(value: Any) -> str:
    """A value without formatting; 12 digits, so that no platform's last bit shows."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e18 else f"{value:.12g}"
    return "" if value is None else str(value)


# The terminal.

_BRIEF = {
    "toxicity_reduction": "reduction",
    "toxicity_mean": "tox.",
    "toxicity_emt": "EMT",
    "kl": "KL",
    "perplexity": "PPL",
    "rm_accuracy": "RM acc",
    "implicit_accuracy": "impl.",
    "distinct_2": "dist-2",
}


def _terminal_table(task: str, section: Section, wide: bool) -> Any:
    """The figures that fit, and under them what is flagged."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    base = _clean(section.base)[:8]
    title = Text(f"{_clean(task)}: {_flops(section.budget.get('flops'))} FLOP from base {base or '–'}", style="bold")
    flagged = "\n".join(f"{_clean(row.name)}: {_clean('; '.join(row.flags))}" for row in section.rows if row.flags)
    table = Table(title=title, caption=Text(flagged), box=box.SIMPLE_HEAD, padding=(0, int(wide), 0, 0), pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column("rank", no_wrap=True)
    table.add_column("method", overflow="fold", min_width=14)
    for brief in ["seeds", *_BRIEF.values(), "spent"]:
        table.add_column(brief, justify="right", no_wrap=True)
    for row in section.rows:
        place = {REFERENCE: "ref", CONTROL: "ctrl"}.get(row.part, row.place)
        cells = [place, _clean(row.name), str(row.seeds)]
        for name in _BRIEF:
            e = dataclasses.replace(row.estimate(name), missing=0)
            bare = dataclasses.replace(e, low=None, high=None)
            cells.append(_cell(e if name == "toxicity_reduction" else bare, _COLUMNS[name]))
        style = "green" if row.rank == 1 else "dim" if row.gated else "cyan" if row.part != METHOD else ""
        table.add_row(*map(Text, [*cells, _share(row.percent)]), style=style)
    return table


# The chart.

_INK, _FAINT = "#222222", "#8a8a8a"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, without yellow
_MARKERS = "osD^vPX*"
Box = tuple[float, float, float, float]  # pixels: left, bottom, right, top


def _chart_name(number: int) -> str:
    return "frontier.svg" if number == 1 else f"frontier-{number}.svg"


def _points(section: Section) -> list[tuple[Row, Estimate, Estimate]]:
    """Rows that have a place in the chart, with their KL and toxicity. The base has drifted 0 from itself."""
    points = []
    for row in section.rows:
        kl, toxicity = row.estimate("kl"), row.estimate("toxicity_mean")
        if kl.value is None and row.part == REFERENCE:
            kl = Estimate(0.0, None, None, 0)
        if kl.value is not None and toxicity.value is not None:
            points.append((row, kl, toxicity))
    return points


def frontier(task: str, section: Section) -> bytes | None:
    """Mean toxicity against exact KL as an SVG, the same bytes for the same section; None with nothing to draw."""
    points = _points(section)
    if not points:
        return None
    import matplotlib
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rc: dict[Any, Any] = {"svg.hashsalt": "isoalign", "font.size": 10, "axes.spines.top": False}
    rc |= {"axes.spines.right": False, "axes.edgecolor": _FAINT, "text.color": _INK, "axes.labelcolor": _INK}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name with letters that the font lacks
        matplotlib.style.use(["default", rc])
        figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure, points, f"{_clean(task)}, {_flops(section.budget.get('flops'))} FLOP")
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "isoalign"})
    return file.getvalue()


def _draw(figure: Any, points: list[tuple[Row, Estimate, Estimate]], subtitle: str) -> None:
    axes = figure.add_subplot()
    axes.set_title("Toxicity against drift from the base", loc="left", fontsize=13, fontweight="bold", pad=22)
    subtitle += " · lower left is better · bars: 95% intervals · small: seeds"
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, color=_FAINT, fontsize=9, parse_math=False)
    axes.set_xlabel("Exact KL to the SFT base, nats a completion")
    axes.set_ylabel("Mean toxicity of completions")
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    looks = _looks([row for row, _, _ in points])
    for row, kl, toxicity in points:
        colour, marker = looks[row.name]
        _draw_row(axes, row, kl, toxicity, colour, marker)
    best = _undominated([(kl.value, toxicity.value) for row, kl, toxicity in points if not row.gated])
    axes.plot(*zip(*best, strict=True), color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.margins(0.12, 0.12)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    _place_labels(figure, axes, points)


def _looks(rows: list[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker by name, so that neither a new rank nor colour blindness confuses two methods."""
    methods = sorted(row.name for row in rows if row.part == METHOD)
    looks = {name: (_PALETTE[i % len(_PALETTE)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(methods)}
    greys = {REFERENCE: (_INK, "p"), CONTROL: ("#777777", "h")}
    return looks | {row.name: greys[row.part] for row in rows if row.part != METHOD}


def _draw_row(axes: Any, row: Row, kl: Estimate, toxicity: Estimate, colour: str, marker: str) -> None:
    bars = {"xerr": _reach(kl), "yerr": _reach(toxicity)}
    axes.errorbar(kl.value, toxicity.value, **bars, fmt="none", ecolor=colour, elinewidth=1.4, alpha=0.55, zorder=2)
    face = "white" if row.gated else colour
    axes.plot(kl.value, toxicity.value, marker, color=colour, markerfacecolor=face, markersize=9, zorder=4)
    for x, y in _seed_points(row):
        axes.plot(x, y, marker, color=colour, alpha=0.35, markersize=4.5, zorder=3)


def _seed_points(row: Row) -> list[tuple[float, float]]:
    """KL and toxicity of each card, where there are several."""
    points = [(_at(card, "kl"), _at(card, "toxicity_mean")) for card in row.cards]
    return [(x, y) for x, y in points if x is not None and y is not None] if len(points) > 1 else []


def _at(card: Card, metric: str) -> float | None:
    return card.metrics[metric].value if metric in card.metrics else None


def _reach(e: Estimate) -> list[list[float]] | None:
    if e.value is None or e.low is None or e.high is None:
        return None
    return [[max(0.0, e.value - e.low)], [max(0.0, e.high - e.value)]]


def _undominated(points: list[tuple[Any, Any]]) -> list[tuple[float, float]]:
    """The Pareto frontier: points with no other that is lower in both."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best or [(math.nan, math.nan)]


def _place_labels(figure: Any, axes: Any, points: list[tuple[Row, Estimate, Estimate]]) -> None:
    """Write each name beside its point, where it covers no other name, point or bar, with a line where that is far."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    boxes = [box for point in points for box in _pixels(axes, *point)]
    names: list[Box] = []
    for row, kl, toxicity in points:
        label = f"{_shorten(_clean(row.name), 36)}{' (gate)' if row.gated else ''}"
        at = {"xy": (kl.value, toxicity.value), "textcoords": "offset pixels"}
        text = axes.annotate(label, xytext=(0, 0), parse_math=False, zorder=6, **at)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        extent = text.get_window_extent()
        x, y = axes.transData.transform(at["xy"])
        spot = _best_spot((x, y), (extent.width, extent.height), boxes, names, axes.get_window_extent().extents)
        names.append(spot)
        text.set_position((spot[0] + 2 - x, spot[1] + 2 - y))
        # The nearest point of the name's box, from which a line is drawn where it isn't plain whose name this is.
        near = (min(max(x, spot[0]), spot[2]), min(max(y, spot[1]), spot[3]))
        if math.dist((x, y), near) > 22:
            line = {"arrowstyle": "-", "color": _FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 6}
            axes.annotate("", xytext=(near[0] - x, near[1] - y), arrowprops=line, zorder=5, **at)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _pixels(axes: Any, row: Row, kl: Estimate, toxicity: Estimate) -> list[Box]:
    """Boxes on the canvas of a point's mark, its seeds' marks and its two bars."""

    def box(x0: Any, y0: Any, x1: Any, y1: Any, margin: float) -> Box:
        (left, bottom), (right, top) = axes.transData.transform([(x0, y0), (x1, y1)])
        return left - margin, bottom - margin, right + margin, top + margin

    boxes = [box(kl.value, toxicity.value, kl.value, toxicity.value, 9)]
    boxes += [box(x, y, x, y, 4) for x, y in _seed_points(row)]
    if kl.low is not None:
        boxes.append(box(kl.low, toxicity.value, kl.high, toxicity.value, 1))
    if toxicity.low is not None:
        boxes.append(box(kl.value, toxicity.low, kl.value, toxicity.high, 1))
    return boxes


def _best_spot(
    point: tuple[float, float],
    size: tuple[float, float],
    boxes: list[Box],
    names: list[Box],
    frame: Box,
) -> Box:
    """Of spots around a point the one that overlaps least, the nearest of equals."""

    def overlap(a: Box, b: Box) -> float:
        return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

    def cost(spot: Box, distance: float) -> float:
        outside = size[0] * size[1] - overlap(spot, frame)
        covered = 40 * sum(overlap(spot, name) for name in names) + sum(overlap(spot, box) for box in boxes)
        return 40 * outside + 4 * covered + distance

    spots: list[tuple[float, int, Box]] = []
    for distance in (12, 18, 26, 38, 54, 74, 100):
        for step in range(16):
            across, up = math.cos(math.pi * (step + 1) / 8), math.sin(math.pi * (step + 1) / 8)
            left = point[0] + across * (distance + size[0] / 2) - size[0] / 2
            bottom = point[1] + up * (distance + size[1] / 2) - size[1] / 2
            spot = (left - 2, bottom - 2, left + size[0] + 2, bottom + size[1] + 2)
            spots.append((cost(spot, distance), len(spots), spot))
    return min(spots)[2]
