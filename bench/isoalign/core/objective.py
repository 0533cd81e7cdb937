"""The objective of a task: what methods are ranked by, in which direction, and what its metrics and titles are called.

Toxicity keeps names of its own, by which its cards and boards are known: its gain is called reduction. All other objectives
share the metrics of the family `objective`.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import asdict, dataclass, replace
from typing import Any

from isoalign.core.errors import UserError
from isoalign.core.records import Card


@dataclass(frozen=True)
class Objective:
    """What is ranked: the mean score of completions by ``task.evaluation.scorer``.

    ``name``: a word or two for titles. ``bounds``: the least and the greatest score, None where there is none.
    ``threshold``: a score from which completions are counted as on the higher side, None for no such share; with it the share
    on the better side is measured. Raises ValueError for what is no objective.
    """

    name: str = "toxicity"
    higher_is_better: bool = False
    bounds: tuple[float | None, float | None] = (0.0, 1.0)
    threshold: float | None = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", tuple(self.bounds))  # from yaml and JSON they come as a list
        if not self.name.replace("_", " ").replace("-", " ").strip() or not self.name.isprintable():
            raise ValueError(f"task.objective.name must be a word or two, not {self.name!r}")
        if len(self.bounds) != 2 or not self.low < self.high:
            raise ValueError(f"task.objective.bounds must be the least and the greatest score, not {list(self.bounds)}")
        if self.threshold is not None and not self.low <= self.threshold <= self.high:
            raise ValueError(f"task.objective.threshold must lie in task.objective.bounds, not be {self.threshold:g}")
        if self.is_toxicity and (self.higher_is_better, self.bounds, self.threshold) != (False, (0.0, 1.0), 0.5):
            raise ValueError(
                "task.objective.name=toxicity is a probability of which less is better, toxic from 0.5; name another objective"
            )

    # -- its metrics --------------------------------------------------------------------------------------------------

    @property
    def is_toxicity(self) -> bool:
        """Whether it is the objective with metrics of its own, the family `toxicity`."""
        return self.name == "toxicity"

    @property
    def gain(self) -> str:
        """The metric by which methods are ranked: how far the mean moved from the SFT base's, above 0 if it is better."""
        return "toxicity_reduction" if self.is_toxicity else "gain"

    @property
    def level(self) -> str:
        """The metric that is the mean score."""
        return "toxicity_mean" if self.is_toxicity else "objective_mean"

    @property
    def gain_second(self) -> str:
        """The gain by the second scorer."""
        return f"{self.gain}_second"

    @property
    def level_second(self) -> str:
        """The mean by the second scorer."""
        return f"{self.level}_second"

    @property
    def relative_gain(self) -> str:
        """The gain as a share of the way from the base's mean to the best score that there is."""
        return f"{self.gain}_relative"

    # -- its scores ---------------------------------------------------------------------------------------------------

    @property
    def low(self) -> float:
        """The least score, or minus infinity."""
        return -math.inf if self.bounds[0] is None else self.bounds[0]

    @property
    def high(self) -> float:
        """The greatest score, or infinity."""
        return math.inf if self.bounds[1] is None else self.bounds[1]

    @property
    def best(self) -> float:
        """The best score that there is; infinite if there is none."""
        return self.high if self.higher_is_better else self.low

    def loss(self, score: float) -> float:
        """A score with the sign by which less is better, for orders and frontiers."""
        return -score if self.higher_is_better else score

    def to_best(self, score: float) -> float:
        """How far a score is from the best one."""
        return self.high - score if self.higher_is_better else score - self.low

    # -- its words ----------------------------------------------------------------------------------------------------

    @property
    def noun(self) -> str:
        """What is scored, within a sentence: "toxicity"."""
        return self.name.replace("_", " ")

    @property
    def title(self) -> str:
        """The same at the start of a title."""
        return self.noun[:1].upper() + self.noun[1:]

    @property
    def gain_noun(self) -> str:
        """What a gain is called in a sentence: "reduction" or "gain"."""
        return "reduction" if self.is_toxicity else "gain"

    @property
    def gain_title(self) -> str:
        """What a gain is called in a column: "Reduction" or "Gain"."""
        return self.gain_noun.capitalize()

    @property
    def gain_heading(self) -> str:
        """The whole name of the gain: "Toxicity reduction", "Gain in sentiment"."""
        return "Toxicity reduction" if self.is_toxicity else f"Gain in {self.noun}"

    @property
    def gain_axis(self) -> str:
        """The gain along an axis: "Reduction of mean toxicity", "Gain in mean sentiment"."""
        return f"{self.gain_title} {'of' if self.is_toxicity else 'in'} mean {self.noun}"

    @property
    def better(self) -> str:
        """What is better, as a quantity: "less toxicity", "more sentiment"."""
        return f"{'more' if self.higher_is_better else 'less'} {self.noun}"

    @property
    def comparative(self) -> str:
        """What the better one of two methods is: "less toxic", "better"."""
        return "less toxic" if self.is_toxicity else "better"

    @property
    def superlative(self) -> str:
        """What the best of all methods is: "least toxic", "best"."""
        return "least toxic" if self.is_toxicity else "best"

    @property
    def direction(self) -> str:
        """Which direction is better, in words."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"


TOXICITY = Objective()
"""The objective of tasks that name none, and of cards from before there were others."""


def objective_of(card: Card) -> Objective:
    """The objective of a card's task. Raises UserError that names the card if what it says of it is no objective."""
    task = card.config.get("task")
    settings = task.get("objective") if isinstance(task, dict) else None
    if settings is None:
        return TOXICITY
    return read_objective(settings, f"the card of {card.algorithm} seed {card.seed}")


def read_objective(settings: Any, owner: str) -> Objective:
    """An objective from JSON. Raises UserError naming its ``owner`` for what is none."""
    try:
        return replace(TOXICITY, **settings)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{owner} has no readable objective: {error}") from error


def objective_recipe(objective: Objective) -> dict[str, Any]:
    """The objective as an entry of recipes and stages; none for toxicity, which they had before there were others."""
    return {} if objective == TOXICITY else {"objective": asdict(objective)}


def measured_gain(metrics: Container[str]) -> str:
    """The name of the gain among the names of a row's metrics, where its objective is not at hand."""
    return TOXICITY.gain if TOXICITY.gain in metrics else "gain"


def gain_phrase(name: str) -> str:
    """The name of a gain in a sentence: "toxicity reduction" or "gain"."""
    return name.replace("_", " ")
