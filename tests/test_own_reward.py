"""Reward models of one's own: trained classifiers with one output, read in their own chat template, never negated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from architectures import CONFIGS, SIZES
from isoalign.config.evaluation import WinRateConfig
from isoalign.config.task import FeedbackConfig, ModelConfig, PromptsConfig, RewardConfig, SFTConfig, TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows
from isoalign.core.objective import Objective
from isoalign.core.records import Question, Sample
from isoalign.core.store import Store, recipe_fields
from isoalign.core.text import text_fingerprint
from isoalign.data import hub
from isoalign.data.formats import Turn, Turns
from isoalign.data.preferences import rollouts
from isoalign.data.prompts import Prompt, as_text
from isoalign.evaluation.win_rate import make_contests, read_contests
from isoalign.feedback.judges.scorer import load_scorer_judge
from isoalign.models import loading, reward_classifier, scorers, tokens
from isoalign.models.answer_scorers import AnswerScorer, check_scorers, load_answer_scorer
from isoalign.models.flops import shape_of
from isoalign.models.own_reward import OwnReward
from isoalign.models.reward import ClassifierReward
from isoalign.runs import overrides
from isoalign.runs.overrides import task_named
from isoalign.stages import preflight
from isoalign.stages.conversations import PromptTurns
from isoalign.stages.graph import StageGraph
from isoalign.training.lab import session_of
from isoalign.training.purchases import rewards_of
from workbench import COMMAND, Bench, Terminal, complaint, finished, write_model

CHAT = (
    "{{ bos_token }}{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TALK: Turns = (Turn("user", "who are you"), Turn("assistant", "a page"), Turn("user", "say <|end|> and more"))
PROMPTS: list[Turns] = [
    (Turn("", "you are"),),
    TALK,
    (Turn("system", "be kind"), Turn("user", "thanks")),
    (Turn("user", "hi"),),
]
ANSWERS = [" a lovely page", "no", "you are an idiot and this is a long answer <|turn|>user", ""]


def write_reward_model(
    folder: Path, words: Path, kind: str = "qwen3", template: str = CHAT, pad: str = "", side: str = "right", **more: Any
) -> Path:
    """A tiny trained reward model with the tokenizer of the model ``words``, in which chat tokens are added.

    ``pad``: the padding token of tokenizer and configuration, none in the configuration if empty.
    """
    tokenizer = AutoTokenizer.from_pretrained(words)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>", "<|pad|>"]})
    tokenizer.chat_template, tokenizer.padding_side = template or None, side
    if pad:
        tokenizer.pad_token = pad
    tokenizer.save_pretrained(folder)
    sizes = SIZES | CONFIGS.get(kind, {}) | {"vocab_size": len(tokenizer), "num_labels": 1} | more
    sizes |= {"pad_token_id": tokenizer.pad_token_id if pad else None, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(kind, **{name: value for name, value in sizes.items() if value is not None})
    config.pad_token_id = sizes["pad_token_id"]
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 1.0 if name.startswith(("score", "classifier")) else 0.3)
    model.save_pretrained(folder)
    return folder


def messages_of(prompt: Turns, answer: str) -> list[dict[str, str]]:
    asked = [{"role": turn.role or "user", "content": turn.content} for turn in prompt]
    return [*asked, {"role": "assistant", "content": answer}]


@torch.no_grad()
def by_transformers(folder: Path, prompts: Sequence[Turns], answers: Sequence[str]) -> list[float]:
    """What transformers gives each text alone, typed control tokens aside."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if tokenizer.chat_template:
            rows = tokenizer.apply_chat_template(
                messages_of(prompt, answer), tokenize=True, return_tensors="pt", return_dict=True
            )
        else:
            rows = tokenizer("".join(turn.content for turn in prompt) + answer, return_tensors="pt")
        found.append(model(input_ids=rows["input_ids"]).logits.item())
    return found


UNTYPED = [(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
           if "<|" not in answer + "".join(turn.content for turn in prompt)]  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("words"))


# -- what is read, and where -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["", "<|pad|>", "<|end|>"], ids=["no pad", "pad", "pad ends the text"])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_a_batch_has_the_scores_that_transformers_gives_each_text_alone(
    kind: str, pad: str, side: str, words: Path, tmp_path: Path
) -> None:
    folder = write_reward_model(tmp_path, words, kind, pad=pad, side=side)
    prompts, answers = zip(*UNTYPED, (TALK[:1], " a lovely page"), ((Turn("user", "so"),), "you are an idiot"), strict=True)
    model = reward_classifier.load(str(folder))
    expected = by_transformers(folder, prompts, answers)
    assert model.score(prompts, answers) == pytest.approx(expected, abs=1e-4)
    assert len({round(score, 3) for score in expected}) == len(expected)
    reward_classifier.check_scores(model)


KINDS = ["bloom", "falcon", "gemma2", "gpt_neox", "mistral", "mixtral", "olmo2", "opt", "phi3", "qwen2", "smollm3"]


