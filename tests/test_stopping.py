"""SIGINT and SIGTERM: the step is finished and saved, children end, and the exit status says which signal it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoalign.config.training import TrainConfig
from isoalign.core import stopping
from isoalign.core.records import Budget
from workbench import Bench, Terminal, algorithms, same, weights

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
RARELY = TrainConfig(checkpoint_seconds=1e6, warmup=2)


@pytest.fixture
def handling(monkeypatch: pytest.MonkeyPatch) -> Any:
    """This process handles signals as isoalign does; afterwards as before."""
    monkeypatch.setattr(stopping._State, "asked", None)
    before, hook = {number: signal.getsignal(number) for number in SIGNALS}, sys.unraisablehook
    stopping.install()
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


class Asked:
    """An algorithm in whose third loss a signal comes."""

    def __init__(self, algorithm: Any, number: int) -> None:
        self.algorithm, self.number, self.losses = algorithm, number, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.algorithm, name)

    def iteration(self, lab: Any) -> Any:
        for step in self.algorithm.iteration(lab):
            yield replace(step, loss=self.loss_of(step.loss))

    def loss_of(self, loss: Any) -> Any:
        def asked(lab: Any, rows: Any) -> Any:
            self.losses += 1
            if self.losses == 3:
                os.kill(os.getpid(), self.number)
            return loss(lab, rows)

        return asked


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("name", "algorithm"), algorithms()[:6])
def test_a_signal_in_a_step_lets_it_end_and_saves_it(
    tiny_bench: Bench, tmp_path: Path, handling: None, name: str, algorithm: Any, number: int
) -> None:
    budget, works = Budget(1e15, steps=6), (tmp_path / "whole", tmp_path / "stopped")
    for work in works:
        work.mkdir()
    whole = tiny_bench.trainer(algorithm, budget, works[0], config=RARELY)
    whole.run(name)
    with pytest.raises(stopping.Stopped) as stopped:
        tiny_bench.trainer(Asked(algorithm, number), budget, works[1], config=RARELY).run(name)
    assert stopped.value.status == SIGNALS[signal.Signals(number)]
    assert list((works[1] / "checkpoint").iterdir())
    stopping._State.asked = None
    resumed = tiny_bench.trainer(algorithm, budget, works[1], config=RARELY)
    resumed.resume()
    assert resumed.meter.steps >= 1
    resumed = tiny_bench.trainer(algorithm, budget, works[1], config=RARELY)
    resumed.run(name)
    assert same(weights(whole), weights(resumed))


def test_a_second_signal_breaks_off_what_is_to_be_finished(handling: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping.finishing():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # at once: the same request
        assert stopping.asked()
        monkeypatch.setattr(stopping, "AGAIN", 0.0)
        with pytest.raises(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("words", [["--help"], ["nonsense"]])
def test_a_signal_while_the_interpreter_ends_changes_nothing(number: signal.Signals, words: list[str]) -> None:
    code = f"""
import atexit, os, sys
from isoalign.cli.main import main
atexit.register(os.kill, os.getpid(), {int(number)})
sys.argv = ["isoalign", *{words!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == (2 if words == ["nonsense"] else 0)
    assert done.stderr.count("\n") == (words == ["nonsense"])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_an_object_is_deleted_is_not_lost(
    handling: None, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.monotonic()  # a call, before which Python looks for signals

    def work() -> None:
        dying = Dying()
        del dying  # what is raised in there, Python ignores
        last = time.monotonic() + 30
        while time.monotonic() < last:
            pass

    with pytest.raises(stopping.Stopped) as caught:
        work()
    assert caught.value.number == number
    assert "Exception ignored" not in capsys.readouterr().err


def test_children_that_do_not_end_are_ended(handling: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE", 0.2)
    deaf = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(stopping.Stopped):
        os.kill(os.getpid(), signal.SIGTERM)
    assert child.wait(10) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("name", "sweep"), [("dpo", False), ("dpo", True), ("trl_dpo", False)])
def test_a_run_and_a_sweep_end_within_seconds_and_go_on_by_the_same_command(
    furnished: Terminal, number: int, name: str, sweep: bool
) -> None:
    words = [f"algorithm={name}", "algorithm.batch_size=8", "budget.flops=6e9"]
    typed = furnished.run(*words)
    if sweep:
        typed = [*typed, "-m", "seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    before = signal.signal(number, signal.SIG_DFL)  # the workers of a test run ignore one of them
    running = furnished.start(typed)
    signal.signal(number, before)
    deadline = time.monotonic() + 300
    while len(list(furnished.store.glob(".work-train-*"))) < 1 + sweep:
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == SIGNALS[signal.Signals(number)], told
    assert "isoalign: stopped; run the same command to resume" in told
    assert "Traceback" not in told
    left = subprocess.run(["pgrep", "-f", str(furnished.store)], capture_output=True, text=True)
    assert not left.stdout.split(), "processes are left"
    done = furnished(typed)
    assert done.returncode == 0, done.stderr
    cards = [Path(line) for line in done.stdout.splitlines() if line.endswith(".json")]
    assert cards
    assert all(json.loads(card.read_text())["training"]["steps"] > 1 for card in cards)
