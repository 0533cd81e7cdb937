"""What a task resolves to: its data in tokens of its model, splits, losses, leaks and examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from isoalign.config.task import TaskConfig
from isoalign.core.display import clean, count, grid
from isoalign.core.errors import UserError
from isoalign.data import prompts
from isoalign.data.formats import Turns
from isoalign.data.formats.check import check_file
from isoalign.models import loading, reward_classifier
from isoalign.stages.cutting import Cutter, Fit, HeldOut, check_fit, encode_prompts, fit_of, turns_of
from isoalign.stages.from_file import alike_once_cut, told_alike, trained_prompts
from isoalign.stages.overlap import NGRAM, count_overlap, told, told_forms, unlike_forms
from isoalign.stages.sft import NONE, read_demonstrations

EXAMPLES = 5


def show(task: TaskConfig) -> Iterator[str]:
    """The parts of a task's description, each a paragraph. Raises UserError for what the task cannot use."""
    model, tokenizer = task.model, loading.task_tokenizer(task.model)
    ends = "answers may end" if model.eos == "open" else "answers have a fixed length"
    yield (
        f"{task.name}: base {model.name} ({loading.load_config(model.name).model_type}), "
        f"{f'LoRA of rank {model.lora}' if model.lora else 'all weights are trained'}, prompts of up to {model.prompt_tokens} "
        f"and answers of up to {model.new_tokens} tokens, {ends}"
    )
    splits = {split: prompts.load_split(task.prompts, split) for split in prompts.SPLITS}
    asked = {split: list(map(turns_of, chosen)) for split, chosen in splits.items()}
    fits = {
        split: fit_of(Cutter(tokenizer, model), turns, () if split == "train" else asked["train"])
        for split, turns in asked.items()
    }
    yield grid(
        ["prompts", "number", "median tokens", "longest", "cut", "equal once cut", "as in training", "strata"],
        [[split, *_numbers(fits[split]), _strata(splits[split])] for split in prompts.SPLITS],
        left=(0, 7),
    )
    for split, fit in fits.items():
        try:
            check_fit(fit, f"the {split} prompts", model)
        except UserError as error:
            yield f"a run refuses this: {error}"
    if skipped := prompts.count_skipped(task.prompts):
        yield f"rows of the prompts that are skipped: {skipped:,}"
    cut, evaluated = Cutter(tokenizer, model), [turns_of(each) for split in ("validation", "test") for each in splits[split]]
    yield _demonstrations(task, cut, evaluated)
    yield _feedback(task, cut, evaluated)
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
    return list(map(count, (fit.prompts, fit.median, fit.longest, fit.cut, fit.equal, fit.trained)))


def _strata(chosen: list[prompts.Prompt]) -> str:
    strata = Counter(prompt.stratum for prompt in chosen if prompt.stratum)
    return ", ".join(f"{clean(name)} {number:,}" for name, number in strata.most_common(4))


def _demonstrations(task: TaskConfig, cut: Cutter, evaluated: list[Turns]) -> str:
    config, source = task.sft, task.sft.source
    if not source or source == NONE:
        return f"demonstrations: {'none, the model is its own base' if source else 'openings and continuations of comments'}"
    shown, held_out = read_demonstrations(config), HeldOut(cut, evaluated)
    kept = [each for each in shown if each.prompt not in held_out]
    fitting = [each for each in kept if cut.prompt(each.prompt) is not None]
    longer = sum(cut.is_cut(each.completion) for each in fitting)
    counts = {
        "left out as their prompt is evaluated": len(shown) - len(kept),
        "left out as their last turn is too long": len(kept) - len(fitting), "answers are cut": longer,
    }  # fmt: skip
    said = "".join(f"; {number:,} {what}" for what, number in counts.items() if number)
    leaks = "" if config.opening else _leaks(source, config.format, evaluated, config.columns, config.skip)
    leaks += _compared(cut, evaluated, [each.prompt for each in fitting], "demonstrations")
    none = "" if fitting else "; a run refuses this: no demonstration is left"
    return f"demonstrations: {source}: {len(fitting):,} of {len(shown):,} rows{said}{leaks}{none}"


def _feedback(task: TaskConfig, cut: Cutter, evaluated: list[Turns]) -> str:
    config = task.feedback
    if not config.file:
        by = f"by {task.evaluation.scorer}, the known reward," if task.known_reward else "by a simulated annotator"
        by += f", {config.annotator}," if config.annotator else ""
        return f"feedback: verdicts {by} on {config.draws} answers of the base to each prompt"
    leaks = _leaks(config.file, config.format, evaluated, config.columns, config.skip)
    try:
        trained, alike = trained_prompts(config, cut, evaluated), told_alike(*alike_once_cut(config, cut), cut.model)
    except UserError:
        trained, alike = [], ""  # why nothing can be trained on is among the leaks
    same = f"; {alike}" if alike else ""
    return f"feedback: {config.file}{leaks}{same}{_compared(cut, evaluated, trained, 'verdicts')}"


def _compared(cut: Cutter, evaluated: list[Turns], trained: list[Turns], what: str) -> str:
    """Evaluated prompts that stand in prompts that train, and forms in which none is evaluated."""
    still = told(count_overlap(evaluated, trained), len(evaluated), what)
    forms = told_forms(unlike_forms(cut, evaluated, trained), what)
    return "".join(f"; {line}" for line in [still, *forms] if line)


def _leaks(source: str, format: str, evaluated: list[Turns], columns: dict[str, str] | None = None, skip: str = "") -> str:
    """Problems of a file, and evaluated prompts that it holds."""
    texts = list(map(prompts.question, evaluated))
    report = check_file(source, format or None, texts, NGRAM, columns=columns, skip=skip)
    held = report.leaks.prompts if report.leaks else 0
    leak = f"; {held:,} of {len(evaluated):,} evaluated prompts occur in it" if held else ""
    return leak + "".join(f"; {problem}" for problem in report.problems)
