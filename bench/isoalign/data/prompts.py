"""Prompts: RealToxicityPrompts and openings of clean comments, split by a hash of the normalised text."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from isoalign.config.task import PromptsConfig
from isoalign.core.access import forbidden
from isoalign.core.errors import UserError
from isoalign.core.text import normalise, opening, squeeze, text_fingerprint, unit_hash
from isoalign.data import assets, comments
from isoalign.data.formats import Turns
from isoalign.data.formats.conversation import read_turns
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.rows import Fault, Row

SPLITS = {"train": 0.60, "validation": 0.75, "test": 1.0}


@dataclass(frozen=True)
class Prompt:
    """One prompt. ``stratum``: ``toxic`` (by Perspective) or ``clean``, or that of its file; ``id``: fingerprint of the text;
    ``turns``: of a conversation."""

    id: str
    text: str
    source: str
    stratum: str
    turns: Turns = ()


def split_of(text: str) -> str:
    """The split of a prompt, independent of its source."""
    place = unit_hash(text, "prompts")
    return next(name for name, upper in SPLITS.items() if place < upper)


def load_split(config: PromptsConfig, wanted: str) -> list[Prompt]:
    """The prompts of one split, with a share of openings of clean comments, in the order of their hash.

    Raises UserError if the split has fewer prompts than asked for.
    """
    if config.source:
        return own_split(config, wanted)
    count = getattr(config, wanted)
    openings = round(count * config.clean)
    prompts = []
    strata = (("toxic", count - openings, load_toxic()), ("clean", openings, load_clean_openings(config.words)))
    for name, number, available in strata:
        ordered = sorted((p for p in available if split_of(p.text) == wanted), key=lambda p: text_fingerprint(p.text, "order"))
        if len(ordered) < number:
            raise UserError(
                f"task.prompts asks for {number} {name} {wanted} prompts, but there are {len(ordered)}; "
                f"lower task.prompts.{wanted}"
            )
        prompts += ordered[:number]
    return prompts


def own_split(config: PromptsConfig, wanted: str) -> list[Prompt]:
    """The prompts of one split of one's own sources, in the order of their hash.

    A source that is for this split alone gives all of its prompts; else the hash of a prompt's text, or of a conversation's
    first user turn, decides. A prompt that stands in the source of another split as well is that split's. Raises UserError
    naming file and row of a prompt that cannot be read, and for a split with no or too few prompts.
    """
    forbidden("the prompts")
    named = getattr(config, f"{wanted}_source", "")
    held_out = {
        prompt.id for other in other_sources(config, wanted) for prompt in _read_own(other, config.column, config.stratum)
    }
    source, count = named or config.source, getattr(config, wanted)
    different = _read_own(source, config.column, config.stratum)
    chosen = [
        prompt for prompt in different if prompt.id not in held_out and (named or split_of(opening_turn(prompt)) == wanted)
    ]
    if not chosen or len(chosen) < count:
        raise UserError(
            f"task.prompts asks for {count or 'all'} {wanted} prompts, but {source} has {len(chosen)} different ones for this "
            f"split; lower task.prompts.{wanted} or add prompts"
        )
    ordered = sorted(chosen, key=lambda prompt: text_fingerprint(prompt.text, "order"))
    return ordered[: count or None]


def read_prompts(source: str, column: str, stratum: str = "") -> tuple[Prompt, ...]:
    """The different prompts of a file or hf:NAME, of all splits. Raises UserError naming file and row, and if it has none."""
    if not (found := _read_own(source, column, stratum)):
        raise UserError(f"{source} has no prompts")
    return found


def other_sources(config: PromptsConfig, wanted: str) -> list[str]:
    """Sources of other splits, whose prompts this split must not have; of two such splits the later keeps them."""
    named = {split: source for split in SPLITS if (source := getattr(config, f"{split}_source", ""))}
    order = list(SPLITS)
    return [
        source
        for split, source in named.items()
        if split != wanted and (wanted not in named or order.index(split) > order.index(wanted))
    ]


@cache
def _read_own(source: str, column: str, stratum: str) -> tuple[Prompt, ...]:
    """The different prompts of a source, the first of those that are the same."""
    prompts: dict[str, Prompt] = {}
    for row in iterate_rows(source):
        try:
            if isinstance(row, Fault):
                raise row
            turns = _asked(row, column)
            label = str(row.get(stratum)) if stratum else ""
        except Fault as fault:
            raise UserError(f"{source}: {fault}") from fault
        text = as_text(turns)
        kept = turns if any(turn.role for turn in turns) else ()
        prompts.setdefault(normalise(text), Prompt(text_fingerprint(text), text, row.source or Path(source).name, label, kept))
    return tuple(prompts.values())


def _asked(row: Row, column: str) -> Turns:
    """The turns of a prompt: those of a conversation end with its last user turn."""
    turns = read_turns(row, column, row.get(column))
    while turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns or not turns[-1].content.strip() or turns[-1].role == "system":
        raise row.fault(f"{column} has no user turn with text")
    return turns


def as_text(turns: Turns) -> str:
    """Turns as plain text, the roles of a conversation written out."""
    if any(turn.role for turn in turns):
        return "".join(f"{turn.role}: {turn.content}\n\n" for turn in turns) + "assistant:"
    return "".join(turn.content for turn in turns)


def opening_turn(prompt: Prompt) -> str:
    """What decides the split of a prompt: its text, or the first user turn of a conversation."""
    return next((turn.content for turn in prompt.turns if turn.role == "user"), prompt.text)


def load_toxic() -> tuple[Prompt, ...]:
    """The RealToxicityPrompts of both embedded sources, without duplicates."""
    forbidden("the prompts")
    return _read_toxic()


@cache
def _read_toxic() -> tuple[Prompt, ...]:
    prompts: dict[str, Prompt] = {}
    file = assets.asset_path("rtp_scored") / "test.jsonl"
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            text = squeeze(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: row {number}: expected a JSON object with a text ({error})") from error
        prompts.setdefault(normalise(text), Prompt(text_fingerprint(text), text, "rtp_scored", "toxic"))
    for file in sorted(assets.asset_path("rtp_categories").glob("rtp_*.txt")):
        for text in map(squeeze, file.read_text(encoding="utf-8").splitlines()):
            if text:
                prompts.setdefault(normalise(text), Prompt(text_fingerprint(text), text, file.stem, "toxic"))
    return tuple(prompts.values())


def load_clean_openings(words: int) -> tuple[Prompt, ...]:
    """Openings of inoffensive comments whose role trains nothing."""
    forbidden("the prompts")
    return _read_clean_openings(words)


@cache
def _read_clean_openings(words: int) -> tuple[Prompt, ...]:
    prompts: dict[str, Prompt] = {}
    for comment in comments.load_comments("prompts"):
        if not comment.offensive and len(comment.text.split()) >= 2 * words:
            text = opening(comment.text, words)
            prompts.setdefault(normalise(text), Prompt(text_fingerprint(text), text, "comments", "clean"))
    return tuple(prompts.values())
