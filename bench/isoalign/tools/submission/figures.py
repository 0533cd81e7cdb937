"""What in a card contradicts itself, or the card of its base: figures against values by prompt, bills, flags. No store is
needed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from isoalign import stats
from isoalign.core.objective import Objective, objective_of
from isoalign.core.records import Card, Estimate, Flag
from isoalign.evaluation import metrics, packs

DIGITS = 5  # significant digits of values by prompt on a run's own card
LEAST = 1e-5  # of a difference that is looked at
WIDTH, LOOSE = 0.02, 0.2  # of an interval, by which one made again from means may differ; where single draws are missing
LOST = 0.05  # of single draws, that a scorer may have failed on; with more nobody can tell the mean
OWN = "its values by prompt have"

Column = Mapping[str, float | None]
Exact = Callable[[Estimate], Estimate]


def wrong_figures(card: Card, base: Card | None) -> Iterator[str]:
    """Lines on what is wrong; ``base``: the card of its base, None for a base itself."""
    objective = objective_of(card)
    for name, by in card.values.items():
        estimate = card.metrics.get(name)
        if estimate and name not in (objective.level, "kl") and estimate.n == sum(v is not None for v in by.values()):
            yield from _wrong_mean(name, estimate, by, _rounding(card, by))
    for name in (objective.level, "kl"):
        if name not in card.values or name not in card.metrics:
            yield f"values and metrics: {name} is missing"
        else:
            yield from _wrong_level(name, card)
    yield from _wrong_bill(card)
    if base is not None:
        yield from _wrong_gain(card, base, objective)
        alike = _as_it_is if base.digits is None else without_numbers  # which a rounded base may change in the last digit
        shown = set(map(alike, card.flags))
        for flag in metrics.flags_all(card.metrics, base.metrics):
            if alike(flag) not in shown:
                yield f'flags: its metrics call for the flag "{flag}", which is not there'


def _as_it_is(flag: Flag) -> Flag:
    return flag


def without_numbers(flag: Flag) -> Flag:
    """The flag by what it says, whatever the figures."""
    return replace(flag, text=re.sub(r"[\d.]+", "0", flag.text))


def _rounding(card: Card, by: Column) -> float:
    """How far the mean of a column may lie from the figure, as its values are rounded on the card."""
    known = [abs(value) for value in by.values() if value is not None]
    decimals = 0.0 if card.digits is None else 10.0**-packs.DECIMALS
    return LEAST + decimals + 0.5 * 10.0 ** (1 - (card.digits or DIGITS)) * math.fsum(known) / max(len(known), 1)


def _draws(card: Card) -> int:
    evaluation = (card.config.get("task") or {}).get("evaluation") or {}
    return max(1, int(evaluation.get("draws") or 1))


def _wrong_mean(name: str, told: Estimate, by: Column, within: float, whose: str = OWN) -> Iterator[str]:
    known = [value for value in by.values() if value is not None]
    if known and told.value is not None:
        mean = math.fsum(known) / len(known)
        if abs(mean - told.value) > within:
            yield f"metrics.{name} is {told.value:g}, and {whose} the mean {mean:g}"


def _wrong_level(name: str, card: Card) -> Iterator[str]:
    """A mean over draws, against those of the prompts: counts, value, interval."""
    told, by, draws = card.metrics[name], card.values[name], _draws(card)
    known = sum(value is not None for value in by.values())
    least = (len(by) - known) * draws  # a prompt without a value has no draw that has one
    single = 0 if name == "kl" else int(LOST * known * draws) if draws > 1 else 0  # KL is known of every completion made here
    if told.n != known or not least <= told.missing <= least + single:
        yield (
            f"metrics.{name} says n = {told.n} and {told.missing} missing, and {known} of the {len(by)} prompts have a value, "
            f"of {draws} draw{'s' * (draws > 1)} each, of which at most {single} may be missing"
        )
    else:
        yield from _wrong_estimate(name, told, by, draws, _rounding(card, by), OWN)


def _wrong_gain(card: Card, base: Card, objective: Objective) -> Iterator[str]:
    """The gain, against the values of both by prompt."""
    name, level = objective.gain, objective.level
    told, own, theirs = card.metrics.get(name), card.values.get(level, {}), base.values.get(level, {})
    if told is None:
        yield f"metrics.{name} is missing"
        return
    if own.keys() != theirs.keys():
        yield f"values.{level} is of {len(own)} prompts, of which its base has {len(own.keys() & theirs.keys())}"
        return
    pairs = {prompt: (value, theirs[prompt]) for prompt, value in own.items()}
    moved = {p: None if a is None or b is None else objective.loss(b) - objective.loss(a) for p, (a, b) in pairs.items()}
    known, draws = sum(value is not None for value in moved.values()), _draws(card)
    single = [c.metrics[level].missing if level in c.metrics else 0 for c in (card, base)]
    exact = told.missing == (len(moved) - known) * draws
    if not max(single) <= told.missing <= sum(single) or told.n > known or (exact and told.n != known):
        yield (
            f"metrics.{name} says n = {told.n} and {told.missing} missing, and {known} prompts have a value of its own and of "
            f"its base, which miss {single[0]} and {single[1]}"
        )
        return
    within = _rounding(card, own) + _rounding(base, theirs)
    levels = [c.metrics[level] for c in (card, base) if level in c.metrics]

    def ends(gain: Estimate) -> Estimate:
        return stats.exact_gain(gain, levels) if objective.bounds == (0.0, 1.0) and len(levels) == 2 else gain

    yield from _wrong_estimate(name, told, moved, draws, within, "its values by prompt and its base's have", ends)


def _wrong_estimate(
    name: str, told: Estimate, by: Column, draws: int, within: float, whose: str, exact: Exact = stats.exact_ends
) -> Iterator[str]:
    """Value and interval, against those that the means by prompt give, or the ``exact`` one of shares that do not vary.

    With single draws missing, a mean over draws weighs prompts unequally: by at most the range of the means times the share of
    the draws that are missing.
    """
    known = [value for value in by.values() if value is not None]
    if not known:
        return
    if told.value is None:
        yield f"metrics.{name} has no value, and {len(known)} prompts have one"
        return
    lost = told.missing - (len(by) - len(known)) * draws
    within += max(lost, 0) * (max(known) - min(known)) / max(len(known) * draws - lost, 1)
    yield from _wrong_mean(name, told, by, within, whose)
    again = stats.mean({prompt: [value] for prompt, value in by.items()})
    if not any(_same_ends(told, one, within, LOOSE if lost > 0 else WIDTH) for one in (again, exact(again))):
        ends = [", ".join("none" if end is None else f"{end:.4g}" for end in (one.low, one.high)) for one in (told, again)]
        yield f"metrics.{name} has the interval [{ends[0]}], and its values by prompt give [{ends[1]}]"


def _same_ends(told: Estimate, again: Estimate, within: float, share: float) -> bool:
    if None in (told.low, told.high, again.low, again.high):
        return (told.low, told.high) == (again.low, again.high)
    slack = within + share * (again.high - again.low)  # type: ignore[operator]
    return abs(told.low - again.low) <= slack and abs(told.high - again.high) <= slack  # type: ignore[operator]


def _wrong_bill(card: Card) -> Iterator[str]:
    items = [item["flops"] for item in card.spent.get("items", [])]
    billed, spent = sum(items), card.spent["flops"]
    if billed != spent or billed > (card.budget["flops"] or 0.0):
        yield f"spent.flops is {spent:g}, the items of the bill {billed:g}, the budget {card.budget['flops']:g}"
    if items and min(items) < 0:
        yield f"spent.items has {min(items):g} FLOP; no work takes less than 0"
    if "train" in card.parents and billed <= 0:
        yield f"spent.flops is {billed:g}, and its policy was trained; no training is free"
