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
FURTHER = (
    Column("rm_accuracy", "RM accuracy ↑"),
    Column("implicit_accuracy", "Implicit accuracy ↑"),
    Column("distinct_2", "Distinct-2 ↑"),
    Column("ead", "EAD ↑", bounds=(0.0, math.inf)),
    Column("self_bleu", "Self-BLEU ↓"),
    Column("embedding_diversity", "Embedding diversity ↑", bounds=(0.0, 2.0)),
)
COLUMNS = {column.metric: column for column in LEADING + FURTHER}
