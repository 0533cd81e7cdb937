"""REINFORCE leave-one-out by TRL's trainer."""

from typing import Any

from bench import Lab, register, trl


@register
class TRLRLOO:
    """``trl.RLOOTrainer``: Ahmadian et al. 2024, "Back to Basics", section 3, with a clipped ratio where samples are reused.

    ``beta``: price of a nat of KL, taken off the reward. ``num_generations``: completions of each prompt, whose others are
    a completion's baseline. ``batch_size``: completions sampled at once, all in one step; ``num_iterations``: steps on
    them. ``epsilon``: the ratio's clip.
    """

    beta: float = 0.05
    num_generations: int = 4
    batch_size: int = 64
    num_iterations: int = 1
    epsilon: float = 0.2
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if self.num_generations < 2 or self.batch_size < 1 or self.batch_size % self.num_generations:
            raise ValueError("num_generations must be 2 or more and divide batch_size")
        if self.num_iterations < 1:
            raise ValueError("num_iterations must be 1 or more")

    def train(self, lab: Lab) -> None:
        """On the lab's prompts, which TRL answers by transformers' ``generate``, and its reward model."""
        prompts = self.batch_size // self.num_generations
        trl.train(
            lab, self.trainer, lambda: trl.contexts(lab.prompts(prompts), self.num_generations), reward=lab.reward,
            repeats=self.num_iterations, max_completion_length=lab.new_tokens, pad_to_multiple_of=None,
            per_device_train_batch_size=self.batch_size, **self.settings(),
        )  # fmt: skip

    @property
    def trainer(self) -> str:
        """The class of TRL's."""
        return "RLOOTrainer"

    def settings(self) -> dict[str, Any]:
        """What is configured of it."""
        names = ("beta", "num_generations", "num_iterations", "epsilon")
        return {name: getattr(self, name) for name in names}
