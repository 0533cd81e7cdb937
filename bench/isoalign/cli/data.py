"""`isoalign data`: files of feedback."""

import click

from isoalign.data.formats import check as checks
from isoalign.data.prompts import load_split
from isoalign.runs.overrides import task_named


@click.group()
def data() -> None:
    """Look at a file of feedback before anything learns from it."""


@data.command()
@click.argument("file")
@click.option("--format", help="Format of the rows.  [default: by their columns]")
@click.option("--task", help="Look for the evaluation prompts of this task in the file.")
@click.option("--ngram", default=8, show_default=True, help="Words in a row that count as leakage.")
def check(file: str, format: str | None, task: str | None, ngram: int) -> int:
    """Report what is in a file and what is wrong with it.

    Covers format, counts, duplicates, lengths, leakage, balance and agreement. FILE is JSON lines, JSON, CSV, parquet, a
    folder of these or hf:NAME[:CONFIG][:SPLIT]. The exit status is 1 if training would refuse the file.
    """
    prompts: list[str] = []
    if task:
        config = task_named(task)
        prompts = [prompt.text for split in ("validation", "test") for prompt in load_split(config.prompts, split)]
    report = checks.check_file(file, format, prompts, ngram)
    print(report.text())
    return 1 if report.problems else 0
