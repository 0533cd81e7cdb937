"""What a judge says: verdicts on which of two answers is better, asked in both orders.

A language model favours a place: whoever is shown first, say (Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and
Chatbot Arena", sec. 3.3; Lee et al. 2023, "RLAIF vs. RLHF", sec. 2.1). So every question is asked in both orders, a verdict is
the mean of the two, and how far they differ is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from isoalign import stats
from isoalign.core.records import Estimate, Question


@dataclass(frozen=True)
class Showing:
    """What a judge says of a question shown in one order.

    ``p``: P(the one shown first is better), None where there is no verdict, and then ``missing`` is the cause in a word or
    two. ``reason``: its chain of thought, or what it or the server said instead of a verdict. ``tokens``: read and written;
    ``estimated``: from the length of the texts, as the server didn't count them. ``flops`` by formula, 0 for a server.
    """

    p: float | None
    tokens: int = 0
    flops: int = 0
    reason: str = ""
    missing: str = ""
    estimated: bool = False


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to a question.

    ``p``: P(first is better), the mean over both orders; None where either order brought no verdict, for one alone would be
    biased by the place. ``orders``: P(first is better) when it was shown first, and when it was shown second. The rest as
    in `Showing`, of both orders together.
    """

    p: float | None
    orders: tuple[float | None, float | None]
    tokens: int
    flops: int
    reason: str = ""
    missing: str = ""
    estimated: bool = False


class Judge(Protocol):
    """What the three have in common. ``identity`` is all that its verdicts depend on beside question and principle."""

    name: str
    identity: dict[str, Any]

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question, in order. ``principle``: by what to judge, in words, in place of the template's own
        (Bai et al. 2022, "Constitutional AI", sec. 4.1)."""
        ...


def in_both_orders(questions: Sequence[Question], read: Callable[[list[Question]], Iterable[Showing]]) -> list[Verdict]:
    """Verdicts from what ``read`` says of each distinct showing. One that several questions share is read once and billed
    to each, so that a verdict's price does not depend on its neighbours."""
    shown = list(dict.fromkeys(order for question in questions for order in (question, question.swapped)))
    said = dict(zip(shown, read(shown), strict=True))
    return [combine(said[question], said[question.swapped]) for question in questions]


def combine(ahead: Showing, behind: Showing) -> Verdict:
    """The verdict from both showings: the first answer shown first, and shown second."""
    orders = (ahead.p, None if behind.p is None else 1 - behind.p)
    return Verdict(
        p=None if orders[0] is None or orders[1] is None else (orders[0] + orders[1]) / 2,
        orders=orders,
        tokens=ahead.tokens + behind.tokens,
        flops=ahead.flops + behind.flops,
        reason="\n---\n".join(filter(None, [ahead.reason, behind.reason])),
        missing=ahead.missing or behind.missing,
        estimated=ahead.estimated or behind.estimated,
    )


def summary(questions: Sequence[Question], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What is to be told of a judge's work.

    ``missing``: cause to count. ``position_bias``: mean of P(the one shown first wins) - 1/2 over both orders, 0 for a fair
    judge, .5 for one that sees nothing but the place. ``inconsistent``: share of verdicts that flip with the order. Both are
    `Estimate`, their intervals by bootstrap over prompts. ``estimated``: verdicts whose tokens the server didn't count.
    """
    bias: dict[str, list[float | None]] = {}
    flips: dict[str, list[float | None]] = {}
    for question, verdict in zip(questions, verdicts, strict=True):
        ahead, behind = verdict.orders
        whole = None if ahead is None or behind is None else ((ahead - behind) / 2, float((ahead - 0.5) * (behind - 0.5) < 0))
        bias.setdefault(question.prompt, []).append(whole and whole[0])
        flips.setdefault(question.prompt, []).append(whole and whole[1])
    return {
        "asked": len(verdicts),
        "missing": dict(sorted(Counter(verdict.missing for verdict in verdicts if verdict.p is None).items())),
        "position_bias": _mean(bias),
        "inconsistent": _mean(flips),
        "tokens": sum(verdict.tokens for verdict in verdicts),
        "flops": sum(verdict.flops for verdict in verdicts),
        "estimated": sum(verdict.estimated for verdict in verdicts),
    }


def _mean(values: dict[str, list[float | None]]) -> Estimate:
    return stats.mean(values) if values else Estimate(None, None, None, 0)
