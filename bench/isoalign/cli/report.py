"""`isoalign report`: results as pages to look at."""

import webbrowser
from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core.errors import UserError
from isoalign.evaluation.card import read_cards
from isoalign.report.site.write import write_report


@click.command()
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@options.results
@click.option("-o", "--output", type=options.PATH, default="report", show_default=True, help="Folder of the pages.")
@options.store
@click.option("--open", "opened", is_flag=True, help="Open the first page in a browser.")
def report(tasks: tuple[str, ...], results: Path, output: Path, store: Path | None, opened: bool) -> None:
    """Write the results of tasks as pages that a browser opens from disk.

    Without TASK, of every task that has cards. The pages need no network. An older report in the folder is replaced.
    """
    folders = [results / task for task in tasks] or sorted(path for path in results.glob("*") if path.is_dir())
    cards = {folder.name: read for folder in folders if (read := read_cards(folder))}
    if missing := [str(folder) for folder in folders if tasks and folder.name not in cards] or (
        [str(results)] if not cards else []
    ):
        raise UserError(f"no cards in {missing[0]}; make some with `isoalign run` (or name another folder with --results)")
    page = write_report(cards, output, options.open_store(store))
    print(page)
    if opened:
        webbrowser.open(page.resolve().as_uri())
