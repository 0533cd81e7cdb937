"""`isoalign prompts` and `isoalign score`: completions that are made elsewhere."""

import json
import shlex
from pathlib import Path

import click

from isoalign.cli import options
from isoalign.data import prompts as texts
from isoalign.evaluation import card as cards_on_disk
from isoalign.runs.overrides import task_named


@click.command()
@click.argument("task")
@options.settings
def prompts(task: str, settings: tuple[str, ...]) -> None:
    """Print a task's evaluation prompts, to answer elsewhere.

    Each line is JSON with prompt_id, prompt and draws, the number of completions that `isoalign score` expects; of a
    conversation also with messages, for a model with a chat template. Settings task.KEY=VALUE say where the task differs from
    conf/task/TASK.yaml.
    """
    config = task_named(task, settings)
    for prompt in texts.load_split(config.prompts, config.evaluation.split):
        row = {"prompt_id": prompt.id, "prompt": prompt.text, "draws": config.evaluation.draws}
        if any(turn.role for turn in prompt.turns):
            row["messages"] = [{"role": turn.role, "content": turn.content} for turn in prompt.turns]
        print(json.dumps(row, ensure_ascii=False))


@click.command()
@click.option("--samples", type=options.PATH, required=True, metavar="FILE.jsonl", help="The completions.")
@click.option("--task", required=True, help="Task whose evaluation prompts they answer; see `isoalign prompts TASK`.")
@click.option("--name", help="Name of the row on the board.  [default: the file's name]")
@options.results
@options.store
@options.device
@options.settings
def score(
    samples: Path, task: str, name: str | None, results: Path, store: Path | None, device: str, settings: tuple[str, ...]
) -> None:
    """Score completions made elsewhere, for an unmetered row.

    Their card goes beside those of runs and shows on the board. A row of the file has prompt_id (or prompt) and completion
    and, where known, draw, id, kl, finished and scores. Samples of lm-eval, logs of Inspect as JSON and outputs of AlpacaEval
    are read as well. Settings task.KEY=VALUE say where the task differs from
    conf/task/TASK.yaml.
    """
    from isoalign.core import devices  # loads torch, which the help does without
    from isoalign.tools import external  # loads torch

    devices.use(device)
    config = task_named(task, settings)
    row = name or samples.stem
    words = ["isoalign", "score", "--samples", str(samples), "--task", config.name, "--name", row, *settings]
    card = external.score(samples, config, options.open_store(store), row, shlex.join(words))
    print(cards_on_disk.write_card(card, results / config.name))
