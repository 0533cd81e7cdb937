"""Requests to an OpenAI-compatible chat-completions server: kept on disk, paced, retried, and stopped before a limit.

Whatever has been answered is on disk before anything else is done with it, so it is never paid for twice: a killed run, or
one that stopped, goes on where it was. What is found there counts towards the limit of tokens as if it had just been paid,
so a run that goes on stops where an uninterrupted one would.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
import time
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NoReturn

from isoalign.config.feedback import JudgeConfig
from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.redaction import REDACTED
from isoalign.core.store import digest
from isoalign.feedback.judges.limits import Clock, RateLimiter, Sleep, StopSignal, TokenBudget
from isoalign.feedback.judges.templates import clean

Message = dict[str, str]

IN_A_ROW = 5  # requests that failed, with all their retries: then the server is taken to be gone
REJECTIONS = 50  # before the first answer: then it is no question that is at fault
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between tries; the wait doubles
PATIENCE = 600.0  # seconds that a server may ask to be left alone
LARGEST = 32 * 2**20  # bytes of an answer; anything longer is no verdict
LOWEST = -9999.0  # log-probability of what is impossible, as servers write it
AGAIN = (408, 409, 425, 429)  # and 5xx: worth another try
UNFIT = (400, 413, 422)  # this request, not the server or the key


class Failed(Exception):
    """No answer, after all retries; ``cause`` in a word or two."""

    def __init__(self, cause: str, detail: str, after: float | None = None) -> None:
        super().__init__(detail)
        self.cause, self.after = cause, after


class Rejected(Exception):
    """The server won't take this request, and would not if it were sent again."""


@dataclass(frozen=True)
class Reply:
    """What the server said. ``top``: its candidates for the first token with their log-probabilities, None without them;
    ``tokens``: read and written, ``estimated`` where the server didn't count; ``finish``: why it stopped."""

    text: str
    refusal: str
    finish: str
    top: list[tuple[str, float]] | None
    tokens: int
    estimated: bool


