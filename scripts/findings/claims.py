"""The claims and their rules, fixed before the runs; the docstring of a rule is part of the report.

A claim holds if its rule is met, and does not if the opposite is shown; otherwise it is not shown. Equal is what lies within a
fifth of the effect above drift, wholly, so that a claim of equality can fail, and so can one that is merely not measured well;
and a control must fail it. What fails a gate of quality is not ranked on a board, and shows nothing here, except of claims
that are about what gates catch: over-optimisation and length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from scipy.special import stdtrit

from isoalign.core.records import Estimate
from isoalign.stats import curves, equal_kl, overoptimization
from isoalign.stats.corrections import holm
from isoalign.stats.intervals import TAIL
from isoalign.stats.pairs import Comparison

from .arms import SEEDS, Bench, Gap, difference, failed_gates, show, sign

FAR = equal_kl.GRID[-1]  # nats: a run that stays nearer to its base may not have come to its peak yet
SMALL = 0.1  # of the base's length, and of the peak's gain
EMPTY = 0.01  # of answers
ENOUGH = 10  # variants
PER_INPUT = ("ead", "distinct_2", "vendi", "embedding_diversity")
VARIANTS = (
    "ipo", "cdpo", "robust_dpo", "simpo", "orpo", "slic", "rpo", "tdpo", "dpop", "beta_dpo", "exo", "nca", "apo_zero",
    "apo_down", "bco", "sppo_hard", "tr_dpo",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """``holds`` is True, False (the opposite is shown, or an equality refuted), or None: not shown."""

    holds: bool | None
    figures: str


@dataclass(frozen=True)
class Finding:
    """A claim of the literature and its rule."""

    name: str
    claim: str
    source: str
    judge: Callable[[Bench], Outcome]


@dataclass(frozen=True)
class Past:
    """Whether an arm went on past its peak, None if that is not known, and whether its proxy rose from there."""

    peak: bool | None
    rises: bool
    figures: str


def past_peak(bench: Bench, name: str) -> Past:
    """Whether gold rises to a peak and falls from it, both clear of 0; False if it lost less than a tenth of the peak's gain
    by `FAR` or beyond."""
    own = bench.cards_of(name)
    gates = f"; fails gate {failed}" if (failed := failed_gates(own)) else ""
    if (curve := curves.collect({name: own}).get(name)) is None:
        return Past(None, False, f"{name}: no curve")
    peak, fit = overoptimization.find_peak(curve), overoptimization.fit_law(curve)
    end, least = float(curve.observed.pooled.kl[-1]), SMALL * (peak.gold.value or 0.0)
    falls, small = sign(peak.loss) > 0, peak.loss.high is not None and peak.loss.high < least
    past = True if falls and not small else False if small and not falls and end >= FAR else None
    past = past if sign(peak.gold) > 0 else None  # what never rose has no peak
    law = fit.reason or f"the law's peak lies at {show(fit.peak, 1)} nats, error {fit.error:.3f}"
    if not peak.measured:
        return Past(None, False, f"{name}: best point not measured, {fit.reason}{gates}")
    where = f"{name}: best at {peak.at} of the budget, {peak.kl:.1f} of {end:.1f} nats: {show(peak.gold)}"
    figures = f"{where}; lost by the end {show(peak.loss)}, proxy {show(peak.rise, 2)}; {law}{gates}"
    return Past(past, sign(peak.rise) > 0, figures)


def overoptimisation(bench: Bench) -> Outcome:
    """PPO without a KL penalty for three budgets: holds if gold rises to a peak and falls from it, both clear of 0, while the
    proxy rises from there; does not if it lost less than a tenth of the peak's gain by 16 nats or beyond; neither if both are
    so. Gao's law is fitted beside. Gates are shown but keep nothing out."""
    past = past_peak(bench, "ppo_free_long")
    return Outcome(True if past.peak and past.rises else False if past.peak is False else None, past.figures)


