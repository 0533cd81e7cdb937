"""A search: the trials of some methods on a task, and what is written of them.

A third of a method's trials wait for the others: where the best of these lies at an end of its space, or under half can be
chosen, they go beyond that end. A trial is an `isoalign run` like any other, one thread each, so what the store holds is not
trained twice, and a stopped search goes on by the same command.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from isoalign.config.evaluation import NONE, WIN_RATE
from isoalign.config.search_path import folders
from isoalign.core import stopping
from isoalign.core.errors import MachineFailed, UserError, unknown
from isoalign.core.files import save
from isoalign.core.json_output import to_lines
from isoalign.core.objective import objective_of
from isoalign.evaluation import card as cards
from isoalign.runs import overrides
from isoalign.runs.failures import MACHINE, TRIAL
from isoalign.tools.tuning.space import SEED, beyond, ends, points, refused_beyond, space
from isoalign.tools.tuning.trials import RULES, Settings, Trial, paired

Scores = dict[str, float]

LEAN = [
    "task.evaluation.draws=4", "task.evaluation.curve_draws=1", "task.training.snapshots=[]", "threads=1", "tracking=off",
]  # fmt: skip
HELD = ["tuned=default", "task.evaluation.split=validation"]  # neither an earlier choice nor an evaluation prompt is seen


@dataclass(frozen=True)
class Search:
    """A search: on which task, with how many trials a method, by which rule, and where things go. ``study``: which of several
    ``studies`` it is, counted from 1; each has points and trials of its own seed."""

    task: str
    trials: int
    rule: str
    workers: int
    results: Path
    store: Path | None = None
    settings: tuple[str, ...] = ()  # of task and budget, as typed
    study: int = 1
    studies: int = 1

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(unknown("rule", self.rule, list(RULES)))
        if min(self.trials, self.workers, self.studies) < 1:
            raise UserError("--trials, --workers and --studies must be 1 or more")
        if split := [word for word in self.settings if word.startswith("task.evaluation.split")]:
            raise UserError(f"{split[0]}: trials are scored on validation prompts; leave it out")

    @property
    def seed(self) -> int:
        """Of the points and of the trials' training."""
        return SEED + self.study - 1

    @property
    def _suffix(self) -> str:
        """Of the files of a study after the first."""
        return f"-{self.study}" if self.study > 1 else ""

    def record(self, algorithm: str) -> Path:
        """The file for the record of all trials."""
        return self.results / self.task / f"{algorithm}{self._suffix}.json"

    @property
    def told(self) -> str:
        """The study, in words, where there are several."""
        return f" in study {self.study} of {self.studies}" if self.studies > 1 else ""

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
        words = ["isoalign", "tune", self.task, algorithm, "--trials", str(self.trials), "--rule", self.rule]
        words += ["--studies", str(self.studies)] if self.studies > 1 else []
        words += self.settings
        return shlex.join(words)

    @cached_property
    def base(self) -> dict[str, Any]:
        """The base on which the trials are, to which the settings belong."""
        from isoalign.runs import tuned  # loads torch, which the help does without

        return tuned.base_of(overrides.task_named(self.task, self._task_settings).model)

    def file(self, algorithm: str, conf: Path) -> Path:
        """The file for the winner's settings. Raises UserError if it holds settings of another base or of another search's
        task, if runs would read another file, or if another task's is named so."""
        from isoalign.runs.tuned import check_named, choosing  # loads torch, which the help does without

        check_named(self.task, algorithm)
        name = Path("tuned") / f"{self.task}_{algorithm}{self._suffix}.yaml"
        read = [folder.resolve() for folder in folders()]
        for folder in read[: read.index(conf.resolve())] if conf.resolve() in read else ():
            if (folder / name).exists():
                raise UserError(f"runs read {folder / name} before {conf / name}; remove it, or leave --conf out")
        file = conf / name
        if not file.exists():
            return file
        old: Any = OmegaConf.to_container(OmegaConf.load(file))
        if old.get("tuned_on") != self.base:
            raise UserError(
                f"{file} holds settings of another base than this one; make a task of this base and tune that (a yaml with "
                f"defaults: [{self.task}], its name and its model), or choose another --conf"
            )
        before, now = (choosing(words) for words in (old.get("tuned_with", []), self.settings))
        if before != now:
            told = [" ".join(sorted(words)) or "nothing typed" for words in (before, now)]
            raise UserError(
                f"{file} was tuned with {told[0]}, this search is with {told[1]}: remove it, or choose another --conf"
            )
        return file

    def run(self, algorithms: Sequence[str], report: Callable[[str, Trial], None]) -> Iterator[tuple[str, list[Trial]]]:
        """Every trial of every method, several at a time: a method with its trials as soon as all have ended. ``report`` is
        called with each trial.

        The SFT row comes first, alone: it makes the stages that all trials share.
        """
        late = self.trials // 3
        wanted = {name: points(space(name), self.trials - late, self.seed) for name in algorithms}
        refused = {name: refused_beyond(name, space(name)) for name in algorithms} if late else {}
        first, _ = self._trial("sft", {})
        if first.failed:
            raise UserError(f"the SFT row failed: {first.failed}")
        found: dict[str, list[tuple[Trial, Scores]]] = {name: [] for name in wanted}
        second: set[str] = set()  # methods whose late trials have begun
        with ThreadPoolExecutor(self.workers) as pool:
            tried = {pool.submit(self._trial, name, at): name for name, every in wanted.items() for at in every}
            try:
                while tried:
                    for future in wait(tried, return_when=FIRST_COMPLETED).done:
                        name = tried.pop(future)
                        found[name].append(future.result())
                        report(name, found[name][-1][0])
                        if len(found[name]) < len(wanted[name]):
                            continue
                        found[name].sort(key=lambda one: wanted[name].index(one[0].settings))
                        trials, scores = zip(*found[name], strict=True)
                        more = [] if name in second else beyond(space(name), trials, late, self.seed, refused.get(name, ()))
                        second.add(name)
                        wanted[name] += more
                        tried |= {pool.submit(self._trial, name, at): name for at in more}
                        if not more:
                            yield name, paired(trials, scores)
            finally:
                pool.shutdown(cancel_futures=True)

    def _trial(self, algorithm: str, at: Settings) -> tuple[Trial, Scores]:
        """A trial, and the score of each prompt."""
        stopping.stop_here()
        words = [
            f"task={self.task}",
            f"algorithm={algorithm}",
            f"seed={self.seed}",
            f"results={self.results / 'trials'}",
            *LEAN,
            *self.settings,
            *HELD,
        ]
        words += [f"store={self.store}"] if self.store else []
        words += [*self._off, *(f"{key}={value}" for key, value in at.items())]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "isoalign", "run", *words], capture_output=True, text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", TRIAL: "1"},
        )  # fmt: skip
        lines = [line for line in done.stderr.splitlines() if line.startswith("isoalign: ")]
        last = (lines or done.stderr.splitlines() or ["no error message"])[-1].removeprefix("isoalign: ")
        if done.returncode < 0:  # a trial that the machine ended says nothing of its settings
            raise MachineFailed(
                f"a trial of {algorithm} was ended by {signal.Signals(-done.returncode).name}, as where memory runs out; try "
                "--workers 1: the same command goes on, and what was tried is kept"
            )
        if done.returncode == MACHINE:
            raise MachineFailed(f"a trial of {algorithm} could not be run: {last}; what was tried is kept")
        if done.returncode:
            return Trial(at, failed=last), {}
        card = cards.read_card(Path(done.stdout.splitlines()[-1]))
        gates = tuple(flag.text for flag in card.flags if flag.kind == "gate")
        objective = objective_of(card)
        scores = {prompt: value for prompt, value in card.values.get(objective.level, {}).items() if value is not None}
        return Trial(at, card.metrics.get(objective.gain), card.metrics["kl"].value, gates), scores


