"""The preflight: what would otherwise end a run late is settled before its first stage.

Every model of a task is loaded once and run on two short rows, so that one that isoalign cannot run, bill or read rewards from
is refused in a line. What passed is in the store, so a preflight is made once for a task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from isoalign.config.evaluation import BASE, SCORER
from isoalign.config.task import ModelConfig, TaskConfig
from isoalign.core import products
from isoalign.core.complaint import say
from isoalign.core.devices import CPU, device
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.lazy import transformers
from isoalign.core.memory import machine_failure
from isoalign.data import prompts
from isoalign.data.opponents import read_answers
from isoalign.data.preferences import rollouts
from isoalign.feedback import judges
from isoalign.feedback.judges.scorer import load_scorer_judge
from isoalign.models import loading, reward_classifier
from isoalign.models.answer_scorers import check_price, check_scorers
from isoalign.models.flops import bill_error, shape_of
from isoalign.models.language import LanguageModel
from isoalign.models.probe import probe
from isoalign.models.reward import Retokenizer, head_rewards, load_reward_model
from isoalign.models.samplers.engine import check_sampler, make_sampler
from isoalign.models.scorers import REWARD, load_scorer
from isoalign.models.tokens import check_tokenizer, closing_id
from isoalign.models.unshown import unshown
from isoalign.stages.conversations import PromptTurns
from isoalign.stages.cutting import Cutter, check_fit, encode_prompts, fit_of, turns_of
from isoalign.stages.footprint import check_memory
from isoalign.stages.sft import with_adapter
from isoalign.training.trl.models import lent

VERSION = 5
TOLERANCE = 0.03  # of a formula for FLOPs, relative
SPLITS = tuple(prompts.SPLITS)
HIDDEN = "turns not shown"  # in the report on a reward model of one's own: whether its chat template leaves turns out


def make_preflight(work: Path, task: TaskConfig, lora: int, trl_loop: bool = False, sampler: str = "") -> None:
    """Check the models, scorers and prompts of a task. Writes ``preflight.json`` with what was measured.

    ``lora``: rank of the policy's adapter; ``trl_loop``: a trainer of TRL will train it; ``sampler``: the engine of its
    rollouts. Raises UserError for what a run cannot use.
    """
    check_length(task.model.name, loading.load_config(task.model.name), task.model)
    if task.model.bf16 and device() != CPU and not transformers.utils.is_torch_bf16_gpu_available():
        raise UserError(f"the device {device()} does not compute in bf16; set task.model.bf16=false or device=cpu")
    if device() == CPU and "bfloat16" in (task.model.precision, task.evaluation.precision) and not products.multiplies_bf16():
        say("this processor has no bf16: task.model.bf16=true and task.evaluation.precision=bfloat16 only make it slower")
    report: dict[str, Any] = {"memory": check_memory(task, lora)}
    open_ends = task.model.eos == "open"
    report["base"] = _check_model(task.model.name, open_ends, task.model.frozen, lora, trl_loop)
    report |= {sampler: {"gap": _check_sampler(sampler, task, lora)}} if sampler else {}
    if open_ends:
        closing_id(loading.task_tokenizer(task.model))  # closes the answers of SFT
    if not task.reward.classifier and not task.reward.model:
        asked = _prompt_ids(task) if task.reward.base else ()
        _check_reward(task.reward.base or task.model.name, task.model, asked)
    for name, roles in writers(task).items():
        report[name] = _check_model(name, open_ends=True, roles=roles)
    tried = prompts.load_split(task.prompts, task.evaluation.split)[:2]
    texts, references = [prompt.text for prompt in tried], [prompt.reference for prompt in tried]
    check_scorers(task.evaluation.scorer, task.evaluation.second_scorer, task.objective, device(), texts, references)
    for name in filter(None, map(task.scored_by, ("annotator", "judge"))):  # they need a price, and train or label
        check_price(name, device(), texts, references)
    _check_win_rate(task)
    if task.reward.classifier not in ("", "annotator"):
        load_scorer(task.reward.classifier, device())
    for name in own_reward_models(task):
        report[name] = _check_own_reward(name, task)
    report["prompts"] = _check_prompts(task)
    (work / "preflight.json").write_text(json.dumps(report, indent=1))


def _check_prompts(task: TaskConfig) -> dict[str, dict[str, int]]:
    """How the prompts of each split fit. Losses are told; raises UserError where too many prompts become one."""
    tokenizer, report = loading.task_tokenizer(task.model), {}
    trained = list(map(turns_of, prompts.load_split(task.prompts, "train")))
    for split in SPLITS:
        chosen = prompts.load_split(task.prompts, split)
        encode_prompts(tokenizer, chosen, task.model)  # refuses a last turn that does not fit
        fit = fit_of(Cutter(tokenizer, task.model), map(turns_of, chosen), () if split == "train" else trained)
        check_fit(fit, f"task.prompts, {split}", task.model)
        report[split] = asdict(fit)
        if fit.told and task.prompts.source:
            say(f"{split}: {fit.told} at task.model.prompt_tokens={task.model.prompt_tokens}")
    return report


def _prompt_ids(task: TaskConfig) -> Iterator[list[int]]:
    """Every prompt as the task's model reads it."""
    cut = Cutter(loading.task_tokenizer(task.model), task.model)
    asked = (turns_of(prompt) for split in SPLITS for prompt in prompts.load_split(task.prompts, split))
    return (ids for turns in asked if (ids := cut.prompt(turns)) is not None)


