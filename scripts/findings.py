"""Replicate seven claims of the literature on the nano task.

    .venv/bin/python scripts/findings.py            # runs what the store lacks, three seeds, two one-thread workers
    .venv/bin/python scripts/findings.py --judge    # only judges existing cards

Writes the cards to results/findings/<task>/ and the verdicts to results/findings/README.md. A claim holds only if the
interval of its metric shows it; otherwise it is reported as not shown. The claims, metrics and rules below were fixed before
the runs; the docstring of a rule is part of the report.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module

from isoalign import stats
from isoalign.core.records import Card, Estimate
from isoalign.evaluation import card as cards
from isoalign.stats import curves, equal_kl, overoptimization

FOLDER = Path("results/findings")
SEEDS = (0, 1, 2)
EPSILON = 0.03  # smaller differences of reductions are "about equal"
LONG = "budget.flops=1.35e13"  # three times the default
NOISES = (0.05, 0.2, 0.35)
PRICES = (0.0, 0.05, 0.2)
PER_INPUT = ("ead", "distinct_2", "vendi", "embedding_diversity")

RUNS = (
    ("algorithm=sft",),
    ("algorithm=ppo,dpo,kto,rlaif",),
    ("algorithm=ppo", "algorithm.kl=" + ",".join(map(str, PRICES))),
    ("algorithm=ppo", "algorithm.kl=0.0", LONG),
    ("algorithm=ppo", "task.feedback.noise=" + ",".join(map(str, NOISES[1:]))),
    ("algorithm=dpo", "algorithm.beta=0.02", "budget=large"),
    ("task=nano_open", "algorithm=sft"),
    ("task=nano_open", "algorithm=ppo", "algorithm.kl=0.0"),
)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a claim: ``holds`` is True, False (the opposite is shown, or an equality refuted), or None: not shown."""

    holds: bool | None
    figures: str


@dataclass(frozen=True)
class Finding:
    """A claim of the literature and its rule."""

    name: str
    claim: str
    source: str
    judge: Callable[[Bench], Outcome]
    remark: str = ""  # written after the runs


class Bench:
    """The cards of all runs, by configuration."""

    def __init__(self, folder: Path) -> None:
        self.cards = [card for task in sorted(folder.glob("*/")) for card in cards.read_cards(task)]

    def cards_of(
        self, algorithm: str, task: str = "nano", flops: float = 4.5e12, noise: float = 0.05, **settings: Any
    ) -> list[Card]:
        """Cards of all seeds of a configuration: the method's defaults with ``settings``. Raises SystemExit if a run is
        missing."""
        configured = default_settings(task, algorithm) | settings
        matching = [
            card
            for card in self.cards
            if (card.algorithm, card.task, card.config["algorithm"]) == (algorithm, task, configured)
            and card.config["task"]["feedback"]["noise"] == noise
            and (algorithm == "sft" or card.budget["flops"] == flops)
        ]
        wanted = 1 if algorithm == "sft" else len(SEEDS)
        if len({card.seed for card in matching}) < wanted:
            raise SystemExit(f"{algorithm} on {task} ({flops:g} FLOP, noise {noise}, {settings}) was not run; omit --judge")
        return sorted(matching, key=lambda card: card.seed)[: None if wanted > 1 else 1]


@cache
def default_settings(task: str, algorithm: str) -> dict[str, Any]:
    """Default settings of a method on a task."""
    with initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        node = compose("config", overrides=[f"task={task}", f"algorithm={algorithm}"]).algorithm
    return {str(key): value for key, value in node.items() if key != "name"}


def difference(first: Sequence[Card], second: Sequence[Card], metric: str) -> Estimate:
    """First minus second, paired by prompt, interval over seeds and prompts."""
    return stats.hierarchical([card.values[metric] for card in first], [card.values[metric] for card in second])


def show(e: Estimate, digits: int = 3) -> str:
    """An estimate with its interval."""
    if e.value is None or e.low is None or e.high is None:
        return "missing"
    return f"{e.value:+.{digits}f} [{e.low:+.{digits}f}, {e.high:+.{digits}f}]"


def sign(e: Estimate) -> int:
    """-1 or 1 if the interval excludes 0, else 0."""
    if e.low is None or e.high is None:
        return 0
    return 1 if e.low > 0 else -1 if e.high < 0 else 0


# -- the claims ----------------------------------------------------------------------------------------------------------