@pytest.mark.parametrize("kind", KINDS)
def test_other_architectures_are_read_as_transformers_reads_them(kind: str, words: Path, tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path, words, kind, pad="<|pad|>")
    model, (prompts, answers) = reward_classifier.load(str(folder)), zip(*UNTYPED, strict=True)
    assert model.score(prompts, answers) == pytest.approx(by_transformers(folder, prompts, answers), abs=2e-3)
    reward_classifier.check_scores(model)
    assert abs(model.bill_error()) < 0.01


def test_an_encoder_without_a_template_reads_one_text(words: Path, tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path, words, "bert", template="", pad="<|pad|>", is_decoder=False)
    prompts, answers = [(Turn("", "you are"),), (Turn("", "so"),)], [" a lovely page", " an idiot and more"]
    model, expected = reward_classifier.load(str(folder)), by_transformers(folder, prompts, answers)
    assert model.score(prompts, answers) == pytest.approx(expected, abs=1e-4)
    assert abs(expected[0] - expected[1]) > 0.01
    assert abs(model.bill_error()) < 0.01  # pooler and classifier are applied once a text
    assert "as one text, since it has no chat template" in reward_classifier.about(str(folder))


def test_tokens_are_those_of_the_chat_template_and_typed_control_tokens_stay_text(words: Path, tmp_path: Path) -> None:
    model = reward_classifier.load(str(write_reward_model(tmp_path, words)))
    tokenizer = model.reader.tokenizer
    for prompt, answer in UNTYPED:
        ids = tokenizer.apply_chat_template(messages_of(prompt, answer), tokenize=True, return_dict=True)["input_ids"]
        assert model.read(prompt, answer) == ids
        assert ids.count(tokenizer.bos_token_id) == 1
    turn, end = tokenizer.convert_tokens_to_ids(["<|turn|>", "<|end|>"])
    ids = model.read(TALK, ANSWERS[2])
    assert (ids.count(turn), ids.count(end)) == (4, 4)  # of three turns and the answer; two more are typed


def test_the_card_says_how_it_reads(words: Path, tmp_path: Path) -> None:
    plain, skipping = (write_reward_model(tmp_path / pad, words, pad=pad) for pad in ("<|pad|>", "<|end|>"))
    assert reward_classifier.about(str(plain)) == (
        f"reward model {plain}, trained elsewhere, training not billed; it reads prompt and answer in its own chat template"
    )
    assert reward_classifier.about(str(skipping)).endswith("up to its last '<|end|>', which is its padding token")


def test_an_architecture_without_a_class_in_transformers_is_read_at_its_end(words: Path, tmp_path: Path) -> None:
    from isoalign.models.scalar_head import scalar_head_class

    write_reward_model(tmp_path, words, pad="<|end|>")
    config = AutoConfig.for_model("granite", **SIZES | CONFIGS["granite"] | {"vocab_size": 400, "num_labels": 1})
    torch.manual_seed(0)
    made = scalar_head_class(config)(config).eval()
    made.save_pretrained(tmp_path)
    model = reward_classifier.load(str(tmp_path))
    ids = model.read(TALK, "no")
    hidden = made.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    assert model([ids, ids[:9]])[0].item() == pytest.approx((made.score.weight[0] @ hidden).item(), abs=1e-4)


# -- the reward of rollouts ------------------------------------------------------------------------------------------------


def own_reward(folder: Path, words: Path, work: Path, asked: Any, mean: float = 0.0, deviation: float = 1.0) -> OwnReward:
    record = {"mean": mean, "deviation": deviation, "flops": {"forward": 7, "backward": 0}}
    (work / "record.json").write_text(json.dumps(record))
    return OwnReward(work, ModelConfig(str(words)), reward_classifier.load(str(folder)), asked)


def test_rewards_are_scores_normalised_and_priced_over_its_own_tokens(words: Path, tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path / "rm", words)
    tokenizer = loading.load_tokenizer(str(words))
    asked, answers = ["you are", "thanks"], [" a lovely page", " no"]
    rows = rollouts(tokens.encode(tokenizer, asked), tokens.encode_words(tokenizer, answers), int(tokenizer.pad_token_id))
    prompts = [(Turn("", text),) for text in asked]
    rewarder = own_reward(
        folder, words, tmp_path, lambda ids: (Turn("", tokenizer.decode(ids, skip_special_tokens=True)),), 2.0, 4.0
    )
    raw = by_transformers(folder, prompts, answers)
    assert rewarder(rows).tolist() == pytest.approx([(score - 2) / 4 for score in raw], abs=1e-4)
    lengths = [len(rewarder.model.read(*both)) for both in zip(prompts, answers, strict=True)]
    assert rewarder.flops(rows) == shape_of(rewarder.model.model, None).forward(lengths, [0, 0])
    assert rewarder.training_bill() == [("reward", "forward", 7), ("reward", "backward", 0)]
    assert (rewarder.verdicts(), rewarder.seconds()) == ({}, 0.0)
    assert not any(parameter.requires_grad for parameter in rewarder.model.model.parameters())


