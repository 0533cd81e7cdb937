"""Which device a process takes. The GPUs are pretended: their number follows from what the process may see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isoalign.core import devices
from isoalign.core.errors import UserError
from workbench import Terminal, complaint

PROCESS = """
import os, sys, torch
visible = lambda: [w for w in os.environ.get("CUDA_VISIBLE_DEVICES", sys.argv[2]).split(",") if w]
torch.cuda.device_count = lambda: len(visible())
from isoalign.core import devices
from isoalign.core.errors import UserError
try:
    print(devices.use(sys.argv[1]), os.environ.get("CUDA_VISIBLE_DEVICES"), devices.device(), flush=True)
except UserError as error:
    print(error, flush=True)
sys.stdin.read()
"""
Start = Callable[..., tuple[str, subprocess.Popen[str]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that chooses a device, on a machine of two GPUs, and lives until the test lets it go."""
    running: list[subprocess.Popen[str]] = []

    def begin(wanted: str = "auto", **environment: str) -> tuple[str, subprocess.Popen[str]]:
        pipe = subprocess.PIPE
        env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        process = subprocess.Popen([sys.executable, "-c", PROCESS, wanted, "0,1"], stdin=pipe, stdout=pipe, text=True,
                                   env=env | {"TMPDIR": str(tmp_path)} | environment)  # fmt: skip
        running.append(process)
        assert process.stdout
        return process.stdout.readline().strip(), process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_processes_take_different_gpus_and_see_their_own_alone_and_share_the_one_with_the_fewest(start: Start) -> None:
    first, holder = start()
    second, _ = start()
    assert (first, second) == ("cuda 0 cuda", "cuda 1 cuda")
    shared, _ = start("cuda:1")  # asked for by name, so two hold it
    assert shared == "cuda 1 cuda"
    fewest, _ = start()
    assert fewest == "cuda 0 cuda"  # two each
    holder.kill()
    holder.communicate()
    freed, _ = start()
    assert freed == "cuda 0 cuda"


def test_what_the_user_hides_stays_hidden_and_a_cpu_sees_no_gpu(start: Start) -> None:
    assert start(CUDA_VISIBLE_DEVICES="1,0")[0] == "cuda 1 cuda"
    assert start(CUDA_VISIBLE_DEVICES="1")[0] == "cuda 1 cuda"  # the only one it may see, shared
    assert start("cpu")[0] == "cpu  cpu"


def test_a_device_that_is_not_there_is_one_line(start: Start) -> None:
    assert start("cuda:2")[0] == "device=cuda:2 is not there: this machine has cuda, cuda:0, cuda:1, cpu; set device=auto"
    assert start("gpu!")[0] == "device=gpu! is no device; use auto, cpu, cuda, cuda:1 or mps"


def test_a_device_that_is_not_there_ends_a_run_before_any_stage(terminal: Terminal) -> None:
    line = complaint(terminal(terminal.run("algorithm=dpo", "device=xpu")))
    assert "device=xpu is not there: this machine has" in line
    assert not terminal.store.exists()


def test_one_of_several_processes_is_refused_where_they_share_nothing_or_were_not_launched(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2"):
        devices.use("cpu")
    terminal.env["WORLD_SIZE"] = "2"
    line = complaint(terminal(terminal.run("algorithm=dpo")))
    assert "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT are not set" in line
    terminal.env["WORLD_SIZE"] = "1"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert devices.use("cpu") == "cpu"
