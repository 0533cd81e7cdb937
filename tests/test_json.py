"""What commands print with --json: one document on stdout alone, whatever cards and models say."""

from __future__ import annotations

import json
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoalign.core.json_output import to_json
from isoalign.core.records import Estimate, Flag
from isoalign.evaluation import card as cards
from test_compare import BAD, GOOD, card
from workbench import COMMAND

DOCS = (Path(__file__).parents[1] / "docs" / "json.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for one in [*GOOD, *BAD, replace(card("bad\x1b[31m", 0, 0.5), flags=[Flag("warning", "\u202eevil\x9b")])]:
        gained = {"toxicity_reduction": Estimate(0.1, 0.05, 0.15, 64)}
        cards.write_card(cards.sealed(replace(one, metrics=one.metrics | gained, seals={})), folder / "nano")
    return folder


def printed(*words: str) -> Any:
    done = subprocess.run([COMMAND, *words, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert all(char.isprintable() or char == "\n" for char in done.stdout)
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))


def documented(found: dict[str, Any], section: str) -> None:
    text = DOCS.split(f"\n## {section}\n")[1].split("\n## ")[0]
    missing = found.keys() - set(re.findall(r"`(\w+)`", text))
    assert not missing, (section, missing)


def test_what_json_lacks_is_null_and_what_a_terminal_obeys_is_escaped() -> None:
    told = to_json({"a": [math.nan, np.float64("inf"), 1.5], "b": Estimate(0.5, None, None, 2), "c": "\x1b[2J\x7f\x9b\u202e"})
    assert json.loads(told) == {
        "a": [None, None, 1.5],
        "b": {"value": 0.5, "low": None, "high": None, "n": 2, "missing": 0},
        "c": "\x1b[2J\x7f\x9b\u202e",
    }
    assert all(" " <= char <= "~" or char == "\n" for char in told)
    assert "hunter2hunter2" not in to_json(["api_key=hunter2hunter2"])


def test_a_board_has_each_row_with_its_estimates_and_each_pair(results: Path) -> None:
    (board,) = printed("board", "nano", "--results", str(results))["boards"]
    (section,) = board["sections"]
    for part in (board, section, section["rows"][0], section["pairs"][0]):
        documented(part, "board")
    rows = {row["name"]: row for row in section["rows"]}
    assert rows["good"]["seeds"] == [0, 1, 2]
    assert rows["good"]["metrics"]["toxicity_reduction"]["value"] == pytest.approx(0.1)
    (pair,) = [pair for pair in section["pairs"] if {pair["a"], pair["b"]} == {"good", "bad"}]
    assert pair["resolved"]
    assert (pair["value"] > 0) == (pair["a"] == "good")
    assert Path(board["page"]).exists()


def test_a_card_is_shown_with_what_to_know_of_it(results: Path) -> None:
    (path,) = [path for path in (results / "nano").glob("*.json") if "31m" in path.name]
    found = printed("show", str(path))
    documented({name: 0 for name in found if name not in vars(GOOD[0])}, "show")
    assert (found["task"], found["unchanged"], found["flags"]) == (
        "nano",
        True,
        [{"kind": "warning", "text": "\u202eevil\x9b"}],
    )
    assert found["key"] == json.loads(path.read_text())["key"]
    text = subprocess.run([COMMAND, "show", str(path)], capture_output=True, text=True).stdout
    assert "- evil" in text
    assert "0.100 [0.050, 0.150]" in text
    assert all(char.isprintable() or char == "\n" for char in text)


def test_a_card_that_was_changed_is_shown_and_says_so(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    text = next((results / "nano").glob("good*.json")).read_text()
    file.write_text(text.replace('"command": ""', '"command": "another"'))
    done = subprocess.run([COMMAND, "show", str(file), "--json"], capture_output=True, text=True)
    assert json.loads(done.stdout)["unchanged"] is False
    assert "was changed since it was written: command" in done.stderr


def test_a_comparison_has_the_numbers_of_its_table(results: Path) -> None:
    found = printed("compare", "good", "bad", "--results", str(results))
    documented(found, "compare")
    documented(found["metrics"][0], "compare")
    assert (found["a"], found["b"], found["paired_on"], found["seeds_a"]) == ("good", "bad", 64, [0, 1, 2])
    metrics = {metric["name"]: metric for metric in found["metrics"]}
    level = metrics["toxicity_mean"]
    assert level["verdict"] == "good is better"
    assert level["value"] == pytest.approx(level["mean_a"] - level["mean_b"])
    assert level["p_holm"] >= level["p"]
    assert (metrics["odd"]["value"], metrics["odd"]["mean_a"], metrics["odd"]["verdict"]) == (None, None, "too few prompts")
