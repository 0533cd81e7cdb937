"""Two candidates and a verdict on them, in the columns of several published data sets.

Google's RLHF tuning (``choice``), SHP, HelpSteer2's preferences, HelpSteer3, PKU-SafeRLHF, WebGPT's comparisons,
summarize_from_feedback and the votes of Chatbot Arena.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from isoalign.data.formats import conversation
from isoalign.data.formats.rows import Row, quoted
from isoalign.data.formats.types import TIE, Comparison, Record, Remark, Turns, unless_equal

_PKU = ("better_response_id", "safer_response_id")
_ARENA = ("winner_model_a", "winner_model_b", "winner_tie")
_VOTES = {
    "model_a": 0, "model_b": 1, "response_a": 0, "response_b": 1, "a": 0, "b": 1,
    "tie": None, "tie (bothbad)": None, "tie (both bad)": None, "both_bad": None, "bothbad": None,
}  # fmt: skip
_STRONGEST = 3  # of the strengths of preference in HelpSteer

Read = tuple[Turns, list[Turns]]


def records(row: Row) -> Iterator[Record]:
    """The row's comparison with the position of the chosen candidate, or a tie."""
    layout = next((each for each in _LAYOUTS if row.has(*each.columns)), _LAYOUTS[0])
    prompt, answers = conversation.with_system(row, *layout.read(row))
    place = layout.verdict(row)
    if place is None:
        yield Remark(TIE)
        return
    rater = row.rater or (str(row.values[layout.rater]) if layout.rater and row.has(layout.rater) else "")
    yield unless_equal(Comparison(prompt, answers[place], answers[1 - place], row.number, rater, row.source, place))


# -- prompts and answers --------------------------------------------------------------------------------------------------


def _columns(prompt: str | None, first: str, second: str) -> Callable[[Row], Read]:
    """Reads three columns; without a prompt the answers are conversations that begin with it."""
    return lambda row: conversation.prompt_and_answers(row, prompt, [(name, row.get(name)) for name in (first, second)])


def _webgpt(row: Row) -> Read:
    asked = row.get_object("question").get("full_text", "")
    answers = [(name, row.get(name)) for name in ("answer_0", "answer_1")]
    return conversation.answers_to(row, "question", conversation.read_turns(row, "question", asked), answers)


def _summaries(row: Row) -> Read:
    """A post or an article in the prompt of Stiennon et al. 2020, "Learning to summarize from human feedback"."""
    info, summaries = row.get_object("info"), row.get_list("summaries")
    texts = [summary.get("text") if isinstance(summary, dict) else summary for summary in summaries]
    if len(texts) != 2:
        raise row.fault(f"summaries has {len(texts)} summaries; a choice needs two")
    if info.get("post"):
        parts = [("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"), ("POST: ", "post")]
    else:
        parts = [("Title: ", "title"), ("Article: ", "article")]
    text = "\n\n".join(f"{label}{str(info[key]).strip()}" for label, key in parts if info.get(key))
    prompt = conversation.read_turns(row, "info", f"{text}\n\nTL;DR:" if text else "")
    return conversation.answers_to(row, "info", prompt, [(f"summaries[{i}]", text) for i, text in enumerate(texts)])


def _arena_texts(row: Row) -> Read:
    """Prompts and answers as JSON lists of a text a turn."""
    prompts, answers = _texts(row, "prompt"), [(name, _texts(row, name)) for name in ("response_a", "response_b")]
    for name, texts in answers:
        if len(texts) != len(prompts):
            raise row.fault(f"{name} has {len(texts)} turns where prompt has {len(prompts)}")
    return conversation.prompt_and_answers(row, None, [(name, _interleaved(prompts, texts)) for name, texts in answers])


def _arena(row: Row) -> Read:
    """The same, or texts and messages as they are."""
    listed = all(isinstance(row.get(name), str) and row.get(name).startswith("[") for name in ("prompt", "response_a"))
    return _arena_texts(row) if listed else _columns("prompt", "response_a", "response_b")(row)


def _interleaved(prompts: list[Any], answers: list[Any]) -> list[dict[str, Any]]:
    turns = (turn for pair in zip(prompts, answers, strict=True) for turn in zip(("user", "assistant"), pair, strict=True))
    return [{"role": role, "content": text or ""} for role, text in turns]


