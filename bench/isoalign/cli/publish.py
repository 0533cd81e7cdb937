"""`isoalign publish`: cards and boards that are kept."""

from pathlib import Path

import click

from isoalign.cli.options import PATH
from isoalign.report import publish as publishing


@click.command()
@click.argument("cards", nargs=-1, required=True, type=PATH, metavar="CARD...")
@click.option("--results", type=PATH, default="results", show_default=True, help="Folder that contains published/.")
def publish(cards: tuple[Path, ...], results: Path) -> None:
    """Copy cards to results/published/TASK/ and rebuild its board."""
    for path in publishing.publish(cards, results):
        print(path)
