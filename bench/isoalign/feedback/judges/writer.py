"""Language models that write greedily: critics of answers, and judges with a chain of thought.

`LMWriter` is any local causal language model, `ServerWriter` one behind an OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from isoalign.config.feedback import JudgeConfig
from isoalign.core import progress
from isoalign.core.batches import Prompts
from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.feedback.judges.client import Client
from isoalign.feedback.judges.limits import Stop
from isoalign.feedback.judges.replies import Message, RequestFailed, RequestRejected
from isoalign.models import loading, tokens
from isoalign.models.language import LanguageModel
from isoalign.models.tokens import Ids


@dataclass(frozen=True)
class Exchange:
    """A request, the label of its answer for models without a chat format, and the answer; empty if not written yet."""

    request: str
    label: str
    answer: str = ""


Talk = tuple[Exchange, ...]


@dataclass(frozen=True)
class Written:
    """A text. ``tokens``: read and written; ``flops`` by formula, 0 for a server; ``missing``: cause, in a word or two, of a
    missing text."""

    text: str
    tokens: int = 0
    flops: int = 0
    missing: str = ""


class Writer(Protocol):
    """Interface of writers."""

    name: str

    def __call__(self, talks: Sequence[Talk]) -> list[Written]:
        """The answer to the last request of each talk, in order."""
        ...


class LMWriter:
    """A causal language model, prompted in its chat format if it has one, else in plain text; then its first paragraph is the
    answer, as a plain model does not stop. ``tokens``: maximum length of an answer."""

    def __init__(self, name: str, model: LanguageModel, tokens: int, batch_size: int = 16) -> None:
        self.name, self.model, self.tokens, self.batch_size = name, model, tokens, batch_size
        self.chat = bool(getattr(model.tokenizer, "chat_template", None))
        self.longest: int | None = loading.longest_text(model.inner.config)

    def __call__(self, talks: Sequence[Talk]) -> list[Written]:
        """The answer to each talk; missing if the talk exceeds the context length."""
        contexts = [self._ids(talk) for talk in talks]
        by_length = sorted(range(len(talks)), key=lambda place: (len(contexts[place]), place))  # to limit padding
        fit = [place for place in by_length if self.longest is None or len(contexts[place]) + self.tokens <= self.longest]
        batches = [fit[start : start + self.batch_size] for start in range(0, len(fit), self.batch_size)]
        answers = [Written("", missing="too long")] * len(talks)
        for batch in progress.track(batches, "critic"):
            continuations = greedy(self.model, [contexts[place] for place in batch], self.tokens)
            for place, ids in zip(batch, continuations, strict=True):
                answers[place] = self._written(len(contexts[place]), ids)
        return answers

    def text(self, talk: Talk) -> str:
        """A talk as the text that the model continues."""
        if self.chat:
            return tokens.chat_text(self.model.tokenizer, chat_messages(talk))
        return "\n\n".join(f"{each.request}\n\n{each.label}: {each.answer}".rstrip(" ") for each in talk)

    def _ids(self, talk: Talk) -> Ids:
        """Tokens; chat formats include their own start token."""
        tokenizer, text = self.model.tokenizer, self.text(talk)
        return tokens.encode_chat_text(tokenizer, text) if self.chat else tokens.encode(tokenizer, [text])[0]

    def _written(self, context: int, ids: Ids) -> Written:
        text = str(self.model.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        shape = self.model.shape
        flops = shape.prefill([context]) + shape.decode([context], [len(ids)])
        return Written(text if self.chat else text.partition("\n\n")[0].strip(), context + len(ids), flops)


class ServerWriter:
    """A server's model; its answers are cached, so that they are never paid for twice."""

    def __init__(self, config: JudgeConfig, cache: Path, tokens: int) -> None:
        self.config, self.tokens = config, tokens
        self.name = f"server:{config.model}"
        self.client = Client(config, cache)

    def __call__(self, talks: Sequence[Talk]) -> list[Written]:
        """The answer to each talk, requested concurrently. Raises UserError if the server can't be asked any more."""
        self.client.stop_signal.release()
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            futures = [pool.submit(self._write, talk) for talk in talks]
            try:
                return [future.result() for future in progress.track(futures, "critic")]
            except BaseException as error:  # waiting requests end at once; pending ones are awaited, as they are paid for
                self.client.stop_signal.stopped.set()
                if isinstance(error, Stop):
                    advice = f"answers are saved in {self.client.folder}; run the same command to resume"
                    raise UserError(f"{error}; {advice}") from error
                raise

    def _write(self, talk: Talk) -> Written:
        """One answer, or the cause of a missing one."""
        try:
            reply = self.client.ask(self.client.request(chat_messages(talk), max_tokens=self.tokens))
        except RequestFailed as error:
            return Written("", missing=error.cause)
        except RequestRejected:
            return Written("", missing="rejected")
        refused = reply.refusal or reply.finish == "content_filter"
        return Written("" if refused else reply.text.strip(), reply.tokens, missing="refused" if refused else "")


def chat_messages(talk: Talk) -> list[Message]:
    """A talk as chat messages, the last from the user."""
    turns = [(("user", each.request), ("assistant", each.answer)) for each in talk]
    return [{"role": role, "content": content} for turn in turns for role, content in turn][:-1]


@torch.inference_mode()
def greedy(model: LanguageModel, contexts: list[Ids], longest: int) -> list[Ids]:
    """Greedy continuations of at most ``longest`` tokens, including the end token if the model wrote one."""
    prompts, ends = pad_left(model, contexts), model.end_ids.tolist()
    config = transformers.GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, max_new_tokens=longest, eos_token_id=ends,
        pad_token_id=model.tokenizer.pad_token_id,
    )  # fmt: skip
    output = model.inner.generate(
        input_ids=prompts.tokens.to(model.device), attention_mask=prompts.mask.long().to(model.device),
        generation_config=config,
    )  # fmt: skip
    rows = output[:, prompts.tokens.shape[1] :].tolist()
    stops = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [row[:stop] for row, stop in zip(rows, stops, strict=True)]


def pad_left(model: LanguageModel, rows: list[Ids]) -> Prompts:
    """Rows of tokens as prompts, padded on the left."""
    return tokens.left_padded(rows, int(model.tokenizer.pad_token_id))
