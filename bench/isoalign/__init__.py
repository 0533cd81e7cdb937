"""isoalign: same base, same feedback, same compute; only the alignment method differs.

The names below are all that an algorithm in baselines/, or in a package of its own, imports. Each is loaded when it is first
used, so that importing a part of isoalign that needs no torch loads none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoalign.core.batches import Batch, Labels, Pairs, Prompts, Rollouts, Step, joined
    from isoalign.models.language import Outputs
    from isoalign.training import trl
    from isoalign.training.lab import Lab
    from isoalign.training.provenance import Conditions, Needs, Paper, Rows, Scalars
    from isoalign.training.registry import register

__all__ = [
    "Batch", "Conditions", "Lab", "Labels", "Needs", "Outputs", "Pairs", "Paper", "Prompts", "Rollouts", "Rows", "Scalars",
    "Step",
    "joined", "register", "trl",
]  # fmt: skip

_HOMES = (
    dict.fromkeys(("Batch", "Labels", "Pairs", "Prompts", "Rollouts", "Step", "joined"), "isoalign.core.batches")
    | {
        "Lab": "isoalign.training.lab",
        "Outputs": "isoalign.models.language",
        "register": "isoalign.training.registry",
    }
    | dict.fromkeys(("Conditions", "Needs", "Paper", "Rows", "Scalars"), "isoalign.training.provenance")
)


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name == "trl":
        return importlib.import_module("isoalign.training.trl")
    if name not in _HOMES:
        raise AttributeError(f"module 'isoalign' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
