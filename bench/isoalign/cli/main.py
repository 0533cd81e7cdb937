"""The command `isoalign`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from isoalign.cli import commands
from isoalign.core import progress, runtime
from isoalign.core.errors import UserError


def main() -> None:
    """Entry point: user errors are one line and exit status 2. It does not wait for threads that an algorithm left behind."""
    try:
        _main()
    except SystemExit as status:
        surroundings = sys.modules.get("isoalign.training.process_state")
        if surroundings and surroundings.strays:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status.code if isinstance(status.code, int) else 1)
        raise


def _main() -> None:
    runtime.quiet()
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["run"]:
            raise SystemExit(commands.run(arguments[1:]))
        options = _parsed(_parser(), arguments)
        raise SystemExit(options.act(options))
    except UserError as error:
        progress.end()
        print(f"isoalign: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        progress.end()
        print("isoalign: stopped; the same command goes on from what is finished", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(1) from None


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """What was typed. A subcommand's task.KEY=VALUE may stand behind its flags, where argparse gives them up."""
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "settings") and all("=" in word and not word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="isoalign", description="A benchmark of alignment methods: same base, same feedback, same compute."
    )
    sub = parser.add_subparsers(required=True, metavar="COMMAND")
    sub.add_parser("run", help="train and score a method (isoalign run --help)")

    board = sub.add_parser("board", help="build and print the leaderboard of a task from its cards")
    board.add_argument("task", nargs="?", help="a task; default: every task that has cards")
    board.add_argument(
        "--results", type=Path, default=Path("results/local"), help="folder of the cards (default: %(default)s)"
    )
    over = board.add_mutually_exclusive_group()
    over.add_argument("--across", action="store_true", help="one table over all tasks: interquartile means, P(A beats B)")
    over.add_argument("--along", metavar="KEY", help="how scores and ranks of a task move along a setting that was swept, "
                      "e.g. task.feedback.noise")  # fmt: skip
    board.set_defaults(act=commands.board)

    assets = sub.add_parser("assets", help="fetch and verify the embedded models and data")
    assets.add_argument("names", nargs="*", metavar="NAME", help="some of them; default: what the tasks nano and smol need")
    assets.set_defaults(act=commands.assets)

    publish = sub.add_parser("publish", help="copy cards to results/published/TASK/ and rebuild its board")
    publish.add_argument("cards", nargs="+", type=Path, metavar="CARD")
    publish.add_argument("--results", type=Path, default=Path("results"), help="where published/ lies (default: %(default)s)")
    publish.set_defaults(act=commands.publish)

    compare = sub.add_parser("compare", help="two methods or cards, paired, on every metric, with a verdict in words")
    compare.add_argument("first", metavar="A", help="a card's path, or the name of a row of the board")
    compare.add_argument("second", metavar="B")
    compare.add_argument("--task", default="nano", help="whose board holds the rows (default: %(default)s)")
    compare.add_argument(
        "--results", type=Path, default=Path("results/local"), help="folder of the cards (default: %(default)s)"
    )
    compare.set_defaults(act=commands.compare)

    reward = sub.add_parser("reward", help="a task's reward model: trained where it is missing, its card written")
    reward.add_argument("task")
    reward.add_argument(
        "--by", default="annotator", help="whose verdicts taught it, annotator or judge (default: %(default)s)"
    )
    reward.add_argument(
        "--results",
        type=Path,
        default=Path("results/local"),
        help="the card goes to TASK/reward/ in it (default: %(default)s)",
    )
    reward.add_argument("--store", type=Path, help="where stages lie (default: the user cache)")
    reward.add_argument("settings", nargs="*", metavar="task.KEY=VALUE", help="if the task is not as conf/ has it")
    reward.set_defaults(act=commands.reward)

    rescore = sub.add_parser("rescore", help="apply metrics to the saved samples of old runs; nothing is trained")
    rescore.add_argument("cards", nargs="*", type=Path, metavar="CARD", help="default: every card under results/local")
    which = rescore.add_mutually_exclusive_group(required=True)
    which.add_argument("--metric", action="append", metavar="NAME", help="a family of metrics; may be repeated")
    which.add_argument("--all", action="store_true", help="every family")
    rescore.add_argument("--store", type=Path, help="where the samples lie (default: the user cache)")
    rescore.set_defaults(act=commands.rescore)

    score = sub.add_parser("score", help="score completions that were made elsewhere and enter them as unmetered")
    score.add_argument("--samples", type=Path, required=True, metavar="FILE.jsonl", help="rows of prompt_id (or prompt), "
                       "completion and, if known, draw, id, kl, finished, scores")  # fmt: skip
    score.add_argument("--task", required=True, help="whose evaluation prompts these answer (isoalign prompts TASK)")
    score.add_argument("--name", help="the row's name (default: the file's)")
    score.add_argument(
        "--results", type=Path, default=Path("results/local"), help="folder of the cards (default: %(default)s)"
    )
    score.add_argument("--store", type=Path, help="where stages lie (default: the user cache)")
    score.add_argument("settings", nargs="*", metavar="task.KEY=VALUE", help="if the task was not run as conf/ has it")
    score.set_defaults(act=commands.score)

    prompts = sub.add_parser("prompts", help="print a task's evaluation prompts as JSON lines, to answer elsewhere")
    prompts.add_argument("task")
    prompts.add_argument("settings", nargs="*", metavar="task.KEY=VALUE", help="if the task is not as conf/ has it")
    prompts.set_defaults(act=commands.prompts)

    data = sub.add_parser("data", help="look at a file of feedback before it teaches").add_subparsers(required=True)
    check = data.add_parser("check", help="format, counts, duplicates, lengths, leakage, balance and agreement of a file")
    check.add_argument("file", metavar="FILE", help="JSON lines, JSON, CSV, parquet, a folder or hf:NAME[:CONFIG][:SPLIT]")
    check.add_argument("--format", help="of the rows (default: by their columns)")
    check.add_argument("--task", help="look for its evaluation prompts in the file")
    check.add_argument("--ngram", type=int, default=8, help="words in a row that count as leakage (default: %(default)s)")
    check.set_defaults(act=commands.data_check)

    tune = sub.add_parser("tune", help="the same number of trials for each method, on validation prompts; writes the best")
    tune.add_argument("task")
    tune.add_argument("algorithms", nargs="*", metavar="ALGORITHM|KEY=VALUE", help="default: all that declare a space in "
                      "conf/sweep/; settings of the task or budget hold for all")  # fmt: skip
    tune.add_argument("--trials", type=int, default=8, help="of each method (default: %(default)s)")
    tune.add_argument(
        "--rule",
        default="one_standard_error",
        help="one_standard_error (least KL within it) or largest_reduction (default: %(default)s)",
    )
    tune.add_argument("--workers", type=int, default=2, help="trials at a time (default: %(default)s)")
    tune.add_argument(
        "--results", type=Path, default=Path("results/tuning"), help="where the record goes (default: %(default)s)"
    )
    tune.add_argument(
        "--conf",
        type=Path,
        help="folder that gets tuned/TASK_ALGORITHM.yaml: conf/ or a package's conf, where a run finds it "
        "(default: this installation's conf/)",
    )
    tune.add_argument("--store", type=Path, help="where stages lie (default: the user cache)")
    tune.set_defaults(act=commands.tune, settings=[])

    new = sub.add_parser("new", help="write the files of a working start").add_subparsers(required=True)
    algorithm = new.add_parser("algorithm", help="its file, yaml, search space and test")
    algorithm.add_argument("name", metavar="NAME")
    algorithm.add_argument("--package", type=Path, metavar="FOLDER", help="a package of its own (default: this checkout)")
    algorithm.set_defaults(act=commands.new)

    conform = sub.add_parser("check", help="try any algorithm, a plug-in's too, on what every one of them must do")
    conform.add_argument("name", metavar="ALGORITHM")
    conform.add_argument(
        "checks", nargs="*", metavar="CHECK", help="some of the checks, by the names that all of them print; default: all"
    )
    conform.set_defaults(act=commands.check)

    verify = sub.add_parser("verify", help="check a card, and all that led to it, for a changed digit")
    verify.add_argument("cards", nargs="+", type=Path, metavar="CARD")
    verify.add_argument("--store", type=Path, help="where its stages lie (default: the user cache)")
    verify.set_defaults(act=commands.verify)
    return parser
