"""What is run for the findings, and how two of them are compared at equal KL."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from isoalign import stats
from isoalign.core.records import Card, Estimate
from isoalign.evaluation import card as cards
from isoalign.evaluation import tracks
from isoalign.report.board.rows import DRIFT, newest_versions, outdated_families, settings_of, stage_identity
from isoalign.report.publish import write_published
from isoalign.stats import curves, drift, equal_kl
from isoalign.stats.pairs import Comparison

FOLDER = Path("results/findings")
PUBLISHED = Path("results/published/nano")
FRESH = Path("results/local/findings")  # cards of full size
SEEDS = (0, 1, 2)
MARGIN = 0.2  # two methods are about equal if they differ by less than this share of the effect
LONG = "budget.flops=1.35e13"  # three times the default
DEFAULT = "tuned=default"  # whatever tuning chose: arms that are compared differ in what is named here, and in nothing else
PPO, GRPO = ("algorithm=ppo", DEFAULT), ("algorithm=grpo", DEFAULT)
FREE = "algorithm.kl=0.0"
RUNS: dict[str, tuple[str, ...]] = {  # beside the published board; the rest is that of the board, tuned settings included
    "ppo_default": PPO,
    "ppo_free": (*PPO, FREE),
    "ppo_dear": (*PPO, "algorithm.kl=0.2"),
    "ppo_free_long": (*PPO, FREE, LONG),
    "ppo_noisy": ("algorithm=ppo", "task.feedback.noise=0.35"),  # against the board's PPO, so with its settings
    "dpo_long": ("algorithm=dpo", DEFAULT, "algorithm.beta=0.02", LONG),
    "ipo_long": ("algorithm=ipo", DEFAULT, "algorithm.beta=0.02", LONG),
    "slic_long": ("algorithm=slic", DEFAULT, LONG),
    "grpo_2": (*GRPO, "algorithm.draws=2"),  # rollouts a step stay, so prompts are 32 and 4
    "grpo_16": (*GRPO, "algorithm.draws=16"),
    "open_sft": ("algorithm=sft", "task=nano_open"),
    "open_ppo": (*PPO, FREE, "task=nano_open"),
}


def run(names: Sequence[str]) -> None:
    """Run what the store lacks, always two processes beside one another; each arm has a folder of its own."""
    for name in names:
        for old in (FOLDER, FRESH):  # of other code; the store has the work
            shutil.rmtree(old / name, ignore_errors=True)
    jobs = [(name, seed) for name in names for seed in (SEEDS[:1] if "algorithm=sft" in RUNS[name] else SEEDS)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: _run(*job), jobs))
    for name in names:
        made = cards.read_cards(FRESH / name / _task(name))
        write_published({FOLDER / name / _task(name) / cards.file_name(card): card for card in made})


def _run(name: str, seed: int) -> None:
    words = [*RUNS[name], f"seed={seed}", "threads=1", "tracking=off", f"results={FRESH / name}"]
    subprocess.run([str(Path(sys.executable).parent / "isoalign"), "run", *words], check=True)


@dataclass(frozen=True)
class Gap:
    """First minus second in gain, at the ``kl`` at which both are read; ``effect``: what the second gains there above the
    control ``beyond`` for drift that leaves least, None where none is known; ``unknown``: controls that are not known there.
    If they can't be compared ``why`` says so, and all else is None."""

    kl: float | None = None
    difference: Comparison | None = None
    effect: Estimate | Comparison | None = None
    beyond: str = ""
    unknown: tuple[str, ...] = ()
    why: str = ""

    @property
    def margin(self) -> float | None:
        """What counts as equal: `MARGIN` of the effect above drift. None unless that is known, and above 0, clear of it."""
        effect = self.effect
        return None if effect is None or effect.value is None or sign(effect) < 1 else MARGIN * effect.value

    @property
    def above(self) -> bool | None:
        """Whether the first gains more, None if the interval holds 0."""
        return None if self.difference is None else {1: True, -1: False}.get(sign(self.difference))

    @property
    def equal(self) -> bool | None:
        """Whether the whole interval lies within the margin; False if it lies outside, None if it does neither."""
        d, most = self.difference, self.margin
        if d is None or d.low is None or d.high is None or most is None:
            return None
        return True if -most < d.low and d.high < most else False if d.low > most or d.high < -most else None

    @property
    def worse(self) -> bool:
        """Whether the first gains less by more than the margin, as a control of equality must."""
        return self.equal is False and self.above is False

    def __str__(self) -> str:
        if self.difference is None:
            return self.why
        lacking = f"{' and '.join(self.unknown)} not known" if self.unknown else ""
        told = f"{show(self.difference)} at {self.kl:g} nats, where "
        if self.effect is None:
            return f"{told}what is drift is not known"
        return f"{told}the second gains {show(self.effect)} above {self.beyond}" + (f" ({lacking})" if lacking else "")


