"""The separate value model of a run: what it starts from."""

from __future__ import annotations

import torch

from isoalign.core.errors import UserError
from isoalign.core.randomness import own_random_state
from isoalign.models.critic import Critic
from isoalign.models.reward import HeadReward
from isoalign.training.purchases import pay_reward_model
from isoalign.training.session import Session

STARTS = ("policy", "reward")


def make_critic(session: Session, start: str) -> Critic:
    """A value model that starts as a copy of the policy with a head at 0, or as the annotator's reward model, which is paid
    for as at its first use: each value is then the reward that the answer would have if it ended there.

    Raises UserError for another start, and for a reward model that is no head on the policy's own architecture.
    """
    if start not in STARTS:
        raise UserError(f"lab.critic starts from the {' or the '.join(STARTS)}, not {start!r}")
    with own_random_state():
        critic = Critic(session.policy)
    if start == "reward":
        session.require_pairs("a reward model")
        rewarder = session.fetch(session.source.reward, "annotator")
        pay_reward_model(session, rewarder, "annotator")
        start_from(critic, rewarder)
    return critic


@torch.no_grad()
def start_from(critic: Critic, rewarder: object) -> None:
    """Copy a reward model into a critic, in the units of its rewards. Raises UserError where the two are not alike, or several
    processes hold the critic together."""
    if critic.shards:
        raise UserError("task.model.shard=true: a critic starts from the policy alone; set start=policy, or leave it out")
    body = getattr(rewarder.model, rewarder.model.base_model_prefix) if isinstance(rewarder, HeadReward) else None
    own = {name: weights.shape for name, weights in critic.body.state_dict().items()}
    if body is None or own != {name: weights.shape for name, weights in body.state_dict().items()}:
        raise UserError(
            "a critic starts from one trained reward model on the SFT base, without adapters; leave task.reward and "
            "task.shaping as they are and set task.model.lora=0, or let the critic start from the policy"
        )
    assert isinstance(rewarder, HeadReward)
    critic.body.load_state_dict(body.state_dict())
    mean, deviation = (rewarder.record["mean"], rewarder.record["deviation"]) if rewarder.normalise else (0.0, 1.0)
    critic.head.weight.copy_(rewarder.model.score.weight / deviation)
    critic.head.bias.fill_(-mean / deviation)
