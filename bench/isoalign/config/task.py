"""Configuration of tasks: frozen dataclasses, filled from conf/."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from isoalign.config import conflicts, own_reward
from isoalign.config.evaluation import EvaluationConfig
from isoalign.config.feedback import ConstitutionConfig, JudgeConfig, PanelConfig
from isoalign.config.shaping import RoundsConfig, ShapingConfig
from isoalign.config.training import TrainConfig
from isoalign.core.objective import Objective
from isoalign.core.places import is_plain
from isoalign.core.store import added_later, in_no_key

DTYPES = ("float32", "bfloat16")
OWN = "own"  # isoalign's own decoding
SAMPLERS = (OWN, "transformers", "vllm")


def check_skip(key: str, skip: str) -> None:
    """Raises ValueError for what is no kind of rows to skip."""
    if skip not in ("", "empty", "tools", "faulty"):
        raise ValueError(f"{key} must be empty, tools, faulty or '' for none, not {skip!r}")


def check_rate(key: str, rate: float) -> None:
    """Raises ValueError for a learning rate that teaches nothing, or the contrary."""
    if not 0 < rate < math.inf:
        raise ValueError(f"{key} must be finite and above 0, not {rate}")


@dataclass(frozen=True)
class ModelConfig:
    """The base model.

    ``name``: nano, smollm2, a folder or a hub name. ``lora``: rank of the adapters, 0 trains all weights. ``bf16``: autocast
    in training passes. ``eos``: ``masked`` fixes the length of answers, ``open`` lets the model end them. ``template``:
    ``auto`` writes conversations in the model's chat template, ``always`` makes a plain prompt a user turn, ``off`` writes out
    the roles; a file ``*.jinja`` is the template, for every prompt. ``dtype``: of the weights of SFT base and policy, and of
    the frozen base unless ``frozen_dtype`` says otherwise; judges and models that score are in float32. Weights that are
    trained, all of them or an adapter, are in float32. ``sampler``: what samples rollouts of the policy, ``own`` decoding or
    an engine; the key of what an engine has sampled names it with its version. ``shard``: the processes of a run hold policy,
    reference and optimizer together, each a part (FSDP2); as the number of processes it is in no key.
    """

    name: str
    lora: int = 0
    bf16: bool = False
    eos: str = "masked"
    prompt_tokens: int = 24
    new_tokens: int = 20
    template: str = added_later("auto")
    dtype: str = added_later("float32")
    frozen_dtype: str = added_later("")
    sampler: str = in_no_key(OWN)
    shard: bool = in_no_key(False)

    def __post_init__(self) -> None:
        if self.eos not in ("masked", "open"):
            raise ValueError(f"task.model.eos must be masked or open, not {self.eos!r}")
        if self.template not in ("auto", "always", "off") and not self.template_file:
            raise ValueError(f"task.model.template must be auto, always, off or a file *.jinja, not {self.template!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"task.model.dtype must be {' or '.join(DTYPES)}, not {self.dtype!r}")
        if self.frozen_dtype not in ("", *DTYPES):
            raise ValueError(f"task.model.frozen_dtype must be empty, {' or '.join(DTYPES)}, not {self.frozen_dtype!r}")
        if self.lora < 0:
            raise ValueError(f"task.model.lora must be 0 or more, not {self.lora}")
        if self.dtype == "bfloat16" and not self.lora:
            raise ValueError(
                "task.model.dtype=bfloat16 needs task.model.lora: trained in bfloat16, weights round most updates away; set "
                "task.model.bf16=true for products in bfloat16, or task.model.frozen_dtype=bfloat16 for the frozen base"
            )
        if self.sampler not in SAMPLERS:
            raise ValueError(f"task.model.sampler must be {', '.join(SAMPLERS[:-1])} or {SAMPLERS[-1]}, not {self.sampler!r}")
        if self.sampler == "transformers" and self.bf16:
            raise ValueError(
                "task.model.sampler=transformers keeps its cache in the weights' data type, task.model.bf16=true computes in "
                "bfloat16; set task.model.bf16=false, or task.model.sampler=own"
            )
        if self.prompt_tokens < 1 or self.new_tokens < 1:
            raise ValueError("task.model.prompt_tokens and task.model.new_tokens must be 1 or more")

    @property
    def template_file(self) -> str:
        """The file of the chat template; empty for the tokenizer's own."""
        return self.template if self.template.endswith(".jinja") else ""

    @property
    def precision(self) -> str:
        """Precision of passes in training."""
        return "bfloat16" if self.bf16 else "float32"

    @property
    def frozen(self) -> str:
        """Data type of the weights of the frozen base."""
        return self.frozen_dtype or self.dtype


