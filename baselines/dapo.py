"""Decoupled clip and dynamic sampling: GRPO on the tokens of groups that differ."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from isoalign import Batch, Lab, Paper, Rollouts, Scalars, Step, joined, register
from isoalign.baselines.grpo import group_advantages
from isoalign.baselines.ppo import minibatches

REWARD: Scalars = {"reward": "mean reward of the sampled answers, in deviations of the reward model's training answers"}


@dataclass(frozen=True)
class Grouped(Batch):
    """Rollouts with their tokens' log-probabilities when they were sampled [B, T], advantages [B], and the mean number of
    tokens of the step's answers [B]."""

    rollouts: Rollouts
    logp: Tensor
    advantages: Tensor
    mean_length: Tensor


@register
class DAPO:
    """Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", eq. 8: a clip range that is wider
    above than below, the mean over all tokens of a step, groups without differences drawn again, and a penalty for long
    answers (eq. 13). There is no KL penalty.

    ``rollouts``: completions per iteration; ``draws``: samples per prompt, a group. ``clip``, ``clip_high``: their epsilon
    low and high. ``tries``: how often prompts are sampled for groups whose rewards differ; what is missing then is filled
    with groups that teach nothing. ``overlong``: the last share of the longest answer over which a penalty grows from 0 to 1,
    0 for none. Advantages are GRPO's, with the unbiased deviation and 1e-4 added to it, as in TRL.
    """

    paper: ClassVar[Paper] = Paper(
        "Yu et al.", "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, "2503.14476", "eq. 8 and 13",
        family="reward", learns_from="a reward model, on groups of its own answers that differ",
        values={"draws": "16", "clip": "0.2", "clip_high": "0.28", "overlong": "0.2", "lr": "1e-6"},
        parity="test_grpo_relatives.py: TRL's GRPOTrainer with loss_type dapo, loss and gradient",
        logs=REWARD | {"varied": "share of the groups sampled whose rewards differ"},
    )  # fmt: skip

    rollouts: int = 64
    draws: int = 8
    epochs: int = 2
    minibatch: int = 32
    clip: float = 0.2
    clip_high: float = 0.28
    tries: int = 4
    overlong: float = 0.2
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if min(self.epochs, self.minibatch, self.tries) < 1 or not 2 <= self.draws <= self.rollouts:
            raise ValueError("epochs, minibatch and tries must be 1 or more, draws 2 or more and rollouts at least draws")
        if not 0 <= self.clip < 1 or self.clip_high < 0 or not 0 <= self.overlong <= 1:
            raise ValueError("clip must lie in [0, 1), clip_high be 0 or more and overlong lie in [0, 1]")

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """Sample until the groups differ; then epochs of minibatches over all."""
        yield from by_tokens(lab, grouped(lab, *self.sample(lab), self.draws), self.loss, self.epochs, self.minibatch)

    def sample(self, lab: Lab) -> tuple[Rollouts, Tensor]:
        """Answers in groups, and their scores [B]."""
        wanted, parts, scores, rest = self.rollouts // self.draws, list[Rollouts](), list[Tensor](), 0
        for attempt in range(self.tries):
            answers = lab.generate(lab.prompts(wanted - rest), self.draws)
            score = lab.reward(answers)
            lab.log(reward=score.mean())
            score = score - overlong_penalty(answers.completion_mask.sum(1), lab.new_tokens, self.overlong)
            groups = score.view(-1, self.draws)
            varied = (groups.max(1).values > groups.min(1).values).repeat_interleave(self.draws)
            lab.log(varied=varied.float().mean())
            kept = varied if attempt + 1 < self.tries else torch.ones_like(varied)
            parts, scores, rest = [*parts, answers[kept]], [*scores, score[kept]], rest + int(kept.sum()) // self.draws
            if rest == wanted:
                break
        return joined(parts, pad=0), torch.cat(scores)

    def loss(self, lab: Lab, batch: Grouped) -> Tensor:
        """Clipped loss, summed over each row's tokens and divided by the mean length of the step's rows [B]."""
        log_ratio = lab.policy(batch.rollouts).logp - batch.logp
        loss = clipped_loss(log_ratio, batch.advantages.unsqueeze(1), self.clip, self.clip_high)
        return (loss * batch.rollouts.completion_mask).sum(1) / batch.mean_length


def grouped(lab: Lab, rollouts: Rollouts, score: Tensor, draws: int) -> Grouped:
    """Rollouts with advantages within groups of ``draws``, and what the policy that sampled them said."""
    with torch.no_grad():
        logp = lab.policy(rollouts).logp
    return Grouped(rollouts, logp, group_advantages(score, draws, scale=True), torch.ones_like(score))


def by_tokens(lab: Lab, batch: Grouped, loss: Callable[[Any, Any], Tensor], epochs: int, size: int) -> Iterator[Step]:
    """Minibatches whose rows know the mean length of their step, so that the mean over rows is one over the step's tokens."""
    for step in minibatches(lab, batch, loss, epochs, size):
        rows: Any = step.batch
        mean = rows.rollouts.completion_mask.sum(1).float().mean()
        yield Step(replace(rows, mean_length=mean.expand(len(rows))), loss)


def clipped_loss(log_ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A), elementwise."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def overlong_penalty(length: Tensor, longest: int, share: float) -> Tensor:
    """0 up to (1 - share) * longest tokens, then rising to 1 at the longest answer that there can be [B] (eq. 13)."""
    room = share * longest
    return ((length - (longest - room)) / room).clamp(0, 1) if room else torch.zeros(len(length), device=length.device)
