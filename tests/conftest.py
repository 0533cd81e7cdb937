"""Fixtures that the tests share; what they are made of is in workbench.py."""

import gc
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from isoalign.core import runtime

runtime.quiet()  # before torch is imported

import pytest  # noqa: E402
import torch  # noqa: E402

from isoalign.data import assets  # noqa: E402
from isoalign.models import shared_prompts  # noqa: E402
from isoalign.tools.conformance.workbench import tiny  # noqa: E402
from isoalign.training.lab import Lab  # noqa: E402
from isoalign.training.reference_memory import ReferenceMemory  # noqa: E402
from workbench import Bench, SmallDisk, Terminal  # noqa: E402

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that type whole runs over a store that holds the SFT row are slow."""
    for item in items:
        if "shared_store" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


_imported = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """No later collection, of which TRL asks in every run, looks through what libraries and collected tests hold."""
    global _imported
    if len(sys.modules) > _imported + 20:
        gc.collect()
        gc.freeze()
        _imported = len(sys.modules)


@pytest.fixture
def small_disk(tmp_path: Path) -> SmallDisk:
    """Runs a command with a disk of a given size at DISK."""
    place = tmp_path / "disk"
    place.mkdir()

    def run(size: str, command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        words = [word.replace("DISK", str(place)) for word in command]
        mount = f"mount -t tmpfs -o size={size} tmpfs {place} && exec {shlex.join(words)}"
        return subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, env=env)

    if shutil.which("unshare") is None or run("1m", ["true"]).returncode:
        pytest.skip("this system lets no user mount a disk of its own")
    return run


@pytest.fixture
def nothing_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass is made in full: what is remembered, or read once for several rows, is billed in full."""
    monkeypatch.setattr(ReferenceMemory, "outputs", lambda self, rollouts, compute: compute())
    monkeypatch.setattr(shared_prompts, "_continued", lambda body, rollouts: None)


@pytest.fixture(scope="session")
def tiny_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two layers of width 32, prompts of 2 to 7 tokens and answers of 1 to 5."""
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model(tiny_bench: Bench) -> Path:
    """The folder of the tiny model."""
    return tiny_bench.model


@pytest.fixture
def tiny_lab(tiny_bench: Bench) -> Lab:
    """A lab on the tiny model with no limit on what it may spend."""
    return tiny_bench.lab()


@pytest.fixture(scope="session")
def cache() -> Path:
    """The folder of the embedded assets that a run on a model of its own needs, fetched where they are missing."""
    for name in sorted(set(assets.ASSETS) - {"smollm2"}):
        assets.asset_path(name)
    return assets.cache_dir()


@pytest.fixture(scope="session")
def environment(cache: Path) -> dict[str, str]:
    """The environment of a subprocess."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ISOALIGN", "WANDB"))}
    return kept | {"ISOALIGN_CACHE": str(cache), "ISOALIGN_OFFLINE": "1", "COLUMNS": "100"}


@pytest.fixture
def terminal(tmp_path: Path, tiny_model: Path, environment: dict[str, str]) -> Terminal:
    """A terminal with an empty store."""
    return Terminal(tmp_path, tmp_path / "store", tiny_model, dict(environment))


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, environment: dict[str, str]) -> Path:
    """A store in which the SFT row was made: base, annotators, held-out pairs, samples and scores of the base. Copy it."""
    home = tmp_path_factory.mktemp("shared")
    terminal = Terminal(home, home / "store", tiny_model, environment)
    done = terminal(terminal.run("algorithm=sft"))
    assert done.returncode == 0, done.stderr
    return terminal.store


@pytest.fixture
def furnished(terminal: Terminal, shared_store: Path) -> Terminal:
    """A terminal whose store holds the SFT row."""
    shutil.copytree(shared_store, terminal.store)
    return terminal
