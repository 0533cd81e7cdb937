"""`isoalign assets`: the embedded models and data."""

import click

from isoalign.core.errors import UserError, unknown
from isoalign.data import assets as embedded


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def assets(names: tuple[str, ...]) -> None:
    """Fetch and verify the embedded models and data.

    Without NAME, all of them. A run fetches what it lacks by itself; this fetches ahead, for a machine that goes offline.
    """
    for name in names:
        if name not in embedded.ASSETS:
            raise UserError(unknown("asset", name, sorted(embedded.ASSETS)))
    for name in names or sorted(embedded.ASSETS):
        print(f"{name:<18} {embedded.asset_path(name)}", flush=True)
