"""What is run for the findings, and how two of them are compared at equal KL."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from isoalign import stats
from isoalign.core.records import Card, Estimate
from isoalign.evaluation import card as cards
from isoalign.report.publish import write_published
from isoalign.stats import curves, equal_kl
from isoalign.stats.comparisons import Comparison

FOLDER, PUBLISHED = Path("results/findings"), Path("results/published/nano")
FRESH = Path("results/local/findings")  # cards of full size
SEEDS = (0, 1, 2)
MARGIN = 0.2  # two methods are about equal if they differ by less than this share of the effect
LONG = "budget.flops=1.35e13"  # three times the default
RUNS: dict[str, tuple[str, ...]] = {  # beside the published board; the rest is that of the board, tuned settings included
    "ppo_free": ("algorithm=ppo", "algorithm.kl=0.0"),
    "ppo_dear": ("algorithm=ppo", "algorithm.kl=0.2"),
    "ppo_free_long": ("algorithm=ppo", "algorithm.kl=0.0", LONG),
    "ppo_noisy": ("algorithm=ppo", "task.feedback.noise=0.35"),
    "dpo_long": ("algorithm=dpo", "algorithm.beta=0.02", LONG),
    "ipo_long": ("algorithm=ipo", "algorithm.beta=0.02", LONG),
    "slic_long": ("algorithm=slic", LONG),
    "grpo_2": ("algorithm=grpo", "algorithm.draws=2"),
    "grpo_16": ("algorithm=grpo", "algorithm.draws=16"),
    "open_sft": ("algorithm=sft", "task=nano_open"),
    "open_ppo": ("algorithm=ppo", "algorithm.kl=0.0", "task=nano_open"),
}


def run(names: Sequence[str]) -> None:
    """Run what the store lacks, two processes beside one another; each arm has a folder of its own."""
    for name in names:
        once = "algorithm=sft" in RUNS[name]
        for old in (FOLDER, FRESH):  # of other code; the store has the work
            shutil.rmtree(old / name, ignore_errors=True)
        spread = (
            [] if once else ["-m", f"seed={','.join(map(str, SEEDS))}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        )
        words = [*RUNS[name], "threads=1", "tracking=off", f"results={FRESH / name}"]
        subprocess.run([str(Path(sys.executable).parent / "isoalign"), "run", *spread, *words], check=True)
        made = cards.read_cards(FRESH / name / _task(name))
        write_published({FOLDER / name / _task(name) / cards.file_name(card): card for card in made})


@dataclass(frozen=True)
class Gap:
    """First minus second in gain, at the ``kl`` at which both are read; ``effect``: the gain of the second there. Without a
    common place ``why`` says so, and all else is None."""

    kl: float | None = None
    difference: Comparison | None = None
    effect: Estimate | None = None
    why: str = ""

    @property
    def above(self) -> bool | None:
        """Whether the first gains more, None if the interval holds 0."""
        if self.difference is None or self.difference.low is None or self.difference.high is None:
            return None
        return True if self.difference.low > 0 else False if self.difference.high < 0 else None

    @property
    def equal(self) -> bool | None:
        """Whether the whole interval lies within `MARGIN` of the effect; False if it lies outside, None if it does neither."""
        d, effect = self.difference, self.effect
        if d is None or d.low is None or d.high is None or effect is None or not effect.value:
            return None
        most = MARGIN * abs(effect.value)
        return True if -most < d.low and d.high < most else False if d.low > most or d.high < -most else None

    def __str__(self) -> str:
        if self.difference is None or self.effect is None:
            return self.why
        return f"{show(self.difference)} at {self.kl:g} nats, where the second gains {show(self.effect)}"


class Bench:
    """The cards of all arms: those of `RUNS`, and the methods of the published board."""

    @cached_property
    def published(self) -> Mapping[str, list[Card]]:
        """Published cards by method."""
        found: dict[str, list[Card]] = {}
        for card in cards.read_cards(PUBLISHED):
            found.setdefault(card.algorithm, []).append(card)
        return found

    def cards_of(self, name: str) -> list[Card]:
        """The cards of an arm by seed. Raises SystemExit if a run is missing."""
        found = cards.read_cards(FOLDER / name / _task(name)) if name in RUNS else self.published.get(name, [])
        wanted, seeds = 1 if name.endswith("sft") else len(SEEDS), {card.seed for card in found}
        if len(seeds) < wanted:
            raise SystemExit(f"{name}: {len(seeds)} of {wanted} seeds; omit --judge, or make the published board first")
        if len(found) > len(seeds):
            raise SystemExit(f"{name}: several cards of one seed; keep those of one commit")
        return sorted(found, key=lambda card: card.seed)[: None if wanted > 1 else 1]

    def gap(self, first: str, second: str) -> Gap:
        """Two arms of one base at the largest KL, of the grid that boards use, at which both are read."""
        both = {name: self.cards_of(name) for name in (first, second)}
        if len({card.parents.get("sft") for own in both.values() for card in own}) > 1:
            raise SystemExit(
                f"{first} and {second} have different bases; make the published board and the findings at one commit"
            )
        found = curves.collect(both)
        for kl in reversed(equal_kl.GRID):
            readings = {name: at for name, each in found.items() if (at := _gain_at(each, kl)) is not None}
            if len(readings) == 2:
                return Gap(kl, equal_kl.difference(readings, first, second), readings[second].estimate())
        return Gap(why=f"{first} and {second} have no KL of {', '.join(f'{kl:g}' for kl in equal_kl.GRID)} nats in common")


def _task(name: str) -> str:
    return next((word.removeprefix("task=") for word in RUNS[name] if word.startswith("task=")), "nano")


def _gain_at(curve: curves.Curves, kl: float) -> equal_kl.Reading | None:
    return equal_kl.read_curves(curve, lambda d, score: equal_kl.read_off(d, score, kl), gain=True)


def difference(first: Sequence[Card], second: Sequence[Card], metric: str) -> Estimate:
    """First minus second in a metric, paired by prompt, interval over seeds and prompts."""
    return stats.hierarchical([card.values[metric] for card in first], [card.values[metric] for card in second])


def show(e: Estimate | Comparison, digits: int = 3) -> str:
    """A value with its interval."""
    if e.value is None or e.low is None or e.high is None:
        return "missing"
    return f"{e.value:+.{digits}f} [{e.low:+.{digits}f}, {e.high:+.{digits}f}]"


def sign(e: Estimate | Comparison) -> int:
    """-1 or 1 if the interval excludes 0, else 0."""
    if e.low is None or e.high is None:
        return 0
    return 1 if e.low > 0 else -1 if e.high < 0 else 0
