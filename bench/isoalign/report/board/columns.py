"""Which metrics the board's tables show, and in which order; how each is shown is declared by its family."""

from isoalign.core.records import Card
from isoalign.evaluation import metrics
from isoalign.evaluation.metrics import Metric
from isoalign.evaluation.metrics.metric import UNBOUNDED

LEADING = ("toxicity_reduction", "toxicity_mean", "toxicity_fraction", "toxicity_emt", "kl", "perplexity")
KL = ("kl_per_token", "kl_reverse", "kl_k1", "kl_k2", "kl_k3")
REWARD = (
    "rm_accuracy", "rm_accuracy_clean", "rm_agreement", "rm_accuracy_on_policy", "rm_ece", "implicit_accuracy",
    "implicit_accuracy_normalised", "ranking_accuracy",
)  # fmt: skip
DIVERSITY = (
    "distinct_2", "ead", "self_bleu", "embedding_diversity", "vendi", "distinct_2_across", "vendi_across", "token_entropy",
)  # fmt: skip
SHOWN = (*LEADING, *KL, *REWARD, *DIVERSITY)
BRIEF = ("toxicity_reduction", "kl", "implicit_accuracy", "distinct_2", "perplexity")
"""What a page about something else has room for: the gain, its price in KL, and the effect on the text."""
TABLES = {"Diversity": DIVERSITY, "KL from the base": ("kl", *KL), "Reward": REWARD}
"""The tables of further metrics by the section of the page they are in."""


def metric(name: str) -> Metric:
    """How a metric is shown; one that no family declares is shown under its name, without direction and bounds."""
    return metrics.declared().get(name, Metric(name, name, bounds=UNBOUNDED))


def clip_bounds(name: str) -> tuple[float, float]:
    """The bounds to which a metric's pooled interval is clipped. Metrics of no table keep their interval as computed."""
    one = metric(name)
    return one.bounds if name in SHOWN or one.section else UNBOUNDED


def tables(cards: list[Card]) -> dict[str, tuple[Metric, ...]]:
    """The tables of further metrics by section; those of other packages are added where a card has them."""
    shown = {section: tuple(map(metric, names)) for section, names in TABLES.items()}
    measured = {name for card in cards for name in card.metrics}
    for one in metrics.declared().values():
        if one.section and one.name in measured:
            shown[one.section] = (*shown.get(one.section, ()), one)
    return shown
