"""Rules for what a model's parameters cost for each token of a pass, in multiply-adds. What no rule covers is refused.

- A linear layer (LoRA's too), a router and a convolution over time cost one for each weight.
- Experts cost their weights x experts applied to a token / experts. So does LoRA on them, although PEFT multiplies out the
  update of all experts in every pass.
- A block-diagonal gate (RG-LRU) costs one for each weight, a selective scan (Mamba 1) one for each element of its state: the
  product that reads it. What is computed element by element is free, as in PyTorch's counter.
- Embeddings are free, and so are vectors: norms, biases, scales.

Scans in chunks (Mamba 2, gated delta networks) and linear attention have no rule: kernels differ in the work that they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from isoalign.core.errors import UserError
from isoalign.core.lazy import transformers
from isoalign.models.flop_counter import DryRun

LENGTH = 8  # tokens of the shortest dry run: more than the kernels of convolutions, to which short rows are padded


@dataclass
class Observed:
    """What dry runs show: FLOPs for each pair of a token and its context (``pair``); by name, how many experts a module
    applies to a token (``experts``), and the modules whose input needs no gradient (``first``)."""

    pair: int = 0
    experts: dict[str, int] = field(default_factory=dict)
    first: set[str] = field(default_factory=set)


_OBSERVED: dict[Any, Observed] = {}


@dataclass(frozen=True)
class Weights:
    """Multiply-adds for each token: of the model itself, of LoRA, and of those of both whose input needs no gradient."""

    body: int
    adapter: int
    first: int


def observe(model: Any) -> Observed:
    """Read off dry runs of three lengths what parameters do not tell; nothing is computed, whatever the model's size.

    A pass of n tokens costs a + bn + cn². The second difference gives c, which is attention's alone and the same for every
    implementation: full, not causal, not windowed, as kernels compute it. Models of one configuration are run once.
    """
    parameters = tuple((name, each.shape, each.requires_grad) for name, each in model.named_parameters())
    key = type(model), model.config.to_json_string(), parameters
    if key not in _OBSERVED:
        observed = Observed()
        with ExitStack() as stack:
            for name, module in model.named_modules():
                hook = module.register_forward_pre_hook(_observer(name, observed), with_kwargs=True)
                stack.callback(hook.remove)
            once = _dry_run(model, LENGTH)
        twice, thrice = _dry_run(model, 2 * LENGTH), _dry_run(model, 3 * LENGTH)
        observed.pair = (thrice - 2 * twice + once) // (2 * LENGTH**2)
        _OBSERVED[key] = observed
    return _OBSERVED[key]


def weights_of(model: Any, head: nn.Module | None, observed: Observed) -> Weights:
    """Multiply-adds for each token without the head, by the rules. A UserError names a parameter that no rule covers."""
    body = adapter = first = 0
    modules = dict(model.named_modules())
    layers = getattr(model.config.get_text_config(), "layer_types", None) or ()
    if "linear_attention" in layers and not any(map(_is_recurrent, modules.values())):
        raise _refusal(model, "no rule covers its layers of linear attention")
    for path, module in modules.items():
        if module is head or ".original_module" in path:  # PEFT trains a copy of it
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            work = _work(module, leaf, parameter, observed.experts.get(path))
            if work is None:
                shape = "x".join(map(str, parameter.shape))
                raise _refusal(model, f"no rule covers its parameter {path}.{leaf} ({type(module).__name__}, {shape})")
            if ".lora_" in path:
                work = _on_experts(work, path.partition(".lora_")[0], modules, observed)
            if ".lora_" in path or ".modules_to_save" in path:
                adapter += work
            else:
                body += work
            first += work * (path in observed.first)
    return Weights(body, adapter, first if adapter else 0)


def _work(module: nn.Module, leaf: str, parameter: torch.Tensor, experts: int | None) -> int | None:
    """Multiply-adds of one parameter for each token, None without a rule. ``experts``: how many are applied to a token."""
    kind, size, dim = type(module).__name__, parameter.numel(), parameter.dim()
    if leaf == "A_log":  # a matrix [width, state] in Mamba 1, a vector where the scan goes by heads and in chunks
        return size if dim == 2 else None
    if isinstance(module, nn.Embedding) or leaf.endswith("bias"):
        return 0
    linear = isinstance(module, nn.Linear | transformers.pytorch_utils.Conv1D) or "Router" in kind
    if (linear and dim == 2) or isinstance(module, nn.Conv1d):
        return size
    if size == max(parameter.shape, default=1):
        return 0
    if kind.endswith("Rglru"):
        return size
    if kind.endswith("Experts") and dim == 3 and experts is not None:
        return size // len(parameter) * experts
    return None


def _is_recurrent(module: nn.Module) -> bool:
    """Whether a module keeps a state, for which there is a rule or a refusal of its own."""
    return hasattr(module, "A_log") or type(module).__name__.endswith("Rglru")


def _on_experts(work: int, path: str, modules: dict[str, nn.Module], observed: Observed) -> int:
    """The work of LoRA weights below the module ``path``, less where this is PEFT's wrapper of a parameter of experts."""
    count = getattr(modules[path], "num_experts", 1)
    inner = path
    while inner not in observed.experts and f"{inner}.base_layer" in modules:
        inner += ".base_layer"
    return work // count * observed.experts[inner] if count > 1 and inner in observed.experts else work


