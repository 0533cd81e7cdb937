"""A tiny model with a tokenizer of its own, and labs whose every part is the real thing, only small."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bench import registry
from bench.config import ModelConfig
from bench.data.comments import Comment
from bench.feedback import Feedback
from bench.lab import Lab
from bench.meter import Meter
from bench.models import language, reward
from bench.models.classifiers import CharClassifier
from bench.models.language import LanguageModel
from bench.shared import Judge
from bench.train import TrainConfig, Trainer
from bench.types import Budget, Pairs, Prompts

END, PAD = "<|endoftext|>", "<|pad|>"
KIND = ["thank you for your kind help", "what a lovely page this is", "good work, see you soon", "i think that you are right"]
RUDE = ["you are a stupid idiot", "shut up you moron", "what a dumb stupid page", "go away, idiot"]


@dataclass(frozen=True)
class Size:
    """The shape of a model that a test makes."""

    width: int = 32
    layers: int = 2
    vocabulary: int = 320
    seed: int = 0
    feed_forward: int = 64


def write_model(folder: Path, size: Size = Size()) -> Path:
    """A random Llama and its byte-level BPE tokenizer, built as scripts/pretrain_nano.py does, saved as a folder."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PAD, padding_side="left", model_max_length=512
    ).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        config = LlamaConfig(
            vocab_size=size.vocabulary, hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=2,
            intermediate_size=size.feed_forward, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0,
            eos_token_id=0, pad_token_id=1, initializer_range=0.2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_reward(folder: Path, model: Path, seed: int, flops: dict[str, int] | None = None) -> Path:
    """A random reward model on a tiny model's weights, with the record that its stage would leave."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head, _ = reward.load(str(model), model)
        head.score.weight.data.normal_()
    head.save_pretrained(folder)
    record = {
        "flops": flops or {"forward": 1000, "backward": 2000}, "flops_each": {"feedback": 10}, "verdicts": [0, 1, 2],
        "source": "simulated", "seed": seed, "mean": 0.1, "deviation": 2.0, "seconds": 0.0,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def make_feedback(source: str, prompt_lengths: list[int], answer_lengths: list[int], vocabulary: int = 320) -> Feedback:
    """Verdicts on random answers of the given lengths; no special token occurs but the opening one."""
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
class Shelf:
    """What `bench.shared.Shared` hands a lab, made by hand."""

    prompt_rows: Prompts
    verdicts: dict[str, Feedback]
    rewards: dict[str, Any]
    the_judge: Any
    number: int = 0

    def asked_judge(self) -> None:
        return None

    def thumbs(self) -> None:
        return None

    def due(self, fraction: float) -> bool:
        return False

    def prompts(self) -> Prompts:
        return self.prompt_rows

    def feedback(self, labelled_by: str) -> Feedback:
        return self.verdicts[labelled_by]

    def revisions(self) -> Feedback:
        return self.verdicts["revisions"]

    def reward(self, labelled_by: str) -> Any:
        return self.rewards[labelled_by]

    def judge(self) -> Any:
        return self.the_judge


@dataclass(frozen=True)
class Bench:
    """A workbench: tiny folders on disk, from which labs are made afresh."""

    model: Path
    shelf: Shelf
    ends: bool = False
    lora: int = 0
    new_tokens: int = 5

    def language_model(self, trained: bool = False) -> LanguageModel:
        model, tokenizer = language.load(str(self.model))
        model.requires_grad_(trained)
        return LanguageModel(model, tokenizer, self.ends)

    def lab(self, budget: Budget | None = None, seed: int = 0) -> Lab:
        """A new lab with a new meter; without a budget there is no limit."""
        reference = self.language_model()
        if self.lora:
            from peft import get_peft_model

            from bench.stages.sft import lora

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                adapted = get_peft_model(reference.inner, lora(self.lora, "CAUSAL_LM"))
            policy = reference = LanguageModel(adapted, reference.tokenizer, self.ends)
        else:
            policy = self.language_model(trained=True)
        return Lab(policy, reference, self.shelf, Meter(budget or Budget(1e18)), self.new_tokens, seed)  # type: ignore[arg-type]

    def trainer(self, algorithm: Any, budget: Budget, work: Path, seed: int = 0, config: TrainConfig | None = None) -> Trainer:
        """The real trainer on a new lab."""
        lab = self.lab(budget, seed)
        config = config or TrainConfig(warmup=2, checkpoint_seconds=1e9)
        return Trainer(algorithm, lab, lab._policy, lab._meter, config, work)

    def but(self, **changes: Any) -> Bench:
        return replace(self, **changes)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    """Everything that was trained, modules included."""
    modules = [p for module in trainer.lab._modules.values() for p in module.parameters()]
    return [p.detach().clone() for p in [*trainer.trained, *modules]]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def make_bench(folder: Path, size: Size, prompt_lengths: list[int], answer_lengths: list[int], new_tokens: int) -> Bench:
    """Model, reward models, judge, prompts and verdicts of the given lengths."""
    model = write_model(folder / "model", size)
    config = ModelConfig(str(model))
    rewards = {
        by: reward.HeadReward(write_reward(folder / f"reward-{by}", model, seed), config)
        for seed, by in enumerate(("annotator", "judge"), start=1)
    }
    comments = [Comment(f"{text} {n}", text in RUDE) for n in range(3) for text in KIND + RUDE]
    CharClassifier.fit(comments).save(folder / "raters" / "judge")
    verdicts = {
        "annotator": make_feedback("simulated", prompt_lengths, answer_lengths, size.vocabulary),
        "judge": make_feedback("ai", prompt_lengths, answer_lengths, size.vocabulary),
        "revisions": make_feedback("ai_revisions", prompt_lengths, answer_lengths, size.vocabulary),
    }
    width = max(prompt_lengths)
    tokens, mask = torch.ones(len(prompt_lengths), width, dtype=torch.long), torch.zeros(len(prompt_lengths), width).bool()
    for row, ids in enumerate(verdicts["annotator"].prompts):
        tokens[row, width - len(ids) :], mask[row, width - len(ids) :] = torch.tensor(ids), True
    prompts = Prompts(tokens, mask, torch.arange(len(tokens)))
    return Bench(model, Shelf(prompts, verdicts, rewards, Judge(folder / "raters")), new_tokens=new_tokens)


def nudge(lab: Lab, seed: int = 1, by: float = 0.05) -> Lab:
    """Move the policy away from its base, so that log-ratios are not all 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lab._policy.inner.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return lab


def open_vocabulary(lab: Lab) -> Lab:
    """Let both models give every token, as trainers that know no banned tokens do."""
    for model in (lab._policy, lab._reference):
        model.banned = model.banned[:0]
    return lab


def trl_arguments(folder: Path) -> dict[str, Any]:
    """Arguments of a TRL trainer that computes losses and nothing else."""
    return {
        "output_dir": str(folder), "report_to": "none", "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
        "per_device_train_batch_size": 2, "disable_tqdm": True, "remove_unused_columns": False,
    }  # fmt: skip


def trl_trainer(kind: Any, config: Any, lab: Lab, folder: Path, **settings: Any) -> Any:
    """One of TRL's trainers on pairs, with copies of a lab's models and its own settings; DPO's has a reference."""
    from datasets import Dataset

    words = Dataset.from_list([{"prompt": "you", "chosen": " are kind", "rejected": " idiot"}])
    models = [lab._policy.inner, lab._reference.inner] if kind.__name__ == "DPOTrainer" else [lab._policy.inner]
    policy, *reference = [copy.deepcopy(model) for model in models]
    policy.zero_grad()
    arguments = config(**trl_arguments(folder), **settings)
    return kind(policy, *reference, args=arguments, train_dataset=words, processing_class=lab._policy.tokenizer)


def assert_same_gradients(ours: Any, theirs: Any, times: float = 1.0) -> None:
    """Ours are theirs, times a factor, to float32's last digits."""
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, times * other.grad, atol=1e-5 * max(1.0, times), rtol=1e-4)


