"""The tasks for GPUs: each yaml and its page, and each end to end on a local copy of what it names, the hub being offline.

The copies lie in the layout of the hub's cache: data sets with the columns, files and splits of the real ones, models of the
same architecture and classifiers with the same labels. Rows are made up and models tiny, so no figure means anything.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from architectures import CONFIGS, SIZES, build
from isoalign.config.fill import build_config
from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.places import PACKAGE
from isoalign.core.store import Store
from isoalign.data import hub as hub_module
from isoalign.models.answer_scorers import AnswerScorer
from isoalign.models.scorers import load_scorer
from isoalign.runs.overrides import task_named
from isoalign.stages import models
from isoalign.stages.shared import SharedStages
from workbench import COMMAND, Terminal, complaint, finished, write_model

TASKS = ("rtp_qwen3", "rtp_gpt2", "imdb", "tldr", "gsm8k", "ultrafeedback", "hh", "tulu3")
PAGE = (PACKAGE.parents[1] / "docs" / "gpu_tasks.md").read_text(encoding="utf-8")
HUB_NAME = re.compile(r"(?:(?:hf|reward):)?([\w.-]+/[\w.-]+)(?::[\w-]+)?(?:@([\w./-]+))?(?:#\w+)?")


def words_of(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [word for each in value.values() for word in words_of(each)]
    return [value] if isinstance(value, str) else []


def named(task: str) -> dict[str, str]:
    """What a task names on the hub, with the revisions."""
    found = [HUB_NAME.fullmatch(word) for word in words_of(asdict(task_named(task)))]
    return {match[1]: match[2] or "" for match in found if match}


NAMED = {name: revision for task in TASKS for name, revision in named(task).items()}


# -- the yamls and the page ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_a_section_that_tells_all_that_it_names(task: str) -> None:
    section = PAGE.split(f"\n## {task}\n", 1)[1].split("\n## ")[0]
    assert [name for name in named(task) if name not in section] == []
    assert "_target_" not in (PACKAGE / "conf" / "task" / f"{task}.yaml").read_text()
    budgets = task_named(task).budgets
    assert list(budgets) == ["tiny", "small", "large"]
    assert sorted(budgets.values()) == list(budgets.values())


def test_revisions_are_whole_commits_and_the_page_lists_them_and_what_has_none() -> None:
    pinned, loose = PAGE.split("\n## Pinned and not pinned\n", 1)[1].split("\n## ")[0].split("\nNot pinned", 1)
    for name, revision in NAMED.items():
        commit = re.fullmatch("[0-9a-f]{40}", revision)
        assert commit or revision in ("", "refs/pr/1"), name
        assert f"`{name}`" in (pinned if commit else loose)
        assert revision in (pinned if commit else loose)


# -- an annotator of one's own ---------------------------------------------------------------------------------------------

OWN: dict[str, Any] = {
    "name": "t", "model": {"name": "nano"}, "sft": {"steps": 1, "lr": 0.1}, "reward": {"pairs": 1, "lr": 0.1},
    "feedback": {"annotator": "vader"}, "objective": {"name": "kindness", "higher_is_better": False},
    "evaluation": {"scorer": "rule:asks", "second_scorer": "rule:mark"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"known_reward": True}, "task.known_reward takes verdicts from task.evaluation.scorer"),
        ({"feedback": {"annotator": "vader", "file": "a.jsonl"}}, "task.feedback.file replaces simulated annotators"),
        ({"feedback": {"annotator": "rule:mark"}}, "rule:mark is an evaluation scorer"),
        ({"feedback": {"annotator": "win_rate"}}, "must be a scorer of single answers"),
        ({"judge": {"kind": "scorer", "model": "vader"}}, "task.judge.model vader is the annotator"),
        ({"reward": {"pairs": 1, "lr": 0.1, "classifier": "annotator"}}, "task.reward.classifier=annotator is the embedded"),
    ],
)
def test_settings_that_contradict_an_annotator_of_ones_own_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        build_config(TaskConfig, OWN | settings, "task")
    assert "\n" not in str(raised.value)
    build_config(TaskConfig, OWN, "task")


def test_the_annotators_classifier_is_no_reward_of_another_objective_whoever_gave_the_verdicts(tmp_path: Path) -> None:
    settings = {"feedback": {"file": "hf:/data/people"}, "reward": {"pairs": 1, "lr": 0.1, "classifier": "annotator"}}
    with pytest.raises(
        UserError, match=r"task.reward.classifier=annotator knows toxicity alone, and the objective is kindness"
    ):
        shared(tmp_path, **settings).check_reward_fits("annotator")
    toxic = {"objective": {}, "evaluation": {"scorer": "tox_block", "second_scorer": "toxic_classifier"}}
    shared(tmp_path, **settings, **toxic).check_reward_fits("annotator")


@pytest.mark.parametrize(("hub_offline", "isoalign_offline", "offline"), [("1", "", 1), ("0", "", 0), ("0", "1", 1)])
def test_the_hub_is_asked_where_neither_variable_forbids_it(
    hub_offline: str, isoalign_offline: str, offline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", hub_offline)
    monkeypatch.setenv("ISOALIGN_OFFLINE", isoalign_offline)
    assert hub_module.offline() == offline


def shared(folder: Path, **settings: Any) -> SharedStages:
    return SharedStages(build_config(TaskConfig, OWN | settings, "task"), Store(folder))


def test_its_direction_is_its_own_or_else_the_objectives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opinion = shared(tmp_path).opinion("annotator")  # of VADER more is better, whatever the objective says
    assert opinion.losses(["q"] * 2, ["lovely", "awful"])[0] < opinion.losses(["q"] * 2, ["lovely", "awful"])[1]
    silent = AnswerScorer("label", lambda _, answers: [float(len(answer)) for answer in answers], None, (0.0, None))
    monkeypatch.setattr(models, "load_answer_scorer", lambda name, device: silent)
    for higher, losses in ((False, [2.0]), (True, [-2.0])):
        objective = {"name": "kindness", "higher_is_better": higher}
        assert shared(tmp_path, objective=objective).opinion("annotator").losses(["q"], ["ab"]) == losses


def test_the_keys_of_pairs_follow_the_annotator_its_label_and_its_weights(hub: Path, tmp_path: Path) -> None:
    def key(annotator: str) -> str:
        return shared(tmp_path, feedback={"annotator": annotator}).pairs("annotator").key

    [folder] = (hub / "models--unitary--unbiased-toxic-roberta" / "snapshots").iterdir()
    mine = shutil.copytree(folder, tmp_path / "mine")
    before = [key(name) for name in ("", "vader", f"hf:{mine}#toxicity", f"hf:{mine}#insult")]
    (mine / "config.json").write_text((mine / "config.json").read_text() + " ")
    hub_module.model_identity.cache_clear()
    assert len({*before, key(f"hf:{mine}#toxicity")}) == 5


def test_two_labels_of_a_known_reward_have_keys_of_their_own(hub: Path, tmp_path: Path) -> None:
    [folder] = (hub / "models--unitary--unbiased-toxic-roberta" / "snapshots").iterdir()
    made = []
    for label in ("insult", "threat"):
        scorers = {"scorer": f"hf:{folder}#{label}", "second_scorer": "vader"}
        made.append(shared(tmp_path, known_reward=True, feedback={}, evaluation=scorers).pairs("annotator").key)
    assert made[0] != made[1]


def test_an_evaluation_scorer_by_another_label_or_name_is_refused_by_its_weights(hub: Path, tmp_path: Path) -> None:
    [folder] = (hub / "models--unitary--unbiased-toxic-roberta" / "snapshots").iterdir()
    scorers = {"scorer": f"hf:{folder}#insult", "second_scorer": "vader"}
    both = shared(tmp_path, evaluation=scorers, feedback={"annotator": f"hf:{folder}#toxicity"})
    with pytest.raises(UserError, match=r"task.feedback.annotator hf:.*#toxicity is an evaluation scorer; choose another ann"):
        both.pairs("annotator")
    judged = shared(tmp_path, evaluation=scorers, judge={"kind": "scorer", "model": f"hf:{folder}#toxicity"}, feedback={})
    with pytest.raises(UserError, match=r"task.judge.model hf:.*#toxicity is an evaluation scorer; choose another model"):
        judged.pairs("judge")


def test_one_model_by_two_names_is_no_second_opinion_but_another_label_of_it_is(hub: Path, tmp_path: Path) -> None:
    [folder] = (hub / "models--unitary--unbiased-toxic-roberta" / "snapshots").iterdir()
    first, second = (f"hf:{shutil.copytree(folder, tmp_path / name)}" for name in ("one", "two"))
    twice = shared(tmp_path, feedback={}, evaluation={"scorer": f"{first}#insult", "second_scorer": f"{second}#insult"})
    with pytest.raises(UserError, match=rf"second_scorer {second}#insult is the model of task.evaluation.scorer {first}#"):
        twice.preflight(0)
    shared(tmp_path, feedback={}, evaluation={"scorer": f"{first}#insult", "second_scorer": f"{second}#threat"}).preflight(0)


def test_labels_of_a_classifier_that_applies_a_sigmoid_are_probabilities_each(hub: Path) -> None:
    [folder] = (hub / "models--unitary--unbiased-toxic-roberta" / "snapshots").iterdir()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = model(**tokenizer("you are kind", return_tensors="pt")).logits[0].sigmoid()
    found = [load_scorer(f"hf:{folder}#{label}")(["you are kind"])[0] for label in LABELS["unitary/unbiased-toxic-roberta"]]
    assert found == pytest.approx(wanted.tolist(), abs=1e-5)


# -- a local copy of all that the tasks name -------------------------------------------------------------------------------

CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LANGUAGE_MODELS = {
    "Qwen/Qwen3-0.6B-Base": ("qwen3", True), "Qwen/Qwen3-1.7B-Base": ("qwen3", True),
    "openai-community/gpt2-large": ("gpt2", False), "EleutherAI/pythia-1b-deduped": ("gpt_neox", False),
    "allenai/OLMo-2-0425-1B-SFT": ("olmo2", True), "allenai/Llama-3.1-Tulu-3-8B-SFT": ("llama", True),
}  # fmt: skip
REWARD_MODELS = {
    "Skywork/Skywork-Reward-V2-Qwen3-8B": ("qwen3", True), "Skywork/Skywork-Reward-V2-Qwen3-0.6B": ("qwen3", True),
    "Skywork/Skywork-Reward-V2-Llama-3.2-1B": ("llama", True), "allenai/Llama-3.1-Tulu-3-8B-RM": ("llama", True),
    "trl-lib/pythia-1b-deduped-tldr-rm": ("gpt_neox", False),
}  # fmt: skip
LABELS = {
    "s-nlp/roberta_toxicity_classifier": ["neutral", "toxic"],
    "facebook/roberta-hate-speech-dynabench-r4-target": ["nothate", "hate"],
    "siebert/sentiment-roberta-large-english": ["NEGATIVE", "POSITIVE"],
    "unitary/unbiased-toxic-roberta": ["toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat"],
}
LONG = {"max_position_embeddings": 1024, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}


def commit_of(name: str) -> str:
    """The commit that a task pins, or some commit."""
    return NAMED[name] if re.fullmatch("[0-9a-f]{40}", NAMED[name]) else hashlib.sha1(name.encode()).hexdigest()


def snapshot(hub: Path, kind: str, name: str) -> Path:
    """The folder of a repository's commit in the cache of the hub, as a download leaves it."""
    root, commit = hub / f"{kind}--{name.replace('/', '--')}", commit_of(name)
    ref = root / "refs" / ("main" if NAMED[name] in ("", commit) else NAMED[name])
    ref.parent.mkdir(parents=True)
    ref.write_text(commit)
    (root / "snapshots" / commit).mkdir(parents=True)
    return root / "snapshots" / commit


