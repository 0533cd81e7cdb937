"""`isoalign show`: a card for people."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core.complaint import say
from isoalign.core.json_output import to_json
from isoalign.evaluation.card import read_card
from isoalign.evaluation.seals import broken_seals
from isoalign.report.as_data import card_data
from isoalign.report.pages.card import card_text


@click.command()
@click.argument("card", callback=options.fetched)
@options.as_json
def show(card: Path, as_json: bool) -> None:
    """Show a card: what was run, what it cost and what came out.

    What to know before believing it stands below. CARD is a path or a URL. With --json it has all that a card has, but for
    values by prompt and what plots read.
    """
    read = read_card(card)
    if broken := broken_seals(read):
        say(f"{card} was changed since it was written: {', '.join(broken[:3])}; `isoalign verify` says more")
    print(to_json(card_data(read) | {"unchanged": not broken}) if as_json else card_text(read))