def write(search: Search, algorithm: str, trials: Sequence[Trial], conf: Path) -> tuple[Trial, Path, Path]:
    """The winner, its configuration ``conf/tuned/<task>_<algorithm>.yaml`` and the record of all trials.

    Raises UserError, with the record written and no configuration, where no trial may be chosen.
    """
    winner = RULES[search.rule](trials)
    record = search.record(algorithm)
    told = {
        "task": search.task, "algorithm": algorithm, "command": search.command(algorithm), "rule": search.rule,
        "seed": search.seed, "base": search.base, "split": "validation", "space": space(algorithm),
        "trials": [asdict(trial) for trial in trials], "chosen": winner.settings if winner else None,
        "at_ends": at_ends(trials, winner) if winner else [],
    }  # fmt: skip
    told |= {"study": search.study, "studies": search.studies} if search.studies > 1 else {}
    save(record, to_lines(told, ["trials"], indent=None))
    if winner is None:
        raise UserError(f"no trial of {algorithm} can be chosen: all failed or failed a gate; see {record}")
    file = search.file(algorithm, conf)
    lines = [f"  {key.removeprefix('algorithm.')}: {value}" for key, value in winner.settings.items()]
    failures = sum(bool(trial.failed) for trial in trials)
    number = f"{len(trials)} trials{f', of which {failures} failed,' if failures else ''}{search.told}"
    tuning = f"{number} on validation prompts, by {search.rule}"
    head = ["# @package _global_", f"# {search.command(algorithm)}", f"tuning: {tuning}"]
    head += [f"tuned_on: {json.dumps(search.base)}"]
    head += [f"tuned_with: {json.dumps(search.settings)}"] if search.settings else []
    text = [*head, "algorithm:", *lines]
    save(file, "\n".join(text) + "\n")
    return replace(winner), file, record


