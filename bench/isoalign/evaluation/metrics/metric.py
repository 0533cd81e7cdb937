"""How a metric is read: its title, direction, unit, digits and bounds, as data beside the function that computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from isoalign.core.records import Estimate

UNBOUNDED = (-inf, inf)


@dataclass(frozen=True)
class Metric:
    """How the values of one metric are read and shown.

    ``name``: its key on cards. ``title``: its column on the board. ``higher_is_better``: None where neither direction is
    better. ``unit``: empty for shares and scores. ``digits``: decimals that are shown. ``bounds``: the smallest and the
    largest value that it can take; pooled intervals are clipped to them. ``description``: what it measures, in one sentence.
    ``section``: the section of the board whose table shows it, for metrics of other packages; empty for no table. isoalign's
    own tables are laid out in report/board/columns.py.
    """

    name: str
    title: str
    higher_is_better: bool | None = None
    unit: str = ""
    digits: int = 3
    bounds: tuple[float, float] = (0.0, 1.0)
    description: str = ""
    section: str = ""

    @property
    def heading(self) -> str:
        """Title, unit and direction, as a column's heading: "KL, nats", "Toxicity ↓"."""
        return with_arrow(", ".join(filter(None, [self.title, self.unit])), self.higher_is_better)


def with_arrow(title: str, higher_is_better: bool | None) -> str:
    """A heading that shows which direction is better: "↑" for higher, "↓" for lower, nothing for None."""
    return title if higher_is_better is None else f"{title} {'↑' if higher_is_better else '↓'}"


def gained(gain: Estimate) -> bool:
    """Whether a gain's interval lies above 0."""
    return gain.low is not None and gain.low > 0


def shown(estimate: Estimate) -> str:
    """An estimate as text: value and interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "unknown"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def value_of(estimates: Mapping[str, Estimate], name: str) -> float | None:
    """The value of a metric; None where the metric or its value is missing."""
    return estimates[name].value if name in estimates else None