def direct(bench: Bench) -> Outcome:
    """DPO, IPO (both with beta .02) and SLiC for three budgets: holds if gold rises to a peak and falls from it, both clear of
    0, in two of the three; does not if all three lost less than a tenth of the peak's gain by 16 nats or beyond. One that did
    both counts for neither. Gates are shown but keep nothing out."""
    found = [past_peak(bench, name) for name in ("dpo_long", "ipo_long", "slic_long")]
    past = [each.peak for each in found]
    holds = True if past.count(True) > 1 else False if past.count(False) == len(past) else None
    return Outcome(holds, "; ".join(each.figures for each in found))


def equal_beside(own: Collection[Gap], control: Gap) -> bool | None:
    """Whether all are equal, and the control, at the same KL, is worse; False if one is not equal."""
    equal = [gap.equal for gap in own]
    return False if False in equal else True if all(equal) and control.worse else None


def rlaif(bench: Bench) -> Outcome:
    """RLAIF against RLHF by PPO, each as tuned, at equal KL: holds if the whole interval lies within a fifth of RLHF's gain
    above drift, does not if it lies outside. A control must be worse by more than that at the same KL: PPO on verdicts of
    which 35% are wrong; if it is not, equality shows nothing."""
    bench.check_settings(("ppo_noisy", "ppo"))
    gaps = bench.gaps(["rlaif", "ppo_noisy"], "ppo")
    own, control = gaps["rlaif"], gaps["ppo_noisy"]
    return Outcome(equal_beside([own], control), f"rlaif minus ppo {own}; the control minus ppo {control}")


def diversity(bench: Bench) -> Outcome:
    """Four measures of diversity within a prompt, against SFT: holds if for both PPO and RLOO most fall and none rises; does
    not if for both more rise than fall; neither if one of the two fails a gate. DPO and KTO are shown beside."""
    arms = bench.alike("sft", "ppo", "rloo", "dpo", "kto")
    base = arms.pop("sft")
    rows = {name: {m: difference(own, base, m) for m in PER_INPUT} for name, own in arms.items()}
    signs = [[sign(e) for e in rows[name].values()] for name in ("ppo", "rloo")]
    falls = all(each.count(-1) > len(each) / 2 and 1 not in each for each in signs)
    rises = all(each.count(1) > each.count(-1) for each in signs)
    failed = {name: gates for name, own in arms.items() if (gates := failed_gates(own))}
    known = failed.keys().isdisjoint(("ppo", "rloo"))
    figures = [f"{name}: " + ", ".join(f"{m} {show(e)}" for m, e in row.items()) for name, row in rows.items()]
    figures += [f"{name} fails gate {gates}" for name, gates in failed.items()]
    return Outcome(None if not known else True if falls else False if rises else None, "; ".join(figures))


def beats(first: str, second: str) -> Callable[[Bench], Outcome]:
    """The rule that one method gains more than another at equal budget and at equal KL."""

    def rule(bench: Bench) -> Outcome:
        gap = bench.gap(first, second)
        ends = difference(bench.cards_of(second), bench.cards_of(first), "toxicity_mean")
        both = (gap.above, {1: True, -1: False}.get(sign(ends)))
        holds = True if both == (True, True) else False if False in both and True not in both else None
        figures = f"gain of {first} minus {second} {gap}; at the end of the budget {show(ends)}"
        return Outcome(None if gap.difference is None else holds, figures)

    rule.__doc__ = (
        f"{first} against {second}, once at equal KL and once at the end of the equal budget: holds if {first} gains more in "
        f"both, clear of 0; does not if {second} does in one and {first} in neither; neither if one fails a gate or they have "
        "no KL in common."
    )
    return rule


