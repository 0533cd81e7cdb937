"""W&B gets a whole mirror of a run, offline, and its trouble is one line on stderr."""

import dataclasses
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate, Point, Sample
from isoalign.evaluation import card
from isoalign.report import trackers
from isoalign.runs import run
from workbench import SmallDisk, Terminal

CARD = Card(
    key="0123456789abcdef",
    task="nano",
    algorithm="dpo",
    config={"beta": 0.1, "api_key": "hunter2"},
    seed=1,
    budget={"flops": 4.5e12},
    spent={"flops": 4.4e12},
    metrics={"kl": Estimate(2.0, 1.5, 2.5, 128), "rm_accuracy": Estimate(None, None, None, 0, missing=7)},
    parents={"sft": "aaaa"},
    versions={"torch": "2.13"},
    command="WANDB_API_KEY=hunter2 isoalign run algorithm=dpo",
)
TEXTS = ["plain", "<img src=x onerror=alert(1)>", "lone \ud800 surrogate", "line\nbreak", "", "名前"]
LOG: list[dict[str, Any]] = [
    {"flops_spent": step * 1e12, "loss": 1 / (step + 1), "reward": float("nan"), "note": "text", "kl": None}
    for step in range(5)
]


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


def sample(prompt: int, draw: int, text: str, kl: float | None = 0.5) -> Sample:
    return Sample(f"p{prompt}", draw, "a prompt", text, [1, 2], -3.0, None, kl, True)


def tables(folder: Path) -> dict[str, Any]:
    found = folder.glob("wandb/offline-run-*/files/media/table/*.table.json")
    return {file.name.split("_")[0]: json.loads(file.read_text()) for file in found}


def test_an_offline_run_holds_everything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    samples = [sample(i, 0, text, None if i else 0.5) for i, text in enumerate(TEXTS)]
    trackers.track(CARD, LOG, samples, tmp_path)
    assert capfd.readouterr() == ("", "")

    found = tables(tmp_path)
    assert found.keys() == {"metrics", "samples"}
    assert found["metrics"]["data"] == [["kl", 2.0, 1.5, 2.5, 128, 0], ["rm_accuracy", None, None, None, 0, 7]]
    assert [row[3] for row in found["samples"]["data"]] == [text.replace("\ud800", "?") for text in TEXTS]

    (run,) = tmp_path.glob("wandb/offline-run-*")
    assert run.name.endswith(CARD.key)
    assert not [file for file in run.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]
    told = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    history = [json.loads(line) for line in told.splitlines() if '"type":"history"' in line]
    assert len(history) == len(LOG) + 1
    assert "flops_spent" in told
    assert "4000000000000" in json.dumps(history)
    assert "NaN" not in told

    (log,) = run.glob("*.wandb")
    log.write_bytes(log.read_bytes()[:-100])  # as a full disk leaves it: W&B's own process, which writes it, says nothing
    with pytest.raises(OSError, match="is not written to its end"):
        trackers._check_written(run)


def test_a_samples_table_is_cut_to_the_first_draws_of_every_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "MOST_ROWS", 6)
    table = trackers._samples_table([sample(prompt, draw, "x") for prompt in range(4) for draw in range(3)])
    assert [row[:2] for row in table.data] == [["p0", 0], ["p1", 0], ["p2", 0], ["p3", 0], ["p0", 1], ["p1", 1]]


