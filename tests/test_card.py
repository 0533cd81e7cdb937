"""Cards survive the disk unchanged, say what is wrong with them, and hold no secret."""

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoalign.cli.commands import invoke
from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate, Flag, Point
from isoalign.core.store import digest
from isoalign.evaluation import card as cards
from isoalign.evaluation.seals import seals_of
from isoalign.runs.flags import training_flags

CARD = Card(
    key="0123456789abcdef",
    task="nano",
    algorithm="dpo",
    config={"beta": 0.1, "max_new_tokens": 20},
    seed=1,
    budget={"flops": 4.5e12, "labels": None},
    spent={"flops": 4.4e12, "labels": {"simulated": 900}, "items": [{"role": "policy", "kind": "sample", "flops": 4}]},
    metrics={"kl": Estimate(2.0, 1.5, 2.5, 128), "rm_accuracy": Estimate(None, None, None, 0, missing=7)},
    parents={"sft": "aaaa"},
    versions={"torch": "2.13"},
    command="isoalign run algorithm=dpo",
    flags=[Flag("gate", "perplexity"), Flag("warning", "has not moved: KL 0.05")],
    notes={"draws": 8, "flags": [{"kind": "gate", "text": "it ran a model"}, {"kind": "warning", "text": "it stopped"}]},
    contents={"sft": "bbbb"},
    families={"kl": ["kl"]},
    values={"kl": {"p": 2.0, "q": None}, "rm_accuracy": {"p": 0.5}},
    curve=[Point(0.5, 2.2e12, 30, {"kl": Estimate(1.0, None, None, 2)}, {"kl": {"p": 1.0, "q": 1.0}})],
)


def test_a_card_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    path = cards.write_card(CARD, tmp_path / "new" / "folder")
    assert path.name == "dpo-s1-01234567.json"
    assert cards.read_card(path) == CARD
    assert json.loads(path.read_text())["format"] == 4
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    whole = cards.sealed(CARD)
    cards.write_card(whole, path.parent)
    assert cards.read_cards(path.parent) == [whole]
    assert cards.read_cards(tmp_path / "none") == []


def test_prompts_are_listed_once_and_a_column_of_one_value_is_that_value(tmp_path: Path) -> None:
    values = {"kl": {"p": 2.0, "q": 0.0}, "none": {"p": None, "q": None}, "rare": {"p": 0.5}, "zero": {"p": 0.0, "q": 0.0}}
    point = Point(0.5, 1e9, 3, {}, {"kl": {"p": 1.0, "q": 1}, "toxicity_mean": {"q": 0.25}})
    card = cards.sealed(dataclasses.replace(CARD, values=values, curve=[point, point]))
    path = cards.write_card(card, tmp_path)
    assert repr(cards.read_card(path)) == repr(card), "0 and 0.0 are kept apart, since seals are"
    data = json.loads(path.read_text())
    whole, rare = data["values"]
    assert (whole["prompts"], whole["columns"]) == (["p", "q"], {"kl": [2.0, 0.0], "none": None, "zero": 0.0})
    assert (rare["prompts"], rare["columns"]) == (["p"], {"rare": 0.5})
    assert [group["prompts"] for group in data["curve"][0]["values"]] == [0, ["q"]]
    assert [group["prompts"] for group in data["curve"][1]["values"]] == [0, 2]
    whole["prompts"], whole["columns"] = ["p", "q"], {"kl": [2.0, 0.0], "none": [None, None], "zero": [0.0, 0.0]}
    path.write_text(json.dumps(data | {"format": 3}))
    assert cards.read_card(path) == card, "as format 3 wrote them"
    for wrong in (7, True, "p"):
        whole["prompts"] = wrong
        path.write_text(json.dumps(data))
        with pytest.raises(UserError, match=r"values\[0\]\.prompts must be a list"):
            cards.read_card(path)


def older(card: Card, number: int) -> dict[str, Any]:
    """A sealed card as format 1 or 2 stored it: flags as lines of text, sealed as such."""
    data: dict[str, Any] = json.loads(cards.to_json(card)) | {"format": number}
    notes = {"draws": 8, "warnings": ["gate: it ran a model", "it stopped"]}
    data |= {"flags": ["gate: perplexity", "has not moved: KL 0.05"], "notes": notes}
    seals = {name: seal for name, seal in seals_of(card).items() if not name.startswith(("flags.", "notes."))}
    lines = {f"flags.{i}": line for i, line in enumerate(data["flags"])} | {f"notes.{name}": n for name, n in notes.items()}
    data["seals"] = seals | {name: digest(line)[:8] for name, line in lines.items()}
    return data if number == 2 else {name: data[name] for name in data if name not in ("values", "curve", "seals")}


