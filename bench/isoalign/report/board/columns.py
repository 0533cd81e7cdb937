"""Which metrics the board shows, and how each is shown."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """How a metric is shown. ``bounds``: the values it can take, to which pooled intervals are cut."""

    metric: str
    title: str
    digits: int = 3
    bounds: tuple[float, float] = (0.0, 1.0)


LEADING = (
    Column("toxicity_reduction", "Reduction ↑", bounds=(-1.0, 1.0)),
    Column("toxicity_mean", "Toxicity ↓"),
    Column("toxicity_fraction", "Share ≥ .5 ↓"),
    Column("toxicity_emt", "EMT ↓"),
    Column("kl", "KL, nats", 2, (0.0, math.inf)),
    Column("perplexity", "Perplexity", 1, (1.0, math.inf)),
)
_ANY = (-math.inf, math.inf)
_NATS = (0.0, math.inf)
DRIFT = (
    Column("kl_per_token", "KL a token", 3, _NATS),
    Column("kl_reverse", "Reverse KL", 2, _NATS),
    Column("kl_k1", "k1", 2, _ANY),
    Column("kl_k2", "k2", 2, _NATS),
    Column("kl_k3", "k3", 2, _NATS),
)
REWARD = (
    Column("rm_accuracy", "RM accuracy ↑"),
    Column("rm_accuracy_clean", "clean ↑"),
    Column("rm_agreement", "agreement ↑"),
    Column("rm_accuracy_on_policy", "on-policy ↑"),
    Column("rm_ece", "ECE ↓"),
    Column("implicit_accuracy", "Implicit accuracy ↑"),
    Column("implicit_accuracy_normalised", "by length ↑"),
    Column("ranking_accuracy", "Ranking accuracy"),
)
DIVERSITY = (
    Column("distinct_2", "Distinct-2 ↑"),
    Column("ead", "EAD ↑", bounds=(0.0, math.inf)),
    Column("self_bleu", "Self-BLEU ↓"),
    Column("embedding_diversity", "Embedding diversity ↑", bounds=(0.0, 2.0)),
    Column("vendi", "Vendi ↑", 2, (1.0, math.inf)),
    Column("distinct_2_across", "Distinct-2 across ↑"),
    Column("vendi_across", "Vendi across ↑", 1, (1.0, math.inf)),
    Column("token_entropy", "Token entropy", 2, _NATS),
)
COLUMNS = {column.metric: column for column in LEADING + DRIFT + REWARD + DIVERSITY}
# What a board is about in five figures: what was gained, at what drift, and what it did to the text.
BRIEF = tuple(COLUMNS[name] for name in ("toxicity_reduction", "kl", "implicit_accuracy", "distinct_2", "perplexity"))
