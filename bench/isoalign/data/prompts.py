"""Prompts: RealToxicityPrompts and openings of clean comments, split by a hash of the normalised text."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from isoalign.config.task import PromptsConfig
from isoalign.core.access import forbidden
from isoalign.core.errors import UserError
from isoalign.core.text import normalise, opening, squeeze, text_fingerprint, unit_hash
from isoalign.data import assets, comments, formats
from isoalign.data.formats import Turn, Turns
from isoalign.data.formats.conversation import read_turns
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.rows import EMPTY, FAULTY, Fault, Row
from isoalign.data.formats.types import SKIPPED, Node

APART = 2  # in keys: what of a split's prompts is left to others; raise it when that changes
SPLITS = {"train": 0.60, "validation": 0.75, "test": 1.0}


class Asked(NamedTuple):
    """What a row asks: the turns of a prompt, its stratum, the source that the row names, and the right answer."""

    turns: Turns
    stratum: str
    source: str
    reference: str = ""
    row: Row | None = None


@dataclass(frozen=True)
class Prompt:
    """One prompt. ``stratum``: ``toxic`` (by Perspective) or ``clean``, or that of its file; ``id``: fingerprint of the text;
    ``turns``: of a conversation; ``reference``: the right answer, if its file has one."""

    id: str
    text: str
    source: str
    stratum: str
    turns: Turns = ()
    reference: str = ""

    def row(self) -> dict[str, Any]:
        """The prompt as a row of a stage; without a right answer that there isn't."""
        return {name: value for name, value in asdict(self).items() if name != "reference" or value}


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
    first user turn, decides. A prompt that stands in the source of another split as well is that split's, be it under another
    system prompt. Raises UserError naming file and row of a prompt that cannot be read, and for a split with no or too few
    prompts.
    """
    forbidden("the prompts")
    named = getattr(config, f"{wanted}_source", "")
    others = [prompt for other in other_sources(config, wanted) for prompt in read_own(other, config)]
    held_out = {mark for prompt in others for mark in _marks(prompt)}
    source, count = named or config.source, getattr(config, wanted)
    different = read_own(source, config)
    chosen = [
        prompt
        for prompt in different
        if held_out.isdisjoint(_marks(prompt)) and (named or split_of(opening_turn(prompt)) == wanted)
    ]
    if not chosen or len(chosen) < count:
        raise UserError(
            f"task.prompts asks for {count or 'all'} {wanted} prompts, but {source} has {len(chosen)} different ones for this "
            f"split; lower task.prompts.{wanted} or add prompts"
        )
    ordered = sorted(chosen, key=lambda prompt: text_fingerprint(prompt.text, "order"))
    return ordered[: count or None]


def _marks(prompt: Prompt) -> set[str]:
    """What tells that a prompt is asked elsewhere too, whatever its case and spaces: its text, or its first user turn."""
    return {prompt.id, text_fingerprint(opening_turn(prompt), "asked")}


def other_sources(config: PromptsConfig, wanted: str) -> list[str]:
    """Sources of other splits, whose prompts this split must not have; of two such splits the later keeps them."""
    named = {split: source for split in SPLITS if (source := getattr(config, f"{split}_source", ""))}
    order = list(SPLITS)
    return [
        source
        for split, source in named.items()
        if split != wanted and (wanted not in named or order.index(split) > order.index(wanted))
    ]


def read_own(source: str, config: PromptsConfig) -> tuple[Prompt, ...]:
    """The different prompts of a file or hf:NAME, of all splits. Raises UserError naming file and row, and if it has none."""
    found, _ = _read_own(*_arguments(source, config))
    if not found:
        raise UserError(f"{source} has no prompts")
    return found


def count_skipped(config: PromptsConfig) -> int:
    """Rows of all of one's own sources that are left out by ``task.prompts.skip``."""
    sources = {config.source, config.validation_source, config.test_source} - {""} if config.skip else set[str]()
    return sum(_read_own(*_arguments(each, config))[1] for each in sources)


def _arguments(source: str, config: PromptsConfig) -> tuple[str, str, str, str, str, int, str, int]:
    changed = Path(source).stat().st_mtime_ns if Path(source).is_file() else 0  # between two runs of a sweep, say
    return source, config.column, config.stratum, config.reference, config.format, config.opening, config.skip, changed


