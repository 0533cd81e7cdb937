"""Is a reward model as sure as it is right? Brier score, negative log-likelihood and calibration error on held-out pairs.

sigmoid(D / T), D = r(chosen) - r(rejected), is read as the probability of the verdict. Rewards have no unit (here they are
whitened), so one temperature T is fitted on validation pairs first. Pairs are symmetrised, each taken both ways round:
"chosen" always stands first, and a model that says 1 to everything would be perfectly calibrated otherwise.

The verdicts are the noisy ones, for fit and figures both: flipped at rate e, a reward model that knows the truth is
calibrated at 1 - e. Pitfalls: ECE depends on its bins and is never 0 on few pairs even for a calibrated model; the
intervals of Brier, NLL and ECE take T as given; the interval of T takes validation pairs as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.records import Estimate
from isoalign.evaluation.metrics.evidence import Evidence, by_prompt, check_column
from isoalign.stats import Values

VERSION = 1
BINS = 10
SURE, UNSURE = 0.1, 100.0
"""T is looked for from 0.1 to 100 times the margins' root mean square: where a typical margin says .99995 to .5025."""

Floats = NDArray[np.float64]

_CITATION = """\
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks}, author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and
  Weinberger, Kilian}, booktitle={ICML}, year={2017}, note={temperature, ECE, reliability}}
@article{brier1950verification,
  title={Verification of Forecasts Expressed in Terms of Probability}, author={Brier, Glenn},
  journal={Monthly Weather Review}, year={1950}}
@article{bradley1952rank,
  title={Rank Analysis of Incomplete Block Designs}, author={Bradley, Ralph and Terry, Milton}, journal={Biometrika},
  year={1952}}"""


@dataclass(frozen=True)
class Bin:
    """Predictions in [low, high): their mean, the share of them that came true, and how many (None where none)."""

    low: float
    high: float
    confidence: float | None
    right: float | None
    count: int


def fit_temperature(margins: Sequence[float] | Floats) -> float:
    """T > 0 at which sigmoid(D / T) has the lowest negative log-likelihood, D in favour of the verdict.

    In 1 / T that is convex, so there is one minimum, but it need not be finite. Where no margin is wrong (separable
    data) the likelihood grows for ever as T falls, where they are wrong on the whole as T grows; T is then at its bound,
    0.1 or 100 times the margins' root mean square, and so it is where the minimum lies beyond. Margins all 0 give 1.
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
    found = minimize_scalar(
        lambda log: float(nll(d / (scale * np.exp(log))).mean()), bounds=bounds, method="bounded", options={"xatol": 1e-9}
    )
    return float(scale * np.exp(found.x))


def nll(margins: Floats) -> Floats:
    """- log sigmoid(D) of each pair; the same whichever way round it is taken."""
    return np.logaddexp(0, -margins)


def brier(margins: Floats) -> Floats:
    """(1 - sigmoid(D))^2 of each pair; the same whichever way round it is taken."""
    return np.square(expit(-margins))


def reliability(margins: Sequence[float] | Floats, temperature: float = 1.0, bins: int = BINS) -> list[Bin]:
    """What a reliability plot shows: equal-width bins of the probability that the first answer of a pair wins, each pair
    taken both ways round. Hence the plot is its own mirror image: bin i says what bin ``bins`` - 1 - i says."""
    d = np.asarray(margins, dtype=float) / temperature
    confidence, won = expit(np.concatenate([d, -d])), np.repeat([1.0, 0.0], len(d))
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins).tolist()
    said, came = (np.bincount(place, column, bins).tolist() for column in (confidence, won))
    return [
        Bin(i / bins, (i + 1) / bins, said[i] / n if n else None, came[i] / n if n else None, n) for i, n in enumerate(count)
    ]


def expected_calibration_error(margins: Sequence[float] | Floats, temperature: float = 1.0, bins: int = BINS) -> float:
    """ECE: mean over symmetrised pairs of |mean confidence - share right| of their bin (Guo et al. 2017, eq. 3)."""
    full = reliability(margins, temperature, bins)
    gaps = [b.count * abs(b.confidence - b.right) for b in full if b.confidence is not None and b.right is not None]
    return sum(gaps) / sum(b.count for b in full)


class Calibration(evaluate.Metric):
    """Brier score, negative log-likelihood and ECE of a reward model's preferences, with reliability data."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="sigmoid(D / T), D = reward of chosen - reward of rejected, as the probability of the verdict: "
            "Brier score, negative log-likelihood, ECE over equal-width bins, and the bins, on pairs taken both ways.",
            citation=_CITATION,
            inputs_description="predictions, references: reward of the chosen and of the rejected answer; validation: "
            "margins D of other pairs, on which T is fitted (without them T = 1); bins: how many.",
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}),
            reference_urls=["https://arxiv.org/abs/1706.04599"],
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        validation: Sequence[float] | None = None,
        bins: int = BINS,
    ) -> dict[str, Any]:
        for name, column in (("predictions", predictions), ("references", references), ("validation", validation or [])):
            check_column(name, column)
        if bins < 1:
            raise UserError(f"{bins} bins")
        temperature = fit_temperature(validation) if validation else 1.0
        margins = np.asarray(predictions, dtype=float) - np.asarray(references, dtype=float)
        return {
            "temperature": temperature,
            "brier": float(brier(margins / temperature).mean()),
            "nll": float(nll(margins / temperature).mean()),
            "ece": expected_calibration_error(margins, temperature, bins),
            "reliability": [asdict(each) for each in reliability(margins, temperature, bins)],
        }


