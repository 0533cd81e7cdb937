"""Texts and conversations as tokens, cut to what the task's model reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from isoalign.config.task import ModelConfig
from isoalign.core.batches import Prompts
from isoalign.core.errors import UserError
from isoalign.core.text import text_fingerprint
from isoalign.data.formats import Turns
from isoalign.data.prompts import Prompt, as_text, turns_of
from isoalign.models import loading, tokens
from isoalign.models.pieces import continued_texts
from isoalign.models.unshown import unshown

ENDLESS = 10**9  # tokens
SYSTEM, EARLIER, LAST = "the system's turn", "earlier turns", "the last turn"  # of a conversation
MOST_EQUAL = 0.2  # of prompts, that may become equal to another one


class Cutter:
    """Tokenizes texts within the task's limits: prompts are truncated on the left, answers on the right, as in rollouts."""

    def __init__(self, tokenizer: Any, model: ModelConfig) -> None:
        self.tokenizer, self.model = tokenizer, model
        self._left_out: dict[tuple[str, ...], list[str]] = {}

    def text(self, turns: Turns) -> str:
        """A prompt as text: plain text unchanged, a conversation by the chat template, or with role names without one."""
        if self.templated(turns):
            return tokens.unguarded(tokens.chat_text(self.tokenizer, _messages(turns)))
        return as_text(turns)

    def prompt(self, turns: Turns) -> list[int] | None:
        """A prompt's tokens. A conversation in a chat template loses its oldest turns; None if its last one is too long."""
        if self.templated(turns):
            if len(turns) > 1 and LAST in self.left_out(turns):
                raise UserError(
                    f"the chat template of {self.tokenizer.name_or_path!r} does not show the last turn of a conversation, so "
                    "the model would not see what it is asked; mend it, or choose another one (task.model.template)"
                )
            return tokens.encode_chat(self.tokenizer, _messages(turns), self.model.prompt_tokens)
        return tokens.encode(self.tokenizer, [self.text(turns)], self.model.prompt_tokens)[0]

    def answer(self, turns: Turns) -> list[int]:
        """An answer's tokens, with an end token if the task has an open end and there is room for it: in a conversation the
        one that closes the turn. Of several turns it is the first."""
        ids = self._spoken(turns)
        if self.model.eos == "open":
            ids = [*ids, tokens.closing_id(self.tokenizer, chat=self.templated(turns))]
        return ids[: self.model.new_tokens]

    def whole_prompt(self, turns: Turns) -> list[int]:
        """A prompt's tokens before it is cut."""
        return Cutter(self.tokenizer, replace(self.model, prompt_tokens=ENDLESS)).prompt(turns) or []

    def is_cut(self, turns: Turns) -> bool:
        """Whether an answer has more tokens than are kept, or more turns; the end token does not count."""
        return len(turns) > 1 or len(self._spoken(turns)) > self.model.new_tokens

    def _spoken(self, turns: Turns) -> list[int]:
        text = turns[0].content  # behind it a user speaks, whose words nobody should learn to say
        if self.templated(turns):
            text = self._lead + text
        return tokens.encode_words(self.tokenizer, [text])[0]

    @cached_property
    def _lead(self) -> str:
        """The white space that the chat template writes between the opening of an answer and the answer itself."""
        opened = tokens.chat_text(self.tokenizer, tokens.TALK[:1])
        said = tokens.chat_text(self.tokenizer, tokens.TALK, answer=False)
        lead = said.removeprefix(opened).partition(tokens.MARK)[0] if said.startswith(opened) else ""
        return lead if lead.isspace() else ""

    def is_sayable(self, answer: Iterable[int]) -> bool:
        """Whether the model may write all of an answer's tokens; of one that it may not, its probability is 0."""
        return self._banned.isdisjoint(answer)

    @cached_property
    def _banned(self) -> set[int]:
        ends = tokens.end_ids(self.tokenizer, loading.saved_generation(self.tokenizer))
        return tokens.banned_controls(self.tokenizer, ends, self.model.eos == "open")

    def split_text(self, turns: Turns) -> str:
        """What decides the split of a prompt: a conversation's first user turn, or of a text what the model reads."""
        if any(turn.role for turn in turns):
            return next((turn.content for turn in turns if turn.role == "user"), self.text(turns))
        ids, whole = self.prompt(turns) or [], self.whole_prompt(turns)
        return self.text(turns) if len(ids) == len(whole) else self.decoded(ids)

    def spoken_text(self, answer: list[int]) -> str:
        """The text of an answer, as it continues its prompt."""
        return continued_texts(self.tokenizer, [answer])[0]

    def decoded(self, ids: Iterable[int]) -> str:
        """The text of a prompt."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def templated(self, turns: Turns) -> bool:
        """Whether a prompt is written in a chat template."""
        always = self.model.template == "always" or bool(self.model.template_file)
        talk = self.model.template == "auto" and any(turn.role for turn in turns)
        return (always or talk) and bool(self.tokenizer.chat_template)

    @property
    def misopened(self) -> str:
        """What the chat template writes otherwise before an answer that is given than where one is asked for, in words; empty
        where it writes the same."""
        asked, silent = (tokens.chat_text(self.tokenizer, tokens.TALK[:1], answer) for answer in (True, False))
        given = tokens.chat_text(self.tokenizer, tokens.TALK, answer=False).rpartition(tokens.MARK)[0]
        if given.startswith(asked) and not given.removeprefix(asked).strip():
            return ""
        if asked == silent:
            return "it ignores add_generation_prompt"
        pairs = enumerate(zip(asked, given, strict=False))
        same = next((place for place, (one, other) in pairs if one != other), min(len(asked), len(given)))
        return f"it asks with {asked[same:]!r} and gives one behind {given[same:]!r}; answers of files follow the former"

    def left_out(self, turns: Turns) -> list[str]:
        """The turns of a conversation of such roles that the chat template does not show. Of a template that fails on them
        nothing is known: it says so when it is used."""
        roles = tuple(turn.role or "user" for turn in turns)
        if roles not in self._left_out:
            try:
                hidden = unshown(self.tokenizer, roles)
            except UserError:
                hidden = []
            names = [SYSTEM if role == "system" else EARLIER for role in roles[:-1]] + [LAST]
            self._left_out[roles] = list(dict.fromkeys(names[place] for place in hidden))
        return self._left_out[roles]


class HeldOut:
    """Prompts that are evaluated, which nothing may be trained on: by their text, by what the model reads of them, and for a
    conversation by its first user turn."""

    VERSION = 3  # in keys of what is trained without them

    def __init__(self, cut: Cutter, prompts: Iterable[Turns]) -> None:
        self._cut = cut
        self._marks = {mark for turns in prompts for mark in self._marks_of(turns)}

    def __contains__(self, turns: Turns) -> bool:
        return not self._marks.isdisjoint(self._marks_of(turns))

    def _marks_of(self, turns: Turns) -> set[str | tuple[int, ...]]:
        texts = {as_text(turns), self._cut.text(turns), self._cut.split_text(turns)}
        marks: set[str | tuple[int, ...]] = set(map(text_fingerprint, texts))
        return marks | {tuple(ids)} if (ids := self._cut.prompt(turns)) else marks


def _messages(turns: Turns) -> list[dict[str, str]]:
    return [{"role": turn.role or "user", "content": turn.content} for turn in turns]


@dataclass(frozen=True)
class Fit:
    """How prompts fit a task: their number, the ``median`` and the ``longest`` in tokens before they are cut, how many are
    ``cut``, how many are read as the same tokens as an earlier one (``equal``), and how many as those of a training prompt
    (``trained``)."""

    prompts: int
    median: int
    longest: int
    cut: int
    equal: int
    trained: int = 0

    @property
    def told(self) -> str:
        """The losses in words; empty if there are none."""
        losses = {
            "are cut": self.cut,
            "become equal to another one": self.equal,
            "become equal to a training prompt": self.trained,
        }
        return " and ".join(f"{count:,} of {self.prompts:,} prompts {what}" for what, count in losses.items() if count)


def fit_of(cut: Cutter, asked: Iterable[Turns], trained: Iterable[Turns] = ()) -> Fit:
    """How prompts fit ``task.model.prompt_tokens``; those whose last turn does not fit at all are not counted. ``trained``:
    prompts of training, where these are others."""
    fitting = [(ids, len(cut.whole_prompt(turns))) for turns in asked if (ids := cut.prompt(turns)) is not None]
    lengths = sorted(whole for _, whole in fitting) or [0]
    shorter = sum(len(ids) < whole for ids, whole in fitting)
    equal = len(fitting) - len({tuple(ids) for ids, _ in fitting})
    known = {tuple(cut.prompt(turns) or ()) for turns in trained}
    seen = sum(tuple(ids) in known for ids, _ in fitting)
    return Fit(len(fitting), lengths[len(lengths) // 2], lengths[-1], shorter, equal, seen)


def check_fit(fit: Fit, where: str, model: ModelConfig) -> None:
    """Raises UserError if too many prompts become equal to another one. ``where``: their file or split."""
    if max(fit.equal, fit.trained) > MOST_EQUAL * fit.prompts:
        raise UserError(
            f"{where}: {fit.told} with task.model.prompt_tokens={model.prompt_tokens}, which keeps the end of a prompt: raise "
            f"it; the longest has {fit.longest} tokens"
        )


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt], model: ModelConfig) -> Prompts:
    """Prompts as the model reads them, padded on the left.

    Raises UserError for a conversation whose last turn is longer than ``task.model.prompt_tokens``.
    """
    cut = Cutter(tokenizer, model)
    rows = [(prompt, cut.prompt(turns_of(prompt))) for prompt in prompts]
    for prompt, ids in rows:
        if ids is None:
            raise UserError(
                f"the last turn of a prompt of {prompt.source} is longer than task.model.prompt_tokens={model.prompt_tokens} "
                f"({prompt.text[:60]!r}...); raise it, or leave such prompts out of the file"
            )
    return tokens.left_padded([ids or [] for _, ids in rows], int(tokenizer.pad_token_id))
