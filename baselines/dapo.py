"""Decoupled clip and dynamic sampling: GRPO on the tokens of groups that differ."""

from typing import ClassVar

import torch
from torch import Tensor

from isoalign import Lab, Paper, Rollouts, joined, register
from isoalign.baselines.parts.groups import Grouped, GroupLoss
from isoalign.baselines.parts.losses import clipped_loss
from isoalign.baselines.parts.sampling import REWARD


@register
class DAPO(GroupLoss):
    """Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", eq. 8: a clip range that is wider
    above than below, a mean over tokens instead of answers, groups without differences drawn again (eq. 11), and a penalty
    for long answers (eq. 13). The mean is over all tokens of a step, as in the authors' code and TRL; in eq. 8 over those of
    a group. Answers without an end are not left out of the loss (their overlong filtering).

    ``clip``, ``clip_high``: their epsilon low and high. ``tries``: how often prompts are sampled for groups whose rewards
    differ; what is missing then is filled with groups whose rewards do not. ``overlong``: the last share of the longest answer
    over which a penalty grows from 0 to 1, 0 for none. The other settings are those of GSPO.
    """

    paper: ClassVar[Paper] = Paper(
        "Yu et al.", "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, "2503.14476", "eq. 8 and 13",
        family="reward", learns_from="a reward model, on groups of its own answers that differ",
        values={"draws": "16", "clip": "0.2", "clip_high": "0.28", "overlong": "0.2", "lr": "1e-6"},
        parity="test_grpo_relatives.py: TRL's GRPOTrainer with loss_type dapo, loss and gradient",
        logs=REWARD | {"varied": "share of the groups sampled whose rewards differ"},
    )  # fmt: skip

    clip: float = 0.2
    clip_high: float = 0.28
    tries: int = 4
    overlong: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.clip < 1 or self.clip_high < 0 or not 0 <= self.overlong <= 1 or self.tries < 1:
            raise ValueError("clip must lie in [0, 1), clip_high be 0 or more, overlong lie in [0, 1] and tries be 1 or more")

    def sample(self, lab: Lab) -> tuple[Rollouts, Tensor]:
        """Answers in groups, and their scores [B]."""
        wanted, parts, scores, rest = self.rollouts // self.draws, list[Rollouts](), list[Tensor](), 0
        rewards, differ = list[Tensor](), list[Tensor]()
        for attempt in range(self.tries):
            answers = lab.generate(lab.prompts(wanted - rest), self.draws)
            reward = lab.reward(answers)
            groups = reward.view(-1, self.draws)
            varied = (groups.max(1).values > groups.min(1).values).repeat_interleave(self.draws)
            penalty = overlong_penalty(answers.completion_mask.sum(1), lab.new_tokens, self.overlong)
            score = torch.where(varied, reward - penalty, reward)  # lengths alone make no difference, and teach nothing
            rewards, differ = [*rewards, reward], [*differ, varied.float()]
            kept = varied if attempt + 1 < self.tries else torch.ones_like(varied)
            parts, scores, rest = [*parts, answers[kept]], [*scores, score[kept]], rest + int(kept.sum()) // self.draws
            if rest == wanted:
                break
        lab.log(reward=torch.cat(rewards).mean(), varied=torch.cat(differ).mean())
        return joined(parts, 0), torch.cat(scores)

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """Clipped loss, summed over each row's tokens and divided by the mean length of the step's rows [B]."""
        log_ratio = lab.policy(batch.rollouts).logp - batch.logp
        loss = clipped_loss(log_ratio, batch.advantages.unsqueeze(1), self.clip, self.clip_high)
        return (loss * batch.rollouts.completion_mask).sum(1) / batch.mean_length


def overlong_penalty(length: Tensor, longest: int, share: float) -> Tensor:
    """0 up to (1 - share) * longest tokens, then rising to 1 at the longest answer that there can be [B] (eq. 13)."""
    room = share * longest
    return ((length - (longest - room)) / room).clamp(0, 1) if room else torch.zeros(len(length), device=length.device)