def values(evidence: Evidence) -> dict[str, Values]:
    """Prompt to Brier score and negative log-likelihood of each of its held-out pairs (sorted by pair_id); nothing
    without a reward model, held-out pairs, or validation pairs to fit T on."""
    found = _margins(evidence)
    if found is None:
        return {}
    margins, prompts, temperature = found
    columns = {"rm_brier": brier(margins / temperature), "rm_nll": nll(margins / temperature)}
    return {name: by_prompt(column.tolist(), prompts) for name, column in columns.items()}


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """T (``n`` counts validation pairs), Brier, NLL and ECE (``n`` counts held-out pairs, intervals keep a prompt's
    together); T and ECE by jackknife."""
    found = _margins(evidence)
    if found is None or evidence.rewards is None:
        return {}
    margins, prompts, temperature = found
    fitted = _validation(evidence.rewards.validation)
    # a scale: its error is a factor, and no bound is negative
    log = stats.jackknife(lambda kept: [math.log(fit_temperature(fitted[kept]))], len(fitted))[0]
    value, low, high = (None if v is None else math.exp(v) for v in (log.value, log.low, log.high))
    figures = {"rm_temperature": Estimate(value, low, high, log.n)}
    figures |= {name: replace(stats.mean(grid), n=len(margins)) for name, grid in values(evidence).items()}
    _, owner = np.unique(prompts, return_inverse=True)

    def ece(kept: NDArray[np.intp]) -> list[float]:
        return [expected_calibration_error(margins[np.isin(owner, kept)], temperature)]

    error = stats.jackknife(ece, int(owner.max()) + 1)[0]
    return figures | {"rm_ece": replace(error, low=error.low and max(error.low, 0.0), n=len(margins))}


def data(evidence: Evidence) -> dict[str, Any]:
    """The reliability plot's bins, after temperature; nothing where there is no calibration."""
    found = _margins(evidence)
    return {"reliability": [asdict(each) for each in reliability(found[0], found[2])]} if found else {}


def _margins(evidence: Evidence) -> tuple[Floats, list[str], float] | None:
    """Margins of the held-out pairs, their prompts, and the temperature."""
    rewards, pairs = evidence.rewards, evidence.pairs
    if rewards is None or not pairs or not rewards.validation:
        return None
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].pair_id)
    margins = np.array([rewards.pairs[i][0] - rewards.pairs[i][1] for i in order])
    return margins, [pairs[i].prompt_id for i in order], fit_temperature(_validation(rewards.validation))


def _validation(pairs: Sequence[tuple[float, float]]) -> Floats:
    return np.array([chosen - rejected for chosen, rejected in pairs])
