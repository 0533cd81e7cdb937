"""`isoalign compare`: two methods side by side."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core import remote
from isoalign.core.errors import UserError
from isoalign.core.json_output import to_json
from isoalign.data.logs.read import read_log
from isoalign.report import compare as comparison
from isoalign.report.compare_logs import compare_logs

LOGS = (".json", ".jsonl", ".eval")


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--task", default="nano", show_default=True, help="Task of the board that has the rows A and B.")
@click.option("--matched", is_flag=True, help="Of logs: compare rows that both have, and say how many they are.")
@options.results
@options.as_json
@click.pass_context
def compare(context: click.Context, first: str, second: str, task: str, matched: bool, results: Path, as_json: bool) -> None:
    """Compare two methods or cards, paired, on every metric.

    A and B are each the path or URL of a card, or the name of a row of the board; or both are logs of another tool: samples of
    lm-eval, logs of Inspect as JSON, outputs or annotations of AlpacaEval. Differences are paired prompt by prompt; the last
    lines give the verdict in words.
    """
    first, second = (str(context.with_resource(remote.file(name))) for name in (first, second))
    a, b = (read_log(Path(name)) if name.endswith(LOGS) else None for name in (first, second))
    if a and b:
        found = compare_logs(a, b, matched)
    elif a or b:
        raise UserError(f"{second if a else first} is no log of lm-eval, Inspect or AlpacaEval, as the other side is")
    else:
        found = comparison.pair_up(*comparison.sides(first, second, results / task))
    print(to_json(found.data()) if as_json else found.text())