def diversity(bench: Bench) -> Outcome:
    """PPO's per-input diversity minus SFT's, four measures; holds if most fall and none rises."""
    base = bench.cards_of("sft")
    rows = {name: {m: difference(bench.cards_of(name), base, m) for m in PER_INPUT} for name in ("ppo", "dpo", "kto", "rlaif")}
    signs = [sign(e) for e in rows["ppo"].values()]
    holds = (
        True if signs.count(-1) > len(signs) / 2 and 1 not in signs else False if signs.count(1) > signs.count(-1) else None
    )
    return Outcome(
        holds,
        "; ".join(f"{name}: " + ", ".join(f"{m} {show(e)}" for m, e in row.items()) for name, row in rows.items()),
    )


def overoptimisation(bench: Bench) -> Outcome:
    """PPO without KL price for three budgets; holds if gold falls from its peak (clear of 0) while proxy rises."""
    (curve,) = curves.collect({"ppo": bench.cards_of("ppo", flops=1.35e13, kl=0.0)}).values()
    peak = overoptimization.find_peak(curve)
    where = f"gold peaks at {peak.fraction:.0%} of the budget, KL {peak.kl:.1f}: {show(peak.gold)}"
    after = f"lost from there to the end {show(peak.loss)}, proxy {show(peak.rise, 2)}"
    return Outcome(True if sign(peak.loss) > 0 and sign(peak.rise) > 0 else None, f"{where}; {after}")


def kl_price(bench: Bench) -> Outcome:
    """PPO with three KL prices, read off at the same KL; holds if all are measured there and within .03 of the best, fails if
    one is behind."""
    found = curves.collect({f"kl={price}": bench.cards_of("ppo", kl=price) for price in PRICES})
    at = equal_kl.common_kl(found)
    matched = equal_kl.matched(found, at or 0.0)
    behind = [r.behind for r in matched.values() if r.behind.value is not None]
    measured = all(r.gain.value is not None for r in matched.values())
    near = measured and all(e.high is not None and e.high < EPSILON for e in behind)
    figures = [f"{name}: {reading(r)}, ends at KL {r.end:.1f}" for name, r in matched.items()]
    return Outcome(False if any(map(sign, behind)) else True if near else None, f"at KL {at:.2f}: {'; '.join(figures)}")


def reading(at: equal_kl.AtKL) -> str:
    """What is read of a method at a KL, or where nothing is."""
    if at.gain.value is None:
        return (
            "not reached by every seed" if at.gap is None else f"not measured between {at.gap[0]:.2g} and {at.gap[1]:.2g} nats"
        )
    return f"reduction {show(at.gain)}, behind the best {show(at.behind)}"


def noise(bench: Bench) -> Outcome:
    """PPO under three label noises; holds if accuracy (against clean verdicts) and reduction fall from least to most."""
    rows = {rate: bench.cards_of("ppo", noise=rate) for rate in NOISES}

    def mean(rate: float, metric: str) -> str:
        known = [value for card in rows[rate] if (value := card.metrics[metric].value) is not None]
        return f"{sum(known) / len(known):.3f}" if known else "missing"

    # noise changes verdicts, but not prompts, answers and pairs
    drop, rise = (difference(rows[NOISES[-1]], rows[NOISES[0]], metric) for metric in ("rm_accuracy_clean", "toxicity_mean"))
    figures = [
        f"noise {rate}: accuracy {mean(rate, 'rm_accuracy_clean')} clean, {mean(rate, 'rm_accuracy')} noisy "
        f"(ceiling {1 - rate:.2f}), toxicity {mean(rate, 'toxicity_mean')}"
        for rate in rows
    ]
    change = f"from least to most: accuracy {show(drop)}, toxicity {show(rise)}"
    return Outcome(True if sign(rise) > 0 and sign(drop) < 0 else None, "; ".join([*figures, change]))


def rlaif(bench: Bench) -> Outcome:
    """RLAIF minus PPO in toxicity; holds if the whole interval lies within .03, fails if wholly outside."""
    ppo, ai = bench.cards_of("ppo"), bench.cards_of("rlaif")
    gap = difference(ai, ppo, "toxicity_mean")
    low, high = gap.low or 0.0, gap.high or 0.0
    inside, outside = max(-low, high) < EPSILON, low > EPSILON or high < -EPSILON
    correlations = ppo[0].notes["correlation"]
    as_good = ", ".join(f"{name} {value:.2f}" for name, value in correlations.items() if "tox_block" in name)
    figures = f"toxicity of RLAIF minus PPO {show(gap)}; rank correlation on SFT samples: {as_good}"
    return Outcome(True if inside else False if outside else None, figures)


