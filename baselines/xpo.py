"""Exploratory preference optimisation: online DPO against the base's answers, with a bonus for leaving them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Batch, Lab, Needs, Paper, Rollouts, Step, register
from isoalign.baselines.dpo import MARGIN


@dataclass(frozen=True)
class Explored(Batch):
    """The policy's and the base's answer to each prompt, and whether the policy's is the better one [B]."""

    own: Rollouts
    base: Rollouts
    wins: Tensor


@register
class XPO:
    """Xie et al. 2024, "Exploratory Preference Optimization", algorithm 1: DPO on an answer of the policy and one of the base,
    and ``alpha`` times the log-likelihood of the base's answer as a penalty.

    ``beta``: as in DPO; ``batch_size``: prompts, and pairs, per step. ``labelled_by``: ``reward`` prefers the answer with the
    higher reward, ``judge`` asks the AI judge. Ties are the policy's. No field is a KL coefficient, as in ``online_dpo``.
    """

    paper: ClassVar[Paper] = Paper(
        "Xie et al.", "Exploratory Preference Optimization: Harnessing Implicit Q*-Approximation for Sample-Efficient RLHF",
        2024, "2405.21046", "algorithm 1", family="reward",
        learns_from="its own answers against the base's, by a reward model or an AI judge",
        parity="test_reference_samples.py: figures of TRL 1.12's XPOTrainer, loss and gradient",
        logs=MARGIN | {"wins": "share of prompts where the policy's answer is the better one"},
    )  # fmt: skip

    needs: ClassVar[Needs] = {"labelled_by=judge": ("judge",), "labelled_by=reward": ("reward",)}

    beta: float = 0.1
    alpha: float = 1e-3
    batch_size: int = 32
    lr: float = 1e-4
    labelled_by: str = "reward"

    def __post_init__(self) -> None:
        if self.labelled_by not in ("judge", "reward") or self.alpha < 0:
            raise ValueError(f"labelled_by must be judge or reward, not {self.labelled_by!r}, and alpha 0 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """An answer of the policy and one of the base to each prompt, one step."""
        prompts = lab.prompts(self.batch_size)
        own, base = lab.generate(prompts), lab.generate(prompts, by="reference")
        wins = lab.judge(own, base) >= 0.5 if self.labelled_by == "judge" else lab.reward(own) >= lab.reward(base)
        lab.log(wins=wins.float().mean())
        yield Step(Explored(own, base, wins), self.loss)

    def loss(self, lab: Lab, batch: Explored) -> Tensor:
        """-log sigmoid(beta * margin) + alpha * log P(the base's answer) [B]."""
        logp = lab.policy(batch.base).logp.sum(1)
        own, base = lab.log_ratio(batch.own), logp - lab.reference(batch.base).logp.sum(1)
        chosen, rejected = torch.where(batch.wins, own, base), torch.where(batch.wins, base, own)
        lab.log(chosen_log_ratio=chosen.mean(), rejected_log_ratio=rejected.mean())
        return -logsigmoid(self.beta * (chosen - rejected)) + self.alpha * logp
