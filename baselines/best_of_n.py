"""Best-of-n: no training; sample several answers and keep the best."""

from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, Rollouts, register


@register
class BestOfN:
    """Stiennon et al. 2020, "Learning to summarize from human feedback"; Nakano et al. 2021, "WebGPT": of ``draws`` answers of
    the SFT base, the one with the highest reward. It trains nothing and pays at inference, so it is on boards and has no rank;
    its budget covers the reward model.
    """

    paper: ClassVar[Paper] = Paper(
        "Nakano et al.", "WebGPT: Browser-assisted question-answering with human feedback", 2021, "2112.09332", "section 3.2",
        family="reward", learns_from="nothing: a reward model picks one of several answers, and all are paid",
        values={"draws": "4 to 64"}, parity="test_selection.py: the best by scores given by hand",
    )  # fmt: skip

    draws: int = 3

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("draws must be 1 or more")

    def select(self, lab: Lab, answers: Rollouts) -> Tensor:
        """Scores [B], by which the harness keeps the best of every ``draws`` answers."""
        return lab.reward(answers)
