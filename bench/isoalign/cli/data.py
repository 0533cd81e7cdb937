"""`isoalign data`: files of feedback."""

import re

import click

from isoalign.core.errors import UserError
from isoalign.data.formats import check as checks
from isoalign.data.formats.rows import SKIPS
from isoalign.data.prompts import load_split, question, turns_of
from isoalign.runs.overrides import task_named


@click.group()
def data() -> None:
    """Look at a file of feedback before anything learns from it."""


@data.command()
@click.argument("file")
@click.option("--format", help="Format of the rows.  [default: by their columns]")
@click.option(
    "--columns", multiple=True, metavar="NAME=COLUMN", help="The file's column for a format's: prompt=question,chosen=a."
)
@click.option("--skip", type=click.Choice(SKIPS), help="Leave out and count rows that would be refused.")
@click.option("--task", help="Look for the evaluation prompts of this task in the file.")
@click.option("--ngram", default=8, show_default=True, help="Words in a row that count as leakage.")
def check(file: str, format: str | None, columns: tuple[str, ...], skip: str | None, task: str | None, ngram: int) -> int:
    """Report what is in a file and what is wrong with it.

    Covers format, counts, duplicates, lengths, leakage, balance and agreement. FILE is JSON lines, JSON, CSV, parquet, a
    folder of these or hf:NAME[:CONFIG][@REVISION][#SPLIT]. The exit status is 1 if training would refuse the file.
    """
    prompts, talk = list[str](), set[bool]()
    if task:
        config = task_named(task)
        asked = [turns_of(each) for split in ("validation", "test") for each in load_split(config.prompts, split)]
        prompts = list(map(question, asked))
        always = config.model.template == "always" or bool(config.model.template_file)  # a plain prompt is a user turn, too
        talk = set() if always else {any(turn.role for turn in turns) for turns in asked}
    found, conversations = _mapping(columns), talk.pop() if len(talk) == 1 else None
    report = checks.check_file(file, format, prompts, ngram, conversations=conversations, columns=found, skip=skip or "")
    print(report.text())
    return 1 if report.problems else 0


def _mapping(columns: tuple[str, ...]) -> dict[str, str]:
    """The columns named by ``--columns``, or in braces as a task has them."""
    given = [pair.strip() for words in columns for pair in words.strip(" {}").split(",")]
    pairs = [re.split(r"=|:\s", pair, maxsplit=1) for pair in given]
    if odd := next((pair for pair in pairs if len(pair) != 2 or not all(map(str.strip, pair))), None):
        raise UserError(f"--columns takes NAME=COLUMN, as in prompt=question,chosen=a, not {odd[0]!r}")
    return {new.strip(): old.strip() for new, old in pairs}
