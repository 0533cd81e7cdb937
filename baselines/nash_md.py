"""Nash-MD: policy gradient against a mixture of the policy and the base, towards the Nash equilibrium of preferences."""

from collections.abc import Iterator
from typing import ClassVar

import torch

from isoalign import Lab, Needs, Paper, Step, register
from isoalign.baselines.parts.sampling import Weighed, check_sizes
from isoalign.baselines.reinforce import reinforce_loss


@register
class NashMD:
    """Munos et al. 2023, "Nash Learning from Human Feedback", section 7, Nash-MD-PG: an answer's return is its chance of
    beating one of the mixture pi^(1 - mix) x base^mix, less 1/2, less ``kl`` times its log-ratio to the base.

    The mixture is made at each token, as in the paper. ``rollouts``: answers of each of the two players per step, one per
    prompt, all paid; ``kl``: KL coefficient, their tau; ``mix``: their beta; 0 is self-play. ``labelled_by``: ``reward``
    takes the chance of Bradley and Terry from the normalised reward, ``judge`` asks the AI judge. The penalty is on whole
    answers, as in the paper.
    """

    paper: ClassVar[Paper] = Paper(
        "Munos et al.", "Nash Learning from Human Feedback", 2023, "2312.00886", "section 7, Nash-MD-PG", family="reward",
        learns_from="its own answers against those of a mixture with the base, by a reward model or an AI judge",
        values={"kl": "0.008", "mix": "0.125"}, 
        parity="test_self_play.py: returns by hand, with the loss of test_reinforce.py",
        logs={
            "wins": "mean chance of the policy's answers against the mixture's",
            "kl_k1": "log-ratio of policy to base of the sampled answers: an estimate of the KL, in nats an answer",
        },
    )  # fmt: skip

    needs: ClassVar[Needs] = {"labelled_by=judge": ("judge",), "labelled_by=reward": ("reward",)}
    kl_price: ClassVar[str] = "kl"

    rollouts: int = 64
    kl: float = 0.02
    mix: float = 0.125
    lr: float = 3e-4
    labelled_by: str = "reward"

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.labelled_by not in ("judge", "reward") or not 0 <= self.mix < 1:
            raise ValueError("labelled_by must be judge or reward, and mix lie in [0, 1)")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """An answer of each player to each prompt, one step."""
        prompts = lab.prompts(self.rollouts)
        own, other = lab.generate(prompts), lab.generate(prompts, mix=self.mix)
        if self.labelled_by == "judge":
            wins = lab.judge(own, other)
        else:
            wins = torch.sigmoid(lab.reward(own) - lab.reward(other))
        with torch.no_grad():
            drift = lab.log_ratio(own)
        lab.log(wins=wins.mean(), kl_k1=drift.mean())
        yield Step(Weighed(own, wins - 0.5 - self.kl * drift), reinforce_loss)
