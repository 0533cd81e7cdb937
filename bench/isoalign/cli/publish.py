"""`isoalign publish`: cards and boards that are kept."""

from pathlib import Path

import click

from isoalign.cli.options import at_hand
from isoalign.core import remote
from isoalign.report import publish as publishing


@click.command()
@click.argument("cards", nargs=-1, required=True, metavar="CARD...")
@click.option(
    "--results", callback=at_hand, default="results", show_default=True,
    help="Folder that contains published/, or a URL (s3://...).",
)  # fmt: skip
@click.pass_context
def publish(context: click.Context, cards: tuple[str, ...], results: Path) -> None:
    """Copy cards to results/published/TASK/ and rebuild its board.

    Cards may be URLs, too.
    """
    for path in publishing.publish([context.with_resource(remote.file(card)) for card in cards], results):
        print(remote.named(path))
