"""Token ids of plain text, and of text that continues another.

Some tokenizers put a space before every text (the ``▁`` of Llama 2), and drop one at the front when they decode. A text that
continues another is therefore read behind an anchor, a short text that is taken away again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Ids = list[int]

ANCHORS = ("\n", ".", "0", "a", "I")  # the first that stands apart from what follows it is taken
SPACES = "▁Ġ "


def plain(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    """Token ids of texts without start or end tokens. Control tokens typed into them are text."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return [list(ids) for ids in encoded["input_ids"]]


def continued(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    """Token ids of texts that continue others: those that they have behind another text."""
    rows = plain(tokenizer, texts)
    if not texts or not _adds_space(tokenizer):
        return rows
    open_rows = [place for place, text in enumerate(texts) if text]
    for anchor, head in _anchors(tokenizer):
        whole = plain(tokenizer, [anchor + texts[place] for place in open_rows])
        apart = {place: ids[len(head) :] for place, ids in zip(open_rows, whole, strict=True) if ids[: len(head)] == head}
        rows = [apart.get(place, ids) for place, ids in enumerate(rows)]
        open_rows = [place for place in open_rows if place not in apart]
    return rows


def continued_texts(tokenizer: Any, rows: Sequence[Ids]) -> list[str]:
    """The texts of token ids that continue others, without control tokens, with the space that they may begin with."""
    texts = [str(text) for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]
    if not _adds_space(tokenizer):
        return texts
    open_rows = [place for place, ids in enumerate(rows) if ids]
    for _, head in reversed(_anchors(tokenizer)):
        whole = tokenizer.batch_decode([head, *([*head, *rows[place]] for place in open_rows)], skip_special_tokens=True)
        start, *behind = map(str, whole)
        apart = {place: text for place, text in zip(open_rows, behind, strict=True) if text.startswith(start)}
        texts = [apart[place][len(start) :] if place in apart else text for place, text in enumerate(texts)]
        open_rows = [place for place in open_rows if place not in apart]
    return texts


def _anchors(tokenizer: Any) -> list[tuple[str, Ids]]:
    """The anchors that the tokenizer has tokens for, with their ids."""
    found = zip(ANCHORS, plain(tokenizer, ANCHORS), strict=True)
    return [
        (anchor, ids)
        for anchor, ids in found
        if ids and tokenizer.unk_token_id not in ids and tokenizer.convert_ids_to_tokens(ids[-1]).strip(SPACES)
    ]


def _adds_space(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a space before a text."""
    [ids] = plain(tokenizer, ["a"])
    return bool(ids) and tokenizer.convert_ids_to_tokens(ids[0])[:1] in tuple(SPACES)
