"""A panel of simulated annotators: their verdicts on pairs of answers, with random errors and known biases.

An annotator sees the utilities u of two answers to a prompt, in logits of P(acceptable), and adds its biases to the
difference:

    D = u1 - u2 + length (words1 - words2) + position s + expectation e,     P(first is chosen) = sigmoid(D / T),

with s and e +1 or -1; the verdict is then flipped at rate ``noise``. This is the model of Bradley and Terry (1952) for
utilities with errors of scale T; T = 0 takes the sign of D, and a coin if D = 0. As each bias is added to u in D, it is the
log-odds that an annotator of temperature 1 adds, and a logistic regression on verdicts recovers all of them.

Every random number is a hash of (seed, annotator, item), so adding or reordering annotators or items changes no other verdict.
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

SUREST = 1e-9  # scores are clipped to this distance from 0 and 1, so that logits stay finite: at most 20.7
_EVERY_ANNOTATOR = "all"  # instead of an annotator's number, for coins that all annotators share


@dataclass(frozen=True)
class Verdicts:
    """N verdicts, sorted by annotator and item: ``item`` and ``annotator`` [N] are indices; ``first_wins`` [N]: the first
    answer was chosen; ``shown_first`` [N]: it was shown first."""

    item: Ints
    annotator: Ints
    first_wins: Bools
    shown_first: Bools

    def __len__(self) -> int:
        return len(self.item)


def utility(offensive: Floats) -> Floats:
    """Logit of P(acceptable) from a classifier's P(offensive), of any shape."""
    return -np.asarray(logit(np.clip(offensive, SUREST, 1 - SUREST)))


def panel_verdicts(
    utilities: Floats, words: Floats, favoured: Bools, ids: Sequence[str], config: PanelConfig, seed: int, noise: float = 0.0
) -> Verdicts:
    """The panel's verdicts on I items.

    ``utilities`` [I, 2] in logits and ``words`` [I, 2] of both answers; ``favoured`` [I]: the item is of the topic that
    annotators favour; ``ids`` [I]: stable names of the items, from which random numbers are hashed; ``noise``: rate at which
    each annotator flips a verdict. An annotator rates max(1, round(coverage I)) items. Raises UserError for ids that are not
    unique or utilities that are not finite.
    """
    _check_items(utilities, ids)
    fixed = utilities[:, 0] - utilities[:, 1] + config.length * (words[:, 0] - words[:, 1])
    fixed = fixed + config.expectation * _sign(hashed_uniforms(seed, _EVERY_ANNOTATOR, ids)[:, 0] < 0.5)
    rated = [
        _rate_items(fixed, favoured, hashed_uniforms(seed, str(annotator), ids), annotator, config, noise)
        for annotator in range(config.annotators)
    ]
    return Verdicts(*(np.concatenate(columns) for columns in zip(*rated, strict=True)))


def _rate_items(
    fixed: Floats, favoured: Bools, uniforms: Floats, annotator: int, config: PanelConfig, noise: float
) -> tuple[Ints, Ints, Bools, Bools]:
    """The columns of one annotator's verdicts. ``fixed`` [I]: D without position; ``uniforms`` [I, 4]."""
    item = _draw_items(np.where(favoured, config.topic, 0.0), uniforms[:, 0], config.coverage)
    _, shown, choice, slip = uniforms[item].T
    shown_first = shown < 0.5
    difference = fixed[item] + config.position * _sign(shown_first)
    temperature = config.temperature[annotator % len(config.temperature)]
    probability = expit(difference / temperature) if temperature else np.heaviside(difference, 0.5)
    return item, np.full(len(item), annotator, np.intp), (choice < probability) ^ (slip < noise), shown_first


def _draw_items(log_weight: Floats, uniform: Floats, coverage: float) -> Ints:
    """Items [k], sorted, drawn without replacement with weights exp(``log_weight``).

    The k largest of log weight + Gumbel noise (Efraimidis and Spirakis 2006; "Gumbel top-k", Kool et al. 2019): each next
    item is drawn in proportion to the remaining weights.
    """
    count = max(1, round(coverage * len(uniform))) if len(uniform) else 0
    keys = log_weight - np.log(-np.log(uniform))
    return np.sort(np.argsort(-keys, kind="stable")[:count])


def hashed_uniforms(seed: int, annotator: str, ids: Sequence[str]) -> Floats:
    """Four uniform random numbers in (0, 1) per item [I, 4], hashed from (seed, annotator, item).

    The hash is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    bits = b"".join(blake2b(f"{seed}/{annotator}/{name}".encode(), digest_size=32).digest() for name in ids)
    integers = np.frombuffer(bits, dtype="<u8").reshape(-1, 4) >> np.uint64(12)
    return np.asarray((integers + 0.5) * 2.0**-52, dtype=np.float64)  # exact, so never 0 nor 1


def _sign(first: Bools) -> Floats:
    return np.where(first, 1.0, -1.0)


def _check_items(utilities: Floats, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        ((repeated, _),) = Counter(ids).most_common(1)
        raise UserError(
            f"two items to rate are named {repeated!r}: random numbers are hashed from names, so give each item its own"
        )
    odd = np.flatnonzero(~np.isfinite(utilities).all(1))
    if len(odd):
        raise UserError(f"item {ids[odd[0]]!r} to rate has a utility that is not finite: score its answers again")


def verdict_matrix(verdicts: Verdicts, items: int, annotators: int) -> Floats:
    """Verdicts [items, annotators]: which answer won, 1 or 0; NaN without a verdict.

    1 is the first answer of items 0, 2, 4, ... and the second answer of the others. If 1 were always the first answer, and
    that the better one as on golden items, all verdicts of good annotators would be equal, and their kappa and alpha 0.
    """
    cells = np.full((items, annotators), np.nan)
    cells[verdicts.item, verdicts.annotator] = verdicts.first_wins ^ (verdicts.item % 2 == 1)
    return cells
