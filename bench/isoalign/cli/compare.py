"""`isoalign compare`: two methods side by side."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core import remote
from isoalign.core.json_output import to_json
from isoalign.report import compare as comparison


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--task", default="nano", show_default=True, help="Task of the board that has the rows A and B.")
@options.results
@options.as_json
@click.pass_context
def compare(context: click.Context, first: str, second: str, task: str, results: Path, as_json: bool) -> None:
    """Compare two methods or cards, paired, on every metric.

    A and B are each the path or URL of a card, or the name of a row of the board. Differences are paired prompt by prompt; the
    last lines give the verdict in words.
    """
    first, second = (str(context.with_resource(remote.file(name))) for name in (first, second))
    found = comparison.pair_up(*comparison.sides(first, second, results / task))
    print(to_json(found.data()) if as_json else found.text())
