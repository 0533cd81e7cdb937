"""Publishing: put cards, small ones, into ``results/published/<task>/``, which is committed, and rebuild the boards there."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.places import is_plain
from isoalign.core.progress import track
from isoalign.core.records import Card
from isoalign.evaluation import packs
from isoalign.evaluation.card import MANY, file_name, published, published_texts, read_card, read_cards, read_unchanged
from isoalign.report import leaderboard


def publish(paths: Iterable[Path], results_root: Path) -> list[Path]:
    """Put cards, rounded, into ``results_root/published/<task>/`` and rebuild the boards there; returns the boards' paths.

    Raises UserError, with nothing copied, for a path that is not a card and for a card that would replace a different one.
    One whose part of the pack was lost is put there again. Others who publish into the same folders wait.
    """
    cards: dict[Path, Card] = {}
    sources: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            raise UserError(f"{path} is a folder; name the cards in it: {path}/*.json")
        card = published(read_unchanged(path))
        if not is_plain(card.task):
            raise UserError(f"{path}: task {card.task!r} can't be the name of a folder")
        copy = Path(results_root) / "published" / card.task / file_name(card)
        if cards.setdefault(copy, card) != card:
            raise _taken(copy, path)
        sources[copy] = path
    if not cards:
        raise UserError("no cards named; name those to publish, for example results/local/nano/*.json")
    folders = {folder: [card for copy, card in cards.items() if copy.parent == folder] for folder in {c.parent for c in cards}}
    for own in folders.values():  # what can't share a board is found before a folder is made
        leaderboard.ordered(own)
    with packs.held(folders):
        for copy, card in cards.items():
            if copy.exists() and not _has(copy, card):
                raise _taken(copy, sources[copy])
        for folder, own in folders.items():  # and so are cards that can't be read, before anything is copied
            others = [path for path in sorted(folder.glob("*.json")) if path not in cards]
            leaderboard.ordered([*_read_all(others), *own])
        _write(cards)
        return [_write_board(folder) for folder in sorted(folders)]


def _read_all(paths: list[Path]) -> list[Card]:
    """The cards in files. Raises UserError that names all that can't be read or were renamed: they are repaired at once."""
    found: list[Card] = []
    wrong: dict[str, UserError] = {}
    for path in track(paths, "reading cards", least=MANY):
        try:
            found.append(read_unchanged(path))
            if (name := file_name(found[-1])) != path.name:  # the pack has its values by that name
                raise UserError(f"{path} must be named {name}, as its card is; rename it")
        except UserError as error:
            wrong[path.name] = error
    if wrong:
        (_, first), *more = wrong.items()
        named = ", ".join(name for name, _ in more)
        raise UserError(f"{first}; {len(more)} more cards can't be read: {named}" if more else str(first)) from first
    return found


def _taken(copy: Path, path: Path) -> UserError:
    return UserError(f"{copy} holds another card; remove it first to replace it by {path}")


def _has(copy: Path, card: Card) -> bool:
    """Whether a published file is of the same card, even if the pack beside it has lost or changed its part of it."""
    try:
        if published(read_card(copy)) == card:
            return True
    except UserError:
        pass
    try:
        return bool(json.loads(copy.read_text(encoding="utf-8")) == json.loads(published_texts(card, copy)[0]))
    except (OSError, ValueError, RecursionError):
        return False


def write_published(cards: Mapping[Path, Card]) -> None:
    """Write cards, rounded, to their places, each with its line in the pack of the folder."""
    with packs.held({place.parent for place in cards}):
        _write(cards)


def _write(cards: Mapping[Path, Card]) -> None:
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
