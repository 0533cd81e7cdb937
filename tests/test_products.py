"""Products by oneDNN are PyTorch's own to float error, for every layout, and what they do not cover is left to PyTorch."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from isoalign.core import products, runtime

LARGE, SMALL = (48, 64, 80), (3, 4, 5)


def layouts(rows: int, columns: int, generator: torch.Generator) -> dict[str, Tensor]:
    """One matrix each in every way that it can lie in memory."""
    wide = torch.randn(2 * rows + 4, 2 * columns + 4, generator=generator)
    return {
        "rows": wide[:rows, :columns].clone(),
        "columns": wide[:rows, :columns].t().clone().t(),
        "slice": wide[3 : rows + 3, 5 : columns + 5],
        "slice of columns": wide.t().clone()[2 : columns + 2, 1 : rows + 1].t(),
        "every other": wide[4::2, 4::2],
        "one number": torch.full((), 0.3).expand(rows, columns),
        "one row": wide[:1, :columns].expand(rows, columns),
        "one column": wide[:rows, :1].expand(rows, columns),
        "far": wide[:rows, :columns].clone() * 1e30,
        "infinite": wide[:rows, :columns].clone().index_fill(0, torch.tensor([1]), torch.inf),
        "not a number": wide[:rows, :columns].clone().index_fill(1, torch.tensor([2]), torch.nan),
    }


@pytest.mark.parametrize(("m", "k", "n"), [LARGE, SMALL, (1, 512, 512), (512, 1, 512), (0, 4, 4), (4, 0, 4)])
def test_products_are_those_of_double_precision_in_every_layout(m: int, k: int, n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, a in layouts(m, k, generator).items() if min(m, k) > 2 else [("rows", torch.randn(m, k, generator=generator))]:
        for other, b in layouts(k, n, generator).items() if k > 2 else [("rows", torch.randn(k, n, generator=generator))]:
            bias = torch.randn(n, generator=generator)
            size = a.double().abs() @ b.double().abs() + bias.double().abs()
            own = torch.ops.aten.mm.out(a, b, out=torch.empty(m, n))
            real = own.isfinite() & (a.double() @ b.double()).float().isfinite()
            for mine, true in (
                (products.product(a, b), a.double() @ b.double()),
                (products.product_and_sum(bias, a, b), bias.double() + a.double() @ b.double()),
            ):
                assert mine.shape == (m, n)
                assert mine.is_contiguous()
                assert ((mine.double() - true).abs() <= 3e-6 * size)[real].all(), (name, other)
                assert torch.equal(mine.isfinite(), own.isfinite()), (name, other)


def test_other_types_factors_and_shapes_are_pytorchs_own_and_so_are_its_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(shape, generator=generator) for shape in ((64, 64), (64, 64), (64, 64)))
    for kind in (torch.bfloat16, torch.float64, torch.int64):
        assert torch.equal(
            products.product(a.to(kind), b.to(kind)), torch.ops.aten.mm.out(a.to(kind), b.to(kind), out=a.to(kind))
        )
    expected = 2 * c.double() + 3 * a.double() @ b.double()
    torch.testing.assert_close(products.product_and_sum(c, a, b, beta=2, alpha=3).double(), expected, atol=1e-3, rtol=0)
    for sums in (c, c[:, :1], c[:1], c[0, 0], c[0]):
        torch.testing.assert_close(products.product_and_sum(sums, a, b), sums + a @ b, atol=1e-4, rtol=0)
    for bad in (torch.randn(3, 4), torch.randn(64, 64).double()):
        with pytest.raises(RuntimeError, match=r"cannot be multiplied|same dtype"):
            products.product(a, bad)


def test_weights_laid_out_once_give_the_same_products_and_none_of_old_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "speed_up", lambda: True)
    torch.manual_seed(0)
    layer, other, rows = torch.nn.Linear(64, 96), torch.nn.Linear(64, 96), torch.randn(40, 64)
    with torch.no_grad(), products.packed(layer, 40):
        assert layer.weight.data_ptr() in products._packed
        for count in (40, 17):  # rows that have ended leave
            for weight in (layer.weight, other.weight, layer.weight[:48], layer.weight[:, :32]):
                some = rows[:count, : weight.shape[1]]
                true = some.double() @ weight.t().double()
                torch.testing.assert_close(products.product(some, weight.t()).double(), true, atol=1e-5, rtol=0)
        layer.weight.mul_(2)
        torch.testing.assert_close(products.product(rows, layer.weight.t()), rows @ layer.weight.t(), atol=1e-5, rtol=0)
    assert not products._packed
    large, half = torch.nn.Linear(2**13, 2**13 + 1, device="meta"), torch.nn.Linear(64, 96).bfloat16()
    for module, count in ((layer, products.FEW + 1), (large, 8), (half, 8)):
        with products.packed(module, count):
            assert not products._packed


IN_A_PROCESS = """
import hashlib, sys
from isoalign.core import products, runtime
runtime.quiet()
import torch
if sys.argv[1] == "fast":
    runtime.threads(int(sys.argv[2]))
    assert products.speed_up() == (sys.argv[3] == "True")
torch.manual_seed(0)
layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 64, bias=False))
rows = torch.randn(5, 33, 64, requires_grad=True)
with torch.autocast("cpu", torch.bfloat16, enabled=False):
    layers(rows).square().sum().backward()
gradients = [rows.grad, *(p.grad for p in layers.parameters())]
print(*[round(float(g.double().abs().sum()), 3) for g in gradients])
print(hashlib.md5(b"".join(g.numpy().tobytes() for g in gradients)).hexdigest())
"""


def test_gradients_agree_with_pytorchs_own_and_do_not_depend_on_threads() -> None:
    def run(*words: str) -> tuple[list[float], str]:
        done = subprocess.run([sys.executable, "-c", IN_A_PROCESS, *words], capture_output=True, text=True, check=True)
        assert "Overriding" not in done.stderr
        numbers, digest = done.stdout.split("\n")[:2]
        return [float(number) for number in numbers.split()], digest

    worth = str(products._is_worth_it())
    own, one, two = run("own"), run("fast", "1", worth), run("fast", "2", worth)
    assert own[0] == pytest.approx(one[0], rel=1e-5)
    assert one == two


def test_a_run_takes_the_faster_products_where_the_processor_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not products._is_worth_it()
    called = []
    monkeypatch.setattr(products, "speed_up", lambda: called.append(1))
    runtime.threads(0)
    assert called
