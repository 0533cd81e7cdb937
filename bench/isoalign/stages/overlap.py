"""How prompts that train and prompts that are evaluated meet: words that they share, and forms that they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from isoalign.data.formats import Turns
from isoalign.data.formats.leakage import Leakage
from isoalign.data.prompts import question
from isoalign.stages.cutting import Cutter

NGRAM = 8  # words in a row that count as a leak
TEMPLATE, ROLES, PLAIN = "in the chat template", "conversations with their roles written out", "plain texts"
UNLIKE = "as no evaluated prompt is"
WORDS = f"{NGRAM} words in a row, or all of a shorter one,"


def count_overlap(evaluated: Sequence[Turns], trained: Iterable[Turns]) -> int:
    """How many evaluated prompts have words in a row, as `isoalign data check` counts them, in prompts that train.

    Of a conversation that is evaluated the longest user turn is looked for, in all turns but those of the system.
    """
    index, found = Leakage(list(map(question, evaluated)), NGRAM), set[int]()
    for turns in dict.fromkeys(trained):
        for turn in turns:
            if turn.role != "system":
                found |= index.matches(turn.content)
    return len(found)


def told(found: int, evaluated: int, trained: str) -> str:
    """The overlap in words; empty if there is none. ``trained``: what the prompts that train are of."""
    return f"{found:,} of {evaluated:,} evaluated prompts: {WORDS} are in prompts of {trained} that train" if found else ""


def unlike_forms(cut: Cutter, evaluated: Iterable[Turns], trained: Iterable[Turns]) -> dict[str, int]:
    """How many different prompts that train are read in a form, TEMPLATE, ROLES or PLAIN, that no evaluated one has."""

    def form(turns: Turns) -> str:
        return TEMPLATE if cut.templated(turns) else ROLES if any(turn.role for turn in turns) else PLAIN

    seen, count = set(map(form, evaluated)), Counter(map(form, dict.fromkeys(trained)))
    return {name: number for name, number in count.items() if seen and name not in seen}


def told_forms(forms: Mapping[str, int], trained: str) -> list[str]:
    """A line for each form. ``trained``: what the prompts are of."""
    why = f"{UNLIKE}: the policy is trained on inputs that it is never evaluated on"
    hint = "; task.model.template=always, or a template file, writes them as user turns, where the model has a chat template"
    return [f"{number:,} prompts of {trained} are {name}, {why}{hint * (name == PLAIN)}" for name, number in forms.items()]
