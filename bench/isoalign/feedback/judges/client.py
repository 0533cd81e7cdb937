"""Requests to an OpenAI-compatible chat-completions server: cached on disk, rate-limited, retried, stopped before a limit.

An answer is written to disk before it is used, so it is never paid for twice: a run that was killed or stopped resumes where
it was. Cached answers count towards the token limit as if they had just been paid for, so a resumed run stops where an
uninterrupted one would.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from isoalign.config.feedback import JudgeConfig
from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.redaction import REDACTED
from isoalign.core.store import digest
from isoalign.feedback.judges.limits import Clock, RateLimiter, Sleep, StopSignal, TokenBudget
from isoalign.feedback.judges.replies import (
    Message,
    Reply,
    RequestFailed,
    RequestRejected,
    error_message,
    max_tokens,
    on_one_line,
    parse_reply,
    reply_from_json,
    retry_after,
)

MAX_FAILURES = 5  # consecutive failed requests, with all their retries, after which the server counts as down
MAX_REJECTIONS = 50  # rejected requests before the first answer, after which the settings must be at fault
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between tries; the wait doubles
MAX_RETRY_AFTER = 600.0  # seconds that a server may ask to wait
MAX_BODY = 32 * 2**20  # bytes of an answer; a longer one can't be a verdict
RETRIED = (408, 409, 425, 429)  # status codes worth another try, as all 5xx
REJECTED = (400, 413, 422)  # status codes that blame this request, not the server or the key


class Client:
    """Sends requests to a server; threads may share it. ``folder`` caches the answers, one file each; ``sleep`` and ``clock``
    in seconds.

    The key is read from the environment only, and removed from the server's texts before they are shown or saved.
    """

    def __init__(self, config: JudgeConfig, folder: Path, sleep: Sleep | None = None, clock: Clock = time.monotonic) -> None:
        self.config, self.folder, self.clock = config, folder, clock
        self.base_url = config.base_url.rstrip("/")
        self.stop_signal = StopSignal()
        self.sleep = sleep or self.stop_signal.stopped.wait  # a waiting thread wakes when the run stops
        self.token_budget = TokenBudget(config.token_limit, self.stop_signal)
        self.rate_limiter = RateLimiter(config.requests_per_minute, clock, self.sleep)
        self._key = _read_key(config.key_env)
        self._failures = self._rejections = 0
        self._answered = False
        self._sdk_client: Any = None
        self._lock = threading.Lock()

    def request(self, messages: list[Message], **settings: Any) -> dict[str, Any]:
        """All that an answer depends on; its digest names the file that caches the answer."""
        return {"base_url": self.base_url, "model": self.config.model, "messages": messages, "temperature": 0, **settings}

    def cached(self, request: dict[str, Any]) -> Reply | None:
        """The answer on disk; None if there is none or it can't be read."""
        try:
            saved = json.loads(self._file(request).read_text(encoding="utf-8"))
            return reply_from_json(saved["reply"]) if saved["request"] == request else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def ask(self, request: dict[str, Any]) -> Reply:
        """The answer, from disk or else from the server, which is then saved.

        Raises RequestFailed or RequestRejected if this request brings no answer, Stop if no request would.
        """
        self.stop_signal.raise_if_stopped()
        reply = self.cached(request)
        with self.token_budget.reserve(reply.tokens if reply else max_tokens(request)) as charge:
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
        """Send with retries, and stop the run if the server fails ``MAX_FAILURES`` requests or rejects all of them."""
        try:
            reply = self._send_with_retries(request)
        except (RequestFailed, RequestRejected) as error:
            failed = isinstance(error, RequestFailed)
            with self._lock:
                self._failures = self._failures + 1 if failed else 0
                self._rejections += not failed
            if self._failures >= MAX_FAILURES:
                self.stop_signal.stop(f"{self.base_url} failed {MAX_FAILURES} requests in a row, the last with: {error}")
            if self._rejections >= MAX_REJECTIONS and not self._answered:
                self.stop_signal.stop(
                    f"{self.base_url} rejected {MAX_REJECTIONS} requests and answered none, the last with: {error}"
                )
            raise
        self._failures = 0
        return reply

    def _send_with_retries(self, request: dict[str, Any]) -> Reply:
        """Wait as long as the server asks, else by exponential backoff with jitter seeded by request and attempt."""
        for attempt in range(self.config.retries + 1):
            self.rate_limiter.wait()
            self.stop_signal.raise_if_stopped()
            try:
                return self._send(request)
            except RequestFailed as error:
                if attempt == self.config.retries:
                    raise
                wait = error.retry_after
                if wait is not None and wait > MAX_RETRY_AFTER:
                    self.stop_signal.stop(f"{self.base_url} asks to wait {wait:.0f} s: {error}")
                if wait is None:
                    jitter = random.Random(f"{digest(request)}-{attempt}").uniform(0.5, 1)
                    wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * jitter
            self.sleep(wait)
            self.stop_signal.raise_if_stopped()
        raise AssertionError("the last try returns or raises")

    def _send(self, request: dict[str, Any]) -> Reply:
        """One request; ``timeout`` seconds bound the complete answer, however slowly it arrives."""
        deadline = self.clock() + self.config.timeout
        settings = {name: value for name, value in request.items() if name != "base_url"}
        openai, http = _import_sdk()
        try:
            with self._server.chat.completions.with_streaming_response.create(**settings) as response:
                body = self._read_body(response, deadline)
        except openai.APIStatusError as error:
            detail = on_one_line(self._redact(error_message(error)))
            self._raise_for_status(error.status_code, detail, retry_after(error.response.headers))
        except (openai.APITimeoutError, http.TimeoutException) as error:
            raise RequestFailed("timeout", f"no answer within task.judge.timeout={self.config.timeout:g} s") from error
        except (openai.APIConnectionError, http.HTTPError, OSError) as error:
            detail = on_one_line(self._redact(f"no connection ({error.__cause__ or error})"))
            raise RequestFailed("no connection", detail) from error
        return parse_reply(body, request, self._redact)

    def _read_body(self, response: Any, deadline: float) -> bytes:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if self.clock() > deadline:
                raise RequestFailed("timeout", f"no complete answer within task.judge.timeout={self.config.timeout:g} s")
            if len(body) > MAX_BODY:
                raise RequestFailed("malformed", f"an answer of over {MAX_BODY >> 20} MB")
        return bytes(body)

    def _raise_for_status(self, status: int, detail: str, wait: float | None) -> NoReturn:
        """The error of a status other than 200; one that every request would meet stops the run."""
        message = f"HTTP {status}: {detail}"
        if status in RETRIED or status >= 500:
            raise RequestFailed("rate limit" if status == 429 else "server error", message, wait)
        if status in REJECTED:
            raise RequestRejected(message)
        advice = {
            401: f"is the key in {self.config.key_env} right?" if self._key else f"set the key in {self.config.key_env}",
            403: f"may the key in {self.config.key_env} use {self.config.model}?",
            404: "are task.judge.model and task.judge.base_url right?",
        }.get(status, "see task.judge")
        self.stop_signal.stop(f"{self.base_url} refuses every request with {message}; {advice}")

    def _redact(self, text: str) -> str:
        """The text without the key. Placeholder keys of local servers ("x", "EMPTY") stay, as they may be words."""
        return text.replace(self._key, REDACTED) if len(self._key) >= 8 else text

    @property
    def _server(self) -> Any:
        """The client of the SDK, made at the first request. It tries once: retries, limits and messages are ours."""
        with self._lock:
            if self._sdk_client is None:
                config, (openai, _) = self.config, _import_sdk()
                self._sdk_client = openai.OpenAI(
                    api_key=self._key or "none", base_url=self.base_url, timeout=config.timeout, max_retries=0
                )
        return self._sdk_client


def _import_sdk() -> tuple[Any, Any]:
    """The SDK, and its HTTP library, whose errors surface while a body is read."""
    try:
        import httpx2  # indented: only this judge needs them, and they take a second
        import openai  # indented: as above
    except ImportError as error:
        raise UserError("the server judge needs the package openai: pip install openai") from error
    for name in ("openai", "httpx2", "httpx"):  # a line for each request would bury everything else
        logging.getLogger(name).setLevel(logging.WARNING)
    return openai, httpx2


def _read_key(variable: str) -> str:
    """The key in an environment variable; empty if unset, as local servers need none."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"{variable} holds characters that no key has; set it again")
    return key
