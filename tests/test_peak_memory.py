"""Peak memory by storages: what is counted, that fake tensors count as real ones, and how much the passes of a Llama take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from isoalign.core.peak_memory import GIB, PeakMemory

sys.path.append(str(Path(__file__).parents[1] / "scripts" / "benchmarks"))
import memory as script

TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "vocab_size": 4096, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(params=[False, True], ids=["real", "fake"])
def tensors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Real tensors, then fake ones."""
    if not request.param:
        yield
        return
    with FakeTensorMode():
        yield


@pytest.mark.usefixtures("tensors")
def test_a_storage_counts_once_and_as_long_as_it_lives() -> None:
    weight = torch.zeros(256)  # 1024 bytes, there before
    with PeakMemory() as memory:
        first = torch.ones(256)
        assert memory.current == 1024
        view, same = weight.view(16, 16), first[:8]  # views
        first += 1  # in place
        assert memory.current == 1024
        second = torch.cat([first, weight])
        assert (memory.current, memory.peak) == (3072, 3072)
        del second
        assert (memory.current, memory.peak) == (1024, 3072)
        del first
        assert memory.current == 1024  # a view holds it
        del same
        assert memory.current == 0
    assert (memory.peak, view.shape) == (3072, (16, 16))


@pytest.mark.usefixtures("tensors")
def test_what_autograd_keeps_counts_until_the_backward_pass() -> None:
    weight = torch.zeros(256, requires_grad=True)
    with PeakMemory() as memory:
        loss = weight.exp().exp().sum()  # exp keeps its result: two of 1024 bytes, and 4 of the sum
        assert memory.current == 2052
        loss.backward()
        del loss
        assert memory.current == 1024  # the gradient
    assert memory.peak == 2052 + 4 + 1024  # beside the gradient of the loss one product at a time, the sum's being a view


def test_numbers_of_fake_tensors_are_zeros_of_their_type() -> None:
    with FakeTensorMode(), PeakMemory():
        assert torch.ones(2).tolist() == [0.0, 0.0]
        assert torch.ones((), dtype=torch.long).item() == 0
        assert not torch.ones(3).bool().all()


def measure(name: str, **how: Any) -> int:
    """Bytes at the peak of one of the script's passes on the tiny Llama, 8 rows of 4 + 12 tokens."""
    work, _ = script.PASSES[name]
    return script.peak(work, script.language_model(TINY, **how), script.rollouts(8, 4, 12))


CONSTANTS = {"training step, 16 rows": 50_000}  # bytes that only a pass on fake tensors takes


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", script.PASSES)
def test_a_pass_on_fake_tensors_takes_what_it_takes_on_real_ones(name: str, autocast: bool) -> None:
    real = measure(name, autocast=autocast)
    with FakeTensorMode():
        pretended = measure(name, autocast=autocast)
    assert 0 <= pretended - real <= CONSTANTS.get(name, 0)


LOGITS = 8 * 12 * 4096 * 4  # bytes of the fp32 logits [8, 12, 4096]


@pytest.mark.parametrize(("name", "most"), [("training step, 16 rows", 3.5), ("log-probabilities, 64 rows", 3.0),
                                           ("scoring, 64 rollouts", 8.0)])  # fmt: skip
def test_passes_take_no_more_than_a_few_times_the_logits(name: str, most: float) -> None:
    with FakeTensorMode():
        assert measure(name) / LOGITS < most


def test_gradient_checkpointing_takes_less() -> None:
    deep = TINY | {"num_hidden_layers": 8, "vocab_size": 64}
    with FakeTensorMode():
        with_it, without = (
            script.peak(script.train, script.language_model(deep, checkpointing=how), script.rollouts(8, 4, 60))
            for how in (True, False)
        )
    assert with_it < 0.5 * without


def test_the_table_has_the_shapes_of_llama() -> None:
    with FakeTensorMode():
        sizes = [sum(p.numel() for p in script.language_model(each).inner.parameters()) for each in script.LLAMAS.values()]
    assert sizes == [1_235_814_400, 8_030_261_248]  # as on their cards
    assert sizes[0] * 4 / GIB == pytest.approx(4.6, abs=0.01)
