"""What a task's prompts say, by the tokens that its model reads: for models that read prompts in a form of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.data import formats, prompts
from isoalign.data.formats import Turn, Turns
from isoalign.models import loading, tokens
from isoalign.stages.cutting import Cutter, turns_of

OPENING = "\n\nassistant:"  # of an answer, where the roles are written out


class PromptTurns:
    """The turns behind the token ids of a prompt, as far as the task's model reads them.

    A conversation is found among the task's prompts and its feedback file. The text of a plain prompt is that of its tokens.
    """

    def __init__(self, task: TaskConfig) -> None:
        self.task, self.tokenizer = task, loading.task_tokenizer(task.model)
        self.cut = Cutter(self.tokenizer, task.model)
        self._start = tokens.start_tokens(self.tokenizer)
        self._controls = tokens.special_ids(self.tokenizer)

    def __call__(self, ids: Sequence[int]) -> Turns:
        """Raises UserError for a conversation in a chat template that is none of the task's."""
        if (known := self._of_prompts.get(tuple(ids)) or self._of_file.get(tuple(ids))) is not None:
            return known
        if not self._controls.isdisjoint(self._without_start(ids)):
            raise UserError(
                f"a conversation of {len(ids)} tokens is no prompt of {self.task.name} and none of its feedback file, so what "
                "it says is not known to its reward model; take prompts from the lab"
            )
        return (Turn("", self.cut.decoded(ids)),)

    def all(self) -> Iterator[Turns]:
        """Every prompt of the task and of its feedback file, as far as it is read."""
        asked = (turns_of(each) for split in prompts.SPLITS for each in prompts.load_split(self.task.prompts, split))
        for turns in (*asked, *self._read_file()):
            if (ids := self.cut.prompt(turns)) is not None:
                yield self._kept(turns, ids) if self._has_form(turns) else (Turn("", self.cut.decoded(ids)),)

    @cached_property
    def _of_prompts(self) -> dict[tuple[int, ...], Turns]:
        return self._table(turns_of(each) for split in prompts.SPLITS for each in prompts.load_split(self.task.prompts, split))

    @cached_property
    def _of_file(self) -> dict[tuple[int, ...], Turns]:
        return self._table(self._read_file())

    def _read_file(self) -> Iterable[Turns]:
        config = self.task.feedback
        if not config.file:
            return ()
        data = formats.read_file(config.file, config.format or None, columns=config.columns, skip=config.skip)
        asked = [each.prompt for each in data.comparisons] + [each.prompt for each in data.unpaired]
        return dict.fromkeys(asked)

    def _table(self, asked: Iterable[Turns]) -> dict[tuple[int, ...], Turns]:
        """Conversations by their tokens; a prompt that has neither roles nor a template is read off its tokens."""
        rows = ((turns, self.cut.prompt(turns)) for turns in asked if self._has_form(turns))
        return {tuple(ids): self._kept(turns, ids) for turns, ids in rows if ids is not None}

    def _has_form(self, turns: Turns) -> bool:
        """Whether more than the text of a prompt is in its tokens: roles, or a template."""
        return self.cut.templated(turns) or any(turn.role for turn in turns)

    def _without_start(self, ids: Sequence[int]) -> Sequence[int]:
        count = len(self._start)
        return ids[count:] if list(ids[:count]) == self._start else ids

    def _kept(self, turns: Turns, ids: list[int]) -> Turns:
        """The turns that the model reads: all, or system turns and the latest; the text, where written-out roles are cut."""
        first = next((place for place, turn in enumerate(turns) if turn.role != "system"), len(turns))
        for start in range(first, len(turns)):
            kept = (*turns[:first], *turns[start:])
            if self.cut.whole_prompt(kept) == ids:
                return kept
        return (Turn("user", self.cut.decoded(ids).removesuffix(OPENING)),)
