"""The reward model: a scalar head trained on verdicts by Bradley-Terry, or a classifier that is only whitened."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoalign.config.task import ModelConfig, RewardConfig
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.runtime import device
from isoalign.data.preferences import Feedback
from isoalign.models import language
from isoalign.models.flops import shape_of
from isoalign.models.reward import ClassifierReward, HeadReward, Retokenizer, load_reward_model
from isoalign.stages.sft import finish, lora, train, trainer_arguments

VERSION = 3
WHITENED = 64  # verdicts whose answers set mean and deviation
LOOKS = 10  # at the golden set, along the training

Rows = list[dict[str, list[int]]]


def make(
    work: Path, sft: Path, feedback: Feedback, golden: Feedback | None, model: ModelConfig, config: RewardConfig,
    seed: int, member: int = 0,
) -> None:  # fmt: skip
    """Train with TRL's RewardTrainer on up to ``config.pairs`` verdicts; whiten on their answers.

    Members of an ensemble read the same verdicts, each from a head and in an order of its own. The record holds the
    training's FLOPs by formula (every use pays them) and the verdicts that were read.
    """
    verdicts = chosen_verdicts(feedback, config, seed)
    torch.manual_seed(seed + 1000 * member)  # the scalar head starts at random
    model_, tokenizer = load_reward_model(config.base or model.name, language.model_path(config.base) if config.base else sft)
    other = Retokenizer(language.load_tokenizer(model.name), tokenizer) if config.base else None
    rows, known = _rows(feedback, verdicts, other), golden_verdicts(golden, config.golden, seed) if golden else []
    held = _rows(golden, known, other, clean=True) if golden else []
    trainer = _trainer(work, model_.requires_grad_(True), tokenizer, rows, held, model, config, seed + 1000 * member)
    shape = shape_of(trainer.model, None)
    started = time.monotonic()
    train(trainer, f"reward model ({feedback.source})" + (f" {member + 1}" if member else ""))
    state = trainer.state
    looks = [row["eval_accuracy"] for row in state.log_history if "eval_accuracy" in row]
    lengths, whitened = _lengths(rows), _lengths(rows[:WHITENED])

    def share(flops: int) -> int:  # of all epochs, if training was stopped early
        return config.epochs * flops * state.global_step // max(1, state.max_steps)

    flops = {
        "forward": share(shape.forward(*_bare(lengths))) + shape.forward(*_bare(whitened))
        + len(looks) * shape.forward(*_bare(_lengths(held))),
        "backward": share(shape.backward(*_bare(lengths))),
    }  # fmt: skip
    record = {
        "flops": flops, "verdicts": verdicts, "golden": known, "source": feedback.source, "seed": seed, "looks": looks,
        "golden_flops": sum(golden.price(known).values()) if golden else 0,
    }  # fmt: skip
    finish(trainer, work, record | {"seconds": round(time.monotonic() - started, 1)})
    pairs = feedback.pairs(torch.tensor(verdicts[:WHITENED]), int(language.load_tokenizer(model.name).pad_token_id))
    whiten(work, lambda: HeadReward(work, model, config.base, device()), pairs.chosen, pairs.rejected)


def make_classifier(work: Path, feedback: Feedback, model: ModelConfig, config: RewardConfig, annotator: Any) -> None:
    """Whiten a classifier's "not toxic" logit on the answers of the first verdicts; the verdicts themselves are not read."""
    count = min(WHITENED, len(feedback))
    pairs = feedback.pairs(torch.arange(count), int(language.load_tokenizer(model.name).pad_token_id))
    record: dict[str, Any] = {"verdicts": [], "golden": [], "source": feedback.source, "seconds": 0.0}
    (work / "record.json").write_text(json.dumps(record | {"flops": {"forward": 0, "backward": 0}}))
    reward = whiten(work, lambda: ClassifierReward(work, model, annotator), pairs.chosen, pairs.rejected)
    price = reward.flops(pairs.chosen) + reward.flops(pairs.rejected)
    record = json.loads((work / "record.json").read_text()) | {"flops": {"forward": price, "backward": 0}}
    (work / "record.json").write_text(json.dumps(record, indent=1))


