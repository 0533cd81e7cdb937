"""From the verdicts of several annotators on pairs of answers to one verdict a pair: by vote, by Bradley and Terry, or by Elo.

A vote looks at each pair alone. The other two give every answer of a prompt a strength from all comparisons of that prompt, so
that A over B and B over C speak for A over C; where they disagree with a pair's own votes, they outvote them. Each rule gives
its verdict on the same pairs, those that somebody rated, and the same measure of how sure it is: P(chosen beats rejected),
less P(the reverse), in (0, 1].

Annotators may be weighted by what they are worth on golden items, whose verdict is known; see `calibrate`.
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
"""Bradley-Terry strengths are drawn from a normal of this deviation, in logits: a lone verdict then says P = 0.89, and an
answer that won every comparison stays finite."""
K, SCALE, SHUFFLES = 16.0, 400.0, 100
"""Elo's step and scale (1978): 400 points more are odds of ten to one. Of shuffles Boubdir et al. found 100 enough."""
POOLED = 16.0
"""Golden items that the panel's common accuracy counts for beside an annotator's own."""
_TIE = 1e-9  # margins below this are rounding: sums of weights and Newton's last step are exact to about 1e-12


@dataclass(frozen=True)
class Items:
    """What was rated [I]: two different answers, ``first`` and ``second``, numbered within their ``prompt``, all from 0."""

    prompt: Ints
    first: Ints
    second: Ints

    def __len__(self) -> int:
        return len(self.prompt)


@dataclass(frozen=True)
class Consensus:
    """One verdict for each ``item`` [M] on which there is one: ``first_wins`` [M], and ``margin`` [M] in (0, 1], how much
    likelier the chosen answer is to beat the other than to lose. ``ties``: items left out as neither won; ``unrated``: items
    left out as nobody rated them, or nobody of any weight."""

    item: Ints
    first_wins: Bools
    margin: Floats
    ties: int
    unrated: int

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class Calibration:
    """Of each annotator: ``accuracy`` on the golden items, whose n counts items, and the ``weight`` [R], 0 or more."""

    accuracy: list[Estimate]
    weight: Floats


def vote(verdicts: Verdicts, items: Items, weight: Floats, seed: int = 0) -> Consensus:
    """Weighted majority. ``weight`` [R] of each annotator, 0 or more; the margin is the difference of the shares of weight."""
    cast = _cast(verdicts, weight)
    total = np.bincount(verdicts.item, cast, len(items))
    ahead = np.bincount(verdicts.item, np.where(verdicts.first_wins, cast, -cast), len(items))
    return _decide(np.divide(ahead, total, out=np.zeros(len(items)), where=total > 0), verdicts, items, weight)


def bradley_terry(verdicts: Verdicts, items: Items, weight: Floats, seed: int = 0) -> Consensus:
    """The stronger answer by `strengths`; the margin is tanh(difference / 2), which is 2 P - 1."""
    strength = strengths(verdicts, items, weight)
    gap = strength[items.prompt, items.first] - strength[items.prompt, items.second]
    return _decide(np.tanh(gap / 2), verdicts, items, weight)


def elo(verdicts: Verdicts, items: Items, weight: Floats, seed: int = 0) -> Consensus:
    """The answer with the higher rating, mean over shuffles; the margin is 2 E - 1 of Elo's expected score E.

    Ratings hang on the order of comparisons. So a pair is a tie where the mean difference is less than three of its standard
    errors over the shuffles: which of the two is ahead is then chance.
    """
    rating = ratings(verdicts, items, weight, seed)
    gap = rating[items.prompt, items.first] - rating[items.prompt, items.second]  # [I, shuffles]
    mean, error = gap.mean(1), gap.std(1, ddof=1) / np.sqrt(SHUFFLES)
    mean = np.where(np.abs(mean) < 3 * error, 0.0, mean)
    return _decide(2 * _expected(mean) - 1, verdicts, items, weight)


Rule = Callable[[Verdicts, Items, Floats, int], Consensus]
RULES: Mapping[str, Rule] = {rule.__name__: rule for rule in (vote, bradley_terry, elo)}


