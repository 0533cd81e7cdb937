"""Consensus of several annotators on pairs of answers: by vote, by Bradley-Terry, or by Elo.

A vote uses each pair alone. The other two estimate the strength of every answer of a prompt from all comparisons of that
prompt, so that A over B and B over C count for A over C, and may overrule a pair's own votes. Each rule gives a verdict on
the same pairs, all rated ones, with a margin: P(chosen beats rejected) minus P(rejected beats chosen), in (0, 1].

Annotators may be weighted by their accuracy on golden items, whose verdict is known; see `calibrate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from isoalign.core.errors import UserError
from isoalign.core.lazy import scipy
from isoalign.core.records import Estimate
from isoalign.feedback.annotators import Bools, Floats, Ints, Verdicts

PRIOR_SPREAD = 3.0
"""Standard deviation of the normal prior of Bradley-Terry strengths, in logits: a single verdict then gives P = 0.89, and the
strength of an answer that won every comparison stays finite."""
K, SCALE, SHUFFLES = 16.0, 400.0, 100
"""Elo's step and scale (1978): 400 points are odds of ten to one. Boubdir et al. find 100 shuffles enough."""
POOLED = 16.0
"""Weight of the panel's common accuracy, in golden items, against an annotator's own."""
_TIE = 1e-9  # smaller margins are rounding errors: sums of weights and Newton's last step are exact to about 1e-12


@dataclass(frozen=True)
class Items:
    """Rated pairs [I]: indices of two different answers, ``first`` and ``second``, within their ``prompt``, and of the
    prompt."""

    prompt: Ints
    first: Ints
    second: Ints

    def __len__(self) -> int:
        return len(self.prompt)


@dataclass(frozen=True)
class Consensus:
    """Verdicts on the items ``item`` [M]: ``first_wins`` [M], and ``margin`` [M] in (0, 1], P(chosen beats rejected) minus
    P(rejected beats chosen). ``ties``: items left out as ties; ``unrated``: items left out as no annotator of positive weight
    rated them."""

    item: Ints
    first_wins: Bools
    margin: Floats
    ties: int
    unrated: int

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class Calibration:
    """Of each annotator: ``accuracy`` on golden items (its n counts items) and ``weight`` [R], 0 or more."""

    accuracy: list[Estimate]
    weight: Floats


def vote(verdicts: Verdicts, items: Items, weight: Floats, seed: int = 0) -> Consensus:
    """Weighted majority. ``weight`` [R] of each annotator, 0 or more; the margin is the difference of the weight shares."""
    cast = _verdict_weights(verdicts, weight)
    total = np.bincount(verdicts.item, cast, len(items))
    ahead = np.bincount(verdicts.item, np.where(verdicts.first_wins, cast, -cast), len(items))
    return _decide(np.divide(ahead, total, out=np.zeros(len(items)), where=total > 0), verdicts, items, weight)


def bradley_terry(verdicts: Verdicts, items: Items, weight: Floats, seed: int = 0) -> Consensus:
    """The stronger answer by `strengths`; the margin is tanh(difference / 2), which is 2 P - 1."""
    strength = strengths(verdicts, items, weight)
    gap = strength[items.prompt, items.first] - strength[items.prompt, items.second]
    return _decide(np.tanh(gap / 2), verdicts, items, weight)


def elo(verdicts: Verdicts, items: Items, weight: Floats, seed: int = 0) -> Consensus:
    """The answer with the higher mean rating over shuffles; the margin is 2 E - 1 with Elo's expected score E.

    Ratings depend on the order of comparisons. So a pair is a tie if the mean difference is below three standard errors over
    the shuffles: which answer is ahead is then chance.
    """
    rating = ratings(verdicts, items, weight, seed)
    gap = rating[items.prompt, items.first] - rating[items.prompt, items.second]  # [I, shuffles]
    mean, error = gap.mean(1), gap.std(1, ddof=1) / np.sqrt(SHUFFLES)
    mean = np.where(np.abs(mean) < 3 * error, 0.0, mean)
    return _decide(2 * _expected(mean) - 1, verdicts, items, weight)


