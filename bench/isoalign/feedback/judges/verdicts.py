"""Verdicts of judges on which of two answers is better, asked in both orders.

Language models have a position bias, such as for the answer shown first (Zheng et al. 2023, "Judging LLM-as-a-Judge with
MT-Bench and Chatbot Arena", sec. 3.3; Lee et al. 2023, "RLAIF vs. RLHF", sec. 2.1). So every question is asked in both
orders, a verdict is the mean of the two, and their difference is reported.
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
    """A judge's answer to a question shown in one order.

    ``p``: P(the answer shown first is better), None without a verdict; ``missing`` is then the cause in a word or two.
    ``reason``: chain of thought, or the text received instead of a verdict. ``tokens``: read and written; ``estimated``: from
    text lengths, as the server didn't count them. ``flops`` by formula, 0 for a server. ``cut``: the front of the prompt was
    left out, as the model does not read so much.
    """

    p: float | None
    tokens: int = 0
    flops: int = 0
    reason: str = ""
    missing: str = ""
    estimated: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Verdict:
    """A judge's answer to a question.

    ``p``: P(first is better), the mean over both orders; None if either order has no verdict, since one order
    alone is biased by position. ``orders``: P(first is better) when shown first, and when shown second. Other
    fields: as in `Showing`, over both orders; ``tokens`` and ``flops`` are None of a judge that can't say them.
    """

    p: float | None
    orders: tuple[float | None, float | None]
    tokens: int | None
    flops: int | None
    reason: str = ""
    missing: str = ""
    estimated: bool = False
    cut: bool = False


class Judge(Protocol):
    """Interface of judges. ``identity``: all that verdicts depend on besides question and principle."""

    name: str
    identity: dict[str, Any]

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question, in order. ``principle``: the criterion, in words, instead of the template's own (Bai et
        al. 2022, "Constitutional AI", sec. 4.1)."""
        ...


def in_both_orders(questions: Sequence[Question], read: Callable[[list[Question]], Iterable[Showing]]) -> list[Verdict]:
    """Verdicts from ``read``, called once on all distinct showings. A showing that several questions share is charged to
    each, so that the cost of a verdict does not depend on other questions."""
    shown = list(dict.fromkeys(order for question in questions for order in (question, question.swapped)))
    showings = dict(zip(shown, read(shown), strict=True))
    return [combine(showings[question], showings[question.swapped]) for question in questions]


def combine(ahead: Showing, behind: Showing) -> Verdict:
    """The verdict from two showings: first answer shown first, and shown second."""
    orders = (ahead.p, None if behind.p is None else 1 - behind.p)
    return Verdict(
        p=None if orders[0] is None or orders[1] is None else (orders[0] + orders[1]) / 2,
        orders=orders,
        tokens=ahead.tokens + behind.tokens,
        flops=ahead.flops + behind.flops,
        reason="\n---\n".join(filter(None, [ahead.reason, behind.reason])),
        missing=ahead.missing or behind.missing,
        estimated=ahead.estimated or behind.estimated,
        cut=ahead.cut or behind.cut,
    )


def known_sum(counts: Iterable[int | None]) -> int | None:
    """The sum; None if one of them is not known."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def summary(questions: Sequence[Question], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Statistics of a judge's verdicts.

    ``missing``: count by cause. ``position_bias``: mean of P(answer shown first wins) - 1/2 over both orders, 0 for a fair
    judge, .5 for one that sees only the position. ``inconsistent``: share of verdicts that flip with the order. Both are
    `Estimate`, with bootstrap intervals over prompts. ``estimated``: verdicts whose tokens the server didn't count. ``cut``,
    if there are any: those on the end of a prompt alone.
    """
    bias: dict[str, list[float | None]] = {}
    flips: dict[str, list[float | None]] = {}
    for question, verdict in zip(questions, verdicts, strict=True):
        ahead, behind = verdict.orders
        pair = None if ahead is None or behind is None else ((ahead - behind) / 2, float((ahead - 0.5) * (behind - 0.5) < 0))
        bias.setdefault(question.prompt, []).append(pair and pair[0])
        flips.setdefault(question.prompt, []).append(pair and pair[1])
    return {
        "asked": len(verdicts),
        "missing": dict(sorted(Counter(verdict.missing for verdict in verdicts if verdict.p is None).items())),
        "position_bias": _mean_over_prompts(bias),
        "inconsistent": _mean_over_prompts(flips),
        "tokens": known_sum(verdict.tokens for verdict in verdicts),
        "flops": known_sum(verdict.flops for verdict in verdicts),
        "estimated": sum(verdict.estimated for verdict in verdicts),
    } | ({"cut": cut} if (cut := sum(verdict.cut for verdict in verdicts)) else {})


def _mean_over_prompts(values: dict[str, list[float | None]]) -> Estimate:
    return stats.mean(values) if values else Estimate(None, None, None, 0)