def test_flags_of_older_formats_are_read_as_they_were_meant(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    for number in (1, 2):
        path.write_text(json.dumps(older(CARD, number)))
        card = cards.read_card(path)
        assert (card.flags, card.notes) == (CARD.flags, CARD.notes)
    assert card.seals == seals_of(card) == seals_of(CARD), "what was sealed as text holds"
    assert cards.read_card(cards.write_card(card, tmp_path)) == card, "written anew it is of the newest format"


@pytest.mark.parametrize(
    ("place", "changed", "seal"),
    [
        (["flags", 0], "perplexity", "flags.0"),
        (["flags", 1], "gate: has not moved: KL 0.05", "flags.1"),
        (["notes", "warnings"], ["it stopped"], "notes.flags"),
        (["seals", "flags.0"], "00000000", "flags.0"),
    ],
)
def test_a_change_of_an_older_card_s_flags_breaks_their_seal(
    tmp_path: Path, place: list[Any], changed: object, seal: str
) -> None:
    data = older(CARD, 2)
    data[place[0]][place[1]] = changed
    (tmp_path / "card.json").write_text(json.dumps(data))
    card = cards.read_card(tmp_path / "card.json")
    found = seals_of(card)
    assert found.keys() == card.seals.keys()
    assert [name for name in found if found[name] != card.seals[name]] == [seal]


@pytest.mark.parametrize(
    "words",
    [
        ["board", "nano"],
        ["board", "--across"],
        ["compare", "CARD", "dpo"],
        ["publish", "CARD"],
        ["export", "CARD", "to"],
        ["rescore", "CARD", "--all"],
    ],
)
@pytest.mark.parametrize("harm", ["a figure", "no seals"])
def test_what_builds_on_a_card_that_was_changed_refuses_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], harm: str
) -> None:
    path = cards.write_card(cards.sealed(CARD), tmp_path / "nano")
    data = json.loads(path.read_text())
    if harm == "a figure":
        data["metrics"]["kl"]["value"] += 1e-9
    else:
        data["seals"] = {}
    path.write_text(json.dumps(data))
    before = path.read_bytes()
    typed = [{"CARD": str(path), "to": str(tmp_path / "to")}.get(word, word) for word in words]
    place = {"export": ["--store", str(tmp_path)], "rescore": ["--store", str(tmp_path)]}
    assert invoke([*typed, *place.get(words[0], ["--results", str(tmp_path)])]) == 2
    said = capsys.readouterr()
    entry = "metrics.kl" if harm == "a figure" else "seals"
    assert said.err.count("\n") == 1
    assert f"{path} was changed since it was written: {entry};" in said.err
    assert not said.out
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [path.name]


def test_cards_of_a_version_without_seals_are_read_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cards.write_card(CARD, tmp_path / "nano")
    path.write_text(json.dumps(older(dataclasses.replace(CARD, contents={}), 1)))
    assert invoke(["board", "nano", "--results", str(tmp_path)]) == 0
    assert "1 of 1 cards in" in capsys.readouterr().err


def test_the_published_cards_are_read_with_their_seals() -> None:
    paths = sorted((Path(__file__).parents[1] / "results").rglob("published/*/*.json"))
    flagged = [card for card in map(cards.read_card, paths) if card.flags]
    assert {flag.kind for card in flagged for flag in card.flags} == {"gate", "warning"}
    for card in flagged:
        assert seals_of(card) == {name: card.seals[name] for name in seals_of(card)}


