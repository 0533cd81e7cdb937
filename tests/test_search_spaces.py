"""What a method declares of itself for equal tuning and for comparison: its search space, and the setting that prices KL."""

import itertools
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bench import registry
from bench.overrides import options

SPACES = pytest.mark.parametrize("name", options("sweep"))


def axes(name: str) -> dict[str, list[Any]]:
    """Setting to its choices, as Hydra's own sweeper reads them."""
    with initialize_config_module(version_base="1.3", config_module="conf"):
        config = compose("config", overrides=[f"algorithm={name}", f"+sweep={name}"], return_hydra_config=True)
    params: Any = OmegaConf.to_container(config.hydra.sweeper.params)
    parser = OverridesParser.create()
    parsed = [parser.parse_override(f"{key}={value}") for key, value in params.items()]
    assert all(override.is_choice_sweep() for override in parsed)
    return {override.key_or_group: list(override.value().list) for override in parsed}  # type: ignore[union-attr]


@SPACES
def test_a_search_space_has_few_axes_of_rising_choices_and_the_learning_rate_is_one(name: str) -> None:
    found = axes(name)
    assert "algorithm.lr" in found
    assert len(found) in (2, 3)
    for choices in found.values():
        assert len(choices) in (3, 4)
        assert all(a < b for a, b in itertools.pairwise(choices))


@SPACES
def test_every_point_of_a_search_space_is_an_algorithm_and_the_default_is_one_of_them(name: str) -> None:
    found, cls = axes(name), registry.algorithm(name)
    settings = [key.removeprefix("algorithm.") for key in found]
    for point in itertools.product(*found.values()):
        cls(**dict(zip(settings, point, strict=True)))
    for setting, choices in zip(settings, found.values(), strict=True):
        assert getattr(cls(), setting) in choices


@pytest.mark.parametrize("name", registry.names())
def test_the_price_of_kl_that_a_method_names_is_one_of_its_settings_and_the_name_itself_is_none(name: str) -> None:
    cls = registry.algorithm(name)
    settings = registry.hyperparameters(cls())
    price = getattr(cls, "kl_price", "")
    assert not price or isinstance(settings[price], float)
    assert not {"kl_price", "closed_form"} & set(settings)
    assert price or not getattr(cls, "closed_form", False), "a closed form is one of a price"
