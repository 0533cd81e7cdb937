"""`isoalign rescore`: metrics applied to old samples."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.files import save
from isoalign.core.progress import track
from isoalign.core.records import Card
from isoalign.evaluation import card as cards_on_disk
from isoalign.evaluation import metrics
from isoalign.evaluation.kept import stage_of
from isoalign.report import leaderboard


@click.command()
@click.argument("cards", nargs=-1, type=options.PATH, metavar="[CARD]...")
@click.option("--metric", "families", multiple=True, metavar="NAME", help="A family of metrics; may be given several times.")
@click.option("--all", "every", is_flag=True, help="Every family of metrics.")
@options.store
def rescore(cards: tuple[Path, ...], families: tuple[str, ...], every: bool, store: Path | None) -> None:
    """Apply metrics again to saved samples, without training.

    Without CARD, to every card under results/local. Either --metric or --all says which metrics. The cards and their boards
    are rewritten, or none of them if one cannot be scored.
    """
    if every == bool(families):
        raise click.UsageError("give either --metric NAME or --all")
    metrics.check(families)
    given = list(cards) or sorted(Path("results/local").glob("*/*.json"))
    typed: dict[Path, Path] = {}
    for path in given:  # which may name a card in several ways
        typed.setdefault(path.parent.resolve() / path.name, path)
    paths = list(typed)
    if not paths:
        raise UserError("no cards in results/local; name some, or make some with: isoalign run")
    from isoalign.tools.rescore import rescored  # loads torch, which the help does without

    old = {path: cards_on_disk.read_unchanged(path) for path in paths}
    opened = options.open_store(store)
    for card in old.values():  # nothing is written, or begun, unless all can be scored
        stage_of(card, opened, "scores")
    new: dict[Path, Card] = {}
    for path in track(paths, "rescoring"):
        try:
            new[path] = rescored(old[path], opened, families or None)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # of what its fields may hold
            raise UserError(f"{typed[path]} can't be scored again: {unforeseen(error)}") from error
    boards = {  # one that can't be made is found out before anything is written
        folder: leaderboard.build_board(
            [new.get(path) or cards_on_disk.read_unchanged(path) for path in sorted(folder.glob("*.json"))]
        )
        for folder in sorted({path.parent for path in paths})
    }
    for path, card in new.items():
        save(path, cards_on_disk.to_json(card, path))
        print(f"{typed[path]}  {_news(old[path], card)}")
    for folder, board in boards.items():
        shown = next(path.parent for known, path in typed.items() if known.parent == folder)
        print(leaderboard.write_board(board, shown))


def _news(old: Card, new: Card) -> str:
    """What scoring again changed: versions, and metrics that came, went or differ."""
    versions = [
        f"{name} {old.versions.get(name, 'new')} -> {v}" for name, v in new.versions.items() if old.versions.get(name) != v
    ]
    names = old.metrics.keys() | new.metrics.keys()
    changed = sum(old.metrics.get(name) != new.metrics.get(name) for name in names)
    beside = [name for name in ("flags", "values", "curve", "data") if getattr(old, name) != getattr(new, name)]
    counted = f"{changed} of {len(new.metrics)} metrics changed" if changed else "no metric changed"
    return "; ".join([*versions, counted, *(f"{name} changed" for name in beside)])
