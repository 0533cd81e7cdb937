"""DPO that also imitates the chosen answers."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, register
from isoalign.baselines.parts.pairs import PairLoss


@register
class RPO(PairLoss):
    """Pang et al. 2024, "Iterative Reasoning Preference Optimization", eq. 1: DPO's loss, and ``sft_weight`` times the
    negative log-likelihood of the chosen answer, so that it does not lose likelihood with the rejected one.

    ``scale_length``: the likelihood is per token of its answer, as in the paper; without, it is the answer's, as in Liu et
    al. 2024, "Provably Mitigating Overoptimization in RLHF". TRL divides by the tokens of all chosen answers of a batch
    instead (``trl_rpo``). The other settings are those of DPO; but no field is a KL coefficient, since imitation pulls from
    the base.
    """

    paper: ClassVar[Paper] = Paper(
        "Pang et al.", "Iterative Reasoning Preference Optimization", 2024, "2404.19733", "eq. 1", family="pairs",
        learns_from="pairs; the chosen answers are imitated as well", values={"beta": "0.1", "sft_weight": "1"},
        parity="test_pairwise.py: TRL's DPOTrainer with loss_type sigmoid and sft, loss and gradient",
        logs={
            "margin": "log-ratio of the chosen minus that of the rejected answer, in nats",
            "nll": "mean negative log-likelihood of a token of the chosen answers, in nats",
        },
    )  # fmt: skip

    sft_weight: float = 1.0
    scale_length: bool = True

    def __post_init__(self) -> None:
        if self.sft_weight < 0:
            raise ValueError("sft_weight must be 0 or more")

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(beta * margin) - sft_weight * log P(chosen), per token or not [B]."""
        logp = lab.policy(pairs.chosen).logp.sum(1)
        margin = logp - lab.reference(pairs.chosen).logp.sum(1) - lab.log_ratio(pairs.rejected)
        length = pairs.chosen.completion_mask.sum(1)
        lab.log(margin=margin.mean(), nll=-(logp / length).mean())
        return -logsigmoid(self.beta * margin) - self.sft_weight * (logp / length if self.scale_length else logp)
