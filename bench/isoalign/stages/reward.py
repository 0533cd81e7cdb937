"""The reward model: a scalar head trained on verdicts with the Bradley-Terry loss, or a classifier, whitened only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoalign.config.task import ModelConfig, RewardConfig
from isoalign.config.training import TrainConfig
from isoalign.core.batches import Rollouts
from isoalign.core.devices import device
from isoalign.core.errors import UserError
from isoalign.core.lazy import datasets, transformers, trl
from isoalign.core.memory import by_rows
from isoalign.data.preferences import Feedback
from isoalign.models import loading
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.flops import shape_of
from isoalign.models.known_reward import KnownFunction, KnownReward
from isoalign.models.reward import HeadReward, Retokenizer, load_reward_model
from isoalign.stages.sft import lora_config, run_trainer, save_trained, trainer_arguments

VERSION = 4
WHITENED = 64  # verdicts whose answers give the mean and the standard deviation
EVALUATIONS = 10  # on the golden set, during training

Rows = list[dict[str, list[int]]]


def make_reward_model(
    work: Path, sft: Path, feedback: Feedback, golden: Feedback | None, model: ModelConfig, config: RewardConfig,
    seed: int, member: int = 0, training: TrainConfig | None = None,
) -> None:  # fmt: skip
    """Train with TRL's RewardTrainer on up to ``config.pairs`` verdicts, and whiten on their answers.

    Members of an ensemble read the same verdicts, each with its own initial head and order. The record holds the FLOPs of
    training by formula (every run that uses the model pays them) and the verdicts that were read.
    """
    verdicts = chosen_verdicts(feedback, config, seed)
    torch.manual_seed(seed + 1000 * member)  # for the initial scalar head
    model_, tokenizer = load_reward_model(config.base or model.name, loading.model_path(config.base) if config.base else sft)
    other = Retokenizer(loading.task_tokenizer(model), tokenizer) if config.base else None
    rows, known = token_rows(feedback, verdicts, other), golden_verdicts(golden, config.golden, seed) if golden else []
    golden_rows = token_rows(golden, known, other, clean=True) if golden else []
    training = training or TrainConfig()
    if training.gradient_checkpointing:
        checkpoint_layers(model_)
    trainer = _trainer(
        work, model_.requires_grad_(True), tokenizer, rows, golden_rows, model, config, seed + 1000 * member,
        training.micro_batch // 2,  # a pair is two rows
    )  # fmt: skip
    shape = shape_of(trainer.model, None)
    started = time.monotonic()
    run_trainer(trainer, f"reward model ({feedback.source})" + (f" {member + 1}" if member else ""))
    state = trainer.state
    accuracies = [row["eval_accuracy"] for row in state.log_history if "eval_accuracy" in row]
    lengths, whitened = _lengths(rows), _lengths(rows[:WHITENED])

    def of_steps_taken(flops: int) -> int:  # training may stop early
        return config.epochs * flops * state.global_step // max(1, state.max_steps)

    flops = {
        "forward": of_steps_taken(shape.forward(*_without_head(lengths))) + shape.forward(*_without_head(whitened))
        + len(accuracies) * shape.forward(*_without_head(_lengths(golden_rows))),
        "backward": of_steps_taken(shape.backward(*_without_head(lengths))),
    }  # fmt: skip
    record = {
        "flops": flops, "verdicts": verdicts, "golden": known, "source": feedback.source, "seed": seed,
        "golden_accuracy": accuracies,
        "golden_flops": sum(golden.price(known).values()) if golden else 0,
    }  # fmt: skip
    save_trained(trainer, work, record | {"seconds": round(time.monotonic() - started, 1)})
    pairs = feedback.pairs(torch.tensor(verdicts[:WHITENED]), int(loading.task_tokenizer(model).pad_token_id))
    whiten_rewards(work, lambda: HeadReward(work, model, config.base, device()), pairs.chosen, pairs.rejected)


def make_classifier_reward(work: Path, feedback: Feedback, model: ModelConfig, load: Callable[[Path], Any]) -> None:
    """Whiten a reward that needs no training on the answers of the first verdicts. The verdicts themselves are not read.

    ``load`` gives the reward of a folder with a record. The pass is billed as forward, by formula.
    """
    count = min(WHITENED, len(feedback))
    pairs = feedback.pairs(torch.arange(count), int(loading.task_tokenizer(model).pad_token_id))
    record: dict[str, Any] = {"verdicts": [], "golden": [], "source": feedback.source, "seconds": 0.0}
    (work / "record.json").write_text(json.dumps(record | {"flops": {"forward": 0, "backward": 0}}))
    reward = whiten_rewards(work, lambda: load(work), pairs.chosen, pairs.rejected, few="choose another one")
    price = reward.flops(pairs.chosen) + reward.flops(pairs.rejected)
    record = json.loads((work / "record.json").read_text()) | {"flops": {"forward": price, "backward": 0}}
    (work / "record.json").write_text(json.dumps(record, indent=1))


def make_known_reward(work: Path, feedback: Feedback, model: ModelConfig, known: KnownFunction) -> None:
    """Whiten a known function's score on the answers of the first verdicts. The verdicts themselves are not read."""
    record: dict[str, Any] = {"verdicts": [], "golden": [], "source": feedback.source, "seconds": 0.0}
    count = min(WHITENED, len(feedback))
    pairs = feedback.pairs(torch.arange(count), int(loading.task_tokenizer(model).pad_token_id))
    (work / "record.json").write_text(json.dumps(record | {"flops": {"forward": 0}, "mean": 0.0, "deviation": 1.0}))
    reward = KnownReward(work, model.name, known)
    price = sum(reward.flops(each) for each in (pairs.chosen, pairs.rejected))
    (work / "record.json").write_text(json.dumps(record | {"flops": {"forward": price}}))
    few = f"the scores by {known.scorer.name} of {2 * count} answers hardly differ"
    whiten_rewards(work, lambda: KnownReward(work, model.name, known), pairs.chosen, pairs.rejected, few=few)


