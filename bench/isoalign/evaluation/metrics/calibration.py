"""Are a reward model's probabilities right? Brier score, negative log-likelihood and calibration error on held-out pairs.

sigmoid(D / T), D = r(chosen) - r(rejected), is read as the probability of the verdict. Rewards have no unit (here they are
whitened), so one temperature T is fitted on validation pairs first. Pairs are symmetrised, each counted in both orders:
"chosen" always stands first, and a model that always says 1 would otherwise be perfectly calibrated.

The verdicts are the noisy ones, for the fit and for the metrics: if they are flipped at rate e, a reward model that knows the
truth is calibrated at 1 - e. ECE depends on its bins, and on few pairs it is above 0 even for a calibrated model; the
intervals of Brier, NLL and ECE take T as given; the interval of T takes validation pairs as independent.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature, ECE, reliability); Brier 1950, "Verification of
Forecasts Expressed in Terms of Probability"; Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.lazy import scipy
from isoalign.core.records import Estimate
from isoalign.evaluation.metrics.metric import Metric
from isoalign.evaluation.metrics.scored_samples import ScoredSamples, by_prompt, check_column
from isoalign.stats import Values

VERSION = 1
BINS = 10
SURE, UNSURE = 0.1, 100.0
"""T is searched from 0.1 to 100 times the root mean square of the margins, where a typical margin gives .99995 to .5025."""

METRICS = (
    Metric("rm_ece", "ECE", False, description="Expected calibration error of the reward model on held-out verdicts."),
    Metric("rm_brier", "Brier score", False, description="Brier score of the reward model on held-out verdicts."),
    Metric("rm_nll", "NLL", False, unit="nats", bounds=(0.0, inf),
           description="Negative log-likelihood of held-out verdicts under the reward model."),
    Metric("rm_temperature", "Temperature", bounds=(0.0, inf),
           description="Temperature by which the reward model's margins are divided, fitted on validation pairs."),
)  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Predictions in [low, high): their mean and the share of them that are right (None in an empty bin), and their number."""

    low: float
    high: float
    confidence: float | None
    right: float | None
    count: int


def fit_temperature(margins: Sequence[float] | Floats) -> float:
    """T > 0 at which sigmoid(D / T) has the lowest negative log-likelihood, D in favour of the verdict.

    The likelihood is convex in 1 / T, so there is one minimum, but it need not be finite. If no margin is wrong (separable
    data) the likelihood grows without end as T falls, and if margins are wrong on average, as T grows. T is then at its bound,
    0.1 or 100 times the root mean square of the margins, and also if the minimum lies beyond that. All margins 0 give T = 1.
    """
    d = np.asarray(margins, dtype=float)
    scale = float(np.sqrt(np.square(d).mean())) if len(d) else 0.0
    if not scale:
        return 1.0
    if d.min() >= 0:
        return SURE * scale
    if d.sum() <= 0:  # the slope at 1 / T = 0
        return UNSURE * scale
    bounds = (np.log(SURE), np.log(UNSURE))
    minimum = scipy.optimize.minimize_scalar(
        lambda log: float(nll(d / (scale * np.exp(log))).mean()), bounds=bounds, method="bounded", options={"xatol": 1e-9}
    )
    return float(scale * np.exp(minimum.x))


def nll(margins: Floats) -> Floats:
    """- log sigmoid(D) of each pair; the same in both orders."""
    return np.logaddexp(0, -margins)


def brier(margins: Floats) -> Floats:
    """(1 - sigmoid(D))^2 of each pair; the same in both orders."""
    return np.square(scipy.special.expit(-margins))


def reliability(margins: Sequence[float] | Floats, temperature: float = 1.0, bins: int = BINS) -> list[Bin]:
    """Data of a reliability plot: equal-width bins of the probability that the first answer of a pair wins, each pair counted
    in both orders. The plot is therefore symmetric: bin i mirrors bin ``bins`` - 1 - i."""
    d = np.asarray(margins, dtype=float) / temperature
    confidence, won = scipy.special.expit(np.concatenate([d, -d])), np.repeat([1.0, 0.0], len(d))
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins).tolist()
    confidences, wins = (np.bincount(place, column, bins).tolist() for column in (confidence, won))
    return [
        Bin(i / bins, (i + 1) / bins, confidences[i] / n if n else None, wins[i] / n if n else None, n)
        for i, n in enumerate(count)
    ]


