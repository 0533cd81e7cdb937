"""The claims and their rules, fixed before the runs; the docstring of a rule is part of the report.

A claim holds if its rule is met, and does not if the opposite is shown; otherwise it is not shown. Equal is what lies within a
fifth of the effect, wholly, so that a claim of equality can fail, and so can one that is merely not measured well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isoalign.stats import curves, overoptimization
from isoalign.stats.comparisons import holm

from .arms import MARGIN, Bench, difference, show, sign

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


def peaks(bench: Bench, name: str) -> tuple[bool | None, str]:
    """Whether an arm went on past its peak: gold falls from it, clear of 0. False if it lost less than a tenth of the peak."""
    (curve,) = curves.collect({name: bench.cards_of(name)}).values()
    peak = overoptimization.find_peak(curve)
    fit = overoptimization.fit_law(curve)
    past = True if sign(peak.loss) > 0 else None
    if past is None and peak.loss.high is not None and peak.loss.high < 0.1 * (peak.gold.value or 0.0):
        past = False
    law = fit.reason or f"the law's peak lies at {show(fit.peak, 1)} of {fit.seen:.1f} nats seen, error {fit.error:.3f}"
    where = f"{name}: best at {peak.fraction:.0%} of the budget, {peak.kl:.1f} nats: {show(peak.gold)}"
    return past, f"{where}; lost by the end {show(peak.loss)}, proxy {show(peak.rise, 2)}; {law}"


def overoptimisation(bench: Bench) -> Outcome:
    """PPO without a KL penalty for three budgets: holds if gold falls from its peak (clear of 0) while the proxy rises; does
    not if it lost less than a tenth of the peak's gain. Gao's law is fitted beside."""
    past, figures = peaks(bench, "ppo_free_long")
    (curve,) = curves.collect({"ppo": bench.cards_of("ppo_free_long")}).values()
    rises = sign(overoptimization.find_peak(curve).rise) > 0
    return Outcome(True if past and rises else False if past is False else None, figures)


def direct(bench: Bench) -> Outcome:
    """DPO, IPO (both with beta .02) and SLiC for three budgets: holds if gold falls from its peak (clear of 0) in two of the
    three; does not if all three lost less than a tenth of the peak's gain."""
    found = [peaks(bench, name) for name in ("dpo_long", "ipo_long", "slic_long")]
    past = [each for each, _ in found]
    holds = True if past.count(True) > 1 else False if past.count(False) == len(past) else None
    return Outcome(holds, "; ".join(figures for _, figures in found))


def rlaif(bench: Bench) -> Outcome:
    """RLAIF against RLHF by PPO at equal KL: holds if the whole interval lies within a fifth of RLHF's gain, does not if it
    lies outside. A control must fail the same rule: PPO on verdicts of which 35% are wrong; if it is equal as well, nothing is
    shown."""
    own, control = bench.gap("rlaif", "ppo"), bench.gap("ppo_noisy", "ppo")
    holds = None if own.equal and control.equal is not False else own.equal
    return Outcome(holds, f"rlaif minus ppo {own}; the control minus ppo {control}")


def diversity(bench: Bench) -> Outcome:
    """Four measures of diversity within a prompt, against SFT: holds if for both PPO and RLOO most fall and none rises; does
    not if for both more rise than fall. DPO and KTO are shown beside."""
    (base,) = bench.cards_of("sft")
    rows = {
        name: {m: difference(bench.cards_of(name), [base], m) for m in PER_INPUT} for name in ("ppo", "rloo", "dpo", "kto")
    }
    signs = [[sign(e) for e in rows[name].values()] for name in ("ppo", "rloo")]
    falls = all(each.count(-1) > len(each) / 2 and 1 not in each for each in signs)
    rises = all(each.count(1) > each.count(-1) for each in signs)
    figures = (f"{name}: " + ", ".join(f"{m} {show(e)}" for m, e in row.items()) for name, row in rows.items())
    return Outcome(True if falls else False if rises else None, "; ".join(figures))


def beats(first: str, second: str) -> Callable[[Bench], Outcome]:
    """The rule that one method gains more than another at equal budget and at equal KL."""

    def rule(bench: Bench) -> Outcome:
        gap = bench.gap(first, second)
        ends = difference(bench.cards_of(second), bench.cards_of(first), "toxicity_mean")
        both = (gap.above, {1: True, -1: False}.get(sign(ends)))
        holds = True if both == (True, True) else False if False in both and True not in both else None
        return Outcome(holds, f"gain of {first} minus {second} {gap}; at the end of the budget {show(ends)}")

    rule.__doc__ = (
        f"{first} against {second}, once at equal KL and once at the end of the equal budget: holds if {first} gains more in "
        f"both, clear of 0; does not if {second} does in one and {first} in neither."
    )
    return rule


