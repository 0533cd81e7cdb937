"""Trust region DPO: DPO whose reference follows the policy."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Paper, Rows, Scalars, Step, register
from isoalign.baselines.dpo import DPO

MOVING: Scalars = {
    "chosen_log_ratio": "log-ratio of policy to moving reference of the chosen answers, in nats an answer",
    "rejected_log_ratio": "the same of the rejected answers",
}
TR = ("Gorbatovski et al.", "Learn Your Reference Model for Real Good Alignment", 2024, "2404.09656")
PARITY = "test_anchor.py: the loss by hand, and the weights of TRL's DPOTrainer with sync_ref_model after a whole run"


@register
class TRDPO(DPO):
    """Gorbatovski et al. 2024, "Learn Your Reference Model for Real Good Alignment": after every ``tau`` steps each weight of
    the reference moves by ``alpha`` of the way to the policy's. ``alpha`` of 1 is their hard update.

    ``beta`` and ``batch_size``: as in DPO; no field is a KL coefficient, as the policy may leave the SFT base step by step. Of
    an adapter, its two matrices are averaged, each by itself. With more steps between updates than a run has, this is DPO.
    """

    paper: ClassVar[Paper] = Paper(
        *TR, "section 3, soft update", family="pairs", learns_from="pairs, against a reference that follows the policy",
        values={"beta": "0.05", "alpha": "0.6"}, parity=PARITY, logs=MOVING,
    )  # fmt: skip

    rows: ClassVar[Rows] = {"tr_dpo_hard": {"paper": Paper(
        *TR, "section 3, hard update", family="pairs", learns_from="pairs, against the policy of some steps before",
        values={"beta": "0.05", "tau": "512"}, parity=PARITY, logs=MOVING,
    )}}  # fmt: skip

    kl_price: ClassVar[str] = ""
    closed_form: ClassVar[bool] = False

    alpha: float = 0.6
    tau: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1 or self.tau < 1:
            raise ValueError("alpha must lie in (0, 1] and tau be 1 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of pairs, one step; then the reference moves, if its turn has come."""
        yield Step(lab.pairs(self.batch_size), self.loss)
        lab.state["steps"] = lab.state.get("steps", 0) + 1
        if lab.state["steps"] % self.tau == 0:
            lab.move_anchor(self.alpha)

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(beta * margin over the moving reference) [B]."""
        chosen, rejected = (lab.log_ratio(side, to="anchor") for side in (pairs.chosen, pairs.rejected))
        lab.log(chosen_log_ratio=chosen.mean(), rejected_log_ratio=rejected.mean())
        return -logsigmoid(self.beta * (chosen - rejected))
