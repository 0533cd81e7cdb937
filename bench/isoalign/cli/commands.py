"""What each subcommand of `isoalign` does, from what was typed to an exit status; heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from isoalign.core import progress
from isoalign.core.errors import UserError
from isoalign.core.files import save

RUN_HELP = """usage: isoalign run [-m] [KEY=VALUE ...]

Train a method on a task under a budget, score it, and write its card. The last line printed is the card's path.

  algorithm=NAME    {algorithms}
  task=NAME         {tasks}
  budget=NAME       {budgets}, or budget.flops=4e12, budget.steps=, budget.labels=, budget.tokens=, budget.seconds=
  seed=N            of training; shared stages have task.seed
  algorithm.KEY=V   a hyperparameter (conf/algorithm/NAME.yaml lists them)
  task.SECTION.KEY=V  anything of the task, e.g. task.feedback.noise=0.1
  threads=N  store=FOLDER  results=FOLDER  tracking=auto|offline|online|off

-m sweeps over comma-separated values: isoalign run -m algorithm=ppo,dpo,kto,rlaif seed=0,1,2
   in parallel: hydra/launcher=joblib hydra.launcher.n_jobs=2, or hydra/launcher=submitit_slurm (pip install 'isoalign[sweep]')

What is finished is never done again, and a killed run goes on by the same command. Other Hydra flags: --cfg job, --info.
"""


def run(arguments: list[str]) -> int:
    """Train and score; Hydra's grammar."""
    from isoalign.runs.overrides import check, listed, one_line

    if "--help" in arguments or "-h" in arguments:
        print(RUN_HELP.format(**listed()), end="")
        return 0
    sweep = any(a in ("-m", "--multirun") for a in arguments)
    arguments = ["-m"] * sweep + [a for a in arguments if a not in ("-m", "--multirun")]  # Hydra wants it first
    check(arguments, sweep)
    from isoalign.runs.run import FAILURES
    from isoalign.runs.run import main as hydra_main

    sys.argv = ["isoalign run", *arguments]
    with tempfile.NamedTemporaryFile("r") as failures:
        if sweep:
            os.environ[FAILURES] = failures.name
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints what is wrong by itself, in many lines
        with one_line():
            hydra_main()
        failed = failures.read().splitlines()
    if failed:
        print(f"isoalign: {len(failed)} of the sweep's runs failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def board(options: argparse.Namespace) -> int:
    """Print and write boards."""
    from isoalign.core.display import clean
    from isoalign.evaluation import card
    from isoalign.report import leaderboard
    from isoalign.runs import failures

    folders = [options.results / options.task] if options.task else sorted(p for p in options.results.glob("*") if p.is_dir())
    boards = [(folder, cards) for folder in folders if (cards := card.read_all(folder))]
    if not boards:
        where = options.results / (options.task or "")
        raise UserError(f"no cards in {where}; make some with `isoalign run` (or name another folder with --results)")
    if options.along:
        return _along([cards for _, cards in boards], options.along, boards[0][0])
    if options.across:
        return _across({folder.name: cards for folder, cards in boards}, options.results)
    for folder, cards in boards:
        made = leaderboard.build(cards, folder.name)
        leaderboard.show(made)
        failed = failures.read(folder)
        for one in failed:
            print(clean(f"failed: {one.algorithm} seed {one.seed}: {one.reason}"))
        if failed:
            print(f"(until the same command comes through, or its file in {folder / 'failed'} is deleted)")
        print(leaderboard.write(made, folder))
    return 0


def _across(cards_by_task: dict[str, Any], folder: Path) -> int:
    from isoalign.core.files import save
    from isoalign.report.cross_task import across

    found = across(cards_by_task)
    save(folder / "across.md", found.markdown())
    print(f"{found.terminal()}\n{folder / 'across.md'}")
    return 0


def _along(cards: list[Any], key: str, folder: Path) -> int:
    from isoalign.report.sweeps.files import write
    from isoalign.report.sweeps.sweep_report import along
    from isoalign.report.sweeps.text import terminal

    if len(cards) > 1:
        raise UserError(f"a report along a setting is of one task: isoalign board TASK --along {key}")
    report = along(cards[0], key)
    path = write(report, folder)
    print(f"{terminal(report)}\n{path}")
    return 0


def assets(options: argparse.Namespace) -> int:
    """Fetch and verify models and data."""
    from isoalign.core.errors import unknown
    from isoalign.data import assets

    for name in options.names:
        if name not in assets.ASSETS:
            raise UserError(unknown("asset", name, sorted(assets.ASSETS)))
    for name in options.names or sorted(assets.ASSETS):
        print(f"{name:<18} {assets.asset_path(name)}", flush=True)
    return 0


def publish(options: argparse.Namespace) -> int:
    """Copy cards to the published ones."""
    from isoalign.report.publish import publish

    for path in publish(options.cards, options.results):
        print(path)
    return 0


def compare(options: argparse.Namespace) -> int:
    """Two rows, paired."""
    from isoalign.report.compare import compare, sides

    print(compare(*sides(options.first, options.second, options.results / options.task)))
    return 0


def rescore(options: argparse.Namespace) -> int:
    """Apply metrics to saved samples."""
    from isoalign.core.progress import track
    from isoalign.evaluation import card, metrics
    from isoalign.report import leaderboard
    from isoalign.tools.rescore import rescored, stage_of

    metrics.check(options.metric or [])

    paths = options.cards or sorted(Path("results/local").glob("*/*.json"))
    if not paths:
        raise UserError("no cards in results/local; name some, or make some with: isoalign run")
    old = {path: card.read(path) for path in paths}
    store = _store(options.store)
    for one in old.values():  # nothing is written, or begun, unless all can be scored
        stage_of(one, store, "scores")
    new = {path: rescored(old[path], store, options.metric) for path in track(paths, "rescoring")}
    boards = {  # one that can't be made is found out before anything is written
        folder: leaderboard.build([new.get(path) or card.read(path) for path in sorted(folder.glob("*.json"))])
        for folder in sorted({path.parent for path in paths})
    }
    for path, rescored_card in new.items():
        save(path, card.to_json(rescored_card, path))
        print(f"{path}  {_news(old[path], rescored_card)}")
    for folder, made in boards.items():
        print(leaderboard.write(made, folder))
    return 0


def _news(old: Any, new: Any) -> str:
    """What scoring again changed: versions, and figures that came, went or differ."""
    versions = [
        f"{name} {old.versions.get(name, 'new')} -> {v}" for name, v in new.versions.items() if old.versions.get(name) != v
    ]
    names = old.metrics.keys() | new.metrics.keys()
    changed = sum(old.metrics.get(name) != new.metrics.get(name) for name in names)
    beside = [name for name in ("flags", "values", "curve", "data") if getattr(old, name) != getattr(new, name)]
    figures = f"{changed} of {len(new.metrics)} figures changed" if changed else "no figure changed"
    return "; ".join([*versions, figures, *(f"{name} changed" for name in beside)])


def score(options: argparse.Namespace) -> int:
    """Score completions made elsewhere."""
    import shlex

    from isoalign.evaluation import card
    from isoalign.runs.overrides import task_named
    from isoalign.tools import external

    task = task_named(options.task, options.settings)
    name = options.name or options.samples.stem
    words = ["isoalign", "score", "--samples", str(options.samples), "--task", task.name, "--name", name, *options.settings]
    command = shlex.join(words)
    print(card.write(external.score(options.samples, task, _store(options.store), name, command), options.results / task.name))
    return 0


def prompts(options: argparse.Namespace) -> int:
    """Print evaluation prompts."""
    import json

    from isoalign.data import prompts
    from isoalign.runs.overrides import task_named

    task = task_named(options.task, options.settings)
    for prompt in prompts.load_split(task.prompts, task.evaluation.split):
        print(json.dumps({"prompt_id": prompt.id, "prompt": prompt.text, "draws": task.evaluation.draws}, ensure_ascii=False))
    return 0


def reward(options: argparse.Namespace) -> int:
    """The card of a reward model."""
    import shlex

    from isoalign.report.pages.reward_model import terminal
    from isoalign.runs import reward_card
    from isoalign.runs.overrides import task_named

    task = task_named(options.task, options.settings)
    command = shlex.join(["isoalign", "reward", options.task, "--by", options.by, *options.settings])
    card = reward_card.make(task, _store(options.store), options.by, command)
    paths = reward_card.write(card, options.results)
    print("\n".join([terminal(card), *map(str, paths)]))
    return 0


def data_check(options: argparse.Namespace) -> int:
    """Look at a file of feedback."""
    from isoalign.data.formats.check import check_file

    prompts: list[str] = []
    if options.task:
        from isoalign.data.prompts import load_split
        from isoalign.runs.overrides import task_named

        task = task_named(options.task)
        prompts = [prompt.text for split in ("validation", "test") for prompt in load_split(task.prompts, split)]
    report = check_file(options.file, options.format, prompts, options.ngram)
    print(report.text())
    return 1 if report.problems else 0


def tune(options: argparse.Namespace) -> int:
    """Equal tuning of methods."""
    from isoalign.config.search_path import folders
    from isoalign.config.search_path import options as known
    from isoalign.runs.overrides import check
    from isoalign.tools import tune
    from isoalign.training.registry import names

    settings = [word for word in [*options.algorithms, *options.settings] if "=" in word]
    wanted = [word for word in options.algorithms if "=" not in word] or [name for name in known("sweep") if name in names()]
    check([f"task={options.task}", f"algorithm={','.join(wanted)}", *settings], sweep=True)
    if odd := [word for word in settings if not word.startswith(("task.", "budget"))]:
        raise UserError(
            f"{odd[0]}: only settings of the task and the budget are the same for all, task.KEY=VALUE or budget=NAME"
        )
    search = tune.Search(
        options.task, options.trials, options.rule, options.workers, options.results, options.store, tuple(settings)
    )
    bar = progress.Progress("tuning")
    count = sum(len(tune.points(tune.space(name), search.trials)) for name in wanted)
    heard = 0

    def hear(name: str, trial: tune.Trial) -> None:
        nonlocal heard
        heard += 1
        print(tune.line(name, trial), flush=True)
        bar.show(heard / count, {})

    failed = 0
    for name, trials in search.run(wanted, hear):
        try:
            winner, file, record = tune.write(search, name, trials, options.conf or folders()[0])
        except UserError as error:  # the others' trials are not lost
            print(f"isoalign: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"chosen: {tune.line(name, winner)}\n  {file}  {record}", flush=True)
    bar.close()
    return 1 if failed else 0


def new(options: argparse.Namespace) -> int:
    """Write a working start."""
    from isoalign.tools import scaffold

    for path in scaffold.write(options.name, options.package):
        print(path)
    first = f"pip install -e {options.package} && " if options.package else ""
    print(f"now: {first}isoalign check {options.name}")
    return 0


def check(options: argparse.Namespace) -> int:
    """The conformance suite."""
    from isoalign.tools.conformance import examine
    from isoalign.training.registry import default

    progress.belongs_to(options.name, 0)
    found = []
    for finding in examine(options.name, default(options.name), options.checks):
        print(finding.line(), flush=True)
        found.append(finding)
    failed = sum(finding.passed is False for finding in found)
    whole = f"{options.name} conforms" if not options.checks else f"{options.name}: {len(found)} tried, none failed"
    print(f"{options.name}: {failed} failed" if failed else whole)
    return 1 if failed else 0


def verify(options: argparse.Namespace) -> int:
    """Look for changes of cards and what is behind them."""
    from isoalign.core.display import clean
    from isoalign.tools.verify import verify

    wrong = 0
    for path in options.cards:
        try:
            report = verify(path, _store(options.store))
        except UserError as error:  # the others are still looked at
            print(f"isoalign: {error}", file=sys.stderr)
            wrong += 1
            continue
        wrong += len(report.wrong)
        lines = [("ok", line) for line in report.checked] + [("not checked", line) for line in report.unchecked]
        for mark, line in [*lines, *(("CHANGED", line) for line in report.wrong)]:
            print(clean(f"{path.name}: {mark}: {line}"))
    return 1 if wrong else 0


def _store(folder: Path | None) -> Any:
    from isoalign.core.store import Store
    from isoalign.data import assets

    return Store(folder or assets.cache_dir() / "store")