def about_equal(first: str, second: str, settings: str, apart: str = "") -> Callable[[Bench], Outcome]:
    """The rule that two methods gain about the same at equal KL; ``apart``: the one setting in which they may differ."""

    def rule(bench: Bench) -> Outcome:
        if apart:
            bench.check_settings((first, second), apart)
        gaps = bench.gaps([first, "sft_chosen"], second)
        own, control = gaps[first], gaps["sft_chosen"]
        figures = f"gain of {first} minus {second} {own}; the control minus {second} {control}"
        return Outcome(equal_beside([own], control), figures)

    rule.__doc__ = (
        f"{first} against {second}, {settings}, at equal KL: holds if the whole interval lies within a fifth of the gain of "
        f"{second} above drift, does not if it lies outside. A control must be worse by more than that at the same KL: "
        "imitation (sft_chosen); if it is not, equality shows nothing."
    )
    return rule


def variants(bench: Bench) -> Outcome:
    """Variants of DPO with three seeds or more that fail no gate against DPO at equal KL: holds, of those measured, if ten or
    more are, none gains more (p by Holm over them), and no upper bound, simultaneous over them by Bonferroni, allows more than
    a fifth of DPO's gain above drift; does not if one gains more."""
    few = [name for name in VARIANTS if len({card.seed for card in bench.found(name)}) < len(SEEDS)]
    gaps = {name: bench.gap(name, "dpo") for name in VARIANTS if name not in few}
    known = {name: gap.difference for name, gap in gaps.items() if gap.difference is not None and gap.difference.p is not None}
    adjusted = dict(zip(known, holm([d.p for d in known.values() if d.p is not None]), strict=True))
    better = [name for name, d in known.items() if adjusted[name] < 0.05 and (d.value or 0.0) > 0]
    highest = {name: upper(d, len(known)) for name, d in known.items()}
    may = [
        name for name, high in highest.items() if high is None or (most := gaps[name].margin) is None or high > most
    ]  # fmt: skip
    told = f"{len(better) or 'none'} of the {len(known)} measured gain more{': ' * bool(better)}{', '.join(better)}"
    figures = [told] + ([f"a fifth or more is not ruled out of {', '.join(may)}"] if may else [])
    figures += [
        f"{name} {gap}, at most {high:+.3f} (p {adjusted[name]:.2g})"
        for name, gap in gaps.items() if (high := highest.get(name)) is not None
    ]  # fmt: skip
    figures += [f"{name} {gap}" for name, gap in gaps.items() if name not in known]
    figures += [f"fewer than {len(SEEDS)} seeds: {', '.join(few)}"] if few else []
    return Outcome(False if better else True if len(known) >= ENOUGH and not may else None, "; ".join(figures))


def upper(d: Comparison, count: int) -> float | None:
    """The upper bound of one of so many differences, widened so that all of them hold at once with 95%."""
    if d.value is None or d.high is None or d.freedom is None:
        return None
    return d.value + (d.high - d.value) * float(stdtrit(d.freedom, 1 - TAIL / count) / stdtrit(d.freedom, 1 - TAIL))


def penalty(bench: Bench) -> Outcome:
    """PPO without a KL penalty, and with four times the default, against the default at equal KL, all else being default:
    holds if both are within a fifth of its gain above drift, does not if one lies outside. A control must be worse by more
    than that at the same KL: imitation (sft_chosen); if it is not, equality shows nothing."""
    bench.check_settings(("ppo_free", "ppo_dear", "ppo_default"), "kl")
    gaps = bench.gaps(["ppo_free", "ppo_dear", "sft_chosen"], "ppo_default")
    figures = "; ".join(f"{name} minus ppo_default {gap}" for name, gap in gaps.items())
    control = gaps.pop("sft_chosen")
    return Outcome(equal_beside(gaps.values(), control), figures)


def noise(bench: Bench) -> Outcome:
    """PPO with 35% of verdicts wrong against 5%: holds if both the reward model's accuracy against clean verdicts and the gain
    at equal KL fall, clear of 0; does not if one of them rises; neither if one side fails a gate or they have no KL in common.
    All seeds share the reward model of their level, so its accuracy is compared on one card of each, over pairs, and says
    nothing of other reward models."""
    bench.check_settings(("ppo_noisy", "ppo"))
    gap = bench.gap("ppo_noisy", "ppo")
    accuracy = difference(bench.cards_of("ppo_noisy")[:1], bench.cards_of("ppo")[:1], "rm_accuracy_clean")
    falls, rises = gap.above is False and sign(accuracy) < 0, gap.above or sign(accuracy) > 0
    holds = True if falls else False if rises else None
    return Outcome(None if gap.difference is None else holds, f"accuracy {show(accuracy)}; gain {gap}")


