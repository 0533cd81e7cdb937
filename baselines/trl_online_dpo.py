"""Online DPO by TRL's trainer."""

from typing import ClassVar

from isoalign import Lab, Needs, Paper, register, trl


@register
class TRLOnlineDPO:
    """``trl.experimental.online_dpo.OnlineDPOTrainer``: Guo et al. 2024, "Direct Language Model Alignment from Online AI
    Feedback", algorithm 1, in TRL's own training loop.

    The settings are those of ``online_dpo``: ``beta``, as in DPO; ``batch_size``, prompts per step, with two answers each.
    ``labelled_by``: ``judge`` chooses the answer with the higher P(acceptable) by the AI judge (the order of ``lab.judge`` for
    a judge that scores single answers), ``reward`` the one with the higher reward.
    """

    paper: ClassVar[Paper] = Paper(
        "Guo et al.", "Direct Language Model Alignment from Online AI Feedback", 2024, "2402.04792", "algorithm 1",
        family="judge", learns_from="its own answers, scored by an AI judge",
        values={"beta": "0.1", "batch_size": "128", "lr": "5e-7"}, parity="test_trl.py: the paper's first loss and gradient",
        logs={"reward": "mean reward of the answers that were sampled"},
    )  # fmt: skip

    needs: ClassVar[Needs] = {"labelled_by=judge": ("judge_score",), "labelled_by=reward": ("reward",)}

    beta: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4
    labelled_by: str = "judge"

    def __post_init__(self) -> None:
        if self.labelled_by not in ("judge", "reward"):
            raise ValueError(f"labelled_by must be judge or reward, not {self.labelled_by!r}")

    def train(self, lab: Lab) -> None:
        """Train on the lab's prompts. TRL samples answers with transformers' ``generate``."""
        trl.train(
            lab, "experimental.online_dpo.OnlineDPOTrainer", lambda: trl.contexts(lab.prompts(self.batch_size), 1),
            reward=lab.judge_score if self.labelled_by == "judge" else lab.reward, beta=self.beta,
            max_new_tokens=lab.new_tokens, max_length=10**6, temperature=1.0, top_k=0,
            per_device_train_batch_size=self.batch_size,
        )  # fmt: skip
