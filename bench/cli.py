"""The command `isoalign`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from bench import machine
from bench.errors import UserError

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


def main() -> None:
    """Entry point: user errors are one line and exit status 2."""
    machine.quiet()
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["run"]:
            raise SystemExit(_run(arguments[1:]))
        options = _parser().parse_args(arguments)
        raise SystemExit(options.act(options))
    except UserError as error:
        print(f"isoalign: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        raise SystemExit(1) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="isoalign", description="A benchmark of alignment methods: same base, same feedback, same compute."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("run", help="train and score a method (isoalign run --help)")

    board = commands.add_parser("board", help="build and print the leaderboard of a task from its cards")
    board.add_argument("task", nargs="?", help="a task; default: every task that has cards")
    board.add_argument(
        "--results", type=Path, default=Path("results/local"), help="folder of the cards (default: %(default)s)"
    )
    board.set_defaults(act=_board)

    assets = commands.add_parser("assets", help="fetch and verify the embedded models and data")
    assets.add_argument("names", nargs="*", metavar="NAME", help="some of them; default: what the tasks nano and smol need")
    assets.set_defaults(act=_assets)

    publish = commands.add_parser("publish", help="copy cards to results/published/TASK/ and rebuild its board")
    publish.add_argument("cards", nargs="+", type=Path, metavar="CARD")
    publish.add_argument("--results", type=Path, default=Path("results"), help="where published/ lies (default: %(default)s)")
    publish.set_defaults(act=_publish)
    return parser


def _run(arguments: list[str]) -> int:
    from bench.overrides import check, listed, one_line

    if "--help" in arguments or "-h" in arguments:
        print(RUN_HELP.format(**listed()), end="")
        return 0
    sweep = any(a in ("-m", "--multirun") for a in arguments)
    arguments = ["-m"] * sweep + [a for a in arguments if a not in ("-m", "--multirun")]  # Hydra wants it first
    check(arguments, sweep)
    from bench.run import FAILURES
    from bench.run import main as hydra_main

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


def _board(options: argparse.Namespace) -> int:
    from bench import board, card

    folders = [options.results / options.task] if options.task else sorted(p for p in options.results.glob("*") if p.is_dir())
    boards = [(folder, cards) for folder in folders if (cards := card.read_all(folder))]
    if not boards:
        where = options.results / (options.task or "")
        raise UserError(f"no cards in {where}; make some with `isoalign run` (or name another folder with --results)")
    for folder, cards in boards:
        board.show(board.build(cards))
        print(board.write(folder.name, cards, folder))
    return 0


def _assets(options: argparse.Namespace) -> int:
    from bench import assets
    from bench.registry import unknown

    for name in options.names:
        if name not in assets.ASSETS:
            raise UserError(unknown("asset", name, sorted(assets.ASSETS)))
    for name in options.names or sorted(assets.ASSETS):
        print(f"{name:<18} {assets.path(name)}", flush=True)
    return 0


def _publish(options: argparse.Namespace) -> int:
    from bench.publish import publish

    for path in publish(options.cards, options.results):
        print(path)
    return 0
