"""Constitutional AI: supervised learning on revisions by a constitution, then PPO on an AI's preferences by the same one."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Needs, Paper, Rollouts, Step, register
from isoalign.baselines.ppo import PENALISED
from isoalign.baselines.rlaif import RLAIF
from isoalign.baselines.sft_chosen import mean_logp


@register
class CAI(RLAIF):
    """Bai et al. 2022, "Constitutional AI: Harmlessness from AI Feedback": supervised learning on revisions of the base's
    answers (section 3.1), then PPO on a reward model of the judge's preferences (section 4.1), without human labels.

    The principles are in ``task.constitution.file``. Judges that compare answers (``task.judge.kind`` lm or server) use them;
    the classifier cannot. Unlike the paper's, revisions are made once, without few-shot examples and without helpful answers
    among the data; and the KL penalty is from the SFT base, not from the supervised model.

    ``revision_share``: fraction of the budget for supervised learning; ``batch_size``: revisions per step of it. The other
    settings are those of PPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Bai et al.", "Constitutional AI: Harmlessness from AI Feedback", 2022, "2212.08073", "sections 3.1 and 4.1",
        family="judge", learns_from="revisions by written principles, then an AI judge",
        parity="test_cai.py: imitation and PPO, each in its share of the budget", logs=PENALISED,
    )  # fmt: skip

    needs: ClassVar[Needs] = RLAIF.needs | {"": ("revisions",)}
    closed_form: ClassVar[bool] = False  # the revisions change the optimum

    revision_share: float = 0.25
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.revision_share <= 1 or self.batch_size < 1:
            raise ValueError("revision_share must lie in [0, 1] and batch_size be 1 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of revisions, one step; after their share of the budget, an iteration of PPO."""
        if self.revision_share == 1 or lab.progress < self.revision_share:
            yield Step(lab.revisions(self.batch_size).chosen, self.imitation)
        else:
            yield from super().iteration(lab)

    def imitation(self, lab: Lab, revised: Rollouts) -> Tensor:
        """Mean negative log-likelihood of each revision's tokens [B]."""
        return -mean_logp(lab, revised)
