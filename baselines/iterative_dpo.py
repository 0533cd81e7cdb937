"""Iterative DPO: pairs of the policy's own answers, the best against the worst."""

from collections.abc import Iterator
from typing import ClassVar

from isoalign import Lab, Needs, Paper, Rows, Step, register
from isoalign.baselines.dpo import DPO, MARGIN
from isoalign.baselines.parts.choosing import best_against_worst
from isoalign.baselines.parts.sampling import check_sizes, minibatches


@register
class IterativeDPO(DPO):
    """Dong et al. 2024, "RLHF Workflow", after Xiong et al. 2023, "Iterative Preference Learning from Human Feedback": a
    reward model picks the best and the worst answer to each prompt, and the reference is always the SFT base.
    Unlike theirs, an iteration trains only on its own pairs.

    ``prompts``: prompts per iteration; ``draws``: answers per prompt; ``epochs``: over the pairs; ``batch_size``: pairs per
    step; ``beta``: as in DPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Dong et al.", "RLHF Workflow: From Reward Modeling to Online RLHF", 2024, "2405.07863", "algorithm 1",
        family="reward", learns_from="the best and the worst of its own answers by a reward model",
        values={"beta": "0.1", "draws": "8", "epochs": "2", "batch_size": "128", "lr": "5e-7"},
        parity="test_online_preferences.py: DPO on pairs picked by hand",
        logs=MARGIN | {"reward": "mean reward of all answers that were sampled"},
    )  # fmt: skip

    rows: ClassVar[Rows] = {"semi_online_dpo": {"paper": Paper(
        "Lanchantin et al.", "Bridging Offline and Online Reinforcement Learning for LLMs", 2025, "2506.21495",
        "section 2, semi-online DPO", family="reward", learns_from="its own answers of ten steps before, by a reward model",
        values={"beta": "0.1", "draws": "8", "lr": "1e-6"}, parity="test_online_preferences.py: DPO on pairs picked by hand",
        logs=MARGIN | {"reward": "mean reward of all answers that were sampled"},
    )}}  # fmt: skip

    needs: ClassVar[Needs] = {"": ("reward",)}
    kl_price: ClassVar[str] = ""  # with deterministic verdicts the optimal margin is infinite, at any beta
    closed_form: ClassVar[bool] = False

    prompts: int = 128
    draws: int = 4
    epochs: int = 2

    def __post_init__(self) -> None:
        check_sizes(self, draws=2)  # two make a pair

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample, pair the best with the worst; then epochs of DPO on the pairs."""
        answers = lab.generate(lab.prompts(self.prompts), self.draws)
        score = lab.reward(answers)
        lab.log(reward=score.mean())
        pairs = best_against_worst(answers, score, self.draws)
        yield from minibatches(lab, pairs, self.loss, self.epochs, self.batch_size)
