"""`isoalign export`: the policy of a card, for transformers and PEFT."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.evaluation.card import read_unchanged


@click.command()
@click.argument("card", type=options.PATH)
@click.argument("folder", type=options.PATH)
@click.option("--merge", is_flag=True, help="Merge an adapter into its base.")
@click.option("--push", metavar="NAME", help="Upload the folder to this repository of the hub, private if it is new.")
@options.store
def export(card: Path, folder: Path, merge: bool, push: str | None, store: Path | None) -> None:
    """Write the policy of a card to a folder that transformers and PEFT load.

    FOLDER is new or empty. It gets the weights, or the adapter and the model under it, the tokenizer, a generation
    configuration that never samples what isoalign bans, and a model card with the result. It needs neither isoalign nor its
    store.
    """
    read = read_unchanged(card)
    from isoalign.tools import export as exporting  # loads torch, which the help does without

    opened = options.open_store(store)
    if push:
        exporting.check_push(read, opened, merge)
    exporting.export(read, opened, folder, merge)
    if push:
        print(exporting.push(folder, push))
    print(folder)
