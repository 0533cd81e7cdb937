"""What a task resolves to: its data in tokens of its model, splits, losses, leaks and examples; and the yaml of a new one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from isoalign.config.task import PromptsConfig, TaskConfig
from isoalign.core.display import clean, count, grid
from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.data import formats, prompts
from isoalign.data.formats.check import check_file
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.rows import Row
from isoalign.models import loading, reward_classifier
from isoalign.stages.cutting import Cutter, Fit, encode_prompts, fit_of, turns_of
from isoalign.stages.sft import NONE, read_demonstrations

EXAMPLES = 5
NGRAM = 8  # words in a row that count as a leak
YAML = """# {name}: written by isoalign new task; every setting is in conf/task/common/defaults.yaml.
defaults:
  - common/defaults@_here_
  - _self_
name: {name}
seed: 0
budgets: {{tiny: {tiny:.1e}, small: {small:.1e}, large: {large:.1e}}}   # FLOPs of budget=NAME
model: {{name: {model}, lora: {lora}, bf16: false, eos: open, prompt_tokens: {prompt_tokens}, new_tokens: {new_tokens}}}
prompts: {{source: {prompts}, {where}, train: 0, validation: 0, test: 0}}   # 0: all
sft: {{source: {demonstrations}, steps: 50, lr: 1.0e-4, batch_size: 32}}
feedback: {{draws: 4, margin: 0.3, judge_margin: 0.3, noise: 0.05, file: {feedback}}}
reward: {{pairs: 1000, lr: 1.0e-4, batch_size: 16, epochs: 1}}
evaluation:
  {{split: test, draws: 4, seed: 1234, scorer: tox_block, second_scorer: toxic_classifier, curve_prompts: 64, curve_draws: 2}}
training:
  {{betas: [0.9, 0.95], weight_decay: 0.0, warmup: 10, clip: 1.0, micro_batch: 16, checkpoint_seconds: 60, patience: 20,
   idle_seconds: 600, snapshots: [0.25, 0.5, 0.75]}}
"""


def show(task: TaskConfig) -> Iterator[str]:
    """The parts of a task's description, each a paragraph. Raises UserError for what the task cannot use."""
    model, tokenizer = task.model, loading.load_tokenizer(task.model.name)
    ends = "answers may end" if model.eos == "open" else "answers have a fixed length"
    yield (
        f"{task.name}: base {model.name} ({loading.load_config(model.name).model_type}), "
        f"{f'LoRA of rank {model.lora}' if model.lora else 'all weights are trained'}, prompts of up to {model.prompt_tokens} "
        f"and answers of up to {model.new_tokens} tokens, {ends}"
    )
    splits = {split: prompts.load_split(task.prompts, split) for split in prompts.SPLITS}
    fits = {split: fit_of(Cutter(tokenizer, model), map(turns_of, chosen)) for split, chosen in splits.items()}
    yield grid(
        ["prompts", "number", "median tokens", "longest", "cut", "equal once cut", "strata"],
        [[split, *_numbers(fits[split]), _strata(splits[split])] for split in prompts.SPLITS],
        left=(0, 6),
    )
    if skipped := prompts.count_skipped(task.prompts):
        yield f"rows of the prompts that are skipped: {skipped:,}"
    evaluated = [prompt.text for split in ("validation", "test") for prompt in splits[split]]
    yield _demonstrations(task, Cutter(tokenizer, model), evaluated)
    yield _feedback(task, evaluated)
    scorers = f"{task.evaluation.scorer} and {task.evaluation.second_scorer}"
    yield f"reward: {_reward(task)}; scored by {scorers}; judge: {f'{task.judge.kind} {task.judge.model}'.strip()}"
    if task.evaluation.win_rate.on:
        yield f"win rate by {task.evaluation.win_rate.describe(task.evaluation.scorer)}"
    encoded = encode_prompts(tokenizer, splits["test"][:EXAMPLES], model)
    texts = [tokenizer.decode(ids[mask].tolist()) for ids, mask in zip(encoded.tokens, encoded.mask, strict=True)]
    yield "\n".join(["as the model reads them:", *(f"  {clean(text)}" for text in texts)])


def _reward(task: TaskConfig) -> str:
    config = task.reward
    if task.known_reward:
        return f"{task.evaluation.scorer} itself, a known reward"
    if config.model:
        return reward_classifier.about(config.model.removeprefix("hf:"))
    return config.classifier or f"a scalar head on {config.base or 'the SFT base'}, trained on the verdicts"


def _numbers(fit: Fit) -> list[str]:
    return list(map(count, (fit.prompts, fit.median, fit.longest, fit.cut, fit.equal)))


