"""Prompts and demonstrations of one's own: read, split, cut and counted, in plain text and as conversations."""

import copy
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from isoalign.config.fill import build_config
from isoalign.config.task import FeedbackConfig, ModelConfig, PromptsConfig, RewardConfig, SFTConfig, TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.places import CONF
from isoalign.core.store import Store
from isoalign.data import prompts
from isoalign.data.formats import Turn
from isoalign.data.formats.check import check_file
from isoalign.evaluation import card as cards
from isoalign.models import loading
from isoalign.models.answer_scorers import AnswerScorer
from isoalign.stages import from_file, overlap, sft
from isoalign.stages.conversations import PromptTurns
from isoalign.stages.cutting import (
    EARLIER,
    LAST,
    SYSTEM,
    Cutter,
    HeldOut,
    check_fit,
    encode_prompts,
    fit_of,
    turns_of,
)  # fmt: skip
from isoalign.stages.graph import StageGraph
from isoalign.tools import new_task, tasks
from isoalign.tools.new_task import NewTask
from workbench import Terminal, complaint, finished, stages

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = ["kind", "page", "lovely", "good", "work", "right", "stupid", "moron"]


def plain(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{WORDS[i % 8]} number {i} is", "kind": WORDS[i % 2], "completion": f" {WORDS[i % 7]} and {i}"}
        for i in range(count)
    ]