class Client:
    """Asks a server; threads may share it. ``folder`` keeps the answers, one file each; ``sleep`` and ``clock`` in seconds.

    The key comes from the environment alone. It is taken out of whatever the server says before that is shown or kept.
    """

    def __init__(self, config: JudgeConfig, folder: Path, sleep: Sleep | None = None, clock: Clock = time.monotonic) -> None:
        self.config, self.folder, self.clock = config, folder, clock
        self.base_url = config.base_url.rstrip("/")
        self.stop_signal = StopSignal()
        self.sleep = sleep or self.stop_signal.stopped.wait  # a thread that waits wakes when the run stops
        self.token_budget = TokenBudget(config.token_limit, self.stop_signal)
        self.rate_limiter = RateLimiter(config.requests_per_minute, clock, self.sleep)
        self._key = _key(config.key_env)
        self._failures = self._rejections = 0
        self._answered = False
        self._made: Any = None
        self._lock = threading.Lock()

    def request(self, messages: list[Message], **settings: Any) -> dict[str, Any]:
        """All that an answer depends on; its digest names the file that keeps the answer."""
        return {"base_url": self.base_url, "model": self.config.model, "messages": messages, "temperature": 0, **settings}

    def kept(self, request: dict[str, Any]) -> Reply | None:
        """The answer on disk; None where there is none, or none that can be read."""
        try:
            found = json.loads(self._file(request).read_text(encoding="utf-8"))
            return _checked(found["reply"]) if found["request"] == request else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def ask(self, request: dict[str, Any]) -> Reply:
        """The answer: from disk, or else from the server, and then it is on disk.

        Raises Failed or Rejected where this request brought none, Stop where none would.
        """
        self.stop_signal.raise_if_stopped()
        reply = self.kept(request)
        with self.token_budget.reserve(reply.tokens if reply else _estimate(request)) as charge:
            if reply is None:
                reply = self._answer(request)
                about = {"request": request, "reply": asdict(reply)}
                save(self._file(request), json.dumps(about, indent=1, allow_nan=False))
            charge(reply.tokens)
        self._answered = True
        return reply

    def _file(self, request: dict[str, Any]) -> Path:
        return self.folder / f"{digest(request)}.json"

    def _answer(self, request: dict[str, Any]) -> Reply:
        """Try, and try again. A server that fails for ``IN_A_ROW`` requests, or takes none at all, is not asked any more."""
        try:
            reply = self._persist(request)
        except (Failed, Rejected) as error:
            failed = isinstance(error, Failed)
            with self._lock:
                self._failures = self._failures + 1 if failed else 0
                self._rejections += not failed
            if self._failures >= IN_A_ROW:
                self.stop_signal.stop(f"{self.base_url} failed {IN_A_ROW} requests in a row, the last with: {error}")
            if self._rejections >= REJECTIONS and not self._answered:
                self.stop_signal.stop(f"{self.base_url} rejected {REJECTIONS} requests and took none, the last with: {error}")
            raise
        self._failures = 0
        return reply

    def _persist(self, request: dict[str, Any]) -> Reply:
        """Exponential backoff with jitter, which the request and the try decide, or as long as the server asks for."""
        for attempt in range(self.config.retries + 1):
            self.rate_limiter.wait()
            self.stop_signal.raise_if_stopped()
            try:
                return self._send(request)
            except Failed as error:
                if attempt == self.config.retries:
                    raise
                wait = error.after
                if wait is not None and wait > PATIENCE:
                    self.stop_signal.stop(f"{self.base_url} asks to be left alone for {wait:.0f} s: {error}")
                if wait is None:
                    jitter = random.Random(f"{digest(request)}-{attempt}").uniform(0.5, 1)
                    wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * jitter
            self.sleep(wait)
            self.stop_signal.raise_if_stopped()
        raise AssertionError("the last try returns or raises")

    def _send(self, request: dict[str, Any]) -> Reply:
        """One request, and no more than ``timeout`` seconds for the whole answer, however slowly it trickles in."""
        deadline = self.clock() + self.config.timeout
        settings = {name: value for name, value in request.items() if name != "base_url"}
        openai, http = _sdk()
        try:
            with self._server.chat.completions.with_streaming_response.create(**settings) as response:
                body = self._body(response, deadline)
        except openai.APIStatusError as error:
            self._refuse(error.status_code, _short(self._hide(_told(error))), _retry_after(error.response.headers))
        except (openai.APITimeoutError, http.TimeoutException) as error:
            raise Failed("timeout", f"no answer within task.judge.timeout={self.config.timeout:g} s") from error
        except (openai.APIConnectionError, http.HTTPError, OSError) as error:
            raise Failed("no connection", _short(self._hide(f"no connection ({error.__cause__ or error})"))) from error
        return self._parse(body, request)

    def _body(self, response: Any, deadline: float) -> bytes:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if self.clock() > deadline:
                raise Failed("timeout", f"no whole answer within task.judge.timeout={self.config.timeout:g} s")
            if len(body) > LARGEST:
                raise Failed("malformed", f"an answer of over {LARGEST >> 20} MB")
        return bytes(body)

    def _refuse(self, status: int, detail: str, after: float | None) -> NoReturn:
        """What a status other than 200 means."""
        told = f"HTTP {status}: {detail}"
        if status in AGAIN or status >= 500:
            raise Failed("rate limit" if status == 429 else "server error", told, after)
        if status in UNFIT:
            raise Rejected(told)
        advice = {
            401: f"is the key in {self.config.key_env} right?" if self._key else f"set the key in {self.config.key_env}",
            403: f"may the key in {self.config.key_env} use {self.config.model}?",
            404: "are task.judge.model and task.judge.base_url right?",
        }.get(status, "see task.judge")
        self.stop_signal.stop(f"{self.base_url} refuses every request with {told}; {advice}")

    def _parse(self, body: bytes, request: dict[str, Any]) -> Reply:
        """The parts that count of a chat completion; raises Failed for anything else."""
        text = body.decode("utf-8", "replace")
        try:
            data = json.loads(text)
            choice = data["choices"][0]
            said, refusal = (self._text(choice["message"].get(name)) for name in ("content", "refusal"))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise Failed("malformed", f"no chat completion but {_short(self._hide(text)) or 'nothing'}") from error
        counted = _usage(data.get("usage"))
        tokens = counted or _quarter(request["messages"], said + refusal)
        return Reply(said, refusal, self._text(choice.get("finish_reason")), _top(choice), tokens, not counted)

    def _text(self, value: Any) -> str:
        return self._hide(clean(value)) if isinstance(value, str) else ""

    def _hide(self, text: str) -> str:
        """The text without the key. What a local server takes for a key ("x", "EMPTY") is none, and may be a word."""
        return text.replace(self._key, REDACTED) if len(self._key) >= 8 else text

    @property
    def _server(self) -> Any:
        """The SDK's client, made when something is first asked of it. It tries once: retries are ours, paced and told."""
        with self._lock:
            if self._made is None:
                once = {"timeout": self.config.timeout, "max_retries": 0}
                self._made = _sdk()[0].OpenAI(api_key=self._key or "none", base_url=self.base_url, **once)
        return self._made