def own_reward_models(task: TaskConfig) -> list[str]:
    """The reward models of one's own, as reward or as scorers, without what comes before their names."""
    own = task.reward.model.removeprefix("hf:")
    return list(dict.fromkeys([*([own] if own else []), *scorer_models(task)]))


def scorer_models(task: TaskConfig) -> list[str]:
    """The names of reward models that are scorers of the evaluation, or the annotator."""
    named = (task.evaluation.scorer, task.evaluation.second_scorer, task.feedback.annotator)
    return [name.removeprefix(REWARD) for name in named if name.startswith(REWARD)]


def _check_own_reward(name: str, task: TaskConfig) -> dict[str, float]:
    """It gives a text alone and in a batch the same score, is billed, and reads every prompt of the task with an answer."""
    model = reward_classifier.load(name, device())
    report: dict[str, float] = {}
    with _named(name):
        reward_classifier.check_scores(model)
        if name in (task.reward.model.removeprefix("hf:"), task.feedback.annotator.removeprefix(REWARD)):
            # evaluation is not billed
            report["FLOPs"] = model.bill_error()
    _check_bill(repr(name), model.model, report.get("FLOPs", 0.0))
    asked = list(PromptTurns(task).all())
    if name in scorer_models(task):  # the evaluation reads prompts that the policy's lengths cut
        asked += map(turns_of, prompts.load_split(task.prompts, task.evaluation.split))
    longest = max(len(model.read(turns, "")) for turns in asked)
    model.check_length(longest + task.model.new_tokens)
    talks = {tuple(turn.role for turn in turns) for turns in asked if turns[0].role} if model.reader.chat else set()
    hidden = any(unshown(model.reader.tokenizer, [*roles, "assistant"], answer=False) for roles in talks)
    return report | {"longest prompt": longest, HIDDEN: hidden}


def _check_win_rate(task: TaskConfig) -> None:
    """A scorer as the win rate's judge says what is better, and given answers are there for all evaluation prompts."""
    config, evaluation = task.evaluation.win_rate, task.evaluation
    if config.judge.kind == SCORER:
        known = config.judge.model in (evaluation.scorer, evaluation.second_scorer)
        load_scorer_judge(config.judge.model, device(), task.objective.higher_is_better if known else None)
    elif config.on:
        judges.judge_identity(config.judge)  # its template is readable
    if config.on and config.opponent != BASE:
        wanted = {prompt.id for prompt in prompts.load_split(task.prompts, evaluation.split)}
        read_answers(config.opponent, config.columns, wanted)


def writers(task: TaskConfig) -> dict[str, tuple[str, ...]]:
    """The language models that teach, judge answers, or write critiques and revisions, with the roles of the turns that their
    chat templates must show."""
    found: dict[str, tuple[str, ...]] = {task.teacher: ()}
    found |= {config.model: ("user",) for config in (task.judge, task.evaluation.win_rate.judge) if config.kind == "lm"}
    if task.constitution.file and task.constitution.kind == "lm":
        found[task.constitution.model] = ("user", "assistant", "user")
    return {name: roles for name, roles in found.items() if name}


def check_length(name: str, architecture: Any, config: ModelConfig) -> None:
    """Refuse prompts and answers of a task that are longer than a model of this configuration reads. Raises UserError."""
    _refuse_longer(name, loading.longest_text(architecture), config.prompt_tokens + config.new_tokens)


def _refuse_longer(name: str, longest: int | None, asked: int) -> None:
    if longest is not None and asked > longest:
        raise UserError(
            f"the model {name!r} reads at most {longest} tokens, and a prompt with its answer may have {asked}; lower "
            "task.model.prompt_tokens or task.model.new_tokens"
        )