def expected_calibration_error(margins: Sequence[float] | Floats, temperature: float = 1.0, bins: int = BINS) -> float:
    """ECE: mean over symmetrised pairs of |mean confidence - share right| of their bin (Guo et al. 2017, eq. 3)."""
    full = reliability(margins, temperature, bins)
    gaps = [b.count * abs(b.confidence - b.right) for b in full if b.confidence is not None and b.right is not None]
    return sum(gaps) / sum(b.count for b in full)


def calibration(
    predictions: Sequence[float], references: Sequence[float], validation: Sequence[float] | None = None, bins: int = BINS
) -> dict[str, Any]:
    """Brier score, negative log-likelihood and ECE of a reward model's preferences, with the data of a reliability plot.

    ``predictions``, ``references``: reward of the chosen and of the rejected answer; ``validation``: margins D of other pairs,
    on which T is fitted (without them T = 1); ``bins``: their number, 1 or more.
    """
    for name, column in (("predictions", predictions), ("references", references), ("validation", validation or [])):
        check_column(name, column)
    if bins < 1:
        raise UserError(f"bins must be 1 or more, not {bins}")
    temperature = fit_temperature(validation) if validation else 1.0
    margins = np.asarray(predictions, dtype=float) - np.asarray(references, dtype=float)
    return {
        "temperature": temperature,
        "brier": float(brier(margins / temperature).mean()),
        "nll": float(nll(margins / temperature).mean()),
        "ece": expected_calibration_error(margins, temperature, bins),
        "reliability": [asdict(each) for each in reliability(margins, temperature, bins)],
    }


def values(scored: ScoredSamples) -> dict[str, Values]:
    """Prompt to Brier score and negative log-likelihood of each of its held-out pairs (sorted by pair_id); empty without a
    reward model, held-out pairs, or validation pairs to fit T on."""
    fitted = _margins(scored)
    if fitted is None:
        return {}
    margins, prompts, temperature = fitted
    columns = {"rm_brier": brier(margins / temperature), "rm_nll": nll(margins / temperature)}
    return {name: by_prompt(column.tolist(), prompts) for name, column in columns.items()}


def measure(scored: ScoredSamples) -> dict[str, Estimate]:
    """T (``n`` counts validation pairs), Brier score, NLL and ECE (``n`` counts held-out pairs, intervals keep those of a
    prompt together); T and ECE by jackknife."""
    fit = _margins(scored)
    if fit is None or scored.rewards is None:
        return {}
    margins, prompts, temperature = fit
    fitted = _validation(scored.rewards.validation)
    # on the log scale: T is a factor, and no bound may be negative
    log = stats.jackknife(lambda kept: [math.log(fit_temperature(fitted[kept]))], len(fitted))[0]
    value, low, high = (None if v is None else math.exp(v) for v in (log.value, log.low, log.high))
    figures = {"rm_temperature": Estimate(value, low, high, log.n)}
    figures |= {name: replace(stats.mean(grid), n=len(margins)) for name, grid in values(scored).items()}
    _, owner = np.unique(prompts, return_inverse=True)

    def ece(kept: NDArray[np.intp]) -> list[float]:
        return [expected_calibration_error(margins[np.isin(owner, kept)], temperature)]

    error = stats.jackknife(ece, int(owner.max()) + 1)[0]
    return figures | {"rm_ece": replace(error, low=error.low and max(error.low, 0.0), n=len(margins))}


def data(scored: ScoredSamples) -> dict[str, Any]:
    """The bins of the reliability plot, after temperature; empty without a calibration."""
    fitted = _margins(scored)
    return {"reliability": [asdict(each) for each in reliability(fitted[0], fitted[2])]} if fitted else {}


def _margins(scored: ScoredSamples) -> tuple[Floats, list[str], float] | None:
    """Margins of the held-out pairs, their prompts, and the temperature; None without a reward model. A known reward is none:
    its verdicts have no probability."""
    rewards, pairs = scored.rewards, scored.pairs
    if rewards is None or not pairs or not rewards.validation or scored.known_reward:
        return None
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].pair_id)
    margins = np.array([rewards.pairs[i][0] - rewards.pairs[i][1] for i in order])
    return margins, [pairs[i].prompt_id for i in order], fit_temperature(_validation(rewards.validation))


def _validation(pairs: Sequence[tuple[float, float]]) -> Floats:
    return np.array([chosen - rejected for chosen, rejected in pairs])
