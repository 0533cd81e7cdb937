"""How far a policy has moved from its SFT base, in nats a sequence, on its own samples.

`kl` is the one to read: the full-vocabulary KL of every position (`bench.kl.exact_kl`) summed over the completion,
exact but for the choice of prefixes. k1, k2 and k3 are what other tools print, from one log-ratio a sequence; they
are here to be compared with. Over 20 nats a policy has left its base; under 0.1 it has hardly moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate

from bench import stats
from bench.metrics.evidence import Evidence, by_prompt
from bench.stats import Values
from bench.types import Estimate

VERSION = 1

_CITATION = """\
@misc{schulman2020approximating,
  title={Approximating KL Divergence}, author={Schulman, John}, year={2020},
  howpublished={http://joschu.net/blog/kl-approx.html}}"""


def log_ratios(logp: Sequence[float | None], base_logp: Sequence[float | None]) -> list[float | None]:
    """l = log pi - log pi_base of each sample, None where either is."""
    return [None if p is None or q is None else p - q for p, q in zip(logp, base_logp, strict=True)]


def k1(log_ratio: float) -> float:
    """l: unbiased, but of either sign and of high variance."""
    return log_ratio


def k2(log_ratio: float) -> float:
    """l^2 / 2: low variance, biased; near the KL only while the two are close."""
    return log_ratio**2 / 2


def k3(log_ratio: float) -> float | None:
    """exp(-l) - 1 + l: unbiased and never negative, but on whole sequences exp(-l) is heavy-tailed: one sample that the
    base likes far better can outweigh all others. None where it overflows."""
    try:
        return math.expm1(-log_ratio) + log_ratio
    except OverflowError:
        return None


class SequenceKL(evaluate.Measurement):
    """Schulman's single-sample estimators of KL(policy || base) over whole completions."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="k1 = l, k2 = l^2 / 2, k3 = exp(-l) - 1 + l, l = log policy - log base of the policy's own "
            "samples, averaged; nats a sequence.",
            citation=_CITATION,
            inputs_description="data: log-probability of each completion under the policy; base_logp: under the base; "
            "prompt_ids: whose completion it is. None where there is none.",
            features=datasets.Features(
                {
                    "data": datasets.Value("float64"),
                    "base_logp": datasets.Value("float64"),
                    "prompt_ids": datasets.Value("string"),
                }
            ),
            reference_urls=["http://joschu.net/blog/kl-approx.html"],
        )

    def _compute(self, data: list[float | None], base_logp: list[float | None], prompt_ids: list[str]) -> dict[str, Any]:
        ratios = log_ratios(data, base_logp)
        grids = {name: by_prompt(_each(k, ratios), prompt_ids) for name, k in _ESTIMATORS.items()}
        return {name: stats.mean(grid).value for name, grid in grids.items()} | {"log_ratios": ratios}


def values(evidence: Evidence) -> dict[str, Values]:
    """Prompt to KL and its estimators, a draw each."""
    samples = evidence.samples
    ratios = log_ratios([s.logp for s in samples], [s.base_logp for s in samples])
    columns = {"kl": [s.kl for s in samples]} | {name: _each(k, ratios) for name, k in _ESTIMATORS.items()}
    return {name: evidence.grid(column) for name, column in columns.items()}


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """KL a sequence and a token, and the estimators; intervals by bootstrap over prompts."""
    own = values(evidence)
    lengths = evidence.grid([float(len(s.token_ids)) for s in evidence.samples])
    return {name: stats.mean(v) for name, v in own.items()} | {"kl_per_token": stats.ratio(own["kl"], lengths)}


_ESTIMATORS: dict[str, Callable[[float], float | None]] = {"kl_k1": k1, "kl_k2": k2, "kl_k3": k3}


def _each(k: Callable[[float], float | None], ratios: Sequence[float | None]) -> list[float | None]:
    return [None if ratio is None else k(ratio) for ratio in ratios]
