"""The row that all others start from."""

from isoalign import register


@register
class SFT:
    """The shared SFT base as it is: it has no iteration, so it is not trained further and spends nothing."""
