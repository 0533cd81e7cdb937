"""Binary classifier optimisation: log-ratios that tell good answers from bad ones."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Labels, Paper, Step, register
from isoalign.baselines.kto import Judged


@register
class BCO:
    """Jung et al. 2024, "Binary Classifier Optimization for Large Language Model Alignment", section 4: cross-entropy of a
    classifier whose logit is the reward, beta times the log-ratio, minus the reward shift. Prompts of good and bad answers
    are taken to be alike, so that no density ratio weighs them.

    ``beta``: scale of the rewards; no field is a KL coefficient. ``balanced``: the shift is the mean of the mean reward of
    good and of bad answers, as in the paper; without, that of all answers, as in TRL. ``decay``: of its moving average over
    batches; 0 is the batch alone. TRL averages over all answers since the start. The loss is a mean over all answers, as in
    TRL; the paper adds the means of good and of bad ones, so that the rarer kind weighs as much. ``batch_size``: answers per
    step; the pass that finds the shift is paid.
    """

    paper: ClassVar[Paper] = Paper(
        "Jung et al.", "Binary Classifier Optimization for Large Language Model Alignment", 2024, "2404.04656", "section 4",
        family="unpaired", learns_from="single answers, each good or bad",
        values={"beta": "0.01", "batch_size": "128", "lr": "5e-7"},
        parity="test_pairwise.py: figures of TRL 1.12's BCOTrainer, loss and gradient",
        logs={
            "shift": "reward that a classifier takes for neither good nor bad",
            "reward": "beta times the log-ratio of policy to base",
        },
    )  # fmt: skip

    beta: float = 0.1
    balanced: bool = True
    decay: float = 0.9
    batch_size: int = 64
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), not {self.decay}")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of labels, one step. The shift depends on all rows, so it is computed here."""
        labels = lab.labels(self.batch_size)
        with torch.no_grad():
            now = float(self.shift(self.beta * lab.log_ratio(labels.rollouts), labels))
        lab.state["shift"] = self.decay * lab.state.get("shift", now) + (1 - self.decay) * now
        lab.log(shift=lab.state["shift"])
        yield Step(Judged(labels, torch.full((len(labels),), lab.state["shift"], device=lab.device)), self.loss)

    def shift(self, rewards: Tensor, labels: Labels) -> Tensor:
        """Between the rewards of good and of bad answers; a batch of one kind has its mean."""
        sides = [rewards[labels.desirable], rewards[~labels.desirable]]
        if not self.balanced or not all(map(len, sides)):
            return rewards.mean()
        return (sides[0].mean() + sides[1].mean()) / 2

    def loss(self, lab: Lab, batch: Judged) -> Tensor:
        """-log sigmoid of the shifted reward, or of its negative for a bad answer [B]."""
        reward = self.beta * lab.log_ratio(batch.labels.rollouts)
        lab.log(reward=reward.mean())
        logit = reward - batch.reference_point
        return -logsigmoid(torch.where(batch.labels.desirable, logit, -logit))
