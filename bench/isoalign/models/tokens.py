"""What is asked of a tokenizer: the ids of texts and conversations, which tokens end an answer, and which are none at all.

Control tokens are those that a tokenizer marks as special. Typed into a text they are plain text; only the tokenizer's start
tokens and a chat template write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.models.pieces import Ids, continued, continued_texts, plain

Messages = Sequence[Mapping[str, str]]

GUARD = "\ufdd0"  # a noncharacter of Unicode, which no text holds: it stands in typed control tokens until they are encoded
TODAY = "{%- macro strftime_now(_) -%}26 Jul 2024{%- endmacro -%}"  # the date that Llama's own template falls back on
MARK = "isoalign"  # the content of a message that is looked for in a rendered conversation
TALK = [{"role": role, "content": MARK} for role in ("user", "assistant")]


def load(name: str) -> Any:
    """The tokenizer in a folder or on the hub, padding on the left. Raises UserError if the model there has none, and OSError
    or ValueError if there is no model."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, padding_side="left", trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:  # a file that is missing or broken is any exception
        if "custom code" in str(error):
            raise
        if "instantiate the backend tokenizer" in str(error):
            raise _no_tokenizer(name) from error
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"cannot read the tokenizer of {name!r}: {reason}; put its files beside the weights anew") from error
    if not _words(tokenizer):  # what transformers makes of nothing
        raise _no_tokenizer(name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    return tokenizer


# -- texts ----------------------------------------------------------------------------------------------------------------


def encode(tokenizer: Any, texts: Iterable[str], longest: int | None = None) -> list[Ids]:
    """Token ids of texts with the tokenizer's start tokens and no end token, truncated from the left to ``longest``; the start
    tokens are kept."""
    start = start_tokens(tokenizer)
    return [start + _last(ids, longest, start) for ids in encode_words(tokenizer, texts, begins=True)]


def encode_words(tokenizer: Any, texts: Iterable[str], begins: bool = False) -> list[Ids]:
    """Token ids of texts that continue others, or of whole ones that ``begins``: no start tokens, no end token."""
    texts = list(texts)
    first = plain if begins else continued
    rows = first(tokenizer, texts)
    controls = special_ids(tokenizer) - {tokenizer.unk_token_id}
    for place, text in enumerate(texts):
        if not controls.isdisjoint(rows[place]):  # a unigram model has control tokens among its pieces
            head, *rest = _broken(tokenizer, text)
            rows[place] = [token for ids in first(tokenizer, [head]) + continued(tokenizer, rest) for token in ids]
    return rows


def _broken(tokenizer: Any, text: str) -> list[str]:
    """The text in parts, cut within each control token."""
    cuts = [0, *(match.start() + 1 for match in _control(tokenizer).finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _last(ids: Ids, longest: int | None, start: Ids) -> Ids:
    return ids if longest is None else ids[max(len(ids) - max(longest - len(start), 0), 0) :]


def start_tokens(tokenizer: Any) -> Ids:
    """The tokens that the tokenizer puts before a text, found by encoding one."""
    full = list(tokenizer("a")["input_ids"])
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    return next((full[:i] for i in range(len(full)) if full[i : i + len(plain)] == plain), [])


def left_padded(rows: Sequence[Ids], pad: int) -> Prompts:
    """Rows of token ids as prompts, padded on the left with the token ``pad``."""
    width = max(map(len, rows))
    tokens = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return Prompts(tokens, mask, torch.arange(len(rows)))


def decode(tokenizer: Any, rollouts: Rollouts) -> list[str]:
    """The text of each completion, as it continues its prompt, without control tokens."""
    return continued_texts(tokenizer, _real(rollouts.completion, rollouts.completion_mask))


def decode_prompts(tokenizer: Any, rollouts: Rollouts) -> list[str]:
    """The text of each prompt, without control tokens."""
    return [str(text) for text in tokenizer.batch_decode(prompt_ids(rollouts), skip_special_tokens=True)]


def prompt_ids(rollouts: Rollouts) -> list[Ids]:
    """The tokens of each prompt, without padding."""
    return _real(rollouts.tokens[:, : rollouts.prompt_length], rollouts.mask[:, : rollouts.prompt_length])


def _real(tokens: torch.Tensor, mask: torch.Tensor) -> list[Ids]:
    rows = zip(tokens.tolist(), mask.tolist(), strict=True)
    return [[token for token, real in zip(*row, strict=True) if real] for row in rows]


# -- conversations --------------------------------------------------------------------------------------------------------


def chat_text(tokenizer: Any, messages: Messages, answer: bool = True) -> str:
    """A conversation in the tokenizer's chat template, with the opening of an assistant's answer if ``answer``.

    Control tokens typed into a message are guarded (`guard`): give the text to `encode_chat_text`, or read it without guards
    (`unguarded`). Raises UserError if the template fails.
    """
    guarded = [{**message, "content": guard(tokenizer, message["content"])} for message in messages]
    try:
        own = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        dated = {"chat_template": TODAY + own} if "strftime_now" in own else {}
        return str(tokenizer.apply_chat_template(guarded, tokenize=False, add_generation_prompt=answer, **dated))
    except Exception as error:  # a template is a program of the model's author
        reason = (str(error).strip().splitlines() or [""])[0]
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} fails on a conversation of {roles}: {type(error).__name__}: "
            f"{reason}; mend the chat template of the model, or choose another model"
        ) from error


def guard(tokenizer: Any, text: str) -> str:
    """The text with every control token in it broken up, so that a chat template's own are the only ones."""
    return _control(tokenizer).sub(lambda match: GUARD.join(match.group()), text)


def unguarded(text: str) -> str:
    """The text without guards."""
    return text.replace(GUARD, "")


def encode_chat_text(tokenizer: Any, text: str) -> Ids:
    """Token ids of a text of `chat_text`, or of one that continues it: the template's control tokens are tokens, typed ones
    are text. The template writes the start token; none is added."""
    if GUARD not in text:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids: Ids = []
    controls, abouts = _controls(tokenizer), {about.content: about for about in tokenizer.added_tokens_decoder.values()}
    start = 0
    for match in _control(tokenizer).finditer(text):
        before, about = text[start : match.start()], abouts.get(match.group())
        start = match.end()
        if about and about.lstrip:  # the token swallows the white space beside it
            before = before.rstrip()
        if about and about.rstrip:
            start += len(text[start:]) - len(text[start:].lstrip())
        ids += [*_unguarded_words(tokenizer, before), controls[match.group()]]
    return ids + _unguarded_words(tokenizer, text[start:])


def _unguarded_words(tokenizer: Any, text: str) -> Ids:
    return encode_words(tokenizer, [unguarded(text)], begins=True)[0] if text else []


def encode_chat(tokenizer: Any, messages: Messages, longest: int | None = None) -> Ids | None:
    """Token ids of a conversation up to the opening of the assistant's answer.

    A conversation of more than ``longest`` tokens loses its oldest turns, whole ones, up to a user turn; system turns at its
    beginning stay. None if the last user turn does not fit.
    """
    turns = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    later = [i for i, message in enumerate(messages) if message["role"] == "user" and i > turns]
    for start in [turns, *later]:
        kept = [*messages[:turns], *messages[start:]]
        ids = encode_chat_text(tokenizer, chat_text(tokenizer, kept))
        if longest is None or len(ids) <= longest:
            return ids
    return None


# -- ends of answers ------------------------------------------------------------------------------------------------------


def end_ids(tokenizer: Any, generation: Any = None) -> Ids:
    """The tokens that end an answer: the tokenizer's end token, those of a ``generation`` configuration, and the token that
    closes an assistant's turn."""
    told = getattr(generation, "eos_token_id", None)
    ends = [tokenizer.eos_token_id, turn_end(tokenizer), *(told if isinstance(told, list | tuple) else [told])]
    if wrong := [token for token in ends if token is not None and not isinstance(token, int)]:
        raise UserError(
            f"the generation configuration of {tokenizer.name_or_path!r} has the end token {wrong[0]!r}, not a number; mend "
            "eos_token_id in its generation_config.json"
        )
    return sorted({token for token in ends if token is not None and token >= 0})  # -1 stands for none


def turn_end(tokenizer: Any) -> int | None:
    """The first control token after an assistant's message in the chat template, or None. Raises UserError if that fails."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    match = _control(tokenizer).search(turn_tail(tokenizer))
    return _controls(tokenizer)[match.group()] if match else None


def turn_tail(tokenizer: Any) -> str:
    """What the chat template writes after an assistant's message. Raises UserError if it fails."""
    return chat_text(tokenizer, TALK, answer=False).rpartition(MARK)[2]


def closing_id(tokenizer: Any, chat: bool = False) -> int:
    """The token that closes an answer in training data: the end of the turn in a conversation (``chat``) whose template has
    one, else the tokenizer's end token. Raises UserError if there is none."""
    turn = turn_end(tokenizer) if chat else None
    closing = tokenizer.eos_token_id if turn is None else turn
    if closing is None:
        raise _no_end(tokenizer)
    return int(closing)


# -- tokens that are none -------------------------------------------------------------------------------------------------


def special_ids(tokenizer: Any) -> set[int]:
    """All control tokens: the named ones, and added ones that are marked as special."""
    added = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return set(tokenizer.all_special_ids) | added


def banned_ids(tokenizer: Any, logits: int, ends: Iterable[int], open_ends: bool) -> Ids:
    """The tokens below ``logits`` that no answer may have: control tokens, and ids that are no token of the vocabulary.

    The tokens ``ends`` are allowed if answers have an ``open_ends``, and banned if their length is fixed.
    """
    controls = banned_controls(tokenizer, ends, open_ends)
    gaps = set(range(logits)) - set(tokenizer.get_vocab().values())
    return sorted(token for token in controls | gaps if token < logits)


def banned_controls(tokenizer: Any, ends: Iterable[int], open_ends: bool) -> set[int]:
    """The banned tokens (`banned_ids`) that are in the vocabulary."""
    return special_ids(tokenizer) - set(ends) if open_ends else special_ids(tokenizer) | set(ends)


def check_tokenizer(tokenizer: Any, model: Any, open_ends: bool) -> None:
    """Refuse a tokenizer that can't serve a model: one without words, of another model, without an end token though answers
    have ``open_ends``, without a padding token, or with a chat template that fails. Raises UserError."""
    name, rows = tokenizer.name_or_path, int(model.get_input_embeddings().weight.shape[0])
    words = _words(tokenizer)
    if not words:
        raise _no_tokenizer(name)
    named = {"bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id, "pad_token": tokenizer.pad_token_id}
    beyond = next((token for token, place in named.items() if place is not None and place >= rows), "")
    if max(words) >= rows or beyond:
        what = f"has the token id {max(words)}" if max(words) >= rows else f"has the {beyond} {named[beyond]}"
        only = f"the model has embeddings for {rows} tokens only; use the model's own tokenizer"
        raise UserError(f"the tokenizer of {name!r} {what}, but {only}")
    ends = [token for token in end_ids(tokenizer, getattr(model, "generation_config", None)) if token < rows]
    if open_ends and not ends:
        raise _no_end(tokenizer)
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of {name!r} has neither a pad_token nor an eos_token; set one in its files")
    if getattr(tokenizer, "chat_template", None):
        chat_text(tokenizer, TALK[:1])


def _words(tokenizer: Any) -> set[int]:
    return set(tokenizer.get_vocab().values()) - special_ids(tokenizer)


def _no_tokenizer(name: str) -> UserError:
    return UserError(f"the model {name!r} has no tokenizer; put the tokenizer's files beside its weights")


def _no_end(tokenizer: Any) -> UserError:
    return UserError(
        f"the model {tokenizer.name_or_path!r} has no end token, so its answers can't end: set eos_token in its "
        "tokenizer_config.json, or task.model.eos=masked for answers of a fixed length"
    )


def _controls(tokenizer: Any) -> dict[str, int]:
    """Control tokens by text."""
    added = {about.content: token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def _control(tokenizer: Any) -> re.Pattern[str]:
    """Matches the text of a control token, the longest that stands at a place."""
    texts = sorted(_controls(tokenizer), key=len, reverse=True)
    return re.compile("|".join(re.escape(text) for text in texts if text) or r"(?!)")