def write(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def config(source: Path, **more: Any) -> PromptsConfig:
    return PromptsConfig(**{"train": 0, "validation": 0, "test": 0, "source": str(source), **more})


def test_each_prompt_is_in_one_split_by_its_hash_with_its_stratum_and_file(tmp_path: Path) -> None:
    rows = plain(100)
    chosen = config(write(tmp_path / "mine.jsonl", [*rows, rows[0] | {"prompt": rows[0]["prompt"].upper()}]), stratum="kind")
    found = {split: prompts.load_split(chosen, split) for split in prompts.SPLITS}
    texts = [prompt.text for each in found.values() for prompt in each]
    assert sorted(texts) == sorted(row["prompt"] for row in rows)  # the same text in capitals is the same prompt
    assert len(found["train"]) > len(found["test"]) > 0
    assert {prompt.source for prompt in found["test"]} == {"mine.jsonl"}
    assert {prompt.stratum for prompt in found["train"]} == {"kind", "page"}
    five = prompts.load_split(replace(chosen, train=5), "train")
    assert five == found["train"][:5]


def test_a_named_source_gives_its_split_all_of_its_prompts(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.jsonl", plain(40))
    held_out = write(tmp_path / "test.jsonl", [{"prompt": f"held out {i}"} for i in range(7)])
    chosen = config(mine, test_source=str(held_out))
    assert len(prompts.load_split(chosen, "test")) == 7
    assert {p.source for p in prompts.load_split(chosen, "train")} == {"mine.jsonl"}


def test_rows_of_one_conversation_are_in_one_split_and_end_with_a_user_turn(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": f"question {i}"} for i in range(30)]
    rows: list[Any] = []
    for i, turn in enumerate(turns):
        rows.append({"prompt": [turn]})
        rows.append({"prompt": [turn, {"role": "assistant", "content": "so"}, {"role": "user", "content": f"and {i}"}]})
    chosen = config(write(tmp_path / "chat.jsonl", rows))
    for split in prompts.SPLITS:
        first = [prompts.opening_turn(prompt) for prompt in prompts.load_split(chosen, split)]
        assert all(first.count(each) == 2 for each in first)
    answered = write(tmp_path / "answered.jsonl", [{"prompt": [turns[0], {"role": "assistant", "content": "yes"}]}])
    (only,) = prompts.load_split(config(tmp_path / "chat.jsonl", test_source=str(answered)), "test")
    assert [turn.role for turn in only.turns] == ["user"]


@pytest.mark.parametrize(
    ("rows", "more", "reason"),
    [
        ([{"text": "hi"}], {}, "row 1: prompt is missing"),
        ([{"prompt": "hi"}, {"prompt": ""}], {}, "row 2: prompt has no user turn with text"),
        ([{"prompt": [{"role": "system", "content": "be kind"}]}], {}, "row 1: prompt has no user turn"),
        ([{"prompt": "hi"}], {"stratum": "kind"}, "row 1: kind is missing"),
        (plain(30), {"test": 500}, "lower task.prompts.test"),
        (["no object"], {}, "row 1"),
    ],
)
def test_what_can_not_be_read_is_named_with_its_row(
    tmp_path: Path, rows: list[Any], more: dict[str, Any], reason: str
) -> None:
    file = write(tmp_path / "mine.jsonl", rows)
    with pytest.raises(UserError, match=reason) as error:
        prompts.load_split(config(file, **more), "test")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        prompts.load_split(config(tmp_path / "nowhere.jsonl"), "test")


def test_what_is_cut_and_what_becomes_equal_is_counted_in_tokens_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    closing = " please answer in one kind word and thank you for your kind help"
    rows = [{"prompt": f"question {i}{closing}"} for i in range(40)]
    chosen = prompts.load_split(config(write(tmp_path / "mine.jsonl", rows)), "train")
    tokenizer = loading.load_tokenizer(str(tiny_model))
    short, long = (
        fit_of(Cutter(tokenizer, ModelConfig(str(tiny_model), prompt_tokens=size)), map(turns_of, chosen)) for size in (8, 200)
    )
    assert (short.cut, short.equal) == (len(chosen), len(chosen) - 1)
    assert (long.cut, long.equal, long.told) == (0, 0, "")
    assert short.longest == long.longest == max(len(tokenizer(prompt.text)["input_ids"]) for prompt in chosen)


def test_evaluated_prompts_that_are_read_as_training_prompts_are_counted(tiny_model: Path) -> None:
    trained, asked = (
        [prompts.Prompt(str(i), f"{opening} {i} please answer in one kind word", "mine", "toxic") for i in numbers]
        for opening, numbers in (("one", range(4)), ("another", range(2, 8)))
    )
    cut = Cutter(loading.load_tokenizer(str(tiny_model)), ModelConfig(str(tiny_model), prompt_tokens=6))
    whole = Cutter(cut.tokenizer, ModelConfig(str(tiny_model), prompt_tokens=200))
    fit = fit_of(cut, map(turns_of, asked), map(turns_of, trained))
    assert fit_of(whole, map(turns_of, asked), map(turns_of, trained)).trained == 0
    assert fit.trained == 6
    assert "6 of 6 prompts become equal to a training prompt" in fit.told
    with pytest.raises(UserError, match="become equal to a training prompt"):
        check_fit(replace(fit, equal=0), "task.prompts, test", cut.model)


def chatty(model: Path, folder: Path) -> Any:
    tokenizer = loading.load_tokenizer(str(model))
    tokenizer.add_special_tokens({"additional_special_tokens": []})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_templates_write_conversations_and_plain_prompts_if_they_always_do(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = chatty(tiny_model, tmp_path)
    rows = [{"prompt": [{"role": "user", "content": f"you are {i}"}]} for i in range(20)]
    talk = prompts.load_split(config(write(tmp_path / "chat.jsonl", rows)), "train")[:1]
    text = prompts.load_split(config(write(tmp_path / "plain.jsonl", plain(20))), "train")[:1]

    def read(chosen: list[prompts.Prompt], template: str) -> str:
        model = ModelConfig(str(tiny_model), prompt_tokens=100, template=template)
        encoded = encode_prompts(tokenizer, chosen, model)
        return str(tokenizer.decode(encoded.tokens[0]))

    said = talk[0].turns[0].content
    assert read(talk, "auto") == read(talk, "always") == f"<|user|>{said}<|endoftext|><|assistant|>"
    assert read(talk, "off") == f"<|endoftext|>user: {said}\n\nassistant:"
    assert read(text, "auto") == read(text, "off") == f"<|endoftext|>{text[0].text}"
    assert read(text, "always") == f"<|user|>{text[0].text}<|endoftext|><|assistant|>"


def test_a_template_of_ones_own_is_a_file_for_every_prompt_and_in_the_keys_by_its_content(
    tiny_model: Path, tmp_path: Path
) -> None:
    (file := tmp_path / "mine.jinja").write_text(TEMPLATE)
    model = ModelConfig(str(tiny_model), prompt_tokens=100, template=str(file))
    tokenizer = loading.task_tokenizer(model)
    cut = Cutter(tokenizer, model)
    assert tokenizer.decode(cut.prompt((Turn("", "you are"),)) or []) == "<|user|>you are<|endoftext|><|assistant|>"
    config_ = task(tiny_model, sft.NONE, write(tmp_path / "plain.jsonl", plain(40)))
    before = StageGraph(replace(config_, model=model), Store(tmp_path / "store")).sft.key
    (other := tmp_path / "copy.jinja").write_text(TEMPLATE)
    assert StageGraph(replace(config_, model=replace(model, template=str(other))), Store(tmp_path / "store")).sft.key == before
    file.write_text(TEMPLATE.replace("<|assistant|>", "<|me|>"))
    loading.read_template.cache_clear()
    assert StageGraph(replace(config_, model=model), Store(tmp_path / "store")).sft.key != before


def test_a_reward_model_reads_the_prompt_and_not_a_template_of_ones_own(tiny_model: Path, tmp_path: Path) -> None:
    (file := tmp_path / "mine.jinja").write_text("{% for m in messages %}say {{ m['content'] }} now{% endfor %}")
    config_ = task(tiny_model, sft.NONE, write(tmp_path / "plain.jsonl", plain(40)))
    config_ = replace(config_, model=replace(config_.model, template=str(file), prompt_tokens=60))
    prompt = prompts.load_split(config_.prompts, "train")[0]
    read = PromptTurns(config_)
    ids = read.cut.prompt((Turn("", prompt.text),))
    assert ids is not None
    assert [turn.content for turn in read(ids)] == [prompt.text]


def test_a_template_that_is_none_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task.model.template must be auto, always, off or a file \*.jinja, not 'mine.txt'"):
        ModelConfig("nano", template="mine.txt")
    with pytest.raises(UserError, match=r"task.model.template: cannot read gone.jinja: No such file"):
        loading.task_tokenizer(ModelConfig("nano", template="gone.jinja"))
    (file := tmp_path / "plain.jinja").write_text("{{ text }}")
    with pytest.raises(UserError, match=r"plain.jinja is no chat template: it does not read messages"):
        loading.task_tokenizer(ModelConfig("nano", template=str(file)))
    with pytest.raises(UserError, match=r"template=always, but the tokenizer of 'nano' has no chat template"):
        loading.task_tokenizer(ModelConfig("nano", template="always"))


def test_a_last_turn_that_does_not_fit_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = chatty(tiny_model, tmp_path)
    rows = [{"prompt": [{"role": "user", "content": f"you are {i} " * 9}]} for i in range(20)]
    chosen = prompts.load_split(config(write(tmp_path / "chat.jsonl", rows)), "train")
    with pytest.raises(UserError, match=r"chat\.jsonl is longer than task\.model\.prompt_tokens=6"):
        encode_prompts(tokenizer, chosen, ModelConfig(str(tiny_model), prompt_tokens=6))


def task(model: Path, demonstrations: Path | str, source: Path, **more: Any) -> TaskConfig:
    config_ = ModelConfig(str(model), eos="open", prompt_tokens=12, new_tokens=6)
    learn = SFTConfig(2, 1e-3, batch_size=4, source=str(demonstrations))
    return TaskConfig("mine", config_, learn, RewardConfig(4, 1e-3), prompts=config(source), **more)


def test_demonstrations_of_ones_own_are_learned_without_those_of_evaluated_prompts(tiny_model: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{key: row[key] for key in ("prompt", "completion")} for row in plain(40)])
    tokenizer, chosen = loading.load_tokenizer(str(tiny_model)), task(tiny_model, file, file)
    losses = Counter[str]()
    rows = sft.demonstrations(tokenizer, chosen, 100, losses)
    evaluated = {p.text for split in ("validation", "test") for p in prompts.load_split(chosen.prompts, split)}
    asked = {str(tokenizer.decode(prompt, skip_special_tokens=True)) for prompt, _ in rows}
    assert len(rows) == 100
    assert losses["left out as their prompt is evaluated"] == len(evaluated)
    assert asked
    assert not any(text.endswith(tuple(asked)) for text in evaluated)
    assert all(answer[-1] == 0 or len(answer) == 6 for _, answer in rows)  # the end token, if it fits


def test_a_demonstration_whose_answer_has_no_tokens_is_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    letters = {"<s>": 0, "</s>": 1} | {letter: place for place, letter in enumerate("asked", 2)}
    own = Tokenizer(models.BPE(letters, []))  # without an unknown token it drops every other letter
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    rows = [{"prompt": f"asked {'asked ' * n}", "completion": " sad" if n % 2 else " why"} for n in range(8)]
    shown, losses = write(tmp_path / "shown.jsonl", rows), Counter[str]()
    config_ = task(tiny_model, shown, write(tmp_path / "asked.jsonl", plain(40)))
    fixed = replace(config_, model=replace(config_.model, eos="masked"))
    assert {tuple(answer) for _, answer in sft.demonstrations(tokenizer, fixed, 8, losses)} == {(3, 2, 6)}
    assert losses["left out as their answer has no tokens"] == 4
    assert () not in {tuple(answer) for _, answer in sft.demonstrations(tokenizer, config_, 8, losses)}  # the end is a token


def test_a_demonstration_of_an_evaluated_prompt_is_left_out_in_whatever_form(tiny_model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "asked.jsonl", [{"prompt": f"are you {i}"} for i in range(40)])
    talk = [
        {"messages": [{"role": "user", "content": f"are you {i}"}, {"role": "assistant", "content": "yes"}]} for i in range(40)
    ]
    config_ = task(tiny_model, write(tmp_path / "shown.jsonl", talk), source)
    evaluated = sum(len(prompts.load_split(config_.prompts, split)) for split in ("validation", "test"))
    losses = Counter[str]()
    rows = sft.demonstrations(loading.load_tokenizer(str(tiny_model)), replace(
        config_, model=replace(config_.model, prompt_tokens=40)), 40 - evaluated, losses)  # fmt: skip
    assert losses["left out as their prompt is evaluated"] == evaluated > 0
    assert len({tuple(prompt) for prompt, _ in rows}) == 40 - evaluated


def test_without_demonstrations_the_model_is_its_own_base(tiny_model: Path, tmp_path: Path) -> None:
    sft.make_sft(tmp_path, task(tiny_model, sft.NONE, write(tmp_path / "mine.jsonl", plain(40))))
    before, _ = loading.load_model(str(tiny_model))
    after, _ = loading.load_model(str(tiny_model), tmp_path)
    assert all(torch.equal(weight, after.state_dict()[name]) for name, weight in before.state_dict().items())


@pytest.mark.slow
def test_a_run_on_data_of_ones_own_ends_in_a_card(terminal: Terminal, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{key: row[key] for key in ("prompt", "completion", "kind")} for row in plain(60)])
    words = [
        f"task.prompts.source={file}", "task.prompts.train=0", "task.prompts.validation=0", "task.prompts.test=0",
        "task.prompts.stratum=kind", f"task.sft.source={file}",
    ]  # fmt: skip
    done = terminal(terminal.run("algorithm=dpo", "budget.steps=2", *words))
    assert done.returncode == 0, done.stderr
    card = cards.read_card(Path(done.stdout.strip().splitlines()[-1]))
    assert "toxicity_mean/kind" in card.metrics
    again = terminal(terminal.run("algorithm=sft", *words))
    assert again.returncode == 0, again.stderr
    assert len(stages(terminal.store, "sft")) == 1
    write(file, plain(61))
    changed = terminal(terminal.run("algorithm=sft", *words))
    assert changed.returncode == 0, changed.stderr
    assert len(stages(terminal.store, "sft")) == 2


@pytest.mark.slow
def test_evaluation_prompts_of_one_conversation_are_told_on_the_card(terminal: Terminal, tmp_path: Path) -> None:
    def said(number: int, turns: int) -> dict[str, Any]:
        talk = [turn for i in range(turns) for turn in (("user", f"question {number} {i}"), ("assistant", "yes"))][:-1]
        return {"prompt": [{"role": role, "content": content} for role, content in talk]}

    file = write(tmp_path / "mine.jsonl", [said(number, turns) for number in range(60) for turns in (1, 2)[: 1 + number % 2]])
    words = [f"task.prompts.source={file}", "task.prompts.train=0", "task.prompts.validation=0", "task.prompts.test=0"]
    done = terminal(terminal.run("algorithm=sft", "task.model.prompt_tokens=60", *words))
    assert done.returncode == 0, done.stderr
    card = cards.read_card(Path(done.stdout.strip().splitlines()[-1]))
    asked = prompts.load_split(config(file), "test")
    odd = sum(int(prompts.opening_turn(prompt).split()[1]) % 2 for prompt in asked)
    assert 0 < odd < len(asked)
    (told,) = (flag.text for flag in card.flags if "begin as another" in flag.text)
    assert told.startswith(f"{odd} of {len(asked)} evaluation prompts begin as another of them does")


@pytest.mark.slow
def test_prompts_that_all_become_one_are_refused_before_any_stage(terminal: Terminal, tmp_path: Path) -> None:
    closing = " please answer in one kind word and thank you for your kind help so that it is a lovely page"
    file = write(tmp_path / "mine.jsonl", [{"prompt": f"question {i}{closing}"} for i in range(60)])
    words = [f"task.prompts.source={file}", "task.prompts.train=0", "task.prompts.validation=0", "task.prompts.test=0"]
    line = complaint(terminal(terminal.run("algorithm=dpo", "budget.steps=2", "task.model.prompt_tokens=8", *words)))
    assert "task.prompts, train: " in line
    assert "become equal to another one" in line
    assert not finished(terminal.store)


def test_a_new_task_is_written_with_lengths_and_budgets_of_its_data_and_shown(tmp_path: Path, tiny_model: Path) -> None:
    file = write(tmp_path / "mine.jsonl", plain(80))
    written = NewTask("mine", str(tiny_model), str(file), demonstrations=str(file)).write(tmp_path)
    whole = OmegaConf.merge(OmegaConf.load(CONF / "task" / "common" / "defaults.yaml"), OmegaConf.load(written))
    whole.pop("defaults")
    chosen = build_config(TaskConfig, OmegaConf.to_container(whole), "task")
    tokenizer = loading.load_tokenizer(str(tiny_model))
    longest = max(len(tokenizer(row["prompt"])["input_ids"]) for row in plain(80))
    assert longest <= chosen.model.prompt_tokens <= longest + 8
    assert chosen.budgets["tiny"] < chosen.budgets["small"] < chosen.budgets["large"]
    text = "\n".join(tasks.show(replace(chosen, prompts=replace(chosen.prompts, stratum="kind"))))
    counts = {split: len(prompts.load_split(chosen.prompts, split)) for split in prompts.SPLITS}
    for split, number in counts.items():
        assert re.search(rf"\| {split} +\| +{number} \|", text), text
    evaluated = counts["validation"] + counts["test"]
    shown = rf"{80 - evaluated} of 80 rows; {evaluated} left out as their prompt is evaluated"
    assert re.search(rf"demonstrations: .*: {shown}", text), text
    assert re.search(rf"{counts['validation'] + counts['test']} evaluated prompts occur in it", text), text
    assert "as the model reads them:\n  <|endoftext|>" in text
    with pytest.raises(UserError, match="already exists"):
        NewTask("mine", str(tiny_model), str(file)).write(tmp_path)
    with pytest.raises(UserError, match="'true' can't be the name of a task: yaml reads it as True"):
        NewTask("true", str(tiny_model), str(file)).write(tmp_path)
    with pytest.raises(UserError, match="lower-case letters"):
        NewTask("My Task", str(tiny_model), str(file)).write(tmp_path)


def test_folders_with_the_names_of_a_column_a_scorer_or_an_embedded_model_are_none_of_these(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("prompt", "none", "tox_block", "polarity", "vader", "nano", "smollm2"):
        Path(name).mkdir()
    write(Path("mine.jsonl"), plain(40))
    shutil.copytree(tiny_model, "model")
    new = NewTask("mine", "model", "mine.jsonl", scorer="vader", second_scorer="polarity")
    whole = OmegaConf.load(new.write(tmp_path))
    assert (whole.prompts.column, whole.sft.source) == ("prompt", "none")
    assert (whole.evaluation.scorer, whole.evaluation.second_scorer, whole.objective.name) == ("vader", "polarity", "vader")
    assert (whole.model.name, whole.prompts.source) == (str(tmp_path / "model"), str(tmp_path / "mine.jsonl"))
    assert OmegaConf.load(replace(new, name="own", model="nano").write(tmp_path)).model.name == "nano"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"second_scorer": "nosuch"}, "unknown scorer 'nosuch'"),
        ({"lora": -4}, "task.model.lora must be 0 or more, not -4"),
        ({"name": "inf"}, "'inf' can't be the name of a task: Hydra reads it as inf"),
    ],
)
def test_what_would_be_no_task_is_refused_before_it_is_written(
    tmp_path: Path, tiny_model: Path, setting: dict[str, Any], told: str
) -> None:
    new = replace(NewTask("mine", str(tiny_model), str(write(tmp_path / "mine.jsonl", plain(40)))), **setting)
    with pytest.raises(UserError, match=re.escape(told)):
        new.write(tmp_path)
    assert not list(tmp_path.glob("*.yaml"))