def _sdk() -> tuple[Any, Any]:
    """The SDK, and the HTTP library that it is built on: errors amid a body come straight from there."""
    try:
        import httpx2  # indented: only this judge needs them, and they take a second
        import openai  # indented: as above
    except ImportError as error:
        raise UserError("the server judge needs the package openai: pip install openai") from error
    for name in ("openai", "httpx2", "httpx"):  # a line for each request would bury everything else
        logging.getLogger(name).setLevel(logging.WARNING)
    return openai, httpx2


def _key(variable: str) -> str:
    """The key in an environment variable, empty where there is none: a local server needs none."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"{variable} holds characters that are in no key; set it again")
    return key


def _estimate(request: dict[str, Any]) -> int:
    """Tokens that a request may cost: a quarter of its characters, and all that may be written."""
    return _quarter(request["messages"], "") + int(request["max_tokens"])


def _quarter(messages: list[Message], said: str) -> int:
    """About how many tokens texts have: English has four characters a token, a little more."""
    return math.ceil((sum(len(message["content"]) for message in messages) + len(said)) / 4)


def _usage(usage: Any) -> int:
    """Tokens read and written by the server's count, 0 without one."""
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    usable = [count for count in counts if isinstance(count, int) and count >= 0]
    return sum(usable) if len(usable) == 2 else 0


def _top(choice: dict[str, Any]) -> list[tuple[str, float]] | None:
    """The candidates for the first token; None where there are none, or where one is no log-probability."""
    try:
        listed = [(clean(each["token"]), each["logprob"]) for each in choice["logprobs"]["content"][0]["top_logprobs"]]
        usable = all(logp <= 1e-3 for _, logp in listed)  # NaN is not; rounding may put certainty a little over 0
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    return [(token, min(max(float(logp), LOWEST), 0.0)) for token, logp in listed] if listed and usable else None


def _checked(reply: dict[str, Any]) -> Reply:
    """A kept reply; raises one of the errors that ``kept`` takes for none."""
    top = reply["top"] and [(str(token), float(logp)) for token, logp in reply["top"]]
    text, refusal, finish = (str(reply[name]) for name in ("text", "refusal", "finish"))
    return Reply(text, refusal, finish, top, int(reply["tokens"]), bool(reply["estimated"]))


def _told(error: Any) -> str:
    """What a server says of an error."""
    body = error.body
    return str((body.get("message") or body) if isinstance(body, dict) else (body or error.message))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."


def _retry_after(headers: Any) -> float | None:
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
