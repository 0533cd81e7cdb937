"""Simple preference optimisation: no reference, and rewards per token."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.parts.pairs import PairLoss
from isoalign.baselines.sft_chosen import mean_logp


@register
class SimPO(PairLoss):
    """Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", eq. 6: an answer's reward is
    beta times its mean log-probability. Nothing pulls to the base, so no field is a KL coefficient.

    ``beta``: scale of the rewards; ``gamma``: target margin between the rewards of the chosen and the rejected answer.
    ``batch_size``: pairs per step.
    """

    paper: ClassVar[Paper] = Paper(
        "Meng et al.", "SimPO: Simple Preference Optimization with a Reference-Free Reward", 2024, "2405.14734", "eq. 6",
        family="pairs", learns_from="pairs, without a reference",
        values={"beta": "2 to 2.5", "gamma": "0.3 to 1.6", "batch_size": "128", "lr": "3e-7 to 1e-6"},
        parity="test_reference_free.py: TRL's CPOTrainer with loss_type simpo, loss and gradient",
        logs={
            "chosen_reward": "beta times the mean log-probability of the chosen answers' tokens",
            "rejected_reward": "the same of the rejected answers",
        },
    )  # fmt: skip

    beta: float = 2.0
    gamma: float = 1.0

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(reward of the chosen - reward of the rejected - gamma) [B]."""
        chosen, rejected = self.beta * mean_logp(lab, pairs.chosen), self.beta * mean_logp(lab, pairs.rejected)
        lab.log(chosen_reward=chosen.mean(), rejected_reward=rejected.mean())
        return -logsigmoid(chosen - rejected - self.gamma)