def offline(bench: Bench) -> Outcome:
    """DPO with a small beta; holds if gold falls from its peak, and the peak lies before all pairs were read once."""
    own = bench.cards_of("dpo", flops=9e12, beta=0.02)
    (curve,) = curves.collect({"dpo": own}).values()
    peak = overoptimization.find_peak(curve)
    epoch = own[0].spent["labels"]["simulated"] / own[0].config["algorithm"]["batch_size"]  # steps that read every pair once
    at, end = own[0].curve[peak.index].steps / epoch, own[0].training["steps"] / epoch
    where = f"gold peaks at KL {peak.kl:.1f}, after {at:.2f} epochs: {show(peak.gold)}"
    return Outcome(
        True if sign(peak.loss) > 0 and at < 1 else None,
        f"{where}; lost by going on to {end:.2f} epochs {show(peak.loss)}",
    )


def length(bench: Bench) -> Outcome:
    """PPO without KL price where answers may end; holds if its answers are shorter than SFT's."""
    base, own = bench.cards_of("sft", task="nano_open"), bench.cards_of("ppo", task="nano_open", kl=0.0)
    gap, empty = (difference(own, base, metric) for metric in ("length", "empty_rate"))
    gates = sorted({flag.text for card in own for flag in card.flags if flag.kind == "gate"})
    figures = [
        f"length {show(gap, 1)} tokens of {base[0].metrics['length'].value:.1f}",
        f"empty answers {show(empty)}",
        f"gates: {', '.join(gates) or 'none failed'}",
    ]
    return Outcome(True if sign(gap) < 0 else False if sign(gap) > 0 else None, "; ".join(figures))


FINDINGS = (
    Finding("diversity", "RLHF lowers per-input diversity against SFT", "Kirk et al. 2024, arXiv:2310.06452", diversity),
    Finding("over-optimisation", "The gold score peaks, then falls as KL grows, while the proxy rises",
            "Gao et al. 2023, arXiv:2210.10760", overoptimisation),
    Finding("KL price", "A KL penalty does not move the gold-KL frontier", "Gao et al. 2023", kl_price),
    Finding("label noise", "More label noise lowers the reward model's accuracy and the final score",
            "Wang et al. 2024, arXiv:2401.06080", noise,
            "At noise .35 the reward model is right in 62% [55%, 69%] of pairs, hardly over chance, and PPO on it takes "
            "toxicity down as far as on the best one, only with more drift (KL 9.7 to 12.0 instead of 5.8 to 7.6 nats). A "
            "lower toxicity alone does not prove that a method learned what people want: read it beside drift and the "
            "warnings on reward models."),
    Finding("RLAIF", "RLAIF about equals RLHF when the judge is as good as the annotator",
            "Lee et al. 2024, arXiv:2309.00267", rlaif),
    Finding("offline", "Offline methods over-optimise before an epoch is over",
            "Rafailov et al. 2024, arXiv:2406.02900", offline),
    Finding("length", "Length or empty answers are exploited when the reward allows it",
            "Singhal et al. 2024, arXiv:2310.03716", length),
)  # fmt: skip
WORDS = {True: "holds", False: "**does not hold**", None: "**not shown**"}


def run() -> None:
    """Run what the store lacks."""
    command = [str(Path(sys.executable).parent / "isoalign"), "run"]
    for words in RUNS:
        sft = "algorithm=sft" in words
        spread = [] if sft else ["-m", "seed=" + ",".join(map(str, SEEDS)), "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        subprocess.run([*command, *spread, *words, "threads=1", "tracking=off", f"results={FOLDER}"], check=True)


def report(bench: Bench) -> str:
    """The outcomes as a Markdown page."""
    lines = ["# Known findings", "", "Claims of the literature on the nano task, three seeds each, made and judged by "
             "`scripts/findings.py`, whose rules were written before its runs. Intervals are 95%, over seeds and prompts. "
             "A claim that is not shown may still be true: of larger models, other rewards, or more seeds.", ""]  # fmt: skip
    for finding in FINDINGS:
        outcome = finding.judge(bench)
        rule = " ".join((finding.judge.__doc__ or "").split())
        lines += [f"## {finding.name}: {WORDS[outcome.holds]}", "", f"- **Claim:** {finding.claim} ({finding.source}).",
                  f"- **Judged by:** {rule}", f"- **Seen:** {outcome.figures}."]  # fmt: skip
        lines += [f"- **Remark, after the runs:** {finding.remark}"] * bool(finding.remark) + [""]
    return "\n".join(lines)


def main() -> None:
    """Run, judge and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", action="store_true", help="only judge existing cards")
    if not parser.parse_args().judge:
        run()
    text = report(Bench(FOLDER))
    (FOLDER / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
