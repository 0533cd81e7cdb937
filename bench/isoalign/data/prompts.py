"""The prompts: RealToxicityPrompts and openings of clean comments, split by a hash of the normalised text."""

import json
from dataclasses import dataclass
from functools import cache

from isoalign.config.task import PromptsConfig
from isoalign.core.access import forbidden
from isoalign.core.errors import UserError
from isoalign.core.text import fingerprint, normalise, opening, squeeze, unit_hash
from isoalign.data import assets, comments

SPLITS = {"train": 0.60, "validation": 0.75, "test": 1.0}


@dataclass(frozen=True)
class Prompt:
    """One prompt. ``stratum``: ``toxic`` (Perspective called it so) or ``clean``; ``id``: fingerprint of the text."""

    id: str
    text: str
    source: str
    stratum: str


def split(text: str) -> str:
    """The split that a prompt belongs to, whatever its source."""
    place = unit_hash(text, "prompts")
    return next(name for name, upper in SPLITS.items() if place < upper)


def of(config: PromptsConfig, wanted: str) -> list[Prompt]:
    """The prompts of one split, a share of them openings of clean comments, in the order of their hash.

    Raises UserError when the split does not hold as many as are asked for.
    """
    count = getattr(config, wanted)
    openings = round(count * config.clean)
    picked = []
    for name, number, pool in [("toxic", count - openings, toxic()), ("clean", openings, clean_openings(config.words))]:
        own = sorted((p for p in pool if split(p.text) == wanted), key=lambda p: fingerprint(p.text, "order"))
        if len(own) < number:
            raise UserError(f"task.prompts: {number} {name} {wanted} prompts asked for, there are {len(own)}")
        picked += own[:number]
    return picked


def toxic() -> tuple[Prompt, ...]:
    """The RealToxicityPrompts of both embedded sources, equal texts once."""
    forbidden("the prompts")
    return _toxic()


@cache
def _toxic() -> tuple[Prompt, ...]:
    found: dict[str, Prompt] = {}
    file = assets.path("rtp_scored") / "test.jsonl"
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            text = squeeze(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: row {number}: expected a JSON object with a text ({error})") from error
        found.setdefault(normalise(text), Prompt(fingerprint(text), text, "rtp_scored", "toxic"))
    for file in sorted(assets.path("rtp_categories").glob("rtp_*.txt")):
        for text in map(squeeze, file.read_text(encoding="utf-8").splitlines()):
            if text:
                found.setdefault(normalise(text), Prompt(fingerprint(text), text, file.stem, "toxic"))
    return tuple(found.values())


def clean_openings(words: int) -> tuple[Prompt, ...]:
    """Openings of inoffensive comments of the role that nothing was trained on."""
    forbidden("the prompts")
    return _clean_openings(words)


@cache
def _clean_openings(words: int) -> tuple[Prompt, ...]:
    found: dict[str, Prompt] = {}
    for comment in comments.load("prompts"):
        if not comment.offensive and len(comment.text.split()) >= 2 * words:
            text = opening(comment.text, words)
            found.setdefault(normalise(text), Prompt(fingerprint(text), text, "comments", "clean"))
    return tuple(found.values())
