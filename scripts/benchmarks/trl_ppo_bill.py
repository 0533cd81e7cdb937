"""What a budget covers in TRL's PPO trainer.

The reward model is at its price, and each pass is by our rules, which charge the head where it is needed (TRL applies it to
prompts too), and neither an answer's last token, which predicts nothing, nor padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isoalign.models.flops import Shape

TRL_EPOCHS = 4  # by default


def price(policy: Shape, reward: Shape, prompt: int, answer: int, epochs: int) -> dict[str, int]:
    """FLOPs of one rollout in TRL's trainer by pass. ``prompt``, ``answer``: tokens, the last of which only the reward model
    need read; the value model is of the reward model's shape."""
    read, head = [prompt + answer - 1], [answer]
    policy_read, value_read = policy.forward(read, head), reward.forward(read, [0])
    update = policy_read + policy.backward(read, head) + value_read + reward.backward(read, [0])
    return {
        "sample": policy.prefill([prompt]) + policy.decode([prompt], [answer]), "reference": policy_read,
        "reward": reward.forward([prompt + answer], [0]), "value": value_read, "updates": epochs * update,
    }  # fmt: skip


@dataclass(frozen=True)
class Purse:
    """What a budget covers. ``start``: FLOPs of the reward model and its verdicts; ``prompts``: the length of each training
    prompt in tokens."""

    flops: float
    start: int
    policy: Shape
    reward: Shape
    prompts: Sequence[int]
    answer: int

    def bill(self, prompts: Sequence[int], epochs: int) -> int:
        """FLOPs of a run that answered the prompts of these lengths."""
        return self.start + sum(
            sum(price(self.policy, self.reward, prompt, self.answer, epochs).values()) for prompt in prompts
        )

    def iterations(self, rollouts: int, epochs: int) -> int:
        """The number of iterations that the budget covers at the mean length. Raises SystemExit for none."""
        each = (self.bill(self.prompts, epochs) - self.start) / len(self.prompts) * rollouts
        if (found := int((self.flops - self.start) / each)) < 1:
            raise SystemExit(f"a budget of {self.flops:.3g} FLOPs covers no iteration: {self.start + each:.3g} are needed")
        return found
