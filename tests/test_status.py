"""What runs do, as others see it: where, how far, how they ended, and which are dead; nothing a file says is obeyed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from isoalign.cli.commands import invoke
from isoalign.core import doing, presence
from isoalign.core.progress import Progress, Steps, track
from isoalign.runs import status
from workbench import COMMAND, Terminal

RUN = """
import sys
from pathlib import Path
from isoalign.core import doing
from isoalign.core.progress import Progress
from isoalign.runs import status
status.begin(Path(sys.argv[1]), "isoalign run algorithm=dpo seed=7", task="nano", algorithm="dpo", seed="7", device="cpu")
with doing.stage("train-0123456789abcdef"):
    bar = Progress("training")
    bar.show(0.25, {})
    bar.show(0.5, {})
    print("up", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def running(tmp_path: Path) -> Any:
    """A process that is in the midst of a run whose results are in a folder."""
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    yield process
    process.kill()
    process.wait()


def only(results: Path) -> dict[str, Any]:
    [found] = status.read_statuses(results)
    return found


def rewrite(results: Path, **changes: Any) -> Path:
    """Say something else in the one file."""
    [file] = (results / "status").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return file


def test_a_job_whose_sweep_has_ended_never_began_and_is_not_dead(running: Any, tmp_path: Path) -> None:
    rewrite(tmp_path, state="waiting")
    assert only(tmp_path)["state"] == "waiting"
    running.kill()
    running.wait()
    seen = only(tmp_path)
    assert (seen["state"], seen["line"]) == ("stopped", "never began: its sweep has ended")


def test_a_run_says_where_it_is_and_is_dead_once_its_process_is(
    running: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = only(tmp_path)
    assert (seen["state"], seen["pid"], seen["device"]) == ("running", running.pid, "cpu")
    running.send_signal(signal.SIGSTOP)  # it is not dead, whatever its age
    assert only(tmp_path)["state"] == "running"
    assert invoke(["status", str(tmp_path)]) == 0
    assert "algorithm=dpo seed=7" in capsys.readouterr().out
    running.kill()
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    assert only(tmp_path)["state"] == "dead"  # though a child that nobody has waited for
    running.wait()
    assert invoke(["status", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert told.startswith("dead ")
    assert told.endswith("1 in all, 1 dead\n")


def test_how_far_a_run_is_and_how_long_it_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with doing.stage("train-0123456789abcdef"), doing.stage("reward-0123456789abcdef"):
        with Steps("reward", 4) as bar:
            clock[0] += 6
            bar.advance()  # a quarter in 6 s: 18 s for the rest
            assert doing.now() == {"stage": "reward-0123456789abcdef", "step": "reward", "done": 0.25, "left": 18.0}
            clock[0] += 5
            assert doing.now()["left"] == 13.0
        assert doing.now()["step"] is None
    bar = Progress("training")
    bar.show(0.5, {})  # resumed here: no pace is known yet
    assert doing.now() == {"stage": None, "step": "training", "done": 0.5, "left": None}
    clock[0] += 10
    bar.show(0.75, {})
    assert doing.now()["left"] == 10.0
    bar.close()


def test_a_number_that_another_process_was_given_is_not_the_run(running: Any, tmp_path: Path) -> None:
    rewrite(tmp_path, pid=os.getpid())  # which lives, and started at another moment
    assert only(tmp_path)["state"] == "dead"


@pytest.mark.parametrize("pid", [0, -1, 2**40, 10**400, True, "1", None])
def test_what_is_no_number_of_a_process_is_no_living_one(running: Any, tmp_path: Path, pid: Any) -> None:
    rewrite(tmp_path, pid=pid)
    assert only(tmp_path)["state"] == "dead"


def test_a_process_of_another_user_that_is_hidden_counts_by_its_signs_of_life(
    running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where /proc is mounted with hidepid."""

    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    running.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(presence, "started", lambda pid: "")
    monkeypatch.setattr(os, "kill", forbidden)
    assert only(tmp_path)["state"] == "running"
    [file] = (tmp_path / "status").iterdir()
    os.utime(file, (0, 0))
    assert only(tmp_path)["state"] == "silent"


def test_of_another_machine_signs_of_life_count_by_the_clock_of_the_file_system(
    running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.send_signal(signal.SIGSTOP)
    file = rewrite(tmp_path, machine="another", host="node-2")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)  # this machine's clock is off
    assert only(tmp_path)["state"] == "running"
    old = file.stat().st_mtime - presence.SILENT - 5
    os.utime(file, (old, old))
    assert only(tmp_path)["state"] == "silent"
    rewrite(tmp_path, state="done", line="results/nano/x.json")
    assert only(tmp_path)["state"] == "done"


def test_where_nothing_can_be_written_the_clock_is_this_machine_s(tmp_path: Path) -> None:
    assert abs(presence.clock(tmp_path / "absent") - time.time()) < 60
    assert abs(presence.clock(tmp_path) - time.time()) < 60
    assert not list(tmp_path.iterdir())


def test_a_run_ends_as_it_says_and_the_next_one_of_the_same_command_takes_its_place(tmp_path: Path) -> None:
    command = "isoalign run algorithm=dpo --api_key hunter2hunter2"
    for state, line in (("failed", "no\x1b[31m memory\nat all, token=hunter2hunter2"), ("done", "x.json")):
        status.begin(tmp_path, command, task="nano", algorithm="dpo", seed="0", device="cpu")
        assert only(tmp_path)["state"] == "running"
        status.end(state, line)
        status.end("failed")  # the first word counts
        assert only(tmp_path)["state"] == state
    assert "hunter2" not in (tmp_path / "status").joinpath(next((tmp_path / "status").iterdir()).name).read_text()


def test_a_living_run_of_the_same_command_elsewhere_keeps_its_file(running: Any, tmp_path: Path) -> None:
    status.begin(tmp_path, "isoalign run algorithm=dpo seed=7", task="nano", algorithm="dpo", seed="7", device="cpu")
    status.end("done")
    assert sorted(each["state"] for each in status.read_statuses(tmp_path)) == ["done", "running"]


HOSTILE = ["", "{", "[]", "[" * 10_000, '{"state": "running"', '{"state": "\\ud800"}', '{"state": "reigning"}', "\x00",
           '{"state": "running", "state": "done"}']  # fmt: skip


def test_files_that_hold_anything_are_shown_inert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "status").mkdir()
    for number, text in enumerate(HOSTILE):
        (tmp_path / "status" / f"{number}.beat").write_text(text)
    wild = "\x1b]0;evil\x07<script>\u202e`rm`\u2028"
    for number, name in enumerate(status.FIELDS):
        for value in (wild, [wild], {"a": wild}, 1e308, -5, None, "token=abcdefghij"):
            told = {"state": "running", "command": wild, "line": "", name: value}
            (tmp_path / "status" / f"x{number}.beat").write_text(json.dumps(told))
            for words in ([], ["--all"], ["--json"]):
                assert invoke(["status", str(tmp_path), *words]) in (0, 1)
            shown = capsys.readouterr().out
            assert all(char.isprintable() or char == "\n" for char in shown)
            assert "abcdefghij" not in shown
    assert sum(each["state"] == "unreadable" for each in status.read_statuses(tmp_path)) >= len(HOSTILE)


def test_a_folder_without_runs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, words in ((tmp_path / "no", "there is no folder"), (tmp_path, "holds no notes of runs")):
        assert invoke(["status", str(folder)]) == 2
        assert words in capsys.readouterr().err


def statuses(terminal: Terminal) -> list[dict[str, Any]]:
    done = subprocess.run([COMMAND, "status", "results", "--json"], capture_output=True, text=True, cwd=terminal.home,
                          env=terminal.env)  # fmt: skip
    assert done.stderr == ""
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_jobs_of_a_sweep_wait_run_and_end_under_one_name_each(furnished: Terminal) -> None:
    typed = furnished.run("-m", "algorithm=dpo", "budget.flops=6e9,0", "seed=0,1")
    sweep = furnished.start(typed)
    seen: set[tuple[str, ...]] = set()
    while sweep.poll() is None:
        if (furnished.home / "results" / "status").is_dir():
            seen.add(tuple(sorted(each["state"] for each in statuses(furnished))))
    assert sweep.returncode == 1
    sweep.communicate()
    found = statuses(furnished)
    assert sorted(each["state"] for each in found) == ["done", "done", "failed", "failed"]
    assert any("waiting" in states and "running" in states for states in seen), seen
    assert all("budget.flops must be positive" in each["line"] for each in found if each["state"] == "failed")
    assert all(Path(furnished.home, each["line"]).is_file() for each in found if each["state"] == "done")


def test_a_bar_is_of_many_items_and_of_no_run_has_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2], "reading cards", least=3)) == [1, 2]
    assert capsys.readouterr().err == ""
    assert list(track([1, 2, 3], "reading cards", least=3)) == [1, 2, 3]
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    assert lines[-2].startswith("reading cards   ")
    assert "100%" in lines[-2]
