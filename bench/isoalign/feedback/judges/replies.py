"""Replies of an OpenAI-compatible chat-completions server, and the errors of requests that bring none."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from isoalign.feedback.judges.templates import repair_unicode

Message = dict[str, str]

MIN_LOGP = -9999.0  # log-probability that servers write for an impossible token


class RequestFailed(Exception):
    """No answer after all retries. ``cause``: a word or two; ``retry_after``: seconds that the server asks to wait."""

    def __init__(self, cause: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.cause, self.retry_after = cause, retry_after


class RequestRejected(Exception):
    """The server rejects this request; sending it again would not help."""


@dataclass(frozen=True)
class Reply:
    """A chat completion. ``top``: candidates for the first token with their log-probabilities, None without them; ``tokens``:
    read and written, ``estimated`` if the server didn't count them; ``finish``: the finish reason."""

    text: str
    refusal: str
    finish: str
    top: list[tuple[str, float]] | None
    tokens: int
    estimated: bool


def parse_reply(body: bytes, request: dict[str, Any], redact: Callable[[str], str]) -> Reply:
    """The reply in the body of a response; ``redact`` removes the key from texts. Raises RequestFailed if it has none."""

    def as_text(value: Any) -> str:
        return redact(repair_unicode(value)) if isinstance(value, str) else ""

    content = body.decode("utf-8", "replace")
    try:
        data = json.loads(content)
        choice = data["choices"][0]
        text, refusal = (as_text(choice["message"].get(name)) for name in ("content", "refusal"))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        detail = on_one_line(redact(content)) or "an empty body"
        raise RequestFailed("malformed", f"not a chat completion: {detail}") from error
    counted = _counted_tokens(data.get("usage"))
    tokens = counted or _estimate_tokens(request["messages"], text + refusal)
    return Reply(text, refusal, as_text(choice.get("finish_reason")), _top_tokens(choice), tokens, not counted)


def reply_from_json(reply: dict[str, Any]) -> Reply:
    """A reply read from the cache; raises TypeError, ValueError or KeyError if it is malformed."""
    top = reply["top"] and [(str(token), float(logp)) for token, logp in reply["top"]]
    text, refusal, finish = (str(reply[name]) for name in ("text", "refusal", "finish"))
    return Reply(text, refusal, finish, top, int(reply["tokens"]), bool(reply["estimated"]))


def max_tokens(request: dict[str, Any]) -> int:
    """Tokens that a request may cost: its own, estimated from its characters, and all that may be written."""
    return _estimate_tokens(request["messages"], "") + int(request["max_tokens"])


def _estimate_tokens(messages: list[Message], answer: str) -> int:
    """Estimated tokens of texts: English has a little over four characters per token."""
    return math.ceil((sum(len(message["content"]) for message in messages) + len(answer)) / 4)


def _counted_tokens(usage: Any) -> int:
    """Tokens read and written as counted by the server, 0 without a count."""
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    usable = [count for count in counts if isinstance(count, int) and count >= 0]
    return sum(usable) if len(usable) == 2 else 0


def _top_tokens(choice: dict[str, Any]) -> list[tuple[str, float]] | None:
    """Candidates for the first token; None if there are none, or if one has no valid log-probability."""
    try:
        top = [(repair_unicode(each["token"]), each["logprob"]) for each in choice["logprobs"]["content"][0]["top_logprobs"]]
        usable = all(logp <= 1e-3 for _, logp in top)  # false for NaN; rounding may put certainty a little over 0
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    return [(token, min(max(float(logp), MIN_LOGP), 0.0)) for token, logp in top] if top and usable else None


def error_message(error: Any) -> str:
    """The server's message in an error of the SDK."""
    body = error.body
    return str((body.get("message") or body) if isinstance(body, dict) else (body or error.message))


def on_one_line(text: str) -> str:
    """The text on one line of at most 200 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."


def retry_after(headers: Any) -> float | None:
    """Seconds of the header Retry-After, which may be a date (RFC 9110, sec. 10.2.3); None without a usable one."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