def write_preferring(folder: Path, words: Path, letter: str, strength: float = 1.0) -> Path:
    """A reward model whose score rises with the share of tokens that hold the letter: uniform attention, no other layer."""
    write_reward_model(folder, words, "llama", pad="<|pad|>", num_hidden_layers=1, num_key_value_heads=4)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.zero_()
        layer, embedding = model.model.layers[0], model.model.embed_tokens.weight
        layer.self_attn.v_proj.weight.copy_(torch.eye(32))
        layer.self_attn.o_proj.weight.copy_(torch.eye(32))
        embedding[:, 1] = 1.0
        embedding[[letter in text for text in tokenizer.batch_decode([[i] for i in range(len(tokenizer))])], 0] = 1.0
        model.score.weight[0, 0] = strength
    model.save_pretrained(folder)
    return folder


def test_more_of_what_it_prefers_is_a_higher_reward(words: Path, tmp_path: Path) -> None:
    folder = write_preferring(tmp_path / "rm", words, "e")
    answers = [" bbbb bbbb", " bbbb eeee", " eeee eeee"]
    low, middle, high = reward_classifier.load(str(folder)).score([(Turn("", "so"),)] * 3, answers)
    assert low < middle < high
    tokenizer = loading.load_tokenizer(str(words))
    rows = rollouts([tokens.encode(tokenizer, ["so"])[0]] * 3, tokens.encode_words(tokenizer, answers), 1)
    rewards = own_reward(folder, words, tmp_path, lambda _: (Turn("", "so"),), -3.0, 2.0)(rows)
    assert rewards.tolist() == sorted(rewards.tolist())
    assert rewards[0] < rewards[2]
    scorer = load_answer_scorer(f"reward:{folder}")
    assert scorer(["so"] * 3, answers) == pytest.approx([low, middle, high], abs=1e-5)
    assert (scorer.higher_is_better, scorer.bounds) == (True, (None, None))


# -- conversations, not the policy's template ------------------------------------------------------------------------------