def strengths(verdicts: Verdicts, items: Items, weight: Floats) -> Floats:
    """Bradley-Terry strengths [prompts, answers] in logits: the likeliest under a normal prior of deviation `PRIOR_SPREAD`.

    Of each prompt, sum of W[i, j] log sigmoid(s_i - s_j) - sum of s_i^2 / (2 spread^2) is the largest that it can be, W[i, j]
    being the weight of the verdicts that called i better than j (Bradley and Terry 1952). Hunter's MM steps (2004) find the
    same point without a prior where there is one; with the prior there always is, also where an answer never lost. The sum of
    a prompt's strengths is 0. By Newton's method for all prompts together. Along its step h the curvature grows by at most
    exp(r t), r being the most by which a difference of strengths changes, and so a step of log(1 + r) / r never passes the
    lowest point of its line.
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

    After each verdict the winner takes K w (1 - E) from the loser, E = 1 / (1 + 10^(-difference / 400)) being the expected
    score and w the annotator's weight over the mean weight of all verdicts. A rating moves for ever and hangs on the order,
    though answers don't change between comparisons (Boubdir et al. 2023, "Elo uncovered"), hence the shuffles. A prompt's
    ratings don't depend on other prompts, save by way of the mean weight.
    """
    slots = _slots(verdicts, items)
    shape = (_count(items.prompt), _count(items.first, items.second), SHUFFLES)
    rating = np.zeros(shape)
    cast = _cast(verdicts, weight)
    cast = cast / (cast.mean() if cast.any() else 1.0)
    first, second = items.first[verdicts.item], items.second[verdicts.item]
    winner, loser = np.where(verdicts.first_wins, first, second), np.where(verdicts.first_wins, second, first)
    prompt, shuffle = np.arange(shape[0])[:, None], np.arange(SHUFFLES)
    # a row a slot, so that prompts with more verdicts leave the order of others' alone
    for turn in np.argsort(np.random.default_rng(seed).random((slots.shape[1], SHUFFLES)), axis=0):
        row = slots[:, turn]  # [prompts, shuffles]: whose turn it is, -1 for nobody's
        won, lost = (prompt, winner[row], shuffle), (prompt, loser[row], shuffle)
        gain = np.where(row < 0, 0.0, K * cast[row]) * (1 - _expected(rating[won] - rating[lost]))
        rating[won] += gain
        rating[lost] -= gain
    return rating


def calibrate(verdicts: Verdicts, first_better: Bools, annotators: int) -> Calibration:
    """What each of ``annotators`` is worth, from verdicts on golden items whose truth ``first_better`` [I] is known.

    Intervals are Wilson's. Weights are log(p / (1 - p)) of the shrunk accuracy p, the best for independent annotators of known
    accuracy (Nitzan and Paroush 1982):

        p = (right + 16 m) / (rated + 16),    m = (all right + 1) / (all rated + 2),

    a Beta prior that counts as 16 items of the panel's common accuracy m. So annotators of whom little is known weigh alike,
    and with no golden item all do.

    No weight is below 0, though turning an annotator round who is worse than chance would be best if that were known: on few
    items it mostly is chance, a sum of weights would no longer be a count of votes, and Bradley and Terry's likelihood no
    longer has one maximum. Annotators with a common bias aren't independent, and no weight cures that. Raises UserError where
    no annotator is better than chance.
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
    """``lead`` [I] in [-1, 1]: P(first beats second) less P(the reverse)."""
    rated = np.bincount(verdicts.item, _cast(verdicts, weight), len(items)) > 0
    won = np.flatnonzero(rated & (np.abs(lead) > _TIE))
    ties = int(rated.sum()) - len(won)
    return Consensus(won, lead[won] > 0, np.abs(lead[won]), ties, len(items) - int(rated.sum()))


def _cast(verdicts: Verdicts, weight: Floats) -> Floats:
    """Weight of each verdict [N]."""
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise UserError(f"annotators' weights must be numbers of 0 or more, not {weight.tolist()}: calibrate them anew")
    if len(verdicts) and verdicts.annotator.max() >= len(weight):
        raise UserError(f"{len(weight)} weights for {verdicts.annotator.max() + 1} annotators: give one for each")
    return weight[verdicts.annotator]


def _wins(verdicts: Verdicts, items: Items, weight: Floats) -> Floats:
    """[prompts, answers, answers]: weight of the verdicts that called the one better than the other."""
    size = _count(items.first, items.second)
    first, second = items.first[verdicts.item], items.second[verdicts.item]
    winner, loser = np.where(verdicts.first_wins, first, second), np.where(verdicts.first_wins, second, first)
    won = np.zeros((_count(items.prompt), size, size))
    np.add.at(won, (items.prompt[verdicts.item], winner, loser), _cast(verdicts, weight))
    return won


def _slots(verdicts: Verdicts, items: Items) -> Ints:
    """Rows of the verdicts on each prompt [prompts, most verdicts on one], by item and annotator; -1 where there are no
    more."""
    order = np.lexsort((verdicts.annotator, verdicts.item))
    prompt = items.prompt[verdicts.item[order]]
    order = order[np.argsort(prompt, kind="stable")]
    counts = np.bincount(prompt, minlength=_count(items.prompt))
    slots = np.full((len(counts), counts.max(initial=0)), -1, np.intp)
    slots[np.arange(slots.shape[1]) < counts[:, None]] = order
    return slots


def _expected(gap: Floats) -> Floats:
    """Elo's expected score of who is ``gap`` points ahead."""
    return np.asarray(expit(gap * np.log(10) / SCALE))


def _count(*numbers: Ints) -> int:
    return max((int(part.max(initial=-1)) for part in numbers), default=-1) + 1
