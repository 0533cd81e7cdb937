"""Random state of the process: torch's on every device, numpy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from isoalign.core.devices import device
from isoalign.core.lazy import torch


@contextmanager
def own_random_state() -> Iterator[None]:
    """Context in which every random generator may be seeded or drawn from. Restores all of them afterwards.

    Those of accelerators are put back too: ``torch.manual_seed`` seeds all devices, and a stage may be made in the midst of
    a run, or have been made before it.
    """
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)


def random_states() -> list[Any]:
    """The states of all random generators, as torch.load returns them with weights_only."""
    kind, keys, *rest = np.random.get_state()
    return [random.getstate(), (kind, [int(key) for key in keys], *rest), torch.get_rng_state(), _read()]


def restore_random_states(states: list[Any]) -> None:
    """Restore what `random_states` returned on the same devices."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    _restore(states[3])


def _accelerator() -> tuple[Any, str, int]:
    """The module, type and number of accelerators that this process sees; none of them while it works on a CPU."""
    kind = torch.device(device()).type  # chooses the device first: reading its state initialises it
    module = getattr(torch, kind)
    return module, kind, 0 if kind == "cpu" else module.device_count()


def _read() -> list[torch.Tensor]:
    module, kind, count = _accelerator()
    if kind == "mps":  # has one device, and no argument for it
        return [module.get_rng_state()]
    return [module.get_rng_state(f"{kind}:{number}") for number in range(count)]


def _restore(states: list[torch.Tensor]) -> None:
    module, kind, _ = _accelerator()
    for number, state in enumerate(states):
        module.set_rng_state(state, *([] if kind == "mps" else [f"{kind}:{number}"]))
