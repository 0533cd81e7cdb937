"""The outer loop of RLHF: later rounds of feedback come from the policy itself, are billed, and survive a kill."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoalign.config.task import RoundsConfig
from isoalign.data.preferences import join_feedback
from workbench import COMMAND, Terminal, make_feedback

LOOP = ["task.rounds.count=2", "task.rounds.prompts=8", "budget.steps=4"]


def trained(terminal: Terminal, *words: str) -> tuple[dict[str, Any], Path]:
    """A run's card, and the folder of its training."""
    done = terminal(terminal.run(*words))
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    verified = terminal([COMMAND, "verify", done.stdout.splitlines()[-1], "--store", str(terminal.store)])
    assert verified.returncode == 0, verified.stdout
    return card, terminal.store / f"train-{card['parents']['train']}"


def test_verdicts_of_several_rounds_keep_their_own_cost() -> None:
    first, second = make_feedback("simulated", [3, 4], [1, 2]), make_feedback("simulated", [2], [3])
    both = join_feedback([first, second])
    assert len(both) == 3
    assert both.chosen == first.chosen + second.chosen
    assert both.price([0, 2]) == {"feedback": 20}
    second.flops_each["judge"] = 7
    assert join_feedback([first, second]).price([0, 2]) == {"feedback": 20, "judge": 7}
    assert join_feedback([first]) is first
    assert join_feedback([replace(first, calibration=5), replace(second, calibration=7)]).calibration == 12


@pytest.mark.parametrize("bad", [{"count": 0}, {"prompts": -1}])
def test_rounds_that_make_no_sense_are_named(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"task\.rounds\.count"):
        RoundsConfig(**bad)


@pytest.mark.slow
def test_a_round_of_equal_answers_gives_no_verdict_and_the_run_continues(furnished: Terminal) -> None:
    margin = ["task.feedback.margin=0.4", "task.rounds.prompts=1"]  # the answers to one prompt are nearer to each other
    card, train = trained(furnished, "algorithm=dpo", "algorithm.batch_size=4", *LOOP, *margin)
    assert (train / "rounds" / "1" / "pairs-annotator").is_dir()
    assert not (train / "rounds" / "1" / "pairs-annotator" / "pairs.jsonl").exists()
    assert card["training"]["steps"] == 4


@pytest.mark.slow
def test_a_second_round_asks_the_policy_and_dpo_learns_of_both(furnished: Terminal) -> None:
    card, train = trained(furnished, "algorithm=dpo", "algorithm.batch_size=8", *LOOP)
    (place,) = card["training"]["rounds"]
    assert place["steps"] == 2
    assert place["labels"] == {"simulated": 16}
    answers = [json.loads(row) for row in (train / "rounds" / "1" / "completions" / "answers.jsonl").read_text().splitlines()]
    firsts = (furnished.store / f"completions-{card['parents']['completions']}" / "answers.jsonl").read_text().splitlines()
    base = {row["id"]: row["answers"] for row in map(json.loads, firsts)}
    assert len(answers) == 8
    assert all(row["answers"] != base[row["id"]] for row in answers)
    assert card["spent"]["labels"]["simulated"] > 16


@pytest.mark.slow
def test_ppo_pays_for_a_reward_model_in_every_round_and_is_read_by_the_last(furnished: Terminal) -> None:
    words = ["algorithm=ppo", "algorithm.rollouts=8", "algorithm.minibatch=8", "algorithm.epochs=1", "task.reward.pairs=8"]
    card, train = trained(furnished, *words, *LOOP)
    once, _ = trained(furnished, *words, "budget.steps=4")
    backward = [item["flops"] for bill in (card, once) for item in bill["spent"]["items"]
                if (item["role"], item["kind"]) == ("reward", "backward")]  # fmt: skip
    assert 1.5 * backward[1] < backward[0] < 2.5 * backward[1]
    assert sorted(file.name for file in (train / "rounds" / "1").iterdir()) == [
        "completions", "pairs-annotator", "reward-annotator-0",
    ]  # fmt: skip
    reading = json.loads((furnished.store / f"scores-{card['parents']['scores']}" / "recipe.json").read_text())
    assert reading["reward"] == {"train": card["parents"]["train"], "round": 1}
    assert card["metrics"]["proxy_reward"]["value"] is not None
    assert "rounds" not in once["training"]


@pytest.mark.slow
def test_a_run_killed_in_its_second_round_ends_as_one_that_was_not(furnished: Terminal, tmp_path: Path) -> None:
    command = furnished.run("algorithm=dpo", "algorithm.batch_size=8", *LOOP)
    process = furnished.start(command)
    while process.poll() is None and not list(furnished.store.glob(".work-train-*/rounds/1/completions")):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    card, train = trained(furnished, "algorithm=dpo", "algorithm.batch_size=8", *LOOP)
    other = Terminal(tmp_path, tmp_path / "again", furnished.model, furnished.env)
    fresh, theirs = trained(other, "algorithm=dpo", "algorithm.batch_size=8", *LOOP)
    assert (train / "policy" / "model.safetensors").read_bytes() == (theirs / "policy" / "model.safetensors").read_bytes()
    assert card["spent"] | {"seconds": 0} == fresh["spent"] | {"seconds": 0}
    assert card["metrics"] == fresh["metrics"]