def write_classifier(folder: Path, kind: str, labels: list[str], **more: Any) -> None:
    sizes = SIZES | CONFIGS.get(kind, {}) | LONG | {"id2label": dict(enumerate(labels)), "num_labels": len(labels)} | more
    config = AutoConfig.for_model(kind, **sizes)
    torch.manual_seed(int(folder.name[:8], 16))
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 1.0 if name.startswith(("score", "classifier")) else 0.3)
    model.save_pretrained(folder)


def write_models(hub: Path, words: Path) -> None:
    for name in NAMED:
        chat = (LANGUAGE_MODELS | REWARD_MODELS).get(name, ("", False))[1]
        if name not in (*LANGUAGE_MODELS, *REWARD_MODELS, *LABELS):
            continue
        folder, tokenizer = snapshot(hub, "models", name), AutoTokenizer.from_pretrained(words)
        tokenizer.chat_template = CHAT if chat else None
        tokenizer.save_pretrained(folder)
        size = {"vocab_size": len(tokenizer)}
        if name in LANGUAGE_MODELS:
            positions = {"n_positions": 1024} if LANGUAGE_MODELS[name][0] == "gpt2" else {}
            build(LANGUAGE_MODELS[name][0], **LONG, **size, **positions).save_pretrained(folder)
        elif name in REWARD_MODELS:
            write_classifier(folder, REWARD_MODELS[name][0], ["LABEL_0"], **size)
        else:
            several = {"function_to_apply": "sigmoid"} if len(LABELS[name]) > 2 else {}
            write_classifier(folder, "roberta", LABELS[name], **size, **several)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def parquet(folder: Path, rows: dict[str, list[dict[str, Any]]], part: str = "data") -> None:
    (folder / part).mkdir()
    for split, some in rows.items():
        pq.write_table(pa.Table.from_pylist(some), folder / part / f"{split}-00000-of-00001.parquet")


