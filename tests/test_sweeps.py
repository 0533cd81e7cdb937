"""The declared search spaces: what a method may be tuned over, and that Hydra sweeps over just that."""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from workbench import Terminal

from bench import registry
from bench.config import build
from bench.overrides import options


def space(name: str) -> dict[str, list[Any]]:
    """Each axis of a method's space with its values, as Hydra's own sweeper reads them."""
    with initialize_config_module(version_base="1.3", config_module="conf"):
        config = compose("config", overrides=[f"algorithm={name}", f"+sweep={name}"], return_hydra_config=True)
    axes = {}
    for key, choices in OmegaConf.to_container(config.hydra.sweeper.params).items():
        override = OverridesParser.create().parse_override(f"{key}={choices}")
        assert override.is_choice_sweep(), f"{key}: {choices}"
        axes[key] = list(override.value().list)
    return axes


@pytest.mark.parametrize("name", options("sweep"))
def test_a_space_has_the_learning_rate_and_one_or_two_settings_more_of_few_rising_values_each(name: str) -> None:
    axes = space(name)
    assert "algorithm.lr" in axes
    assert 2 <= len(axes) <= 3
    for values in axes.values():
        assert 3 <= len(values) <= 4
        assert values == sorted(set(values))


@pytest.mark.parametrize("name", options("sweep"))
def test_every_point_of_a_space_is_a_setting_that_its_algorithm_takes(name: str) -> None:
    axes = space(name)
    cls = registry.algorithm(name)
    defaults = dataclasses.asdict(cls())
    for point in itertools.product(*axes.values()):
        chosen = {key.removeprefix("algorithm."): value for key, value in zip(axes, point, strict=True)}
        assert dataclasses.asdict(build(cls, defaults | chosen, "algorithm")) == defaults | chosen


def test_a_sweep_over_a_space_runs_every_point_of_it_once(terminal: Terminal) -> None:
    """No run gets further than its budget of nothing, so that this takes seconds."""
    done = terminal(terminal.run("-m", "algorithm=dpo", "+sweep=dpo", "budget.flops=0"))
    jobs = re.findall(r"#\d+ : (algorithm\.\S+=\S+) (algorithm\.\S+=\S+) ", done.stdout)
    hoped = itertools.product(*[[f"{key}={value}" for value in values] for key, values in space("dpo").items()])
    assert sorted(jobs) == sorted(hoped)
    assert done.stderr.count("budget.flops must be positive") == len(jobs)


def test_a_space_that_there_is_not_is_named(terminal: Terminal, tmp_path: Path) -> None:
    done = terminal(terminal.run("-m", "algorithm=dpo", "+sweep=dop"))
    assert done.returncode == 2
    assert "sweep/dop" in done.stderr
    assert not (tmp_path / "results").exists()
