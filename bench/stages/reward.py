"""The Bradley-Terry reward model: the SFT model with a scalar head, trained on verdicts."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.config import ModelConfig, RewardConfig
from bench.errors import UserError
from bench.feedback import Feedback
from bench.flops import Shape, shape_of
from bench.machine import device
from bench.models import language
from bench.stages.sft import finish, lora, train, trainer_arguments
from bench.types import Rollouts

VERSION = 3
WHITENED = 64  # verdicts whose answers set mean and deviation


def make(work: Path, sft: Path, pairs: Path, model_config: ModelConfig, config: RewardConfig, seed: int) -> None:
    """Train with TRL's RewardTrainer on the first ``config.pairs`` verdicts of a seeded shuffle; whiten on their answers.

    The record holds the training's FLOPs by formula (every use pays them) and the verdicts that were read.
    """
    from datasets import Dataset
    from trl import RewardConfig as Arguments
    from trl import RewardTrainer

    feedback = Feedback.read(pairs)
    if len(feedback) < config.pairs:
        raise UserError(f"task.reward.pairs asks for {config.pairs} pairs, the feedback holds {len(feedback)}")
    order = torch.randperm(len(feedback), generator=torch.Generator().manual_seed(seed))[: config.pairs].tolist()
    rows = [
        {"chosen_ids": feedback.prompts[i] + feedback.chosen[i], "rejected_ids": feedback.prompts[i] + feedback.rejected[i]}
        for i in order
    ]
    torch.manual_seed(seed)  # the scalar head starts at random
    model, tokenizer = load(model_config.name, sft)
    model.requires_grad_(True)
    arguments = Arguments(
        **trainer_arguments(work, config.lr, config.batch_size, model_config.bf16, seed, "reward"),
        num_train_epochs=config.epochs, max_length=None,
    )  # fmt: skip
    adapter = lora(model_config.lora, "SEQ_CLS") if model_config.lora else None
    trainer = RewardTrainer(
        model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=adapter
    )
    shape = shape_of(trainer.model, None)
    started = time.monotonic()
    train(trainer, f"reward model ({feedback.source})")
    lengths = [len(ids) for row in rows for ids in row.values()]
    nowhere = [0] * len(lengths)
    whitened = lengths[: 2 * WHITENED]
    flops = {
        "forward": config.epochs * shape.forward(lengths, nowhere) + shape.forward(whitened, [0] * len(whitened)),
        "backward": config.epochs * shape.backward(lengths, nowhere),
    }
    record = {"flops": flops, "verdicts": order, "source": feedback.source, "seed": seed}
    finish(trainer, work, record | {"seconds": round(time.monotonic() - started, 1)})
    whiten(work, feedback, order[:WHITENED], model_config)


def whiten(work: Path, feedback: Feedback, verdicts: list[int], model_config: ModelConfig) -> None:
    """Note mean and deviation of the raw rewards on some training verdicts' answers: a reward model's scale is arbitrary,
    and an arbitrary scale would make the KL price mean nothing."""
    record = json.loads((work / "record.json").read_text())
    (work / "record.json").write_text(json.dumps(record | {"mean": 0.0, "deviation": 1.0, "flops_each": {}}))
    raw = RewardModel(work, model_config, device())
    pairs = feedback.pairs(torch.tensor(verdicts), raw.pad)
    rewards = torch.cat([raw(pairs.chosen), raw(pairs.rejected)])
    record |= {"mean": rewards.mean().item(), "deviation": rewards.std().item(), "flops_each": feedback.flops_each}
    if not record["deviation"] > 1e-4:
        raise UserError(f"the reward model collapsed (deviation {record['deviation']:.2g}); change task.reward.lr")
    (work / "record.json").write_text(json.dumps(record, indent=1))


def load(name: str, weights: Path) -> tuple[Any, Any]:
    """A scalar-head model on the weights of a stage, with the task's tokenizer."""
    from transformers import AutoModelForSequenceClassification

    _, tokenizer = language.load(name, None)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(weights), num_labels=1, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval().requires_grad_(False), tokenizer


class RewardModel:
    """Whitened rewards of rollouts, with the price of a pass and of the training."""

    def __init__(self, folder: Path, config: ModelConfig, device: str = "cpu") -> None:
        model, tokenizer = load(config.name, folder)
        self.model, self.pad, self.bf16 = model.to(device), int(tokenizer.pad_token_id), config.bf16
        self.record = json.loads((folder / "record.json").read_text())
        self.shape: Shape = shape_of(model, None)

    @torch.no_grad()
    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B], mean 0 and deviation 1 on its training answers."""
        device = self.model.device
        tokens, mask = rollouts.tokens.to(device), rollouts.mask.to(device)
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        tokens = tokens.masked_fill(~mask, self.pad)
        with torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext():
            logits = self.model(input_ids=tokens, attention_mask=mask.long(), position_ids=positions).logits
        return (logits[:, 0].float() - self.record["mean"]) / self.record["deviation"]

    def flops(self, rollouts: Rollouts) -> int:
        """A pass over the real tokens."""
        lengths = rollouts.mask.sum(1).tolist()
        return self.shape.forward(lengths, [0] * len(lengths))

    def training_bill(self) -> list[tuple[str, str, int]]:
        """What having this model costs: the answers that were judged, the judging, and the training."""
        pairs, flops = len(self.record["verdicts"]), self.record["flops"]
        shares = self.record["flops_each"]
        bill = [(role, "sample" if role == "feedback" else "forward", pairs * each) for role, each in shares.items()]
        return [*bill, ("reward", "forward", flops["forward"]), ("reward", "backward", flops["backward"])]

    def seconds(self) -> float:
        """Wall time of its training."""
        return float(self.record["seconds"])

    def verdicts(self) -> tuple[str, list[int]]:
        """Whose verdicts it learned from, and which."""
        return self.record["source"], self.record["verdicts"]