def test_a_new_task_leaves_out_the_rows_that_it_is_told_to(tmp_path: Path, tiny_model: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [*plain(40), {"prompt": "are you", "completion": "", "kind": "a"}])
    with pytest.raises(UserError, match="row 41"):
        NewTask("mine", str(tiny_model), str(file), demonstrations=str(file)).write(tmp_path)
    written = NewTask("mine", str(tiny_model), str(file), demonstrations=str(file), skip="empty").write(tmp_path)
    whole = OmegaConf.load(written)
    assert (whole.prompts.skip, whole.sft.skip, whole.feedback.skip) == ("empty", "empty", "empty")


def test_a_scorer_that_does_not_say_what_is_better_needs_a_word(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "mine.jsonl", [{"prompt": f"are you {i}", "completion": " yes"} for i in range(60)])
    silent = AnswerScorer("hf:x#insult", lambda _, completions: [0.5] * len(completions), None, (0.0, 1.0))
    monkeypatch.setattr(new_task, "load_answer_scorer", lambda name: silent)
    asked = NewTask("mine", str(tiny_model), str(file), demonstrations=str(file), scorer="hf:x#insult")
    with pytest.raises(UserError, match="add --higher-is-better or --lower-is-better"):
        asked.write(tmp_path)
    assert not (tmp_path / "mine.yaml").exists()
    written = replace(asked, higher_is_better=False).write(tmp_path)
    assert "higher_is_better: false" in written.read_text()


