"""The SFT base, from which all methods start."""

from typing import ClassVar

from isoalign import Paper, register


@register
class SFT:
    """The shared SFT base without further training: it has no iteration and spends nothing."""

    paper: ClassVar[Paper] = Paper(
        "Ouyang et al.", "Training language models to follow instructions with human feedback", 2022, "2203.02155",
        "section 3.5", family="none", learns_from="nothing: the base, the reference row",
        parity="test_conformance.py: it has no loss here; the base's training is tested in test_fitting.py",
    )  # fmt: skip