def _observer(name: str, observed: Observed) -> Callable[..., None]:
    """A hook that notes what a module is given: tokens and, after these, the indices of their experts."""

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        if not given:
            return
        if not given[0].requires_grad:
            observed.first.add(name)
        if type(module).__name__.endswith("Experts"):
            rows = given[0].numel() // given[0].shape[-1]
            indices = [each.shape[-1] for each in given if not each.is_floating_point()]
            observed.experts[name] = rows * (indices[0] if indices else 1) // LENGTH

    return note


def _dry_run(model: Any, length: int) -> int:
    """FLOPs of a forward pass of one row on tensors that have shapes and no values.

    Those of the meta device are fast. Where nothing can be computed for it (PEFT's autocast), fake ones of a CPU do.
    """
    with suppress(Exception):
        return _run_hollow(model, length, "meta", nullcontext())
    try:
        return _run_hollow(model, length, "cpu", FakeTensorMode(allow_non_fake_inputs=True))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise _refusal(model, f"its pass cannot be run without values: {reason}") from error


def _run_hollow(model: Any, length: int, device: str, mode: AbstractContextManager[Any]) -> int:
    counted = DryRun()
    recorded = torch.inference_mode(False), torch.enable_grad()  # in inference mode attention is not seen by a dispatch mode
    with _unchanged(model), uncounted(), recorded[0], recorded[1], mode, torch.device(device), counted:
        model.eval()  # without dropout
        inputs = {"input_ids": torch.zeros(1, length, dtype=torch.long)}
        # tied weights are replaced one by one: told to tie them, torch does not put back those of a module that is used twice
        torch.func.functional_call(model, dict(_hollow_tensors(model)), kwargs=inputs, tie_weights=False)
    return counted.flops


def _hollow_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """A tensor without values for each parameter and buffer of each module, by name; floats are of one type, which a product
    needs and autocast sees to in a true pass."""
    for path, module in model.named_modules():
        for leaf, each in module.named_parameters(path, recurse=False):
            yield leaf, nn.Parameter(torch.empty(each.shape), each.requires_grad)
        for leaf, each in module.named_buffers(path, recurse=False):
            yield leaf, torch.empty(each.shape, dtype=torch.float32 if each.is_floating_point() else each.dtype)


def uncounted() -> AbstractContextManager[Any]:
    """Context in which counters of FLOPs see nothing."""
    return _disable_current_modes()  # type: ignore[no-any-return]


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Context after which modules have the attributes and buffers that they had: some rotary embeddings change theirs."""
    before = [(vars(module), vars(module).copy(), vars(module)["_buffers"].copy()) for module in model.modules()]
    try:
        yield
    finally:
        for now, attributes, buffers in before:
            now.clear()
            now.update(attributes)
            now["_buffers"].clear()
            now["_buffers"].update(buffers)


def _refusal(model: Any, reason: str) -> UserError:
    name = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
    return UserError(f"the FLOPs of {name} cannot be counted: {reason}; choose a model of another architecture")
