"""A judge behind any OpenAI-compatible chat-completions server: vLLM, Ollama, llama.cpp or a hosted one.

Where the server tells log-probabilities, the model answers with one letter and P(A) is the softmax over A and B, as `lm`
does it. Where it doesn't, or where a chain of thought comes first, the model ends with a line "Verdict: A" or "Verdict: B",
and P(A) is 1 or 0; over both orders a verdict is then 1, 0, or .5 where it flips (Zheng et al. 2023, sec. 3.4).
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
from isoalign.feedback.judges.client import Client, Failed, Rejected, Reply
from isoalign.feedback.judges.identity import identity
from isoalign.feedback.judges.limits import Clock, Sleep, Stop
from isoalign.feedback.judges.verdicts import Showing, Verdict, in_both_orders

CANDIDATES = 20  # candidates for the letter that are asked for: the most that servers list
LINE_TOKENS = 32  # enough for the line with the verdict

_LINE = re.compile(r"^[\s*_#>`\"']*verdict[\s*_`]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_LETTER = re.compile(r"[\s*_`\"'\[(]*([AB])[\s*_`\"'\]).]*")


class ServerJudge:
    """A server's model as a judge. ``cache`` keeps every answer, so that it is never paid for twice."""

    def __init__(
        self, config: JudgeConfig, cache: Path, sleep: Sleep | None = None, clock: Clock = time.monotonic, quiet: bool = False
    ) -> None:
        self.config, self.quiet = config, quiet
        self.name = f"server:{config.model}"
        self.identity = identity(config)
        self.template = templates.load_template(config.template)
        self.client = Client(config, cache, sleep, clock)
        self.letters = not config.thought  # whether the server is asked for log-probabilities of a letter

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question, in order.

        Raises UserError where the server refuses the key or the model, is gone, or the limit of tokens is reached. What was
        answered till then is kept, and the same call goes on from there.
        """
        return in_both_orders(questions, lambda shown: self._read(shown, principle))

    def _read(self, shown: list[Question], principle: str | None) -> list[Showing]:
        """Each showing, several at a time. The first is alone: it finds out whether the server tells log-probabilities."""
        self.client.stop_signal.release()
        asked: list[Future[Showing]] = []
        try:
            found = self._gather(shown, principle, asked)
        except Stop as stop:
            raise UserError(f"{stop}; {self._kept(shown, asked)}") from stop
        if found and not any(showing.tokens for showing in found):
            raise UserError(f"{self.client.base_url} answered nothing: {found[-1].reason}; the same command asks again")
        return found

    def _gather(self, shown: list[Question], principle: str | None, asked: list[Future[Showing]]) -> list[Showing]:
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            try:
                for question in shown:
                    asked.append(pool.submit(self._guarded, question, principle, first=not asked))
                    asked[0].exception()
                return [future.result() for future in (asked if self.quiet else progress.track(asked, "judge"))]
            except BaseException:  # those that wait end at once; those on their way are awaited, as they are paid for
                self.client.stop_signal.stopped.set()
                raise

    def _kept(self, shown: list[Question], asked: list[Future[Showing]]) -> str:
        """How much of the work is done, for whoever must start it again."""
        ended = [(question, future) for question, future in zip(shown, asked, strict=False) if future.exception() is None]
        answered = {question for question, future in ended if future.result().tokens}
        whole = {frozenset((q, q.swapped)) for q in answered if q.swapped in answered}
        wanted = {frozenset((q, q.swapped)) for q in shown}
        return (
            f"{len(whole)} of {len(wanted)} verdicts are kept in {self.client.folder}, and the same command goes on from there"
        )

    def _guarded(self, question: Question, principle: str | None, first: bool) -> Showing:
        """A showing, or why there is none; what goes wrong for good stops the other threads before they spend more."""
        try:
            return self._showing(question, principle, first)
        except Failed as error:
            return Showing(None, reason=str(error), missing=error.cause)
        except Rejected as error:
            return Showing(None, reason=str(error), missing="rejected")
        except UserError as error:
            self.client.stop_signal.stop(str(error))
        except Exception:
            self.client.stop_signal.stopped.set()
            raise

    def _showing(self, question: Question, principle: str | None, first: bool) -> Showing:
        """By letter where the server tells log-probabilities; by a line of text where it doesn't or they hold no letter."""
        line = self._request(question, principle, templates.THINK if self.config.thought else templates.LINE)
        replies: list[Reply] = []
        if self.letters:
            replies = self._letter(self._request(question, principle, templates.LETTER), line)
            p = next((listed(reply.top) for reply in replies), None)
            if p is not None or any(map(_refused, replies)):
                return self._shown(p, replies)
        untold = self.letters and not any(reply.top for reply in replies)
        replies = [*replies, self.client.ask(line)]
        if first and untold:  # and not before the line was answered: what is too long for the server says nothing of it
            self.letters = False
        return self._shown(spoken(replies[-1].text), replies)

    def _letter(self, request: dict[str, Any], line: dict[str, Any]) -> list[Reply]:
        """The reply to the question for a letter, if there is one. It isn't asked where an earlier run was told that it
        can't be, which is seen from the line that it asked for next."""
        if self.client.kept(line) and not self.client.kept(request):
            return []
        try:
            return [self.client.ask(request)]
        except Rejected:  # many servers know no log-probabilities
            return []

    def _request(self, question: Question, principle: str | None, ending: str) -> dict[str, Any]:
        text = self.template.render(question.prompt, question.first, question.second, principle, ending)
        settings: dict[str, Any] = {"max_tokens": self.config.thought + LINE_TOKENS}
        if ending == templates.LETTER:
            settings = {"max_tokens": 1, "logprobs": True, "top_logprobs": CANDIDATES}
        return self.client.request([{"role": "user", "content": text}], **settings)

    def _shown(self, p: float | None, replies: list[Reply]) -> Showing:
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


def listed(top: list[tuple[str, float]] | None) -> float | None:
    """P(A) of A and B among the candidates for one token, None where neither is there.

    The one of them that isn't listed is at most as likely as the last one listed, and as all that isn't listed together.
    """
    if not top:
        return None
    chances = [(token.strip(), math.exp(logp)) for token, logp in top]
    a, b = (sum(chance for token, chance in chances if token == label.strip()) for label in templates.LABELS)
    if not a + b:
        return None
    most = min(*(chance for _, chance in chances), max(0.0, 1 - sum(chance for _, chance in chances)))
    a, b = a or most, b or most
    return a / (a + b)


def spoken(text: str) -> float | None:
    """P(A) from the last line that begins with "Verdict:", or from a reply that is nothing but the letter: 1 for A, 0 for B.

    None for anything else. An A amid a text may be an article, and a line before the last may be a first thought.
    """
    found = _LETTER.fullmatch((_LINE.findall(text) or [text])[-1])
    return float(found[1] == "A") if found else None
