"""Best-of-n: train nothing, answer several times, keep the best."""

from torch import Tensor

from isoalign import Lab, Rollouts, register


@register
class BestOfN:
    """Stiennon et al. 2020, "Learning to summarize from human feedback"; Nakano et al. 2021, "WebGPT": of ``draws`` answers of
    the SFT base the one that the reward model likes best. What others spend on training it spends on every answer: sampling
    and scoring all of them, for all evaluation prompts, is on its bill.
    """

    draws: int = 3

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("draws must be 1 or more")

    def select(self, lab: Lab, answers: Rollouts) -> Tensor:
        """The score by which the harness keeps one of every ``draws`` answers [B]."""
        return lab.reward(answers)
