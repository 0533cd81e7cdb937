"""What can be configured: one small frozen dataclass for each thing, filled from conf/."""

from dataclasses import dataclass, field

from isoalign.config.feedback import ConstitutionConfig, JudgeConfig, PanelConfig
from isoalign.config.training import TrainConfig
from isoalign.core.store import later


@dataclass(frozen=True)
class ModelConfig:
    """The base model. ``name``: nano, smollm2, a folder or a hub name. ``lora``: rank of the adapters, 0 trains all
    weights. ``bf16``: autocast in training passes; scoring is always fp32. ``eos``: ``masked`` fixes every answer's
    length, ``open`` lets the model end it."""

    name: str
    lora: int = 0
    bf16: bool = False
    eos: str = "masked"
    prompt_tokens: int = 24
    new_tokens: int = 20

    def __post_init__(self) -> None:
        if self.eos not in ("masked", "open"):
            raise ValueError(f"task.model.eos must be masked or open, not {self.eos!r}")


@dataclass(frozen=True)
class PromptsConfig:
    """Prompts of each split; ``clean`` of them are openings of ``words`` words of comments that nobody found offensive."""

    train: int = 800
    validation: int = 128
    test: int = 256
    clean: float = 0.25
    words: int = 12


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning on comments of their own role: ``steps`` of ``batch_size`` openings and continuations."""

    steps: int
    lr: float
    batch_size: int = 64


@dataclass(frozen=True)
class FeedbackConfig:
    """Preference pairs: ``draws`` answers a prompt, a verdict on every two whose scores differ by over ``margin``, flipped at
    rate ``noise`` (by each annotator of a panel). ``judge_margin`` is the same for the AI judge, who is not noised; of a
    judge that compares answers, how far P must be from 1/2, doubled. ``judge_questions``: at most so many are asked, 0 is
    all.

    ``file``: people's own verdicts in the place of the simulated ones, a file or hf:NAME, in a ``format`` that
    `isoalign data` knows, or that it finds out."""

    draws: int = 4
    margin: float = 0.3
    judge_margin: float = 0.3
    noise: float = 0.05
    judge_questions: int = later(0)
    file: str = later("")
    format: str = later("")

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 0.5:
            raise ValueError(f"task.feedback.noise must lie in [0, 0.5), not {self.noise}")


@dataclass(frozen=True)
class RewardConfig:
    """The Bradley-Terry reward model: up to ``pairs`` verdicts, read ``epochs`` times.

    ``base``: the model under its scalar head, by name or folder; empty is the SFT base. ``classifier``: no head is trained,
    the reward is the "not toxic" logit of ``annotator`` (the simulated one itself) or of ``hf:NAME_OR_PATH[#label]``.
    ``hard``: share of the verdicts that are taken from those whose two answers are nearest to each other. ``golden``:
    validation verdicts without noise on which training is looked at ten times; what was best there is kept, and
    ``patience`` looks in a row without a gain end it.
    """

    pairs: int
    lr: float
    batch_size: int = 32
    epochs: int = 1
    base: str = later("")
    classifier: str = later("")
    hard: float = later(0.0)
    golden: int = later(0)
    patience: int = later(3)

    def __post_init__(self) -> None:
        if not 0 <= self.hard <= 1:
            raise ValueError(f"task.reward.hard must lie in [0, 1], not {self.hard}")
        if self.golden < 0 or self.patience < 1:
            raise ValueError("task.reward.golden must be 0 or more and task.reward.patience 1 or more")
        if self.classifier and self.base:
            raise ValueError("task.reward.base is of a head that is trained, task.reward.classifier has none: set one")
        if self.classifier and self.classifier != "annotator" and not self.classifier.startswith("hf:"):
            raise ValueError(f"task.reward.classifier must be annotator or hf:NAME_OR_PATH[#label], not {self.classifier!r}")


@dataclass(frozen=True)
class ShapingConfig:
    """From reward models to the reward: ``members`` are trained with a seed each and combined by ``mean``, ``worst`` or
    ``uncertainty`` (mean - ``uncertainty`` x variance); ``length_penalty`` is taken off for each token; ``clip`` bounds
    the reward (0: no bound). With ``normalise`` off a member's rewards keep their own scale."""

    members: int = later(1)
    combine: str = later("mean")
    uncertainty: float = later(1.0)
    length_penalty: float = later(0.0)
    clip: float = later(0.0)
    normalise: bool = later(True)

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"task.shaping.members must be 1 or more, not {self.members}")
        if self.combine not in ("mean", "worst", "uncertainty"):
            raise ValueError(f"task.shaping.combine must be mean, worst or uncertainty, not {self.combine!r}")
        if self.clip < 0 or self.uncertainty < 0:
            raise ValueError("task.shaping.clip and task.shaping.uncertainty must be 0 or more")


@dataclass(frozen=True)
class RoundsConfig:
    """The outer loop of RLHF: feedback is gathered ``count`` times, the first time from the SFT base and then, at equal
    shares of the budget, from the policy as it is, on ``prompts`` of the training prompts (0: all)."""

    count: int = later(1)
    prompts: int = later(0)

    def __post_init__(self) -> None:
        if self.count < 1 or self.prompts < 0:
            raise ValueError("task.rounds.count must be 1 or more and task.rounds.prompts 0 or more")


@dataclass(frozen=True)
class EvaluationConfig:
    """``draws`` completions of each prompt of ``split``, scored by two scorers that never trained anything. Tuning looks at
    the validation split; what is reported comes from the test split. Snapshots along the budget are scored on
    ``curve_prompts`` of the prompts and their first ``curve_draws`` draws."""

    split: str = "test"
    draws: int = 8
    seed: int = 1234
    scorer: str = "tox_block"
    second_scorer: str = "toxic_classifier"
    curve_prompts: int = 128
    curve_draws: int = 2

    def __post_init__(self) -> None:
        if self.curve_prompts < 1:
            raise ValueError(f"task.evaluation.curve_prompts must be 1 or more, not {self.curve_prompts}")
        if not 1 <= self.curve_draws <= self.draws:
            raise ValueError(f"task.evaluation.curve_draws must lie in [1, {self.draws}], not {self.curve_draws}")
        if self.split not in ("validation", "test"):
            raise ValueError(f"task.evaluation.split must be validation or test, not {self.split!r}")


@dataclass(frozen=True)
class TaskConfig:
    """A task: everything that all methods share. ``budgets`` names FLOPs for budget=NAME. ``seed`` drives shared stages."""

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
    budgets: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.feedback.file and self.rounds.count > 1:
            raise ValueError(
                "task.rounds.count over 1 asks simulated annotators; people behind task.feedback.file can't be asked"
            )
        if self.feedback.file and self.panel != PanelConfig():
            raise ValueError("task.panel is of simulated annotators; with task.feedback.file people judge: set one")
        if self.evaluation.split == "validation" and (self.reward.golden or self.panel.golden):
            raise ValueError("golden verdicts are of the validation split: nothing is left to judge by on it; set golden=0")
        if self.rounds.prompts > self.prompts.train:
            raise ValueError(
                f"task.rounds.prompts is {self.rounds.prompts}, there are task.prompts.train={self.prompts.train}"
            )
