"""An estimate as a cell of a table."""

from isoalign.core.records import Estimate


def cell(estimate: Estimate | None, digits: int = 3) -> str:
    """A value with its interval and the number of missing values; a dash if it is missing."""
    if estimate is None:
        return "–"
    missing = f" ({estimate.missing} missing)" if estimate.missing else ""
    if estimate.value is None:
        return f"–{missing}"
    value = _fixed(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return value + missing
    return f"{value} [{_fixed(estimate.low, digits)}, {_fixed(estimate.high, digits)}]{missing}"


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")
