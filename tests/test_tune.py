"""Equal tuning: the same number of points for every method, a rule worked by hand, and the real command end to end."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from isoalign.config.fill import build_config
from isoalign.config.task import TaskConfig
from isoalign.core.errors import MachineFailed, UserError
from isoalign.core.places import CONF
from isoalign.core.records import Estimate
from isoalign.data import hub
from isoalign.evaluation.tracks import OTHER_BASE
from isoalign.runs import tuned
from isoalign.tools.tuning import search as search_module
from isoalign.tools.tuning import space as space_module
from isoalign.tools.tuning.search import Search, at_ends, spread
from isoalign.tools.tuning.space import beyond, further, points, refused_beyond, space, widened
from isoalign.tools.tuning.trials import RULES, Trial, largest_gain, one_paired_error, one_standard_error, paired
from workbench import COMMAND, TINY, Terminal, complaint, finished

SPACE = {"a": ["1", "2", "3"], "b": ["x", "y", "z", "w"]}


def trial(name: str, reduction: float, half: float, kl: float, **more: Any) -> Trial:
    """A trial whose reduction has an interval of +- ``half``."""
    return Trial({"a": name}, Estimate(reduction, reduction - half, reduction + half, 100), kl, **more)


# -- points ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 12, 50])
def test_points_are_as_many_as_asked_distinct_and_of_the_space_and_a_small_space_is_walked_whole(count: int) -> None:
    found = points(SPACE, count)
    assert len({tuple(point.items()) for point in found}) == len(found) == min(count, 12)
    assert all(point[key] in SPACE[key] for point in found for key in SPACE)


def test_points_are_the_same_every_time_and_more_of_them_begin_with_the_fewer() -> None:
    assert points(SPACE, 4) == points(SPACE, 9)[:4]
    assert points(SPACE, 4, seed=1) != points(SPACE, 4, seed=2)


def test_few_points_already_spread_over_every_axis() -> None:
    found = points(SPACE, 6)
    assert {point["a"] for point in found} == {"1", "2", "3"}
    assert len({point["b"] for point in found}) >= 3


def test_a_space_is_read_as_it_is_typed_and_one_that_there_is_not_is_named() -> None:
    assert space("dpo") == {"algorithm.lr": ["3e-05", "0.0001", "0.0003", "0.001"], "algorithm.beta": ["0.03", "0.1", "0.3"]}
    with pytest.raises(UserError, match="nobody declares no search space"):
        space("nobody")


def test_a_value_typed_twice_is_one_and_settings_of_no_method_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_module, "folders", lambda: [tmp_path])
    (tmp_path / "sweep").mkdir()
    file = tmp_path / "sweep" / "mine.yaml"
    file.write_text("algorithm.lr: choice(1e-4, 0.0001, 1e-3)\nalgorithm.mode: choice(a, b, a)\n")
    assert space("mine") == {"algorithm.lr": ["0.0001", "0.001"], "algorithm.mode": ["a", "b"]}
    assert len(points({"a": ["1", "1"]}, 2)) == 1
    file.write_text("algorithm.lr: choice(1e-4, 1e-3)\nbudget.steps: choice(1, 2)\n")
    with pytest.raises(UserError, match=r"budget.steps is no setting of an algorithm, algorithm.KEY, which alone are tuned"):
        space("mine")


def test_of_a_large_space_only_as_many_points_are_drawn_as_are_asked_for() -> None:
    large = {f"algorithm.s{i}": ["1", "10", "100", "1000"] for i in range(24)}
    first = points(large, 6)
    tried = [Trial(at, Estimate(0.1, 0.0, 0.2, 5), 1.0) for at in first[:5]]
    best = Trial(first[5] | {"algorithm.s0": "1000"}, Estimate(0.9, 0.8, 1.0, 5), 1.0)
    found = beyond(large, [*tried, best], 2)
    assert len(found) == 2
    assert any(value in ("10000.0", "10000", "0.1") for at in found for value in at.values())


GRID = {"algorithm.lr": ["1e-4", "3e-4", "1e-3"], "algorithm.draws": ["2", "4", "8"], "algorithm.mode": ["a", "b"]}


def at(rate: str, draws: str, reduction: float, **more: Any) -> Trial:
    settings = {"algorithm.lr": rate, "algorithm.draws": draws, "algorithm.mode": "a"}
    return Trial(settings, Estimate(reduction, 0.0, 1.0, 100), 1.0, **more)


def test_a_space_grows_beyond_the_end_at_which_the_best_lies_and_nowhere_else() -> None:
    middle, corner = at("3e-4", "4", 0.1), at("1e-3", "8", 0.2)
    assert widened(GRID, [middle]) == {}
    assert widened(GRID, [middle, corner]) == {"algorithm.lr": ["0.003"], "algorithm.draws": ["16"]}
    assert widened(GRID, [middle, at("1e-4", "2", 0.2)]) == {"algorithm.lr": ["3e-05"], "algorithm.draws": ["1"]}
    assert widened(GRID, [middle, at("1e-3", "8", 0.2, gates=("gate",))]) == {}  # which is as many as half


def test_where_under_half_can_be_chosen_a_lower_rate_is_tried() -> None:
    gated = at("1e-3", "8", 0.2, gates=("gate",))
    assert widened(GRID, [at("3e-4", "4", 0.1), gated, gated]) == {"algorithm.lr": ["3e-05"]}
    assert widened(GRID, [gated]) == {"algorithm.lr": ["3e-05"]}


def test_later_trials_are_new_and_lie_beyond_the_end_or_are_the_next_ones_of_the_space() -> None:
    middle, corner = at("3e-4", "4", 0.1), at("1e-3", "4", 0.2)
    found = beyond(GRID, [middle, corner], 3)
    assert [one["algorithm.lr"] for one in found] == ["0.003"] * 3
    assert len({tuple(one.items()) for one in found}) == 3
    tried = [at(one["algorithm.lr"], one["algorithm.draws"], 0.1) for one in points(GRID, 4)]
    inner = [Trial(one, trial.gain, 1.0) for one, trial in zip(points(GRID, 4), tried, strict=True)]
    inner.append(at("3e-4", "4", 0.5))
    assert all(one in points(GRID, 18) and one not in [trial.settings for trial in inner] for one in beyond(GRID, inner, 3))
    assert at_ends([middle, corner], corner) == ["lr"]


def test_no_trial_goes_to_a_value_that_the_method_refuses() -> None:
    """Two draws make a pair or a baseline, so below 2 there is none; the learning rate, at its end too, goes on."""
    assert refused_beyond("rloo", space("rloo")) == {("algorithm.draws", "1")}
    assert refused_beyond("dpo", space("dpo")) == set()
    rates = {"algorithm.lr": ["1e-4", "3e-4", "1e-3"], "algorithm.draws": ["2", "4", "8"]}
    corner = Trial({"algorithm.lr": "1e-3", "algorithm.draws": "2"}, Estimate(0.2, 0.0, 1.0, 100), 1.0)
    assert widened(rates, [corner]) == {"algorithm.lr": ["0.003"], "algorithm.draws": ["1"]}
    found = beyond(rates, [corner], 3, refused=refused_beyond("rloo", rates))
    assert {one["algorithm.lr"] for one in found} == {"0.003"}
    assert {one["algorithm.draws"] for one in found} == {"2", "4", "8"}


def test_a_value_beyond_an_end_is_beyond_it() -> None:
    assert further(["1e-4", "3e-4"], -1) == "0.0009"
    assert further(["1.0", "1.1", "1.2"], -1) == ""  # 1.31 is 1 in one digit
    assert further(["0.10", "0.12"], 0) == "0.08"


# -- rules -------------------------------------------------------------------------------------------------------------


def test_of_trials_within_one_standard_error_of_the_best_the_one_with_least_kl_is_taken() -> None:
    """Half-widths of .0196 are standard errors of .01: .100 - .01 = .090 is the line, which b reaches and c does not."""
    a, b, c = trial("a", 0.100, 0.0196, 6.0), trial("b", 0.091, 0.0196, 2.0), trial("c", 0.089, 0.0196, 0.5)
    assert one_standard_error([c, a, b]) == b
    assert largest_gain([c, a, b]) == a


def test_the_paired_error_is_that_of_the_difference_prompt_by_prompt() -> None:
    """Scores of 4 prompts: the best is better by 0, 0, .02, .02, a mean of .01 with the error .01155 / 2 = .00577."""
    best, near, far = trial("best", 0.100, 0.1, 6.0), trial("near", 0.095, 0.1, 2.0), trial("far", 0.090, 0.1, 0.5)
    scores = {"a": 0.1, "b": 0.3, "c": 0.2, "d": 0.4}
    worse = scores | {"c": 0.22, "d": 0.42}
    found = paired([near, best, far], [worse, scores, worse | {"e": 9.0}])
    assert [one.behind_error for one in found] == pytest.approx([0.0057735, 0.0, 0.0057735])
    assert one_paired_error(found) == found[0]  # .005 behind; far is .010 behind
    assert one_standard_error(found) == found[2]  # whose error, .051, is that of a gain by itself
    assert largest_gain(found) == found[1]
    assert paired([Trial({"a": "x"}, failed="NaN")], [{}]) == [Trial({"a": "x"}, failed="NaN")]


def test_what_is_gated_failed_or_unknown_is_not_chosen() -> None:
    good = trial("good", 0.05, 0.01, 3.0)
    gated = trial("gated", 0.15, 0.01, 1.0, gates=("it repeats itself",))
    broken, unknown = Trial({"a": "broken"}, failed="NaN"), Trial({"a": "unknown"}, Estimate(None, None, None, 0), 1.0)
    for rule in RULES.values():
        assert rule([gated, broken, unknown, good]) == good
        assert rule([gated, broken, unknown]) is None
        assert rule([]) is None


def test_of_equal_kl_the_larger_reduction_is_taken() -> None:
    a, b = trial("a", 0.10, 0.0196, 2.0), trial("b", 0.095, 0.0196, 2.0)
    assert one_standard_error([b, a]) == a
    assert math.isclose(a.gain.value if a.gain and a.gain.value else 0, 0.1)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(furnished: Terminal) -> Terminal:
    """A terminal with a folder for tuned settings."""
    (furnished.home / "conf").mkdir()
    return furnished


def command(place: Terminal, *words: str) -> list[str]:
    settings = [word for word in TINY if word.startswith("task.")]
    flags = ["--results", "tuning", "--conf", "conf", "--store", str(place.store), "--trials", "2"]
    return [COMMAND, "tune", "nano", *words, *flags, f"task.model.name={place.model}", "budget.steps=2", *settings]


@pytest.mark.slow
def test_tuning_tries_each_method_equally_often_and_writes_the_winner_with_its_record(place: Terminal) -> None:
    done = place(command(place, "dpo", "sft_chosen"))
    assert done.returncode == 0, done.stderr + done.stdout
    for name in ("dpo", "sft_chosen"):
        record = json.loads((place.home / "tuning" / "nano" / f"{name}.json").read_text())
        assert len(record["trials"]) == 2
        assert [each["settings"] for each in record["trials"]] == points(space(name), 2)
        assert record["split"] == "validation"
        told = record["trials"]
        chosen = largest_gain(Trial(t["settings"], Estimate(**t["gain"]), t["kl"], tuple(t["gates"])) for t in told)
        assert chosen is not None
        assert record["chosen"] == chosen.settings
        text = (place.home / "conf" / "tuned" / f"nano_{name}.yaml").read_text()
        assert text.splitlines()[:2] == ["# @package _global_", f"# {record['command']}"]
        written = yaml.safe_load(text)
        assert written["tuning"] == "2 trials on validation prompts, by largest_gain"
        assert shlex.join(written["tuned_with"]) in record["command"]
        assert on_base(place.model) == f"tuned_on: {{weights: '{written['tuned_on']['weights']}', lora: 0, dtype: float32}}\n"
        assert {f"algorithm.{key}": float(value) for key, value in written["algorithm"].items()} == {
            key: float(value) for key, value in chosen.settings.items()
        }
    cards = [json.loads(file.read_text()) for file in (place.home / "tuning" / "trials" / "nano").glob("*.json")]
    assert len(cards) == 5  # with the SFT row
    assert {card["notes"]["split"] for card in cards} == {"validation"}
    assert {card["seed"] for card in cards} == {100}


@pytest.mark.slow
def test_a_second_study_has_other_points_and_seeds_and_a_file_that_runs_can_name(place: Terminal) -> None:
    done = place([*command(place, "dpo"), "--studies", "2"])
    assert done.returncode == 0, done.stderr + done.stdout
    records = [json.loads((place.home / "tuning" / "nano" / f"{name}.json").read_text()) for name in ("dpo", "dpo-2")]
    for number, record in enumerate(records):
        assert (record["study"], record["studies"], record["seed"]) == (number + 1, 2, 100 + number)
        assert [each["settings"] for each in record["trials"]] == points(space("dpo"), 2, 100 + number)
        assert "--studies 2" in record["command"]
    files = [yaml.safe_load((place.home / "conf" / "tuned" / f"nano_dpo{end}.yaml").read_text()) for end in ("", "-2")]
    assert [each["tuning"].partition(" on ")[0] for each in files] == ["2 trials in study 1 of 2", "2 trials in study 2 of 2"]
    assert "dpo over 2 studies: gain" in done.stdout.splitlines()[-1]
    cards = [json.loads(file.read_text()) for file in (place.home / "tuning" / "trials" / "nano").glob("dpo*.json")]
    assert sorted(card["seed"] for card in cards) == [100, 100, 101, 101]


@pytest.mark.slow
def test_a_method_of_which_every_trial_fails_is_told_recorded_and_harms_no_other(place: Terminal) -> None:
    done = place(command(place, "best_of_n", "sft_chosen", "budget.tokens=5"))
    assert done.returncode == 1
    assert "no trial of best_of_n can be chosen" in done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads((place.home / "tuning" / "nano" / "best_of_n.json").read_text())
    assert record["chosen"] is None
    assert all("the budget does not cover the best of" in each["failed"] for each in record["trials"])
    tuned = sorted(file.name for file in (place.home / "conf" / "tuned").iterdir())
    assert tuned == ["nano_sft_chosen.yaml"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nobody"], "unknown algorithm 'nobody'"),
        (["sft"], "sft declares no search space"),
        (["dpo", "--rule", "mine"], "unknown rule 'mine'"),
        (["dpo", "task.evaluation.split=test"], "task.evaluation.split=test: trials are scored on validation prompts"),
        (["dpo", "--trials", "0"], "--trials, --workers and --studies must be 1 or more"),
        (
            ["dpo", "algorithm.lr=1"],
            "algorithm.lr=1: settings must be of the task or the budget: task.KEY=VALUE or budget=NAME",
        ),
    ],
)
def test_what_cannot_be_tuned_is_one_line_and_nothing_is_written(terminal: Terminal, words: list[str], line: str) -> None:
    assert line in complaint(terminal([COMMAND, "tune", "nano", *words, "--store", str(terminal.store)]))
    assert not (terminal.home / "results").exists()


def on_base(model: Path, lora: int = 0, dtype: str = "float32") -> str:
    """The line of a tuned file that says on which base it was tuned."""
    return f"tuned_on: {{weights: '{hub.model_identity(str(model))}', lora: {lora}, dtype: {dtype}}}\n"


@pytest.fixture
def theirs(furnished: Terminal) -> Terminal:
    """A terminal with an installed package that brings a task and the settings that were tuned on it."""
    site = furnished.home / "site"
    conf = site / "mine" / "conf"
    (conf / "tuned").mkdir(parents=True)
    for package in (site / "mine", conf):
        (package / "__init__.py").touch()
    lines = f"tuning: 9 trials\n{on_base(furnished.model)}algorithm:\n  beta: 0.25\n"
    (conf / "tuned" / "theirs_dpo.yaml").write_text(f"# @package _global_\n{lines}")
    (conf / "task").mkdir()
    (conf / "task" / "theirs.yaml").write_text("defaults: [nano]\nname: theirs\n")
    info = site / "mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[isoalign.conf]\nmine = mine.conf\n")
    furnished.env["PYTHONPATH"] = str(site)
    return furnished


@pytest.mark.slow
def test_a_tuned_setting_is_told_on_the_card_unless_another_is_typed_or_the_base_is_another(theirs: Terminal) -> None:
    def beta_and_tuning(*words: str) -> tuple[float, str]:
        done = theirs(theirs.run("algorithm=dpo", "budget.steps=2", "task.training.snapshots=[]", *words))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads((theirs.home / done.stdout.splitlines()[-1]).read_text())
        return found["config"]["algorithm"]["beta"], found["notes"]["tuning"]

    beta, told = beta_and_tuning("task=theirs")
    assert beta == 0.25
    assert told.startswith("9 trials, but not with budget.steps=2 task.")
    assert beta_and_tuning("task=theirs", "algorithm.lr=0.001") == (0.25, "by hand")
    assert beta_and_tuning("task=theirs", "task.model.lora=2") == (0.1, OTHER_BASE)
    assert beta_and_tuning("task=nano", "task.training.betas=[0.9,0.99]") == (0.1, OTHER_BASE)  # tuned on nano's own model
    done = theirs([COMMAND, "board", "theirs", "--results", str(theirs.home / "results")])
    assert "not tuned: dpo" in done.stdout
    assert OTHER_BASE in (theirs.home / "results" / "theirs" / "leaderboard.md").read_text()


def test_settings_of_another_task_and_method_whose_file_has_the_same_name_are_not_taken(theirs: Terminal) -> None:
    conf = theirs.home / "site" / "mine" / "conf"
    (conf / "task" / "theirs_online.yaml").write_text("defaults: [nano]\nname: theirs_online\n")
    (conf / "tuned" / "theirs_dpo.yaml").rename(conf / "tuned" / "theirs_online_dpo.yaml")
    made = finished(theirs.store)
    told = "tuned/theirs_online_dpo.yaml is of online_dpo on theirs, not of dpo on theirs_online: rename the task"
    for named in ([], ["tuned=theirs_online_dpo"]):
        assert told in complaint(theirs(theirs.run("task=theirs_online", "algorithm=dpo", *named)))
    tune = [COMMAND, "tune", "theirs_online", "dpo", "--conf", "conf", f"task.model.name={theirs.model}"]
    assert told in complaint(theirs([*tune, "--store", str(theirs.store)]))
    assert finished(theirs.store) == made
    assert not (theirs.home / "conf").exists()


@pytest.mark.parametrize(
    ("words", "lr", "tuning"),
    [
        ([], 3e-5, "8 trials on validation prompts, by largest_gain"),
        (
            ["task.feedback.noise=0.2", "task.training.clip=2", "task.evaluation.draws=2", "task.training.micro_batch=8"],
            3e-5,
            "8 trials on validation prompts, by largest_gain, but not with task.feedback.noise=0.2 task.training.clip=2",
        ),
        (
            ["task.evaluation.scorer=hf:mine"],
            3e-5,
            "8 trials on validation prompts, by largest_gain, but not with task.evaluation.scorer=hf:mine",
        ),
        (["budget=tiny"], 3e-5, "8 trials on validation prompts, by largest_gain, but not with budget=tiny"),
        (["budget=small"], 3e-5, "8 trials on validation prompts, by largest_gain"),
        (["task.model.name=smollm2"], 1e-4, OTHER_BASE),
        (["task.model.name=nowhere"], 1e-4, OTHER_BASE),
        (["task.model.lora=8"], 1e-4, OTHER_BASE),
        (["task.model.dtype=bfloat16", "task.model.lora=8"], 1e-4, OTHER_BASE),
        (["task.model.lora=8", "algorithm.lr=0.5"], 0.5, "by hand"),
        (["algorithm.beta=0.5"], 3e-5, "by hand"),
        (["task=nano_open"], 1e-4, "default"),
        (["tuned=default"], 1e-4, "default"),
        (
            ["task=nano_sentiment", "tuned=nano_dpo"],
            3e-5,
            "8 trials on validation prompts, by largest_gain, as nano_dpo",
        ),
    ],
)
def test_settings_belong_to_the_base_that_they_were_tuned_on(words: list[str], lr: float, tuning: str) -> None:
    settings, told = composed(words)
    assert (settings["lr"], told) == (lr, tuning)
    assert "name" not in settings


def composed(words: list[str]) -> tuple[dict[str, Any], str]:
    """The settings of a run of DPO, and how they were found."""
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        config = compose("config", overrides=words, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        try:
            model: TaskConfig = build_config(TaskConfig, OmegaConf.to_container(config.task, resolve=True), "task")
            return tuned.settings_and_tuning(config, model.model)
        finally:
            HydraConfig.instance().cfg = None


def test_a_run_without_what_was_typed_for_its_search_says_with_what_that_was() -> None:
    typed = "task.constitution.file=kindness"
    _, plain = composed(["algorithm=cai"])
    assert plain.endswith(f", with {typed}")
    assert composed(["algorithm=cai", typed])[1] == plain.removesuffix(f", with {typed}")


def test_committed_settings_say_what_was_typed_for_their_search() -> None:
    for file in sorted((CONF / "tuned").glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        (line,) = [line for line in text.splitlines() if line.startswith("# isoalign tune")] or [""]
        typed = [word for word in shlex.split(line.lstrip("# ")) if word.startswith(("task.", "budget"))]
        assert (yaml.safe_load(text) or {}).get("tuned_with", []) == typed, file.name


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["tuned=nano_robust_dpo"], "tuned=nano_robust_dpo holds no settings of dpo"),
        (["tuned=nano_trl_dpo"], "tuned=nano_trl_dpo holds no settings of dpo"),
        (["tuned=smol_dpo"], "tuned=smol_dpo was tuned on another base than this run's"),
    ],
)
def test_settings_of_another_method_or_base_are_refused_where_they_are_asked_for(words: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        composed(words)


def test_the_spread_of_what_studies_chose_is_a_line() -> None:
    winners = [Trial({"algorithm.lr": lr}, Estimate(gain, 0, 1, 9), 1.0) for lr, gain in (("1e-3", 0.2), ("3e-4", 0.15))]
    assert spread("dpo", winners) == "dpo over 2 studies: gain 0.150 to 0.200; lr 1e-3, 3e-4"


def test_a_folder_for_settings_that_cannot_be_written_is_found_before_the_trials(terminal: Terminal) -> None:
    (terminal.home / "conf").touch()
    line = complaint(terminal(command(terminal, "dpo")))
    assert "cannot write to conf/tuned: " in line
    assert line.rstrip().endswith("; choose another folder with --conf")
    assert not terminal.store.exists()


def test_tuning_on_another_base_does_not_replace_what_was_tuned(terminal: Terminal) -> None:
    conf = terminal.home / "conf" / "tuned"
    conf.mkdir(parents=True)
    (conf / "nano_kto.yaml").write_text("# @package _global_\ntuning: 9 trials\nalgorithm:\n  lr: 1\n")
    line = complaint(terminal(command(terminal, "dpo", "kto")))
    assert "conf/tuned/nano_kto.yaml holds settings of another base than this one; make a task of this base" in line
    assert not terminal.store.exists()


def test_tuning_a_changed_task_does_not_replace_what_was_tuned_without_the_change(tmp_path: Path) -> None:
    plain = Search("nano", 8, "largest_gain", 1, tmp_path)
    (tmp_path / "tuned").mkdir()
    file = tmp_path / "tuned" / "nano_kto.yaml"
    file.write_text(f"tuning: 8 trials\ntuned_on: {json.dumps(plain.base)}\nalgorithm: {{lr: 1}}\n")
    noisy = replace(plain, settings=("task.feedback.noise=0.4",))
    assert plain.file("kto", tmp_path) == file
    with pytest.raises(UserError, match=r"nano_kto.yaml was tuned with nothing typed, this search is with task.feedback.noi"):
        noisy.file("kto", tmp_path)
    for same in ("budget=small", "task.evaluation.draws=2", "task.training.micro_batch=8"):
        assert replace(plain, settings=(same,)).file("kto", tmp_path) == file
    file.write_text(file.read_text() + 'tuned_with: ["task.feedback.noise=0.4"]\n')
    assert noisy.file("kto", tmp_path) == file
    with pytest.raises(UserError, match="this search is with nothing typed"):
        plain.file("kto", tmp_path)


def test_a_file_that_runs_would_not_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr(search_module, "folders", lambda: [first, second])
    (first / "tuned").mkdir(parents=True)
    search = Search("nano", 8, "largest_gain", 1, tmp_path)
    assert search.file("kto", second) == second / "tuned" / "nano_kto.yaml"
    (first / "tuned" / "nano_kto.yaml").write_text(f"tuned_on: {json.dumps(search.base)}\n")
    with pytest.raises(UserError, match=r"runs read .*first/tuned/nano_kto.yaml before"):
        search.file("kto", second)
    assert search.file("kto", tmp_path / "third").parent.parent.name == "third"  # where no run looks


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (-9, "a trial of sft was ended by SIGKILL, as where memory runs out"),
        (75, "a trial of sft could not be run: the disk is full; what was tried is kept"),
    ],
)
def test_a_trial_that_the_machine_ends_ends_the_search(
    status: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.CompletedProcess([], status, "", "isoalign: the disk is full")
    monkeypatch.setattr(search_module.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(MachineFailed, match=told):
        list(Search("nano", 8, "largest_gain", 1, tmp_path).run(["dpo"], lambda *_: None))


def test_trials_are_of_validation_prompts_and_of_no_earlier_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 1, "", "isoalign: no")

    monkeypatch.setattr(search_module.subprocess, "run", run)
    search = Search("nano", 8, "largest_gain", 1, tmp_path, settings=("task.evaluation={split: test}",))
    with pytest.raises(UserError, match="the SFT row failed: no"):
        list(search.run(["dpo"], lambda *_: None))
    (words,) = asked
    assert "tuned=default" in words
    assert words.index("task.evaluation={split: test}") < words.index("task.evaluation.split=validation")
