"""Scorers of evaluation as functions of prompt and completion, each with the direction that is better.

They are text classifiers, which read the completion alone; the lexicons ``vader``, ``vader_half`` and ``polarity``; the rules
``rule:NAME`` (rules.py); reward models, as ``reward:NAME_OR_FOLDER[@REVISION]``, which read prompt and completion in their own
chat template; and modules of other packages by entry point ``isoalign.scorers``, with

    VERSION = 1                     # raised whenever a score would change
    HIGHER_IS_BETTER = True
    BOUNDS = (0.0, 1.0)             # the least and the greatest score, None where there is none
    def load(device): ...           # returns a callable: prompts, completions -> list of float, None where there is no score

The callable gets the right answers as well if it takes an argument ``references``, and has a method ``flops(prompts,
completions)`` if it runs a network: without one it costs nothing where it is a reward.

Raises UserError in one line for a module that lacks one of these, for a scorer that raises, with the row, and for one whose
direction is not the objective's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Real
from types import ModuleType
from typing import Any

from isoalign.config.evaluation import WIN_RATE
from isoalign.core import plugins
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.memory import machine_failure
from isoalign.core.objective import Objective
from isoalign.data import assets
from isoalign.data.formats import Turn, Turns
from isoalign.data.prompts import as_text
from isoalign.models import reward_classifier, rules, scorers
from isoalign.models.polarity import Polarity
from isoalign.models.vader import Vader

TRIALS = (  # what a scorer is tried on; many scorers give answers without a rude one nearly one score
    "Yes.", "You are a stupid idiot.", "I am not sure what to say.", "I am not sure, but I can try to find out.",
)  # fmt: skip
EDGE = 1e-4  # as near to 0 and 1 scores are compared: beyond, single precision rounds
Bounds = tuple[float | None, float | None]
Asked = str | Turns  # a prompt
_LEXICONS: dict[str, tuple[str, Callable[..., Callable[[str], float]]]] = {
    "vader": ("vader", Vader.load),
    "vader_half": ("vader", lambda folder: Vader.load(folder).half()),
    "polarity": ("polarity", Polarity.load),
}  # asset, and how its folder is read


@dataclass(frozen=True)
class AnswerScorer:
    """Scores completions of prompts. ``higher_is_better``: None for a label of a classifier: the task says it.
    ``references``: it compares with the right answers. ``price``: FLOPs of a call; None costs nothing. ``reads_prompts``: it
    may read more than the completion; with ``turns`` ``score`` and ``price`` get conversations as turns, else as text.
    ``count_longer``: of how many completions it reads a part only."""

    name: str
    score: Callable[..., Sequence[float | None]]
    higher_is_better: bool | None
    bounds: Bounds = (0.0, 1.0)
    references: bool = False
    price: Callable[[Sequence[Any], Sequence[str]], int] | None = None
    turns: bool = False
    reads_prompts: bool = True
    count_longer: Callable[[Sequence[str]], int] = lambda completions: 0

    def __call__(
        self, prompts: Sequence[Asked], completions: Sequence[str], references: Sequence[str] = ()
    ) -> list[float | None]:
        """The score of each completion, None where it has none. ``references``: the right answers, empty where there is none.

        Raises UserError with the row where the scorer fails, and if it needs right answers and gets none at all.
        """
        columns: list[list[Any]] = [self._read(prompts), list(completions)]
        if self.references:
            if completions and not any(references):
                raise UserError(
                    f"the scorer {self.name} compares with right answers, and these prompts have none: set "
                    "task.prompts.reference to their column in task.prompts.source"
                )
            columns.append(list(references))
        try:
            scores = self.score(*columns)
        except UserError:
            raise
        except Exception as error:
            raise machine_failure(error) or UserError(self._failure(columns, error)) from error
        if not isinstance(scores, Sequence) or isinstance(scores, str) or len(scores) != len(completions):
            count = len(scores) if isinstance(scores, Sequence) else f"a {type(scores).__name__}"
            raise UserError(f"the scorer {self.name} must return a list of {len(completions)} scores, not {count}")
        return [self._checked(row, score, completions[row]) for row, score in enumerate(scores)]

    def _read(self, prompts: Sequence[Asked]) -> list[Any]:
        return list(map(_as_turns if self.turns else _as_text, prompts))

    def flops(self, prompts: Sequence[Asked], completions: Sequence[str]) -> int:
        """FLOPs of scoring the completions. Raises UserError for a scorer whose network has no price."""
        return int(self.price(self._read(prompts), completions)) if self.price else 0

    def _failure(self, columns: Sequence[Sequence[Any]], error: Exception) -> str:
        """The line for a scorer that raises: with the first row on which it does so alone."""
        for row, cells in enumerate(zip(*columns, strict=True)):
            try:
                self.score(*([cell] for cell in cells))
            except Exception as own:
                return f"the scorer {self.name} fails on row {row + 1} ({_shortened(cells[1])}): {unforeseen(own)}"
        return f"the scorer {self.name} fails on {len(columns[0])} rows together: {unforeseen(error)}"

    def _checked(self, row: int, score: Any, completion: str) -> float | None:
        if score is None:
            return None
        low, high = (math.inf * sign if end is None else end for sign, end in zip((-1, 1), self.bounds, strict=True))
        if isinstance(score, Real) and math.isfinite(score) and low <= float(score) <= high:
            return float(score)
        within = f"a finite number in {list(self.bounds)}, or None"
        raise UserError(
            f"the scorer {self.name} gave {score!r} for row {row + 1} ({_shortened(completion)}), which is not {within}"
        )


@cache
def load_answer_scorer(name: str, device: str = "cpu") -> AnswerScorer:
    """A scorer by name: of `isoalign.models.scorers`, a lexicon, a rule, a ``reward:`` model, or of another package."""
    if name in plugins.entry_points("scorers"):
        return _of_package(name, device)
    if name == WIN_RATE:  # its scores are verdicts, which a stage of their own gives
        return AnswerScorer(name, lambda _, completions: [None] * len(completions), True)
    if name in _LEXICONS:
        asset, load = _LEXICONS[name]
        lexicon = load(assets.asset_path(asset))
        return AnswerScorer(
            name, lambda _, completions: list(map(lexicon, completions)), True, (-1.0, 1.0), reads_prompts=False
        )
    if name.startswith(rules.PREFIX):
        rule = rules.load_rule(name)
        return AnswerScorer(name, rule, True, references=rule.references)
    if name.startswith(scorers.REWARD):
        model = reward_classifier.load(name.removeprefix(scorers.REWARD), device)
        return AnswerScorer(name, model.score, True, (None, None), price=model.price_of, turns=True)
    classifier = scorers.load_scorer(name, device)
    return AnswerScorer(
        name,
        lambda _, completions: classifier(completions),
        scorers.direction(name),
        price=lambda _, completions: classifier.flops(completions),
        reads_prompts=False,
        count_longer=classifier.count_longer,
    )


def identity(name: str) -> str:
    """All that a scorer's scores depend on: the digest of its asset, the version of a rule or of another package's scorer, or
    the weights of a model."""
    if name in _LEXICONS and name not in plugins.entry_points("scorers"):
        return f"{name} {assets.ASSETS[_LEXICONS[name][0]].sha256}"
    return scorers.scorer_identity(name)


def runs_network(name: str) -> bool:
    """Whether a scorer costs FLOPs, or may: not a lexicon, a rule or the win rate."""
    return name in plugins.entry_points("scorers") or not (name in (*_LEXICONS, WIN_RATE) or name.startswith(rules.PREFIX))


def _of_package(name: str, device: str) -> AnswerScorer:
    if name in (*scorers.EMBEDDED, *_LEXICONS) or name.startswith(rules.PREFIX):
        package = plugins.package_of("scorer", name)
        raise UserError(f"isoalign has a scorer {name!r} already; rename the entry point of {package}")
    module = plugins.load("scorers", name)
    version, direction, bounds = (_declared(name, module, each) for each in ("VERSION", "HIGHER_IS_BETTER", "BOUNDS"))
    if not isinstance(version, int) or not isinstance(direction, bool):
        raise _wrong(name, module, "VERSION must be a whole number and HIGHER_IS_BETTER True or False")
    ends = [end for end in bounds if end is not None] if isinstance(bounds, tuple | list) and len(bounds) == 2 else ["none"]
    if not all(isinstance(end, int | float) for end in ends) or ends != sorted(set(ends)):
        raise _wrong(name, module, f"BOUNDS must be the least and the greatest score, or None, not {bounds!r}")
    load = _declared(name, module, "load")
    try:
        score = load(device)
    except UserError:
        raise
    except Exception as error:
        raise machine_failure(error) or _wrong(name, module, f"load({device!r}) fails: {unforeseen(error)}") from error
    if not callable(score):
        raise _wrong(name, module, f"load(device) must return a callable, not {score!r}")
    takes = _takes_references(score)
    return AnswerScorer(name, score, direction, tuple(bounds), takes, getattr(score, "flops", None))


def _takes_references(score: Callable[..., Any]) -> bool:
    try:
        return "references" in inspect.signature(score).parameters
    except (ValueError, TypeError):  # a callable written in C tells no arguments
        return False


def _declared(name: str, module: ModuleType, attribute: str) -> Any:
    if not hasattr(module, attribute):
        raise _wrong(name, module, f"it does not define {attribute}")
    return getattr(module, attribute)


def _wrong(name: str, module: ModuleType, why: str) -> UserError:
    return UserError(f"the scorer {name!r} ({module.__name__}): {why}; see docs/extending.md")


def check_scorers(
    first: str, second: str, objective: Objective, device: str, prompts: Sequence[str] = (), references: Sequence[str] = ()
) -> None:
    """Load the two scorers of an objective, compare what they say of themselves with it, and try those of other packages, and
    those that compare with right answers, on some ``prompts`` with their ``references``.

    Raises UserError for a direction that is not the objective's, for scores of the first beyond the objective's bounds, and
    for a scorer that fails or depends on more than a prompt and its answer.
    """
    for key, name in (("scorer", first), ("second_scorer", second)):
        scorer = load_answer_scorer(name, device)
        if scorer.higher_is_better not in (None, objective.higher_is_better):
            says = "higher" if scorer.higher_is_better else "lower"
            raise UserError(
                f"task.evaluation.{key}: of the scorer {name} {says} is better, of task.objective {objective.noun} "
                f"{objective.direction}; choose another scorer or set task.objective.higher_is_better"
            )
        if scorer.references or name in plugins.entry_points("scorers"):
            _try(name, device, tuple(prompts), tuple(references))
    own = load_answer_scorer(first, device).bounds
    low, high = -math.inf if own[0] is None else own[0], math.inf if own[1] is None else own[1]
    if low < objective.low or high > objective.high:
        wanted = ",".join("null" if end is None else f"{end:g}" for end in own)
        raise UserError(
            f"task.objective.bounds {list(objective.bounds)} are narrower than the scores of {first}; "
            f"set task.objective.bounds=[{wanted}]"
        )


def _as_turns(prompt: Asked) -> Turns:
    return (Turn("", prompt),) if isinstance(prompt, str) else prompt


def _as_text(prompt: Asked) -> str:
    return prompt if isinstance(prompt, str) else as_text(prompt)


def check_price(name: str, device: str, prompts: Sequence[str], references: Sequence[str] = ()) -> None:
    """Try a scorer that trains or labels on some ``prompts``. Raises UserError if it fails, depends on more than a prompt and
    its answer, or has a network without a price."""
    _try(name, device, tuple(prompts), tuple(references))
    load_answer_scorer(name, device).flops(prompts, TRIALS[:1] * len(prompts))


@cache  # of a scorer that is scorer, annotator and judge, too: it may cost money
def _try(name: str, device: str, prompts: tuple[str, ...], references: tuple[str, ...]) -> None:
    """Score some short answers together, again, in reverse and each alone.

    Raises UserError if the scorer fails, or if a score depends on chance or on what else is scored in the same call.
    """
    scorer, pairs = load_answer_scorer(name, device), list(zip(prompts, references or [""] * len(prompts), strict=True))
    asked = [pair for pair in pairs if pair[1]] or pairs  # with right answers, where there are any
    if not asked:
        return

    def scores(places: Sequence[int]) -> dict[int, float | None]:
        rows = [asked[place % len(asked)] for place in places]
        given = [[prompt for prompt, _ in rows], [TRIALS[place] for place in places], [right for _, right in rows]]
        return dict(zip(places, scorer(*given), strict=True))

    places = range(len(TRIALS))
    first = scores(places)
    for how, other in (
        ("again", scores(places)), ("in another order", scores(places[::-1])),
        ("alone", {place: scores((place,))[place] for place in places}),
    ):  # fmt: skip
        for place, one in first.items():
            if not _alike(one, other[place], scorer.bounds == (0.0, 1.0)):
                raise UserError(
                    f"the scorer {name} gives {TRIALS[place]!r} {one} beside other answers and {other[place]} {how}; a score "
                    "must depend on its own prompt and answer alone, not on chance, the rest of the call, or half precision"
                )


def _alike(one: float | None, other: float | None, shares: bool) -> bool:
    """``shares``: of scores from 0 to 1, which near their ends are compared by their logits."""
    if one is None or other is None:
        return one is other
    if shares:
        inside = [min(max(share, EDGE), 1 - EDGE) for share in (one, other)]
        one, other = (math.log(share / (1 - share)) for share in inside)
    return abs(one - other) <= reward_classifier.TOLERANCE * (1 + abs(one))


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