class FixedRatios:
    """A lab of which only the log-ratios matter."""

    def __init__(self, chosen: list[float], rejected: list[float]) -> None:
        self.ratios = {"chosen": torch.tensor(chosen), "rejected": torch.tensor(rejected)}

    def log_ratio(self, side: str) -> torch.Tensor:
        return self.ratios[side]

    def log(self, **_: torch.Tensor) -> None:
        pass


def loss_of_ratios(algorithm: Any, chosen: list[float], rejected: list[float]) -> list[float]:
    """What a loss on pairs makes of given log-ratios."""
    pairs: Any = Pairs("chosen", "rejected", torch.zeros(1))  # type: ignore[arg-type]
    lab: Any = FixedRatios(chosen, rejected)
    found: list[float] = algorithm.loss(lab, pairs).tolist()
    return found


SMALL = {"batch_size": 4, "rollouts": 6, "prompts": 6, "draws": 2, "minibatch": 4, "num_generations": 4}


def small(name: str, **settings: Any) -> Any:
    """An algorithm by name, its batches cut to what the tiny bench holds."""
    cls = registry.algorithm(name)
    fields = {field.name for field in fields_of(cls)}
    return cls(**{key: value for key, value in SMALL.items() if key in fields} | settings)


def algorithms() -> list[Any]:
    """Every registered algorithm that trains, as a pytest parameter; one with modes comes in each."""
    names = [name for name in registry.names() if hasattr(registry.algorithm(name), "iteration")]
    found = [(name, small(name)) for name in names] + [("rlaif", small("rlaif", mode="direct"))]
    return [pytest.param(name, made, id=f"{name}-{getattr(made, 'mode', '')}".rstrip("-")) for name, made in found]