@dataclass(frozen=True)
class PromptsConfig:
    """Prompts of each split, by number. ``clean``: share that are openings of ``words`` words of inoffensive comments.

    ``source``: prompts of one's own instead, a file or hf:NAME, split by hash, where a number of 0 takes all;
    ``validation_source`` and ``test_source``: files for these splits. ``column``: holds a text or messages, ``a.b`` for key b
    of an object. ``format``: of `isoalign data`, whose prompts are taken instead of a column's. ``stratum``: a column by which
    figures are also given. ``skip``: rows that are left out, as of feedback. ``opening``: words of a text that are the prompt,
    0 for all. ``reference``: a column with the right answer, for scorers that compare with it.
    """

    train: int = 800
    validation: int = 128
    test: int = 256
    clean: float = 0.25
    words: int = 12
    source: str = added_later("")
    validation_source: str = added_later("")
    test_source: str = added_later("")
    column: str = added_later("prompt")
    stratum: str = added_later("")
    format: str = added_later("")
    skip: str = added_later("")
    opening: int = added_later(0)
    reference: str = added_later("")

    def __post_init__(self) -> None:
        check_skip("task.prompts.skip", self.skip)
        if not 0 <= self.clean <= 1:
            raise ValueError(f"task.prompts.clean must lie in [0, 1], not {self.clean}")
        if self.words < 1:
            raise ValueError(f"task.prompts.words must be 1 or more, not {self.words}")
        if self.opening < 0:
            raise ValueError(f"task.prompts.opening must be a number of words, 0 for all, not {self.opening}")
        for name in ("stratum", "reference"):
            if self.format and getattr(self, name):
                raise ValueError(
                    f"task.prompts.{name} is for prompts of a column, task.prompts.format takes those of feedback: set one"
                )
        for split in ("train", "validation", "test"):
            if getattr(self, split) < (0 if self.source else 1):
                least = "0 for all, or a number" if self.source else "1 or more"
                raise ValueError(f"task.prompts.{split} must be {least}, not {getattr(self, split)}")
        if not self.source and (self.validation_source or self.test_source):
            raise ValueError("task.prompts.source is needed where task.prompts.validation_source or test_source is set")
        if self.reference and not self.source:
            raise ValueError("task.prompts.reference is a column of task.prompts.source, which is not set")


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning: ``steps`` of ``batch_size`` openings and continuations of the comments of role sft.

    ``source``: demonstrations of one's own instead, a file or hf:NAME in a ``format`` of `isoalign data` (empty to recognise
    it), or ``none``: the model itself is the base. ``columns`` and ``skip``: as of feedback. ``opening``: words of a text that
    are a prompt, the rest is its answer, for files of texts alone.
    """

    steps: int
    lr: float
    batch_size: int = 64
    source: str = added_later("")
    format: str = added_later("")
    columns: dict[str, str] | None = added_later(None)
    skip: str = added_later("")
    opening: int = added_later(0)

    def __post_init__(self) -> None:
        if self.opening < 0:
            raise ValueError(f"task.sft.opening must be a number of words, 0 for none, not {self.opening}")
        check_skip("task.sft.skip", self.skip)
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("task.sft.steps and task.sft.batch_size must be 1 or more")
        check_rate("task.sft.lr", self.lr)


@dataclass(frozen=True)
class FeedbackConfig:
    """Preference pairs: ``draws`` answers per prompt, and a verdict on every two whose scores differ by more than ``margin``,
    flipped at rate ``noise`` (by each annotator of a panel). ``judge_margin``: the same for the AI judge, without noise; for
    a judge that compares answers, twice the required distance of P from 1/2. ``judge_questions``: maximum number of questions,
    0 for all.

    ``file``: human verdicts instead of simulated ones, a file or hf:NAME; ``format``: one of those of `isoalign data`, empty
    to recognise it; ``columns``: the file's names of columns, where they are others than the format's; ``skip``: rows that are
    left out and counted instead of refused, ``empty``, ``tools`` or ``faulty``. ``annotator``: a scorer, as in
    ``task.evaluation.scorer`` but none of the evaluation's, that compares answers instead of the embedded annotator."""

    draws: int = 4
    margin: float = 0.3
    judge_margin: float = 0.3
    noise: float = 0.05
    judge_questions: int = added_later(0)
    file: str = added_later("")
    format: str = added_later("")
    columns: dict[str, str] | None = added_later(None)
    skip: str = added_later("")
    annotator: str = added_later("")

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 0.5:
            raise ValueError(f"task.feedback.noise must lie in [0, 0.5), not {self.noise}")
        if self.draws < 1 or self.judge_questions < 0:
            raise ValueError("task.feedback.draws must be 1 or more and task.feedback.judge_questions 0 or more")
        for name in ("margin", "judge_margin"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"task.feedback.{name} must be finite and 0 or more, not {getattr(self, name)}")
        check_skip("task.feedback.skip", self.skip)


