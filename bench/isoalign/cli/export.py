"""`isoalign export`: the policy of a card, for transformers and PEFT, or results, for other tools."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.evaluation.card import read_unchanged

FORMATS = ("every_eval_ever", "eval_results", "model_index", "lm_eval", "inspect", "parquet")


@click.command()
@click.argument("card", type=options.PATH)
@click.argument("folder", type=options.PATH)
@click.option("--merge", is_flag=True, help="Merge an adapter into its base.")
@click.option("--push", metavar="NAME", help="Upload the folder to this repository of the hub, private if it is new.")
@click.option("--to", "form", metavar="FORMAT", help="Write results instead: " + ", ".join(FORMATS) + ".")
@click.option("--dataset", default="", metavar="NAME", help="The benchmark's data set on the hub, for eval_results.")
@options.store
def export(
    card: Path, folder: Path, merge: bool, push: str | None, form: str | None, dataset: str, store: Path | None
) -> None:
    """Write the policy of a card to a folder that transformers and PEFT load.

    FOLDER is new or empty. It gets the weights, or the adapter and the model under it, the tokenizer, a generation
    configuration that never samples what isoalign bans, and a model card with the result. It needs neither isoalign nor its
    store.

    With --to, the results of CARD, or of all cards of a folder of them, are written for other tools, with samples where the
    store holds them.
    """
    if form:
        if merge or push:
            raise click.UsageError("--to writes results, and --merge and --push are of policies")
        from isoalign.tools.export_results import export_results  # loads torch, which the help does without

        print(export_results(card, options.open_store(store), folder, form, dataset))
        return
    read = read_unchanged(card)
    from isoalign.tools import export as exporting  # loads torch, which the help does without

    opened = options.open_store(store)
    if push:
        exporting.check_push(read, opened, merge)
    exporting.export(read, opened, folder, merge)
    if push:
        print(exporting.push(folder, push))
    print(folder)