Rule = Callable[[Verdicts, Items, Floats, int], Consensus]
RULES: Mapping[str, Rule] = {rule.__name__: rule for rule in (vote, bradley_terry, elo)}


def strengths(verdicts: Verdicts, items: Items, weight: Floats) -> Floats:
    """Bradley-Terry strengths [prompts, answers] in logits: maximum a posteriori with a normal prior of deviation
    `PRIOR_SPREAD`.

    Maximises, for each prompt, sum of W[i, j] log sigmoid(s_i - s_j) - sum of s_i^2 / (2 spread^2), where W[i, j] is the
    weight of the verdicts for i over j (Bradley and Terry 1952). Hunter's MM algorithm (2004) finds the same point without a
    prior if there is one; with the prior there always is, even if an answer never lost. The strengths of a prompt sum to 0.
    Newton's method runs on all prompts together: along its step h the curvature grows by at most exp(r t), where r is the
    largest change of a difference of strengths, so a step of log(1 + r) / r never passes the optimum on its line.
    """
    won = _wins(verdicts, items, weight)
    played = won + won.swapaxes(1, 2)
    strength = np.zeros(won.shape[:2])
    penalty = np.eye(won.shape[1]) / PRIOR_SPREAD**2
    for _ in range(100):
        expected = expit(strength[:, :, None] - strength[:, None, :])
        slope = (won - played * expected).sum(2) - strength / PRIOR_SPREAD**2
        if np.abs(slope).max(initial=0.0) <= 1e-12 * max(1.0, float(played.max(initial=0.0))):
            break
        curve = played * expected * (1 - expected)
        hessian = np.eye(won.shape[1]) * curve.sum(2)[:, :, None] - curve + penalty
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        reach = np.maximum(np.ptp(step, axis=1, keepdims=True), 1e-300)
        strength = strength + step * np.log1p(reach) / reach
    return strength


def ratings(verdicts: Verdicts, items: Items, weight: Floats, seed: int) -> Floats:
    """Elo ratings [prompts, answers, shuffles] around 0, from the verdicts in ``SHUFFLES`` seeded orders (Elo 1978).

    After each verdict the winner takes K w (1 - E) from the loser, where E = 1 / (1 + 10^(-difference / 400)) is the expected
    score and w the annotator's weight over the mean weight of all verdicts. A rating never converges and depends on the order,
    though answers don't change between comparisons (Boubdir et al. 2023, "Elo uncovered"), hence the shuffles. The ratings of
    a prompt don't depend on other prompts, except through the mean weight.
    """
    slots = _slots(verdicts, items)
    shape = (_count(items.prompt), _count(items.first, items.second), SHUFFLES)
    rating = np.zeros(shape)
    cast = _verdict_weights(verdicts, weight)
    cast = cast / (cast.mean() if cast.any() else 1.0)
    first, second = items.first[verdicts.item], items.second[verdicts.item]
    winner, loser = np.where(verdicts.first_wins, first, second), np.where(verdicts.first_wins, second, first)
    prompt, shuffle = np.arange(shape[0])[:, None], np.arange(SHUFFLES)
    # one row per slot, so that the order within a prompt does not depend on other prompts
    for turn in np.argsort(np.random.default_rng(seed).random((slots.shape[1], SHUFFLES)), axis=0):
        row = slots[:, turn]  # [prompts, shuffles]: verdict of this turn, -1 for none
        won, lost = (prompt, winner[row], shuffle), (prompt, loser[row], shuffle)
        gain = np.where(row < 0, 0.0, K * cast[row]) * (1 - _expected(rating[won] - rating[lost]))
        rating[won] += gain
        rating[lost] -= gain
    return rating