@pytest.mark.parametrize(
    ("scorer", "objective"),
    [
        ("vader", {"name": "vader", "higher_is_better": True, "bounds": [-1.0, 1.0], "threshold": None}),
        ("rule:lowercase_words:10", {"name": "lowercase_words:10", "higher_is_better": True, "bounds": [0.0, 1.0],
                                     "threshold": 0.5}),
    ],
)  # fmt: skip
def test_a_new_task_of_another_goal_says_its_objective(
    tmp_path: Path, tiny_model: Path, scorer: str, objective: dict[str, Any]
) -> None:
    source = write(tmp_path / "mine, {old}.jsonl", plain(40))  # a name that yaml reads otherwise
    new = NewTask("mine", str(tiny_model), str(source), scorer=scorer, second_scorer="polarity", known_reward=True)
    whole = OmegaConf.merge(OmegaConf.load(CONF / "task" / "common" / "defaults.yaml"), OmegaConf.load(new.write(tmp_path)))
    whole.pop("defaults")
    chosen = build_config(TaskConfig, OmegaConf.to_container(whole), "task")
    assert (chosen.known_reward, chosen.evaluation.scorer, chosen.prompts.source) == (True, scorer, str(source))
    assert asdict(chosen.objective) == objective | {"bounds": tuple(objective["bounds"])}


