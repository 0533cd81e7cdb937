"""Which metrics the board's tables show, and in which order; how each is shown is declared by its family."""

import math
from dataclasses import replace
from typing import Any

from isoalign.core.objective import TOXICITY, Objective
from isoalign.core.records import Card
from isoalign.evaluation import metrics
from isoalign.evaluation.metrics import Metric
from isoalign.evaluation.metrics.metric import UNBOUNDED

KL = ("kl_per_token", "kl_reverse", "kl_k1", "kl_k2", "kl_k3")
REWARD = (
    "rm_accuracy", "rm_accuracy_clean", "rm_agreement", "rm_accuracy_on_policy", "rm_ece", "implicit_accuracy",
    "implicit_accuracy_normalised", "ranking_accuracy",
)  # fmt: skip
DIVERSITY = (
    "distinct_2", "ead", "self_bleu", "embedding_diversity", "vendi", "distinct_2_across", "vendi_across", "token_entropy",
)  # fmt: skip
TABLES = {"Diversity": DIVERSITY, "KL from the base": ("kl", *KL), "Reward": REWARD}
"""The tables of further metrics by the section of the page they are in."""


def leading(objective: Objective) -> tuple[str, ...]:
    """The metrics of the ranking's table: the gain, what it is made of, its price in KL, and the effect on the text."""
    own = ("toxicity_fraction", "toxicity_emt") if objective.is_toxicity else ("objective_share",)
    shown = own if objective.threshold is not None else ()
    return (objective.gain, objective.level, *shown, "kl", "perplexity")


def shown(objective: Objective) -> tuple[str, ...]:
    """The metrics of any table."""
    return (*leading(objective), *KL, *REWARD, *DIVERSITY)


def brief(objective: Objective) -> tuple[str, ...]:
    """What a page about something else has room for: the gain, its price in KL, and the effect on the text."""
    return (objective.gain, "kl", "implicit_accuracy", "distinct_2", "perplexity")


def metric(name: str, objective: Objective = TOXICITY) -> Metric:
    """How a metric is shown, those of an objective by its words, direction and bounds; one that no family declares is shown
    under its name, without direction and bounds."""
    one = metrics.declared().get(name, Metric(name, name, bounds=UNBOUNDED))
    if objective.is_toxicity:
        return one
    bounds, reach = (objective.low, objective.high), objective.high - objective.low
    small = math.isfinite(reach) and 0 < reach < 1  # else all of its values were 0.000
    digits = {"digits": 2 - math.floor(math.log10(reach))} if small else {}
    own: dict[str, dict[str, Any]] = {
        objective.gain: {"title": objective.gain_heading, "bounds": (-reach, reach)} | digits,
        objective.level: {"title": objective.title, "bounds": bounds, "higher_is_better": objective.higher_is_better} | digits,
        objective.level_second: {"higher_is_better": objective.higher_is_better},
        "objective_share": {"title": f"Share {'≥' if objective.higher_is_better else '<'} {objective.threshold}"},
    }
    return replace(one, description=one.description.replace("less toxic", objective.comparative), **own.get(name, {}))


def gain_digits(objective: Objective) -> int:
    """Decimals of the gain, wherever it is shown."""
    return metric(objective.gain, objective).digits


def clip_bounds(name: str, objective: Objective = TOXICITY) -> tuple[float, float]:
    """The bounds to which a metric's pooled interval is clipped. Metrics of no table keep their interval as computed."""
    one = metric(name, objective)
    return one.bounds if name in shown(objective) or one.section else UNBOUNDED


def tables(cards: list[Card], objective: Objective) -> dict[str, tuple[Metric, ...]]:
    """The tables of further metrics by section; those of other packages are added where a card has them."""
    found = {section: tuple(metric(name, objective) for name in names) for section, names in TABLES.items()}
    measured = {name for card in cards for name in card.metrics}
    for one in metrics.declared().values():
        if one.section and one.name in measured:
            found[one.section] = (*found.get(one.section, ()), one)
    return found