class Bench:
    """The cards of all arms: those of `RUNS`, and the methods of the published board."""

    @cached_property
    def published(self) -> Mapping[str, list[Card]]:
        """Published cards by method."""
        found: dict[str, list[Card]] = {}
        for card in cards.read_cards(PUBLISHED):
            found.setdefault(card.algorithm, []).append(card)
        return found

    def found(self, name: str) -> list[Card]:
        """The cards of an arm as they are, maybe none. Raises SystemExit if they were not run as `RUNS` says."""
        if name not in RUNS:
            return self.published.get(name, [])
        found = cards.read_cards(FOLDER / name / _task(name))
        if other := next((word for card in found for word in RUNS[name] if not _has(card, word)), None):
            raise SystemExit(f"{name}: a card that was not run with {other}; omit --judge, so that it is made anew")
        return found

    def cards_of(self, name: str) -> list[Card]:
        """The cards of an arm by seed. Raises SystemExit if a run is missing, or if they differ in more than the seed."""
        found = self.found(name)
        wanted, seeds = 1 if name.endswith("sft") else len(SEEDS), {card.seed for card in found}
        if len(seeds) < wanted:
            raise SystemExit(f"{name}: {len(seeds)} of {wanted} seeds; omit --judge, or make the published board first")
        if len(found) > len(seeds):
            raise SystemExit(f"{name}: several cards of one seed; keep those of one commit")
        if len({settings_of(card) for card in found}) > 1:
            raise SystemExit(f"{name}: seeds of different settings; keep those of one configuration")
        kept = sorted(found, key=lambda card: card.seed)[: None if wanted > 1 else 1]
        _check_alike(kept, name)
        return kept

    def alike(self, *names: str) -> dict[str, list[Card]]:
        """The cards of arms that are to be compared. Raises SystemExit if they can't be: see `_check_alike`."""
        both = {name: self.cards_of(name) for name in names}
        _check_alike([card for own in both.values() for card in own], ", ".join(names))
        return both

    def check_settings(self, names: Sequence[str], *apart: str) -> None:
        """Raises SystemExit unless arms of one algorithm have the same settings of it, apart from some."""
        settings = [card.config["algorithm"] for name in names for card in self.cards_of(name)]
        keys = {key for each in settings for key in each} - {*apart}
        if differ := sorted(key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)):
            raise SystemExit(f"{', '.join(names)}: different {', '.join(differ)}; make them at one commit")

    @property
    def controls(self) -> dict[str, dict[str, list[Card]]]:
        """The controls for drift of the published board, by draw; as on a board, whatever their text at the end."""
        drawn: dict[str, dict[str, list[Card]]] = {name: defaultdict(list) for name in DRIFT}
        for name, setting in DRIFT.items():
            for card in self.found(name):
                drawn[name][str(card.config["algorithm"].get(setting))].append(card)
        return drawn

    def gap(self, first: str, second: str) -> Gap:
        """The gap of two arms; see `gaps`."""
        return self.gaps([first], second)[first]

    def gaps(self, firsts: Sequence[str], second: str) -> dict[str, Gap]:
        """Arms against a second at the largest KL, of the grid that boards use, at which all are read that fail no gate."""
        arms = self.alike(*firsts, second)
        controls = self.controls
        drifted = {f"{name} {draw}": own for name, draws in controls.items() for draw, own in draws.items()}
        _check_alike(
            [card for own in (arms | drifted).values() for card in own], f"{', '.join(arms)} and the controls for drift"
        )
        failed = {name: gates for name, own in arms.items() if (gates := failed_gates(own))}
        out = {
            first: Gap(why=f"not shown: {name} fails gate {failed[name]}")
            for first in firsts for name in (first, second) if name in failed
        }  # fmt: skip
        left = [name for name in (*firsts, second) if name not in out]
        if len(left) < 2:
            return out
        found = curves.collect({name: arms[name] for name in left} | drifted)
        draws = {
            name: {draw: found[f"{name} {draw}"] for draw in own if f"{name} {draw}" in found}
            for name, own in controls.items()
        }
        for kl in reversed(equal_kl.GRID):
            readings = {name: at for name in left if name in found and (at := _gain_at(found[name], kl)) is not None}
            if len(readings) == len(left):
                effect = _above_drift(readings[second], draws, kl)
                return out | {
                    name: Gap(kl, equal_kl.difference(readings, name, second), *effect) for name in left if name != second
                }
        why = f"not shown: {', '.join(left)} have no KL of {', '.join(f'{kl:g}' for kl in equal_kl.GRID)} nats in common"
        return out | {name: Gap(why=why) for name in left if name != second}


