"""Turns of a conversation that a chat template does not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isoalign.models.tokens import MARK, chat_text


def unshown(tokenizer: Any, roles: Sequence[str], answer: bool = True) -> list[int]:
    """The places of the turns of such roles that the chat template leaves out. ``answer``: whether an answer is asked for.

    Raises UserError if the template fails on them.
    """
    talk = [{"role": role, "content": f"{MARK} {place} said"} for place, role in enumerate(roles)]
    text = chat_text(tokenizer, talk, answer)
    return [place for place, turn in enumerate(talk) if turn["content"] not in text]
