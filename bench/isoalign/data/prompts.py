"""Prompts: RealToxicityPrompts and openings of clean comments, split by a hash of the normalised text."""

import json
from dataclasses import dataclass
from functools import cache

from isoalign.config.task import PromptsConfig
from isoalign.core.access import forbidden
from isoalign.core.errors import UserError
from isoalign.core.text import normalise, opening, squeeze, text_fingerprint, unit_hash
from isoalign.data import assets, comments

SPLITS = {"train": 0.60, "validation": 0.75, "test": 1.0}


@dataclass(frozen=True)
class Prompt:
    """One prompt. ``stratum``: ``toxic`` (by Perspective) or ``clean``; ``id``: fingerprint of the text."""

    id: str
    text: str
    source: str
    stratum: str


def split_of(text: str) -> str:
    """The split of a prompt, independent of its source."""
    place = unit_hash(text, "prompts")
    return next(name for name, upper in SPLITS.items() if place < upper)


def load_split(config: PromptsConfig, wanted: str) -> list[Prompt]:
    """The prompts of one split, with a share of openings of clean comments, in the order of their hash.

    Raises UserError if the split has fewer prompts than asked for.
    """
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
