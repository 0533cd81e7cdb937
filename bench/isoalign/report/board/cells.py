"""A figure with its interval as a table shows it."""

from isoalign.core.records import Estimate
from isoalign.report.board.columns import Column


def cell(estimate: Estimate | None, column: Column) -> str:
    """A figure with its interval, and how many values it lacks; a dash where it is missing."""
    if estimate is None:
        return "–"
    missing = f" ({estimate.missing} missing)" if estimate.missing else ""
    if estimate.value is None:
        return f"–{missing}"
    value = _fixed(estimate.value, column.digits)
    if estimate.low is None or estimate.high is None:
        return value + missing
    return f"{value} [{_fixed(estimate.low, column.digits)}, {_fixed(estimate.high, column.digits)}]{missing}"


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")
