"""`isoalign task`: what a task resolves to."""

import click

from isoalign.cli import options
from isoalign.runs.overrides import task_named


@click.group()
def task() -> None:
    """Look at a task: its data in tokens, splits, losses, leaks and examples."""


@task.command()
@click.argument("name")
@options.settings
def show(name: str, settings: tuple[str, ...]) -> None:
    """Print what a task resolves to, before anything is trained.

    Prompts of each split with their lengths in tokens, what is cut and what becomes equal, strata, demonstrations, feedback,
    evaluated prompts that occur in training data, and five prompts as the model reads them.
    """
    from isoalign.tools import tasks  # loads torch, which the help does without

    for part in tasks.show(task_named(name, settings)):
        print(part, end="\n\n")
