"""Quantile reward policy optimisation: regression of log-ratios to rewards whose partition function is known."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from isoalign import Batch, Lab, Paper, Rollouts, Step, register
from isoalign.baselines.parts.sampling import check_sizes, minibatches

ROUNDING = 1e-3  # rewards, of deviation 1, this near are equal: rows of other widths round one answer's apart by some 3e-5


@dataclass(frozen=True)
class Ranked(Batch):
    """Answers with their reward's quantile among the base's answers to the same prompt [B]."""

    rollouts: Rollouts
    quantile: Tensor


@register
class QRPO:
    """Matrenok et al. 2025, "Quantile Reward Policy Optimization", eq. 11: as the quantile of a reward under the base is
    uniform, the optimum is base x exp(quantile / beta) / Z with Z = beta (exp(1 / beta) - 1), and each answer's log-ratio is
    regressed to it.

    ``beta``: KL coefficient on the quantile, not on the reward. ``prompts``: per iteration; ``draws``: own answers per
    prompt, that are trained on; ``references``: answers of the SFT base per prompt, that the quantile is counted among, all
    paid; ``epochs``: over the answers, ``batch_size`` a step. Z is exact; their code leaves out log(1 - exp(-1 / beta)),
    which is nothing at a small beta. Theirs learns from any answers, ours from the policy's. Where rewards are equal, as
    those of a rule, the quantile is not uniform and Z is too small: ``ties`` says how often. So it is, by less, with few
    references.
    """

    paper: ClassVar[Paper] = Paper(
        "Matrenok et al.",
        "Quantile Reward Policy Optimization: Alignment with Pointwise Regression and Exact Partition Functions", 2025,
        "2507.08068", "eq. 11", family="reward",
        learns_from="a reward model, by the ranks of its own answers among the base's",
        parity="test_regression.py: the loss of the authors' page, and the optimum by counting all answers",
        logs={
            "reward": "mean reward of the sampled answers, in deviations of the reward model's training answers",
            "ties": "share of the base's answers whose reward is that of the policy's answer",
            "log_ratio": "log-ratio of policy to base of the sampled answers, in nats an answer",
        },
    )  # fmt: skip

    kl_price: ClassVar[str] = "beta"

    beta: float = 0.1
    prompts: int = 32
    draws: int = 4
    references: int = 4
    epochs: int = 1
    batch_size: int = 32
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.beta <= 0:
            raise ValueError(f"beta must be positive, not {self.beta}")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Own answers, and the base's to rank them among; then epochs of regression."""
        prompts = lab.prompts(self.prompts)
        base, own = lab.generate(prompts, self.references, by="reference"), lab.generate(prompts, self.draws)
        score = lab.reward(own)
        others = lab.reward(base).view(-1, self.references).repeat_interleave(self.draws, 0)
        lab.log(reward=score.mean(), ties=((others - score.unsqueeze(1)).abs() <= ROUNDING).float().mean())
        batch = Ranked(own, (others <= score.unsqueeze(1) + ROUNDING).float().mean(1))
        yield from minibatches(lab, batch, self.loss, self.epochs, self.batch_size)

    def loss(self, lab: Lab, batch: Ranked) -> Tensor:
        """(quantile - beta log Z - beta * log-ratio)^2 [B]."""
        ratio = lab.log_ratio(batch.rollouts)
        lab.log(log_ratio=ratio.mean())
        log_z = math.log(self.beta) + 1 / self.beta + math.log1p(-math.exp(-1 / self.beta))
        return (batch.quantile - self.beta * (log_z + ratio)) ** 2
