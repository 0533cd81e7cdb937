"""The quote of a step: its loss is called once on zeros, for its cost alone, and what it changes there must not stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from isoalign.core.errors import UserError
from isoalign.training.session import Session


@contextmanager
def without_trace(session: Session) -> Iterator[None]:
    """Context in which a loss is quoted. Buffers of modules, such as the means of a BatchNorm, are put back afterwards, those
    of modules that it made too.

    Raises UserError if it drew random numbers or wrote ``lab.state``.
    """
    buffers = _buffers(*session.modules.values())
    adopt, state, generator = session.adopt_module, repr(session.state), session.generator.get_state()

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
    if repr(session.state) != state or not torch.equal(session.generator.get_state(), generator):
        raise UserError(
            "a loss draws random numbers or writes lab.state, and it is called twice, first to quote its cost: do so in "
            "iteration()"
        )


def _buffers(*modules: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    """The buffers of modules: whose they are, their name, themselves and a copy."""
    parts = [part for module in modules for part in module.modules()]
    return [(part, *each, each[1].clone()) for part in parts for each in part.named_buffers(recurse=False)]
