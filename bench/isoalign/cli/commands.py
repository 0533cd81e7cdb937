"""Every subcommand by name. Its module is imported when it is asked for, so `isoalign --help` and typos take no time."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass

import click

from isoalign.core import runtime
from isoalign.core.complaint import complain
from isoalign.core.errors import UserError, interrupt_of, unforeseen, unknown


@dataclass(frozen=True)
class Entry:
    """A command: ``module`` of isoalign.cli that holds it under its own name, and the ``help`` line of the overview."""

    module: str
    help: str


COMMANDS = {
    "run": Entry("run", "Train a method on a task, score it and write its card."),
    "status": Entry("status", "Say what runs do: where, how far, and what failed."),
    "board": Entry("board", "Build and print the leaderboard of a task from its cards."),
    "report": Entry("report", "Write the results of tasks as pages that a browser opens from disk."),
    "show": Entry("show", "Show a card: what was run, what it cost and what came out."),
    "compare": Entry("compare", "Compare two methods or cards, paired, on every metric."),
    "publish": Entry("publish", "Copy cards to results/published/TASK/ and rebuild its board."),
    "verify": Entry("verify", "Check that a card and all that led to it are unchanged."),
    "submit": Entry("submit", "Check cards and prepare a pull request for the published boards."),
    "export": Entry("export", "Write the policy of a card to a folder that transformers and PEFT load."),
    "tune": Entry("tune", "Give each method equally many trials and keep its best settings."),
    "reward": Entry("reward", "Train a task's reward model if needed and write its card."),
    "rescore": Entry("rescore", "Apply metrics again to saved samples, without training."),
    "prompts": Entry("score", "Print a task's evaluation prompts, to answer elsewhere."),
    "score": Entry("score", "Score completions made elsewhere, for an unmetered row."),
    "data": Entry("data", "Look at a file of feedback before anything learns from it."),
    "plan": Entry("plan", "Say what runs of tasks will cost, before anything is launched."),
    "task": Entry("task", "Look at a task: its data in tokens, splits, losses, leaks and examples."),
    "new": Entry("new", "Write the files of a new algorithm or task that works from the start."),
    "check": Entry("check", "Test an algorithm on what every algorithm must do."),
    "store": Entry("store", "Look at the stages that runs have made, and delete what can go."),
    "doctor": Entry("doctor", "Say what this machine has for runs, what won't work, and what to do."),
    "assets": Entry("assets", "Fetch and verify the embedded models and data."),
}


class LazyGroup(click.Group):
    """A group whose commands are those of ``COMMANDS``, each imported when it is asked for and not for the overview."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported. Raises UserError for an unknown name."""
        if cmd_name not in COMMANDS:
            raise UserError(unknown("command", cmd_name, list(COMMANDS)))
        command: click.Command = getattr(importlib.import_module(f"isoalign.cli.{COMMANDS[cmd_name].module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and help lines, of no module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`isoalign COMMAND --help` explains a command.",
)
def isoalign() -> None:
    """A benchmark of alignment methods: same base, same feedback, same compute."""


def invoke(arguments: list[str]) -> int:
    """Run a command line and return its exit status: what the command returns, 0 for None, 2 where it cannot be done."""
    runtime.quiet()
    if arguments[:1] in (
        ["board"],
        ["compare"],
        ["publish"],
        ["report"],
    ):  # thousands of small products, which threads only slow down
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with isoalign.make_context("isoalign", arguments) as context:
            return isoalign.invoke(context) or 0
    except click.exceptions.Exit as done:  # after --help
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
    except click.exceptions.Abort as error:
        if stopped := interrupt_of(error):
            raise stopped from None
        complain(f"{arguments[0]} asks for what is not given, and nobody answered; give it as options, see --help")
    except BrokenPipeError:
        raise
    except Exception as error:
        if stopped := interrupt_of(error):
            raise stopped from None
        complain(_line(error, arguments))
    return 2


def _line(error: Exception, arguments: list[str]) -> str:
    """The error as one line. With ISOALIGN_DEBUG=1 an unexpected exception is raised again instead."""
    if isinstance(error, click.UsageError):
        text = " ".join(error.format_message().split()).removesuffix(".")
        text = re.sub(r"\. \(?D(id you mean .*\?)\)?$", r"; d\1", f"{text[:1].lower()}{text[1:]}")
        command = error.ctx.command_path if error.ctx else f"isoalign {arguments[0]}"
        return f"{text}{'' if text.endswith('?') else ';'} see `{command} --help`"
    if isinstance(error, UserError | click.ClickException):
        return str(error)
    if os.environ.get("ISOALIGN_DEBUG"):
        raise error
    from isoalign.core.memory import machine_failure  # loads torch, which the help does without

    return str(machine_failure(error) or unforeseen(error))
