"""The reward model: a scalar head trained on verdicts with the Bradley-Terry loss, or a classifier, whitened only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign.config.task import ModelConfig, RewardConfig
from isoalign.config.training import TrainConfig
from isoalign.core import world
from isoalign.core.batches import Pairs, Rollouts, joined
from isoalign.core.devices import device
from isoalign.core.errors import UserError
from isoalign.core.memory import by_rows
from isoalign.data.preferences import Feedback, rollouts
from isoalign.models import loading
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.flops import Shape, shape_of
from isoalign.models.known_reward import KnownFunction, KnownReward
from isoalign.models.reward import HeadReward, Retokenizer, head_rewards, load_reward_model, shares_prompts
from isoalign.models.shards import part_of
from isoalign.stages.fitting import Fit
from isoalign.stages.sft import save_trained, with_adapter

VERSION = 6
WHITENED = 64  # verdicts whose answers give the mean and the standard deviation
EVALUATIONS = 10  # on the golden set, during training

Rows = Sequence[tuple[list[int], list[int], list[int]]]  # token ids of a prompt, of the chosen and of the rejected answer


def make_reward_model(
    work: Path, sft: Path, feedback: Feedback, golden: Feedback | None, model: ModelConfig, config: RewardConfig,
    seed: int, member: int = 0, training: TrainConfig | None = None,
) -> None:  # fmt: skip
    """Train on up to ``config.pairs`` verdicts with the Bradley-Terry loss (Ouyang et al. 2022, eq. 1), and whiten on their
    answers.

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
    model_.to(device())
    trained = with_adapter(model_, model.lora, "SEQ_CLS") if model.lora else model_.requires_grad_(True)
    if training.gradient_checkpointing:
        checkpoint_layers(model_)
    shape, pad = shape_of(trained, None), int(tokenizer.pad_token_id)
    fit = Fit(
        len(rows),
        config.batch_size,
        training.micro_batch // 2,
        config.lr,
        "task.reward.lr",
        seed + 1000 * member,
        config.epochs,
        "lower task.reward.batch_size or raise task.reward.epochs",
        shard=model.shard and not model.lora,
    )  # a pair is two rows
    losses, accuracies, started = BradleyTerry(trained, pad, model.precision), list[float](), time.monotonic()
    label = f"reward model ({feedback.source})" + (f" {member + 1}" if member else "")
    if golden:
        known_pairs = paired(golden_rows, range(len(golden_rows)), pad)

        def accuracy() -> float:
            with fit.shards.whole() if fit.shards else nullcontext():
                return world.of_first(lambda: losses.accuracy(known_pairs, config.batch_size))

        best = Best(trained, accuracy, accuracies)
        every = max(1, fit.steps // EVALUATIONS)
        fit.run(
            trained, lambda index: paired(rows, index.tolist(), pad), losses, label,
            stop=lambda: fit.step % every == 0 and best.measured() >= config.patience,
        )  # fmt: skip
        best.restore()
    else:
        fit.run(trained, lambda index: paired(rows, index.tolist(), pad), losses, label)
    state = fit.state(trained)
    if world.rank():
        return
    flops = training_flops(shape, rows, fit.read, golden_rows, len(accuracies))
    record = {
        "flops": flops, "verdicts": verdicts, "golden": known, "source": feedback.source, "seed": seed,
        "golden_accuracy": accuracies,
        "golden_flops": sum(golden.price(known).values()) if golden else 0,
    }  # fmt: skip
    save_trained(trained, work, record | {"seconds": round(time.monotonic() - started, 1), "loss": fit.curve}, state)
    pairs = feedback.pairs(torch.tensor(verdicts[:WHITENED]), int(loading.task_tokenizer(model).pad_token_id))
    whiten_rewards(work, lambda: HeadReward(work, model, config.base, device()), pairs.chosen, pairs.rejected)


def make_classifier_reward(work: Path, feedback: Feedback, model: ModelConfig, load: Callable[[Path], Any]) -> None:
    """Whiten a reward that needs no training on the answers of the first verdicts. The verdicts themselves are not read.

    ``load`` gives the reward of a folder with a record. The pass is billed as forward, by formula.
    """
    if world.rank():
        return
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
    if world.rank():
        return
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
        rows.append((prompt, sides[0], sides[1]))
    return rows


def paired(rows: Rows, places: Sequence[int], pad: int) -> Pairs:
    """The rows at ``places`` as a batch."""
    prompts, chosen, rejected = (list(column) for column in zip(*(rows[place] for place in places), strict=True))
    return Pairs(rollouts(prompts, chosen, pad), rollouts(prompts, rejected, pad), torch.tensor(list(places)))


def training_flops(shape: Shape, rows: Rows, read: Sequence[int], golden: Rows = (), measured: int = 0) -> dict[str, int]:
    """FLOPs of training on ``rows`` in the order in which they are ``read``, of whitening on the first ones, and of as many
    passes over the ``golden`` ones as were ``measured``."""
    lengths, whitened = _lengths([rows[place] for place in read]), _lengths(rows[:WHITENED])
    return {
        "forward": shape.forward(*_without_head(lengths)) + shape.forward(*_without_head(whitened))
        + measured * shape.forward(*_without_head(_lengths(golden))),
        "backward": shape.backward(*_without_head(lengths)),
    }  # fmt: skip


def _lengths(rows: Rows) -> list[int]:
    return [len(prompt) + len(answer) for prompt, *sides in rows for answer in sides]


def _without_head(lengths: list[int]) -> tuple[list[int], list[int]]:
    """Arguments for the cost of a pass that applies no head at any position."""
    return lengths, [0] * len(lengths)


class BradleyTerry:
    """The loss of a reward model on verdicts, -log sigmoid(chosen - rejected) (Ouyang et al. 2022, eq. 1)."""

    def __init__(self, model: Any, pad: int, precision: str) -> None:
        self.model, self.pad, self.precision = model, pad, precision

    @cached_property
    def shares_prompts(self) -> bool:
        """Whether the prompt of a pair is read once."""
        return shares_prompts(self.model, self.precision)

    def __call__(self, pairs: Pairs) -> Tensor:
        """The loss of each pair [B]."""
        return -logsigmoid(self.margins(pairs))

    def margins(self, pairs: Pairs) -> Tensor:
        """The reward of the chosen answer minus that of the rejected one [B]."""
        both = joined([pairs.chosen, pairs.rejected], self.pad)
        chosen, rejected = head_rewards(self.model, both, self.pad, self.precision, self.shares_prompts).chunk(2)
        return chosen - rejected

    @torch.no_grad()
    def accuracy(self, pairs: Pairs, rows: int) -> float:
        """The share of pairs with a margin above 0, ``rows`` read at a time."""
        return torch.cat(by_rows(self.margins, pairs, rows)).gt(0).double().mean().item()


class Best:
    """The trained weights at their best accuracy so far; the first of equals."""

    def __init__(self, model: Any, measure: Callable[[], float], accuracies: list[float]) -> None:
        self.model, self.measure, self.accuracies = model, measure, accuracies
        self.weights: list[Tensor] = []

    @property
    def trained(self) -> list[Tensor]:
        """This process's part of each trained weight."""
        return [part_of(parameter.detach()) for parameter in self.model.parameters() if parameter.requires_grad]

    def measured(self) -> int:
        """How many measurements ago the best was, after a new one."""
        self.accuracies.append(self.measure())
        ago = len(self.accuracies) - 1 - self.accuracies.index(max(self.accuracies))
        if ago == 0:
            self.weights = [parameter.to("cpu", copy=True) for parameter in self.trained]
        return ago

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights back; the last ones stay where nothing was measured."""
        for parameter, weights in zip(self.trained, self.weights, strict=False):
            parameter.copy_(weights)


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
