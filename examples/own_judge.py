"""A judge of one's own for RLAIF: asked in both orders, its position bias and its agreement with people looked at first."""

from collections.abc import Iterable, Sequence
from typing import Any

from isoalign import stats
from isoalign.feedback.judges import Question, Verdict
from isoalign.feedback.judges.verdicts import Showing, in_both_orders, summary

RUDE = {"idiot", "stupid", "moron", "shut"}


class WordList:
    """Prefers the answer with fewer rude words. A hurried judge: of two that are alike it takes the first that it is shown."""

    name = "word list"

    def __init__(self) -> None:
        self.identity = {"words": sorted(RUDE)}  # all that its verdicts depend on: it becomes part of a run's key

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        """A verdict on each question: the mean of what is said of it in either order."""
        return in_both_orders(questions, self.read)

    def read(self, shown: Iterable[Question]) -> list[Showing]:
        """P(the one shown first is better) for each showing; a real judge asks its model here."""
        gaps = [rude(question.second) - rude(question.first) for question in shown]
        return [Showing(p=0.9 if gap > 0 else 0.1 if gap < 0 else 0.7) for gap in gaps]


def rude(text: str) -> int:
    """Rude words in a text."""
    return sum(word.strip(".,!") in RUDE for word in text.lower().split())


# What people preferred: prompt, the better answer, the other one.
people = [
    ("Well,", "that is one way to see it.", "you are an idiot."),
    ("I think", "we should talk.", "you should shut up, moron."),
    ("This page", "needs work.", "is stupid."),
    ("He said", "that it was late.", "hello."),
    ("You", "are a stupid clever man", "are dull."),
]
questions = [Question(prompt, better, worse) for prompt, better, worse in people]
judge: Any = WordList()
verdicts = judge(questions)

for question, verdict in zip(questions, verdicts, strict=True):
    print(f"P = {verdict.p:.2f}  {question.prompt} {question.first!r} rather than {question.second!r}")

told = summary(questions, verdicts)
print(f"position bias {told['position_bias'].value:.2f}, verdicts that flip with the order {told['inconsistent'].value:.0%}")
agreed = {q.prompt: [float(v.p > 0.5) + 0.5 * (v.p == 0.5)] for q, v in zip(questions, verdicts, strict=True)}
found = stats.mean(agreed)
print(f"agrees with people on {found.value:.0%} [{found.low:.0%}, {found.high:.0%}] of {found.n} questions")
