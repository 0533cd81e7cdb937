"""Direct preference optimisation."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, Scalars, Step, register

MARGIN: Scalars = {
    "chosen_log_ratio": "log-ratio of policy to base of the chosen answers, in nats an answer",
    "rejected_log_ratio": "the same of the rejected answers",
}
"""What `margin` logs."""


@register
class DPO:
    """Rafailov et al. 2023, "Direct Preference Optimization", eq. 7: the policy is its own reward model. Log-ratios are summed
    over an answer's tokens, as in the paper.

    ``beta``: KL coefficient. ``batch_size``: pairs per step.
    """

    paper: ClassVar[Paper] = Paper(
        "Rafailov et al.", "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023,
        "2305.18290", "eq. 7", family="pairs", learns_from="pairs of answers",
        values={"beta": "0.1 to 0.5", "batch_size": "64", "lr": "1e-6"},
        parity="test_dpo.py: TRL's DPOTrainer, loss and gradient", logs=MARGIN,
    )  # fmt: skip

    beta: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4

    kl_price: ClassVar[str] = "beta"
    closed_form: ClassVar[bool] = True  # eq. 4: base * exp(reward / beta)

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of pairs, one step."""
        yield Step(lab.pairs(self.batch_size), self.loss)

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(beta * margin) [B]."""
        return -logsigmoid(self.beta * margin(lab, pairs))


def margin(lab: Lab, pairs: Pairs) -> Tensor:
    """Log-ratio of the chosen minus log-ratio of the rejected answer, in nats [B]; times beta, the implicit reward margin."""
    chosen, rejected = lab.log_ratio(pairs.chosen), lab.log_ratio(pairs.rejected)
    lab.log(chosen_log_ratio=chosen.mean(), rejected_log_ratio=rejected.mean())
    return chosen - rejected