def _strata(chosen: list[prompts.Prompt]) -> str:
    strata = Counter(prompt.stratum for prompt in chosen if prompt.stratum)
    return ", ".join(f"{clean(name)} {number:,}" for name, number in strata.most_common(4))


def _demonstrations(task: TaskConfig, cut: Cutter, evaluated: list[str]) -> str:
    source = task.sft.source
    if not source or source == NONE:
        return f"demonstrations: {'none, the model is its own base' if source else 'openings and continuations of comments'}"
    shown = read_demonstrations(task.sft)
    whole = [cut.tokenizer("".join(turn.content for turn in each.completion))["input_ids"] for each in shown]
    longer = sum(len(ids) > task.model.new_tokens for ids in whole)
    config = task.sft
    leaks = "" if config.opening else _leaks(source, config.format, evaluated, config.columns, config.skip)
    return f"demonstrations: {source}: {len(shown):,}, of which {longer:,} answers are cut{leaks}"


def _feedback(task: TaskConfig, evaluated: list[str]) -> str:
    config = task.feedback
    if not config.file:
        by = f"by {task.evaluation.scorer}, the known reward," if task.known_reward else "by a simulated annotator"
        by += f", {config.annotator}," if config.annotator else ""
        return f"feedback: verdicts {by} on {config.draws} answers of the base to each prompt"
    return f"feedback: {config.file}{_leaks(config.file, config.format, evaluated, config.columns, config.skip)}"


def _leaks(source: str, format: str, evaluated: list[str], columns: dict[str, str] | None = None, skip: str = "") -> str:
    """Problems of a file, and evaluated prompts that it holds."""
    report = check_file(source, format or None, evaluated, NGRAM, columns=columns, skip=skip)
    held = report.leaks.prompts if report.leaks else 0
    leak = f"; {held:,} of {len(evaluated):,} evaluated prompts occur in it" if held else ""
    return leak + "".join(f"; {problem}" for problem in report.problems)


def write_task(
    name: str, folder: Path, model: str, source: str, column: str, demonstrations: str, feedback: str, lora: int
) -> Path:
    """Write the yaml of a task into ``folder``, with lengths and budgets that suit its model and prompts; its path.

    Raises UserError, with nothing written, for a name that is taken or cannot be one, and for prompts that cannot be read.
    """
    if not name.isidentifier() or name != name.lower():
        raise UserError(f"{name!r} can't be the name of a task: use lower-case letters, digits and underscores, as in my_task")
    if (file := folder / f"{name}.yaml").exists():
        raise UserError(f"{file} already exists; remove it, or choose another name")
    tokenizer, weights = loading.load_tokenizer(model), loading.count_parameters(model)
    format = _prompt_format(source, column)
    asked = prompts.read_own(source, PromptsConfig(source=source, column=column, format=format))
    lengths = sorted(len(tokenizer(prompt.text)["input_ids"]) for prompt in asked)
    prompt_tokens = lengths[min(len(lengths) - 1, len(lengths) * 98 // 100)] + 8
    new_tokens = _answer_tokens(tokenizer, demonstrations, feedback)
    # nano's budgets for its size and the tokens of a row
    small = 4.5e12 * weights / 4.2e6 * (prompt_tokens + new_tokens) / 44 / (3 if lora else 1)
    text = YAML.format(
        name=name, model=model, lora=lora, prompts=source, where=f"format: {format}" if format else f"column: {column}",
        demonstrations=demonstrations or '""', feedback=feedback or '""', prompt_tokens=prompt_tokens, new_tokens=new_tokens,
        tiny=small / 2, small=small, large=2 * small,
    )  # fmt: skip
    save(file, text)
    return file


def _prompt_format(source: str, column: str) -> str:
    """The format by which the prompts of feedback or demonstrations are read; empty for a file with a column of prompts."""
    first = next((row for row in iterate_rows(source) if isinstance(row, Row)), None)
    if first is None or first.has(column.partition(".")[0]):
        return ""
    try:
        return formats.open_file(source).format
    except UserError:  # reading the column says what is wrong
        return ""


def _answer_tokens(tokenizer: object, demonstrations: str, feedback: str) -> int:
    """Tokens that nineteen of twenty known answers have at most."""
    answers: list[str] = []
    if demonstrations not in ("", NONE):
        shown = formats.read_file(demonstrations).demonstrations
        answers += ["".join(turn.content for turn in each.completion) for each in shown]
    if feedback:
        data = formats.read_file(feedback)
        answers += ["".join(turn.content for turn in each.chosen) for each in data.comparisons]
        answers += ["".join(turn.content for turn in each.completion) for each in data.unpaired]
    lengths = sorted(len(tokenizer(answer)["input_ids"]) for answer in answers)  # type: ignore[operator]
    return lengths[len(lengths) * 95 // 100] + 1 if lengths else 64
