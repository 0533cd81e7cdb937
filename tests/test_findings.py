"""The rules by which claims of the literature are judged: each can hold, fail, and be not shown."""

import pytest
from hydra import compose, initialize_config_module
from scripts.findings import arms, claims

from isoalign.core.records import Estimate
from isoalign.stats.comparisons import Comparison
from isoalign.training import registry


def gap(low: float, high: float, effect: float = 0.1) -> arms.Gap:
    middle = (low + high) / 2
    return arms.Gap(2.0, Comparison(middle, low, high, 0.5, None, 99, 0), Estimate(effect, effect, effect, 99))


@pytest.mark.parametrize(
    ("low", "high", "above", "equal"),
    [
        (0.001, 0.015, True, True),  # above, and by less than a fifth of .1
        (-0.019, 0.019, None, True),
        (-0.019, 0.021, None, None),
        (0.021, 0.09, True, False),
        (-0.09, -0.021, False, False),
        (-0.2, 0.2, None, None),  # hardly measured: not equal
    ],
)
def test_equal_is_what_lies_wholly_within_a_fifth_of_the_effect(
    low: float, high: float, above: bool | None, equal: bool | None
) -> None:
    assert (gap(low, high).above, gap(low, high).equal) == (above, equal)


def test_without_a_common_kl_nothing_is_shown() -> None:
    nowhere = arms.Gap(why="no KL in common")
    assert (nowhere.above, nowhere.equal, str(nowhere)) == (None, None, "no KL in common")


@pytest.mark.parametrize(
    ("own", "control", "holds"),
    [
        (gap(-0.01, 0.01), gap(-0.09, -0.03), True),
        (gap(-0.01, 0.01), gap(-0.01, 0.01), None),  # a reward model near chance passes too
        (gap(-0.01, 0.01), gap(-0.05, 0.01), None),
        (gap(0.03, 0.09), gap(-0.01, 0.01), False),
        (gap(-0.05, 0.01), gap(-0.09, -0.03), None),
    ],
)
def test_equality_with_rlhf_is_shown_only_where_its_control_fails(
    own: arms.Gap, control: arms.Gap, holds: bool | None
) -> None:
    class Bench(arms.Bench):
        def gap(self, first: str, second: str) -> arms.Gap:
            return {"rlaif": own, "ppo_noisy": control}[first]

    assert claims.rlaif(Bench()).holds is holds


def test_every_arm_can_be_typed_and_every_method_is_known() -> None:
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        for words in arms.RUNS.values():
            compose("config", overrides=list(words))
    assert set(claims.VARIANTS) <= set(registry.algorithm_names())
