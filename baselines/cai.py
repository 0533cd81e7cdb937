"""Constitutional AI: imitate revisions made by principles, then learn from an AI's preferences by the same principles."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Rollouts, Step, register
from isoalign.baselines.rlaif import RLAIF
from isoalign.baselines.sft_chosen import mean_logp


@register
class CAI(RLAIF):
    """Bai et al. 2022, "Constitutional AI: Harmlessness from AI Feedback": supervised on its own revised answers (section
    3.1), then PPO on a reward model of the judge's preferences (section 4.1), all without people's labels.

    The principles are ``task.constitution.file``. The judge compares by them if it is asked, ``task.judge.kind`` lm or
    server; the classifier can't read them. Unlike the paper's, revisions are made once, without examples and without helpful
    answers beside them; and the price on KL is on the distance from the SFT base, not from what was imitated.

    ``revision_share``: of the budget, spent on imitation; ``batch_size``: revisions a step of it; the rest as in PPO.
    """

    closed_form: ClassVar[bool] = False  # the revisions pull too

    revision_share: float = 0.25
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.revision_share <= 1 or self.batch_size < 1:
            raise ValueError("revision_share must lie in [0, 1] and batch_size be 1 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of revisions, one step; past their share of the budget, a round of PPO."""
        if self.revision_share == 1 or lab.progress < self.revision_share:
            yield Step(lab.revisions(self.batch_size).chosen, self.imitation)
        else:
            yield from super().iteration(lab)

    def imitation(self, lab: Lab, revised: Rollouts) -> Tensor:
        """Mean negative log-likelihood of each revision's tokens [B]."""
        return -mean_logp(lab, revised)