@given(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70))
def test_any_text_and_any_number_survive(text: str, number: float, whole: int) -> None:
    card = dataclasses.replace(CARD, notes={text: [number, whole, text]}, metrics={text: Estimate(number, None, None, 1)})
    data = json.loads(cards.to_json(card).encode())
    assert data["notes"] == {text: [number, whole, text]}
    assert data["metrics"][text]["value"] == number


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["seed"], "one", "seed must be a whole number, not 'one'"),
        (["seed"], True, "seed must be a whole number, not True"),
        (["algorithm"], 3, "algorithm must be text, not 3"),
        (["metrics", "kl", "value"], "2", "metrics.kl.value must be a number, not '2'"),
        (["metrics", "kl", "low"], float("nan"), "metrics.kl.low is not a finite number"),
        (["metrics", "kl"], 2.0, "metrics.kl must be a mapping, not 2.0"),
        (["metrics", "kl", "mean"], 2.0, "unknown field metrics.kl.mean"),
        (["spent", "flops"], None, "spent.flops must be a number, not None"),
        (["spent", "items"], [{"flops": float("inf")}], "spent.items[0].flops is not a finite number"),
        (["notes"], {"a": [1.0, [float("inf"), float("-inf")]]}, "notes.a[1][0] is not a finite number"),
        (["notes"], {"a": [0.0, 10**400, 1.0]}, "notes.a[1] is not a finite number"),
        (["notes"], {"a": {"b": 1, "c": float("nan"), "d": "x"}}, "notes.a.c is not a finite number"),
        (["spent", "items"], [{"flops": 1}], "spent.items[0].role must be text, not None"),
        (["spent", "labels"], {"ai": "x"}, "spent.labels.ai must be a number, not 'x'"),
        (["spent", "steps"], "x", "spent.steps must be a number, not 'x'"),
        (["budget", "flops"], {}, "budget.flops must be a number, not {}"),
        (["flags"], "gate", "flags must be a list, not 'gate'"),
        (["flags"], [1], "flags[0] must be a mapping, not 1"),
        (["flags"], ["gate: x"], "flags[0] must be a mapping, not 'gate: x'"),
        (["flags"], [{"kind": "gates", "text": "x"}], "flags[0].kind must be 'gate' or 'warning', not 'gates'"),
        (["notes"], {"flags": [{"kind": "gate"}]}, "notes.flags[0].text is missing"),
        (["training"], {"reported": [1]}, "training.reported must be a mapping, not [1]"),
        (["training"], {"reported": {"kl": "x"}}, "training.reported.kl must be a number, not 'x'"),
        (["training"], {"reported_error": None}, "training.reported_error must be a mapping, not None"),
        (["data"], {"calibration": "x"}, "data.calibration must be a mapping, not 'x'"),
        (["data"], {"calibration": {"reliability": [1]}}, "data.calibration.reliability[0] must be a mapping, not 1"),
        (["colour"], "red", "unknown field colour"),
        (["format"], 6, "unknown card format 6; this version of isoalign reads formats 1 to 5"),
        (["format"], 2, "flags[0] must be text, not {"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, place: list[str], value: object, words: str) -> None:
    data = json.loads(cards.to_json(CARD))
    inner = data
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError) as caught:
        cards.read_card(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["key", "task", "config", "metrics", "command"])
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    data = json.loads(cards.to_json(CARD))
    del data[name]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=f"bad.json: {name} is missing"):
        cards.read_card(tmp_path / "bad.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"format": 1', "\udc80", "[" * 100_000])
def test_what_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="is not a card"):
        cards.read_card(path)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the card .*none.json: No such file"):
        cards.read_card(tmp_path / "none.json")


def test_a_figure_that_is_not_a_number_is_never_written(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, metrics={"kl": Estimate(float("nan"), None, None, 0)})
    with pytest.raises(UserError, match=r"metrics\.kl\.value is not a finite number"):
        cards.write_card(card, tmp_path)
    assert not list(tmp_path.iterdir())


def test_numbers_whose_sum_overflows_are_numbers(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, values={"kl": dict.fromkeys("abc", 1e308)}, notes={"a": [1e308, 1e308, 10**308]})
    read = cards.read_card(cards.write_card(card, tmp_path))
    assert (read.values, read.notes) == (card.values, card.notes)


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        cards.write_card(CARD, tmp_path / "file")


def test_a_failed_write_leaves_the_old_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cards.write_card(CARD, tmp_path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        cards.write_card(dataclasses.replace(CARD, notes={}), tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "command",
    [
        "WANDB_API_KEY=hunter2 isoalign run",
        "isoalign run judge.api_key='hunter2 hunter2'",
        "isoalign run --password hunter2",
        'isoalign run +hub.token="hunter2"',
        "isoalign run 'judge={api_key: hunter2}'",
        "isoalign run judge.password=12345 url=https://me:hunter2@host/x",
        "isoalign run judge=hf_hunter2hunter2hunter2",
    ],
)
def test_a_command_loses_its_secrets(command: str) -> None:
    text = cards.to_json(dataclasses.replace(CARD, command=command))
    assert "hunter2" not in text
    assert '12345"' not in text
    assert "[redacted]" in text


@given(st.lists(st.sampled_from(["--token ", "token", "api_key", "key", "=", ": ", " ", "abc", '"y z"', "[redacted]",
                                 "sk-aaaaaaaaaaaaaaaaaaa", "://u:p@h", "[", "]", ","]), max_size=8))  # fmt: skip
def test_what_was_redacted_once_stays_as_it_is(words: list[str]) -> None:
    """Or a card's seals would not be those of what is on disk."""
    once = cards.redacted(replace(CARD, command="".join(words)))
    assert cards.redacted(once) == once


def test_a_configuration_loses_its_secrets_and_nothing_else() -> None:
    config = {
        "wandb": {"api_key": "hunter2", "tokens": ["hunter2"], "Password": 7},
        "judges": [{"secret": "hunter2", "url": "https://me:hunter2@host"}],
        "max_tokens": 20,
        "min_token": None,
        "keys": 3,
        "monkey_business": "fine",
    }
    kept = cards.redacted(dataclasses.replace(CARD, config=config)).config
    assert "hunter2" not in json.dumps(kept)
    assert kept["wandb"]["Password"] == "[redacted]"
    assert (kept["max_tokens"], kept["min_token"], kept["keys"], kept["monkey_business"]) == (20, None, 3, "fine")
    command = "isoalign run task.max_new_tokens=20 algorithm=dpo 'name=the key x' -m seed=0,1"
    assert cards.redacted(dataclasses.replace(CARD, command=command)).command == command


def test_a_name_can_not_leave_its_folder(tmp_path: Path) -> None:
    path = cards.write_card(dataclasses.replace(CARD, algorithm="../a|b"), tmp_path)
    assert path.parent == tmp_path
    assert path.name == "--a-b-s1-01234567.json"
    assert cards.read_card(path).algorithm == "../a|b"


@pytest.mark.parametrize(("skipped", "kind"), [(0, ""), (1, "warning"), (2, "warning"), (3, "gate")])
def test_steps_that_changed_nothing_are_flagged_and_more_than_a_tenth_fail_a_gate(skipped: int, kind: str) -> None:
    record = {"fraction": 1.0, "steps": 20, "skipped": skipped, "spent": {"flops": 100.0}}
    run: Any = SimpleNamespace(read_record=lambda: record, read_log=lambda: [{"flops_spent": 5.0}, {"flops_spent": 99.0}])
    found = training_flags(run)
    assert [flag.kind for flag in found] == ([kind] if kind else [])
    assert all(f"at {skipped} of 20 steps the loss or the gradient was not finite" in flag.text for flag in found)


@pytest.mark.parametrize(("first", "told"), [(50.0, False), (86.0, True)])
def test_a_budget_that_was_gone_before_it_learned_is_told(first: float, told: bool) -> None:
    log = [{"flops_spent": first}, {"flops_spent": 93.0}, {"flops_spent": 100.0}]
    run: Any = SimpleNamespace(read_record=lambda: {"fraction": 1.0, "spent": {"flops": 100.0}}, read_log=lambda: log)
    said = "86% of the FLOPs that it spent were gone at its first step, as on its reward model: it learned in 3 steps"
    assert [flag.text for flag in training_flags(run)] == [said] * told


@pytest.mark.parametrize("idle", [0, 1, 2, 20])
def test_gradients_that_are_0_in_more_than_a_tenth_of_the_steps_are_told(idle: int) -> None:
    log = [{"flops_spent": 5.0 * step, "grad_norm": float(step >= idle)} for step in range(20)]
    run: Any = SimpleNamespace(read_record=lambda: {"fraction": 1.0, "spent": {"flops": 99.0}}, read_log=lambda: log)
    told = [flag.text.partition(":")[0] for flag in training_flags(run)]
    assert told == ([f"at {idle} of 20 steps the gradient was 0"] if idle > 2 else [])


@pytest.mark.parametrize("times", [0, 1, 2])
def test_answers_that_all_got_one_reward_are_told(times: int) -> None:
    log = [{"flops_spent": 31.0 * step} | ({"equal_rewards": 1.0} if step < times else {}) for step in range(4)]
    run: Any = SimpleNamespace(read_record=lambda: {"fraction": 1.0, "spent": {"flops": 93.0}}, read_log=lambda: log)
    told = [flag.text for flag in training_flags(run)]
    starts = [text.partition(" all answers of a step got one reward")[0] for text in told]
    assert starts == [[], ["once"], ["2 times"]][times]
