"""REINFORCE leave-one-out: the other completions of a prompt are a completion's baseline."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, Rollouts, Step, register
from isoalign.baselines.parts.advantages import leave_one_out
from isoalign.baselines.parts.sampling import PRICED, Weighed, check_sizes
from isoalign.baselines.reinforce import priced, reinforce_loss


@register
class RLOO:
    """Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback in
    LLMs", with the estimator of Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!".

    ``rollouts``: completions per step; ``draws``: samples per prompt; ``kl``: KL coefficient, as part of the reward. An answer
    is one action: its log-ratio and its log-likelihood are sums over tokens, as in the paper and TRL.
    """

    paper: ClassVar[Paper] = Paper(
        "Ahmadian et al.", "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        2024, "2402.14740", "eq. 8", family="reward", learns_from="a reward model, on its own answers",
        values={"rollouts": "512", "draws": "2 to 4", "kl": "0.03", "lr": "1e-6"},
        parity="test_reinforce.py: the exact gradient by counting all answers, and TRL's RLOOTrainer in test_trl.py",
        logs=PRICED,
    )  # fmt: skip

    kl_price: ClassVar[str] = "kl"
    closed_form: ClassVar[bool] = True

    rollouts: int = 64
    draws: int = 4
    kl: float = 0.05
    lr: float = 3e-4

    def __post_init__(self) -> None:
        check_sizes(self, draws=2)  # to leave one out

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of new completions, one step: the gradient is that of the policy that sampled them."""
        rollouts = lab.generate(lab.prompts(self.rollouts // self.draws), self.draws)
        returns = priced(lab, rollouts, self.score(lab, rollouts), self.kl)
        yield Step(Weighed(rollouts, leave_one_out(returns, self.draws)), reinforce_loss)

    def score(self, lab: Lab, rollouts: Rollouts) -> Tensor:
        """The reward of each completion [B]."""
        return lab.reward(rollouts)
