"""Weights that the processes of a run hold together, cut by PyTorch's FSDP2 (``torch.distributed.fsdp.fully_shard``).

In a training step each layer's weights are gathered for its pass and freed behind it, and its gradients are summed where the
weights lie; what is outside of the layers is gathered for the whole pass. All processes then make the same passes in the same
order. Everything else, such as sampling, reads weights that are gathered whole for the time it takes, so that each process may
make as many passes as its rows need.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from isoalign.core import world
from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers

T = TypeVar("T")


class Root(nn.Module):
    """What FSDP takes for the outermost module. It may be any work on the model, which has no single forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def run(self, work: Callable[[], T]) -> T:
        """What the work returns."""
        return work()


class Shards:
    """Cuts the weights of ``model``, whose parameters are from then on a process's parts of them.

    ``weights``: these parameters, by name; unlike those of the modules, which FSDP exchanges for gathered ones, they stay.
    ``mesh``: the processes, each with rows of every weight.
    ``copied``: a part of the model of which copies are made. Raises UserError for an architecture that can't be cut.
    """

    def __init__(self, model: nn.Module, copied: nn.Module | None = None) -> None:
        fsdp = torch.distributed.fsdp
        device = next(model.parameters()).device
        self.mesh = mesh = torch.distributed.device_mesh.init_device_mesh(device.type, (world.size(),))
        self._layers = layers_of(model)
        inside = {id(parameter) for part in self._layers for parameter in part.parameters()}
        self._outside = {name for name, parameter in model.named_parameters() if id(parameter) not in inside}
        self._blueprints = {copied: _without_data(copied)} if copied else {}
        self._model = model
        self._root: Any = Root(model)
        self._units: list[Any] = [*self._layers, self._root]
        self._whole = self._stepping = False
        for part in self._layers:
            fsdp.fully_shard(part, mesh=mesh, reshard_after_forward=True)
        fsdp.fully_shard(self._root, mesh=mesh, reshard_after_forward=False)
        for unit in self._units:
            unit.set_gradient_divide_factor(1.0)  # gradients are added up: a loss is a share of the batch's
            unit.set_force_sum_reduction_for_comms(True)
        fsdp.register_fsdp_forward_method(self._root, "run")
        try:
            self._root.run(lambda: None)  # FSDP finds its root by that
        except ValueError as error:
            raise UserError(f"{type(model).__name__} shares weights among its layers; set task.model.shard=false") from error
        self._reset()
        self.weights = dict(model.named_parameters())
        with self.whole():  # gathered weights need gradients as the cut ones do now, while an adapter is on
            pass

    @property
    def stepping(self) -> bool:
        """Whether layers are gathered as they are read, so that all processes must make the same passes."""
        return self._stepping

    def step(self, work: Callable[[], T]) -> T:
        """What the work returns, a loss whose backward pass comes next."""
        self._stepping = True
        try:
            result: T = self._root.run(work)
        finally:
            self._stepping = False
        return result

    @contextmanager
    def whole(self, lend: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[None]:
        """Context in which every process holds all weights, those within ``lend()``, for passes without gradients. Within a
        step nothing changes."""
        if self._whole or self._stepping:
            yield
            return
        with lend():
            self._whole = True
            try:
                for unit in self._units:
                    unit.set_reshard_after_forward(False, recurse=False)
                    unit.unshard()
                yield
            finally:
                self._reset()
                self._whole = False

    def _reset(self) -> None:
        """Free what is gathered."""
        self._root.reset_iter_state()
        for unit in self._units[:-1]:
            unit.set_reshard_after_forward(True, recurse=False)

    @contextmanager
    def lent(self, others: Mapping[str, Tensor]) -> Iterator[None]:
        """Context in which the model has other weights, cut as its own are. Not to be entered while weights are whole."""
        self._exchange(others)
        gathered = dict(self._model.named_parameters()) if self._stepping else {}
        kept = {name: gathered[name].data for name in others if name in gathered and name in self._outside}
        for name in kept:
            gathered[name].data = full(self.weights[name].detach())
        try:
            yield
        finally:
            for name, data in kept.items():
                gathered[name].data = data
            self._exchange(others)

    def _exchange(self, others: Mapping[str, Tensor]) -> None:
        """Let own weights and others trade places; FSDP keeps the memory of its own."""
        for name, other in others.items():
            own, given = part_of(self.weights[name].detach()), part_of(other)
            before = own.clone()
            own.copy_(given)
            given.copy_(before)

    def copy_of(self, part: nn.Module) -> nn.Module:
        """A copy of a part of the model whose weights are whole; FSDP lets no module of its own be copied."""
        blueprint = self._blueprints[part]
        with self.whole():
            pairs = zip(blueprint.parameters(), part.parameters(), strict=True)
            filled = {id(b): nn.Parameter(p.detach().clone(), requires_grad=b.requires_grad) for b, p in pairs}
        return copy.deepcopy(blueprint, filled)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model of transformers, which are gathered one at a time. Raises UserError if it has none."""
    kind = transformers.modeling_layers.GradientCheckpointingLayer
    layers: list[nn.Module] = [part for part in model.modules() if isinstance(part, kind)]
    if layers:
        return layers
    raise UserError(f"{type(model).__name__} has no layers that can be cut; set task.model.shard=false")


def _without_data(module: nn.Module) -> nn.Module:
    """A copy whose weights take no memory."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in module.parameters()
    }
    return copy.deepcopy(module, empty)


def part_of(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; all of one that is not cut."""
    return tensor.to_local() if is_cut(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def is_cut(tensor: object) -> bool:
    """Whether a tensor is held by several processes, each a part of it."""
    return hasattr(tensor, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor, in every process."""
    return tensor.full_tensor() if is_cut(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def as_cut(value: Any, like: Tensor) -> Any:
    """A whole tensor, the same in every process, cut as another one of its shape is; anything else as it is."""
    if is_cut(value) or not is_cut(like) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    place: Any = like
    return torch.distributed.tensor.distribute_tensor(
        value.to(like.device), place.device_mesh, place.placements, src_data_rank=None
    )


def map_tree(work: Callable[[Any], Any], value: Any) -> Any:
    """Dicts and lists with ``work(each)`` in the place of each value in them."""
    if isinstance(value, dict):
        return {name: map_tree(work, each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tree(work, each) for each in value)
    return work(value)


def whole_tree(value: Any) -> Any:
    """Dicts and lists whose cut tensors are whole, on the CPU of the first process, for files; in the others they are None."""

    def gathered(each: Any) -> Any:
        if not is_cut(each):
            return each
        found = full(each)
        return None if world.rank() else found.cpu()

    return map_tree(gathered, value)
