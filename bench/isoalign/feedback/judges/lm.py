"""Any causal language model as a judge, by the log-probability of its verdict.

The question ends so that the next token is " A" or " B", and P(A) is the softmax over the log-probabilities of the two
(Lee et al. 2023, "RLAIF vs. RLHF", sec. 2.1). With a chain of thought the model first writes its reasoning, greedily, and
then gives its verdict with the reasoning in context (sec. 2.1.2).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from isoalign.config.feedback import JudgeConfig
from isoalign.core import progress
from isoalign.core.batches import Rollouts
from isoalign.core.devices import device
from isoalign.core.errors import UserError
from isoalign.core.records import Question
from isoalign.feedback.judges import templates
from isoalign.feedback.judges.identity import judge_identity
from isoalign.feedback.judges.verdicts import Showing, Verdict, in_both_orders
from isoalign.feedback.judges.writer import Ids, greedy, pad_left
from isoalign.models import loading, tokens
from isoalign.models.language import LanguageModel

BATCH_TOKENS = 16_384  # at most, padding included


@dataclass(frozen=True)
class Choice:
    """A text with each of the two labels after it, in tokens: the shared prefix, then the remaining tokens of each label.

    The tokens of " A" depend on the tokenizer and on the text before, so text and label are tokenised together.
    """

    context: Ids
    labels: tuple[Ids, Ids]

    @property
    def single(self) -> bool:
        """Whether the distribution of the next token gives both."""
        return all(len(label) == 1 for label in self.labels)

    @property
    def rows(self) -> list[Ids]:
        """The labels that need a row each."""
        return [self.labels[0]] if self.single else list(self.labels)


@dataclass(frozen=True)
class Draft:
    """A text to be followed by the verdict, its chain of thought, and the cost of writing it."""

    text: str
    thought: str = ""
    tokens: int = 0
    flops: int = 0


class LMJudge:
    """A language model as a judge, run in batches of ``batch_size``; batching does not change verdicts."""

    def __init__(self, config: JudgeConfig, model: LanguageModel, batch_size: int = 16, quiet: bool = False) -> None:
        self.config, self.model, self.batch_size, self.quiet = config, model, batch_size, quiet
        self.name = f"lm:{Path(config.model).name if Path(config.model).is_dir() else config.model}"
        self.identity = judge_identity(config)
        self.template = templates.load_template(config.template, config.criterion)
        self.chat = bool(getattr(model.tokenizer, "chat_template", None))
        self.longest: int | None = loading.longest_text(model.inner.config)

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question; missing if the answers alone exceed the context length."""
        return in_both_orders(questions, lambda shown: self._read(shown, principle))

    def _read(self, shown: list[Question], principle: str | None) -> list[Showing]:
        starts = [self._start(question, principle) for question in shown]
        texts = [
            None if start is None else self._render(question.prompt[start:], question, principle)
            for question, start in zip(shown, starts, strict=True)
        ]
        rows = [(len(self._ids(text)), text, i) for i, text in enumerate(texts) if text is not None]
        batches = _batches(rows, self.batch_size)
        showings = [Showing(None, missing="too long", reason=f"over {self.longest} tokens even without its prompt")] * len(
            shown
        )
        for batch in batches if self.quiet else progress.track(batches, "judge"):
            for (_, _, i), showing in zip(batch, self._showings([text for _, text, _ in batch]), strict=True):
                showings[i] = replace(showing, cut=bool(starts[i]))
        return showings

    # -- prompts --------------------------------------------------------------------------------------------------

    def _start(self, question: Question, principle: str | None) -> int | None:
        """Where the part of the prompt begins that is shown, its front left out if necessary; None if the question is too long
        even without a prompt."""
        ending = self._longest_ending if not self.config.thought else f"\n\n{self._longest_ending}"

        def fits(start: int) -> bool:
            return self._fits(self._render(question.prompt[start:], question, principle) + ending, self.config.thought)

        end = len(question.prompt)
        if fits(0):
            return 0
        start = bisect_left(range(end + 1), True, key=fits)
        return start if start <= end else None

    @cached_property
    def _longest_ending(self) -> str:
        return max((templates.OPENING + label for label in templates.LABELS), key=lambda ending: len(self._ids(ending)))

    def _fits(self, text: str, room: int = 0) -> bool:
        return self.longest is None or len(self._ids(text)) + room <= self.longest

    def _render(self, prompt: str, question: Question, principle: str | None) -> str:
        """The question as the text that the model continues, in its chat format if it has one."""
        ending = templates.THINK if self.config.thought else templates.LINE
        text = self.template.render(prompt, question.first, question.second, principle, ending)
        if self.chat:
            turns = [{"role": "user", "content": text}]
            return tokens.chat_text(self.model.tokenizer, turns)
        return f"{text}\n\nComparison:" if self.config.thought else f"{text}\n\n"

    def _ids(self, text: str) -> Ids:
        """Tokens; chat formats include their own start token."""
        tokenizer = self.model.tokenizer
        return tokens.encode_chat_text(tokenizer, text) if self.chat else tokens.encode(tokenizer, [text])[0]

    def choice(self, text: str) -> Choice:
        """The text with each label after it."""
        first, second = (self._ids(text + label) for label in templates.LABELS)
        shared = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
        if not shared:
            raise UserError(f"{self.name} can't judge: its tokenizer does not distinguish the answers A and B")
        return Choice(first[:shared], (first[shared:], second[shared:]))

    # -- forward passes -------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _showings(self, texts: list[str]) -> list[Showing]:
        """One batch: chains of thought if configured, then verdicts."""
        drafts = self._drafts(texts) if self.config.thought else [Draft(text) for text in texts]
        choices = [self.choice(draft.text + templates.OPENING) for draft in drafts]
        probabilities = self.log_probs(choices).double().softmax(-1)[:, 0].tolist()
        return [self._showing(*row) for row in zip(drafts, choices, probabilities, strict=True)]

    def _showing(self, draft: Draft, choice: Choice, p: float) -> Showing:
        """The showing of one text, with its FLOPs: the body reads all but the last token, the head each label."""
        lengths = [len(choice.context) + len(label) - 1 for label in choice.rows]
        flops = draft.flops + self.model.shape.forward(lengths, map(len, choice.rows))
        missing = "" if math.isfinite(p) else "not finite"
        return Showing(None if missing else p, draft.tokens + sum(lengths), flops, draft.thought, missing)

    def _drafts(self, texts: list[str]) -> list[Draft]:
        """The texts, each followed by the model's chain of thought."""
        contexts = [self._ids(text) for text in texts]
        drafts = []
        for text, context, ids in zip(texts, contexts, self.think(contexts), strict=True):
            thought = self._thought(text, ids)
            flops = self.model.shape.prefill([len(context)]) + self.model.shape.decode([len(context)], [len(ids)])
            drafts.append(Draft(self._append_thought(text, thought), thought, len(context) + len(ids), flops))
        return drafts

    def _thought(self, text: str, ids: Ids) -> str:
        """The text written before the verdict, which is asked for separately. Its end is cut if reading it takes more tokens
        than writing it did and it no longer fits."""
        thought = str(self.model.tokenizer.decode(ids, skip_special_tokens=True)).partition(templates.OPENING)[0].strip()
        while thought and not self._fits(self._append_thought(text, thought) + self._longest_ending):
            thought = thought[: len(thought) * 9 // 10]
        return thought

    def _append_thought(self, text: str, thought: str) -> str:
        return f"{text}{tokens.guard(self.model.tokenizer, thought)}\n\n" if self.chat else f"{text} {thought}\n\n"

    def think(self, contexts: list[Ids]) -> list[Ids]:
        """Greedy continuations of at most ``thought`` tokens, including the end token if the model wrote one."""
        return greedy(self.model, contexts, self.config.thought)

    @torch.inference_mode()
    def log_probs(self, choices: Sequence[Choice]) -> Tensor:
        """Log-probability of each label in nats [len(choices), 2], summed over its tokens; shared tokens cancel."""
        if not choices:
            return torch.zeros(0, 2)
        single = all(choice.single for choice in choices)
        labels = [label for choice in choices for label in (choice.rows if single else choice.labels)]
        prompts = pad_left(self.model, [choice.context for choice in choices for _ in range(1 if single else 2)])
        width = max(map(len, labels))
        answers = torch.tensor([label + [self.model.tokenizer.pad_token_id] * (width - len(label)) for label in labels])
        valid = torch.tensor([[i < len(label) for i in range(width)] for label in labels])
        both, mask = torch.cat([prompts.tokens, answers], 1), torch.cat([prompts.mask, valid], 1)
        outputs = self.model(Rollouts(both, mask, prompts.tokens.shape[1]))
        if not single:
            return outputs.logp.sum(-1).view(-1, 2).cpu()
        ids = torch.tensor([[label[0] for label in choice.labels] for choice in choices], device=self.model.device)
        return outputs.logits[:, 0].log_softmax(-1).gather(-1, ids).cpu()


def _batches(rows: list[tuple[int, str, int]], size: int) -> list[list[tuple[int, str, int]]]:
    """Batches of rows (tokens, text, index) of similar length, by the texts alone."""
    batches: list[list[tuple[int, str, int]]] = []
    for row in sorted(rows):
        if not batches or len(batches[-1]) == size or (len(batches[-1]) + 1) * row[0] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches


def load_lm(config: JudgeConfig, quiet: bool = False) -> LMJudge:
    """The judge in fp32, on the accelerator if there is one. Raises UserError if the model can't be loaded."""
    model, tokenizer = loading.load_model(config.model)
    return LMJudge(config, LanguageModel(model.to(device()), tokenizer, ends=True), quiet=quiet)
