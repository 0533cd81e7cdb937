"""`isoalign run`: Hydra's grammar, with help written here."""

import os
import sys
import tempfile
import textwrap

import click

from isoalign.core import world
from isoalign.core.complaint import say
from isoalign.core.errors import UserError
from isoalign.runs import overrides

HELP = """Usage: isoalign run [-m] [KEY=VALUE]...

  Train a method on a task under a budget, score it and write its card. The last line printed is
  the path of the card.

  algorithm=NAME       {algorithms}
  task=NAME            {tasks}
  budget=NAME          {budgets}; or budget.flops=4e12, budget.steps=, budget.labels=,
                       budget.tokens=, budget.seconds=
  seed=N               of training; shared stages have task.seed
  algorithm.KEY=VALUE  a hyperparameter; conf/algorithm/NAME.yaml lists them
  task.KEY=VALUE       a setting of the task, e.g. task.feedback.noise=0.1
  results=FOLDER  store=FOLDER  threads=N  tracking=auto|offline|online|off
  device=auto|cpu|cuda|cuda:1|mps  tuned=default|TASK_NAME (defaults, or tuned on another task)

  -m sweeps over comma-separated values: isoalign run -m algorithm=ppo,dpo,kto,rlaif seed=0,1,2
  In parallel: hydra/launcher=joblib hydra.launcher.n_jobs=2, or hydra/launcher=submitit_slurm
  (pip install 'isoalign[sweep]')

  Finished stages are reused; the same command resumes a stopped run.
  Hydra's flags --cfg job and --info work as well.
"""
MULTIRUN = ("-m", "--multirun")


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def run(words: tuple[str, ...]) -> int:
    """Train a method on a task, score it and write its card."""
    if "--help" in words or "-h" in words:
        print(_help(), end="")
        return 0
    sweep = any(word in MULTIRUN for word in words)
    arguments = ["-m"] * sweep + [overrides.quoted(word) for word in words if word not in MULTIRUN]  # Hydra wants it first
    overrides.check_overrides(arguments, sweep)
    if sweep and world.launched() > 1:
        raise UserError(f"WORLD_SIZE is {world.launched()}, but a sweep shares no run out; start each of its runs by torchrun")
    from isoalign.runs import status  # loads hydra
    from isoalign.runs.run import FAILURES, SWEEP, main  # loads torch, after the words were found to be right

    sys.argv = ["isoalign run", *arguments]
    with tempfile.NamedTemporaryFile("r") as failures:
        if sweep:
            os.environ |= {FAILURES: failures.name, SWEEP: str(os.getpid())}
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints what is wrong by itself, in many lines
        with overrides.one_line():
            main()
        failed = status.failed_jobs() or failures.read().splitlines()
    if failed:
        say(f"{len(failed)} of the sweep's runs failed: {', '.join(failed)}")
    return 1 if failed else 0


def _help() -> str:
    """The help, its long lists of names wrapped."""
    names = overrides.listed()
    lines = textwrap.TextWrapper(width=100, initial_indent=" " * 23, subsequent_indent=" " * 23)
    return HELP.format(**{group: lines.fill(text).lstrip() for group, text in names.items()})
