"""`isoalign verify`: whether cards are what they were."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core.complaint import say
from isoalign.core.display import clean
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.progress import track


@click.command()
@click.argument("cards", nargs=-1, required=True, type=options.PATH, metavar="CARD...")
@options.store
def verify(cards: tuple[Path, ...], store: Path | None) -> int:
    """Check that a card and all that led to it are unchanged.

    Seals, key, the files of every stage in the store and every metric that can be computed again are compared. The exit
    status is 1 if anything was changed.
    """
    from isoalign.tools.verify import verify as verify_card  # loads torch, which the help does without

    wrong = 0
    for path in track(cards, "verifying", least=5):
        try:
            report = verify_card(path, options.open_store(store))
        except Exception as error:  # the others are still looked at
            say(str(error) if isinstance(error, UserError) else f"{path} can't be checked: {unforeseen(error)}")
            wrong += 1
            continue
        wrong += len(report.wrong)
        lines = [("ok", line) for line in report.checked] + [("not checked", line) for line in report.unchecked]
        for mark, line in [*lines, *(("CHANGED", line) for line in report.wrong)]:
            print(clean(f"{path.name}: {mark}: {line}"))
    return 1 if wrong else 0
