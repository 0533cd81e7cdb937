"""The quote of a step: its loss is called once on zeros, for its cost alone, and what it changes there must not stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from isoalign.core.batches import Batch
from isoalign.core.errors import UserError
from isoalign.training.session import Session


@contextmanager
def without_trace(session: Session, batch: Batch) -> Iterator[None]:
    """Context in which a loss on a batch is quoted. Buffers of modules, such as the means of a BatchNorm, are put back
    afterwards, those of modules that it made too.

    Raises UserError if it drew random numbers, or wrote ``lab.state`` or its rows.
    """
    buffers = _buffers(*session.modules.values())
    adopt, state, generators = session.adopt_module, repr(session.state), _generators(session)
    rows = _versions(batch)

    def adopt_too(name: str, module: nn.Module) -> None:
        adopt(name, module)
        buffers.extend(_buffers(module))

    session.adopt_module = adopt_too
    try:
        yield
    finally:
        session.adopt_module = adopt
    with torch.no_grad():
        for owner, name, buffer, value in buffers:
            setattr(owner, name, buffer.copy_(value))
    drew = not all(map(torch.equal, generators, _generators(session)))
    if drew or repr(session.state) != state or _versions(batch) != rows:
        raise UserError(
            "a loss draws random numbers (Dropout does) or writes lab.state or its rows, and it is called twice, first to "
            "quote its cost: do so in iteration()"
        )


def _generators(session: Session) -> list[Tensor]:
    """The states of the session's generator and of PyTorch's own, on the CPU and on the session's device."""
    states = [session.generator.get_state(), torch.get_rng_state()]
    if session.device.type not in ("cpu", "meta"):
        states.append(torch.get_device_module(session.device).get_rng_state())
    return states


def _versions(batch: Batch) -> list[int]:
    """How often each column of a batch was written, of batches within too; tensors of inference mode count no writes."""
    columns = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    own = [each._version for each in columns if isinstance(each, Tensor) and not each.is_inference()]
    return own + [version for each in columns if isinstance(each, Batch) for version in _versions(each)]


def _buffers(*modules: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    """The buffers of modules: whose they are, their name, themselves and a copy."""
    parts = [part for module in modules for part in module.modules()]
    return [(part, *each, each[1].clone()) for part in parts for each in part.named_buffers(recurse=False)]