def spread(algorithm: str, winners: Sequence[Trial]) -> str:
    """What the studies of a method chose, in a line: how far the choice, and its gain, are chance."""
    gains = sorted(trial.gain.value for trial in winners if trial.gain and trial.gain.value is not None)
    chosen = {key: [trial.settings[key] for trial in winners] for key in winners[0].settings}
    settings = "; ".join(f"{key.removeprefix('algorithm.')} {', '.join(values)}" for key, values in chosen.items())
    return f"{algorithm} over {len(winners)} studies: gain {_short(gains[0])} to {_short(gains[-1])}; {settings}"


def at_ends(trials: Sequence[Trial], chosen: Trial) -> list[str]:
    """The settings whose best value is the least or largest that was tried and ran: a larger space may hold better ones."""
    tried = {key: sorted({trial.settings[key] for trial in trials if not trial.failed}) for key in chosen.settings}
    return [key.removeprefix("algorithm.") for key in ends(tried, chosen.settings)]


def _short(gain: float) -> str:
    """A gain with three decimals, or with three digits if it is small."""
    return f"{gain:.3f}" if abs(gain) >= 0.01 or not gain else f"{gain:.3g}"


def line(algorithm: str, trial: Trial) -> str:
    """A trial in a line."""
    at = " ".join(f"{key.removeprefix('algorithm.')}={value}" for key, value in trial.settings.items())
    if trial.failed:
        return f"{algorithm:<14} {at}: failed: {trial.failed}"
    gates = f"; gate: {'; gate: '.join(trial.gates)}" if trial.gates else ""
    if trial.gain is None or trial.gain.value is None or trial.kl is None:
        return f"{algorithm:<14} {at}: no gain{gates}"
    return f"{algorithm:<14} {at}: gain {_short(trial.gain.value)}, KL {trial.kl:.2f}{gates}"