def chosen_verdicts(feedback: Feedback, config: RewardConfig, seed: int) -> list[int]:
    """The verdicts to read: the first of a seeded shuffle, ``config.hard`` of them from the nearest pairs; all where there are
    fewer than ``config.pairs``.

    Near: the annotator's scores differ least; where there are none, the answers share most of their tokens (Jaccard).
    """
    count = min(config.pairs, len(feedback))
    order: list[int] = torch.randperm(len(feedback), generator=torch.Generator().manual_seed(seed)).tolist()
    hard = round(config.hard * count)
    if not hard:
        return order[:count]
    near = sorted(order, key=lambda i: _gap(feedback, i))[:hard]  # sorted is stable: ties stay shuffled
    rest = [i for i in order if i not in set(near)]
    kept = set(near + rest[: count - hard])
    return [i for i in order if i in kept]


def _gap(feedback: Feedback, i: int) -> float:
    if "gap" in feedback.rows[i]:
        return float(feedback.rows[i]["gap"])
    a, b = set(feedback.chosen[i]), set(feedback.rejected[i])
    return 1 - len(a & b) / len(a | b)


def golden_verdicts(golden: Feedback, count: int, seed: int) -> list[int]:
    """``count`` verdicts of a seeded shuffle. Raises UserError where there are fewer."""
    if len(golden) < count:
        raise UserError(f"task.reward.golden asks for {count} pairs, the validation split holds {len(golden)}")
    found: list[int] = torch.randperm(len(golden), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return found


def _rows(feedback: Feedback, verdicts: Sequence[int], other: Retokenizer | None, clean: bool = False) -> Rows:
    """Both texts of the verdicts as the reward model's token ids; ``clean``: as the verdict was before noise flipped it."""
    rows = []
    for i in verdicts:
        prompt, sides = feedback.prompts[i], [feedback.chosen[i], feedback.rejected[i]]
        if clean and not feedback.rows[i].get("clean", True):
            sides.reverse()
        if other:
            prompt, sides = other.prompt(prompt), [other.answer(ids) for ids in sides]
        rows.append({"chosen_ids": prompt + sides[0], "rejected_ids": prompt + sides[1]})
    return rows


def _lengths(rows: Rows) -> list[int]:
    return [len(ids) for row in rows for ids in row.values()]


def _bare(lengths: list[int]) -> tuple[list[int], list[int]]:
    """Lengths, and no position at which a head is applied."""
    return lengths, [0] * len(lengths)


def _trainer(
    work: Path, model: Any, tokenizer: Any, rows: Rows, golden: Rows, base: ModelConfig, config: RewardConfig, seed: int
) -> Any:
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, TrainerCallback
    from trl import RewardConfig as Arguments
    from trl import RewardTrainer

    arguments = trainer_arguments(work, config.lr, config.batch_size, base.bf16, seed, "reward")
    callbacks: list[TrainerCallback] = []
    if golden:
        steps = max(1, config.epochs * -(-len(rows) // config.batch_size) // LOOKS)
        arguments |= {
            "eval_strategy": "steps", "eval_steps": steps, "save_strategy": "steps", "save_steps": steps,
            "load_best_model_at_end": True, "metric_for_best_model": "eval_accuracy", "greater_is_better": True,
            "save_total_limit": 1, "per_device_eval_batch_size": config.batch_size,
        }  # fmt: skip
        callbacks = [EarlyStoppingCallback(config.patience)]
    return RewardTrainer(
        model,
        args=Arguments(**arguments, num_train_epochs=config.epochs, max_length=None),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(golden) if golden else None,
        processing_class=tokenizer,
        peft_config=lora(base.lora, "SEQ_CLS") if base.lora else None,
        callbacks=callbacks,
    )


def whiten(work: Path, load: Callable[[], Any], *answers: Rollouts) -> Any:
    """Note mean and deviation of the raw rewards of some answers: a reward model's scale is arbitrary, and an arbitrary
    scale would make the KL price mean nothing. Returns the model, whitened."""
    record = json.loads((work / "record.json").read_text())
    (work / "record.json").write_text(json.dumps(record | {"mean": 0.0, "deviation": 1.0}))
    raw = load()
    rewards: Tensor = torch.cat([raw(each) for each in answers])
    record |= {"mean": rewards.mean().item(), "deviation": rewards.std().item()}
    if not record["deviation"] > 1e-4:
        raise UserError(f"the reward model collapsed (deviation {record['deviation']:.2g}); change task.reward.lr")
    (work / "record.json").write_text(json.dumps(record, indent=1))
    raw.record = record
    return raw
