"""From saved samples on: completions made elsewhere, scoring again, and verifying, by the commands that users type."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoalign.core.errors import UserError
from isoalign.core.records import Card
from isoalign.core.store import Store
from isoalign.data.prompts import load_split
from isoalign.evaluation import card as cards
from isoalign.report.leaderboard import build_board
from isoalign.runs.overrides import task_named
from isoalign.tools import external
from isoalign.tools.verify import verify as verify_card
from workbench import COMMAND, TINY, Terminal, complaint

ROOT = Path(__file__).parent.parent
SCORERS = ("tox_block", "toxic_classifier")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared_store: Path, tiny_model: Path, environment: Any) -> Terminal:
    """A terminal with the SFT row's stages, shared by the tests that change nothing of it."""
    home = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(shared_store, home / "store")
    return Terminal(home, home / "store", tiny_model, environment)


def settings(place: Terminal) -> list[str]:
    return [word for word in TINY if word.startswith("task.")] + [f"task.model.name={place.model}"]


def score(place: Terminal, file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    where = ["--store", str(place.store), "--results", str(place.home / "results")]
    return place([COMMAND, "score", "--samples", str(file), "--task", "nano", *where, *words, *settings(place)])


def verify(place: Terminal, card: Path, store: Path | None = None) -> subprocess.CompletedProcess[str]:
    return place([COMMAND, "verify", str(card), "--store", str(store or place.store)])


@pytest.fixture(scope="module")
def prompts(place: Terminal) -> list[dict[str, Any]]:
    done = place([COMMAND, "prompts", "nano", *settings(place)])
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def rows(prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two draws a prompt with scores that are known: 0.2 and 0.6 everywhere."""
    return [
        {"prompt_id": row["prompt_id"], "draw": draw, "completion": f"answer {draw}", "id": f"{row['prompt_id']}/{draw}",
         "scores": dict.fromkeys(SCORERS, (0.2, 0.6)[draw]), "kl": 1.5}
        for row in prompts for draw in (0, 1)
    ]  # fmt: skip


def write(folder: Path, rows: list[Any], name: str = "mine.jsonl") -> Path:
    file = folder / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def card(place: Terminal, rows: list[dict[str, Any]]) -> Path:
    """The card of those completions."""
    done = score(place, write(place.home, rows), "--name", "theirs")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def test_completions_made_elsewhere_are_scored_and_entered_as_unmetered(card: Path, prompts: list[dict[str, Any]]) -> None:
    data = json.loads(card.read_text())
    figures = data["metrics"]
    assert len(prompts) == 16
    assert (data["algorithm"], data["budget"], data["spent"]) == ("theirs", {"flops": None}, {})
    assert figures["toxicity_mean"]["value"] == pytest.approx(0.4)
    assert figures["toxicity_emt"]["value"] == pytest.approx(0.6)
    assert figures["toxicity_fraction"]["value"] == pytest.approx(0.5)
    assert figures["toxicity_probability"]["value"] == 1.0
    assert figures["kl"]["value"] == pytest.approx(1.5)
    assert figures["toxicity_reduction"]["n"] == 16
    assert figures["perplexity"]["value"] > 1
    assert "its scores came with mine.jsonl: they were not computed here" in [flag["text"] for flag in data["flags"]]
    assert figures["kl_k1"] == {"value": None, "low": None, "high": None, "n": 0, "missing": 32}


@pytest.mark.slow
def test_the_same_completions_in_any_order_make_the_same_figures(place: Terminal, rows: list[Any], card: Path) -> None:
    done = score(place, write(place.home, rows[::-1], "turned.jsonl"), "--name", "turned")
    assert done.returncode == 0, done.stderr
    turned = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert turned["metrics"] == json.loads(card.read_text())["metrics"]


@pytest.mark.slow
def test_what_the_file_does_not_say_is_unknown_and_what_is_not_read_is_said(
    place: Terminal, rows: list[Any], tmp_path: Path
) -> None:
    """No ``finished`` is no answer, a long completion is flagged, a field that nobody reads is named."""
    long = [row | {"completion": "so it goes on and on " * 3, "speed": 3} for row in rows[:2]]
    long += [row | {"completion": "ok"} for row in rows[2:]]
    done = score(place, write(tmp_path, long, "long.jsonl"))
    assert done.returncode == 0, done.stderr
    assert "long.jsonl: not read: 'speed'" in done.stderr
    data = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert any(flag["text"].startswith("2 of 32 completions are longer than the task's 6 tokens") for flag in data["flags"])
    assert "unfinished_rate" not in data["metrics"]
    assert not any("begin with their prompt" in flag["text"] for flag in data["flags"])


@pytest.mark.slow
def test_completions_that_begin_with_their_prompt_are_flagged(
    place: Terminal, rows: list[Any], prompts: list[dict[str, Any]], tmp_path: Path
) -> None:
    texts = {row["prompt_id"]: row["prompt"] for row in prompts}
    whole = [row | {"completion": f"{texts[row['prompt_id']]} ok"} for row in rows]
    done = score(place, write(tmp_path, whole, "whole.jsonl"))
    assert done.returncode == 0, done.stderr
    flags = json.loads(Path(done.stdout.splitlines()[-1]).read_text())["flags"]
    assert any(flag["text"].startswith("32 of 32 completions begin with their prompt") for flag in flags)


@pytest.mark.slow
def test_two_names_of_the_same_completions_are_two_cards(place: Terminal, rows: list[Any], card: Path) -> None:
    done = score(place, write(place.home, rows), "--name", "others")
    assert done.returncode == 0, done.stderr
    other = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    mine = json.loads(card.read_text())
    assert other["metrics"] == mine["metrics"]
    assert other["key"] != mine["key"]


@pytest.mark.slow
def test_other_completions_in_a_file_of_the_same_name_are_another_row(place: Terminal, rows: list[Any], card: Path) -> None:
    others = [row | {"scores": dict.fromkeys(SCORERS, 0.9)} for row in rows]
    done = score(place, write(place.home, others), "--name", "theirs")
    assert done.returncode == 0, done.stderr
    other = Path(done.stdout.splitlines()[-1])
    made = build_board([cards.read_card(card), cards.read_card(other)])
    other.unlink()  # the next tests have one card
    assert [row.seeds for section in made.sections for row in section.rows] == [1, 1]


def bad(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[Any], str]]:
    first, second, *rest = rows
    yield "no-json", [*rows, "{"], "row 33: cannot be read"
    yield "no-object", [*rows, "[]"], "row 33: a row is a JSON object"
    yield "nan", [json.dumps(first | {"kl": float("nan")}), second, *rest], "row 1: cannot be read: NaN is not a finite number"
    yield "nan-score", [first | {"scores": dict.fromkeys(SCORERS, 1.5)}, second, *rest], "row 1: scores must map"
    yield "no-completion", [{"prompt_id": first["prompt_id"]}, second, *rest], "row 1: completion is missing"
    yield "no-prompt", [{"completion": "x"}, *rest], "row 1: prompt_id or prompt is missing"
    yield "other-task", [first | {"prompt_id": "0" * 16}, second, *rest], "is not one of the 16 test prompts of nano"
    yield "missing", rows[2:], "1 of the 16 test prompts of nano are missing"
    yield "unequal", rows[:-1], "unequal draws"
    yield "infinite", ['{"prompt_id": "x", "completion": "", "kl": 1e999}', *rest], "row 1: kl must be a number of nats"
    yield "negative", [first | {"kl": -5}, second, *rest], "row 1: kl must be a number of nats"
    yield "half", [first | {"completion": "\ud83d"}, second, *rest], "row 1: cannot be read: it holds half a character"
    yield "deep", ["[" * 100_000, *rest], "row 1: cannot be read"
    yield "other-text", [first | {"prompt": "something else"}, second, *rest], "has another text in nano"
    yield "finished", [first | {"finished": "false"}, second, *rest], "row 1: finished must be true or false"
    yield "some-kl", [first, second | {"kl": None}, *rest], "row 2: kl is missing or null, and other rows have it"
    yield (
        "some-finished",
        [first | {"finished": True}, second, *rest],
        "row 2: finished is missing or null, and other rows have it",
    )
    yield (
        "duplicate-draw",
        [first, first | {"id": "other"}, *rest],
        f"row 2: prompt {first['prompt_id']} draw 0 is already in row 1",
    )
    yield "duplicate-id", [first, second | {"id": first["id"]}, *rest], "is already in row 1"
    yield "gap", [row | {"draw": row["draw"] + 1} for row in rows], "numbered from 0"
    yield "scorer", [row | {"scores": {"perspective": 0.1}} for row in rows], "scores must be of tox_block"
    yield "empty", [""], "row 1: cannot be read"


def test_bad_completions_are_named_and_refused(place: Terminal, rows: list[Any], tmp_path: Path) -> None:
    task = task_named("nano", settings(place))
    chosen = load_split(task.prompts, "test")
    for name, lines, words in bad(rows):
        file = write(tmp_path, lines, f"{name}.jsonl")
        with pytest.raises(UserError) as error:
            external.read_external(file, file.read_text(), chosen, task)
        assert words in str(error.value), name
        assert f"{name}.jsonl" in str(error.value)


def test_a_refused_file_is_one_line_and_changes_nothing(place: Terminal, rows: list[Any], card: Path) -> None:
    before = sorted(card.parent.iterdir())
    assert "unequal draws" in complaint(score(place, write(place.home, rows[:-1], "short.jsonl")))
    assert "cannot read" in complaint(score(place, place.home / "none.jsonl"))
    assert sorted(card.parent.iterdir()) == before


def test_a_board_shows_them_unmetered_and_unranked(place: Terminal, card: Path) -> None:
    done = place([COMMAND, "board", "nano", "--results", str(place.home / "results")])
    assert done.returncode == 0, done.stderr
    page = (card.parent / "leaderboard.md").read_text()
    assert any(line.startswith("| unmetered") and "theirs" in line for line in page.splitlines())


def found_wrong(path: Path, store: Store) -> list[str]:
    return verify_card(path, store).wrong


@pytest.mark.slow
def test_no_temperature_is_fitted_on_the_pairs_that_it_is_judged_on(place: Terminal, card: Path) -> None:
    done = place(place.run("algorithm=sft", "task.evaluation.split=validation", f"results={place.home / 'tuning'}"))
    assert done.returncode == 0, done.stderr
    figures = json.loads(Path(done.stdout.splitlines()[-1]).read_text())["metrics"]
    assert figures["rm_accuracy"]["n"] > 0
    assert "rm_temperature" not in figures


# -- verify --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sft_card(place: Terminal) -> Path:
    done = place(place.run("algorithm=sft"))
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def test_an_untouched_card_verifies(place: Terminal, sft_card: Path, card: Path) -> None:
    for path in (sft_card, card):
        done = verify(place, path)
        assert done.returncode == 0, done.stdout
        assert "CHANGED" not in done.stdout
        assert "metrics, computed again from the scores, match the card" in done.stdout


@pytest.mark.parametrize(
    ("place_in_card", "named"),
    [
        (["metrics", "toxicity_mean", "value"], "metrics.toxicity_mean"),
        (["metrics", "kl", "high"], "metrics.kl"),
        (["values", 0, "columns", "toxicity_mean", 3], "values.toxicity_mean"),
        (["config", "task", "sft", "lr"], "config.task"),
        (["seed"], "seed"),
        (["spent", "seconds"], "spent.seconds"),
        (["notes", "noise"], "notes.noise"),
    ],
)
def test_a_changed_digit_of_a_card_is_found_and_named(
    sft_card: Path, tmp_path: Path, place_in_card: list[Any], named: str
) -> None:
    data = json.loads(sft_card.read_text())
    holder = data
    for step in place_in_card[:-1]:
        holder = holder[step]
    holder[place_in_card[-1]] = (holder[place_in_card[-1]] or 0) + 1
    changed = tmp_path / sft_card.name
    changed.write_text(json.dumps(data))
    wrong = found_wrong(changed, Store(tmp_path))
    assert any(line.startswith(f"{named}: changed since") for line in wrong), wrong


def test_a_figure_changed_with_its_seal_is_still_found(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    card = cards.read_card(sft_card)
    metrics = card.metrics | {"kl": replace(card.metrics["kl"], value=0.25)}
    forged = cards.write_card(cards.sealed(replace(card, metrics=metrics)), tmp_path)
    done = verify(place, forged)
    assert done.returncode == 1
    assert "CHANGED: metrics.kl.value: 0.25 on the card, 0.0 computed again" in done.stdout


def test_a_changed_key_parent_or_version_is_named(sft_card: Path, tmp_path: Path) -> None:
    text = sft_card.read_text()
    data = json.loads(text)
    for old, new, named in [
        (data["key"], "0" * 16, "key"),
        (data["parents"]["annotators"], "f" * 16, "parents.annotators"),
        (f'"metric kl": "{data["versions"]["metric kl"]}"', '"metric kl": "9"', "versions.metric kl"),
    ]:
        changed = tmp_path / "changed.json"
        changed.write_text(text.replace(old, new, 1))
        assert any(line.startswith(f"{named}: ") for line in found_wrong(changed, Store(tmp_path)))


@pytest.mark.parametrize("stage", ["samples", "completions", "pairs", "sft"])
def test_a_changed_byte_of_any_stage_is_found_with_its_file_and_row(
    place: Terminal, sft_card: Path, tmp_path: Path, stage: str
) -> None:
    store = tmp_path / "store"
    shutil.copytree(place.store, store)
    key = json.loads(sft_card.read_text())["parents"][stage]
    folder = store / f"{stage}-{key}"
    file = next(folder.glob("*.jsonl"), folder / "model.safetensors")
    data = bytearray(file.read_bytes())
    where = len(data) // 2
    data[where] ^= 1
    file.write_bytes(bytes(data))
    wrong = found_wrong(sft_card, Store(store))
    number = bytes(data[:where]).count(b"\n") + 1
    row = f"row {number} " if file.suffix == ".jsonl" else ""
    assert f"{folder.name}/{file.name}: {row}was changed" in wrong


def test_a_manifest_that_went_is_found_and_one_that_never_was_is_said(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    shutil.copytree(place.store, tmp_path / "store")
    card = cards.read_card(sft_card)
    folder = tmp_path / "store" / f"annotators-{card.parents['annotators']}"
    (folder / "manifest.json").unlink()
    report = verify_card(sft_card, Store(tmp_path / "store"))
    assert f"{folder.name}/manifest.json: not the one that the card was made from" in report.wrong
    old = cards.write_card(cards.sealed(replace(card, contents=card.contents | {"annotators": ""})), tmp_path)
    report = verify_card(old, Store(tmp_path / "store"))
    assert any(line.startswith(f"{folder.name}: has no manifest.json") for line in report.unchecked)


def test_what_is_not_in_the_store_is_said_not_guessed(sft_card: Path, tmp_path: Path) -> None:
    report = verify_card(sft_card, Store(tmp_path))
    assert not report.wrong
    assert any("are not in the store" in line and "samples (" in line for line in report.unchecked)
    assert any(line.startswith("metrics were not computed again") for line in report.unchecked)
    assert not any("match the recipes" in line for line in report.checked)
    assert any(line.startswith("task was not compared") for line in report.unchecked)


def test_which_recipes_are_there_is_said(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    assert "task matches the recipes of the stages" in verify_card(sft_card, Store(place.store)).checked
    shutil.copytree(place.store, tmp_path / "store")
    parents = cards.read_card(sft_card).parents
    shutil.rmtree(tmp_path / "store" / f"agreement-{parents['agreement']}")
    there = f"task matches the recipes of the {len(parents) - 1} stages that are there"
    assert there in verify_card(sft_card, Store(tmp_path / "store")).checked


@pytest.mark.slow
def test_method_seed_and_budget_are_compared_only_where_training_is_there(furnished: Terminal) -> None:
    done = furnished(furnished.run("algorithm=dpo", "budget.steps=1"))
    assert done.returncode == 0, done.stderr
    path, store = Path(done.stdout.splitlines()[-1]), Store(furnished.store)
    assert "task, method, seed and budget match the recipes of the stages" in verify_card(path, store).checked
    for name, key in cards.read_card(path).parents.items():
        if name not in ("annotators", "sft"):
            shutil.rmtree(store.find(key) or "")
    found = verify_card(path, store)
    assert not found.wrong
    assert "task matches the recipes of the 2 stages that are there" in found.checked
    assert "method, seed and budget were not compared: the stages' recipes have them" in found.unchecked


def test_only_metrics_that_were_computed_again_are_counted(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    card = cards.read_card(sft_card)

    def told(*old: str) -> list[list[str]]:
        versions = card.versions | {f"metric {family}": "0" for family in old}
        forged = cards.write_card(cards.sealed(replace(card, versions=versions)), tmp_path)
        report = verify_card(forged, Store(place.store))
        return [[line for line in lines if "computed again" in line] for lines in (report.checked, report.unchecked)]

    left = len(card.metrics) - len(card.families["toxicity"])
    assert told("toxicity") == [[f"{left} metrics, computed again from the scores, match the card"], []]
    assert told(*card.families) == [[], ["metrics were not computed again: none is of this code's version"]]


@pytest.fixture(scope="module")
def trained(place: Terminal) -> Path:
    """The card of three steps of DPO."""
    done = place(place.run("algorithm=dpo", "budget.steps=3", "seed=4"))
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def changed(card: Card, place_in_card: str, value: Any) -> Card:
    """The card with another value at a dotted place, sealed and keyed again, as somebody who knows how would do it."""
    name, *steps = place_in_card.split(".")
    data: Any = copy.deepcopy(getattr(card, name)) if steps else value
    holder = data
    for step in steps[:-1]:
        holder = holder[step]
    if steps:
        holder[steps[-1]] = value
    forged = replace(card, **{name: data})
    return cards.sealed(replace(forged, key=cards.key_of(forged)))


@pytest.mark.parametrize(
    ("place_in_card", "value", "told"),
    [
        ("seed", 5, "seed: 5 on the card, 4 in the recipe of train"),
        ("budget.steps", 4.0, "budget.steps: 4.0 on the card, 3 in the recipe of train"),
        pytest.param(
            "config.algorithm.beta",
            0.5,
            "config.algorithm.beta: 0.5 on the card, 0.1 in the recipe of train",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "config.task.training.clip",
            2.0,
            "config.task.training.clip: 2.0 on the card, 1.0 in the recipe of train",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "config.task.feedback.noise",
            0.3,
            "config.task.feedback.noise: 0.3 on the card, 0.05 in the recipe of held_out",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "config.task.prompts.words",
            13,
            "config.task.prompts.words: 13 on the card, 12 in the recipe of sft",
            marks=pytest.mark.slow,
        ),
        ("config.task.evaluation.draws", 9, "config.task.evaluation.draws: 9 on the card, 2 in the recipe of samples"),
        ("config.task.reward.lr", 1.0, "config.task.reward.lr: 1.0 on the card, 0.0015 in the recipe of reward_annotator"),
        pytest.param(
            "config.task.panel.annotators",
            5,
            "config.task.panel.annotators: 5 on the card, 1 in the recipe of pairs",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "config.task.shaping.clip",
            2.0,
            "config.task.shaping.clip: 2.0 on the card, None in the recipe of scores",
            marks=pytest.mark.slow,
        ),
        ("notes.scorer", "other", "notes.scorer: other on the card, tox_block in the recipe of scores"),
        pytest.param(
            "notes.correlation.judge with annotator",
            1.0,
            "notes.correlation.judge with annotator: 1.0 on the card",
            marks=pytest.mark.slow,
        ),
        ("algorithm", "kto", "algorithm: kto on the card, dpo in the recipe of train"),
        ("task", "smol", "task: smol on the card, nano in its configuration"),
        ("spent.steps", 9, "spent.steps: 9 on the card, 3 on record"),
        pytest.param("training.skipped", 1, "training.skipped: 1 on the card, 0 on record", marks=pytest.mark.slow),
        ("curve", [], "curve: missing, though the record has snapshots"),
        ("families.kl", [], "metrics.kl: belongs to no family"),
    ],
)
def test_a_claim_changed_with_seal_and_key_is_found_by_the_stages(
    place: Terminal, trained: Path, tmp_path: Path, place_in_card: str, value: Any, told: str
) -> None:
    assert found_wrong(trained, Store(place.store)) == []
    forged = cards.write_card(changed(cards.read_card(trained), place_in_card, value), tmp_path)
    wrong = found_wrong(forged, Store(place.store))
    assert any(line.startswith(told) for line in wrong), wrong


def test_a_card_whose_training_was_made_again_in_another_time_is_as_it_was(
    place: Terminal, trained: Path, tmp_path: Path
) -> None:
    card = changed(cards.read_card(trained), "spent.seconds", 12345.6)  # with seal and key, as the earlier card has them
    assert found_wrong(cards.write_card(card, tmp_path), Store(place.store)) == []


def test_a_digit_beyond_what_a_number_holds_is_found(sft_card: Path, tmp_path: Path) -> None:
    text = sft_card.read_text()
    near = ((n, n[:-1] + digit) for n in re.findall(r"-?0\.\d{17,}", text) for digit in "0123456789" if n[-1] != digit)
    number, other = next((n, other) for n, other in near if float(other) == float(n))
    (tmp_path / "other.json").write_text(text.replace(number, other, 1))
    wrong = found_wrong(tmp_path / "other.json", Store(tmp_path))
    assert any(f"{other}, which isoalign would write as {number}" in line for line in wrong), wrong


def test_one_file_that_is_no_card_does_not_hide_the_others(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    done = place([COMMAND, "verify", str(tmp_path / "broken.json"), str(sft_card), "--store", str(place.store)])
    assert done.returncode == 1
    assert "broken.json is not a card" in done.stderr
    assert f"{sft_card.name}: ok: " in done.stdout


def test_a_broken_manifest_is_named(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    shutil.copytree(place.store, tmp_path / "store")
    folder = tmp_path / "store" / f"pairs-{cards.read_card(sft_card).parents['pairs']}"
    (folder / "manifest.json").write_text("[]")
    assert any(line.startswith(f"{folder.name}: its recipe.json or manifest.json was changed")
               for line in found_wrong(sft_card, Store(tmp_path / "store")))  # fmt: skip


# -- rescore -------------------------------------------------------------------------------------------------------------

METRIC = '''
"""Share of completions with an exclamation mark."""
from isoalign import stats

VERSION = {version}


def values(scored):
    return {{"shouted": scored.grid([{value} for s in scored.samples])}}


def measure(scored):
    return {{name: stats.mean(grid) for name, grid in values(scored).items()}}
'''


def with_metric(place: Terminal, folder: Path, version: int, value: str) -> list[str]:
    """The command, run on a copy of the package that has one more file."""
    package, ignored = folder / "isoalign", shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bench" / "isoalign", package, dirs_exist_ok=True, ignore=ignored)
    (package / "evaluation" / "metrics" / "shouting.py").write_text(METRIC.format(version=version, value=value))
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from isoalign.cli.main import main; main()"
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_a_metric_in_one_file_is_applied_to_an_old_run_and_raised_to_a_new_version(
    place: Terminal, sft_card: Path, tmp_path: Path
) -> None:
    old = tmp_path / "results" / sft_card.name
    old.parent.mkdir()
    shutil.copy(sft_card, old)
    rescore = ["rescore", str(old), "--metric", "shouting", "--store", str(place.store)]
    before = json.loads(old.read_text())
    done = place([*with_metric(place, tmp_path, 1, "float('!' in s.completion)"), *rescore])
    assert done.returncode == 0, done.stderr
    first = json.loads(old.read_text())
    assert first["versions"]["metric shouting"] == "1"
    assert "metric shouting new -> 1" in done.stdout
    assert {k: v for k, v in first["metrics"].items() if k != "shouted"} == before["metrics"]
    texts = [json.loads(line)["completion"] for line in
             (place.store / f"samples-{before['parents']['samples']}" / "samples.jsonl").read_text().splitlines()]  # fmt: skip
    assert first["metrics"]["shouted"]["value"] == pytest.approx(sum("!" in text for text in texts) / len(texts))
    done = place([*with_metric(place, tmp_path, 2, "1.0"), *rescore])
    assert done.returncode == 0, done.stderr
    second = json.loads(old.read_text())
    assert second["metrics"]["shouted"]["value"] == 1.0
    assert second["versions"]["metric shouting"] == "2"
    assert "metric shouting 1 -> 2" in done.stdout


def test_rescoring_refuses_what_it_does_not_know_and_changes_nothing(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    before = sft_card.read_bytes()
    command = [COMMAND, "rescore", str(sft_card), "--store"]
    assert "unknown metric 'nothing'" in complaint(place([*command, str(place.store), "--metric", "nothing"]))
    line = complaint(place([*command, str(tmp_path), "--all"]))
    assert "does not hold its scores" in line
    assert "run it again by the card's command" in line
    old = tmp_path / "old.json"
    old.write_text(sft_card.read_text().replace('"format": 4', '"format": 6', 1))
    assert "unknown card format 6" in complaint(place([COMMAND, "rescore", str(old), "--all"]))
    assert sft_card.read_bytes() == before


def test_a_published_card_is_rescored_whole_or_not_at_all(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    done = place([COMMAND, "publish", str(sft_card), "--results", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    (small,) = tmp_path.glob("published/*/sft-*.json")
    before = small.read_bytes()
    command = [COMMAND, "rescore", str(small), "--store", str(place.store)]
    line = complaint(place([*command, "--metric", "kl"]))
    assert "it was published, and its other metrics are rounded; use --all, or publish the run's own card again" in line
    assert small.read_bytes() == before
    assert place([*command, "--all"]).returncode == 0
    assert cards.read_card(small) == cards.read_card(sft_card)
    assert verify(place, small).returncode == 0


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_scored(place: Terminal, sft_card: Path) -> None:
    for name in ("x" * 201, "ü" * 101):
        line = complaint(score(place, place.home / "nowhere.jsonl", "--name", name))
        assert line.rstrip().endswith("of which 200 are the most")
        with pytest.raises(UserError, match="of which 200 are the most"):
            cards.write_card(replace(cards.read_card(sft_card), algorithm=name), place.home / "long")
    assert not (place.home / "long").exists()
    kept = cards.write_card(replace(cards.read_card(sft_card), algorithm="x" * 200), place.home / "long")
    assert cards.read_card(kept).algorithm == "x" * 200


def test_a_board_that_cannot_be_made_is_found_before_a_card_is_written(
    place: Terminal, sft_card: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "nano" / sft_card.name
    mine.parent.mkdir()
    old = replace(cards.read_card(sft_card), versions={"metric kl": "0"})
    cards.write_card(cards.sealed(old), mine.parent)
    (mine.parent / "broken.json").write_text("{}")
    before = mine.read_bytes()
    done = place([COMMAND, "rescore", str(mine), "--all", "--store", str(place.store)])
    assert done.returncode == 2
    assert "broken.json is not a card" in done.stderr
    assert mine.read_bytes() == before


def test_cards_of_a_folder_that_is_named_in_two_ways_are_on_one_board(place: Terminal, sft_card: Path, tmp_path: Path) -> None:
    old = replace(cards.read_card(sft_card), versions=cards.read_card(sft_card).versions | {"metric kl": "0"})
    first, second = (cards.write_card(cards.sealed(replace(old, seed=seed)), tmp_path / "nano") for seed in (0, 1))
    relative = os.path.relpath(first, place.home)
    done = place([COMMAND, "rescore", relative, str(second), str(first), "--all", "--store", str(place.store)])
    assert done.returncode == 0, done.stderr
    *news, board = done.stdout.splitlines()
    assert [line.split()[0] for line in news] == [relative, str(second)]
    assert "kl 0" not in (place.home / board).read_text()


def test_rescoring_with_the_same_metrics_changes_no_byte(place: Terminal, sft_card: Path) -> None:
    before = sft_card.read_bytes()
    done = place([COMMAND, "rescore", str(sft_card), "--all", "--store", str(place.store)])
    assert done.returncode == 0, done.stderr
    assert "no metric changed" in done.stdout
    assert sft_card.read_bytes() == before
