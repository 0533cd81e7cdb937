"""How far a policy has moved from its SFT base, in nats per completion, on its own samples.

`kl` is the one to read: the full-vocabulary KL of every position (`isoalign.models.kl.exact_kl`) summed over the completion,
exact but for the choice of prefixes. k1, k2 and k3 are what other tools print, estimates from one log-ratio per sequence; they
are here for comparison. `kl_reverse` is KL(base || policy) on fixed samples of the base: large where the policy no longer
gives probability to what the base says, which `kl` does not show. The KL of truncated sampling, of padding, or of one token is
another quantity; the KL of a sequence grows with its length, hence `kl_per_token`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.objective import gain_phrase, measured_gain
from isoalign.core.records import Estimate, Flag
from isoalign.evaluation.metrics.metric import UNBOUNDED, Metric
from isoalign.evaluation.metrics.scored_samples import ScoredSamples, by_prompt, check_column
from isoalign.stats import Values

VERSION = 2
LEFT = 20.0
"""KL in nats per completion above which a policy is said to have left its base: a rule of thumb."""
STILL = 0.1
"""KL in nats below which a policy is said not to have moved, if its score has not either."""
GAP = 0.1
"""Share of the exact KL by which a reported KL may differ."""
LEAST = 0.1
"""Difference in nats that is always allowed: the mean of a few dozen answers is off by as much where KL is small."""

METRICS = (
    Metric("kl", "KL", unit="nats", digits=2, bounds=(0.0, inf),
           description="Exact KL of the policy from the SFT base, per completion."),
    Metric("kl_per_token", "KL per token", unit="nats", bounds=(0.0, inf), description="Exact KL per token."),
    Metric("kl_reverse", "Reverse KL", unit="nats", digits=2, bounds=(0.0, inf),
           description="Exact KL of the SFT base from the policy, per completion of the base."),
    Metric("kl_k1", "k1", unit="nats", digits=2, bounds=UNBOUNDED,
           description="Estimate of the KL per completion by the mean log-ratio."),
    Metric("kl_k2", "k2", unit="nats", digits=2, bounds=(0.0, inf),
           description="Estimate of the KL per completion by half the mean square of the log-ratio."),
    Metric("kl_k3", "k3", unit="nats", digits=2, bounds=(0.0, inf),
           description="Estimate of the KL per completion by Schulman's k3, heavy-tailed on sequences."),
)  # fmt: skip


def log_ratios(logp: Sequence[float | None], base_logp: Sequence[float | None]) -> list[float | None]:
    """l = log pi - log pi_base of each sample, None where either is missing."""
    return [None if p is None or q is None else p - q for p, q in zip(logp, base_logp, strict=True)]


def k1(log_ratio: float) -> float:
    """l: unbiased, but may be negative and has a high variance (Schulman 2020, "Approximating KL Divergence")."""
    return log_ratio


def k2(log_ratio: float) -> float:
    """l^2 / 2: low variance, but biased; close to the KL only while policy and base are close."""
    return log_ratio**2 / 2


def k3(log_ratio: float) -> float | None:
    """exp(-l) - 1 + l: unbiased and never negative, but on whole sequences exp(-l) is heavy-tailed: one sample that is far
    more likely under the base can outweigh all others. None where it overflows."""
    try:
        return math.expm1(-log_ratio) + log_ratio
    except OverflowError:
        return None


def best_of_n_bound(n: int) -> float:
    """log n - (n - 1) / n nats: an upper bound of KL(best of n || base), not the KL itself.

    Often reported as the KL. The KL is that high only if no two samples are equal and n is small against the number of
    answers of the base; for large n or a base with few answers the bound is far too high. Raises UserError for n < 1.

    Beirami et al. 2025, "Theoretical Guarantees on the Best-of-n Alignment Policy".
    """
    if n < 1:
        raise UserError(f"best of n needs n of 1 or more, not {n}")
    return math.log(n) - (n - 1) / n


def reported_gap(exact: Estimate | float, reported: float, error: float | None = None) -> str | None:
    """A warning for a KL that a method reports and that differs from the exact one by more than 10%, .1 nats and chance; None
    for a good report. ``error``: the report's standard error, if known."""
    value = exact.value if isinstance(exact, Estimate) else exact
    if value is None or abs(reported - value) <= max(GAP * abs(value), LEAST, _chance(exact, error)):
        return None
    off = f", {abs(reported - value) / abs(value):.0%} off" if value and math.isfinite(reported) else ""
    return f"the method reports a KL of {reported:.3g} nats, the exact one is {value:.3g}{off}"