def calibrate(verdicts: Verdicts, first_better: Bools, annotators: int) -> Calibration:
    """Accuracy and weight of each annotator, from verdicts on golden items with known truth ``first_better`` [I].

    Intervals are Wilson's. Weights are log(p / (1 - p)) of the shrunk accuracy p, optimal for independent annotators of known
    accuracy (Nitzan and Paroush 1982):

        p = (right + 16 m) / (rated + 16),    m = (all right + 1) / (all rated + 2),

    a Beta prior worth 16 items of the panel's common accuracy m. So annotators with few golden items have similar weights,
    and without golden items all weights are equal.

    No weight is negative, though flipping an annotator known to be worse than chance would be optimal: on few items that is
    mostly chance, a sum of weights would no longer be a count of votes, and the Bradley-Terry likelihood would no longer have
    a unique maximum. Annotators with a common bias aren't independent, which weights can't correct. Raises UserError if no
    annotator is better than chance.
    """
    rated = np.bincount(verdicts.annotator, minlength=annotators)
    right = np.bincount(verdicts.annotator, verdicts.first_wins == first_better[verdicts.item], annotators)
    common = (right.sum() + 1) / (rated.sum() + 2)
    weight = np.maximum(logit((right + POOLED * common) / (rated + POOLED)), 0.0) if rated.sum() else np.ones(annotators)
    if not weight.any():
        raise UserError(
            f"no annotator is right on more than half of the {len(first_better)} golden items: "
            "lower task.feedback.noise, or the temperature and biases of task.panel"
        )
    accuracy = []
    for hits, n in zip(right.astype(int).tolist(), rated.tolist(), strict=True):
        bounds = scipy.stats.binomtest(hits, n).proportion_ci(method="wilson") if n else None
        low, high = (float(bounds.low), float(bounds.high)) if bounds else (None, None)
        accuracy.append(Estimate(hits / n if n else None, low, high, n, len(first_better) - n))
    return Calibration(accuracy, weight)


def _decide(lead: Floats, verdicts: Verdicts, items: Items, weight: Floats) -> Consensus:
    """``lead`` [I] in [-1, 1]: P(first beats second) minus P(second beats first)."""
    rated = np.bincount(verdicts.item, _verdict_weights(verdicts, weight), len(items)) > 0
    won = np.flatnonzero(rated & (np.abs(lead) > _TIE))
    ties = int(rated.sum()) - len(won)
    return Consensus(won, lead[won] > 0, np.abs(lead[won]), ties, len(items) - int(rated.sum()))


def _verdict_weights(verdicts: Verdicts, weight: Floats) -> Floats:
    """Weight of each verdict [N]."""
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise UserError(f"annotators' weights must be finite numbers of 0 or more, not {weight.tolist()}: calibrate again")
    if len(verdicts) and verdicts.annotator.max() >= len(weight):
        raise UserError(f"{len(weight)} weights for {verdicts.annotator.max() + 1} annotators: give one weight per annotator")
    return weight[verdicts.annotator]


def _wins(verdicts: Verdicts, items: Items, weight: Floats) -> Floats:
    """[prompts, answers, answers]: weight of the verdicts for the first answer over the second."""
    size = _count(items.first, items.second)
    first, second = items.first[verdicts.item], items.second[verdicts.item]
    winner, loser = np.where(verdicts.first_wins, first, second), np.where(verdicts.first_wins, second, first)
    won = np.zeros((_count(items.prompt), size, size))
    np.add.at(won, (items.prompt[verdicts.item], winner, loser), _verdict_weights(verdicts, weight))
    return won


def _slots(verdicts: Verdicts, items: Items) -> Ints:
    """Indices of the verdicts on each prompt [prompts, most verdicts per prompt], by item and annotator, padded with -1."""
    order = np.lexsort((verdicts.annotator, verdicts.item))
    prompt = items.prompt[verdicts.item[order]]
    order = order[np.argsort(prompt, kind="stable")]
    counts = np.bincount(prompt, minlength=_count(items.prompt))
    slots = np.full((len(counts), counts.max(initial=0)), -1, np.intp)
    slots[np.arange(slots.shape[1]) < counts[:, None]] = order
    return slots


def _expected(gap: Floats) -> Floats:
    """Elo's expected score of an answer that is ``gap`` points ahead."""
    return np.asarray(expit(gap * np.log(10) / SCALE))


def _count(*numbers: Ints) -> int:
    return max((int(part.max(initial=-1)) for part in numbers), default=-1) + 1
