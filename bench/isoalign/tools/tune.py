"""Equal tuning: each method gets the same number of trials over its declared search space, on validation prompts, and the
same rule chooses among them.

The space of a method is ``conf/sweep/<name>.yaml``, choices in Hydra's grammar, so `isoalign run -m +sweep=<name>` walks all
of it; here a scrambled Halton sequence picks as many points as every other method gets. A trial is an `isoalign run` like any
other, one thread each, so what the store holds is not trained twice, and a stopped search goes on by the same command.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from isoalign.config.evaluation import NONE, WIN_RATE
from isoalign.config.search_path import folders, options
from isoalign.core import stopping
from isoalign.core.errors import UserError, unknown
from isoalign.core.files import save
from isoalign.core.lazy import scipy
from isoalign.core.objective import objective_of
from isoalign.core.records import Estimate
from isoalign.evaluation import card as cards
from isoalign.runs import overrides

SEED = 100  # of the trials' training; no seed of a published card
Settings = dict[str, str]
LEAN = [
    "task.evaluation.split=validation", "task.evaluation.draws=4", "task.evaluation.curve_draws=1",
    "task.training.snapshots=[]", "threads=1", "tracking=off",
]  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A point of the search space and its result: its gain on validation prompts and exact KL.

    ``gates``: the gates that its text failed; ``failed``: why there is no card.
    """

    settings: Settings
    gain: Estimate | None = None
    kl: float | None = None
    gates: tuple[str, ...] = ()
    failed: str = ""

    @property
    def usable(self) -> bool:
        """Whether it may be chosen."""
        return self.gain is not None and self.gain.value is not None and self.kl is not None and not self.gates


def one_standard_error(trials: Iterable[Trial]) -> Trial | None:
    """Of the trials within one standard error of the largest gain, that with the least KL (Breiman et al. 1984, section
    3.4.3): a trial not distinguishable from the best, with the least drift."""
    usable = [trial for trial in trials if trial.usable]
    if not usable:
        return None
    best = max(usable, key=_gain)
    return min((t for t in usable if _gain(t) >= _gain(best) - _error(best)), key=lambda t: (t.kl, -_gain(t)))