def _chance(exact: Estimate | float, error: float | None) -> float:
    """How far the two may differ by chance, at 95%: the exact one's interval covers its prompts. 0 if unknown."""
    if error is None or not isinstance(exact, Estimate) or exact.low is None or exact.high is None:
        return 0.0
    return math.hypot((exact.high - exact.low) / 2, 1.96 * error)


def exact_kl(data: Sequence[float | None], lengths: Sequence[int], prompt_ids: Sequence[str]) -> dict[str, float | None]:
    """KL(policy || base) per sequence and per token in nats, with 95% intervals over prompts.

    ``data``: KL of each completion, summed over its positions (padding excluded), or None; ``lengths`` in tokens;
    ``prompt_ids``: its prompt. Given KL(base || policy) on samples of the base, it is the reverse KL.
    """
    check_column("data", data)
    grid = by_prompt(data, prompt_ids)
    estimates = {"kl": stats.mean(grid), "kl_per_token": stats.ratio(grid, by_prompt(map(float, lengths), prompt_ids))}
    return {
        f"{name}{end}": value
        for name, e in estimates.items()
        for end, value in (("", e.value), ("_low", e.low), ("_high", e.high))
    }


def sequence_kl(data: Sequence[float | None], base_logp: Sequence[float | None], prompt_ids: Sequence[str]) -> dict[str, Any]:
    """Means of Schulman's single-sample estimators of KL(policy || base) over whole completions, in nats per sequence.

    ``data``: log-probability of each of the policy's own samples under the policy, or None; ``base_logp``: under the base;
    ``prompt_ids``: its prompt.
    """
    check_column("data", data)
    check_column("base_logp", base_logp)
    ratios = log_ratios(data, base_logp)
    grids = {name: by_prompt(_each(k, ratios), prompt_ids) for name, k in _ESTIMATORS.items()}
    return {name: stats.mean(grid).value for name, grid in grids.items()} | {"log_ratios": ratios}


def values(scored: ScoredSamples) -> dict[str, Values]:
    """Prompt to KL and its estimators for each draw; to the reverse KL where the base's samples were scored."""
    samples = scored.samples
    ratios = log_ratios([s.logp for s in samples], [s.base_logp for s in samples])
    columns = {"kl": [s.kl for s in samples]} | {name: _each(k, ratios) for name, k in _ESTIMATORS.items()}
    grids: dict[str, Values] = {name: scored.grid(column) for name, column in columns.items()}
    if scored.reverse:
        reverse = sorted(scored.reverse, key=lambda row: (row.prompt_id, row.draw))
        grids["kl_reverse"] = by_prompt([row.kl for row in reverse], [row.prompt_id for row in reverse])
    return grids


def measure(scored: ScoredSamples) -> dict[str, Estimate]:
    """KL per sequence and per token, the estimators and the reverse KL; intervals by bootstrap over prompts."""
    own = values(scored)
    lengths = scored.grid([float(len(s.token_ids)) for s in scored.samples])
    return {name: stats.mean(v) for name, v in own.items()} | {"kl_per_token": stats.ratio(own["kl"], lengths)}


def flags(estimates: Mapping[str, Estimate], base: Mapping[str, Estimate] | None) -> list[Flag]:
    """Warns, by rules of thumb, of a policy that has left its base or has not moved; never of the SFT row."""
    name = measured_gain(estimates)
    kl, gain = estimates.get("kl"), estimates.get(name)
    if base is None or kl is None or kl.value is None or gain is None:
        return []
    if kl.value > LEFT:
        return [Flag("warning", f"has left the base: KL {kl.value:.3g} nats a sequence, over {LEFT:.3g}")]
    if kl.value < STILL and gain.low is not None and gain.high is not None and gain.low <= 0 <= gain.high:
        interval = f"{gain_phrase(name)} [{gain.low:.3f}, {gain.high:.3f}]"
        still = f"has not moved: KL {kl.value:.3g} nats a sequence, under {STILL}, and {interval} covers 0"
        return [Flag("warning", still)]
    return []


_ESTIMATORS: dict[str, Callable[[float], float | None]] = {"kl_k1": k1, "kl_k2": k2, "kl_k3": k3}


def _each(k: Callable[[float], float | None], ratios: Sequence[float | None]) -> list[float | None]:
    return [None if ratio is None else k(ratio) for ratio in ratios]
