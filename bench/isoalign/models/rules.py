"""Verifiable rules as scorers: 1 where a completion fulfils what a program can check, else 0.

A rule is named ``rule:NAME`` or ``rule:NAME:ARGUMENT``. Most are constraints in the manner of IFEval (Zhou et al. 2023,
"Instruction-Following Evaluation for Large Language Models"); ``exact``, ``number`` and ``math`` compare with the right
answer, the column ``task.prompts.reference``. An answer without text fulfils no rule, or saying nothing would fulfil most.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from isoalign.core.errors import UserError, unknown
from isoalign.core.text import normalise

VERSIONS = {"exact": 2, "number": 2}  # of rules, raised whenever a score would change; the others are at 1
PREFIX = "rule:"
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NUMBER = re.compile(r"(?:(?<![\w.])-)?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][+-]?\d+)?(?:[/:]\d+)*")
_ASKING = re.compile(
    r"(?:^|[.!?,;:]|\b(?:and|but|so|or)\b)\W*(?:who|whom|whose|what|which|when|where|why|how|do|does|did|is|are|am|was|were|can"
    r"|could|will|would|should|shall|may|might|have|has|had|isn't|aren't|don't|doesn't|didn't|can't|won't)\b[^.!?]*\?",
    re.IGNORECASE,
)

Holds = Callable[[str, str, str], bool]  # of prompt, answer and reference


@dataclass(frozen=True)
class Rule:
    """``holds(prompt, answer, reference)``. ``references``: it compares with the right answer."""

    name: str
    holds: Holds
    references: bool = False

    def __call__(self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str] = ()) -> list[float | None]:
        """1 or 0 for each answer; None where there is no right answer to compare with."""
        right = references or [""] * len(answers)
        return [
            None
            if self.references and not reference
            else float(bool(answer.strip()) and self.holds(prompt, answer, reference))
            for prompt, answer, reference in zip(prompts, answers, right, strict=True)
        ]


def words(text: str) -> list[str]:
    """The words of a text in lower case, without numbers and punctuation."""
    return [word.lower() for word in _WORD.findall(text)]


def load_rule(name: str) -> Rule:
    """A rule by its whole name. Raises UserError for an unknown one, and for an argument that is missing, odd or not taken."""
    rule, _, argument = name.removeprefix(PREFIX).partition(":")
    if rule in _OF_ANSWER:
        holds, wanted = _OF_ANSWER[rule], ""
    elif rule in _WITH_NUMBER:
        wanted = "a whole number"
        limit = int(argument) if argument.isascii() and argument.isdigit() else -1
        holds = _WITH_NUMBER[rule](limit)
        argument = argument if limit >= 1 else ""
    elif rule in _WITH_TEXT:
        holds, wanted = _WITH_TEXT[rule](argument.lower()), "a text"
    else:
        known = [*_OF_ANSWER, *_WITH_NUMBER, *_WITH_TEXT]
        raise UserError(unknown("rule", rule, known))
    if bool(argument) != bool(wanted):
        example = f"{PREFIX}{rule}:{'ARGUMENT' if wanted else ''}".rstrip(":")
        raise UserError(f"the rule {name} takes {wanted or 'no argument'}: write {example}")
    if rule == "math":
        holds = _by_math_verify()
    return Rule(name, holds, references=rule in ("exact", "number", "math"))


def version(name: str) -> int:
    """The version of a rule, by its whole name."""
    return VERSIONS.get(name.removeprefix(PREFIX).partition(":")[0], 1)


def numbers(text: str) -> list[str]:
    """The numbers of a text, with or without a digit before the point, the minus sign of typography as a hyphen."""
    return _NUMBER.findall(text.replace("−", "-"))


def last_number(text: str) -> Decimal | None:
    """The last number of a text, thousands separated or not; None without one, and for a fraction, ratio or time."""
    found = numbers(text)
    return Decimal(found[-1].replace(",", "")) if found and not {"/", ":"} & set(found[-1]) else None


def final_answer(reference: str) -> str:
    """What stands after ####, as in GSM8K; the whole reference without it."""
    return reference.rpartition("####")[2].strip()


def _is_number(prompt: str, answer: str, reference: str) -> bool:
    right = final_answer(reference)
    if last_number(right) is None or len(numbers(right)) > 1:
        why = "has several numbers" if len(numbers(right)) > 1 else "has no number"
        raise ValueError(f"the reference {right[:40]!r} {why}; write one behind ####, or use rule:exact or rule:math")
    return last_number(answer) == last_number(right)


def _by_math_verify() -> Holds:
    """Whether math-verify, which not everyone needs, finds answer and reference equal. Raises UserError without it."""
    try:
        math_verify = importlib.import_module("math_verify")
    except ImportError as error:
        advice = 'install it by `pip install "math-verify[antlr4_9_3]"`, whose ANTLR is that of Hydra, or use rule:number'
        raise UserError(f"rule:math needs the package math-verify ({error}): {advice}") from error

    def holds(prompt: str, answer: str, reference: str) -> bool:
        right = math_verify.parse(final_answer(reference))
        if not right:
            raise ValueError(f"the reference {final_answer(reference)[:40]!r} has no mathematics that math-verify reads")
        return bool(math_verify.verify(right, math_verify.parse(answer)))

    return holds


def _mentions(least: int) -> Holds:
    """A word of the prompt with at least so many letters stands in the answer."""

    def holds(prompt: str, answer: str, reference: str) -> bool:
        return bool({word for word in words(prompt) if len(word) >= least} & set(words(answer)))

    return holds


_OF_ANSWER: dict[str, Holds] = {
    "sentence": lambda _, answer, __: bool(re.search(r"[.!?][\"'”’)\]]*\s*$", answer)),
    "question": lambda _, answer, __: "?" in answer,
    "asks": lambda _, answer, __: bool(_ASKING.search(answer)),
    "mark": lambda _, answer, __: bool(re.search(r"[!?]", answer)),
    "lowercase": lambda _, answer, __: answer == answer.lower() and bool(words(answer)),
    "lowercase_start": lambda _, answer, __: next(filter(str.isalpha, answer), "A").islower(),
    "no_comma": lambda _, answer, __: "," not in answer,
    "exact": lambda _, answer, reference: normalise(answer) == normalise(final_answer(reference)),
    "number": _is_number,
    "math": lambda _, __, ___: False,  # by math-verify
}
_WITH_NUMBER: dict[str, Callable[[int], Holds]] = {
    "words_at_most": lambda limit: lambda _, answer, __: len(answer.split()) <= limit,
    "words_at_least": lambda limit: lambda _, answer, __: len(answer.split()) >= limit,
    "lowercase_words": lambda least: lambda _, answer, __: answer == answer.lower() and len(words(answer)) >= least,
    "mentions_prompt": _mentions,
}
_WITH_TEXT: dict[str, Callable[[str], Holds]] = {
    "without": lambda text: lambda _, answer, __: text not in answer.lower(),
    "contains": lambda text: lambda _, answer, __: text in answer.lower(),
}
