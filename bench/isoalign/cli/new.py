"""`isoalign new`: working starts for extensions."""

from pathlib import Path

import click

from isoalign.cli.options import PATH
from isoalign.config.search_path import options
from isoalign.runs.overrides import task_named
from isoalign.tools import scaffold


@click.group()
def new() -> None:
    """Write the files of a new algorithm or task that works from the start."""


@new.command()
@click.argument("name")
@click.option("--package", type=PATH, metavar="FOLDER", help="Make or extend a package there.  [default: this checkout]")
def algorithm(name: str, package: Path | None) -> None:
    """Write the file, yaml, search space and test of an algorithm.

    The start is DPO under the new name; replace it by your method.
    """
    for path in scaffold.write_algorithm(name, package):
        print(path)
    first = f"pip install -e {package} && " if package else ""
    print(f"next: {first}isoalign check {name}")


@new.command()
@click.argument("name")
@click.option("--model", prompt="Base model (nano, smollm2, a folder or a hub name)", help="Base model.")
@click.option("--prompts", prompt="Prompts (a file or hf:NAME)", help="Prompts: a file or hf:NAME.")
@click.option("--column", default="prompt", show_default=True, help="Column of the prompts: a text or messages.")
@click.option(
    "--demonstrations", prompt="Demonstrations (a file, hf:NAME or none)", default="none", show_default=True,
    help="Demonstrations for SFT: a file or hf:NAME; none: the model is its own base.",
)  # fmt: skip
@click.option(
    "--feedback",
    prompt="Feedback (a file or hf:NAME; empty for a simulated annotator)",
    default="",
    help="Feedback of people.",
)
@click.option("--lora", default=0, show_default=True, help="Rank of the adapter; 0 trains all weights.")
@click.option("--scorer", default="tox_block", show_default=True, help="Scorer of the objective: vader, rule:NAME ...")
@click.option("--second-scorer", default="toxic_classifier", show_default=True, help="Its second opinion.")
@click.option(
    "--higher-is-better/--lower-is-better",
    default=None,
    help="Which way the scorer's numbers go, if it does not say so itself.",
)
@click.option("--known-reward", is_flag=True, help="The scorer is annotator and reward as well.")
@click.option(
    "--skip", type=click.Choice(["empty", "tools", "faulty"]), default=None, help="Rows of all files that are left out."
)
@click.option("--package", type=PATH, metavar="FOLDER", help="Package whose conf/ it goes into.  [default: this checkout]")
def task(
    name: str, model: str, prompts: str, column: str, demonstrations: str, feedback: str, lora: int, scorer: str,
    second_scorer: str, higher_is_better: bool | None, known_reward: bool, skip: str | None, package: Path | None,
) -> None:  # fmt: skip
    """Write the yaml of a task over data of your own, and look at the data.

    What is not given is asked for.
    """
    from isoalign.tools import tasks  # loads torch, which the help does without
    from isoalign.tools.new_task import NewTask  # loads torch

    new_task = NewTask(
        name,
        model,
        prompts,
        column,
        demonstrations,
        feedback,
        lora,
        scorer,
        second_scorer,
        known_reward,
        skip or "",
        higher_is_better,
    )
    path = new_task.write(scaffold.task_folder(package))
    print(path, end="\n\n")
    if package and name not in options("task"):  # not installed: no command finds the task yet
        print(f"next: pip install -e {package} && isoalign task show {name}")
        return
    for part in tasks.show(task_named(name)):
        print(part, end="\n\n")
    print(f"next: isoalign run task={name} algorithm=dpo budget=tiny")
