"""The check for machines with a GPU, tried on a CPU: what it compares, what it writes, and what it says without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts" / "gpu"))
import agreement
import report
import throughput
import wheels
from compare import TOLERANCE, compare

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


def check(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more
    command = [sys.executable, str(SCRIPT), "--out", str(folder / "out"), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)


def outcome(losses: list[float | None], **bill: int) -> dict[str, Any]:
    return {"losses": losses, "bill": bill, "seconds": 1.0}


def test_without_a_gpu_it_says_so_in_a_line_and_writes_nothing(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu_check: no CUDA device here; try this script with --device cpu\n"
    assert not list(tmp_path.iterdir())


def test_a_bill_must_be_equal_and_losses_within_the_tolerance() -> None:
    near, far = 0.9 * TOLERANCE, 1.1 * TOLERANCE
    assert compare("dpo", outcome([0.5, 0.4], policy=7), outcome([0.5, 0.4 + near], policy=7))["passed"]
    assert not compare("dpo", outcome([0.5, 0.4], policy=7), outcome([0.5, 0.4 + far], policy=7))["passed"]
    assert compare("dpo", outcome([100.0], policy=7), outcome([100 + 50 * TOLERANCE], policy=7))["passed"]  # relative above 1
    assert not compare("dpo", outcome([0.5], policy=7), outcome([0.5], policy=8))["passed"]
    assert not compare("dpo", outcome([0.5], policy=7), outcome([0.5, 0.5], policy=7))["passed"]
    assert not compare("dpo", outcome([None], policy=7), outcome([0.5], policy=7))["passed"]
    assert compare("trl_grpo", outcome([0.1], policy=7), outcome([0.9], policy=7))["passed"]  # draws by itself
    assert not compare("trl_grpo", outcome([0.1], policy=7), outcome([0.1], policy=8))["passed"]
    assert not compare("dpo", {"error": "RuntimeError"}, outcome([0.5]))["passed"]


def test_the_peak_is_that_of_the_card_by_its_full_name_and_unknown_for_others() -> None:
    names = {
        "NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H100 PCIe": 756.0, "NVIDIA H200": 989.4, "NVIDIA A100-SXM4-80GB": 312.0,
        "NVIDIA A10G": 70.0, "NVIDIA A10": 125.0, "NVIDIA L40S": 362.0, "NVIDIA L4": 121.0, "NVIDIA GeForce RTX 4090": 165.2,
    }  # fmt: skip
    assert {name: throughput.peak_of(name) for name in names} == {name: tera * 1e12 for name, tera in names.items()}
    assert throughput.peak_of("Tesla T4") is None


def test_a_page_says_what_failed_and_what_was_not_run() -> None:
    row = compare("ppo", outcome([0.5], policy=7), outcome([0.7], policy=8))
    found = {
        "about": {"card": "Card", "device": "cuda", "memory_gib": 80.0, "versions": {"torch": "2", "trl": None}},
        "commit": "abc", "command": "python x", "date": "2026-01-01", "seconds": 3.2, "passed": False,
        "failed": ["ppo does not agree"], "not_run": ["isoalign run to its end: the time was up"],
        "parts": {"agreement": {"tolerance": TOLERANCE, "methods": {"ppo": row, "kto": {"error": "a|b"}}}, "throughput": {}},
    }  # fmt: skip
    text = report.page(found)
    for line in ("- card: Card, 80.0 GiB", "- versions: torch 2", "- outcome: FAILED", "- failed: ppo does not agree",
                 "- not run: isoalign run to its end: the time was up", "| ppo | DIFFERS | DIFFER | 2.0e-01 | 1.0 | 1.0 |",
                 "| kto | FAILED | a/b | | | |"):  # fmt: skip
        assert f"{line}\n" in text


def test_the_wheels_are_all_that_isoalign_needs_and_not_torch() -> None:
    names = {line.partition("==")[0].lower().replace("_", "-") for line in wheels.closure()}
    assert {
        "trl",
        "hydra-core",
        "omegaconf",
        "antlr4-python3-runtime",
        "aiohttp",
        "evaluate",
        "datasets",
        "wandb",
        "setuptools",
    } <= names
    assert not {name for name in names if name.startswith(("torch", "nvidia", "triton", "sympy"))}


def test_the_bare_part_imports_the_standard_library_alone() -> None:
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import gpu_check; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "isoalign", "numpy", "packaging"} & set(done.stdout.split())
    assert importlib.util.find_spec("packaging")


@pytest.mark.slow
def test_a_method_agrees_with_itself_and_with_no_other_settings(tmp_path: Path) -> None:
    first, second = (agreement.train("ppo", agreement.make_bench(tmp_path / name, "cpu"), tmp_path) for name in "ab")
    row = compare("ppo", first, second)
    assert (row["bill"], row["losses"], row["gap"]) == (True, True, 0.0)
    assert len(first["losses"]) == agreement.STEPS
    assert first["bill"]["policy sample"] > 0
    assert first["bill"]["labels"]
    assert not compare("ppo", first, agreement.train("rloo", agreement.make_bench(tmp_path / "c", "cpu"), tmp_path))["passed"]


@pytest.mark.slow
def test_files_say_what_was_measured_and_how(tmp_path: Path) -> None:
    done = check(tmp_path, "--device", "cpu", "--parts", "throughput")
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip())
    found = json.loads(page.with_suffix(".json").read_text())
    training = found["parts"]["throughput"]["training"]
    assert training["tokens_per_second"] == pytest.approx(4 * (8 + 16) / training["seconds"], rel=0.02)
    assert "--parts throughput" in found["command"]
    assert found["about"]["versions"]["torch"]
    assert (found["failed"], found["not_run"], found["passed"]) == ([], [], True)
    assert "| training, 4 rows, 8 + 16 tokens |" in page.read_text()


@pytest.mark.slow
def test_the_whole_on_a_cpu(tmp_path: Path, cache: Path) -> None:
    done = check(tmp_path, "--device", "cpu", ISOALIGN_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    found = json.loads(Path(done.stdout.strip()).with_suffix(".json").read_text())
    assert len(found["parts"]["agreement"]["methods"]) >= 28
    assert found["parts"]["throughput"]["training"]["tokens_per_second"] > 0
    if "run" in found["parts"]:
        assert found["parts"]["run"]["spent"]["steps"] == 4
    else:  # a slow machine: what did not fit is said
        assert "isoalign run to its end: the time was up" in found["not_run"]
