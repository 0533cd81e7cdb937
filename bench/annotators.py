"""A panel of simulated raters: what each of them says of pairs of answers, with chance and with known biases.

A rater sees the utilities u of two answers to a prompt, in logits of P(acceptable), and adds to the difference what biases it:

    D = u1 - u2 + length (words1 - words2) + position s + expectation e,     P(first is called better) = sigmoid(D / T),

with s and e +1 or -1, and the verdict turned round at rate ``noise`` after that. This is Bradley and Terry's model (1952) of
utilities with errors of scale T; T = 0 takes the sign of D, and a D of 0 is then a coin. As each bias stands beside u in D, it
is the log-odds that a rater of temperature 1 adds, and a logistic regression on verdicts gives every one of them back.

Every chance is a hash of (seed, rater, item): another rater, another item or another order changes no other verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from bench.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

SUREST = 1e-9  # scores nearer to 0 or 1 count as this near, so that a saturated classifier's logit is finite: 20.7
_EVERY_RATER = "all"  # in place of a rater's number in what all raters share


@dataclass(frozen=True)
class PanelConfig:
    """Who rates, and how well; the defaults are one careful rater, who always finds the better answer.

    ``raters``: their number. ``temperature``: of each rater, in logits, handed out in turn. Biases in logits at temperature 1,
    negative for the opposite leaning: ``length`` for each word by which an answer is longer; ``position`` for the answer that
    is shown first, a coin for each rater and item; ``expectation`` for the answer that the raters were led to expect to be
    better, one coin an item, so that no vote cures it. ``coverage``: share of the items that each rater rates; ``topic``: a
    rater picks them with weight exp(``topic``) on items of the favoured topic and 1 on others. ``consensus``: vote,
    bradley_terry or elo. ``golden``: items of known verdict by which raters are weighted; 0 is equal weights.

    A word, not a deviation of the lengths at hand, is the unit of ``length``: else a verdict hung on which other items there
    are. Sizes that were seen in the field: non-blinded assessors shift odds ratios by a factor of 0.64, ``expectation`` =
    0.45 (Hrobjartsson et al. 2012, on Rosenthal's expectancy effect, 1976); AlpacaFarm's simulated raters turn one verdict
    in four (Dubois et al. 2023); leanings to length and to the first place are those of Dubois et al. 2024, "Length-
    controlled AlpacaEval", and Wang et al. 2023, "Large language models are not fair evaluators".
    """

    raters: int = 1
    temperature: tuple[float, ...] = (0.0,)
    length: float = 0.0
    position: float = 0.0
    expectation: float = 0.0
    topic: float = 0.0
    coverage: float = 1.0
    consensus: str = "vote"
    golden: int = 0

    def __post_init__(self) -> None:
        from bench.consensus import RULES  # it imports this file

        object.__setattr__(self, "temperature", tuple(self.temperature))  # from yaml it is a list, which equals no tuple
        if self.raters < 1:
            raise ValueError(f"task.panel.raters must be 1 or more, not {self.raters}")
        if not self.temperature or not all(0 <= t < math.inf for t in self.temperature):
            raise ValueError(f"task.panel.temperature must be one or more numbers of 0 or more, not {list(self.temperature)}")
        for name in ("length", "position", "expectation", "topic"):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"task.panel.{name} must be a finite number, not {value}")
        if not 0 < self.coverage <= 1:
            raise ValueError(f"task.panel.coverage must lie in (0, 1], not {self.coverage}")
        if self.topic and self.coverage == 1:
            raise ValueError("task.panel.topic has no effect on raters who rate everything; set task.panel.coverage below 1")
        if self.consensus not in RULES:
            raise ValueError(f"task.panel.consensus must be one of {', '.join(RULES)}, not {self.consensus!r}")
        if self.golden < 0:
            raise ValueError(f"task.panel.golden must be 0 or more, not {self.golden}")


@dataclass(frozen=True)
class Verdicts:
    """A row a verdict, N in all, by rater and then by item: ``item`` and ``rater`` [N] as numbers from 0; ``first_wins`` [N]:
    the first answer was called better; ``shown_first`` [N]: it was the one shown first."""

    item: Ints
    rater: Ints
    first_wins: Bools
    shown_first: Bools

    def __len__(self) -> int:
        return len(self.item)


def utility(offensive: Floats) -> Floats:
    """Logit of P(acceptable) from a classifier's P(offensive), of any shape."""
    return -np.asarray(logit(np.clip(offensive, SUREST, 1 - SUREST)))


def judge(
    utilities: Floats, words: Floats, favoured: Bools, ids: Sequence[str], config: PanelConfig, seed: int, noise: float = 0.0
) -> Verdicts:
    """The panel's verdicts on I items.

    ``utilities`` [I, 2] in logits and ``words`` [I, 2] of both answers; ``favoured`` [I]: the item is of the topic that raters
    favour; ``ids`` [I]: names that stay with the items, since chance hangs on them; ``noise``: rate at which each rater turns
    a verdict round. A rater rates max(1, round(coverage I)) items. Raises UserError for ids that are not unique or utilities
    that are not finite.
    """
    _check(utilities, ids)
    fixed = utilities[:, 0] - utilities[:, 1] + config.length * (words[:, 0] - words[:, 1])
    fixed = fixed + config.expectation * _sign(_chances(seed, _EVERY_RATER, ids)[:, 0] < 0.5)
    tables = [_rate(fixed, favoured, _chances(seed, str(rater), ids), rater, config, noise) for rater in range(config.raters)]
    return Verdicts(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))


