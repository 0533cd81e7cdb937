"""`isoalign store`: what runs have made and keep."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core.display import clean


@click.group()
def store() -> None:
    """Look at the stages that runs have made, and delete what can go."""


@store.command()
@options.store
def ls(store: Path | None) -> None:
    """Say what is in the store, by kind of stage, with sizes."""
    from isoalign.tools import storekeeping  # loads numpy, which the help does without

    opened = options.open_store(store)
    print(opened.root, end="\n\n")
    for part in storekeeping.listing(opened):
        print(part)


@store.command()
@options.store
def verify(store: Path | None) -> int:
    """Read every file of every stage and compare it with its digest.

    The exit status is 1 if anything was changed. A run makes a changed stage again by itself.
    """
    from isoalign.tools import storekeeping  # loads numpy, which the help does without

    found = list(storekeeping.verified(options.open_store(store)))
    wrong = [line for _, lines in found for line in lines]
    for line in wrong:
        print(clean(f"CHANGED: {line}"))
    print(f"{len(found):,} stages, {sum(not lines for _, lines in found):,} of them as they were made")
    return 1 if wrong else 0


@store.command()
@click.argument("stages", nargs=-1, metavar="[STAGE]...")
@click.option("--unnamed", is_flag=True, help="Also the stages that no card names.")
@click.option(
    "--results", multiple=True, type=options.PATH, default=["results"], show_default=True, help="Folders where cards are."
)
@click.option("--yes", is_flag=True, help="Delete; without it nothing is deleted.")
@options.store
def prune(stages: tuple[str, ...], unnamed: bool, results: tuple[Path, ...], yes: bool, store: Path | None) -> None:
    """Delete what processes that have ended left behind: unfinished work, locks, damaged stages.

    With STAGE (a key, or the name of its folder) that stage as well, and all that were made from it. Says first what would go;
    --yes deletes it. Do not prune while runs begin: a stage that a new run needs is made again. --unnamed is refused while a
    stage is being made.
    """
    from isoalign.tools import storekeeping  # loads numpy, which the help does without

    opened = options.open_store(store)
    chosen = {item.path: item for item in storekeeping.leftovers(opened)}
    if stages:
        chosen |= {item.path: item for item in storekeeping.descendants(opened, stages)}
    if unnamed:
        chosen |= {item.path: item for item in storekeeping.unnamed(opened, results)}
    storekeeping.check(opened)
    sizes = {path: item.size for path, item in chosen.items()}
    for path in chosen:
        print(f"{sizes[path] / storekeeping.GIB:8.3f} GiB  {clean(path.name)}")
    print(f"{sum(sizes.values()) / storekeeping.GIB:8.3f} GiB  {'deleted' if yes else 'would go; --yes deletes it'}")
    if yes:
        storekeeping.remove(chosen.values())
