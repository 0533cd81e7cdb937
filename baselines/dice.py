"""Self-alignment by implicit rewards: the policy that DPO has trained judges its own answers."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Needs, Pairs, Paper, Step, register
from isoalign.baselines.dpo import DPO
from isoalign.baselines.parts.choosing import best_against_worst
from isoalign.baselines.parts.sampling import check_sizes, minibatches
from isoalign.baselines.tr_dpo import MOVING


@register
class DICE:
    """Chen et al. 2024, "Bootstrapping Language Models with DPO Implicit Rewards": DPO on the given pairs, then rounds of DPO
    on the policy's own answers, of which the best and the worst by its implicit reward make a pair. The reference of a round
    is the policy at its start. The implicit reward is beta times the log-ratio to what the policy was trained against, less
    ``length_penalty`` per token: in the first round to the SFT base, then to the reference of the round before, as in the
    authors' code.

    It is a self-rewarding method without an instruction to judge, which needs no model that can be asked. ``dpo_share``:
    fraction of the budget for DPO on the given pairs; ``prompts``: per round; ``draws``: answers per prompt; ``replay``: steps
    on given pairs after each step on own ones (1 is the paper's gamma of 1/2). The paper picks the length penalty so that
    both answers of its pairs are equally long. ``beta`` and ``batch_size``: as in DPO. Its own reward grows on itself: where
    verdicts say nothing it leaves the base all the same.
    """

    paper: ClassVar[Paper] = Paper(
        "Chen et al.", "Bootstrapping Language Models with DPO Implicit Rewards", 2024, "2406.09760", "section 3",
        family="pairs", learns_from="pairs, then its own answers by the reward that it has learnt from them",
        values={"beta": "0.1", "batch_size": "32", "draws": "16", "replay": "1", "lr": "5e-7"},
        parity="test_anchor.py: pairs picked by hand, DPO's loss over the policy of the round",
        logs=MOVING | {"implicit_reward": "mean implicit reward of the answers of a round"},
    )  # fmt: skip

    needs: ClassVar[Needs] = {"": ("pairs",)}

    beta: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4
    dpo_share: float = 0.5
    prompts: int = 64
    draws: int = 4
    replay: int = 1
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self, draws=2)  # two make a pair
        if not 0 <= self.dpo_share <= 1 or self.replay < 0:
            raise ValueError("dpo_share must lie in [0, 1], and replay be 0 or more")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of given pairs, one step; after their share of the budget, a round on own pairs."""
        if self.dpo_share == 1 or lab.progress < self.dpo_share:
            yield from DPO(self.beta, self.batch_size).iteration(lab)
            return
        answers = lab.generate(lab.prompts(self.prompts), self.draws)
        with torch.no_grad():
            reward = self.beta * lab.log_ratio(answers, to="anchor" if "rounds" in lab.state else "reference")
        lab.log(implicit_reward=reward.mean())
        lab.state["rounds"] = lab.state.get("rounds", 0) + 1
        lab.move_anchor()
        own = best_against_worst(answers, reward - self.length_penalty * answers.completion_mask.sum(1), self.draws)
        for step in minibatches(lab, own, self.round_loss, 1, self.batch_size):
            yield step
            for _ in range(self.replay):
                yield Step(lab.pairs(self.batch_size), self.round_loss)

    def round_loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """-log sigmoid(beta * margin over the policy at the start of the round) [B]."""
        chosen, rejected = (lab.log_ratio(side, to="anchor") for side in (pairs.chosen, pairs.rejected))
        lab.log(chosen_log_ratio=chosen.mean(), rejected_log_ratio=rejected.mean())
        return -logsigmoid(self.beta * (chosen - rejected))
