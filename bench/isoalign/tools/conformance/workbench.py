"""A tiny model with its own tokenizer, and labs of real components at a small size."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from isoalign.config.task import ModelConfig
from isoalign.config.training import TrainConfig
from isoalign.core.batches import Prompts
from isoalign.core.errors import UserError
from isoalign.core.lazy import peft, transformers
from isoalign.core.randomness import own_random_state
from isoalign.core.records import Budget
from isoalign.data.comments import Comment
from isoalign.data.preferences import Feedback
from isoalign.models import loading, reward
from isoalign.models.classifiers import CharClassifier
from isoalign.models.language import LanguageModel
from isoalign.stages.sft import lora_config
from isoalign.stages.shared import ClassifierJudge
from isoalign.training.lab import Lab
from isoalign.training.meter import Meter
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer

END, PAD = "<|endoftext|>", "<|pad|>"
KIND = ["thank you for your kind help", "what a lovely page this is", "good work, see you soon", "i think that you are right"]
RUDE = ["you are a stupid idiot", "shut up you moron", "what a dumb stupid page", "go away, idiot"]


@dataclass(frozen=True)
class Size:
    """The shape of a tiny model."""

    width: int = 32
    layers: int = 2
    vocabulary: int = 320
    seed: int = 0
    feed_forward: int = 64


def write_model(folder: Path, size: Size = Size()) -> Path:
    """A random Llama and its byte-level BPE tokenizer, built as scripts/pretrain_nano.py does, saved as a folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((KIND + RUDE) * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(f"{END} $A", special_tokens=[(END, 0)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PAD, padding_side="left", model_max_length=512
    ).save_pretrained(folder)
    with own_random_state():
        torch.manual_seed(size.seed)
        config = transformers.LlamaConfig(
            vocab_size=size.vocabulary, hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=2,
            intermediate_size=size.feed_forward, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0,
            eos_token_id=0, pad_token_id=1, initializer_range=0.2,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_reward(folder: Path, model: Path, seed: int, flops: dict[str, int] | None = None) -> Path:
    """A random reward model on a tiny model's weights, with the record of a reward stage."""
    with own_random_state():
        torch.manual_seed(seed)
        head, _ = reward.load_reward_model(str(model), model)
        head.score.weight.data.normal_()
    head.save_pretrained(folder)
    record = {
        "flops": flops or {"forward": 1000, "backward": 2000}, "flops_each": {"feedback": 10}, "verdicts": [0, 1, 2],
        "source": "simulated", "seed": seed, "mean": 0.1, "deviation": 2.0, "seconds": 0.0,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def make_feedback(source: str, prompt_lengths: list[int], answer_lengths: list[int], vocabulary: int = 320) -> Feedback:
    """Verdicts on random answers of the given lengths, without special tokens except the first."""
    generator = torch.Generator().manual_seed(len(source))

    def ids(count: int) -> list[int]:
        return torch.randint(2, vocabulary, (count,), generator=generator).tolist()

    pairs = range(len(prompt_lengths))
    prompts = [[0, *ids(length - 1)] for length in prompt_lengths]
    chosen = [ids(answer_lengths[i]) for i in pairs]
    rejected = [ids(answer_lengths[-1 - i]) for i in pairs]
    rows = [{"pair_id": str(i)} for i in pairs]
    return Feedback(prompts, chosen, rejected, rows, source, {"feedback": 10})


@dataclass
class FixedSource:
    """A feedback source with fixed feedback."""

    prompt_rows: Prompts
    verdicts: dict[str, Feedback]
    rewards: dict[str, Any]
    the_judge: Any
    round: int = 0
    make_teacher: Callable[[], LanguageModel] | None = None

    def teacher(self) -> LanguageModel:
        """The teacher."""
        if self.make_teacher is None:
            raise UserError("it learns from a teacher, and there is none")
        return self.make_teacher()

    def prompt_texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Nothing: its judge reads no prompts."""
        return [""] * len(ids)

    def comparing_judge(self) -> None:
        """None."""
        return None

    def unpaired(self) -> None:
        """None."""
        return None

    def round_due(self, fraction: float) -> bool:
        """Never."""
        return False

    def begin_round(self, policy: LanguageModel) -> None:
        """Never due."""

    def prompts(self) -> Prompts:
        """The prompts."""
        return self.prompt_rows

    def feedback(self, labelled_by: str) -> Feedback:
        """The verdicts."""
        return self.verdicts[labelled_by]

    def revisions(self) -> Feedback:
        """The revisions."""
        return self.verdicts["revisions"]

    def reward(self, labelled_by: str) -> Any:
        """The reward model."""
        return self.rewards[labelled_by]

    def scoring_judge(self) -> Any:
        """The judge that scores single answers."""
        return self.the_judge


_loaded = functools.lru_cache(maxsize=8)(loading.load_model)  # copying takes a seventh of the time of reading

IDLE_SECONDS = 20.0  # a step takes a hundredth of a second


@dataclass(frozen=True)
class Bench:
    """A workbench: a model and a feedback source, from which labs are made."""

    model: Path
    source: FixedSource
    ends: bool = False
    lora: int = 0
    new_tokens: int = 5
    words: tuple[int, ...] = ()
    device: str = "cpu"

    def language_model(self, trained: bool = False) -> LanguageModel:
        """A fresh copy of the model."""
        model, tokenizer = copy.deepcopy(_loaded(str(self.model)))
        model.requires_grad_(trained)
        return self._limited(LanguageModel(model.to(self.device), tokenizer, self.ends))

    def _limited(self, model: LanguageModel) -> LanguageModel:
        if self.words:
            model.banned = torch.tensor(sorted(set(range(model.vocabulary)) - set(self.words)), device=model.device)
        return model

    def lab(self, budget: Budget | None = None, seed: int = 0) -> Lab:
        """The view of a new session."""
        return Lab(self.session(budget, seed))

    def session(self, budget: Budget | None = None, seed: int = 0) -> Session:
        """A new session with a new meter, by default without a limit."""
        reference = self.language_model()
        if self.lora:
            with own_random_state():
                torch.manual_seed(seed)
                adapted = peft.get_peft_model(reference.inner, lora_config(self.lora, "CAUSAL_LM"))
            policy = reference = self._limited(LanguageModel(adapted.to(self.device), reference.tokenizer, self.ends))
        else:
            policy = self.language_model(trained=True)
        return Session(policy, reference, self.source, Meter(budget or Budget(1e18)), self.new_tokens, seed)

    def trainer(self, algorithm: Any, budget: Budget, work: Path, seed: int = 0, config: TrainConfig | None = None) -> Trainer:
        """The real trainer on a new lab."""
        config = replace(config or TrainConfig(warmup=2, checkpoint_seconds=1e9), idle_seconds=IDLE_SECONDS)
        return Trainer(algorithm, self.session(budget, seed), config, work)

    def replace(self, **changes: Any) -> Bench:
        """A copy with other fields."""
        return replace(self, **changes)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    """A copy of all trained weights, those of modules included."""
    modules = [p for module in trainer.session.modules.values() for p in module.parameters()]
    return [p.detach().clone() for p in [*trainer.trained, *modules]]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether two lists of tensors are bitwise equal."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def make_bench(
    folder: Path, size: Size, prompt_lengths: list[int], answer_lengths: list[int], new_tokens: int, device: str = "cpu"
) -> Bench:
    """A bench with prompts and verdicts of the given lengths, its models on a device."""
    model = write_model(folder / "model", size)
    config = ModelConfig(str(model))
    rewards = {
        by: reward.HeadReward(write_reward(folder / f"reward-{by}", model, seed), config, device=device)
        for seed, by in enumerate(("annotator", "judge"), start=1)
    }
    comments = [Comment(f"{text} {n}", text in RUDE) for n in range(3) for text in KIND + RUDE]
    CharClassifier.fit(comments).save(folder / "annotators" / "judge")
    source = FixedSource(
        *prompts_and_verdicts(prompt_lengths, answer_lengths, size.vocabulary), rewards, ClassifierJudge(folder / "annotators")
    )
    bench = Bench(model, source, new_tokens=new_tokens, device=device)
    source.make_teacher = functools.cache(lambda: nudged(bench.language_model(), seed=11))
    return bench


@torch.no_grad()
def nudged(model: LanguageModel, seed: int, by: float = 0.1) -> LanguageModel:
    """The model with every weight moved at random, which says something else."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.inner.parameters():
        parameter.add_(by * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    return model


SOURCES = {"annotator": "simulated", "judge": "ai", "revisions": "ai_revisions"}


def prompts_and_verdicts(prompts: list[int], answers: list[int], vocabulary: int = 320) -> tuple[Prompts, dict[str, Feedback]]:
    """Prompts and verdicts of the given lengths in tokens."""
    verdicts = {by: make_feedback(source, prompts, answers, vocabulary) for by, source in SOURCES.items()}
    width = max(prompts)
    tokens, mask = torch.ones(len(prompts), width, dtype=torch.long), torch.zeros(len(prompts), width).bool()
    for row, ids in enumerate(verdicts["annotator"].prompts):
        tokens[row, width - len(ids) :], mask[row, width - len(ids) :] = torch.tensor(ids), True
    return Prompts(tokens, mask, torch.arange(len(tokens))), verdicts


def tiny(folder: Path, device: str = "cpu") -> Bench:
    """Two layers of width 32, prompts of 2 to 7 tokens and answers of 1 to 5."""
    prompts, answers = [2, 7, 4, 3, 5, 6, 4, 3, 7, 2, 5], [1, 5, 2, 3, 5, 4, 2, 5, 3, 1, 4]
    return make_bench(folder, Size(), prompts, answers, new_tokens=5, device=device)


def with_odd_shapes(bench: Bench) -> Bench:
    """The bench with prompts of one token among long ones, and answers of one token against full ones."""
    prompts, verdicts = prompts_and_verdicts([1, 1, 12, 1, 2, 12, 1], [1, 1, 1, 5, 1, 5, 5])
    return bench.replace(source=replace(bench.source, prompt_rows=prompts, verdicts=verdicts))


SMALL = {
    "batch_size": 4,
    "rollouts": 6,
    "prompts": 6,
    "draws": 2,
    "minibatch": 4,
    "num_generations": 4,
    "tau": 2,
    "kept": 2,
    "candidates": 5,
}


def small(algorithm: Any) -> Any:
    """The algorithm with batches that fit a tiny bench, if its fields have the usual names."""
    names = {field.name for field in fields(algorithm)}
    return replace(algorithm, **{key: value for key, value in SMALL.items() if key in names})