@dataclass(frozen=True)
class RewardConfig:
    """The Bradley-Terry reward model: at most ``pairs`` verdicts, for ``epochs`` epochs.

    ``base``: the model under the scalar head, by name or folder; empty for the SFT base. ``classifier``: no head is trained,
    the reward is the "not toxic" logit of ``annotator`` (the simulated one itself) or of ``hf:NAME_OR_PATH[#label]``.
    ``model``: a trained reward model ``hf:NAME_OR_FOLDER[@REVISION]``, of which more is better; no head is trained either.
    ``hard``: share of verdicts taken from the pairs whose answers are closest to each other. ``golden``: noiseless
    validation verdicts on which training is evaluated ten times; the best checkpoint is used, and ``patience`` evaluations in
    a row without a gain stop training.
    """

    pairs: int
    lr: float
    batch_size: int = 32
    epochs: int = 1
    base: str = added_later("")
    classifier: str = added_later("")
    hard: float = added_later(0.0)
    golden: int = added_later(0)
    patience: int = added_later(3)
    model: str = added_later("")

    def __post_init__(self) -> None:
        if not 0 <= self.hard <= 1:
            raise ValueError(f"task.reward.hard must lie in [0, 1], not {self.hard}")
        if self.epochs < 1 or self.pairs < 1:
            raise ValueError("task.reward.pairs and task.reward.epochs must be 1 or more: an untrained head is no reward")
        if self.batch_size < 1:
            raise ValueError(f"task.reward.batch_size must be 1 or more, not {self.batch_size}")
        check_rate("task.reward.lr", self.lr)
        if self.golden < 0 or self.patience < 1:
            raise ValueError("task.reward.golden must be 0 or more and task.reward.patience 1 or more")
        if conflict := own_reward.conflict(self):
            raise ValueError(conflict)


@dataclass(frozen=True)
class TaskConfig:
    """A task: all that methods share. ``budgets``: FLOPs by name, for budget=NAME. ``seed``: of the shared stages.
    ``bases``: how many SFT bases there are, each with completions, pairs and reward models of its own; a run with seed s
    starts from base s modulo ``bases``, whose shared stages have that much added to their seed.

    ``teacher``: a language model of the same tokenizer, a folder or hub name, for methods that distil one; empty for none.
    ``known_reward``: the annotator, the reward and the objective are one known function, ``evaluation.scorer``: verdicts
    compare its scores, the reward is its score, and no reward model is trained on the annotator's verdicts.
    """

    name: str
    model: ModelConfig
    sft: SFTConfig
    reward: RewardConfig
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    panel: PanelConfig = field(default_factory=PanelConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    constitution: ConstitutionConfig = field(default_factory=ConstitutionConfig)
    objective: Objective = field(default_factory=Objective)
    budgets: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    known_reward: bool = added_later(False)
    teacher: str = added_later("")
    bases: int = added_later(1)

    def on_base(self, seed: int) -> TaskConfig:
        """The task as a run with this seed meets it: on its base."""
        return replace(self, seed=self.seed + seed % self.bases)

    def scored_by(self, labelled_by: str) -> str:
        """The scorer by which the ``annotator`` or the ``judge`` compares answers; empty if it is no scorer."""
        if labelled_by == "annotator":
            return self.evaluation.scorer if self.known_reward else self.feedback.annotator
        return self.judge.model if self.judge.kind == "scorer" else ""

    def __post_init__(self) -> None:
        if not is_plain(self.name):
            raise ValueError(f"task.name must be a plain name, as my_task, not {self.name!r}")
        if self.bases < 1:
            raise ValueError(f"task.bases must be a number of bases, 1 or more, not {self.bases}")
        if conflict := conflicts.conflict(self):
            raise ValueError(conflict)