def human(tmp_path: Path, model: Path, rows: list[Any], split: str = "train", **more: Any) -> dict[str, Any]:
    """The record of the pairs of a split that a file of verdicts gives."""
    (work := tmp_path / split).mkdir(exist_ok=True)
    file = write(tmp_path / "feedback.jsonl", rows)
    limits = ModelConfig(str(model), **{"eos": "open", "prompt_tokens": 12, "new_tokens": 6} | more)
    from_file.make_human_pairs(work, FeedbackConfig(file=str(file)), loading.load_tokenizer(str(model)), limits, split)
    return json.loads((work / "record.json").read_text())


def test_what_is_cut_of_peoples_verdicts_is_counted_in_tokens(tmp_path: Path, tiny_model: Path) -> None:
    long = " and thank you for your kind help, what a lovely page this is"
    rows = [{"prompt": f"are you {i}", "chosen": f" yes{long if i < 20 else ''}", "rejected": " no"} for i in range(40)]
    record = human(tmp_path, tiny_model, rows)
    trained = [i for i in range(40) if prompts.split_of(f"are you {i}") == "train"]
    assert record["cut"] == {"answers cut": sum(i < 20 for i in trained)}
    assert record["pairs"] == len(trained)


def test_pairs_that_are_equal_once_cut_are_counted_before_and_after(tmp_path: Path, tiny_model: Path) -> None:
    begin = " yes and thank you for your kind help, what a lovely page"
    rows = [
        {"prompt": f"are you {i}", "chosen": begin + " this is", "rejected": (begin if i < 30 else "") + " no"}
        for i in range(40)
    ]
    record = human(tmp_path, tiny_model, rows)
    alike = sum(prompts.split_of(f"are you {i}") == "train" for i in range(30))
    assert record["dropped"] == {from_file.ALIKE: alike}
    limits = ModelConfig(str(tiny_model), eos="open", prompt_tokens=12, new_tokens=6)
    given = FeedbackConfig(file=str(tmp_path / "feedback.jsonl"))
    counts = from_file.alike_once_cut(given, Cutter(loading.load_tokenizer(str(tiny_model)), limits))
    assert counts == (30, 40)
    told = "30 of 40 pairs have equal answers once they are cut to a turn of task.model.new_tokens=6, and teach nothing"
    assert from_file.told_alike(*counts, limits) == told
    assert from_file.told_alike(0, 40, limits) == ""
    whole = task(tiny_model, sft.NONE, write(tmp_path / "mine.jsonl", plain(40)))
    assert f"; {told}" in "\n".join(tasks.show(replace(whole, model=limits, feedback=given)))


INST = (  # as Mistral's: the end of the question is the opening
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}"
    "<|endoftext|>{% endif %}{% endfor %}"
)
OPEN = "{% if add_generation_prompt %}A: <think>\n{% endif %}"
THINKS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] }}\n{% else %}A: <think>\n\n</think>\n\n"
    "{{ m['content'] }}{% endif %}{% endfor %}" + OPEN
)  # as Qwen3-Thinking's
BARE = THINKS.replace(OPEN, OPEN.replace("<think>\n", ""))  # as Qwen3's


def with_template(tiny_model: Path, template: str) -> Cutter:
    tokenizer = copy.deepcopy(loading.load_tokenizer(str(tiny_model)))
    tokenizer.chat_template = template
    return Cutter(tokenizer, ModelConfig(str(tiny_model)))


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (TEMPLATE, ""),
        (TEMPLATE.partition("{% if add")[0], "it ignores add_generation_prompt"),
        (INST, ""),
        (THINKS, r"it asks with '' and gives one behind '\n</think>\n\n'; answers of files follow the former"),
        (BARE, r"it asks with '' and gives one behind '<think>\n\n</think>\n\n'; answers of files follow the former"),
    ],
)
def test_a_chat_template_that_opens_given_answers_otherwise_is_known(template: str, told: str, tiny_model: Path) -> None:
    assert with_template(tiny_model, template).misopened == told