def _check_alike(found: Sequence[Card], names: str) -> None:
    """Raises SystemExit unless all cards are of one base and budget, scored in one way."""
    newest = newest_versions(found)
    differ = {
        "bases": len({stage_identity(card, "sft") for card in found}) > 1,
        "budgets": len({card.budget.get("flops") for card in found}) > 1,
        "versions of metrics": any(outdated_families(card, newest) for card in found),
    }
    if wrong := [what for what, so in differ.items() if so]:
        raise SystemExit(f"{names}: different {' and '.join(wrong)}; make the published board and the findings at one commit")


def _has(card: Card, word: str) -> bool:
    """Whether a card is of a run with a setting, as on the command line."""
    key, value = word.split("=")
    if key in ("task", "algorithm"):
        return bool(getattr(card, key) == value)
    if key == "tuned":
        return (tracks.track(card) == tracks.TUNED) != (word == DEFAULT)
    found: Any = card.config | {"budget": card.budget}
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found is not None and float(found) == float(value)


def _task(name: str) -> str:
    return next((word.removeprefix("task=") for word in RUNS[name] if word.startswith("task=")), "nano")


def _gain_at(curve: curves.Curves, kl: float) -> equal_kl.Reading | None:
    return equal_kl.read_curves(curve, lambda d, score: equal_kl.read_off(d, score, kl), gain=True)


def _above_drift(
    gain: equal_kl.Reading, controls: Mapping[str, drift.Draws], kl: float
) -> tuple[Comparison | None, str, tuple[str, ...]]:
    """What of a gain is above the control for drift that leaves least, which that is, and which are not known there."""
    above = {
        name: equal_kl.difference({"gain": gain, "drift": drifted}, "gain", "drift")
        for name, draws in controls.items()
        if (drifted := drift.drift_at(draws, kl)) is not None
    }
    unknown = tuple(name for name in controls if name not in above)
    if not above:
        return None, "", unknown
    name, least = drift.least_beyond(above)
    return least, name, unknown


def failed_gates(found: Sequence[Card]) -> str:
    """The gates that cards fail, in words; empty if they fail none. One seed that fails is enough, as on a board."""
    return ", ".join(sorted({flag.text for card in found for flag in card.flags if flag.kind == "gate"}))


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