def largest_gain(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the largest gain, at whatever KL."""
    return max((trial for trial in trials if trial.usable), key=_gain, default=None)


RULES: dict[str, Callable[[Iterable[Trial]], Trial | None]] = {
    "one_standard_error": one_standard_error, "largest_gain": largest_gain, "largest_reduction": largest_gain,
}  # fmt: skip
"""The rules by name; `largest_reduction` is what records of toxicity tasks call the second."""


def _gain(trial: Trial) -> float:
    assert trial.gain is not None
    return trial.gain.value or 0.0


def _error(trial: Trial) -> float:
    """Standard error, from a 95% interval."""
    found = trial.gain
    return (found.high - found.low) / 3.92 if found and found.high is not None and found.low is not None else 0.0


# -- the space ---------------------------------------------------------------------------------------------------------


def space(algorithm: str) -> dict[str, list[str]]:
    """Key to the values it may take, as they are typed.

    Raises UserError if none is declared, or if one is not a choice(...).
    """
    file = next((f for folder in folders() if (f := folder / "sweep" / f"{algorithm}.yaml").exists()), None)
    if file is None:
        raise UserError(
            f"{algorithm} declares no search space; write sweep/{algorithm}.yaml in conf/, or in its package's conf. "
            f"Declared: {', '.join(options('sweep'))}"
        )
    found: dict[str, list[str]] = {}
    for key, values in _leaves(OmegaConf.to_container(OmegaConf.load(file))).items():
        override = OverridesParser.create().parse_override(f"{key}={values}")
        if not override.is_choice_sweep():
            raise UserError(f"{file}: {key} must be choice(...), not {values}")
        found[key] = list(override.sweep_string_iterator())
    return found


def _leaves(node: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(node, dict):
        return {prefix: str(node)}
    inner = [_leaves(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()]
    return {key: value for part in inner for key, value in part.items()}


def points(space: Mapping[str, Sequence[str]], count: int, seed: int = SEED) -> list[Settings]:
    """The first ``count`` distinct points of a scrambled Halton sequence over the choices; all of a smaller space."""
    whole = math.prod(map(len, space.values()))
    found: dict[tuple[str, ...], None] = {}
    sequence = scipy.stats.qmc.Halton(len(space), seed=seed)
    while len(found) < min(count, whole):
        (place,) = sequence.random(1)
        found[tuple(values[int(share * len(values))] for share, values in zip(place, space.values(), strict=True))] = None
    return [dict(zip(space, point, strict=True)) for point in found]


# -- the trials --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """A search: on which task, with how many trials a method, by which rule, and where things go."""

    task: str
    trials: int
    rule: str
    workers: int
    results: Path
    store: Path | None = None
    settings: tuple[str, ...] = ()  # of task and budget, as typed

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(unknown("rule", self.rule, list(RULES)))
        if self.trials < 1 or self.workers < 1:
            raise UserError("--trials and --workers must be 1 or more")

    @property
    def _task_settings(self) -> list[str]:
        return [word for word in self.settings if word.startswith("task.")]

    @cached_property
    def _off(self) -> list[str]:
        """What no trial needs: a judge of a win rate by which nothing is chosen."""
        evaluation = overrides.task_named(self.task, self._task_settings).evaluation
        unneeded = evaluation.win_rate.on and evaluation.scorer != WIN_RATE
        return [f"task.evaluation.win_rate.judge.kind={NONE}"] if unneeded else []

    def command(self, algorithm: str) -> str:
        """What to type to do it again."""
        words = ["isoalign", "tune", self.task, algorithm, "--trials", str(self.trials), "--rule", self.rule, *self.settings]
        return shlex.join(words)

    @cached_property
    def base(self) -> dict[str, Any]:
        """The base on which the trials are, to which the settings belong."""
        from isoalign.runs import tuned  # loads torch, which the help does without

        return tuned.base_of(overrides.task_named(self.task, self._task_settings).model)

    def file(self, algorithm: str, conf: Path) -> Path:
        """The file for the winner's settings. Raises UserError if it holds settings of another base."""
        file = conf / "tuned" / f"{self.task}_{algorithm}.yaml"
        if file.exists() and OmegaConf.to_container(OmegaConf.load(file)).get("tuned_on") != self.base:  # type: ignore[union-attr]
            raise UserError(
                f"{file} holds settings of another base than this one; make a task of this base and tune that (a yaml with "
                f"defaults: [{self.task}], its name and its model), or choose another --conf"
            )
        return file

    def run(self, algorithms: Sequence[str], report: Callable[[str, Trial], None]) -> Iterator[tuple[str, list[Trial]]]:
        """Every trial of every method, several at a time: a method with its trials as soon as all have ended. ``report`` is
        called with each trial.

        The SFT row comes first, alone: it makes the stages that all trials share.
        """
        wanted = {name: points(space(name), self.trials) for name in algorithms}
        first = self._trial("sft", {})
        if first.failed:
            raise UserError(f"the SFT row failed: {first.failed}")
        found: dict[str, list[Trial]] = {name: [] for name in wanted}
        with ThreadPoolExecutor(self.workers) as pool:
            tried = {pool.submit(self._trial, name, at): name for name, every in wanted.items() for at in every}
            try:
                for future in as_completed(tried):
                    name, trial = tried[future], future.result()
                    found[name].append(trial)
                    report(name, trial)
                    if len(found[name]) == len(wanted[name]):
                        yield name, sorted(found[name], key=lambda trial: wanted[name].index(trial.settings))
            finally:
                pool.shutdown(cancel_futures=True)

    def _trial(self, algorithm: str, at: Settings) -> Trial:
        stopping.stop_here()
        words = [f"task={self.task}", f"algorithm={algorithm}", f"seed={SEED}", f"results={self.results / 'trials'}", *LEAN]
        words += [f"store={self.store}"] if self.store else []
        words += [*self.settings, *self._off, *(f"{key}={value}" for key, value in at.items())]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "isoalign", "run", *words], capture_output=True, text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("isoalign: ")]
            return Trial(at, failed=(lines or done.stderr.splitlines() or ["no error message"])[-1].removeprefix("isoalign: "))
        card = cards.read_card(Path(done.stdout.splitlines()[-1]))
        gates = tuple(flag.text for flag in card.flags if flag.kind == "gate")
        return Trial(at, card.metrics.get(objective_of(card).gain), card.metrics["kl"].value, gates)


# -- what is written ---------------------------------------------------------------------------------------------------


def write(search: Search, algorithm: str, trials: Sequence[Trial], conf: Path) -> tuple[Trial, Path, Path]:
    """The winner, its configuration ``conf/tuned/<task>_<algorithm>.yaml`` and the record of all trials.

    Raises UserError, with the record written and no configuration, where no trial may be chosen.
    """
    winner = RULES[search.rule](trials)
    record = search.results / search.task / f"{algorithm}.json"
    told = {
        "task": search.task, "algorithm": algorithm, "command": search.command(algorithm), "rule": search.rule, "seed": SEED,
        "base": search.base, "split": "validation", "space": space(algorithm), "trials": [asdict(trial) for trial in trials],
        "chosen": winner.settings if winner else None,
    }  # fmt: skip
    save(record, json.dumps(told, indent=1) + "\n")
    if winner is None:
        raise UserError(f"no trial of {algorithm} can be chosen: all failed or failed a gate; see {record}")
    file = search.file(algorithm, conf)
    lines = [f"  {key.removeprefix('algorithm.')}: {value}" for key, value in winner.settings.items()]
    tuning = f"{len(trials)} trials on validation prompts, by {search.rule}"
    head = ["# @package _global_", f"# {search.command(algorithm)}", f"tuning: {tuning}"]
    text = [*head, f"tuned_on: {json.dumps(search.base)}", "algorithm:", *lines]
    save(file, "\n".join(text) + "\n")
    return replace(winner), file, record


def line(algorithm: str, trial: Trial) -> str:
    """A trial in a line."""
    at = " ".join(f"{key.removeprefix('algorithm.')}={value}" for key, value in trial.settings.items())
    if trial.failed:
        return f"{algorithm:<14} {at}: failed: {trial.failed}"
    assert trial.gain is not None
    gates = f"; gate: {'; gate: '.join(trial.gates)}" if trial.gates else ""
    return f"{algorithm:<14} {at}: gain {trial.gain.value:.3f}, KL {trial.kl:.2f}{gates}"
