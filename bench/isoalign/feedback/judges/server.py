"""A judge behind any OpenAI-compatible chat-completions server: vLLM, Ollama, llama.cpp or a hosted one.

If the server returns log-probabilities, the model answers with one letter and P(A) is the softmax over A and B, as in `lm`.
Otherwise, or with a chain of thought, the model ends with a line "Verdict: A" or "Verdict: B", and P(A) is 1 or 0; over both
orders a verdict is then 1, 0, or .5 if it flips (Zheng et al. 2023, sec. 3.4).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from isoalign.config.feedback import JudgeConfig
from isoalign.core import progress
from isoalign.core.errors import UserError
from isoalign.core.records import Question
from isoalign.feedback.judges import templates
from isoalign.feedback.judges.client import Client
from isoalign.feedback.judges.identity import judge_identity
from isoalign.feedback.judges.limits import Clock, Sleep, Stop
from isoalign.feedback.judges.replies import Reply, RequestFailed, RequestRejected
from isoalign.feedback.judges.verdicts import Showing, Verdict, in_both_orders

TOP_LOGPROBS = 20  # the most that servers return
LINE_TOKENS = 32  # enough for the verdict line

_LINE = re.compile(r"^[\s*_#>`\"']*verdict[\s*_`]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_LETTER = re.compile(r"[\s*_`\"'\[(]*([AB])[\s*_`\"'\]).]*")


class ServerJudge:
    """A server's model as a judge. ``cache``: folder that keeps every answer, so that it is never paid for twice."""

    def __init__(
        self, config: JudgeConfig, cache: Path, sleep: Sleep | None = None, clock: Clock = time.monotonic, quiet: bool = False
    ) -> None:
        self.config, self.quiet = config, quiet
        self.name = f"server:{config.model}"
        self.identity = judge_identity(config)
        self.template = templates.load_template(config.template, config.criterion)
        self.client = Client(config, cache, sleep, clock)
        self.letters = not config.thought  # whether to ask for log-probabilities of a letter

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question, in order.

        Raises UserError if the server refuses the key or the model or is down, or if the token limit is reached. Answers
        received until then are cached, and the same call resumes there.
        """
        return in_both_orders(questions, lambda shown: self._read(shown, principle))

    def _read(self, shown: list[Question], principle: str | None) -> list[Showing]:
        """Read showings concurrently, after a first one alone that finds out whether the server returns log-probabilities."""
        self.client.stop_signal.release()
        futures: list[Future[Showing]] = []
        try:
            showings = self._gather(shown, principle, futures)
        except Stop as stop:
            raise UserError(f"{stop}; {self._progress(shown, futures)}") from stop
        if showings and not any(showing.tokens for showing in showings):
            raise UserError(f"{self.client.base_url} answered nothing: {showings[-1].reason}; run the same command to retry")
        return showings

    def _gather(self, shown: list[Question], principle: str | None, futures: list[Future[Showing]]) -> list[Showing]:
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            try:
                for question in shown:
                    futures.append(pool.submit(self._try_question, question, principle, first=not futures))
                    futures[0].exception()
                return [future.result() for future in (futures if self.quiet else progress.track(futures, "judge"))]
            except BaseException:  # waiting requests end at once; pending ones are awaited, as they are paid for
                self.client.stop_signal.stopped.set()
                raise

    def _progress(self, shown: list[Question], futures: list[Future[Showing]]) -> str:
        """How many verdicts are done, and how to resume."""
        done = [(question, future) for question, future in zip(shown, futures, strict=False) if future.exception() is None]
        answered = {question for question, future in done if future.result().tokens}
        complete = {frozenset((q, q.swapped)) for q in answered if q.swapped in answered}
        total = {frozenset((q, q.swapped)) for q in shown}
        return f"{len(complete)} of {len(total)} verdicts are saved in {self.client.folder}; run the same command to resume"

    def _try_question(self, question: Question, principle: str | None, first: bool) -> Showing:
        """A showing, with a cause if it has no verdict; permanent errors stop the other threads before they spend more."""
        try:
            return self._showing(question, principle, first)
        except RequestFailed as error:
            return Showing(None, reason=str(error), missing=error.cause)
        except RequestRejected as error:
            return Showing(None, reason=str(error), missing="rejected")
        except UserError as error:
            self.client.stop_signal.stop(str(error))
        except Exception:
            self.client.stop_signal.stopped.set()
            raise

    def _showing(self, question: Question, principle: str | None, first: bool) -> Showing:
        """Ask for a letter if the server returns log-probabilities; ask for a verdict line if not, or if they hold no
        letter."""
        line = self._request(question, principle, templates.THINK if self.config.thought else templates.LINE)
        replies: list[Reply] = []
        if self.letters:
            replies = self._ask_letter(self._request(question, principle, templates.LETTER), line)
            p = next((letter_probability(reply.top) for reply in replies), None)
            if p is not None or any(map(_refused, replies)):
                return self._showing_of(p, replies)
        no_logprobs = self.letters and not any(reply.top for reply in replies)
        replies = [*replies, self.client.ask(line)]
        if first and no_logprobs:  # only once the line is answered: a question too long for the server proves nothing
            self.letters = False
        return self._showing_of(line_probability(replies[-1].text), replies)

    def _ask_letter(self, request: dict[str, Any], line: dict[str, Any]) -> list[Reply]:
        """The reply to the request for a letter, if any. It is skipped if the server rejected it in an earlier run: then only
        the request for a line is cached."""
        if self.client.cached(line) and not self.client.cached(request):
            return []
        try:
            return [self.client.ask(request)]
        except RequestRejected:  # many servers have no log-probabilities
            return []

    def _request(self, question: Question, principle: str | None, ending: str) -> dict[str, Any]:
        text = self.template.render(question.prompt, question.first, question.second, principle, ending)
        settings: dict[str, Any] = {"max_tokens": self.config.thought + LINE_TOKENS}
        if ending == templates.LETTER:
            settings = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return self.client.request([{"role": "user", "content": text}], **settings)

    def _showing_of(self, p: float | None, replies: list[Reply]) -> Showing:
        last = replies[-1]
        missing = "" if p is not None else "refused" if _refused(last) else "no verdict"
        return Showing(
            p,
            tokens=sum(reply.tokens for reply in replies),
            reason=last.refusal or last.text if missing or self.config.thought else "",
            missing=missing,
            estimated=any(reply.estimated for reply in replies),
        )


def _refused(reply: Reply) -> bool:
    return bool(reply.refusal) or reply.finish == "content_filter"


def letter_probability(top: list[tuple[str, float]] | None) -> float | None:
    """P(A) from A and B among the candidates for one token; None if neither is among them.

    A missing one gets the largest probability it can have: that of the last candidate, or all that is left, if smaller.
    """
    if not top:
        return None
    chances = [(token.strip(), math.exp(logp)) for token, logp in top]
    a, b = (sum(chance for token, chance in chances if token == label.strip()) for label in templates.LABELS)
    if not a + b:
        return None
    bound = min(*(chance for _, chance in chances), max(0.0, 1 - sum(chance for _, chance in chances)))
    a, b = a or bound, b or bound
    return a / (a + b)


def line_probability(text: str) -> float | None:
    """P(A) from the last line that begins with "Verdict:", or from a reply of a single letter: 1 for A, 0 for B.

    None for anything else: an A within a text may be an article, and an earlier line a first thought.
    """
    letter = _LETTER.fullmatch((_LINE.findall(text) or [text])[-1])
    return float(letter[1] == "A") if letter else None
