"""ReMax: REINFORCE whose baseline is the reward of the policy's likeliest answer."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from isoalign import Lab, Paper, Step, register
from isoalign.baselines.parts.sampling import PRICED, Weighed, check_sizes
from isoalign.baselines.reinforce import priced, reinforce_loss


@register
class ReMax:
    """Li et al. 2024, "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning LLMs", algorithm
    1: an answer's advantage is its reward minus that of the greedy answer to its prompt.

    ``rollouts``: completions per step, one per prompt, besides as many greedy ones, which are paid, too; ``kl``: KL
    coefficient, as part of the reward of the whole answer, and likelihoods are sums over its tokens; the authors' code gives
    each token its own KL alone, and averages over the tokens of a batch. The greedy answer's reward is without a KL penalty,
    as there.
    """

    paper: ClassVar[Paper] = Paper(
        "Li et al.", "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for Aligning LLMs", 2024,
        "2310.10505", "algorithm 1", family="reward", learns_from="a reward model, on its own answers",
        values={"kl": "0.05", "lr": "1e-6"},
        parity="test_reference_samples.py: advantages by hand, with the loss of test_reinforce.py",
        logs=PRICED | {"greedy_reward": "mean reward of the greedy answers"},
    )  # fmt: skip

    kl_price: ClassVar[str] = "kl"
    closed_form: ClassVar[bool] = True

    rollouts: int = 64
    kl: float = 0.05
    lr: float = 3e-4

    def __post_init__(self) -> None:
        check_sizes(self)

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of new completions and of greedy ones, one step."""
        prompts = lab.prompts(self.rollouts)
        answers, greedy = lab.generate(prompts), lab.generate(prompts, greedy=True)
        baseline: Tensor = lab.reward(greedy)
        lab.log(greedy_reward=baseline.mean())
        yield Step(Weighed(answers, priced(lab, answers, lab.reward(answers), self.kl) - baseline), reinforce_loss)