ASKED = (Turn("system", "be kind"), Turn("user", "one"))
TALK = (Turn("system", "be kind"), Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"))


@pytest.mark.parametrize(
    ("template", "asked", "talk"),
    [
        (TEMPLATE, [], []),
        ("Q: {{ messages[0]['content'] }}", [LAST], [EARLIER, LAST]),
        ("Q: {{ messages[0]['content'] }} {{ messages[1]['content'] }}", [], [EARLIER, LAST]),
        ("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}\n{% endfor %}", [SYSTEM], [SYSTEM]),
        ("{{ messages[0]['content'] }}{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}"
         "{{ messages[1]['content'] }}", [], []),
    ],
)  # fmt: skip
def test_turns_that_a_chat_template_leaves_out_are_known_and_the_last_one_must_be_shown(
    template: str, asked: list[str], talk: list[str], tiny_model: Path
) -> None:
    cut = with_template(tiny_model, template)
    assert (cut.left_out(ASKED), cut.left_out(TALK)) == (asked, talk)
    for turns, missing in ((ASKED, asked), (TALK, talk)):
        if LAST in missing:
            with pytest.raises(UserError, match=r"does not show the last turn of a conversation.*task\.model\.template"):
                cut.whole_prompt(turns)
        elif "raise" not in template or turns is ASKED:
            assert cut.whole_prompt(turns)


def test_answers_that_begin_with_their_prompt_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"prompt": f"are you {i}", "chosen": f"are you {i} yes", "rejected": f"are  you {i} no"} for i in range(40)]
    trained = sum(prompts.split_of(row["prompt"]) == "train" for row in rows)
    assert human(tmp_path, tiny_model, rows)["whole"] == trained
    assert "whole" not in human(tmp_path, tiny_model, [row | {"chosen": "yes"} for row in rows])
    (line,) = check_file(tmp_path / "feedback.jsonl").warnings
    assert line.startswith("40 of 80 different answers begin with their prompt"), "those that are rejected"
    few = [row if i < 2 else {"prompt": row["prompt"], "chosen": "yes", "rejected": "no"} for i, row in enumerate(rows)]
    assert not check_file(write(tmp_path / "few.jsonl", few)).warnings
    (line,) = check_file(write(tmp_path / "whole.jsonl", rows)).warnings
    assert line.startswith("80 of 80 different answers begin with their prompt")
    scored = [{"prompt": f"are you {i}", "completion": f"are you {i} {j}", "score": j} for i in range(9) for j in range(3)]
    (line,) = check_file(write(tmp_path / "scored.jsonl", scored)).warnings
    assert line.startswith("27 of 27 different answers"), "each once, though it is in several pairs"


def test_rows_that_repeat_a_verdict_of_one_annotator_are_one_vote(tmp_path: Path, tiny_model: Path) -> None:
    asked = [f"are you {i}" for i in range(40) if prompts.split_of(f"are you {i}") == "train"]

    def row(prompt: str, chosen: str, rater: str) -> dict[str, Any]:
        rest = {" yes": " no", " no": " yes"}
        return {"prompt": prompt, "chosen": chosen, "rejected": rest[chosen]} | ({"rater": rater} if rater else {})

    rows = [row(asked[0], " yes", "ann")] * 3 + [row(asked[0], " no", who) for who in ("bob", "cid")]
    rows += [row(asked[1], " yes", "ann"), row(asked[1], " no", "ann"), row(asked[1], " no", "bob")]  # ann says both
    rows += [row(asked[2], " yes", "ann"), row(asked[2], " no", "ann")]
    record = human(tmp_path, tiny_model, rows)
    pairs = [json.loads(line) for line in (tmp_path / "train" / "pairs.jsonl").read_text().splitlines()]
    assert [(pair["chosen"], pair["annotators"]) for pair in pairs] == [(" no", [0, 1, 2]), (" no", [0, 0, 1])]
    assert (record["repeats"], record["dropped"]) == (2, {"tied between annotators": 1})
    unnamed = human(tmp_path, tiny_model, [row(asked[0], word, "") for word in (" yes", " yes", " no")])
    assert "repeats" not in unnamed, "they may be of different people"
    assert unnamed["pairs"] == 1


def test_answers_that_are_called_good_and_bad_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    asked = [f"are you {i}" for i in range(40) if prompts.split_of(f"are you {i}") == "train"]
    rows = [{"prompt": asked[0], "completion": " yes", "label": label} for label in (True, True, False)]
    rows += [{"prompt": asked[1], "completion": " no", "label": False}]
    file = write(tmp_path / "labels.jsonl", rows)
    limits = ModelConfig(str(tiny_model), eos="open", prompt_tokens=12, new_tokens=6)
    from_file.make_unpaired(tmp_path, FeedbackConfig(file=str(file)), loading.load_tokenizer(str(tiny_model)), limits)
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["unpaired"], record["contradicted"]) == (4, 1)


def test_a_question_of_the_test_source_is_not_trained_on_under_another_system_prompt(tmp_path: Path) -> None:
    def talks(system: str) -> list[Any]:
        return [
            {"prompt": [{"role": "system", "content": system}, {"role": "user", "content": f"What is {i}?"}]}
            for i in range(40)
        ]

    own = write(tmp_path / "kind.jsonl", [*talks("Be kind."), {"prompt": [{"role": "user", "content": "Who are you?"}]}])
    others = talks("You are helpful.")
    others[3]["prompt"][1]["content"] = " what  is 3?"
    held_out = write(tmp_path / "helpful.jsonl", others)
    config = PromptsConfig(0, 0, 0, source=str(own), test_source=str(held_out))
    assert len(prompts.own_split(config, "test")) == 40
    found = [prompt for split in ("train", "validation") for prompt in split_or_none(config, split)]
    assert {prompts.opening_turn(prompt) for prompt in found} == {"Who are you?"}


def split_or_none(config: PromptsConfig, split: str) -> list[Any]:
    try:
        return list(prompts.own_split(config, split))
    except UserError:
        return []


def test_prompts_that_become_equal_are_counted_and_too_many_refused(tmp_path: Path, tiny_model: Path) -> None:
    closing = " please answer in one kind word and thank you for your kind help"
    rows = [{"prompt": f"question {i}{closing}", "chosen": " yes", "rejected": " no"} for i in range(41)]
    with pytest.raises(UserError, match="40 of 41 prompts become equal to another one"):
        human(tmp_path, tiny_model, rows, prompt_tokens=8)
    others = [{"prompt": f"are you {i}", "chosen": " yes", "rejected": " no"} for i in range(60)]
    record = human(tmp_path, tiny_model, [*rows[:5], *others], prompt_tokens=8)
    assert record["cut"]["prompts that became equal"] == 4


