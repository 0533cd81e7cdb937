"""A judge's server that misbehaves in every way that servers do."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .bench import Bench
from .outside import HOSTILE
from .trial import Trial

KEY = "sk-planted0key0that0nobody0may0see"


def _said(content: Any, **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}, **more}]}).encode()


BODIES: dict[str, Callable[[random.Random], bytes]] = {
    "well": lambda chance: _said(chance.choice(["Verdict: A", "Verdict: B"])),
    "no choices": lambda chance: b'{"choices": []}',
    "three choices": lambda chance: _said("Verdict: A").replace(b"[", b"[{},{},", 1),
    "other types": lambda chance: json.dumps({"choices": chance.choice([None, 3, "x", {"a": 1}, [[]], [None]])}).encode(),
    "odd content": lambda chance: _said(chance.choice([None, 7, ["x"], {"a": "b"}, "", "neither", "Verdict: C"])),
    "odd usage": lambda chance: _said("Verdict: A")[:-1] + b', "usage": {"total_tokens": -1e99, "prompt_tokens": "x"}}',
    "page": lambda chance: b"<html><h1>It works!</h1></html>", "junk": lambda chance: chance.randbytes(5000),
    "deep": lambda chance: b"[" * 200_000, "not a number": lambda chance: b'{"choices": NaN}', "empty": lambda chance: b"",
    "hostile": lambda chance: _said(chance.choice(HOSTILE)), "huge": lambda chance: _said("x" * 30_000_000),
    "error with key": lambda chance: json.dumps({"error": {"message": f"bad key {KEY} \x1b[31m"}}).encode(),
}  # fmt: skip
WAYS = ("hangs", "closes", "truncates", "drips", "lies about length", "redirects", "busy", "forbidden", "broken")


class Misbehaving(BaseHTTPRequestHandler):
    """``way`` is one of WAYS or of BODIES."""

    way, chance = "well", random.Random(0)

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        """Answer, in the server's way."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with contextlib.suppress(OSError):
            self._answer()

    def _answer(self) -> None:
        body = BODIES.get(self.way, BODIES["well"])(self.chance)
        status = {"redirects": 302, "busy": 429, "forbidden": 401, "broken": 500, "error with key": 400}.get(self.way, 200)
        if self.way == "hangs":
            time.sleep(3600)
        elif self.way == "closes":
            self.close_connection = True
            return
        body = BODIES["error with key"](self.chance) if status in (401, 500) else body
        self.send_response(status)
        length = len(body) + (1000 if self.way in ("truncates", "drips") else -5 if self.way == "lies about length" else 0)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", "application/json")
        if status == 429:
            self.send_header("Retry-After", self.chance.choice(["1", "0", "-3", "soon", "1e9", "inf"]))
        if status == 302:
            self.send_header(
                "Location", self.chance.choice(["/v1/chat/completions", "file:///etc/passwd", "http://127.0.0.1:1/"])
            )
        self.end_headers()
        while self.way == "drips":
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.3)
        self.wfile.write(body)


def servers(bench: Bench, chance: random.Random, number: int) -> Trial:
    """A judge's server that hangs, drips, closes, truncates, redirects, is busy, refuses, or replies with junk, another form,
    hostile text, too much or its key; RLAIF ends in minutes with a card or one line, which has no command of a terminal and no
    key, as no file has."""
    ways = [*WAYS, *BODIES]
    way, place = ways[number % len(ways)], bench.place("served", bench.base)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Misbehaving,), {"way": way, "chance": chance}))
    child = os.fork()
    if not child:
        server.serve_forever()
        os._exit(0)
    server.socket.close()
    settings = [
        "task.judge.kind=server", "task.judge.model=m", f"task.judge.base_url=http://127.0.0.1:{server.server_port}/v1",
        "task.judge.timeout=2", "task.judge.retries=1", "task.feedback.judge_questions=4",
    ]  # fmt: skip
    try:
        ended = bench.start(place, bench.words(place, "rlaif", *settings), environment={"OPENAI_API_KEY": KEY}).end()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    trial = Trial({way: 1})
    trial.beside["a card" if ended.status == 0 else "refused in a line"] += 1
    trial.wrong += ended.wrong(0, 2)
    lines = [line for line in ended.err.splitlines() if line.startswith("isoalign: ")]
    trial.wrong += [f"{len(lines)} lines of complaint: {lines}"] if ended.status == 2 and len(lines) != 1 else []
    trial.wrong += ["an escape in a line"] if any(not line.isprintable() for line in lines) else []
    trial.wrong += [
        f"{file.relative_to(place.home)} has the key"
        for file in place.home.rglob("*")
        if file.is_file() and KEY.encode() in file.read_bytes()
    ]
    trial.wrong = [f"{way}: {line}" for line in trial.wrong]
    return trial
