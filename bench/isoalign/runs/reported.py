"""What a method says of its own KL from the base, as it logged it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

MIN_LOGGED_SHARE = 0.9  # of the spent FLOPs: a KL logged only before does not describe the trained policy


def reported_kl(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """A method's own estimates of its KL: means over the last tenth of the values that it logged."""
    return {name: statistics.fmean(values[-max(1, len(values) // 10) :]) for name, values in _logged_kl(log).items()}


def reported_kl_error(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Standard errors of these means, from the spread of that tenth, but at least five rows; none for a single row."""
    tenths = {name: (values, max(1, len(values) // 10)) for name, values in _logged_kl(log).items() if len(values) > 1}
    return {name: statistics.stdev(values[-max(5, tenth) :]) / math.sqrt(tenth) for name, (values, tenth) in tenths.items()}


def _logged_kl(log: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The KL values that a method logged, if it logged them to the end: those of a hybrid's first stage do not describe the
    trained policy."""
    logged = {name: [row for row in log if row.get(name) is not None] for name in ("kl", "kl_k1", "kl_k2", "kl_k3")}
    least = MIN_LOGGED_SHARE * log[-1]["flops_spent"] if log else 0
    to_the_end = {name: rows for name, rows in logged.items() if rows and rows[-1]["flops_spent"] >= least}
    return {name: [row[name] for row in rows] for name, rows in to_the_end.items()}
