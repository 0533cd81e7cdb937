"""Online DPO: every pair is sampled fresh from the policy and judged on the spot."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Needs, Paper, Rollouts, Step, register
from isoalign.baselines.dpo import DPO, MARGIN
from isoalign.baselines.parts.choosing import best_against_worst


@register
class OnlineDPO(DPO):
    """Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback", algorithm 1.

    ``labelled_by``: ``judge`` asks the AI judge which of the two answers is better, as in the paper; ``reward`` chooses the
    one with the higher reward. ``batch_size``: prompts, and pairs, per step; ``beta``: as in DPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Guo et al.", "Direct Language Model Alignment from Online AI Feedback", 2024, "2402.04792", "algorithm 1",
        family="judge", learns_from="its own answers, compared by an AI judge",
        values={"beta": "0.1", "batch_size": "128", "lr": "5e-7"},
        parity="test_online_preferences.py: DPO on pairs picked by hand, and TRL's OnlineDPOTrainer in test_trl.py",
        logs=MARGIN,
    )  # fmt: skip

    needs: ClassVar[Needs] = {"labelled_by=judge": ("judge",), "labelled_by=reward": ("reward",)}
    kl_price: ClassVar[str] = ""  # with deterministic verdicts the optimal margin is infinite, at any beta
    closed_form: ClassVar[bool] = False

    labelled_by: str = "judge"

    def __post_init__(self) -> None:
        if self.labelled_by not in ("judge", "reward"):
            raise ValueError(f"labelled_by must be judge or reward, not {self.labelled_by!r}")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Two fresh answers to each prompt, one step."""
        answers = lab.generate(lab.prompts(self.batch_size), draws=2)
        yield Step(best_against_worst(answers, self.score(lab, answers), draws=2), self.loss)

    def score(self, lab: Lab, answers: Rollouts) -> Tensor:
        """Scores of the two answers to each prompt, in adjacent rows [2B]."""
        if self.labelled_by == "reward":
            return lab.reward(answers)
        first = lab.judge(answers[0::2], answers[1::2])
        return torch.stack([first, 1 - first], 1).flatten()