def _check_model(
    name: str, open_ends: bool, dtype: str = "float32", lora: int = 0, trl_loop: bool = False, roles: Sequence[str] = ()
) -> dict[str, float]:
    """A causal language model and its tokenizer, with an adapter if there will be one, and a chat template, if it has one,
    that shows turns of such ``roles``."""
    model, tokenizer = loading.load_model(name, dtype=dtype)
    check_tokenizer(tokenizer, model, open_ends)
    if roles and getattr(tokenizer, "chat_template", None) and unshown(tokenizer, roles):
        raise UserError(f"the chat template of {name!r} does not show what it is asked; mend it or choose another model")
    with _named(name):
        own = LanguageModel(model.to(device()), tokenizer, open_ends)
        report = probe(own, name) | {"FLOPs": bill_error(own.inner, own.shape)}
        if trl_loop:
            with lent(own, own):  # refuses a model that TRL would read otherwise
                pass
        if lora:
            _ = LanguageModel(with_adapter(model, lora), tokenizer, open_ends).shape  # there are rules for its bill
    _check_bill(repr(name), own.inner, report["FLOPs"])
    return report


def _check_sampler(engine: str, task: TaskConfig, lora: int) -> float:
    """An engine gives the policy's tokens the probabilities that the policy gives them, up to the gap in nats a token."""
    config = task.model
    model, tokenizer = loading.load_model(config.name, dtype=config.frozen if lora else config.dtype)
    adapted = with_adapter(model, lora) if lora else model
    policy = LanguageModel(adapted.to(device()), tokenizer, config.eos == "open", config.precision, task.training.rows)
    tried = encode_prompts(tokenizer, prompts.load_split(task.prompts, task.evaluation.split)[:2], config)
    with _named(config.name):
        return check_sampler(make_sampler(engine, policy, config.prompt_tokens + config.new_tokens), tried, config.new_tokens)


def _check_bill(name: str, model: Any, error: float) -> None:
    if not abs(error) <= TOLERANCE:
        raise UserError(
            f"the model {name} ({type(model).__name__}) can't be billed: the formula for its FLOPs is {error:+.1%} from "
            "PyTorch's counter; choose another model"
        )


def _check_reward(name: str, config: ModelConfig, asked: Iterable[list[int]] = ()) -> None:
    """A scalar head on a model reads answers, gives each text a finite number that does not depend on its batch, may have the
    task's adapter, and its passes can be billed. ``asked``: prompts in the policy's tokens, of which it may make more."""
    model, tokenizer = load_reward_model(name, loading.model_path(name))
    check_tokenizer(tokenizer, model, open_ends=False)
    if config.eos == "open":
        closing_id(tokenizer)  # closes the answers that end
    translate = Retokenizer(loading.task_tokenizer(config), tokenizer)
    longest = max([config.prompt_tokens, *(len(translate.prompt(ids)) for ids in asked)])
    _refuse_longer(name, loading.longest_read(model), longest + config.new_tokens)
    with _named(name), torch.no_grad():
        error = bill_error(model.to(device()), shape_of(model, None))
        tokens = torch.arange(8, device=device()).view(2, 4)
        rewards = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    _check_bill(f"{name!r} with a scalar head", model, error)
    if rewards.shape != (2, 1) or not rewards.isfinite().all():
        raise UserError(
            f"the model {name!r} can't be a reward model: a scalar head on it gives {rewards.tolist()} for two rows, not a "
            "finite number each; choose another task.reward.base"
        )
    _check_batch(name, model, int(tokenizer.pad_token_id))
    if config.lora:
        with _named(name):
            shape_of(with_adapter(model, config.lora, "SEQ_CLS"), None)  # there are rules for its bill


@torch.no_grad()
def _check_batch(name: str, model: Any, pad: int) -> None:
    """The reward of a text is the same in a padded batch and alone."""
    words = [token for token in range(3, 40) if token != pad]
    rows = [(words[:n], words[n : n + m]) for n, m in ((3, 2), (9, 3), (5, 6))]
    batches = [rollouts([p for p, _ in part], [a for _, a in part], pad) for part in (rows, *([row] for row in rows))]
    with _named(name):
        together, *each = (head_rewards(model, batch, pad, "float32") for batch in batches)
    alone = torch.cat(each)
    if not reward_classifier.are_same(alone, together, alone.abs().max()):
        raise UserError(
            f"the model {name!r} ({type(model).__name__}) can't be a reward model: with a scalar head it gives three texts "
            f"{together.tolist()} in a padded batch, and {alone.tolist()} alone; choose another task.reward.base"
        )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Context in which whatever a model raises is told in a line that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise machine_failure(error) or UserError(f"the model {name!r} can't be run: {unforeseen(error)}") from error
