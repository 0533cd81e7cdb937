"""Rejection sampling optimisation: pairs of answers that are sampled from the optimal policy, by way of the base."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Needs, Pairs, Paper, Step, register
from isoalign.baselines.dpo import DPO, MARGIN
from isoalign.baselines.parts.sampling import check_sizes, minibatches


@register
class RSO(DPO):
    """Liu et al. 2023, "Statistical Rejection Sampling Improves Preference Optimization", algorithm 1: of ``candidates``
    answers of the SFT base to a prompt, ``kept`` are accepted with probability exp((reward - largest reward that is left) /
    ``tilt``), as samples of base x exp(reward / tilt); each two of them make a pair, and DPO's loss follows.

    ``beta``: their gamma. ``prompts``: per iteration; ``epochs``: over its pairs, ``batch_size`` a step. Their reward is a
    pairwise model's, ours the normalised reward, whose unit ``tilt`` has. Pairs are drawn at random (first-round-rank), and of
    two equal rewards either answer is the better one. All answers are paid, also those that are rejected.
    """

    paper: ClassVar[Paper] = Paper(
        "Liu et al.", "Statistical Rejection Sampling Improves Preference Optimization", 2023, "2309.06657",
        "algorithm 1, with sigmoid-norm", family="reward",
        learns_from="answers of the base that are sampled by a reward model, in pairs",
        values={"beta": "0.05", "tilt": "0.5", "candidates": "64", "kept": "8", "batch_size": "32", "lr": "1e-5"},
        parity="test_regression.py: the paper's algorithm in plain Python on the same random numbers",
        logs=MARGIN | {
            "reward": "mean reward of all answers that were sampled", "kept_reward": "mean reward of those that were accepted",
        },
    )  # fmt: skip

    needs: ClassVar[Needs] = {"": ("reward",)}
    kl_price: ClassVar[str] = ""  # with deterministic verdicts the optimal margin is infinite, at any beta
    closed_form: ClassVar[bool] = False

    tilt: float = 0.5
    prompts: int = 32
    candidates: int = 8
    kept: int = 4
    epochs: int = 1

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.tilt <= 0:
            raise ValueError(f"tilt must be positive, not {self.tilt}")
        if self.kept % 2 or not 2 <= self.kept < self.candidates:
            raise ValueError("kept must be even, 2 or more and below candidates: two accepted answers make a pair")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample the base, accept, pair; then epochs of DPO on the pairs."""
        answers = lab.generate(lab.prompts(self.prompts), self.candidates, by="reference")
        score = lab.reward(answers)
        chance = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=lab.generator)))
        kept = accepted(score.view(-1, self.candidates).cpu(), self.kept, self.tilt, chance)
        mixed = kept.gather(1, torch.rand(kept.shape, generator=chance).argsort(1))  # early ones have higher rewards
        rows = (mixed + self.candidates * torch.arange(len(mixed)).unsqueeze(1)).view(-1, 2).to(score.device)
        lab.log(reward=score.mean(), kept_reward=score[rows].mean())
        one, other = rows[:, 0], rows[:, 1]
        first = score[one] >= score[other]
        chosen, rejected = torch.where(first, one, other), torch.where(first, other, one)
        pairs = Pairs(answers[chosen], answers[rejected], torch.arange(len(rows), device=score.device))
        yield from minibatches(lab, pairs, self.loss, self.epochs, self.batch_size)


def accepted(score: Tensor, kept: int, tilt: float, generator: torch.Generator) -> Tensor:
    """The first ``kept`` of each prompt's answers that rejection sampling accepts [P, kept], by their rewards
    [P, candidates], on the CPU. In each sweep every answer that is left has a chance; that of the largest reward is 1."""
    left, order = torch.ones_like(score, dtype=torch.bool), [list[int]() for _ in score]
    while min(map(len, order)) < kept:
        largest = score.masked_fill(~left, -torch.inf).amax(1, keepdim=True)
        taken = left & (torch.rand(score.shape, generator=generator) < ((score - largest) / tilt).exp())
        for places, row in zip(order, taken, strict=True):
            places += row.nonzero().flatten().tolist()
        left &= ~taken
    return torch.tensor([places[:kept] for places in order])