def length(bench: Bench) -> Outcome:
    """PPO without a KL penalty where answers may end, against SFT. An empty answer can't be toxic, so what this reward allows
    is short text, where Singhal et al. saw it grow: holds if answers get shorter or more of them are empty, clear of 0; does
    not if both changes are small, wholly: length by less than a tenth of SFT's either way, and empty answers by less than a
    point more; neither if both are so. Gates are shown but keep nothing out."""
    arms = bench.alike("open_sft", "open_ppo")
    base, own = arms["open_sft"], arms["open_ppo"]
    words, empty = (difference(own, base, metric) for metric in ("length", "empty_rate"))
    usual = base[0].metrics["length"].value or 0.0
    exploited = sign(words) < 0 or sign(empty) > 0
    small = within(words, -SMALL * usual, SMALL * usual) and within(empty, -1.0, EMPTY)
    holds = None if exploited and small else True if exploited else False if small else None
    figures = f"length {show(words, 1)} tokens of {usual:.1f}; empty answers {show(empty)}"
    return Outcome(holds, f"{figures}; gates: {failed_gates(own) or 'none failed'}")


def within(e: Estimate, low: float, high: float) -> bool:
    """Whether the whole interval lies between two values, or on the lower one."""
    return e.low is not None and e.high is not None and low <= e.low and e.high < high


FINDINGS = (
    Finding("over-optimisation", "The gold score peaks, then falls as KL grows, while the proxy rises",
            "Gao et al. 2023, arXiv:2210.10760", overoptimisation),
    Finding("direct alignment", "Direct alignment algorithms over-optimise as well", "Rafailov et al. 2024, arXiv:2406.02900",
            direct),
    Finding("RLAIF", "RLAIF about equals RLHF", "Lee et al. 2024, arXiv:2309.00267", rlaif),
    Finding("diversity", "RLHF lowers diversity within a prompt against SFT", "Kirk et al. 2024, arXiv:2310.06452", diversity),
    Finding("PPO and DPO", "PPO surpasses DPO", "Xu et al. 2024, arXiv:2404.10719", beats("ppo", "dpo")),
    Finding("RLOO and PPO", "RLOO surpasses PPO", "Ahmadian et al. 2024, arXiv:2402.14740", beats("rloo", "ppo")),
    Finding("variants of DPO", "No variant of DPO beats DPO", "oxRL 2026, arXiv:2603.19335, at unequal compute", variants),
    Finding("online and offline", "Online methods surpass offline ones", "Tang et al. 2024, arXiv:2405.08448",
            beats("online_dpo", "dpo")),
    Finding("groups of two", "GRPO with two answers a prompt about equals GRPO with sixteen",
            "Wu et al. 2025, arXiv:2510.00977, at unequal compute",
            about_equal("grpo_2", "grpo_16", "all else default, 64 answers a step to 32 and to 4 prompts", "draws")),
    Finding("LoRA", "LoRA about equals training all weights", "Schulman et al. 2025, \"LoRA Without Regret\"",
            about_equal("ppo_lora", "ppo", "each as tuned")),
    Finding("KL penalty", "A KL penalty does not move the gold-KL frontier", "Gao et al. 2023", penalty),
    Finding("label noise", "Label noise lowers the reward model's accuracy and the final score",
            "Wang et al. 2024, arXiv:2401.06080", noise),
    Finding("length", "Length or empty answers are exploited when the reward allows it",
            "Singhal et al. 2024, arXiv:2310.03716", length),
)  # fmt: skip
