"""Whether a method did the same on two devices. Imports the standard library alone."""

from __future__ import annotations

from typing import Any

TOLERANCE = 1e-3  # of a loss, absolute below 1 and relative above
OWN_SAMPLES = ("trl_grpo", "trl_online_dpo", "trl_rloo")  # draw answers by the device's own generator


def compare(name: str, device: dict[str, Any], cpu: dict[str, Any]) -> dict[str, Any]:
    """Whether ``bill`` and ``losses`` agree (None where losses can't be compared), and the largest ``gap`` of a loss."""
    if error := device.get("error") or cpu.get("error"):
        return {"passed": False, "error": error}
    bill, same = device["bill"] == cpu["bill"], len(device["losses"]) == len(cpu["losses"])
    pairs = list(zip(device["losses"], cpu["losses"], strict=False))
    finite = all(loss is not None for pair in pairs for loss in pair)
    gap = max((abs(a - b) / max(1.0, abs(b)) for a, b in pairs), default=None) if finite else None
    losses = None if name in OWN_SAMPLES else same and gap is not None and gap <= TOLERANCE
    return {"passed": bill and losses is not False, "bill": bill, "losses": losses, "gap": gap, "device": device, "cpu": cpu}