def _texts(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    try:
        texts = json.loads(value) if isinstance(value, str) and value.startswith("[") else [value]
    except ValueError:
        texts = [value]
    return texts if isinstance(texts, list) else [texts]


# -- verdicts: the place of the chosen candidate, None for a tie -----------------------------------------------------------


def _index(name: str) -> Callable[[Row], int]:
    """The place itself, 0 or 1."""

    def place(row: Row) -> int:
        found = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(str(row.get(name)).strip())
        if found is None:
            raise row.fault(f"{name} must be 0 or 1, not {quoted(row.get(name))}")
        return found

    return place


def _first_if_one(row: Row) -> int:
    """SHP: 1 where A is preferred."""
    return 1 - _index("labels")(row)


def _strength(name: str) -> Callable[[Row], int | None]:
    """HelpSteer: from -3 (the first is much better) to 3."""

    def place(row: Row) -> int | None:
        strength = row.finite_number(name, row.get(name))
        if abs(strength) > _STRONGEST:
            raise row.fault(f"{name} must lie between -{_STRONGEST} and {_STRONGEST}, not {quoted(row.get(name))}")
        return int(strength > 0) if strength else None

    return place


def _higher(row: Row) -> int | None:
    """WebGPT: the score of each answer."""
    first, second = (row.finite_number(name, row.get(name)) for name in ("score_0", "score_1"))
    return int(second > first) if first != second else None


def _vote(row: Row) -> int | None:
    vote = str(row.get("winner")).strip().lower()
    if vote not in _VOTES:
        raise row.fault(f"winner must be model_a, model_b or a tie, not {quoted(row.get('winner'))}")
    return _VOTES[vote]


def _arena_flags(row: Row) -> int | None:
    flags = [_index(name)(row) for name in _ARENA]
    if sum(flags) != 1:
        raise row.fault(f"one of {', '.join(_ARENA)} must be 1, not {sum(flags)} of them")
    return None if flags[2] else flags[1]


def _two_labels(row: Row) -> int:
    raise row.fault(
        f"two verdicts, {' and '.join(_PKU)}: choose one with columns={{choice: {_PKU[0]}}} or columns={{choice: {_PKU[1]}}}"
    )


@dataclass(frozen=True)
class _Layout:
    """The columns of a data set. ``read``: prompt and answers; ``verdict``: place of the chosen one; ``rater``: its column."""

    columns: tuple[str, ...]
    read: Callable[[Row], Read]
    verdict: Callable[[Row], int | None]
    rater: str = ""


def _simple(
    prompt: str, first: str, second: str, name: str, verdict: Callable[[Row], int | None], more: tuple[str, ...] = ()
) -> _Layout:
    return _Layout((prompt, first, second, name, *more), _columns(prompt, first, second), verdict)


_LAYOUTS = (
    _simple("input_text", "candidate_0", "candidate_1", "choice", _index("choice")),
    _simple("prompt", "candidate_0", "candidate_1", "choice", _index("choice")),
    _simple("prompt", "response_0", "response_1", "choice", _index("choice")),
    _simple("prompt", "response_0", "response_1", _PKU[0], _two_labels, _PKU[1:]),
    *(_simple("prompt", "response_0", "response_1", name, _index(name)) for name in _PKU),
    _simple("history", "human_ref_A", "human_ref_B", "labels", _first_if_one),
    _simple("prompt", "response_1", "response_2", "preference_strength", _strength("preference_strength")),
    _simple("context", "response1", "response2", "overall_preference", _strength("overall_preference")),
    _Layout(("question", "answer_0", "answer_1", "score_0", "score_1"), _webgpt, _higher),
    _Layout(("info", "summaries", "choice"), _summaries, _index("choice"), "worker"),
    _Layout(
        ("conversation_a", "conversation_b", "winner"), _columns(None, "conversation_a", "conversation_b"), _vote, "judge"
    ),
    _Layout(("prompt", "response_a", "response_b", *_ARENA), _arena_texts, _arena_flags),
    _Layout(("prompt", "response_a", "response_b", "winner"), _arena, _vote, "judge"),
)
COLUMNS = tuple(layout.columns for layout in _LAYOUTS)
OPTIONAL = ("worker", "judge", "system")
