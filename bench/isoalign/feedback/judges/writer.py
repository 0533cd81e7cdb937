"""A language model that writes what it is asked for, greedily: a critic of answers, or a judge that thinks before it judges.

`LMWriter` is any causal language model at hand, `ServerWriter` one behind an OpenAI-compatible server.
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
from isoalign.feedback.judges.client import Client, Failed, Message, Rejected
from isoalign.feedback.judges.limits import Stop
from isoalign.models.language import LanguageModel

Ids = list[int]


@dataclass(frozen=True)
class Exchange:
    """What a writer is asked, what its answer is called where there is no chat format, and the answer: empty where it is
    still to be written."""

    request: str
    label: str
    answer: str = ""


Talk = tuple[Exchange, ...]


@dataclass(frozen=True)
class Written:
    """What was written. ``tokens``: read and written; ``flops`` by formula, 0 of a server; ``missing``: in a word or two why
    there is no text."""

    text: str
    tokens: int = 0
    flops: int = 0
    missing: str = ""


class Writer(Protocol):
    """What the two have in common."""

    name: str

    def __call__(self, talks: Sequence[Talk]) -> list[Written]:
        """The answer to the last request of each talk, in order."""
        ...


class LMWriter:
    """A causal language model, asked in its chat format where it has one, else in plain text, of which its first paragraph
    is the answer: a plain model goes on and on. ``tokens``: the most that it writes."""

    def __init__(self, name: str, model: LanguageModel, tokens: int, batch_size: int = 16) -> None:
        self.name, self.model, self.tokens, self.batch_size = name, model, tokens, batch_size
        self.chat = bool(getattr(model.tokenizer, "chat_template", None))
        self.longest: int | None = getattr(model.inner.config, "max_position_embeddings", None)

    def __call__(self, talks: Sequence[Talk]) -> list[Written]:
        """The answer to each talk; one that does not fit the model has none."""
        contexts = [self._ids(talk) for talk in talks]
        by_length = sorted(range(len(talks)), key=lambda place: (len(contexts[place]), place))  # the longest pads the others
        fit = [place for place in by_length if self.longest is None or len(contexts[place]) + self.tokens <= self.longest]
        batches = [fit[start : start + self.batch_size] for start in range(0, len(fit), self.batch_size)]
        found = [Written("", missing="too long")] * len(talks)
        for batch in progress.track(batches, "critic"):
            said = greedy(self.model, [contexts[place] for place in batch], self.tokens)
            for place, ids in zip(batch, said, strict=True):
                found[place] = self._written(len(contexts[place]), ids)
        return found

    def text(self, talk: Talk) -> str:
        """A talk as the model is to go on from."""
        if self.chat:
            turns = messages(talk)
            return str(self.model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        return "\n\n".join(f"{each.request}\n\n{each.label}: {each.answer}".rstrip(" ") for each in talk)

    def _ids(self, talk: Talk) -> Ids:
        """Tokens; a chat format brings its own opening token."""
        return list(self.model.tokenizer(self.text(talk), add_special_tokens=not self.chat)["input_ids"])

    def _written(self, context: int, ids: Ids) -> Written:
        text = str(self.model.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        shape = self.model.shape
        flops = shape.prefill([context]) + shape.decode([context], [len(ids)])
        return Written(text if self.chat else text.partition("\n\n")[0].strip(), context + len(ids), flops)


class ServerWriter:
    """A server's model; what it wrote is kept, so that it is never paid for twice."""

    def __init__(self, config: JudgeConfig, cache: Path, tokens: int) -> None:
        self.config, self.tokens = config, tokens
        self.name = f"server:{config.model}"
        self.client = Client(config, cache)

    def __call__(self, talks: Sequence[Talk]) -> list[Written]:
        """The answer to each talk, several at a time. Raises UserError where nothing more can be asked of the server."""
        self.client.stop_signal.release()
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            asked = [pool.submit(self._write, talk) for talk in talks]
            try:
                return [future.result() for future in progress.track(asked, "critic")]
            except BaseException as error:  # those that wait end at once; those on their way are paid for, and awaited
                self.client.stop_signal.stopped.set()
                if isinstance(error, Stop):
                    kept = f"what was written is kept in {self.client.folder}, and the same command goes on from there"
                    raise UserError(f"{error}; {kept}") from error
                raise

    def _write(self, talk: Talk) -> Written:
        """One answer, or why there is none."""
        try:
            reply = self.client.ask(self.client.request(messages(talk), max_tokens=self.tokens))
        except Failed as error:
            return Written("", missing=error.cause)
        except Rejected:
            return Written("", missing="rejected")
        refused = reply.refusal or reply.finish == "content_filter"
        return Written("" if refused else reply.text.strip(), reply.tokens, missing="refused" if refused else "")


def messages(talk: Talk) -> list[Message]:
    """A talk in a chat's turns, the last one the user's."""
    turns = [(("user", each.request), ("assistant", each.answer)) for each in talk]
    return [{"role": role, "content": content} for turn in turns for role, content in turn][:-1]


@torch.inference_mode()
def greedy(model: LanguageModel, contexts: list[Ids], tokens: int) -> list[Ids]:
    """Greedy continuations of up to ``tokens`` tokens, their end included where the model ended them."""
    tokenizer = model.tokenizer
    ends = model.inner.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})
    prompts = padded(model, contexts)
    config = transformers.GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, max_new_tokens=tokens, eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    found = model.inner.generate(
        input_ids=prompts.tokens.to(model.device), attention_mask=prompts.mask.long().to(model.device),
        generation_config=config,
    )  # fmt: skip
    rows = found[:, prompts.tokens.shape[1] :].tolist()
    stops = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [row[:stop] for row, stop in zip(rows, stops, strict=True)]


def padded(model: LanguageModel, rows: list[Ids]) -> Prompts:
    """Rows of tokens, padded on the left."""
    width, pad = max(map(len, rows)), model.tokenizer.pad_token_id
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return Prompts(tokens, mask, torch.arange(len(rows)))