def about_equal(first: str, second: str) -> Callable[[Bench], Outcome]:
    """The rule that two methods gain about the same at equal KL."""

    def rule(bench: Bench) -> Outcome:
        gap = bench.gap(first, second)
        return Outcome(gap.equal, f"gain of {first} minus {second} {gap}")

    rule.__doc__ = (
        f"{first} against {second} at equal KL: holds if the whole interval lies within a fifth of the gain of {second}, does "
        "not if it lies outside."
    )
    return rule


def variants(bench: Bench) -> Outcome:
    """Variants of DPO against DPO at equal KL, p by Holm over all that are measured: holds if ten or more are, none gains
    more, and no interval allows more than a fifth of DPO's gain; does not if one gains more."""
    gaps = {name: bench.gap(name, "dpo") for name in VARIANTS if len(bench.published.get(name, [])) > 1}
    known = {name: gap.difference for name, gap in gaps.items() if gap.difference is not None and gap.difference.p is not None}
    adjusted = dict(zip(known, holm([d.p for d in known.values() if d.p is not None]), strict=True))
    better = [name for name, d in known.items() if adjusted[name] < 0.05 and (d.value or 0.0) > 0]
    may = [
        name for name, d in known.items()
        if d.high is None or d.high > MARGIN * abs((effect.value if (effect := gaps[name].effect) else None) or 0.0)
    ]  # fmt: skip
    unknown = [name for name in VARIANTS if name not in known]
    figures = [f"{name} {show(d)} at {gaps[name].kl:g} nats (p {adjusted[name]:.2g})" for name, d in known.items()]
    missing = [f"not measured at a common KL: {', '.join(unknown)}"] if unknown else []
    return Outcome(False if better else True if len(known) >= 10 and not may else None, "; ".join([*figures, *missing]))


def penalty(bench: Bench) -> Outcome:
    """PPO without a KL penalty, and with four times the default, against the default at equal KL: holds if both are within a
    fifth of its gain, does not if one lies outside."""
    gaps = {name: bench.gap(name, "ppo") for name in ("ppo_free", "ppo_dear")}
    equal = [gap.equal for gap in gaps.values()]
    figures = "; ".join(f"{name} minus ppo {gap}" for name, gap in gaps.items())
    return Outcome(False if False in equal else True if all(equal) else None, figures)


def noise(bench: Bench) -> Outcome:
    """PPO with 35% of verdicts wrong against 5%: holds if both the reward model's accuracy against clean verdicts and the gain
    at equal KL fall; does not if the gain rises."""
    accuracy = difference(bench.cards_of("ppo_noisy"), bench.cards_of("ppo"), "rm_accuracy_clean")
    gap = bench.gap("ppo_noisy", "ppo")
    holds = True if gap.above is False and sign(accuracy) < 0 else False if gap.above else None
    return Outcome(holds, f"accuracy {show(accuracy)}; gain {gap}")


def length(bench: Bench) -> Outcome:
    """PPO without a KL penalty where answers may end: holds if its answers are shorter than SFT's."""
    base, own = bench.cards_of("open_sft"), bench.cards_of("open_ppo")
    gap, empty = (difference(own, base, metric) for metric in ("length", "empty_rate"))
    gates = sorted({flag.text for card in own for flag in card.flags if flag.kind == "gate"})
    figures = f"length {show(gap, 1)} tokens of {base[0].metrics['length'].value:.1f}; empty answers {show(empty)}; gates: "
    return Outcome(True if sign(gap) < 0 else False if sign(gap) > 0 else None, figures + (", ".join(gates) or "none failed"))


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
            "Wu et al. 2025, arXiv:2510.00977", about_equal("grpo_2", "grpo_16")),
    Finding("LoRA", "LoRA about equals training all weights", "Schulman et al. 2025, \"LoRA Without Regret\"",
            about_equal("ppo_lora", "ppo")),
    Finding("KL penalty", "A KL penalty does not move the gold-KL frontier", "Gao et al. 2023", penalty),
    Finding("label noise", "Label noise lowers the reward model's accuracy and the final score",
            "Wang et al. 2024, arXiv:2401.06080", noise),
    Finding("length", "Length or empty answers are exploited when the reward allows it",
            "Singhal et al. 2024, arXiv:2310.03716", length),
)  # fmt: skip
