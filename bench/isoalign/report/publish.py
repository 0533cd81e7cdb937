"""Publishing: put cards, small ones, into ``results/published/<task>/``, which is committed, and rebuild the boards there."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.places import is_plain
from isoalign.core.records import Card
from isoalign.evaluation import packs
from isoalign.evaluation.card import file_name, published, published_texts, read_card, read_cards, read_unchanged
from isoalign.report import leaderboard


def publish(paths: Iterable[Path], results_root: Path) -> list[Path]:
    """Put cards, rounded, into ``results_root/published/<task>/`` and rebuild the boards there; returns the boards' paths.

    Raises UserError, with nothing copied, for a path that is not a card and for a card that would replace a different one.
    """
    cards: dict[Path, Card] = {}
    for path in map(Path, paths):
        if path.is_dir():
            raise UserError(f"{path} is a folder; name the cards in it: {path}/*.json")
        card = published(read_unchanged(path))
        if not is_plain(card.task):
            raise UserError(f"{path}: task {card.task!r} can't be the name of a folder")
        copy = Path(results_root) / "published" / card.task / file_name(card)
        if cards.setdefault(copy, card) != card or (copy.exists() and published(read_card(copy)) != card):
            raise UserError(f"{copy} holds another card; remove it first to replace it by {path}")
    if not cards:
        raise UserError("no cards named; name those to publish, for example results/local/nano/*.json")
    folders = sorted({copy.parent for copy in cards})
    for folder in folders:  # cards that can't be read, or can't share a board, are found before anything is copied
        leaderboard.ordered([*read_cards(folder), *(card for copy, card in cards.items() if copy.parent == folder)])
    write_published(cards)
    return [_write_board(folder) for folder in folders]


def write_published(cards: Mapping[Path, Card]) -> None:
    """Write cards, rounded, to their places, each with its line in the pack of the folder."""
    texts = {place: published_texts(published(card), place) for place, card in cards.items()}
    for folder in {place.parent for place in texts}:  # first the pack, which may hold more than the cards beside it ask for
        lines = {place.name: line for place, (_, line) in texts.items() if place.parent == folder}
        packs.write(folder, lines, kept={path.name for path in folder.glob("*.json")})
    for place, (text, _) in texts.items():
        save(place, text)


def _write_board(folder: Path) -> Path:
    cards = read_cards(folder)
    with leaderboard.naming_its_card(cards):
        return leaderboard.write_board(leaderboard.build_board(cards, folder.name), folder)
