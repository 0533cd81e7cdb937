"""Modules of an algorithm: made under the guard, counted by PyTorch's FLOP counter, charged to their name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from isoalign.core.errors import UserError
from isoalign.core.randomness import own_random_state
from isoalign.models.flop_counter import UNSEEN, Counter
from isoalign.training.guard import METERED
from isoalign.training.meter import Meter
from isoalign.training.session import Session


def make_module(session: Session, counter: PassCounter, name: str, factory: Callable[[int], nn.Module]) -> nn.Module:
    """The module that ``factory`` returns for the policy's hidden size, on the policy's device, with its passes charged.

    Raises UserError for anything but a module, and for a module whose FLOPs cannot be counted.
    """
    with own_random_state():
        torch.manual_seed(_seed_of(session, name))
        module = _call_factory(session, factory)
    if not isinstance(module, nn.Module):
        raise UserError(f"lab.module {name!r}: its factory returned {module!r}, not a torch module")
    module = module.to(session.device)
    _check_owner(session, name, module)
    for part in module.modules():
        if isinstance(part, UNSEEN):
            kind = type(part).__name__
            raise UserError(f"lab.module {name!r}: the FLOPs of {kind} cannot be counted; build it from linear layers")
        counter.attach(name, part)
    return module


def _check_owner(session: Session, name: str, module: nn.Module) -> None:
    """Raises UserError for weights that the optimizer of the policy or of another module trains: both would move them."""
    others = {"the policy": session.policy.inner} | {f"lab.module {other!r}": each for other, each in session.modules.items()}
    own = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    for other, each in others.items():
        if any(id(parameter) in own and parameter.requires_grad for parameter in each.parameters()):
            raise UserError(f"lab.module {name!r} has weights of {other}, so both would train them; make them in one factory")


def _seed_of(session: Session, name: str) -> int:
    """The session's seed for the module that was made first, and one of its own for each other: two heads that start alike
    would learn the same."""
    session.first_module = session.first_module or name
    if name == session.first_module:
        return session.seed
    return int.from_bytes(hashlib.sha256(f"{session.seed}/{name}".encode()).digest()[:7], "big")


def _call_factory(session: Session, factory: Callable[[int], nn.Module]) -> Any:
    """The factory's result. Passes of the module's own parts during construction do not count as unmetered models."""
    guard = session.guard
    before = dict(guard.models) if guard else {}
    module = session.sandboxed(factory, session.policy.width)
    if guard and isinstance(module, nn.Module):
        own = {type(part).__name__ for part in module.modules()}
        guard.models = {name: count for name, count in guard.models.items() if name in before or name not in own}
    return module


class PassCounter:
    """Charges the passes of modules and of their parts; a pass within another is part of that one."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._depth, self._counter, self._fast = 0, Counter(), True

    def attach(self, name: str, part: nn.Module) -> None:
        """Charge the passes of a part to ``name``, by hooks that are plain functions, so that copies of the module keep
        them."""

        def before(*_: Any) -> None:
            self._enter()

        def after(*_: Any) -> None:
            self._leave(name)

        setattr(part, METERED, name)
        part.register_forward_pre_hook(before)
        part.register_forward_hook(after, always_call=True)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._counter = Counter()
            self._counter.__enter__()
            self._fast = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)  # the FLOP counter has no formula for it

    def _leave(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 0:
            torch.backends.mha.set_fastpath_enabled(self._fast)
            self._counter.__exit__(None, None, None)
            self._meter.charge(name, "forward", self._counter.flops)
            if torch.is_grad_enabled():
                self._meter.charge(name, "backward", 2 * self._counter.flops)
