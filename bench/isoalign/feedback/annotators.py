"""A panel of simulated annotators: what each of them says of pairs of answers, with chance and with known biases.

An annotator sees the utilities u of two answers to a prompt, in logits of P(acceptable), and adds to the difference what
biases it:

    D = u1 - u2 + length (words1 - words2) + position s + expectation e,     P(first is called better) = sigmoid(D / T),

with s and e +1 or -1, and the verdict turned round at rate ``noise`` after that. This is Bradley and Terry's model (1952) of
utilities with errors of scale T; T = 0 takes the sign of D, and a D of 0 is then a coin. As each bias stands beside u in D, it
is the log-odds that an annotator of temperature 1 adds, and a logistic regression on verdicts gives every one of them back.

Every chance is a hash of (seed, annotator, item): another annotator, another item or another order changes no other verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from isoalign.config.feedback import PanelConfig
from isoalign.core.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

SUREST = 1e-9  # scores nearer to 0 or 1 count as this near, so that a saturated classifier's logit is finite: 20.7
_EVERY_ANNOTATOR = "all"  # in place of an annotator's number in what all annotators share


@dataclass(frozen=True)
class Verdicts:
    """A row a verdict, N in all, by annotator and then by item: ``item`` and ``annotator`` [N] as numbers from 0;
    ``first_wins`` [N]: the first answer was called better; ``shown_first`` [N]: it was the one shown first."""

    item: Ints
    annotator: Ints
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

    ``utilities`` [I, 2] in logits and ``words`` [I, 2] of both answers; ``favoured`` [I]: the item is of the topic that
    annotators favour; ``ids`` [I]: names that stay with the items, since chance hangs on them; ``noise``: rate at which each
    annotator turns a verdict round. An annotator rates max(1, round(coverage I)) items. Raises UserError for ids that are not
    unique or utilities that are not finite.
    """
    _check(utilities, ids)
    fixed = utilities[:, 0] - utilities[:, 1] + config.length * (words[:, 0] - words[:, 1])
    fixed = fixed + config.expectation * _sign(_chances(seed, _EVERY_ANNOTATOR, ids)[:, 0] < 0.5)
    tables = [
        _rate(fixed, favoured, _chances(seed, str(annotator), ids), annotator, config, noise)
        for annotator in range(config.annotators)
    ]
    return Verdicts(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))


def _rate(
    fixed: Floats, favoured: Bools, chances: Floats, annotator: int, config: PanelConfig, noise: float
) -> tuple[Ints, Ints, Bools, Bools]:
    """The columns of one annotator's verdicts. ``fixed`` [I]: D without position; ``chances`` [I, 4]."""
    item = _chosen(np.where(favoured, config.topic, 0.0), chances[:, 0], config.coverage)
    _, shown, choice, slip = chances[item].T
    shown_first = shown < 0.5
    difference = fixed[item] + config.position * _sign(shown_first)
    temperature = config.temperature[annotator % len(config.temperature)]
    likely = expit(difference / temperature) if temperature else np.heaviside(difference, 0.5)
    return item, np.full(len(item), annotator, np.intp), (choice < likely) ^ (slip < noise), shown_first


def _chosen(log_weight: Floats, chance: Floats, coverage: float) -> Ints:
    """Items [k], sorted, drawn without replacement with weights exp(``log_weight``).

    The k largest of log weight + Gumbel noise (Efraimidis and Spirakis 2006; "Gumbel top-k", Kool et al. 2019): each next
    item is drawn in proportion to the weights of those that are left.
    """
    count = max(1, round(coverage * len(chance))) if len(chance) else 0
    keys = log_weight - np.log(-np.log(chance))
    return np.sort(np.argsort(-keys, kind="stable")[:count])


def _chances(seed: int, annotator: str, ids: Sequence[str]) -> Floats:
    """Four numbers in (0, 1) for each item [I, 4], hashed from (seed, annotator, item).

    A hash is a generator whose counter is the item (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    bits = b"".join(blake2b(f"{seed}/{annotator}/{name}".encode(), digest_size=32).digest() for name in ids)
    whole = np.frombuffer(bits, dtype="<u8").reshape(-1, 4) >> np.uint64(12)
    return np.asarray((whole + 0.5) * 2.0**-52, dtype=np.float64)  # exact, so never 0 nor 1


def _sign(first: Bools) -> Floats:
    return np.where(first, 1.0, -1.0)


def _check(utilities: Floats, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        ((twice, _),) = Counter(ids).most_common(1)
        raise UserError(f"two items to rate are called {twice!r}: annotators' chance hangs on the name, so give each its own")
    odd = np.flatnonzero(~np.isfinite(utilities).all(1))
    if len(odd):
        raise UserError(f"item {ids[odd[0]]!r} to rate has a utility that is not finite: score its answers anew")


def table(verdicts: Verdicts, items: int, annotators: int) -> Floats:
    """Verdicts as [items, annotators] of which answer won, 1 or 0; NaN where nobody said.

    1 is the first answer of items 0, 2, 4, ... and the second of the others. Were it always the first, and that the better one
    as it may be on golden items, annotators would agree on a name by chance, and kappa and alpha of the best ones would be 0.
    """
    cells = np.full((items, annotators), np.nan)
    cells[verdicts.item, verdicts.annotator] = verdicts.first_wins ^ (verdicts.item % 2 == 1)
    return cells
