"""The plan of a task: each method under each budget, the stages that all share, and what is assumed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import torch

from isoalign import stats
from isoalign.config.task import TaskConfig
from isoalign.core import progress
from isoalign.core.errors import UserError, unforeseen, unknown
from isoalign.core.records import Budget
from isoalign.core.store import Store
from isoalign.models import loading
from isoalign.models.flops import Shape
from isoalign.models.samplers.vllm_sampler import MEMORY
from isoalign.runs.tuned import settings_on
from isoalign.stages.sft import NONE, with_adapter
from isoalign.stages.shared import SharedStages
from isoalign.tools.plan.accelerators import Accelerator
from isoalign.tools.plan.memory import Footprint, Memory, model_size
from isoalign.tools.plan.models import PlannedModel, Tokenless, language_model
from isoalign.tools.plan.run import Bill, PlannedRun
from isoalign.tools.plan.source import VERDICTS, PlannedSource
from isoalign.training import registry

UNLIMITED = 1e30  # FLOPs
SEED_SPREAD, PROMPT_SPREAD = 0.004, 0.038  # standard deviations on nano's board, in shares of the objective's range
SOME = 256  # prompts, whose tokens planned answers are made of
TEXT = 1500  # bytes that a sample takes with its scores
LIST = 3  # verdicts, rewards and the like beside it


@dataclass(frozen=True)
class Assumed:
    """What a plan assumes. ``mfu``: share of the peak that passes reach, ``sampling_mfu``: that sampling does; ``seeds``:
    trained by each method; ``answer``: tokens of an answer, None for what the store says or else the most; ``verdicts``: share
    of the pairs of answers that get one; ``shards``: devices that would hold weights and optimizer together."""

    mfu: float = 0.35
    sampling_mfu: float = 0.03
    devices: int = 1
    seeds: int = 3
    answer: float | None = None
    verdicts: float = VERDICTS
    shards: int = 1


@dataclass
class MethodPlan:
    """What a method gets from a budget. ``items``: FLOPs by role and kind; ``start``: FLOPs that are spent before the first
    optimizer step; ``least``: the smallest budget that covers a step; ``problem``: why there is no run."""

    method: str
    budget: str
    limit: float
    items: dict[tuple[str, str], int] = field(default_factory=dict)
    steps: int = 0
    answers: int = 0
    tokens: int = 0
    labels: int = 0
    start: int = 0
    least: int | None = None
    footprint: Footprint | None = None
    problem: str = ""

    @property
    def flops(self) -> int:
        """FLOPs that are spent."""
        return sum(self.items.values())

    def hours(self, accelerator: Accelerator, assumed: Assumed) -> float:
        """Of training, on all devices together; evaluation and loading come on top."""
        return hours(self.items, accelerator, assumed)


def hours(items: dict[tuple[str, str], int], accelerator: Accelerator, assumed: Assumed) -> float:
    """Hours of work by role and kind."""
    sampling = sum(flops for (_, kind), flops in items.items() if kind == "sample")
    passes = sum(items.values()) - sampling
    seconds = passes / assumed.mfu + sampling / assumed.sampling_mfu
    return seconds / accelerator.peak / assumed.devices / 3600


class TaskPlan:
    """The plan of a task. Raises UserError where the configuration of its model is not at hand."""

    def __init__(self, task: TaskConfig, store: Store, assumed: Assumed) -> None:
        self.task, self.assumed, self.notes = task, assumed, list[str]()
        self.lora = task.model.lora
        self.tokenizer = self._tokenizer()
        self._models: dict[int, PlannedModel] = {}
        base = self.model(0)
        shared = SharedStages(task, store)
        self.source = PlannedSource(shared, self.tokenizer, base.shape, base, assumed.verdicts)
        asked = self.source.prompts()[:SOME]
        base.filler = torch.cat([tokens[mask][1:] for tokens, mask in zip(asked.tokens, asked.mask, strict=True)])
        base.answer = self._answer()
        if task.model.sampler == "vllm":
            self.notes.append(f"vLLM takes {MEMORY:.0%} of a GPU's memory for its own weights and cache, which come on top")
        tokenizer = loading.load_tokenizer("nano") if isinstance(self.tokenizer, Tokenless) else self.tokenizer
        self.memory = Memory(task, tokenizer)  # any will do: it says which tokens end, pad and are banned

    def _tokenizer(self) -> Any:
        try:
            loading.load_config(self.task.model.name)
        except UserError as error:
            raise UserError(
                f"{error}; a plan needs its config.json alone: put it into a folder and set task.model.name=FOLDER, or into "
                "the hub's cache by `hf download NAME config.json --revision REVISION`"
            ) from error
        try:
            return loading.task_tokenizer(self.task.model)
        except UserError:
            self.notes.append(f"the tokenizer of {self.task.model.name} is not at hand: its texts are not read")
            return Tokenless()

    def _answer(self) -> int:
        most = self.task.model.new_tokens
        if self.task.model.eos != "open":
            return most
        given, known = self.assumed.answer, self.source.mean_answer
        if given is None and known is None:
            self.notes.append(
                f"answers have {most} tokens, the most that the task allows: an upper bound; --mean-answer N says how many"
            )
        length = given if given is not None else known if known is not None else most
        if given is None and known is not None:
            self.notes.append(f"answers have {length:.0f} tokens, the mean of the base's answers in the store")
        return max(1, min(most, round(length)))

    def model(self, lora: int) -> PlannedModel:
        """The policy with an adapter of some rank."""
        if lora not in self._models:
            model = language_model(self.task.model.name)
            adapted = with_adapter(model.requires_grad_(False), lora) if lora else model
            made = PlannedModel(adapted, self.tokenizer, self.task.model.eos == "open", self.task.model.new_tokens, [0])
            if base := self._models.get(0):
                made.filler, made.answer = base.filler, base.answer
            self._models[lora] = made
        return self._models[lora]

    # -- methods ------------------------------------------------------------------------------------------------------

    def methods(self, names: Sequence[str], budgets: dict[str, float]) -> Iterator[MethodPlan]:
        """The plan of each method under each budget. Raises UserError for an unknown method."""
        for name in names:
            if name not in registry.algorithm_names():
                raise UserError(unknown("algorithm", name, registry.algorithm_names()))
        wanted = list(dict.fromkeys(names)) or registry.algorithm_names()
        for name in progress.track(wanted, f"plan of {self.task.name}", least=2):
            kind = registry.algorithm(name)
            if any(hasattr(kind, what) for what in ("iteration", "train", "select")):
                kinds: list[list[Bill]] = []
                for budget, limit in budgets.items():
                    yield self._method(name, kind, budget, limit, kinds)

    def _method(self, name: str, kind: type, budget: str, limit: float, kinds: list[list[Bill]]) -> MethodPlan:
        plan = MethodPlan(name, budget, limit)
        try:
            with registry.sandboxed(name):
                algorithm = registry.with_checked_settings(kind(**settings_on(self.task.name, name, self.task.model)))
            self._fill(plan, algorithm, kinds)
        except UserError as error:
            plan.problem = str(error)
        except Exception as error:  # an algorithm of one's own may do anything
            plan.problem = unforeseen(error)
        return plan

    def _fill(self, plan: MethodPlan, algorithm: Any, kinds: list[list[Bill]]) -> None:
        lora = int(getattr(algorithm, "lora", 0) or self.lora)
        policy = self.model(lora)
        reference = policy if lora else self.model(0)

        def planned(budget: Budget) -> PlannedRun:
            run = PlannedRun(algorithm, budget, policy, reference, self.source, kinds, self.assumed.shards)
            with progress.hidden():
                run.run()
            return run

        try:
            run = planned(Budget(plan.limit))
        except UserError:
            with suppress(UserError):
                plan.least = planned(Budget(UNLIMITED, steps=1)).meter.flops
            raise
        meter = run.meter
        plan.items, plan.steps, plan.tokens, plan.labels = dict(meter.items), meter.steps, meter.tokens, meter.label_count
        plan.answers, plan.start = meter.tokens // policy.answer, round(run.session.started_at * plan.limit)
        if not hasattr(algorithm, "train"):
            most, critic = self.task.training.rows, registry.uses_attribute(type(algorithm), "critic")
            beside = self._beside(run, lora)
            read = min(most, max(1, run.session.read))
            plan.footprint = self.memory.of(lora, max(1, run.rows), read, beside, critic, run.passes)

    def _beside(self, run: PlannedRun, lora: int) -> int:
        """Bytes of the other models that a run loads."""
        task, total = self.task, 0
        if run.session.reward_models and not (task.reward.classifier or task.reward.model or task.known_reward):
            total += task.shaping.members * self._size(task.reward.base or task.model.name)
        if task.judge.kind == "lm" and "ai_scores" in run.meter.labels:
            total += self._size(task.judge.model)
        if any(role == "teacher" for role, _ in run.meter.items):
            total += self._size(task.teacher)
        if any(role == "anchor" for role, _ in run.meter.items):  # a copy of what is trained
            total += self.memory.of(lora, 1, 1).gradients
        return total

    def _size(self, name: str) -> int:
        return self._sizes.setdefault(name, model_size(language_model(name)))

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {}

    # -- what all share -----------------------------------------------------------------------------------------------

    def stages(self) -> dict[str, dict[tuple[str, str], int]]:
        """FLOPs of the stages that are made once for all methods, by role and kind, and of the evaluation of one run."""
        task, found = self.task, dict[str, dict[tuple[str, str], int]]()
        lengths = [length + self._models[0].answer for length in self.source.prompts().lengths().tolist()]
        if task.sft.source != NONE:
            rows = task.sft.steps * task.sft.batch_size
            mean, heads = [sum(lengths) // len(lengths)] * rows, [self._models[0].answer] * rows
            shape = self.model(self.lora).shape
            found["SFT base"] = {
                ("policy", "forward"): shape.forward(mean, heads), ("policy", "backward"): shape.backward(mean, heads)
            }  # fmt: skip
        if not task.feedback.file:
            for split in dict.fromkeys(("train", "validation", task.evaluation.split)):
                found[f"answers to be judged, {split}"] = {("policy", "sample"): self.source.completions(split)}
        for by in ("annotator", "judge"):
            with suppress(UserError):
                bill = self.source.reward(by).training_bill()
                found[f"reward model, {by}"] = {(role, kind): flops for role, kind, flops in bill}
        return found | {"evaluation of a run": self._evaluation()}

    def _evaluation(self) -> dict[tuple[str, str], int]:
        """Sampling the evaluation's answers, those of snapshots too, and reading them with the base; scorers are not in it."""
        config, shape = self.task.evaluation, self._models[0].shape
        asked = self.source.encoded(config.split).lengths().tolist()
        points = self.task.training.most_snapshots
        curve = asked[: min(config.curve_prompts, len(asked))]
        rounds = [(asked, config.draws), *[(curve, config.curve_draws)] * points]
        return {
            ("policy", "sample"): sum(self._sampled(shape, rows, draws) for rows, draws in rounds),
            ("reference", "forward"): sum(self._read(shape, rows, draws) for rows, draws in rounds),
        }

    def _sampled(self, shape: Shape, lengths: list[int], draws: int) -> int:
        contexts = [length for length in lengths for _ in range(draws)]
        return shape.prefill(lengths) + shape.decode(contexts, [self._models[0].answer] * len(contexts))

    def _read(self, shape: Shape, lengths: list[int], draws: int) -> int:
        answer = self._models[0].answer
        return draws * shape.forward([length + answer - 1 for length in lengths], [answer] * len(lengths))

    def store_bytes(self, runs: int) -> int:
        """Bytes that the store takes for some runs: base, reward models, policies and their snapshots, samples."""
        task, memory = self.task, self.memory
        model, _ = language_model(task.model.name), None
        base = model_size(model) * (0.5 if task.model.dtype == "bfloat16" else 1)
        trained = memory.of(self.lora, 1, 1).gradients
        rewards = 0 if task.reward.classifier or task.reward.model or task.known_reward else task.shaping.members
        samples = len(self.source.encoded(task.evaluation.split)) * task.evaluation.draws * TEXT * LIST
        reward = rewards * self._size(task.reward.base or task.model.name)
        return int(base + reward + runs * (trained * (1 + task.training.most_snapshots) + samples))

    def resolvable(self, methods: int) -> float | None:
        """The smallest difference of two methods' mean scores that a board of so many methods resolves, if seeds and
        prompts spread as on nano's board; None for an objective without bounds."""
        low, high = self.task.objective.bounds
        if low is None or high is None or methods < 2:
            return None
        seeds, n = self.assumed.seeds, len(self.source.encoded(self.task.evaluation.split))
        prompts, own = PROMPT_SPREAD**2 / n, SEED_SPREAD**2 / seeds
        error, freedom = math.sqrt(prompts + 2 * own), float(n - 1)
        if seeds > 1:  # as in stats/variance.py
            freedom = (prompts + 2 * own) / (prompts / (n - 1) + own / (seeds - 1))
        else:
            error = math.sqrt(prompts)
        pair = stats.Comparison(None, None, None, None, None, n, 0, error, freedom)
        found = stats.resolvable([pair] * len(list(combinations(range(methods), 2))))
        return None if found is None else found * (high - low)
