"""Options and arguments that several commands share."""

from pathlib import Path

import click

from isoalign.core import remote
from isoalign.core.store import Store
from isoalign.data import assets

PATH = click.Path(path_type=Path)


def at_hand(context: click.Context, _: click.Parameter, value: str) -> Path:
    """A folder, or the URL of one, as a path until the command ends."""
    return context.with_resource(remote.folder(value))


def fetched(context: click.Context, _: click.Parameter, value: str) -> Path:
    """A file, or the URL of one, as a path until the command ends."""
    return context.with_resource(remote.file(value))


results = click.option(
    "--results", callback=at_hand, default="results/local", show_default=True,
    help="Folder of the cards, with one folder per task, or a URL (s3://...).",
)  # fmt: skip
store = click.option("--store", type=PATH, help="Folder of the stages.  [default: store/ in the user cache]")
device = click.option("--device", default="auto", show_default=True, help="Where models run, as device= of a run.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and notes to stderr.")
settings = click.argument("settings", nargs=-1, metavar="[task.KEY=VALUE]...")


def open_store(folder: Path | None) -> Store:
    """The store in a folder, or that of the user cache."""
    return Store(folder or assets.cache_dir() / "store")
