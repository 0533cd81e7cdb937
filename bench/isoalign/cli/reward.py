"""`isoalign reward`: the reward model of a task."""

import shlex
from pathlib import Path

import click

from isoalign.cli import options
from isoalign.runs.overrides import task_named


@click.command()
@click.argument("task")
@click.option("--by", default="annotator", show_default=True, help="Whose verdicts it learns from: annotator or judge.")
@options.results
@options.store
@options.device
@options.settings
def reward(task: str, by: str, results: Path, store: Path | None, device: str, settings: tuple[str, ...]) -> None:
    """Train a task's reward model if needed and write its card.

    The card goes to TASK/reward/ in the folder of results. Settings task.KEY=VALUE say where the task differs from
    conf/task/TASK.yaml.
    """
    from isoalign.core import devices  # loads torch, which the help does without
    from isoalign.report.pages.reward_model import reward_text  # loads torch
    from isoalign.runs import reward_card  # loads torch

    devices.use(device)
    config = task_named(task, settings)
    command = shlex.join(["isoalign", "reward", task, "--by", by, *settings])
    card = reward_card.make_reward_card(config, options.open_store(store), by, command)
    print("\n".join([reward_text(card), *map(str, reward_card.write_reward_card(card, results))]))
