"""The declared search spaces: what a method may be tuned over, and that Hydra sweeps over just that."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module

from isoalign.config.fill import build_config
from isoalign.config.search_path import options, prepare
from isoalign.core import plugins
from isoalign.core.records import Estimate
from isoalign.runs import tuned
from isoalign.runs.overrides import task_named
from isoalign.tools.tuning.space import RATE, points, space
from isoalign.tools.tuning.trials import RULES, Trial
from isoalign.training import registry
from workbench import Terminal, quick

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", options("sweep"))
def test_a_space_has_the_learning_rate_and_one_or_two_settings_more_of_few_rising_values_each(name: str) -> None:
    axes = {key: list(map(float, values)) for key, values in space(name).items()}
    assert "algorithm.lr" in axes or not hasattr(registry.algorithm(name), "lr")
    assert 1 <= len(axes) <= 3
    for values in axes.values():
        assert 3 <= len(values) <= 4
        assert values == sorted(set(values))


@pytest.mark.parametrize("name", options("sweep"))
def test_every_point_of_a_space_is_a_setting_that_its_algorithm_takes(name: str) -> None:
    axes = space(name)
    cls = registry.algorithm(name)
    defaults = dataclasses.asdict(cls())
    for point in itertools.product(*axes.values()):
        chosen = {key.removeprefix("algorithm."): yaml.safe_load(value) for key, value in zip(axes, point, strict=True)}
        hoped = defaults | {key: type(defaults[key])(value) for key, value in chosen.items()}
        assert dataclasses.asdict(build_config(cls, defaults | chosen, "algorithm")) == hoped


@pytest.mark.slow
def test_a_sweep_over_a_space_runs_every_point_of_it_once(terminal: Terminal) -> None:
    """No run gets further than its budget of nothing, so that this takes seconds."""
    done = terminal(terminal.run("-m", "algorithm=dpo", "+sweep=dpo", "budget.flops=0"))
    jobs = re.findall(r"#\d+ : (algorithm\.\S+=\S+) (algorithm\.\S+=\S+) ", done.stdout)
    hoped = itertools.product(*[[f"{key}={float(value)}" for value in values] for key, values in space("dpo").items()])
    assert sorted(jobs) == sorted(hoped)
    assert done.stderr.count("budget.flops must be positive") == len(jobs)


def test_a_space_that_there_is_not_is_named(terminal: Terminal, tmp_path: Path) -> None:
    done = terminal(terminal.run("-m", "algorithm=dpo", "+sweep=dop"))
    assert done.returncode == 2
    assert "sweep/dop" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", registry.algorithm_names())
def test_kl_price_names_a_setting_and_is_not_a_setting_itself(name: str) -> None:
    cls = registry.algorithm(name)
    settings = registry.hyperparameters(cls())
    price = getattr(cls, "kl_price", "")
    assert not price or isinstance(settings[price], float)
    assert not {"kl_price", "closed_form"} & set(settings)
    assert price or not getattr(cls, "closed_form", False), "a closed form is one of a price"


RECORDS = sorted((ROOT / "results" / "tuning").glob("*/*.json"))


@pytest.mark.parametrize("name", sorted({*options("sweep")} & {*plugins.algorithms()}))
def test_spaces_are_of_one_kind_as_the_rules_say(name: str) -> None:
    declared = space(name)
    assert 1 <= len(declared) <= 3
    assert all(3 <= len(values) <= 4 for values in declared.values())
    if name != "best_of_n":
        rates = sorted(map(float, declared[RATE]))
        assert rates[-1] >= 29.9 * rates[0]


@pytest.mark.parametrize("record", [r for r in RECORDS if r.stem != "reward"], ids=lambda r: f"{r.parent.name}_{r.stem}")
def test_a_tuned_file_says_what_its_record_chose_and_the_rule_chooses_it_again(record: Path) -> None:
    told = json.loads(record.read_text())
    gains = [one.pop("reduction", None) or one.pop("gain", None) for one in told["trials"]]  # the older name is toxicity's
    trials = [Trial(**one, gain=e and Estimate(**e)) for one, e in zip(told["trials"], gains, strict=True)]
    early = len(trials) - len(trials) // 3  # later ones may lie beyond the space
    assert [trial.settings for trial in trials[:early]] == points(space(told["algorithm"]), early, told["seed"])
    winner = RULES[told["rule"]](trials)
    assert told["chosen"] == (winner and winner.settings)
    file = ROOT / "conf" / "tuned" / f"{told['task']}_{record.stem}.yaml"
    assert file.exists() == (winner is not None)
    if winner:
        written = yaml.safe_load(file.read_text())
        study = f" in study {told['study']} of {told['studies']}" if "study" in told else ""
        assert written["tuning"] == f"{len(trials)} trials{study} on validation prompts, by {told['rule']}"
        assert {f"algorithm.{name}": float(value) for name, value in written["algorithm"].items()} == {
            name: float(value) for name, value in winner.settings.items()
        }


@pytest.mark.parametrize(
    ("ours", "theirs", "names"),
    [
        ("dpo", "trl_dpo", {"beta": "beta", "lr": "lr"}),
        ("kto", "trl_kto", {"beta": "beta", "undesirable_weight": "undesirable_weight", "lr": "lr"}),
        ("orpo", "trl_orpo", {"odds_weight": "beta", "lr": "lr"}),
        ("simpo", "trl_simpo", {"beta": "beta", "gamma": "simpo_gamma", "lr": "lr"}),
        ("grpo", "trl_grpo", {"kl": "beta", "draws": "num_generations", "lr": "lr"}),
        ("online_dpo", "trl_online_dpo", {"beta": "beta", "lr": "lr"}),
        ("rloo", "trl_rloo", {"kl": "beta", "draws": "num_generations", "lr": "lr"}),
    ],
)
def test_trl_s_trainers_have_the_settings_that_tuning_chose_for_ours(ours: str, theirs: str, names: dict[str, str]) -> None:
    first, second = (yaml.safe_load((ROOT / "conf" / "tuned" / f"nano_{name}.yaml").read_text()) for name in (ours, theirs))
    assert second["algorithm"] == {names[name]: value for name, value in first["algorithm"].items()}
    assert second["tuning"] == f"as {ours}, {first['tuning']}"


@pytest.mark.parametrize(
    "file",
    quick(
        [pytest.param(file, id=file.stem) for file in sorted((ROOT / "conf" / "tuned").glob("*_*.yaml"))],
        "nano_dpo", "nano_kto", "nano_ppo", "nano_rlaif", "nano_trl_dpo", "smol_dpo",
    ),
)  # fmt: skip
def test_a_run_takes_the_settings_of_its_tuned_file_and_says_so(file: Path) -> None:
    task = next(name for name in sorted(options("task"), key=len, reverse=True) if file.stem.startswith(f"{name}_"))
    name = file.stem.removeprefix(f"{task}_")
    prepare()
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        config = compose("config", overrides=[f"task={task}", f"algorithm={name}"])
    written = yaml.safe_load(file.read_text())
    for key, value in written["algorithm"].items():
        assert float(config.algorithm[key]) == float(value)
    assert config.tuning == written["tuning"]
    assert config.tuned_on == tuned.base_of(task_named(task).model)
    assert set(config) == {
        "task",
        "algorithm",
        "budget",
        "seed",
        "threads",
        "device",
        "results",
        "store",
        "tracking",
        "tuning",
        "tuned_on",
        "tuned_with",
    }
    assert config.tuned_with == written.get("tuned_with", [])
