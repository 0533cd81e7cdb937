"""What a task names: models, and files and data sets with prompts, texts and verdicts. Whether they are at hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from isoalign.config.evaluation import BASE, scorer_source
from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.lazy import datasets, huggingface_hub
from isoalign.core.places import CONF
from isoalign.data import hub
from isoalign.data.formats.hub import PREFIX, Address
from isoalign.tools.doctor.finding import NOTE, OK, PROBLEM, Finding

EMBEDDED = ("nano", "smollm2")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
Place = Callable[[str], Path | None]  # of a model's file; None if it is not there


def look(task: TaskConfig) -> Iterator[Finding]:
    """Every model, file and data set that the task's settings name and that is not embedded; those of the judges last."""
    for name, setting, model in _models(task):
        yield _model(name, setting, model)
    for name, setting, source in _sources(task):
        yield _data_set(name, setting, source) if source.startswith(PREFIX) else _file(name, setting, source)


def _models(task: TaskConfig) -> Iterator[tuple[str, str, str]]:
    """What each is, its setting, and its folder or name."""
    evaluation, feedback, reward, judges = task.evaluation, task.feedback, task.reward, []
    contest = evaluation.win_rate.judge
    for name, key, judge in ("judge's model", "judge", task.judge), ("win rate's judge", "evaluation.win_rate.judge", contest):
        judges += [(name, f"{key}.model", judge.model)] if judge.kind == "lm" else []
        judges += [(name, f"{key}.model", scorer_source(judge.model))] if judge.kind == "scorer" else []
    if task.constitution.file and task.constitution.kind == "lm":
        judges += [("critic", "constitution.model", task.constitution.model)]
    named = [
        ("model", "model.name", task.model.name),
        ("teacher", "teacher", task.teacher),
        ("annotator", "feedback.annotator", scorer_source(feedback.annotator)),
        ("reward model", "reward.model", reward.model.removeprefix(PREFIX)),
        ("reward model", "reward.classifier", scorer_source(reward.classifier)),
        ("base of the reward model", "reward.base", reward.base),
        ("scorer", "evaluation.scorer", scorer_source(evaluation.scorer)),
        ("second scorer", "evaluation.second_scorer", scorer_source(evaluation.second_scorer)),
        *judges,
    ]
    yield from ((name, f"task.{key}", model) for name, key, model in named if model and model not in EMBEDDED)


def _model(name: str, setting: str, source: str) -> Finding:
    """A model in a folder, or of the hub: whether all of it is at hand."""
    if Path(source).is_dir():
        if absent := _lacking(lambda file: path if (path := Path(source) / file).is_file() else None):
            remedy = f"give {setting} a folder as save_pretrained writes it"
            return Finding(PROBLEM, "data", name, f"{source} lacks {' and '.join(absent)}", remedy, fatal=True)
        return Finding(OK, "data", name, f"{source} is a folder with all that a model needs")
    repository, _, revision = source.partition("@")
    absent = _lacking(lambda file: _cached(repository, file, revision or None))
    if not absent:
        return Finding(OK, "data", name, f"{source} is in the hub's cache")
    known = any(_cached(repository, file, revision or None) for file in ("config.json", WEIGHTS, INDEX, *TOKENIZER))
    lacking = f"the hub's cache lacks {' and '.join(absent)} of {source}"
    return _not_cached(
        name, lacking if known else f"{source} is no folder, and not in the hub's cache", f"give {setting} a folder"
    )


def _not_cached(name: str, said: str, otherwise: str) -> Finding:
    """What the first run downloads, if it may."""
    if not hub.offline():
        return Finding(NOTE, "data", name, said, "the first run downloads it")
    return Finding(PROBLEM, "data", name, said, f"set HF_HUB_OFFLINE=0 once to download it, or {otherwise}", fatal=True)


def _lacking(place: Place) -> list[str]:
    """What of a model is not there."""
    absent = [] if place("config.json") else ["config.json"]
    if not place(WEIGHTS):
        absent += _lacking_shards(place(INDEX), place)
    return absent + ([] if any(map(place, TOKENIZER)) else ["a tokenizer"])


def _lacking_shards(index: Path | None, place: Place) -> list[str]:
    """The weights that an index names and that are not there, as of a download that was interrupted."""
    if index is None:
        return ["weights in safetensors"]
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return [f"a readable {INDEX}"]
    absent = sum(place(shard) is None for shard in shards)
    return [f"{absent} of the {len(shards)} files of weights that {INDEX} names"] if absent else []


def _cached(source: str, file: str, revision: str | None) -> Path | None:
    """A file of a model in the hub's cache."""
    cache = huggingface_hub.constants.HF_HUB_CACHE
    try:
        found = huggingface_hub.try_to_load_from_cache(source, file, cache, revision)
    except huggingface_hub.errors.HFValidationError:  # no name that the hub could have
        return None
    return Path(found) if isinstance(found, str) else None


def _sources(task: TaskConfig) -> Iterator[tuple[str, str, str]]:
    """What each is, its setting, and the file or data set."""
    prompts, opponent, principles = task.prompts, task.evaluation.win_rate.opponent, task.constitution.file
    shipped = (CONF / "constitution" / f"{principles}.yaml").is_file()
    named = [
        ("prompts", "prompts.source", prompts.source),
        ("validation prompts", "prompts.validation_source", prompts.validation_source),
        ("test prompts", "prompts.test_source", prompts.test_source),
        ("demonstrations", "sft.source", task.sft.source if task.sft.source != "none" else ""),
        ("verdicts", "feedback.file", task.feedback.file),
        ("chat template", "model.template", task.model.template_file),
        ("principles", "constitution.file", "" if shipped else principles),
        ("opponent", "evaluation.win_rate.opponent", opponent if task.evaluation.win_rate.on and opponent != BASE else ""),
    ]
    yield from ((name, f"task.{key}", source) for name, key, source in named if source)


def _file(name: str, setting: str, source: str) -> Finding:
    if Path(source).exists():
        return Finding(OK, "data", name, f"{source} is there")
    return Finding(PROBLEM, "data", name, f"there is no {source}", f"give {setting} a file that is there", fatal=True)


def _data_set(name: str, setting: str, source: str) -> Finding:
    """A data set of the hub: whether its cache, or that of `datasets`, has any of it."""
    try:
        address = Address.parse(source)
    except UserError as error:
        return Finding(PROBLEM, "data", name, str(error), f"mend {setting}", fatal=True)
    caches = (
        Path(huggingface_hub.constants.HF_HUB_CACHE) / f"datasets--{address.name.replace('/', '--')}",
        Path(datasets.config.HF_DATASETS_CACHE) / address.name.replace("/", "___"),
    )
    if Path(address.name).exists() or any(cache.exists() for cache in caches):
        return Finding(OK, "data", name, f"{source} is there")
    return _not_cached(name, f"{source} is not in the hub's cache", f"give {setting} a file")