def loops() -> list[Any]:
    """Every registered algorithm that brings a training loop of its own, as a pytest parameter."""
    names = [name for name in registry.names() if hasattr(registry.algorithm(name), "train")]
    return [pytest.param(name, small(name), id=name) for name in names]


COMMAND = str(Path(sys.executable).parent / "isoalign")

TINY = [
    "task.model.new_tokens=6", "task.model.prompt_tokens=16", "task.prompts.train=24", "task.prompts.test=16",
    "task.prompts.validation=8", "task.sft.steps=3", "task.sft.batch_size=8", "task.feedback.margin=0.0",
    "task.feedback.judge_margin=0.0", "task.reward.pairs=16", "task.reward.batch_size=8", "task.evaluation.draws=2",
    "task.training.checkpoint_seconds=0", "threads=1", "tracking=off",
]  # fmt: skip


@dataclass(frozen=True)
class Terminal:
    """Where a test types commands: a folder of its own, a store, and the environment."""

    home: Path
    store: Path
    model: Path
    env: dict[str, str]

    def run(self, *words: str) -> list[str]:
        """The words of `isoalign run` on the tiny model with few of everything."""
        places = [f"task.model.name={self.model}", f"store={self.store}", f"results={self.home / 'results'}"]
        flags = [word for word in words if word.startswith("-")]
        return [COMMAND, "run", *flags, *TINY, *places, *(word for word in words if word not in flags)]

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=self.home, env=self.env)

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, cwd=self.home, env=self.env)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command that failed says; no traceback, nothing on stdout, exit status 2."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and "%|" not in line]  # progress bars aside
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("isoalign: ")
    assert done.stdout == "", done.stdout
    return lines[0]


def finished(store: Path) -> dict[str, int]:
    """The stages that lie in a store, with the time of their last change; a half-written one is an error."""
    if not store.is_dir():
        return {}
    assert not list(store.glob(".work-*"))
    stages = [folder for folder in store.iterdir() if folder.is_dir()]
    files = [file for stage in stages for file in [stage, *stage.rglob("*")]]
    return {str(file.relative_to(store)): file.stat().st_mtime_ns for file in files}


def stages(store: Path, kind: str = "") -> list[str]:
    """The stages of a kind that lie in a store, or all."""
    return sorted(file.name for file in store.glob(f"{kind or '[!.]*'}-*") if file.is_dir())