def card(folder: Path, configs: dict[str, tuple[str, list[str]]]) -> None:
    """The head of a data set's page: its configurations, their folders and splits."""
    lines = ["---", "configs:"]
    for name, (part, splits) in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [line for split in splits for line in (f"  - split: {split}", f"    path: {part}/{split}-*")]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def write_data(hub: Path) -> None:
    count, things = 120, [f"thing {i}" for i in range(400)]
    good, bad = [f"keep {thing} dry" for thing in things], [f"fool, {thing}!" for thing in things]
    asks = [f"how is {thing}?" for thing in things]

    folder = snapshot(hub, "datasets", "allenai/real-toxicity-prompts")
    tox = {"profanity": 0.1, "toxicity": 0.5, "threat": None}
    rows: list[dict[str, Any]] = [
        {"filename": f"{i}.txt", "begin": 0, "end": 9, "challenging": i % 5 == 0, "prompt": {"text": asks[i]} | tox,
         "continuation": {"text": bad[i]} | tox}
        for i in range(count)
    ]  # fmt: skip
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    folder = snapshot(hub, "datasets", "stanfordnlp/imdb")
    reviews = [
        {"text": f"film {i} is one of those films that you see twice, {good[i]}<br />", "label": i % 2} for i in range(300)
    ]
    splits = {"train": reviews[:150], "test": reviews[150:250], "unsupervised": [row | {"label": -1} for row in reviews[250:]]}
    parquet(folder, splits, "plain_text")
    card(folder, {"plain_text": ("plain_text", list(splits))})

    folder = snapshot(hub, "datasets", "openai/gsm8k")
    right = [i * i // 3 % 3 for i in range(240)]  # which a tiny model finds in one of three answers
    sums = [{"question": asks[i], "answer": f"<<{n}={n}>>\n#### {n}"} for i, n in enumerate(right)]
    for part in ("main", "socratic"):
        parquet(folder, {"train": sums[:160], "test": sums[160:]}, part)
    card(folder, {part: (part, ["train", "test"]) for part in ("main", "socratic")})

    folder = snapshot(hub, "datasets", "trl-lib/tldr")
    posts = [f"SUBREDDIT: r/a\n\nTITLE: t\n\nPOST: {ask}\n\nTL;DR:" for ask in asks]
    told = [{"prompt": post, "completion": f" {text}"} for post, text in zip(posts, good, strict=True)]
    parquet(folder, {"train": told[:100], "validation": told[100:120], "test": told[120:150]})
    folder = snapshot(hub, "datasets", "trl-lib/tldr-preference")
    pairs = [{"prompt": posts[i], "chosen": f" {good[i]}", "rejected": f" {bad[i]}"} for i in range(200, 400)]
    parquet(folder, {"train": pairs[:150], "validation": pairs[150:]})

    folder = snapshot(hub, "datasets", "HuggingFaceH4/ultrafeedback_binarized")
    both = [{"chosen": [user(asks[i]), said(good[i])], "rejected": [user(asks[i]), said(bad[i])]} for i in range(400)]
    rows = [
        {"prompt": asks[i], "prompt_id": str(i), **both[i], "messages": both[i]["chosen"], "score_chosen": 8.0,
         "score_rejected": 5.0}
        for i in range(300)
    ]  # fmt: skip
    splits = {f"{split}_{kind}": some for kind in ("prefs", "sft", "gen")
              for split, some in (("train", rows[:200]), ("test", rows[200:]))}  # fmt: skip
    parquet(folder, splits)
    card(folder, {"default": ("data", list(splits))})

    folder = snapshot(hub, "datasets", "allenai/llama-3.1-tulu-3-8b-preference-mixture")
    parquet(folder, {"train": [{"id": str(i), "source": "made up", "prompt": asks[i], **both[i]} for i in range(200)]})

    folder = snapshot(hub, "datasets", "Anthropic/hh-rlhf")
    for part in ("helpful-base", "harmless-base"):
        (folder / part).mkdir()
        for split, few in (("train", range(150)), ("test", range(150, 250))):
            texts = [{side: f"\n\nHuman: {part} {asks[i]}\n\nAssistant: {text[i]}" for side, text in
                      (("chosen", good), ("rejected", bad))} for i in few]  # fmt: skip
            empty = texts[0] | {
                "rejected": texts[0]["rejected"].partition("Assistant:")[0] + "Assistant: "
            }  # as the real one has
            with gzip.open(folder / part / f"{split}.jsonl.gz", "wt") as file:
                file.write("".join(json.dumps(row) + "\n" for row in [*texts, empty]))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the hub with all that the tasks name, and nothing else."""
    hub = tmp_path_factory.mktemp("home") / "hub"
    write_models(hub, write_model(tmp_path_factory.mktemp("words")))
    write_data(hub)
    assert {folder.name.partition("--")[2].replace("--", "/") for folder in hub.iterdir()} == set(NAMED)
    return hub


FEW = [
    "task.model.prompt_tokens=96", "task.model.new_tokens=12", "task.model.lora=2", "task.prompts.train=24",
    "task.prompts.validation=8", "task.prompts.test=8", "task.sft.steps=2", "task.sft.batch_size=8",
    "task.feedback.margin=0.0", "task.reward.pairs=8", "task.reward.batch_size=4", "task.evaluation.draws=2",
    "task.evaluation.curve_prompts=4", "task.evaluation.curve_draws=1", "task.training.micro_batch=8",
    "task.training.snapshots=[0.5]", "task.training.warmup=1",
]  # fmt: skip
MORE = {  # a tiny model must learn to give an answer that is right now and then
    "gsm8k": ["task.sft.steps=60", "task.sft.lr=1e-2", "task.model.lora=8", "task.model.new_tokens=20"],
}
METHODS = {
    "dpo": ["algorithm=dpo", "algorithm.batch_size=4"],
    "ppo": ["algorithm=ppo", "algorithm.rollouts=8", "algorithm.minibatch=8"],
}


@pytest.fixture
def offline(terminal: Terminal, hub: Path) -> Terminal:
    """A terminal whose only hub is the local copy."""
    home = {"HF_HOME": str(hub.parent), "HF_HUB_CACHE": str(hub), "HF_DATASETS_CACHE": str(hub.parent / "datasets")}
    return replace(terminal, env=terminal.env | home | {"HF_HUB_OFFLINE": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_shown_and_a_run_on_it_ends_in_a_card(task: str, offline: Terminal) -> None:
    """DPO and PPO on the first; then PPO, which needs pairs and a reward model, or DPO where the reward is known."""
    few = FEW + MORE.get(task, [])
    if task == "gsm8k" and not importlib.util.find_spec("math_verify"):
        few = [*few, "task.evaluation.scorer=rule:number", "task.evaluation.second_scorer=rule:exact"]
    shown = offline([COMMAND, "task", "show", task, *(word for word in few if word.startswith("task.prompts"))])
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"{task}: base {task_named(task).model.name}")
    places = [f"store={offline.store}", f"results={offline.home / 'results'}", "threads=1", "tracking=off"]
    needed = list(METHODS) if task == TASKS[0] else ["dpo" if task_named(task).known_reward else "ppo"]
    methods = {name: METHODS[name] for name in needed}
    for method, words in methods.items():
        done = offline([COMMAND, "run", f"task={task}", *words, *few, *places, "budget.flops=1e15", "budget.steps=2"])
        assert done.returncode == 0, done.stderr
        made = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
        assert made["algorithm"] == method
        assert made["training"]["steps"] == 2
        assert task_named(task).objective.gain in made["metrics"]
        if task.startswith("rtp"):
            assert made["notes"]["annotator"].startswith("hf:unitary/unbiased-toxic-roberta@")
            assert any(item["role"] == "judge" and item["flops"] > 0 for item in made["spent"]["items"])
            verified = offline([COMMAND, "verify", done.stdout.splitlines()[-1], "--store", str(offline.store)])
            assert verified.returncode == 0, verified.stdout


@pytest.mark.slow
def test_without_a_download_a_task_is_one_line_that_says_how_to_get_it(terminal: Terminal, tmp_path: Path) -> None:
    empty = replace(terminal, env=terminal.env | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")})
    line = complaint(empty([COMMAND, "run", "task=rtp_qwen3", f"store={empty.store}"]))
    assert "HF_HUB_OFFLINE=0" in line
    assert finished(empty.store) == {}