def _rate(
    fixed: Floats, favoured: Bools, chances: Floats, rater: int, config: PanelConfig, noise: float
) -> tuple[Ints, Ints, Bools, Bools]:
    """The columns of one rater's verdicts. ``fixed`` [I]: D without position; ``chances`` [I, 4]."""
    item = _chosen(np.where(favoured, config.topic, 0.0), chances[:, 0], config.coverage)
    _, shown, choice, slip = chances[item].T
    shown_first = shown < 0.5
    difference = fixed[item] + config.position * _sign(shown_first)
    temperature = config.temperature[rater % len(config.temperature)]
    likely = expit(difference / temperature) if temperature else np.heaviside(difference, 0.5)
    return item, np.full(len(item), rater, np.intp), (choice < likely) ^ (slip < noise), shown_first


def _chosen(log_weight: Floats, chance: Floats, coverage: float) -> Ints:
    """Items [k], sorted, drawn without replacement with weights exp(``log_weight``).

    The k largest of log weight + Gumbel noise (Efraimidis and Spirakis 2006; "Gumbel top-k", Kool et al. 2019): each next
    item is drawn in proportion to the weights of those that are left.
    """
    count = max(1, round(coverage * len(chance))) if len(chance) else 0
    keys = log_weight - np.log(-np.log(chance))
    return np.sort(np.argsort(-keys, kind="stable")[:count])


def _chances(seed: int, rater: str, ids: Sequence[str]) -> Floats:
    """Four numbers in (0, 1) for each item [I, 4], hashed from (seed, rater, item).

    A hash is a generator whose counter is the item (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    bits = b"".join(blake2b(f"{seed}/{rater}/{name}".encode(), digest_size=32).digest() for name in ids)
    whole = np.frombuffer(bits, dtype="<u8").reshape(-1, 4) >> np.uint64(12)
    return np.asarray((whole + 0.5) * 2.0**-52, dtype=np.float64)  # exact, so never 0 nor 1


def _sign(first: Bools) -> Floats:
    return np.where(first, 1.0, -1.0)


def _check(utilities: Floats, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        ((twice, _),) = Counter(ids).most_common(1)
        raise UserError(f"two items to rate are called {twice!r}: raters' chance hangs on the name, so give each its own")
    odd = np.flatnonzero(~np.isfinite(utilities).all(1))
    if len(odd):
        raise UserError(f"item {ids[odd[0]]!r} to rate has a utility that is not finite: score its answers anew")
