"""The rules by which claims of the literature are judged: each can hold, fail, and be not shown."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from scripts.findings import __main__ as findings
from scripts.findings import arms, claims

from isoalign.core.records import Card, Estimate, Flag, Point
from isoalign.stats.pairs import Comparison
from isoalign.training import registry

KLS = (0.0, 0.25, 0.38, 0.57, 0.85, 1.3, 1.9, 2.9, 4.3, 6.5, 9.7, 15.0, 22.0)  # as many snapshots as a run may have
PROMPTS = [f"p{i:02}" for i in range(60)]
GATE = "perplexity 146 is over 2.0 times the SFT's 56.7"
Arms = dict[str, list[Card]]


def arm(
    name: str, slope: float = 0.1, end: float = 9.7, seeds: int = 3, spread: float = 0.002, gate: bool = False,
    gains: Sequence[float] = (), proxy: Sequence[float] = (), settings: Mapping[str, Any] | None = None, **values: float,
) -> list[Card]:  # fmt: skip
    """Cards of an arm that gains ``slope`` times the root of its KL, or ``gains`` at its points, and other ``values`` at its
    end. Means are exact; prompts vary by ``spread``, and seeds not at all."""
    kls = [kl for kl in KLS if kl <= end]
    gains = gains or [slope * math.sqrt(kl) for kl in kls]

    def by_prompt(mean: float, wide: float = spread) -> dict[str, float | None]:
        noise = rng.normal(size=len(PROMPTS))
        return dict(zip(PROMPTS, (mean + wide * (noise - noise.mean())).tolist(), strict=True))

    made = []
    for seed in range(seeds):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        scored: list[dict[str, dict[str, float | None]]] = [
            {"kl": dict.fromkeys(PROMPTS, kl), "toxicity_mean": by_prompt(0.5 - gain, spread * (kl > 0))}
            | ({"proxy_reward": by_prompt(proxy[i])} if proxy else {})
            for i, (kl, gain) in enumerate(zip(kls, gains, strict=True))
        ]
        points = [Point(i / (len(kls) - 1), 1e11 * i, i, {}, value) for i, value in enumerate(scored)]
        metrics = {metric: Estimate(mean, None, None, 60) for metric, mean in values.items()}
        made.append(Card(
            f"{name}{seed}", "nano", name, {"algorithm": dict(settings or {}), "seed": seed}, seed, {"flops": 1e12}, {},
            metrics, {"sft": "a"}, {"metric kl": "2"}, "", [Flag("gate", GATE)] if gate else [],
            values=scored[-1] | {metric: by_prompt(mean) for metric, mean in values.items()}, curve=points,
        ))  # fmt: skip
    return made


class Bench(arms.Bench):
    """Made-up cards by arm; drift gains .03 times the root of the KL, in three directions."""

    def __init__(self, own: Arms, drift: Sequence[float] = (0.029, 0.03, 0.031)) -> None:
        self.own = own | {"drift_rloo": [
            card for i, slope in enumerate(drift)
            for card in arm("drift_rloo", slope, end=22, seeds=1, settings={"reward_seed": i})
        ]}  # fmt: skip

    def found(self, name: str) -> list[Card]:
        return self.own.get(name, [])


def gap(low: float, high: float, effect: float = 0.1) -> arms.Gap:
    middle = (low + high) / 2
    return arms.Gap(2.0, Comparison(middle, low, high, 0.5, None, 99, 0), Estimate(effect, effect / 2, effect * 1.5, 99))


# gaps at equal KL


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
    assert gap(low, high).worse is (high == -0.021)


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.2), (-0.3, -0.1), (None, None)])
def test_where_the_second_is_not_shown_to_gain_nothing_is_equal_or_unequal(low: float | None, high: float | None) -> None:
    for each in (gap(-0.001, 0.001), gap(0.5, 0.6)):
        assert replace(each, effect=Estimate(0.1, low, high, 99)).equal is None


def test_without_a_common_kl_nothing_is_shown() -> None:
    found = Bench({"ppo": arm("ppo"), "near": arm("near", end=0.38)}).gap("near", "ppo")
    assert (found.above, found.equal, found.margin) == (None, None, None)
    assert str(found) == "not shown: near, ppo have no KL of 0.5, 1, 2, 4, 8, 16 nats in common"


def test_a_gap_is_read_at_the_largest_common_kl_and_its_effect_is_what_is_above_drift() -> None:
    made = {"rlaif": arm("rlaif", 0.11), "ppo": arm("ppo", 0.1), "weak": arm("weak", 0.05, end=4.3)}
    both = Bench(made).gap("rlaif", "ppo")
    assert both.kl == 8.0
    assert both.difference is not None
    assert both.effect is not None
    assert both.difference.value == pytest.approx(0.01 * math.sqrt(8))
    assert (both.effect.value, both.beyond) == (pytest.approx(0.07 * math.sqrt(8), abs=1e-3), "drift_rloo")
    assert both.margin == pytest.approx(0.014 * math.sqrt(8), abs=1e-3)
    assert str(both).endswith("above drift_rloo (drift_dpo not known)")
    shared = Bench(made).gaps(["rlaif", "weak"], "ppo")
    assert {name: (each.kl, each.above) for name, each in shared.items()} == {"rlaif": (4.0, True), "weak": (4.0, False)}


@pytest.mark.parametrize(("drift", "end"), [((), 22.0), ((0.03,), 22.0), ((0.03, 0.03), 6.5)])
def test_where_what_is_drift_is_not_known_nothing_is_equal(drift: Sequence[float], end: float) -> None:
    bench = Bench({"a": arm("a"), "b": arm("b")}, drift)
    bench.own["drift_rloo"] = [
        card for i, slope in enumerate(drift) for card in arm("drift_rloo", slope, end, 1, settings={"reward_seed": i})
    ]
    found = bench.gap("a", "b")
    assert (found.kl, found.effect, found.equal) == (8.0, None, None)
    assert str(found).endswith("at 8 nats, where what is drift is not known")


def test_a_second_control_of_few_draws_that_spread_makes_no_margin_wider() -> None:
    own = {"a": arm("a"), "b": arm("b")}
    one = Bench(own, drift=(0.089, 0.09, 0.091)).gap("a", "b")
    bench = Bench(own, drift=(0.089, 0.09, 0.091))
    bench.own["drift_dpo"] = [
        card for i in range(2)
        for card in arm("drift_dpo", 0.02 + 0.02 * i, end=22, seeds=1, settings={"verdict_seed": i})
    ]  # fmt: skip
    both = bench.gap("a", "b")
    assert (both.beyond, both.effect.value) == ("drift_rloo", one.effect.value)
    assert both.effect.low < one.effect.low, "it has to be above both"
    assert (one.margin, both.margin) == (pytest.approx(0.002 * math.sqrt(8), abs=1e-4), None)


def test_a_control_that_is_not_known_there_is_named() -> None:
    bench = Bench({"a": arm("a"), "b": arm("b")})
    bench.own["drift_dpo"] = [
        card for i in range(2) for card in arm("drift_dpo", 0.06, end=1.3, seeds=1, settings={"verdict_seed": i})
    ]
    assert str(bench.gap("a", "b")).endswith("above drift_rloo (drift_dpo not known)")


def test_of_two_controls_for_drift_the_one_that_leaves_least_counts_and_they_are_of_the_same_base() -> None:
    bench = Bench({"a": arm("a"), "b": arm("b")})
    bench.own["drift_dpo"] = [
        card for i in range(2) for card in arm("drift_dpo", 0.06, end=22, seeds=1, settings={"verdict_seed": i})
    ]
    found = bench.gap("a", "b")
    assert found.effect is not None
    assert (found.effect.value, found.beyond) == (pytest.approx(0.04 * math.sqrt(8), abs=1e-3), "drift_dpo")
    bench.own["drift_dpo"] = [replace(card, parents={"sft": "b"}) for card in bench.own["drift_dpo"]]
    with pytest.raises(SystemExit, match="a, b and the controls for drift: different bases"):
        bench.gap("a", "b")


def test_a_gain_that_is_drift_has_no_margin() -> None:
    assert Bench({"a": arm("a"), "b": arm("b")}, drift=(0.08, 0.1, 0.12)).gap("a", "b").equal is None


@pytest.mark.parametrize("gated", ["rlaif", "ppo"])
def test_a_gap_with_a_side_that_fails_a_gate_is_not_shown_and_others_are(gated: str) -> None:
    made = {name: arm(name, gate=name == gated) for name in ("rlaif", "ppo", "dpo")}
    found = Bench(made).gaps(["rlaif", "dpo"], "ppo")
    assert str(found["rlaif"]) == f"not shown: {gated} fails gate {GATE}"
    assert (found["rlaif"].equal, found["dpo"].equal) == (None, None if gated == "ppo" else True)


def test_a_control_for_drift_counts_though_its_text_fails_a_gate_at_the_end() -> None:
    bench = Bench({"a": arm("a"), "b": arm("b")})
    bench.own["drift_rloo"] = [replace(card, flags=[Flag("gate", GATE)]) for card in bench.own["drift_rloo"]]
    assert bench.gap("a", "b").beyond == "drift_rloo"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"budget": {"flops": 2e12}}, "different budgets"),
        ({"parents": {"sft": "b"}}, "different bases"),
        ({"contents": {"sft": "0123456789"}}, "different bases"),
        ({"versions": {"metric kl": "3"}}, "different versions of metrics"),
    ],
)
def test_arms_of_other_bases_budgets_or_metrics_are_not_compared(change: dict[str, Any], says: str) -> None:
    other = [replace(card, **change) for card in arm("ppo")]
    for wrong in (other, arm("ppo")[:2] + other[2:]):
        with pytest.raises(SystemExit, match=says):
            Bench({"dpo": arm("dpo"), "ppo": wrong}).gap("dpo", "ppo")


def test_an_arm_needs_a_card_of_one_configuration_for_each_seed() -> None:
    of = Bench({
        "few": arm("few", seeds=2), "twice": arm("twice") + arm("twice", seeds=1), "none": [],
        "mixed": arm("mixed", seeds=2) + arm("mixed", settings={"lr": 1})[2:], "sft": arm("sft", seeds=1),
    })  # fmt: skip
    for name, says in [("few", "2 of 3"), ("twice", "several"), ("none", "0 of 3"), ("mixed", "different settings")]:
        with pytest.raises(SystemExit, match=says):
            of.cards_of(name)
    assert len(of.cards_of("sft")) == 1


# rules: each holds, fails and is not shown


@pytest.mark.parametrize(
    ("first", "second", "holds"),
    [
        (arm("a", 0.12), arm("b", 0.1), True),
        (arm("a", 0.08), arm("b", 0.1), False),
        (arm("a", 0.1), arm("b", 0.1), None),
        (arm("a", 0.12, spread=0.5), arm("b", 0.1, spread=0.5), None),
        (arm("a", 0.12, end=4.3), arm("b", 0.1), None),  # ahead at equal KL, behind at the end
        (arm("a", 0.1, end=4.3), arm("b", 0.1), False),  # behind at the end, level at equal KL
        (arm("a", 0.12, gate=True), arm("b", 0.1), None),
        (arm("a", 0.08), arm("b", 0.1, gate=True), None),
        (arm("a", 0.1, end=0.38), arm("b", 0.1), None),  # behind at the end alone
    ],
)
def test_one_method_beats_another(first: list[Card], second: list[Card], holds: bool | None) -> None:
    assert claims.beats("a", "b")(Bench({"a": first, "b": second})).holds is holds


EQUALITIES = {
    "rlaif": (claims.rlaif, ("rlaif",), "ppo", "ppo_noisy"),
    "about_equal": (claims.about_equal("grpo_2", "grpo_16", "", "draws"), ("grpo_2",), "grpo_16", "sft_chosen"),
    "penalty": (claims.penalty, ("ppo_free", "ppo_dear"), "ppo_default", "sft_chosen"),
}


@pytest.mark.parametrize("rule", EQUALITIES)
@pytest.mark.parametrize(
    ("own", "control", "holds"),
    [
        ({}, {"slope": 0.05}, True),
        ({"slope": 0.12}, {"slope": 0.05}, False),  # a fifth above drift is .014
        ({"slope": 0.08}, {"slope": 0.1}, False),
        ({"slope": 0.112}, {"slope": 0.05}, True),
        ({}, {"slope": 0.1}, None),  # a control that is equal too
        ({}, {"slope": 0.2}, None),  # or better
        ({}, {"slope": 0.05, "spread": 1.5}, None),
        ({"spread": 0.5}, {"slope": 0.05}, None),
        ({"slope": 0.12, "gate": True}, {"slope": 0.05}, None),
        ({}, {"slope": 0.05, "gate": True}, None),
        ({}, {"slope": 0.05, "end": 0.38}, None),
    ],
)
def test_two_methods_are_about_equal(rule: str, own: dict[str, Any], control: dict[str, Any], holds: bool | None) -> None:
    judge, firsts, second, beside = EQUALITIES[rule]
    made = {name: arm(name) for name in (*firsts, second)}
    made |= {firsts[-1]: arm(firsts[-1], **own), beside: arm(beside, **control)}
    assert judge(Bench(made)).holds is holds


@pytest.mark.parametrize("rule", [claims.penalty, claims.about_equal("ppo_free", "ppo_default", "", "kl"), claims.noise])
def test_arms_that_differ_in_more_than_what_is_judged_are_not_compared(rule: Any) -> None:
    names = ("ppo_free", "ppo_dear", "ppo_default", "sft_chosen", "ppo_noisy", "ppo")
    made = {name: arm(name, settings={"lr": 2 if name in ("ppo_default", "ppo") else 1}) for name in names}
    with pytest.raises(SystemExit, match="different lr"):
        rule(Bench(made))


def variants(slope: float = 0.08, count: int = 11, **changes: list[Card]) -> Arms:
    return {"dpo": arm("dpo")} | {name: arm(name, slope) for name in claims.VARIANTS[:count]} | changes


@pytest.mark.parametrize(
    ("made", "holds", "says"),
    [
        (variants(), True, "none of the 11 measured gain more"),
        (variants(ipo=arm("ipo", 0.12)), False, "1 of the 11 measured gain more: ipo"),
        (variants(count=9), None, "none of the 9 measured"),
        (variants(ipo=arm("ipo", 0.12, gate=True)), True, f"ipo not shown: ipo fails gate {GATE}"),
        (variants(ipo=arm("ipo", 0.12, seeds=2)), True, "fewer than 3 seeds: ipo"),
        (variants(ipo=arm("ipo", spread=0.5)), None, "a fifth or more is not ruled out of ipo"),
        (variants(dpo=arm("dpo", gate=True)), None, "none of the 0 measured"),
    ],
)
def test_no_variant_beats_dpo(made: Arms, holds: bool | None, says: str) -> None:
    outcome = claims.variants(Bench(made))
    assert outcome.holds is holds
    assert says in outcome.figures


def test_upper_bounds_of_several_hold_at_once() -> None:
    one = replace(gap(-0.01, 0.03).difference, freedom=1e9)  # type: ignore[type-var]
    assert claims.upper(one, 1) == pytest.approx(0.03)
    assert claims.upper(one, 10) == pytest.approx(0.01 + 0.02 * 2.807 / 1.960, abs=1e-5)


UP, FLAT = [0.02 * i for i in range(13)], [0.2] * 13


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({"gains": [*UP[:8], 0.14, 0.12, 0.1, 0.08, 0.06], "proxy": UP}, True),
        ({"gains": [*UP[:8], 0.14, 0.12, 0.1, 0.08, 0.06], "proxy": UP, "gate": True}, True),  # it is meant to go there
        ({"gains": [*UP[:8], 0.14, 0.12, 0.1, 0.08, 0.06], "proxy": FLAT}, None),
        ({"gains": [*UP[:8], 0.14, 0.12, 0.1, 0.08, 0.06]}, None),  # no proxy is known
        ({"gains": UP, "proxy": UP}, False),
        ({"gains": UP[:11], "proxy": UP, "end": 9.7}, None),  # it did not go far
        ({"gains": [-gain for gain in UP], "proxy": UP}, None),  # no peak but the base
        ({"gains": UP, "proxy": UP, "spread": 0.5}, None),
    ],
)
def test_gold_falls_from_its_peak(changes: dict[str, Any], holds: bool | None) -> None:
    outcome = claims.overoptimisation(Bench({"ppo_free_long": arm("ppo_free_long", **{"end": 22.0} | changes)}))
    assert outcome.holds is holds
    assert (GATE in outcome.figures) is ("gate" in changes)


@pytest.mark.parametrize(("past", "flat", "holds"), [(2, 1, True), (3, 0, True), (1, 2, None), (0, 3, False), (0, 2, None)])
def test_direct_methods_go_past_their_peaks(past: int, flat: int, holds: bool | None) -> None:
    falls = {"gains": [*UP[:8], 0.14, 0.12, 0.1, 0.08, 0.06], "end": 22}
    changes = [falls] * past + [{"gains": UP, "end": 22}] * flat + [{"end": 1.3}] * (3 - past - flat)
    names = ("dpo_long", "ipo_long", "slic_long")
    assert claims.direct(Bench({name: arm(name, **each) for name, each in zip(names, changes, strict=True)})).holds is holds


@pytest.mark.parametrize(
    ("ppo", "rloo", "gated", "holds"),
    [
        ((-1, -1, -1, 0), (-1, -1, -1, -1), "dpo", True),
        ((-1, -1, -1, 1), (-1, -1, -1, -1), "", None),  # one rises
        ((-1, -1, 0, 0), (-1, -1, -1, -1), "", None),  # half fall
        ((1, 0, 0, 0), (1, 1, 1, -1), "", False),
        ((-1, -1, -1, 0), (1, 1, 1, 1), "", None),
        ((-1, -1, -1, -1), (-1, -1, -1, -1), "ppo", None),
    ],
)
def test_diversity_falls(ppo: Sequence[int], rloo: Sequence[int], gated: str, holds: bool | None) -> None:
    moved = {"sft": (0,) * 4, "ppo": ppo, "rloo": rloo, "dpo": (0,) * 4, "kto": (0,) * 4}
    made = {
        name: arm(name, seeds=1 if name == "sft" else 3, gate=name == gated,
                  **{m: 0.5 + 0.1 * step for m, step in zip(claims.PER_INPUT, steps, strict=True)})
        for name, steps in moved.items()
    }  # fmt: skip
    outcome = claims.diversity(Bench(made))
    assert outcome.holds is holds
    assert (f"{gated} fails gate {GATE}" in outcome.figures) is bool(gated)


@pytest.mark.parametrize(
    ("noisy", "accuracy", "holds"),
    [
        ({"slope": 0.08}, 0.7, True),
        ({"slope": 0.12}, 0.7, False),
        ({"slope": 0.08}, 0.95, False),
        ({"slope": 0.1}, 0.7, None),
        ({"slope": 0.08}, 0.9, None),
        ({"slope": 0.08, "gate": True}, 0.7, None),
        ({"slope": 0.12, "gate": True}, 0.95, None),
    ],
)
def test_noise_lowers_accuracy_and_gain(noisy: dict[str, Any], accuracy: float, holds: bool | None) -> None:
    made = {"ppo": arm("ppo", rm_accuracy_clean=0.9), "ppo_noisy": arm("ppo_noisy", **noisy, rm_accuracy_clean=accuracy)}
    assert claims.noise(Bench(made)).holds is holds


@pytest.mark.parametrize(
    ("length", "empty", "spread", "holds"),
    [
        (12.0, 0.03, 0.002, True),
        (15.0, 0.08, 0.002, True),
        (15.0, 0.03, 0.002, False),
        (15.7, 0.03, 0.002, False),
        (14.5, 0.03, 0.002, None),  # shorter, but by less than a tenth
        (19.5, 0.03, 0.002, None),  # it may be length that is rewarded
        (15.0, 0.03, 3.0, None),
    ],
)
def test_short_or_empty_answers_are_exploited(length: float, empty: float, spread: float, holds: bool | None) -> None:
    made = {
        "open_sft": arm("open_sft", seeds=1, length=15.0, empty_rate=0.03),
        "open_ppo": arm("open_ppo", spread=spread, gate=True, length=length, empty_rate=empty),
    }
    outcome = claims.length(Bench(made))
    assert outcome.holds is holds
    assert GATE in outcome.figures  # shown, but it is what the claim is about


def test_the_report_has_each_rule_and_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "FINDINGS", [each for each in claims.FINDINGS if each.name == "PPO and DPO"])
    text = findings.report(Bench({"ppo": arm("ppo", 0.12), "dpo": arm("dpo", gate=True)}))
    assert "## PPO and DPO: **not shown**" in text
    assert f"gain of ppo minus dpo not shown: dpo fails gate {GATE}" in text
    assert all(each.judge.__doc__ for each in claims.FINDINGS)


def test_every_arm_can_be_typed_and_every_method_is_known() -> None:
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        made = {name: compose("config", overrides=list(words)) for name, words in arms.RUNS.items()}
    assert set(claims.VARIANTS) <= set(registry.algorithm_names())
    prices = [made[f"ppo_{name}"].algorithm.kl for name in ("free", "default", "dear")]
    assert prices == [0.0, pytest.approx(prices[2] / 4), 4 * prices[1]]
    assert made["grpo_2"].algorithm.lr == made["grpo_16"].algorithm.lr
