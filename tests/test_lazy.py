"""Libraries under names that load nothing until they are used."""

import importlib
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from isoalign.core import lazy
from isoalign.core.lazy import LazyModule


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LazyModule:
    """A library that takes a while to import, counts how often it is, and has a submodule that it does not import."""
    package = tmp_path / "slowly"
    package.mkdir()
    text = "import time\nwith open(__file__ + '.count', 'a') as file:\n    file.write('x')\ntime.sleep(0.2)\n"
    (package / "__init__.py").write_text(text + "class Thing:\n    pass\n")
    (package / "part").mkdir()
    (package / "part" / "__init__.py").touch()
    (package / "part" / "deep.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("slowly", "slowly.part", "slowly.part.deep"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return LazyModule("slowly")


def test_it_is_imported_at_first_use_and_hands_out_the_real_thing(slow: LazyModule) -> None:
    assert "slowly" not in sys.modules
    thing = slow.Thing()
    real = importlib.import_module("slowly")
    assert type(thing) is real.Thing
    assert pickle.loads(pickle.dumps(slow)) is real
    assert slow.part.deep.VALUE == 3
    for module, name in ((slow, "slowly"), (slow.part.deep, "slowly.part.deep")):
        with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
            _ = module.nothing


def test_what_a_test_puts_in_the_library_is_what_is_seen(slow: LazyModule, monkeypatch: pytest.MonkeyPatch) -> None:
    assert slow.Thing
    monkeypatch.setattr("slowly.Thing", 5)
    assert slow.Thing == 5
    slow.Thing = 6
    assert importlib.import_module("slowly").Thing == 6


def test_threads_wait_until_it_is_whole_and_import_it_once(slow: LazyModule) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: slow.Thing, range(8)))
    assert len(found) == 1
    assert Path(f"{importlib.import_module('slowly').__file__}.count").read_text() == "x"


def test_a_library_that_is_not_there_says_so_when_it_is_used() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'"):
        _ = LazyModule("nowhere").anything


def test_all_of_them_exist_and_their_names_load_none() -> None:
    code = "import sys, json; from isoalign.core import lazy; print(json.dumps([n for n in lazy.__all__ if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    assert all(importlib.util.find_spec(name) for name in lazy.__all__ if name not in ("vllm", "trackio"))  # the user's own
