"""Accelerators by name: what they compute, hold and cost, each with its source and date."""

from __future__ import annotations

from dataclasses import dataclass

from isoalign.core.errors import UserError, unknown


@dataclass(frozen=True)
class Accelerator:
    """``peak``: dense bf16 FLOPs a second; ``memory`` in bytes; ``price`` in US dollars an hour, None where there is none;
    ``source`` of the price, with its date."""

    name: str
    peak: float
    memory: float
    price: float | None
    source: str


RENT = "the middle of what specialised clouds ask on demand, www.mercatus-ai.com/blog/cloud-gpu-pricing, May 2026"

# Peaks and memory are of NVIDIA's data sheets of the SXM models, without sparsity; that of the CPU was measured.
ACCELERATORS = {
    each.name: each
    for each in (
        Accelerator("a100", 312e12, 80e9, 1.30, RENT),
        Accelerator("h100", 989e12, 80e9, 3.00, RENT),
        Accelerator("h200", 989e12, 141e9, 4.00, RENT),
        Accelerator("cpu", 0.094e12, float("inf"), None, "one thread of a Zen 4 EPYC, fp32, measured in November 2026"),
    )
}


def accelerator(name: str) -> Accelerator:
    """An accelerator by name. Raises UserError for an unknown one."""
    if name not in ACCELERATORS:
        raise UserError(unknown("accelerator", name, list(ACCELERATORS)))
    return ACCELERATORS[name]
