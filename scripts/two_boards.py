"""Hold a board against one of the same methods with the same settings that another machine made: with a base, pairs and a
reward model of its own, whose chance no interval of a board covers.

    git worktree add ../before COMMIT
    .venv/bin/python scripts/two_boards.py ../before/results/published/nano results/published/nano
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from isoalign import stats
from isoalign.evaluation.card import read_cards
from isoalign.report.board.ranking import seeds_of
from isoalign.report.board.rows import METHOD, REFERENCE, Row, settings_of
from isoalign.report.board.sections import Section
from isoalign.report.leaderboard import build_board

LEVEL = 0.05
AT = (1.0, 2.0, 4.0)  # nats


@dataclass(frozen=True)
class Two:
    """Two boards of one section each, and the methods that both have with the same settings and prompts."""

    first: Section
    second: Section

    @property
    def methods(self) -> list[str]:
        """Methods of both boards, in the order of the second."""
        before, now = self.rows
        return [name for name, row in now.items() if row.part == METHOD and name in before and _alike(before[name], row)]

    @property
    def rows(self) -> tuple[dict[str, Row], dict[str, Row]]:
        """The rows of both by name."""
        return {row.name: row for row in self.first.rows}, {row.name: row for row in self.second.rows}

    def gains(self) -> tuple[np.ndarray, np.ndarray]:
        """The gains of the methods at the end of the budget, on each board."""
        first, second = ([float(rows[name].estimate(self.goal).value or 0.0) for name in self.methods] for rows in self.rows)
        return np.array(first), np.array(second)

    @property
    def goal(self) -> str:
        """The gain that ranks."""
        return self.first.objective.gain

    def differ(self) -> list[str]:
        """Methods whose gains differ at `LEVEL`, each looked at alone: one in twenty of them would by chance, if base, pairs
        and reward model made none."""
        found = {name: tuple(map(self._by_prompt, (self.first, self.second), (name, name))) for name in self.methods}
        pairs = {name: stats.compare({"first": a, "second": b})["first", "second"].p for name, (a, b) in found.items()}
        return [name for name, p in pairs.items() if p is not None and p < LEVEL]

    def _by_prompt(self, section: Section, name: str) -> list[dict[str, float | None]]:
        """A method's gain by prompt for each seed."""
        level = section.objective.level
        cards = {row.name: row.cards for row in section.rows}
        (reference,) = (row.name for row in section.rows if row.part == REFERENCE)
        (base,), seeds = seeds_of(cards[reference], level) or [{}], seeds_of(cards[name], level) or []
        sign = 1 if section.objective.higher_is_better else -1
        return [{prompt: _times(sign, seed[prompt], base[prompt]) for prompt in seed} for seed in seeds]

    def told_apart(self) -> tuple[int, int, int, int]:
        """Pairs told apart on the first board, on the second, on both, and on both in another order."""
        signs = [_signs(section, self.methods) for section in (self.first, self.second)]
        both = signs[0].keys() & signs[1].keys()
        return len(signs[0]), len(signs[1]), len(both), sum(signs[0][pair] != signs[1][pair] for pair in both)

    def at(self, kl: float) -> tuple[np.ndarray, np.ndarray]:
        """Gains at a KL of the methods for which both boards know them."""
        first, second = (
            {name: one.gain.value for name, one in section.equal_kl.get(kl, {}).items() if one.gain.value is not None}
            for section in (self.first, self.second)
        )
        names = [name for name in self.methods if name in first and name in second]
        return np.array([first[name] for name in names]), np.array([second[name] for name in names])


def _alike(first: Row, second: Row) -> bool:
    return settings_of(first.cards[0]) == settings_of(second.cards[0])


def _times(sign: int, level: float | None, base: float | None) -> float | None:
    return None if level is None or base is None else sign * (level - base)


def _signs(section: Section, names: list[str]) -> Mapping[frozenset[str], str]:
    """The better one of each pair that is told apart."""
    pairs = section.ranking.pairs.items()
    known = {pair: c for pair, c in pairs if c.resolved and pair[0] in names and pair[1] in names}
    return {frozenset(pair): pair[0] if (c.value or 0.0) > 0 else pair[1] for pair, c in known.items()}


def lines(two: Two) -> list[str]:
    """What the two have in common, a line each."""
    first, second, both, turned = two.told_apart()
    differ = two.differ()
    return [
        f"bases: {_base(two.first):.3f} and {_base(two.second):.3f}",
        f"at the end, {_agreement(*two.gains())}",
        f"{len(differ)} gains differ at p < {LEVEL}, each looked at alone: {', '.join(differ) or 'none'}",
        f"pairs told apart: {first} and {second}, {both} of them on both boards, {turned} in another order",
        *(f"at {kl:g} nats, {_agreement(*two.at(kl))}" for kl in AT),
    ]


def _base(section: Section) -> float:
    """The level of the base."""
    (reference,) = (row for row in section.rows if row.part == REFERENCE)
    return reference.estimate(section.objective.level).value or 0.0


def _agreement(a: np.ndarray, b: np.ndarray) -> str:
    """How far gains of the same methods differ, and whether their order does."""
    if len(a) < 2:
        return f"{len(a)} methods"
    apart = abs(a - b)
    told = f"{len(a)} methods: gains differ by {np.median(apart):.3f} (median; at most {apart.max():.3f})"
    return f"{told}, rank correlation {spearmanr(a, b).statistic:.2f}"


def read(folder: Path) -> Section:
    """The only section of a folder's board. Raises SystemExit if it has several."""
    sections = build_board(read_cards(folder)).sections
    if len(sections) > 1:
        raise SystemExit(f"{folder}: {len(sections)} sections; give a folder of one budget and base")
    return sections[0]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print("\n".join(lines(Two(*(read(Path(folder)) for folder in sys.argv[1:])))))
