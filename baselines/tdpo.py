"""Token-level DPO: the margin is corrected by the divergence of the next-token distributions along both answers."""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid

from isoalign import Lab, Pairs, Paper, Rollouts, Rows, register
from isoalign.baselines.dpo import MARGIN
from isoalign.baselines.parts.pairs import PairLoss

CITED = ("Zeng et al.", "Token-level Direct Preference Optimization", 2024, "2404.11999")
LOGS = MARGIN | {
    "chosen_kl": "KL from base to policy of the next token, summed along the chosen answers, in nats an answer",
    "rejected_kl": "the same along the rejected answers",
}
PARITY = "test_pairwise.py: the authors' formulas on full distributions, loss and gradient"


@register
class TDPO(PairLoss):
    """Zeng et al. 2024, "Token-level Direct Preference Optimization", TDPO2: DPO's margin less ``alpha`` times how
    much farther the policy is from the base along the rejected answer than along the chosen one.

    The distance is the sequential KL, from base to policy (forward), of the full next-token distributions. ``alpha``: weight
    of it; ``fix_chosen``: no gradient flows through that of the chosen answer, as in TDPO2. With alpha 1 and without
    fix_chosen it is TDPO1 (``tdpo1``). The other settings are those of DPO.
    """

    paper: ClassVar[Paper] = Paper(
        *CITED, "the loss TDPO2", family="pairs", learns_from="pairs, token by token", values={"beta": "0.1", "alpha": "0.5"},
        parity=PARITY, logs=LOGS,
    )  # fmt: skip
    rows: ClassVar[Rows] = {"tdpo1": {"paper": Paper(
        *CITED, "the loss TDPO1", family="pairs", learns_from="pairs, token by token", values={"beta": "0.1"}, parity=PARITY,
        logs=LOGS,
    )}}  # fmt: skip

    alpha: float = 0.5
    fix_chosen: bool = True

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(beta * (margin - alpha * (KL along the rejected - KL along the chosen))) [B]."""
        (chosen, chosen_kl), (rejected, rejected_kl) = sequential(lab, pairs.chosen), sequential(lab, pairs.rejected)
        lab.log(chosen_log_ratio=chosen.mean(), rejected_log_ratio=rejected.mean())
        lab.log(chosen_kl=chosen_kl.mean(), rejected_kl=rejected_kl.mean())
        anchor = chosen_kl.detach() if self.fix_chosen else chosen_kl
        return -logsigmoid(self.beta * (chosen - rejected - self.alpha * (rejected_kl - anchor)))


def sequential(lab: Lab, answers: Rollouts) -> tuple[Tensor, Tensor]:
    """Log-ratio of policy to base, and KL from base to policy summed over the positions, of each answer, in nats [B]."""
    ours, base = lab.policy(answers), lab.reference(answers)
    kl = kl_div(ours.logits.log_softmax(-1), base.logits.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    return (ours.logp - base.logp).sum(1), (kl * answers.completion_mask).sum(1)
