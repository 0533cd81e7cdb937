"""trackio in the place of W&B: the real package where it is installed, and one line where it is not."""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate
from isoalign.report import trackio_runs

LOG = [
    {"loss": 1.0 / (step + 1), "flops_spent": 10.0 * step, "step": step, "text": "no scalar", "gap": None} for step in range(4)
]


def test_a_missing_package_is_one_line_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^tracking=trackio needs the package trackio.*pip install trackio$"):
        trackio_runs.check_installed()


def test_a_run_that_goes_on_is_written_anew_and_stdout_stays_the_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trackio = pytest.importorskip("trackio")
    monkeypatch.chdir(tmp_path)
    project = f"isoalign-{tmp_path.name}"
    monkeypatch.setenv("TRACKIO_PROJECT", project)
    folder: Any = tmp_path / "trackio"

    def run() -> trackio_runs.TrackioRun:
        return trackio_runs.TrackioRun("nano-dpo-s0", "nano-dpo", folder, {"beta": 0.1, "api_key": "hunter2"})

    killed = run()
    killed.log(LOG[:2])
    killed.stop()
    mine = run()
    mine.log(LOG[:3])
    mine.log(LOG)
    metrics = {"kl": Estimate(2.0, 1.0, 3.0, 8), "none": Estimate(None, None, None, 0)}
    card = Card("k", "nano", "dpo", {}, 0, {"flops": 1e12}, {"flops": 9e11}, metrics, {}, {}, "isoalign run")
    assert mine.finish(card, [])
    assert capsys.readouterr().out == ""
    (found,) = trackio.Api().runs(project)
    assert found.name == "nano-dpo-s0"
    assert "hunter2" not in str(found.config)
    database = next(Path(trackio.utils.TRACKIO_DIR).rglob(f"{project}.db"))
    with sqlite3.connect(database) as connection:
        rows = [step for (step,) in connection.execute("select step from metrics order by step")]
        last = connection.execute("select metrics from metrics order by step desc limit 1").fetchone()[0]
    assert rows == [1, 2, 3, 4, 4], "from 1, as logs and other trackers count"
    assert "metrics/kl" in str(last)
    assert "metrics/none" not in str(last)
    mine.stop()
    assert trackio.context_vars.current_run.get() is None  # nothing is left to be ended, in so many words, at exit
