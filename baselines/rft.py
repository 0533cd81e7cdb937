"""Rejection-sampling fine-tuning: repeated supervised learning on the policy's own best answers."""

from collections.abc import Iterator
from typing import ClassVar

from isoalign import Lab, Needs, Paper, Step, register
from isoalign.baselines.parts.choosing import best
from isoalign.baselines.parts.sampling import check_sizes, minibatches
from isoalign.baselines.sft_chosen import SFTChosen


@register
class RFT(SFTChosen):
    """Touvron et al. 2023, "Llama 2", section 3.2.3; RAFT of Dong et al. 2023, "Reward rAnked FineTuning"; it is the expert
    iteration of Anthony et al. 2017 with the reward model instead of a search. It has no KL penalty.

    ``prompts``: prompts per iteration; ``draws``: answers per prompt, of which the best is kept; ``epochs``: over the kept
    answers, with negative log-likelihood; ``batch_size``: answers per step.
    """

    paper: ClassVar[Paper] = Paper(
        "Dong et al.", "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment", 2023, "2304.06767",
        "algorithm 1", family="reward", learns_from="the best of its own answers by a reward model",
        parity="test_online_preferences.py: numbers worked by hand",
        logs={
            "reward": "mean reward of all answers that were sampled", "kept_reward": "mean reward of those that are imitated",
        },
    )  # fmt: skip

    needs: ClassVar[Needs] = {"": ("reward",)}

    prompts: int = 64
    draws: int = 4
    epochs: int = 1

    def __post_init__(self) -> None:
        check_sizes(self, draws=2)  # the best is kept

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample, and keep the best answer to each prompt; then epochs of supervised learning on them."""
        answers = lab.generate(lab.prompts(self.prompts), self.draws)
        score = lab.reward(answers)
        kept = best(score, self.draws)
        lab.log(reward=score.mean(), kept_reward=score[kept].mean())
        yield from minibatches(lab, answers[kept], self.loss, self.epochs, self.batch_size)
