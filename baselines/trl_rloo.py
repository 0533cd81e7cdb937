"""REINFORCE leave-one-out by TRL's trainer."""

from typing import Any, ClassVar

from isoalign import Lab, Paper, register, trl


@register
class TRLRLOO:
    """``trl.RLOOTrainer``: Ahmadian et al. 2024, "Back to Basics", with a clipped ratio if samples are reused.

    ``beta``: KL coefficient, as part of the reward. ``num_generations``: completions per prompt; the others are a
    completion's baseline. ``batch_size``: completions per step; ``steps_per_generation``: steps per batch of samples;
    ``num_iterations``: passes over these steps. ``epsilon``: clip range of the ratio.
    """

    paper: ClassVar[Paper] = Paper(
        "Ahmadian et al.", "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        2024, "2402.14740", "eq. 8", family="reward", learns_from="a reward model, on its own answers",
        values={"num_generations": "2 to 4", "beta": "0.03", "batch_size": "512", "lr": "1e-6"},
        parity="test_trl.py: the paper's first gradient", logs={"reward": "mean reward of the answers that were sampled"},
    )  # fmt: skip

    kl_price: ClassVar[str] = "beta"

    beta: float = 0.05
    num_generations: int = 4
    batch_size: int = 64
    steps_per_generation: int = 1
    num_iterations: int = 1
    epsilon: float = 0.2
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if min(self.batch_size, self.steps_per_generation, self.num_iterations) < 1:
            raise ValueError("batch_size, steps_per_generation and num_iterations must be 1 or more")
        if self.num_generations < 2 or self.batch_size * self.steps_per_generation % self.num_generations:
            raise ValueError("num_generations must be 2 or more and divide batch_size x steps_per_generation")

    def train(self, lab: Lab) -> None:
        """Train on the lab's prompts and reward model. TRL samples answers with transformers' ``generate``."""
        prompts = self.batch_size * self.steps_per_generation // self.num_generations
        trl.train(
            lab, self.trainer, lambda: trl.contexts(lab.prompts(prompts), self.num_generations), reward=lab.reward,
            repeats=self.steps_per_generation * self.num_iterations, max_completion_length=lab.new_tokens,
            per_device_train_batch_size=self.batch_size, pad_to_multiple_of=None, **self.settings(),
        )  # fmt: skip

    @property
    def trainer(self) -> str:
        """The name of TRL's trainer class."""
        return "RLOOTrainer"

    def settings(self) -> dict[str, Any]:
        """Fields of TRL's configuration."""
        names = ("beta", "num_generations", "steps_per_generation", "num_iterations", "epsilon")
        return {name: getattr(self, name) for name in names}