def test_the_turns_of_a_conversation_are_not_divided_between_training_and_test(tmp_path: Path, tiny_model: Path) -> None:
    rows: list[Any] = []
    for i in range(30):
        first = {"role": "user", "content": f"hi {i}"}
        later = [first, {"role": "assistant", "content": "so"}, {"role": "user", "content": f"and {i}"}]
        for asked in ([first], later):
            answers = {
                side: [{"role": "assistant", "content": word}] for side, word in (("chosen", "yes"), ("rejected", "no"))
            }
            rows.append({"prompt": asked} | answers)
    pairs = {split: human(tmp_path, tiny_model, rows, split, prompt_tokens=60)["pairs"] for split in prompts.SPLITS}
    firsts = [prompts.split_of(f"hi {i}") for i in range(30)]
    assert pairs == {split: 2 * firsts.count(split) for split in prompts.SPLITS}


def test_verdicts_on_evaluated_prompts_train_nothing_however_they_are_written(tmp_path: Path, tiny_model: Path) -> None:
    trained = [i for i in range(60) if prompts.split_of(f"are you {i}") == "train"]
    asked = [f"are you {i}" for i in trained]
    rows = [{"prompt": text, "chosen": " yes", "rejected": " no"} for text in asked]
    talk = [{"prompt": [{"role": "user", "content": text}], "chosen": [{"role": "assistant", "content": "yes"}],
             "rejected": [{"role": "assistant", "content": "no"}]} for text in asked]  # fmt: skip
    limits = ModelConfig(str(tiny_model), eos="open", prompt_tokens=40, new_tokens=6)
    tokenizer = loading.load_tokenizer(str(tiny_model))
    evaluated = [(Turn("", asked[0].upper()),), (Turn("user", asked[1]), Turn("assistant", "so"), Turn("user", "and?"))]
    for name, kind in (("plain", rows), ("talk", talk)):
        (work := tmp_path / name).mkdir()
        feedback = FeedbackConfig(file=str(write(tmp_path / f"{name}.jsonl", kind)))
        from_file.make_human_pairs(work, feedback, tokenizer, limits, "train", evaluated)
        record = json.loads((work / "record.json").read_text())
        assert record["dropped"] == {"whose prompt is evaluated": 2}
        assert record["pairs"] == len(trained) - 2
    labels = [{"prompt": text, "completion": " yes", "label": i % 2 == 0} for i, text in enumerate(asked)]
    feedback = FeedbackConfig(file=str(write(tmp_path / "labels.jsonl", labels)))
    from_file.make_unpaired(tmp_path, feedback, tokenizer, limits, evaluated)
    assert json.loads((tmp_path / "record.json").read_text())["dropped"] == {"whose prompt is evaluated": 2}