POLICY_CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def chatting(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template whose roles are no control tokens."""
    folder = tmp_path_factory.mktemp("chatting") / "model"
    shutil.copytree(words, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = POLICY_CHAT
    tokenizer.save_pretrained(folder)
    return folder


def talk(*contents: str) -> list[dict[str, str]]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(contents)]


def task_on(model: Path, folder: Path, rows: list[Any], feedback: list[Any] | None = None, **limits: Any) -> TaskConfig:
    """A task over prompts, each a text or messages, and feedback rows."""
    file, judged = folder / "prompts.jsonl", folder / "feedback.jsonl"
    file.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    judged.write_text("".join(json.dumps(row) + "\n" for row in feedback or []))
    config = ModelConfig(str(model), **{"eos": "open", "prompt_tokens": 90, "new_tokens": 6} | limits)
    given = FeedbackConfig(file=str(judged)) if feedback else FeedbackConfig()
    source = PromptsConfig(train=0, validation=0, test=0, source=str(file))
    return TaskConfig("mine", config, SFTConfig(2, 1e-3), RewardConfig(4, 1e-3), prompts=source, feedback=given)


def turns_of_messages(prompt: list[dict[str, str]] | str) -> Turns:
    return (Turn("", prompt),) if isinstance(prompt, str) else tuple(Turn(m["role"], m["content"]) for m in prompt)


def read_by(task: TaskConfig, prompt: list[dict[str, str]] | str) -> tuple[list[int], Turns]:
    """What a task's model reads of a prompt, and what a reward model is told of that."""
    turns = turns_of_messages(prompt)
    asked = PromptTurns(task)
    ids = asked.cut.prompt(turns)
    assert ids is not None
    return ids, asked(ids)


SYSTEM = {"role": "system", "content": "be kind"}
LONG = [SYSTEM, *talk(f"hi {'you ' * 9}", "a page", "who are you <|endoftext|> really")]


def prompts_with(*more: Any) -> list[Any]:
    return [*more, *(f"you are {i}" for i in range(30)), *(talk(f"so {i}", "yes", f"and {i}") for i in range(30))]


def test_a_conversation_is_read_as_its_messages_and_not_in_the_policys_template(chatting: Path, tmp_path: Path) -> None:
    task = task_on(chatting, tmp_path, prompts_with(LONG))
    ids, turns = read_by(task, LONG)
    shown = loading.load_tokenizer(str(chatting)).decode(ids, skip_special_tokens=True)
    assert shown.startswith("[system] be kind[user] hi")  # what decoding would have told
    assert turns == tuple(Turn(m["role"], m["content"]) for m in LONG)
    assert read_by(task, "you are 3")[1] == (Turn("", "you are 3"),)


def test_turns_that_the_policy_does_not_read_are_not_read_by_its_reward_model(chatting: Path, tmp_path: Path) -> None:
    task = task_on(chatting, tmp_path, prompts_with(LONG), prompt_tokens=70)
    assert read_by(task, LONG)[1] == (Turn("system", "be kind"), Turn("user", "who are you <|endoftext|> really"))
    off = replace(task, model=replace(task.model, template="off"))
    assert read_by(off, talk("so 3", "yes", "and 3"))[1] == (
        Turn("user", "so 3"),
        Turn("assistant", "yes"),
        Turn("user", "and 3"),
    )
    [cut] = read_by(off, LONG)[1]
    assert cut.role == "user"
    assert cut.content.endswith("user: who are you <|endoftext|> really")


def test_a_prompt_as_a_user_turn_is_read_as_its_text(chatting: Path, tmp_path: Path) -> None:
    task = task_on(chatting, tmp_path, prompts_with(), template="always")
    assert read_by(task, "you are 3")[1] == (Turn("", "you are 3"),)


def test_a_conversation_of_the_feedback_file_is_known_and_another_one_refused(chatting: Path, tmp_path: Path) -> None:
    told = talk("are you kind", "I am", "so")
    rows = [{"prompt": told, "chosen": talk("", "yes")[1:], "rejected": talk("", "no")[1:]}]
    task = task_on(chatting, tmp_path, prompts_with(), rows)
    assert read_by(task, told)[1] == tuple(Turn(m["role"], m["content"]) for m in told)
    with pytest.raises(UserError, match="is no prompt of mine and none of its feedback file"):
        read_by(task, talk("never asked"))


def test_a_scorer_reads_a_conversation_as_messages_and_others_read_its_text(words: Path, tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path, words)
    scorer, turns = load_answer_scorer(f"reward:{folder}"), PROMPTS[2]
    assert scorer([turns, "hi"], ["no", "no"]) == pytest.approx(
        by_transformers(folder, [turns, (Turn("user", "hi"),)], ["no", "no"]), abs=1e-4
    )
    told: list[Any] = []
    plain = AnswerScorer("plain", lambda asked, _: told.extend(asked) or [1.0] * len(asked), True)
    plain([turns, "hi"], ["no", "no"])
    assert told == ["system: be kind\n\nuser: thanks\n\nassistant:", "hi"]


def test_a_reward_model_as_judge_of_win_rates_reads_the_conversation(words: Path, tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path, words)
    judge, turns = load_scorer_judge(f"reward:{folder}", "cpu", None), PROMPTS[2]
    first, second = by_transformers(folder, [turns, turns], ["no", " a lovely page"])
    text = as_text(turns)
    assert by_transformers(folder, [(Turn("", text),)], ["no"])[0] != pytest.approx(first, abs=1e-3)
    [verdict] = judge([Question(text, "no", " a lovely page", turns)])
    assert verdict.p == float(first > second)
    sample = Sample("one", 0, text, "no", [], None, None, None, None)
    make_contests(
        tmp_path, [sample], {("one", 0): " a lovely page"}, judge, WinRateConfig(), [Prompt("one", text, "", "", turns)]
    )
    assert read_contests(tmp_path)[0].first == verdict.p


# -- what is refused -------------------------------------------------------------------------------------------------------


def rewrite(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def three_outputs(folder: Path, words: Path) -> None:
    write_reward_model(folder, words, num_labels=3)


def headless(folder: Path, words: Path) -> None:
    shutil.copytree(words, folder)


def without_tokenizer(folder: Path, words: Path) -> None:
    write_reward_model(folder, words)
    for file in folder.glob("*token*"):
        file.unlink()


def failing_template(folder: Path, words: Path) -> None:
    write_reward_model(folder, words, template="{{ raise_exception('no user') }}")


def silent_template(folder: Path, words: Path) -> None:
    write_reward_model(folder, words, template="{{ messages[0]['content'] }}<|end|>")


def last_turns(folder: Path, words: Path) -> None:
    write_reward_model(folder, words, template="{% for turn in messages[-2:] %}{{ turn['content'] }}<|end|>{% endfor %}")


def shortened(folder: Path, words: Path) -> None:
    write_reward_model(folder, words, template="{% for turn in messages %}{{ turn['content'][:60] }}<|end|>{% endfor %}")


def own_code(folder: Path, words: Path) -> None:
    write_reward_model(folder, words)
    rewrite(folder, auto_map={"AutoModelForSequenceClassification": "modeling.Model"})


def pickled(folder: Path, words: Path) -> None:
    write_reward_model(folder, words)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def encoder_decoder(folder: Path, words: Path) -> None:
    write_reward_model(folder, words)
    AutoConfig.for_model("t5", num_labels=1).save_pretrained(folder)


def other_vocabulary(folder: Path, words: Path) -> None:
    write_reward_model(folder, words, vocab_size=97)


def change_weights(folder: Path, change: Any) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        change(model.score.weight)
    model.save_pretrained(folder)


REFUSED = [
    (three_outputs, r"has 3 outputs.*task\.reward\.classifier=hf:.*#LABEL.*LABEL_0, LABEL_1, LABEL_2"),
    (headless, r"no trained reward model: it lacks the weights score\.weight"),
    (without_tokenizer, "has no tokenizer|cannot read the tokenizer"), (failing_template, "chat template of .* fails"),
    (silent_template, "does not show prompt and answer in full"), (shortened, "does not show prompt and answer in full"),
    (last_turns, "does not show the earlier turns of a conversation"), (own_code, "comes with code of its own"),
    (pickled, "cannot load the reward model"), (encoder_decoder, "encoder-decoder"), (other_vocabulary, "embeddings for 97"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "line"), REFUSED, ids=lambda each: getattr(each, "__name__", ""))
def test_what_is_no_reward_model_is_one_line(write: Any, line: str, words: Path, tmp_path: Path) -> None:
    write(tmp_path / "rm", words)
    with pytest.raises(UserError, match=line) as caught:
        reward_classifier.load(str(tmp_path / "rm"))
    assert "\n" not in str(caught.value)


def test_names_that_are_none_are_one_line(words: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot load the reward model 'nobody/nothing'.*HF_HUB_OFFLINE=0"):
        reward_classifier.load("nobody/nothing")
    folder = write_reward_model(tmp_path, words)
    with pytest.raises(UserError, match="a folder has no revision"):
        reward_classifier.load(f"{folder}@main")
    with pytest.raises(UserError, match="no #label"):
        load_answer_scorer(f"reward:{folder}#LABEL_0")


@pytest.mark.parametrize(
    ("change", "line"), [(lambda w: w.fill_(float("nan")), "not finite"), (lambda w: w.zero_(), "every answer the score 0")]
)
def test_scores_that_are_none_are_one_line(change: Any, line: str, words: Path, tmp_path: Path) -> None:
    change_weights(write_reward_model(tmp_path, words), change)
    with pytest.raises(UserError, match=line):
        reward_classifier.check_scores(reward_classifier.load(str(tmp_path)))


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_a_model_whose_batch_differs_from_its_texts_alone_is_refused(size: float, words: Path, tmp_path: Path) -> None:
    """Also where all scores are small, as rewards are taken in deviations."""
    model = reward_classifier.load(str(write_reward_model(tmp_path, words, "bert", pad="<|pad|>", is_decoder=False)))
    with torch.no_grad():
        model.model.classifier.weight *= size
        model.model.classifier.bias *= size
    reward_classifier.check_scores(model)
    inner = model.model.forward
    model.model.forward = lambda input_ids, attention_mask: inner(input_ids=input_ids)  # reads what is padding
    with pytest.raises(UserError, match="can't be read exactly"):
        reward_classifier.check_scores(model)


def test_texts_longer_than_its_positions_are_refused_and_not_cut(words: Path, tmp_path: Path) -> None:
    model = reward_classifier.load(str(write_reward_model(tmp_path / "a", words, max_position_embeddings=40)))
    with pytest.raises(UserError, match="reads at most 40 tokens, and a prompt with its answer has"):
        model.read((Turn("", "you are"),), "thanks " * 40)
    roberta = write_reward_model(tmp_path / "b", words, "roberta", template="", pad="<|pad|>", max_position_embeddings=400)
    pad = AutoTokenizer.from_pretrained(roberta).pad_token_id
    assert reward_classifier.load(str(roberta)).longest == 400 - pad - 1  # its positions begin after the padding token


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"model": "somewhere"}, "must be hf:NAME_OR_FOLDER"), ({"model": "hf:"}, "must be hf:NAME_OR_FOLDER"),
        ({"model": "hf:a#b"}, "one output and no #label"), ({"model": "hf:a", "base": "b"}, "set one of them"),
        ({"model": "hf:a", "classifier": "annotator"}, "set one of them"), ({"model": "hf:a", "golden": 3}, "for a head"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        RewardConfig(pairs=1, lr=1.0, **settings)


def test_a_reward_model_is_never_read_as_a_classifier_of_harm(words: Path, tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path, words)
    for name in (f"hf:{folder}", f"hf:{folder}#LABEL_0"):
        with pytest.raises(UserError, match=r"one output, 'LABEL_0'.*task\.reward\.model=hf:.*scorer reward:"):
            scorers.load_scorer(name)


@pytest.mark.parametrize("label", ["toxic", "Harmful", "obscene"])
def test_a_classifier_with_one_label_of_harm_is_never_read_as_a_reward_model(words: Path, tmp_path: Path, label: str) -> None:
    folder = write_reward_model(tmp_path, words, id2label={0: label})
    with pytest.raises(
        UserError, match=rf"'{label}', of which more is worse.*task\.reward\.classifier=hf:.*#{label} "
    ) as raised:
        reward_classifier.load(str(folder))
    assert "\n" not in str(raised.value)
    [score] = scorers.load_scorer(f"hf:{folder}#{label}")(["a text"])
    assert score is not None
    assert 0 <= score <= 1


def test_one_output_of_a_regression_on_harm_is_neither(words: Path, tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path, words, id2label={0: "toxic"}, problem_type="regression")
    with pytest.raises(UserError, match="one output of a regression, 'toxic'") as raised:
        scorers.load_scorer(f"hf:{folder}")
    assert "task.reward.model" not in str(raised.value)


def test_the_sign_of_a_classifiers_label_is_the_objectives(tmp_path: Path, tiny_model: Path) -> None:
    class Half:
        def __call__(self, texts: Sequence[str]) -> list[float]:
            return [0.9] * len(texts)

        def flops(self, texts: Sequence[str]) -> int:
            return 0

    (tmp_path / "record.json").write_text("{}")
    more, less = (ClassifierReward(tmp_path, ModelConfig(str(tiny_model)), Half(), False, more) for more in (True, False))
    assert more.logits(["x"]).item() == -less.logits(["x"]).item() > 0
    task = task_on(tiny_model, tmp_path, prompts_with())
    for name, objective, better in (
        ("hf:a#POSITIVE", Objective("sentiment", True), True), ("hf:a#toxic", Objective("sentiment", True), False),
        ("hf:a#insult", Objective(), False), ("annotator", Objective("sentiment", True), False),
    ):  # fmt: skip
        chosen = replace(task, objective=objective, reward=replace(task.reward, classifier=name))
        assert StageGraph(chosen, Store(tmp_path)).more_is_better is better


def test_rewards_at_an_end_of_a_classifiers_probability_are_counted(tmp_path: Path, tiny_bench: Bench) -> None:
    class Sharp:
        def __call__(self, texts: Sequence[str]) -> list[float]:
            return [(1.0, 1e-9, 0.5)[place % 3] for place in range(len(texts))]

        def flops(self, texts: Sequence[str]) -> int:
            return 0

    (tmp_path / "record.json").write_text('{"mean": 0, "std": 1}')
    lab = tiny_bench.lab()
    session = session_of(lab)
    rollouts = lab.generate(lab.prompts(3))
    rewarder = ClassifierReward(tmp_path, ModelConfig(str(tiny_bench.model)), Sharp(), False)
    assert rewards_of(session, rewarder, rollouts).tolist() == pytest.approx([-13.8, 13.8, 0], abs=0.1)
    assert session.logged["saturated"] == [(pytest.approx(2 / 3), 1.0)]
    assert not {"unscored", "equal_rewards"} & session.logged.keys()


def test_scorers_of_a_reward_model_need_an_objective_of_which_more_is_better_without_bounds(
    words: Path, tmp_path: Path
) -> None:
    name = f"reward:{write_reward_model(tmp_path, words)}"
    with pytest.raises(UserError, match=r"higher is better, of task\.objective toxicity lower"):
        check_scorers(name, name, Objective(), "cpu")
    with pytest.raises(UserError, match=r"set task\.objective\.bounds=\[null,null\]"):
        check_scorers(name, name, Objective("help", True), "cpu")
    check_scorers(name, name, Objective("help", True, (None, None), None), "cpu")


def test_the_key_follows_the_weights_and_no_other_task_has_another_one(words: Path, tmp_path: Path) -> None:
    task = task_on(words, tmp_path, prompts_with())
    folder = write_reward_model(tmp_path / "rm", words)

    def key(**settings: Any) -> str:
        chosen = replace(task, reward=replace(task.reward, **settings))
        [stage] = StageGraph(chosen, Store(tmp_path)).reward_models("annotator").values()
        return stage.key

    assert "model" not in recipe_fields(task.reward)
    first = key(model=f"hf:{folder}")
    assert first != key()
    change_weights(folder, lambda weight: weight.mul_(2))
    hub.model_identity.cache_clear()
    assert first != key(model=f"hf:{folder}")


# -- by the command ---------------------------------------------------------------------------------------------------------

HELP = ["task.objective.name=help", "task.objective.higher_is_better=true", "task.objective.bounds=[null,null]",
        "task.objective.threshold=null"]  # fmt: skip


def with_models(folder: Path, words: Path, rows: list[Any]) -> list[str]:
    """Settings of a task over these prompts: people prefer the letter e, and so do its reward model and both scorers."""
    verdicts = [{"prompt": row, "chosen": f" eee {n}", "rejected": f" bbb {n}"} for n, row in enumerate(rows)]
    for name, lines in (("prompts", [{"prompt": row} for row in rows]), ("feedback", [as_messages(row) for row in verdicts])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reward, scorer, second = (write_preferring(folder / str(n), words, "e", float(n)) for n in (1, 2, 3))
    sizes = [f"task.prompts.{split}=0" for split in ("train", "validation", "test")]
    return [f"task.prompts.source={folder / 'prompts.jsonl'}", f"task.feedback.file={folder / 'feedback.jsonl'}", *sizes,
            f"task.reward.model=hf:{reward}", f"task.evaluation.scorer=reward:{scorer}",
            f"task.evaluation.second_scorer=reward:{second}", "task.sft.source=none", *HELP]  # fmt: skip


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A pair after a conversation has its answers as messages."""
    if isinstance(row["prompt"], str):
        return row
    return row | {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}


@pytest.mark.slow
def test_a_policy_follows_what_a_reward_model_prefers_and_the_card_names_it(
    terminal: Terminal, words: Path, tmp_path: Path
) -> None:
    mine = with_models(tmp_path, words, [f"you are {n}" for n in range(60)])
    done = terminal(terminal.run("algorithm=best_of_n", "budget.steps=2", *mine))
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1])
    card = json.loads(path.read_text())
    assert card["metrics"]["gain"]["value"] > 0
    assert card["metrics"]["rm_accuracy"]["value"] == 1.0  # what people preferred has more of the letter
    assert card["notes"]["reward_model"].startswith(f"reward model {tmp_path / '1'}, trained elsewhere, training not billed")
    assert any(item["role"] == "reward" and item["flops"] > 0 for item in card["spent"]["items"])
    for command in (["verify", str(path)], ["rescore", str(path), "--all"]):
        again = terminal([COMMAND, *command, "--store", str(terminal.store)])
        assert again.returncode == 0, again.stdout + again.stderr
    settings = [*terminal.run()[2:-3], f"task.model.name={words}", *mine]
    settings = [word for word in settings if word.startswith("task.")]
    made = terminal([COMMAND, "reward", "nano", *settings, "--store", str(terminal.store), "--results", str(tmp_path / "r")])
    assert made.returncode == 0, made.stderr
    assert f"the reward model hf:{tmp_path / '1'}, trained elsewhere, whose training is not billed" in made.stdout
    shown = terminal([COMMAND, "task", "show", "nano", *settings])
    assert f"reward: reward model {tmp_path / '1'}, trained elsewhere, training not billed" in shown.stdout, shown.stderr


@pytest.mark.slow
def test_a_reward_model_of_another_objective_needs_no_verdicts_and_the_card_says_what_its_accuracy_is_of(
    terminal: Terminal, words: Path, tmp_path: Path
) -> None:
    mine = [each for each in with_models(tmp_path, words, [f"you are {n}" for n in range(60)]) if "feedback.file" not in each]
    done = terminal(terminal.run("algorithm=rloo", "algorithm.rollouts=8", "algorithm.draws=2", "budget.steps=2", *mine))
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert (card["spent"]["steps"], card["spent"]["labels"]) == (2, {})
    assert any(flag["text"].startswith("the held-out verdicts are not of the objective: ") for flag in card["flags"])
    assert card["metrics"]["rm_accuracy"]["value"] is not None


@pytest.mark.slow
def test_a_policy_that_chats_is_rewarded_for_its_messages(
    terminal: Terminal, chatting: Path, words: Path, tmp_path: Path
) -> None:
    mine = with_models(tmp_path, words, prompts_with())
    mine += [f"task.model.name={chatting}", "task.model.eos=open", "task.model.prompt_tokens=60"]
    done = terminal(terminal.run("algorithm=ppo", "algorithm.rollouts=8", "algorithm.minibatch=8", "budget.steps=2", *mine))
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    of = {name: terminal.store / f"{name.partition('_')[0]}-{key}" for name, key in card["parents"].items()}
    samples = read_rows(of["samples"] / "samples.jsonl")
    by_text = {as_text(turns): turns for turns in map(turns_of_messages, prompts_with())}
    turns, answers = [by_text[row["prompt"]] for row in samples], [row["completion"] for row in samples]
    assert {len(each) for each in turns} == {1, 3}
    scores = json.loads((of["scores"] / "scores.json").read_text())
    assert scores[f"reward:{tmp_path / '2'}"] == pytest.approx(
        reward_classifier.load(str(tmp_path / "2")).score(turns, answers), abs=1e-3
    )
    record = json.loads((of["reward_annotator"] / "record.json").read_text())
    raw = reward_classifier.load(str(tmp_path / "1")).score(turns, answers)  # nothing is cut: it reads what the scorer reads
    rewards = json.loads((of["scores"] / "rewards.json").read_text())["samples"]
    assert rewards == pytest.approx([(score - record["mean"]) / record["deviation"] for score in raw], abs=1e-3)


ONE_ROLE = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|turn|>{{ m['role'] }} {{ m['content'] }}<|end|>"
    "{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(("template", "hidden"), [(CHAT, False), (ONE_ROLE, True)], ids=["shown", "left out"])
def test_a_reward_model_that_does_not_read_the_system_is_told_of(
    template: str, hidden: bool, chatting: Path, words: Path, tmp_path: Path
) -> None:
    own = write_reward_model(tmp_path / "rm", words, template=template)
    task = task_on(chatting, tmp_path, prompts_with(LONG))
    assert preflight._check_own_reward(str(own), task)[preflight.HIDDEN] is hidden
    without = task_on(chatting, tmp_path, prompts_with())
    assert preflight._check_own_reward(str(own), without)[preflight.HIDDEN] is False


PARTS = "{% for m in messages %}<|im|>{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"


def test_a_judge_whose_template_does_not_show_the_question_is_refused(words: Path, tmp_path: Path) -> None:
    """As templates of vision models do, which read content in parts."""
    shutil.copytree(words, tmp_path / "judge")
    tokenizer = AutoTokenizer.from_pretrained(words)
    for template in (PARTS, CHAT):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "judge")
        if template == PARTS:
            with pytest.raises(UserError, match="does not show what it is asked"):
                preflight._check_model(str(tmp_path / "judge"), True, roles=("user",))
        else:
            preflight._check_model(str(tmp_path / "judge"), True, roles=("user", "assistant", "user"))


def test_another_label_of_a_scorer_is_checked_anew(words: Path, tmp_path: Path) -> None:
    task = task_on(words, tmp_path, prompts_with())
    keys = {
        StageGraph(replace(task, evaluation=replace(task.evaluation, scorer=f"hf:{words}#{label}")), Store(tmp_path))
        .preflight(0).key
        for label in ("polite", "toxic")
    }  # fmt: skip
    assert len(keys) == 2


@pytest.mark.slow
def test_a_reward_model_that_is_misused_is_one_line_before_any_stage(terminal: Terminal, words: Path, tmp_path: Path) -> None:
    folder = write_reward_model(tmp_path / "rm", words)
    whole = with_models(tmp_path, words, [f"are you {i}" for i in range(60)])
    own = next(word.partition("hf:")[2] for word in whole if word.startswith("task.reward.model="))
    rest = [word for word in whole if not word.startswith("task.evaluation.scorer=")]
    for settings, line in (
        ([f"task.reward.classifier=hf:{folder}#LABEL_0"], f"set task.reward.classifier='' and task.reward.model=hf:{folder}"),
        ([*rest, f"task.evaluation.scorer=reward:{own}"], "is an evaluation scorer"),
        ([f"task.reward.model=hf:{folder}", "task.model.new_tokens=126"], "reads at most 128 tokens"),
    ):
        assert line in complaint(terminal(terminal.run("algorithm=ppo", "budget.steps=2", *settings)))
    assert finished(terminal.store) == {}


def test_a_value_with_a_label_is_quoted_for_the_grammar_of_settings() -> None:
    assert overrides.quoted("task.reward.classifier=hf:a/b#toxic") == 'task.reward.classifier="hf:a/b#toxic"'
    assert task_named("nano", ["task.reward.classifier=hf:a/b#toxic"]).reward.classifier == "hf:a/b#toxic"
    for word in ("task.seed=3", 'task.reward.classifier="hf:a#b"', "task.name=a#b,c"):
        assert overrides.quoted(word) == word


@pytest.mark.slow
def test_a_reward_model_can_be_the_known_reward_of_a_task_and_reads_conversations_in_every_role(
    terminal: Terminal, chatting: Path, words: Path, tmp_path: Path
) -> None:
    mine = [each for each in with_models(tmp_path, words, prompts_with()) if "reward.model" not in each and "file" not in each]
    mine += [f"task.model.name={chatting}", "task.model.eos=open", "task.model.prompt_tokens=60", "task.known_reward=true"]
    done = terminal(terminal.run("algorithm=best_of_n", "budget.steps=2", *mine))
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert card["metrics"]["gain"]["value"] > 0
    assert any(item["role"] == "reward" and item["flops"] > 0 for item in card["spent"]["items"])
    of = {name: terminal.store / f"{name.partition('_')[0]}-{key}" for name, key in card["parents"].items()}
    record = json.loads((of["reward_annotator"] / "record.json").read_text())
    scores = json.loads((of["scores"] / "scores.json").read_text())[f"reward:{tmp_path / '2'}"]
    rewards = json.loads((of["scores"] / "rewards.json").read_text())["samples"]
    assert rewards == pytest.approx([(score - record["mean"]) / record["deviation"] for score in scores], abs=1e-3)
    scorer = reward_classifier.load(str(tmp_path / "2"))
    asked = {text_fingerprint(as_text(turns)): turns for turns in map(turns_of_messages, prompts_with())}
    verdicts = read_rows(of["pairs"] / "pairs.jsonl")
    assert any(len(asked[row["prompt_id"]]) == 3 for row in verdicts)
    for row in verdicts:  # they too are of the conversation
        chosen, rejected = scorer.score([asked[row["prompt_id"]]] * 2, [row["chosen"], row["rejected"]])
        assert (chosen > rejected) == row["clean"]
