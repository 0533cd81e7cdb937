"""The SFT base, from which all methods start."""

from isoalign import register


@register
class SFT:
    """The shared SFT base without further training: it has no iteration and spends nothing."""
