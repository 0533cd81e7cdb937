"""Trials, and the rules that choose among them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from isoalign.core.records import Estimate

Settings = dict[str, str]


@dataclass(frozen=True)
class Trial:
    """A point of the search space and its result: its gain on validation prompts and exact KL.

    ``gates``: the gates that its text failed; ``failed``: why there is no card; ``behind_error``: the standard error of its
    distance from the trial with the largest gain, prompt by prompt.
    """

    settings: Settings
    gain: Estimate | None = None
    kl: float | None = None
    gates: tuple[str, ...] = ()
    failed: str = ""
    behind_error: float | None = None

    @property
    def usable(self) -> bool:
        """Whether it may be chosen."""
        return self.gain is not None and self.gain.value is not None and self.kl is not None and not self.gates


def largest_gain(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the largest gain, at whatever KL: what boards rank by."""
    return max((trial for trial in trials if trial.usable), key=_gain, default=None)


def one_paired_error(trials: Iterable[Trial]) -> Trial | None:
    """Of the trials within one standard error of the largest gain, that with the least KL (Breiman et al. 1984, section
    3.4.3). Trials answer the same prompts, so the error is that of the paired difference."""
    return _least_kl(trials, lambda trial, _: trial.behind_error or 0.0)


def one_standard_error(trials: Iterable[Trial]) -> Trial | None:
    """The same with the error of the largest gain by itself, which is larger: what older records were chosen by."""
    return _least_kl(trials, lambda _, best: _error(best))


RULES: dict[str, Callable[[Iterable[Trial]], Trial | None]] = {
    "largest_gain": largest_gain, "one_paired_error": one_paired_error, "one_standard_error": one_standard_error,
    "largest_reduction": largest_gain,
}  # fmt: skip
"""The rules by name; `largest_reduction` is what records of toxicity tasks call the first."""


def paired(trials: Sequence[Trial], scores: Sequence[Mapping[str, float]]) -> list[Trial]:
    """The trials with their ``behind_error``; ``scores`` of each, by prompt."""
    best = largest_gain(trials)
    if best is None:
        return list(trials)
    top = scores[trials.index(best)]
    return [replace(trial, behind_error=_paired_error(top, own)) for trial, own in zip(trials, scores, strict=True)]


def _least_kl(trials: Iterable[Trial], error: Callable[[Trial, Trial], float]) -> Trial | None:
    usable = [trial for trial in trials if trial.usable]
    best = largest_gain(usable)
    if best is None:
        return None
    return min((t for t in usable if _gain(t) >= _gain(best) - error(t, best)), key=lambda t: (t.kl, -_gain(t)))


def _gain(trial: Trial) -> float:
    assert trial.gain is not None
    return trial.gain.value or 0.0


def _error(trial: Trial) -> float:
    """Standard error, from a 95% interval."""
    found = trial.gain
    return (found.high - found.low) / 3.92 if found and found.high is not None and found.low is not None else 0.0


def _paired_error(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Standard error of the mean difference over the prompts of both; None where there are fewer than two."""
    apart = [first[prompt] - second[prompt] for prompt in first.keys() & second.keys()]
    return statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else None
