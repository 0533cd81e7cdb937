"""What a board takes by its number of rows, and intervals by their number of prompts: CPU time and memory.

    python scripts/benchmarks/boards.py [--rows 61 334] [--prompts 256 2560 12500] [--repeats 3]

The first board is the published one. The others are of made-up cards, three seeds a row: each row's values are those of two
published rows, taken prompt by prompt from one or the other, so that some rows differ much and others hardly. Every figure is
the median of some processes of one thread each. It takes about five minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from isoalign import stats
from isoalign.core.display import grid
from isoalign.core.records import Card, Estimate, Point, PromptValues
from isoalign.evaluation.card import read_cards, sealed, write_card
from isoalign.report.board.rows import METHOD, part_of, settings_of
from isoalign.report.leaderboard import build_board, print_board
from isoalign.stats.length_control import length_controlled

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "nano"
ROWS, PROMPTS = (61, 334), (256, 2560, 12_500)
SEEDS, DRAWS, CALLS = 3, 8, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="boards of made-up cards")
    parser.add_argument("--prompts", type=int, nargs="*", default=PROMPTS, help="intervals over prompts of 8 draws")
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="a folder of cards to begin with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, what = arguments.one
        print(json.dumps(board(Path(what)) if kind == "board" else intervals(int(what))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folders = {}
        for rows in arguments.rows:
            folders[rows] = Path(temporary) / str(rows)
            make_cards(read_cards(arguments.published), folders[rows], rows)
        boards: dict[str, Path] = {"published": arguments.published} | {str(rows): each for rows, each in folders.items()}
        measured = {name: repeated("board", folder, arguments.repeats) for name, folder in boards.items()}
    parts = ["cards", "read", "build", "pages", "charts", "all"]
    table = [
        [name, f"{found['cards']:.0f}", *(f"{found[part]:.1f}" for part in parts[1:]), f"{found['peak']:.0f}"]
        for name, found in measured.items()
    ]
    print(grid(["rows", *(f"{part} (s)" if part != "cards" else part for part in parts), "peak (MB)"], table), "\n")
    each = {prompts: repeated("intervals", prompts, arguments.repeats) for prompts in arguments.prompts}
    names = ["mean", "ratio", "hierarchical", "length"]
    table = [[f"{n:,}", *(f"{one[name]:.1f}" for name in names), f"{one['peak']:.0f}"] for n, one in each.items()]
    print(grid(["prompts", "mean (µs a prompt)", "ratio", "mean of 3 seeds", "length-controlled", "peak (MB)"], table))


def repeated(kind: str, what: object, repeats: int) -> dict[str, float]:
    """Medians of what a process of its own finds."""
    command = [sys.executable, __file__, "--one", kind, str(what)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(repeats):
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        found.append(json.loads(told))
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def board(folder: Path) -> dict[str, float]:
    """CPU seconds to read the cards of a folder, to build, print and draw their board, and the peak of memory in MB."""
    found: dict[str, float] = {}
    with timed(found, "read"):
        cards = read_cards(folder)
    with timed(found, "build"):
        made = build_board(cards)
    with open(os.devnull, "w") as nowhere:
        with timed(found, "charts"):
            made.charts()
        with timed(found, "pages"):
            print_board(made, nowhere)
            made.csv()
            made.markdown()
    return found | {"cards": len(cards), "all": time.process_time(), "peak": peak()}


def intervals(prompts: int) -> dict[str, float]:
    """CPU microseconds a prompt of a statistic over prompts of 8 draws (of 3 seeds for the hierarchical one), the median of
    some calls after the first, and the peak of memory in MB."""
    rng = np.random.default_rng(0)
    values = {f"p{i:06d}": row for i, row in enumerate(rng.gamma(0.3, size=(prompts, DRAWS)).tolist())}
    lengths = {prompt: [1.0 + len(row)] * len(row) for prompt, row in values.items()}
    seeds = [dict(zip(values, rng.gamma(0.3, size=prompts).tolist(), strict=True)) for _ in range(SEEDS)]
    wins, differences = rng.integers(0, 2, prompts).astype(float).tolist(), rng.integers(-20, 20, prompts).tolist()
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "mean": (lambda: stats.mean(values), CALLS),
        "ratio": (lambda: stats.ratio(values, lengths), CALLS),
        "hierarchical": (lambda: stats.hierarchical(seeds), CALLS),
        "length": (lambda: length_controlled(wins, differences, list(values)), 1),
    }
    found: dict[str, float] = {}
    for name, (call, times) in calls.items():
        call()
        spent = []
        for _ in range(times):
            start = time.process_time()
            call()
            spent.append(time.process_time() - start)
        found[name] = statistics.median(spent) / prompts * 1e6
    return found | {"peak": peak()}


@contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    found[name] = time.process_time() - start


def peak() -> float:
    """Peak resident memory of this process so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def make_cards(published: list[Card], folder: Path, rows: int) -> None:
    """Write cards of made-up rows into a folder: the reference and control as they are, and methods of mixed values."""
    methods: dict[tuple[str, str], dict[int, Card]] = defaultdict(dict)
    for card in published:
        if part_of(card) == METHOD:
            methods[card.algorithm, settings_of(card)][card.seed] = card
        else:
            write_card(card, folder)
    whole = [dict(sorted(seeds.items())[:SEEDS]) for seeds in methods.values() if len(seeds) >= SEEDS]
    others = len({(card.algorithm, settings_of(card)) for card in published if part_of(card) != METHOD})
    for number in range(rows - others):
        first, second = whole[number % len(whole)], whole[number * 7 // len(whole) % len(whole)]
        for seed, card in first.items():
            write_card(sealed(mixed(card, second[seed], number)), folder)


def mixed(card: Card, other: Card, number: int) -> Card:
    """A card under a setting of its own, with values of two, prompt by prompt one's or the other's."""
    share = number % 11 / 10
    config = card.config | {"algorithm": card.config["algorithm"] | {"made_up": number}}
    values = blend(card.values, other.values, share, number)
    metrics = {name: moved(estimate, card.values.get(name), values.get(name)) for name, estimate in card.metrics.items()}
    curve = [
        Point(p.fraction, p.flops, p.steps, p.metrics, blend(p.values, o.values, share, number))
        for p, o in zip(card.curve, other.curve, strict=False)
    ]
    key = f"{zlib.crc32(f'{number} {card.key}'.encode()):08x}" * 2
    return replace(card, key=key, config=config, values=values, metrics=metrics, curve=curve, seals={})


def blend(own: PromptValues, others: PromptValues, share: float, number: int) -> PromptValues:
    """Values by prompt, of which a share is the other's, the same prompts for all metrics and seeds."""

    def of(name: str, column: Mapping[str, float | None]) -> dict[str, float | None]:
        other = others.get(name, column)
        taken = {p for p in column if zlib.crc32(f"{number} {p}".encode()) % 1000 < 1000 * share}
        return {p: other.get(p, value) if p in taken else value for p, value in column.items()}

    return {name: of(name, column) for name, column in own.items()}


def moved(e: Estimate, old: Mapping[str, float | None] | None, new: Mapping[str, float | None] | None) -> Estimate:
    """The estimate, moved as far as the mean of its values by prompt."""
    if not old or not new or e.value is None:
        return e
    by = mean(new) - mean(old)
    return replace(
        e, value=e.value + by, low=None if e.low is None else e.low + by, high=None if e.high is None else e.high + by
    )


def mean(values: Mapping[str, float | None]) -> float:
    known = [value for value in values.values() if value is not None]
    return sum(known) / len(known) if known else 0.0


if __name__ == "__main__":
    main()