@cache
def _read_own(
    source: str, column: str, stratum: str, reference: str, format: str, words: int, skip: str, changed: int
) -> tuple[tuple[Prompt, ...], int]:
    """The different prompts of a source, the first of those that are the same, and the number of rows that are skipped.

    One that has two right answers is refused.
    """
    prompts: dict[str, Prompt] = {}
    skipped = 0
    for asked in _of_format(source, format, skip) if format else _of_column(source, column, stratum, reference, skip):
        if asked is None:
            skipped += 1
            continue
        turns = _opening(asked.turns, words)
        text, right, origin = as_text(turns), asked.reference, asked.source or Path(source).name
        kept = turns if any(turn.role for turn in turns) else ()
        first = prompts.setdefault(normalise(text), Prompt(text_fingerprint(text), text, origin, asked.stratum, kept, right))
        if asked.row and first.reference != right:
            fault = asked.row.fault(f"the same prompt has two right answers in {reference}: {first.reference!r} and {right!r}")
            raise UserError(f"{source}: {fault}")
    return tuple(prompts.values()), skipped


def _opening(turns: Turns, words: int) -> Turns:
    """The first words of a plain text; a conversation is its own opening."""
    return (Turn("", opening(turns[0].content, words)),) if words and not turns[0].role else turns


def _of_column(source: str, column: str, stratum: str, reference: str, skip: str) -> Iterator[Asked | None]:
    """What each row asks, None for one that is skipped."""
    for row in iterate_rows(source):
        try:
            if isinstance(row, Fault):
                raise row
            label, right = str(row.nested(stratum)) if stratum else "", _right_answer(row, reference) if reference else ""
            yield Asked(_asked(row, column), label, row.source, right, row)
        except Fault as fault:
            if skip not in (fault.kind, FAULTY):
                hint = f"; task.prompts.skip={fault.kind} leaves such rows out" if fault.kind != FAULTY else ""
                raise UserError(f"{source}: {fault}{_other_way(source, row, column) or hint}") from fault
            yield None


def _of_format(source: str, format: str, skip: str) -> Iterator[Asked | None]:
    """The same of the rows of feedback or demonstrations."""
    for row in formats.open_file(source, format, skip=skip).rows:
        for record in row.records:
            if isinstance(record, formats.Remark):
                if record.what.startswith(SKIPPED):
                    yield None
            elif not isinstance(record, Node):
                yield Asked(record.prompt, "", record.source)


def _other_way(source: str, row: Row | Fault, column: str) -> str:
    """How to read the prompts of a file that has no such column, where there is a way."""
    if isinstance(row, Fault) or row.has(column):
        return ""
    try:
        format = formats.open_file(source).format
    except UserError:
        return f"; found: {', '.join(map(str, row.values))}"
    return f"; task.prompts.format={format} takes the prompts of this file"


def _right_answer(row: Row, column: str) -> str:
    value = row.nested(column)
    if isinstance(value, float):  # of a column with a gap whole numbers come as floats
        value = int(value) if value.is_integer() else value if math.isfinite(value) else None
    text = "" if isinstance(value, bool) or not isinstance(value, str | int | float) else str(value).strip()
    if not text:
        raise row.fault(f"{column} must hold the right answer, a text or a number, not {value!r}")
    return text


def _asked(row: Row, column: str) -> Turns:
    """The turns of a prompt: those of a conversation end with its last user turn."""
    turns = read_turns(row, column, row.nested(column))
    while turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns or not turns[-1].content.strip() or turns[-1].role == "system":
        raise row.fault(f"{column} has no user turn with text", EMPTY)
    return turns


def as_text(turns: Turns) -> str:
    """Turns as plain text, the roles of a conversation written out."""
    if any(turn.role for turn in turns):
        return "".join(f"{turn.role}: {turn.content}\n\n" for turn in turns) + "assistant:"
    return "".join(turn.content for turn in turns)


def opening_turn(prompt: Prompt) -> str:
    """What decides the split of a prompt: its text, or the first user turn of a conversation."""
    return next((turn.content for turn in prompt.turns if turn.role == "user"), prompt.text)


def of_one_conversation(prompts: Sequence[Prompt]) -> int:
    """How many prompts begin as another of them does, as turns of one conversation do."""
    return sum(count for count in Counter(map(opening_turn, prompts)).values() if count > 1)


def question(turns: Turns) -> str:
    """What tells a prompt in other texts: the text of a plain one, or the longest user turn of a conversation."""
    return max((turn.content for turn in turns if turn.role in ("", "user")), key=len, default=as_text(turns))


def turns_of(prompt: Prompt) -> Turns:
    """The turns of a prompt; a plain one is a single turn without role."""
    return prompt.turns or (Turn("", prompt.text),)


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