def test_evaluated_prompts_that_stand_in_others_that_train_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    asked = [f"do i paint bridge number {i} at home" for i in range(60)]  # eight words
    evaluated = [(Turn("", text),) for text in asked[:20]] + [(Turn("user", text),) for text in asked[20:30]]
    hidden: list[Any] = [[{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."},
                          {"role": "user", "content": asked[0]}], f"\n\nHuman: {asked[1]}\n\nAssistant:",
                         [{"role": "system", "content": asked[2]}, {"role": "user", "content": "and so"}],
                         asked[3], asked[20], f"Please say: {asked[21].upper()}?", *asked[40:]]  # fmt: skip
    verdicts = [{"prompt": text, "chosen": " yes", "rejected": " no"} if isinstance(text, str) else
                {"prompt": text, "chosen": [{"role": "assistant", "content": "yes"}],
                 "rejected": [{"role": "assistant", "content": "no"}]} for text in hidden]  # fmt: skip
    cut = Cutter(loading.load_tokenizer(str(tiny_model)), ModelConfig(str(tiny_model), prompt_tokens=200, new_tokens=6))
    read = [tuple(Turn(**turn) for turn in text) if isinstance(text, list) else (Turn("", text),) for text in hidden]
    trained = [turns for turns in read if turns not in HeldOut(cut, evaluated)]
    assert len(trained) == len(hidden) - 2  # 3 and 20 are left out
    assert overlap.count_overlap(evaluated, trained) == 3  # 0, 1 and 21; 2 is said by the system
    in_split = [turns for turns in trained if prompts.split_of(cut.split_text(turns)) == "train"]
    feedback = FeedbackConfig(file=str(write(tmp_path / "verdicts.jsonl", verdicts)))
    from_file.make_human_pairs(tmp_path, feedback, cut.tokenizer, cut.model, "train", evaluated)
    found = overlap.count_overlap(evaluated, in_split)
    assert found > 0
    assert json.loads((tmp_path / "record.json").read_text())["overlap"] == {"prompts": found, "evaluated": 30}
    assert set(from_file.trained_prompts(feedback, cut, evaluated)) == set(in_split)
    labels = [{"prompt": text, "completion": " yes", "label": i % 2 == 0} for text in asked for i in range(2)]
    other = [row | {"prompt": f"Please say: {row['prompt']}?"} for row in labels]
    feedback = FeedbackConfig(file=str(write(tmp_path / "labels.jsonl", other)))
    from_file.make_unpaired(tmp_path, feedback, cut.tokenizer, cut.model, evaluated)
    held = sum(prompts.split_of(f"Please say: {text}?") == "train" for text in asked[:30])
    assert json.loads((tmp_path / "record.json").read_text())["overlap"] == {"prompts": held, "evaluated": 30}
    losses: Counter[str] = Counter()
    shown = write(tmp_path / "shown.jsonl", [{"prompt": text, "completion": " yes"} for text in (asked[0], f"say {asked[1]}")])
    held_out = write(tmp_path / "test.jsonl", [{"prompt": text} for text in asked[:30]])
    chosen = task(tiny_model, shown, write(tmp_path / "mine.jsonl", plain(60)))
    chosen = replace(chosen, model=cut.model, prompts=replace(chosen.prompts, test_source=str(held_out)))
    assert len(sft.demonstrations(cut.tokenizer, chosen, 2, losses)) == 2
    assert losses[sft.OVERLAP] == 1
    assert losses["left out as their prompt is evaluated"] == 1


def test_feedback_in_a_form_that_is_never_evaluated_is_told(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = loading.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = TEMPLATE
    limits = ModelConfig(str(tiny_model), prompt_tokens=60, new_tokens=6)
    words = [f"are you {i}" for i in range(40)]
    trained = sum(prompts.split_of(text) == "train" for text in words)
    talk, texts = [(Turn("user", "hello"),)], [(Turn("", "hello"),)]
    pairs = write(tmp_path / "verdicts.jsonl", [{"prompt": text, "chosen": " yes", "rejected": " no"} for text in words])
    labels = write(tmp_path / "labels.jsonl", [{"prompt": text, "completion": " yes", "label": bool(int(text[-1]) % 2)}
                                               for text in words])  # fmt: skip

    def forms(evaluated: Any, template: str) -> list[Any]:
        chosen, found = replace(limits, template=template), []
        for make, file, rest in ((from_file.make_human_pairs, pairs, ["train"]), (from_file.make_unpaired, labels, [])):
            make(tmp_path, FeedbackConfig(file=str(file)), tokenizer, chosen, *rest, evaluated)
            found.append(json.loads((tmp_path / "record.json").read_text()).get("forms"))
        return found

    assert forms(talk, "auto") == [{overlap.PLAIN: trained}] * 2
    assert forms(talk, "off") == [{overlap.PLAIN: trained}] * 2  # roles are written out in those that are evaluated alone
    assert forms(talk, "always") == [None, None]
    assert forms(texts, "auto") == forms(texts + talk, "auto") == [None, None]
    (line,) = overlap.told_forms({overlap.PLAIN: trained}, "verdicts")
    assert line.startswith(
        f"{trained} prompts of verdicts are plain texts, as no evaluated prompt is: the policy is trained on "
    )
    cut = Cutter(tokenizer, limits)
    assert overlap.unlike_forms(cut, texts, talk * 2) == {overlap.TEMPLATE: 1}  # the same prompt twice
    rows = [{"prompt": [{"role": "user", "content": f"hello {i}"}]} for i in range(20)]
    shown = write(tmp_path / "shown.jsonl", [{"prompt": text, "completion": " yes"} for text in words])
    losses: Counter[str] = Counter()
    chosen = task(tiny_model, shown, write(tmp_path / "mine.jsonl", rows))
    sft.demonstrations(tokenizer, chosen, 8, losses)  # the first eight
    assert losses["prompts that are plain texts, as no evaluated prompt is"] == 8
    said = "40 prompts are plain texts, and all that the task evaluates are conversations; task.model.template=always"
    assert [line.startswith(said) for line in check_file(pairs, conversations=True).warnings] == [True]
    assert check_file(pairs, conversations=False).warnings == check_file(pairs).warnings == ()


def test_what_is_cut_to_an_evaluated_prompt_is_one(tmp_path: Path, tiny_model: Path) -> None:
    limits = ModelConfig(str(tiny_model), prompt_tokens=4, new_tokens=6)
    cut = Cutter(loading.load_tokenizer(str(tiny_model)), limits)
    held_out = HeldOut(cut, [(Turn("", "I think that you are kind"),)])
    assert (Turn("", "they say that you are kind"),) in held_out  # the model reads its end
    assert (Turn("", "they say that you are a moron"),) not in held_out


def test_labels_of_which_only_one_kind_is_left_to_train_on_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        {"prompt": f"are you {i}", "completion": " yes", "label": prompts.split_of(f"are you {i}") == "train"}
        for i in range(40)
    ]
    file = write(tmp_path / "labels.jsonl", rows)
    limits = ModelConfig(str(tiny_model), prompt_tokens=12, new_tokens=6)
    tokenizer = loading.load_tokenizer(str(tiny_model))
    with pytest.raises(UserError, match=r"all \d+ answers to training prompts are good, and training needs both"):
        from_file.make_unpaired(tmp_path, FeedbackConfig(file=str(file)), tokenizer, limits)


def test_another_template_is_another_stage_of_peoples_verdicts(tmp_path: Path, tiny_model: Path) -> None:
    file = write(tmp_path / "feedback.jsonl", [{"prompt": f"are you {i}", "chosen": " a", "rejected": " b"} for i in range(9)])
    keys = set()
    for template in ("auto", "always", "off"):
        base = task(tiny_model, sft.NONE, file, feedback=FeedbackConfig(file=str(file)))
        chosen = replace(base, model=replace(base.model, template=template))
        keys.add(StageGraph(chosen, Store(tmp_path)).pairs("annotator").key)
    assert len(keys) == 3


def test_a_prompt_of_a_held_out_source_is_not_trained_on(tmp_path: Path) -> None:
    rows = plain(60)
    mine = write(tmp_path / "mine.jsonl", rows)
    all_train = [row for row in rows if prompts.split_of(row["prompt"]) == "train"]
    held_out = write(tmp_path / "test.jsonl", all_train[:5])
    chosen = config(mine, test_source=str(held_out))
    found = {split: {p.text for p in prompts.load_split(chosen, split)} for split in prompts.SPLITS}
    assert found["test"] == {row["prompt"] for row in all_train[:5]}
    assert not found["train"] & found["test"]
    assert len(found["train"]) == len(all_train) - 5


def test_the_base_follows_its_demonstrations_and_the_prompts_that_are_left_out(tmp_path: Path, tiny_model: Path) -> None:
    mine, other = write(tmp_path / "mine.jsonl", plain(40)), write(tmp_path / "other.jsonl", plain(40))
    held_out = write(tmp_path / "test.jsonl", [{"prompt": "held out"}])
    first = task(tiny_model, mine, mine)
    again = replace(first, sft=replace(first.sft, source=str(other)))  # the same rows under another name
    more = replace(first, prompts=replace(first.prompts, test_source=str(held_out)))
    keys = [StageGraph(each, Store(tmp_path)).sft.key for each in (first, again, more)]
    assert keys[0] == keys[1] != keys[2]
