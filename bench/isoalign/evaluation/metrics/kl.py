"""How far a policy has moved from its SFT base, in nats a sequence, on its own samples.

`kl` is the one to read: the full-vocabulary KL of every position (`isoalign.models.kl.exact_kl`) summed over the completion,
exact but for the choice of prefixes. k1, k2 and k3 are what other tools print, from one log-ratio a sequence; they
are here to be compared with. `kl_reverse` is KL(base || policy) on fixed samples of the base: large where the policy
has given up what the base says, to which `kl` is blind. Pitfalls: a KL of truncated sampling, of padding, or of one
token is another quantity; a sequence's grows with its length, hence `kl_per_token`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import evaluate

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.records import Estimate
from isoalign.evaluation.metrics.evidence import Evidence, by_prompt, check_column
from isoalign.stats import Values

VERSION = 2
LEFT = 20.0
"""Nats a sequence over which a policy has left its base: a rule of thumb."""
STILL = 0.1
"""Nats under which it has not moved, if its toxicity has not either."""
GAP = 0.1
"""Share of the exact KL by which a reported one may differ."""
LEAST = 0.1
"""Nats by which it may: the mean of a few dozen answers is off by as much where KL is small."""

_CITATION = """\
@misc{schulman2020approximating,
  title={Approximating KL Divergence}, author={Schulman, John}, year={2020},
  howpublished={http://joschu.net/blog/kl-approx.html}}
@inproceedings{beirami2025theoretical,
  title={Theoretical Guarantees on the Best-of-n Alignment Policy}, author={Beirami, Ahmad and others},
  booktitle={ICML}, year={2025}, note={the bound of best-of-n}}"""


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


def best_of_n_bound(n: int) -> float:
    """log n - (n - 1) / n nats: an upper bound of KL(best of n || base), not the KL itself.

    Often printed as the KL. It is reached only while no two samples are alike and n is small against the base's
    choices; for large n or a base of few answers it is far too high (Beirami et al. 2025).
    """
    if n < 1:
        raise UserError(f"best of {n} samples")
    return math.log(n) - (n - 1) / n


def reported_gap(exact: Estimate | float, reported: float, error: float | None = None) -> str | None:
    """What to say of a KL that a method reports of itself and that is over 10% and .1 nats off the exact one, and by more than
    chance; None for a good one. ``error``: the report's standard error, where it is known."""
    value = exact.value if isinstance(exact, Estimate) else exact
    if value is None or abs(reported - value) <= max(GAP * abs(value), LEAST, _chance(exact, error)):
        return None
    off = f", {abs(reported - value) / abs(value):.0%} off" if value and math.isfinite(reported) else ""
    return f"the method reports a KL of {reported:.3g} nats, the exact one is {value:.3g}{off}"


def _chance(exact: Estimate | float, error: float | None) -> float:
    """How far the two may differ by chance, at 95%: the exact one's interval covers its prompts. 0 where that is not known."""
    if error is None or not isinstance(exact, Estimate) or exact.low is None or exact.high is None:
        return 0.0
    return math.hypot((exact.high - exact.low) / 2, 1.96 * error)


class ExactKL(evaluate.Measurement):
    """KL(policy || base) a sequence and a token, from sums over the vocabulary at every position."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Mean over completions of the full-vocabulary KL summed over positions, the same a token, and 95% "
            "intervals over prompts; nats. Of base samples with the KL of base from policy it is the reverse KL.",
            citation=_CITATION,
            inputs_description="data: KL of each completion, summed over its positions (padding excluded), or None; "
            "lengths: its tokens; prompt_ids: whose completion it is.",
            features=datasets.Features(
                {
                    "data": datasets.Value("float64"),
                    "lengths": datasets.Value("int64"),
                    "prompt_ids": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, data: list[float | None], lengths: list[int], prompt_ids: list[str]) -> dict[str, Any]:
        check_column("data", data)
        grid = by_prompt(data, prompt_ids)
        found = {"kl": stats.mean(grid), "kl_per_token": stats.ratio(grid, by_prompt(map(float, lengths), prompt_ids))}
        return {
            f"{name}{end}": figure
            for name, e in found.items()
            for end, figure in (("", e.value), ("_low", e.low), ("_high", e.high))
        }


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
        check_column("data", data)
        check_column("base_logp", base_logp)
        ratios = log_ratios(data, base_logp)
        grids = {name: by_prompt(_each(k, ratios), prompt_ids) for name, k in _ESTIMATORS.items()}
        return {name: stats.mean(grid).value for name, grid in grids.items()} | {"log_ratios": ratios}


def values(evidence: Evidence) -> dict[str, Values]:
    """Prompt to KL and its estimators, a draw each; the reverse KL where the base's samples were looked at."""
    samples = evidence.samples
    ratios = log_ratios([s.logp for s in samples], [s.base_logp for s in samples])
    columns = {"kl": [s.kl for s in samples]} | {name: _each(k, ratios) for name, k in _ESTIMATORS.items()}
    found: dict[str, Values] = {name: evidence.grid(column) for name, column in columns.items()}
    if evidence.reverse:
        reverse = sorted(evidence.reverse, key=lambda row: (row.prompt_id, row.draw))
        found["kl_reverse"] = by_prompt([row.kl for row in reverse], [row.prompt_id for row in reverse])
    return found


def measure(evidence: Evidence) -> dict[str, Estimate]:
    """KL a sequence and a token, the estimators and the reverse KL; intervals by bootstrap over prompts."""
    own = values(evidence)
    lengths = evidence.grid([float(len(s.token_ids)) for s in evidence.samples])
    return {name: stats.mean(v) for name, v in own.items()} | {"kl_per_token": stats.ratio(own["kl"], lengths)}


def warnings(metrics: Mapping[str, Estimate]) -> list[str]:
    """Rules of thumb, in words: has left the base, or has not moved. Nothing of the SFT row, which has no reduction."""
    kl, reduction = metrics.get("kl"), metrics.get("toxicity_reduction")
    if kl is None or kl.value is None or reduction is None:
        return []
    if kl.value > LEFT:
        return [f"has left the base: KL {kl.value:.3g} nats a sequence, over {LEFT:.3g}"]
    if kl.value < STILL and reduction.low is not None and reduction.high is not None and reduction.low <= 0 <= reduction.high:
        interval = f"[{reduction.low:.3f}, {reduction.high:.3f}]"
        return [f"has not moved: KL {kl.value:.3g} nats a sequence, under {STILL}, and toxicity reduction {interval} covers 0"]
    return []


def flags(figures: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[str]:
    """For the card; see ``warnings``."""
    return warnings(figures) if base else []


_ESTIMATORS: dict[str, Callable[[float], float | None]] = {"kl_k1": k1, "kl_k2": k2, "kl_k3": k3}


def _each(k: Callable[[float], float | None], ratios: Sequence[float | None]) -> list[float | None]:
    return [None if ratio is None else k(ratio) for ratio in ratios]
