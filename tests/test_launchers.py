"""Sweeps by Hydra's launchers, with what they launch by: every job comes through once, on whatever node, or is told as failed.

What is not installed is skipped, so CI runs submitit's alone; test_stopping.py has joblib's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench import COMMAND, Terminal

pytestmark = pytest.mark.slow
SWEEP = ("-m", "algorithm=dpo", "seed=0,1", "budget.flops=6e9,0")  # four jobs, of which two are refused
BIN = Path(sys.executable).parent


def needs(*modules: str) -> None:
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def until(true: Callable[[], Any], seconds: float = 120) -> None:
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last
        time.sleep(0.2)


def states(terminal: Terminal) -> list[str]:
    done = terminal([COMMAND, "status", "results", "--json"])
    return sorted(each["state"] for each in json.loads(done.stdout))


def whole(terminal: Terminal, done: subprocess.CompletedProcess[str]) -> None:
    """Both seeds have a card, both refused jobs are told, and the store is whole."""
    assert done.returncode == 1, done.stderr
    assert "2 of the sweep's runs failed: dpo seed 0, dpo seed 1" in done.stderr
    assert sorted(json.loads(card.read_text())["seed"] for card in terminal.home.glob("results/nano/*.json")) == [0, 1]
    assert states(terminal) == ["done", "done", "failed", "failed"]
    checked = terminal([COMMAND, "store", "verify", "--store", str(terminal.store)])
    assert checked.returncode == 0, checked.stdout
    assert not list(terminal.store.glob(".work-*"))


def test_a_sweep_by_submitit_on_one_machine(furnished: Terminal) -> None:
    needs("hydra_plugins.hydra_submitit_launcher")
    whole(furnished, furnished(furnished.run(*SWEEP, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20")))


# -- SLURM: the daemons of one node, by whoever may start them -------------------------------------------------------------

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={ctld}
SlurmdPort={slurmd}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/ctld.pid
SlurmdPidFile={home}/d.pid
SlurmctldLogFile={home}/ctld.log
SlurmdLogFile={home}/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(furnished: Terminal) -> Iterator[Terminal]:
    """A terminal of a cluster of one node."""
    needs("hydra_plugins.hydra_submitit_launcher")
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: apt install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("only root may start slurmd")
    home, host = furnished.home / "slurm", socket.gethostname().partition(".")[0]
    for folder in (home, home / "state", home / "spool"):
        folder.mkdir(mode=0o755)
    (home / "key").write_bytes(os.urandom(1024))
    (home / "key").chmod(0o400)
    conf = SLURM_CONF.format(home=home, host=host, ctld=free_port(), slurmd=free_port(), cpus=os.cpu_count())
    (home / "slurm.conf").write_text(conf)
    furnished.env["SLURM_CONF"] = str(home / "slurm.conf")
    places = [f"--{name}={home}/munge.{name.partition('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    daemons = []
    try:
        for command in (
            ["munged", "-F", "--force", f"--key-file={home}/key", *places], ["slurmctld", "-D", "-c"], ["slurmd", "-D"],
        ):  # fmt: skip
            with (home / f"{command[0]}.out").open("w") as out:
                daemons.append(subprocess.Popen(command, env=furnished.env, stdout=out, stderr=out, start_new_session=True))
        until(lambda: "idle" in furnished(["sinfo", "-h", "-o", "%T"]).stdout)
        yield furnished
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def test_a_sweep_on_slurm(slurm: Terminal) -> None:
    whole(slurm, slurm(slurm.run(*SWEEP, "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20")))


# -- ray: two nodes, of which one is killed --------------------------------------------------------------------------------


@pytest.fixture
def ray(furnished: Terminal) -> Iterator[tuple[Terminal, str, list[subprocess.Popen[bytes]]]]:
    """A terminal, the address of a cluster of two nodes of one processor each, and their processes."""
    needs("hydra_plugins.hydra_ray_launcher", "ray")
    furnished.env["RAY_worker_niceness"] = "0"  # 15 by default, which on a busy machine is never
    address, nodes = f"127.0.0.1:{free_port()}", []
    for words in (["--head", f"--port={address.partition(':')[2]}"], [f"--address={address}"]):
        command = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--include-dashboard=false", *words]
        command = command if "--head" in words else [word for word in command if "dashboard" not in word]
        out = (furnished.home / f"node-{len(nodes)}").open("w")
        nodes.append(subprocess.Popen(command, env=furnished.env, stdout=out, stderr=out, start_new_session=True))
        until(lambda: subprocess.run([str(BIN / "ray"), "status", f"--address={address}"], env=furnished.env,
                                     capture_output=True, text=True).stdout.count("node_") >= len(nodes))  # fmt: skip
    yield furnished, address, nodes
    for node in nodes:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def test_a_sweep_on_ray_of_which_a_node_is_killed(ray: tuple[Terminal, str, list[subprocess.Popen[bytes]]]) -> None:
    terminal, address, nodes = ray
    cluster = [f"+hydra.launcher.ray.init.address={address}", "+hydra.launcher.ray.init.object_store_memory=null"]
    typed = terminal.run(*SWEEP, "hydra/launcher=ray", *cluster, "+hydra.launcher.ray.remote.num_cpus=1")
    sweep = terminal.start(typed)
    until(lambda: len(list(terminal.store.glob(".work-train-*"))) >= 1 or sweep.poll() is not None, 300)
    os.killpg(nodes[1].pid, signal.SIGKILL)
    out, err = sweep.communicate(timeout=600)
    whole(terminal, subprocess.CompletedProcess(sweep.args, sweep.returncode, out, err))