def test_the_mode_is_offline_unless_there_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trackers.resolve("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert trackers.resolve("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert trackers.resolve("auto") == "off"
    assert trackers.resolve("offline") == "offline"
    with pytest.raises(UserError, match="unknown W&B mode 'of'; known: auto, online, offline, off"):
        trackers.resolve("of")


def test_off_writes_nothing(tmp_path: Path) -> None:
    trackers.track(CARD, LOG, [], tmp_path / "wandb", "off")
    assert not (tmp_path / "wandb").exists()


def warned(capfd: pytest.CaptureFixture[str], words: str) -> None:
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("warning: W&B has no record of this run: ")
    assert words in err


def test_trouble_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    trackers.track(CARD, LOG, [], tmp_path / "file")
    warned(capfd, "FileExistsError")
    trackers.track(CARD, LOG, [], tmp_path, "nonsense")
    warned(capfd, "unknown W&B mode 'nonsense'")
    trackers.track(CARD, [object()], [], tmp_path)  # type: ignore[list-item]
    warned(capfd, "AttributeError")
    monkeypatch.setitem(sys.modules, "wandb", None)
    trackers.track(CARD, LOG, [], tmp_path)
    warned(capfd, "ModuleNotFoundError")


def test_a_run_is_mirrored_whatever_lies_beside_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No other card is read: a run's mirror takes no longer in a folder of a thousand cards, or of a broken one."""
    (drawn := tmp_path / "drawn").mkdir()
    (drawn / "samples.jsonl").write_text(json.dumps(dataclasses.asdict(sample(0, 0, "text"))))
    shared = SimpleNamespace(get=lambda stage: stage)
    finished: Any = SimpleNamespace(preflight=None, samples=drawn, shared=shared, read_log=lambda: LOG)
    monkeypatch.setattr(run, "make_card", lambda finished, command: CARD)
    monkeypatch.setattr(run, "_command", lambda: "")
    (tmp_path / "broken.json").write_text("{")
    mirror = trackers.Mirror("live", "nano", "dpo", 1, tmp_path / "wandb", "offline")
    path = run._publish(finished, tmp_path, mirror)
    assert card.read_card(path) == card.redacted(CARD)
    assert capfd.readouterr() == ("", "")
    assert tables(tmp_path / "wandb").keys() == {"metrics", "samples"}


def test_online_without_a_key_never_asks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trackers.track(CARD, LOG, [], tmp_path, "online")
    warned(capfd, "no API key; set WANDB_API_KEY")


def test_online_without_a_network_gives_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(trackers, "PATIENCE", 2)
    with socket.socket() as deaf:  # accepts a connection and never answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        trackers.track(CARD, LOG, [], tmp_path)
    warned(capfd, "Error")


def test_points_along_the_budget_are_a_table(tmp_path: Path) -> None:
    point = Point(0.5, 2e12, 30, {"kl": Estimate(1.0, 0.5, 1.5, 2)}, {})
    trackers.track(dataclasses.replace(CARD, key="curve", curve=[point]), LOG, [], tmp_path)
    assert tables(tmp_path)["curve"]["data"] == [[0.5, 2e12, 30, "kl", 1.0, 0.5, 1.5]]


FULL = """
import sys
sys.path[:0] = [sys.argv[1]]
import test_track
from pathlib import Path
long = [row | {"loss": step / 7} for step, row in enumerate(test_track.LOG * 400)]
print(test_track.trackers.track(test_track.CARD, long, [], Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_a_full_disk_is_told(tmp_path: Path, small_disk: SmallDisk) -> None:
    done = small_disk("64k", [sys.executable, "-c", FULL, str(Path(__file__).parent), "DISK/wandb"])
    assert done.stdout.split() == ["False"], done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("warning: W&B has no record of this run: ")]
    assert len(told) == 1


# -- while a run is trained ------------------------------------------------------------------------------------------------

DIES = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
import test_track
from pathlib import Path
mirror = test_track.trackers.Mirror("live", "nano", "dpo", 1, Path(sys.argv[2]))
for step in (1, 2, 3):
    mirror.log(test_track.LOG[:step])
print("logged", flush=True)
sys.stdin.readline()
"""


def mirror_in(folder: Path) -> trackers.Mirror:
    return trackers.Mirror("live", "nano", "dpo", 1, folder, config=CARD.config)


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of the one offline run in a folder."""
    (run,) = folder.glob("wandb/offline-run-*-live")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in told.splitlines() if '"type":"history"' in line]


@pytest.mark.slow
def test_rows_are_there_before_the_run_ends_and_none_twice_after_it_was_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", DIES, str(Path(__file__).parent), str(tmp_path)]
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # not that of this process
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own)
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n"
    other = mirror_in(tmp_path)
    other.log(LOG)  # a process that trains the same run leaves it to the first
    assert not other.finish(CARD, [])
    last = time.monotonic() + 30
    while len(history(tmp_path)) < 2:
        assert time.monotonic() < last
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]
    process.kill()
    process.wait()
    again = mirror_in(tmp_path)
    again.log(LOG[:2])  # from a checkpoint after the second step
    again.log(LOG)
    assert again.finish(CARD, [])
    rows = history(tmp_path)
    assert len(rows) == len(LOG) + 1
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()]
    assert [row["history"]["item"]["_step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert capfd.readouterr().err == ""


def test_trouble_in_the_midst_is_one_line_and_draws_no_random_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    mirror = mirror_in(tmp_path)
    mirror.log(LOG[:1])
    monkeypatch.setattr(mirror._run, "log", lambda *_, **__: 1 / 0)
    mirror.log(LOG[:2])
    mirror.log(LOG[:3])
    assert not mirror.finish(CARD, [])
    mirror.stop()
    warned(capfd, "ZeroDivisionError")
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]


@pytest.mark.slow
def test_a_run_is_mirrored_while_it_is_trained_and_ends_as_without(furnished: Terminal) -> None:
    typed = [word for word in furnished.run("algorithm=dpo", "budget.flops=6e9") if word != "tracking=off"]
    done = furnished([*typed, "tracking=offline"])
    assert done.returncode == 0, done.stderr
    (run,) = furnished.home.glob("results/nano/wandb/wandb/offline-run-*")
    assert (run / "files").is_dir()
    mirrored = json.loads(Path(furnished.home, done.stdout.split()[-1]).read_text())
    shutil.rmtree(furnished.home / "results")
    shutil.rmtree(next(furnished.store.glob("train-*")))
    done = furnished([*typed, "tracking=off"])
    plain = json.loads(Path(furnished.home, done.stdout.split()[-1]).read_text())
    assert mirrored["contents"] == plain["contents"]
