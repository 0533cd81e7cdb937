"""The token with which rows are padded for transformers' classifiers, which read a row at the last token that is not it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from isoalign.core.lazy import transformers


def own_padding(config: Any, words: int) -> int | None:
    """The padding token by which transformers' own class finds the end of a text; None if the configuration has none among the
    ``words``, or if the class reads where the mask ends."""
    own = config.get_text_config().pad_token_id
    pads = own is not None and 0 <= own < words and type(config) in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    return own if pads else None


def free_padding(config: Any, ends: Iterable[int]) -> int:
    """A token that ends none of the rows, of which ``ends`` are the last tokens, as the padding token of a configuration that
    has none: each row is then read at its last token, as it is alone."""
    taken = set(ends)
    config.get_text_config().pad_token_id = free = next(token for token in range(len(taken) + 1) if token not in taken)
    return free