def chosen_verdicts(feedback: Feedback, config: RewardConfig, seed: int) -> list[int]:
    """The verdicts to read: ``config.pairs``, or all if there are fewer, in the order of a seeded shuffle. A fraction
    ``config.hard`` of them are the hardest pairs.

    Hard pairs have the smallest difference in the annotator's scores; without scores, the largest overlap of their answers'
    tokens (Jaccard).
    """
    count = min(config.pairs, len(feedback))
    order: list[int] = torch.randperm(len(feedback), generator=torch.Generator().manual_seed(seed)).tolist()
    hard = round(config.hard * count)
    if not hard:
        return order[:count]
    hardest = sorted(order, key=lambda i: _gap(feedback, i))[:hard]  # sorted is stable: ties stay shuffled
    others = [i for i in order if i not in set(hardest)]
    chosen = set(hardest + others[: count - hard])
    return [i for i in order if i in chosen]


def _gap(feedback: Feedback, i: int) -> float:
    if "gap" in feedback.rows[i]:
        return float(feedback.rows[i]["gap"])
    a, b = set(feedback.chosen[i]), set(feedback.rejected[i])
    return 1 - len(a & b) / len(a | b)


def golden_verdicts(golden: Feedback, count: int, seed: int) -> list[int]:
    """A seeded sample of ``count`` verdicts. Raises UserError if there are fewer."""
    if len(golden) < count:
        raise UserError(f"task.reward.golden is {count}, but the validation split has only {len(golden)} pairs")
    sampled: list[int] = torch.randperm(len(golden), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return sampled


def token_rows(feedback: Feedback, verdicts: Sequence[int], other: Retokenizer | None, clean: bool = False) -> Rows:
    """Both texts of each verdict as token ids of the reward model. ``clean``: undo the flips by noise."""
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


def _without_head(lengths: list[int]) -> tuple[list[int], list[int]]:
    """Arguments for the cost of a pass that applies no head at any position."""
    return lengths, [0] * len(lengths)


def _trainer(
    work: Path,
    model: Any,
    tokenizer: Any,
    rows: Rows,
    golden: Rows,
    base: ModelConfig,
    config: RewardConfig,
    seed: int,
    micro_batch: int,
) -> Any:
    arguments = trainer_arguments(work, config.lr, config.batch_size, micro_batch, base.bf16, seed, "reward")
    callbacks: list[transformers.TrainerCallback] = []
    if golden:
        steps = max(1, config.epochs * -(-len(rows) // config.batch_size) // EVALUATIONS)
        arguments |= {
            "eval_strategy": "steps", "eval_steps": steps, "save_strategy": "steps", "save_steps": steps,
            "load_best_model_at_end": True, "metric_for_best_model": "eval_accuracy", "greater_is_better": True,
            "save_total_limit": 1, "per_device_eval_batch_size": config.batch_size,
        }  # fmt: skip
        callbacks = [transformers.EarlyStoppingCallback(config.patience)]
    return trl.RewardTrainer(
        model,
        args=trl.RewardConfig(**arguments, num_train_epochs=config.epochs, max_length=None),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(golden) if golden else None,
        processing_class=tokenizer,
        peft_config=lora_config(base.lora, "SEQ_CLS") if base.lora else None,
        callbacks=callbacks,
    )


def whiten_rewards(work: Path, load_model: Callable[[], Any], *answers: Rollouts, few: str = "") -> Any:
    """Record mean and standard deviation of the rewards of some answers. Without whitening, the scale of a reward model is
    arbitrary, and so is the effect of a KL coefficient. Returns the whitened model. ``few``: said if the rewards hardly
    differ."""
    record = json.loads((work / "record.json").read_text())
    (work / "record.json").write_text(json.dumps(record | {"mean": 0.0, "deviation": 1.0}))
    model = load_model()
    rewards: Tensor = torch.cat([part for each in answers for part in by_rows(model, each, len(each))])
    record |= {"mean": rewards.mean().item(), "deviation": rewards.std().item()}
    if not record["deviation"] > 1e-4:
        said = few or "change task.reward.lr"
        raise UserError(f"the reward model collapsed (deviation {record['deviation']:.2g}); {said}")
    (work / "record.json").write_text(json.dumps(record, indent=1))
    model.record = record
    return model
