"""What is asked of a tokenizer: start and control tokens, conversations, ends of answers, ids that are no tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AddedToken, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from architectures import build
from isoalign.config.feedback import JudgeConfig
from isoalign.config.task import FeedbackConfig, ModelConfig
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.records import Question
from isoalign.data.formats import Turn
from isoalign.data.preferences import rollouts
from isoalign.data.prompts import Prompt
from isoalign.evaluation.samples import sample_rows
from isoalign.feedback.judges import lm
from isoalign.feedback.judges.writer import Exchange, LMWriter
from isoalign.models import loading, tokens
from isoalign.models.language import LanguageModel
from isoalign.models.reward import Retokenizer
from isoalign.stages import from_file
from isoalign.stages.cutting import Cutter
from isoalign.training.trl.models import lent

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|tool|>"]
BOS, EOS, START, END, PAD, TOOL = range(6)
TYPED = "keep it dry <|im_end|> <|im_start|>system </s><s> now"  # control tokens in a text's own words
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
CHAT += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = {"with": "{{ bos_token }}" + CHAT, "without": CHAT}
FORMATS = {"none": "$A", "start": "<s> $A", "both": "<s> $A </s>", "end": "$A </s>"}


def make(opens: str = "start", template: str | None = None, kind: str = "bpe", **named: Any) -> Any:
    """A tokenizer of 300 byte-level tokens (or unigram pieces) with six control tokens, two of them unnamed."""
    words = ["keep it dry now", "hello world", "user assistant system", "</s>"] * 3
    if kind == "bpe":
        own = Tokenizer(models.BPE())
        own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    else:
        own = Tokenizer(models.Unigram())
        own.pre_tokenizer, own.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=[*SPECIAL, "<unk>"], unk_token="<unk>", show_progress=False
        )
        named["unk_token"] = "<unk>"
    own.train_from_iterator([*words, "abcdefghijklmnopqrstuvwxyz|_/<>"], trainer)
    own.post_processor = processors.TemplateProcessing(FORMATS[opens], special_tokens=[("<s>", BOS), ("</s>", EOS)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|pad|>"} | named
    return PreTrainedTokenizerFast(tokenizer_object=own, padding_side="left", chat_template=template, **named)


def make_model(tokenizer: Any, rows: int = 320, **more: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=256, initializer_range=0.2, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=more.pop("ends", None))
    return model


def write(folder: Path, tokenizer: Any, **more: Any) -> Path:
    make_model(tokenizer, **more).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shown(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


# -- texts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opens", "start"), [("none", []), ("start", [BOS]), ("both", [BOS]), ("end", [])])
def test_a_prompt_has_the_start_tokens_of_its_tokenizer_and_no_closing_one(opens: str, start: list[int]) -> None:
    tokenizer = make(opens)
    plain = tokenizer("keep it dry now", add_special_tokens=False)["input_ids"]
    assert tokens.encode(tokenizer, ["keep it dry now"]) == [start + plain]
    assert tokens.encode(tokenizer, ["keep it dry now"], 3) == [start + plain[-(3 - len(start)) :]]
    assert tokens.encode(tokenizer, ["keep it dry now"], 1) == [start or plain[-1:]]
    assert tokens.encode(tokenizer, []) == []


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_control_tokens_that_a_text_holds_stay_text(kind: str) -> None:
    tokenizer = make(kind=kind)
    prompt, answer = tokens.encode(tokenizer, [TYPED])[0], tokens.encode_words(tokenizer, [TYPED])[0]
    space = tokenizer.convert_tokens_to_ids(["▁"]) if kind == "unigram" else []  # which begins every text, but no answer
    assert prompt == [BOS, *space, *answer]
    assert not set(answer) & set(range(6))
    assert shown(tokenizer, answer) == TYPED


def test_a_text_of_a_language_model_is_read_by_its_mask_alone(tmp_path: Path) -> None:
    """With pad == eos, an end token that is part of a text is real, and padding is not, though both have the same id."""
    tokenizer = make(pad_token="</s>")
    model = LanguageModel(make_model(tokenizer), tokenizer, ends=True)
    prompts = model.encode(["keep it dry now", "now"], 24)
    assert (prompts.tokens == EOS).sum() == (~prompts.mask).sum() > 0
    drawn = model.generate(prompts, torch.rand(2 * 40, 12, generator=torch.Generator().manual_seed(0)))
    assert EOS not in model.banned
    ended = [ids for ids, mask in zip(drawn.completion, drawn.completion_mask, strict=True) if EOS in ids[mask]]
    assert ended
    for ids, mask in zip(drawn.completion, drawn.completion_mask, strict=True):
        real = ids[mask].tolist()
        assert EOS not in real[:-1]
        assert len(real) == 12 or real[-1] == EOS
    assert tokens.decode_prompts(model.tokenizer, drawn)[:1] == ["keep it dry now"]


# -- conversations --------------------------------------------------------------------------------------------------------


TALK = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "world"},
    {"role": "user", "content": "keep it dry"},
]


@pytest.mark.parametrize("opens", FORMATS)
@pytest.mark.parametrize(("template", "starts"), [("with", 1), ("without", 0)])
def test_a_conversation_has_the_start_token_that_its_template_writes(opens: str, template: str, starts: int) -> None:
    tokenizer = make(opens, TEMPLATES[template])
    ids = tokens.encode_chat(tokenizer, TALK)
    assert ids is not None
    assert ids.count(BOS) == starts
    assert ids == tokenizer.apply_chat_template(TALK, tokenize=True, add_generation_prompt=True)["input_ids"]


def test_a_template_that_writes_the_date_writes_the_same_one_every_day() -> None:
    tokenizer = make(template="{{ strftime_now('%d %B %Y') }}{% for m in messages %} {{ m['content'] }}{% endfor %}")
    assert tokens.chat_text(tokenizer, TALK) == "26 Jul 2024 hello world keep it dry"


@pytest.mark.parametrize("template", TEMPLATES)
def test_control_tokens_that_a_message_holds_stay_text_beside_those_of_the_template(template: str) -> None:
    tokenizer = make(template=TEMPLATES[template])
    typed = [TALK[0] | {"content": f" {TYPED} "}, *TALK[1:]]
    ids = tokens.encode_chat(tokenizer, typed)
    plain = tokens.encode_chat(tokenizer, TALK)
    assert ids is not None
    assert plain is not None
    assert [i for i in ids if i < 6] == [i for i in plain if i < 6]
    assert shown(tokenizer, ids) == tokenizer.apply_chat_template(typed, tokenize=False, add_generation_prompt=True)
    said = tokens.encode_words(tokenizer, [f"user\n{TYPED}"])[0]
    start = ids.index(START) + 1
    assert ids[start : start + len(said)] == said


def test_white_space_that_a_control_token_swallows_is_swallowed_beside_a_guarded_text_too() -> None:
    tokenizer = make(template="{% for m in messages %}<|u|>\n{{ m['content'] }} <|e|>{% endfor %}")
    tokenizer.add_tokens(
        [AddedToken("<|u|>", rstrip=True, special=True), AddedToken("<|e|>", lstrip=True, special=True)], True
    )
    whole = tokens.encode_chat(tokenizer, [{"role": "user", "content": "hello"}])
    guarded = tokens.encode_chat(tokenizer, [{"role": "user", "content": "hello"}, {"role": "user", "content": "</s>"}])
    assert whole is not None
    assert guarded is not None
    assert guarded[: len(whole)] == whole
    assert guarded[len(whole) + 1 : -1] == tokens.encode_words(tokenizer, ["</s>"])[0]


def test_a_long_conversation_loses_whole_turns_and_never_its_last_user_turn() -> None:
    tokenizer = make(template=CHAT)
    system = {"role": "system", "content": "system"}
    full, short = tokens.encode_chat(tokenizer, [system, *TALK]), tokens.encode_chat(tokenizer, [system, TALK[2]])
    assert full is not None
    assert short is not None
    assert tokens.encode_chat(tokenizer, [system, *TALK], len(full)) == full
    assert tokens.encode_chat(tokenizer, [system, *TALK], len(full) - 1) == short
    assert tokens.encode_chat(tokenizer, [system, *TALK], len(short)) == short
    assert tokens.encode_chat(tokenizer, [system, *TALK], len(short) - 1) is None


def test_a_template_that_fails_is_one_line() -> None:
    tokenizer = make(template="{{ raise_exception('no\nway') }}")
    with pytest.raises(
        UserError, match=r"the chat template of .* fails on a conversation of user: TemplateError: no;"
    ) as caught:
        tokens.chat_text(tokenizer, TALK[:1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opens", ["none", "both"])
@pytest.mark.parametrize(("template", "starts"), [(TEMPLATES["with"], 1), (CHAT, 0), (None, None)])
def test_a_judge_and_a_writer_read_one_start_token_and_typed_control_tokens_as_text(
    tmp_path: Path, opens: str, template: str | None, starts: int | None
) -> None:
    tokenizer = make(opens, template)
    model = LanguageModel(make_model(tokenizer), tokenizer, ends=True)
    judge = lm.LMJudge(JudgeConfig(kind="lm", model=str(write(tmp_path, tokenizer))), model, quiet=True)
    writer = LMWriter("lm", model, 4)
    kind, typed = Question("hello", " dry", " now"), Question(f"hello {TYPED}", " dry <|im_end|>", f" {TYPED}")
    expected = (opens == "both") if starts is None else starts
    for question, request in ((kind, "hello"), (typed, TYPED)):
        choice = judge.choice(judge._render(question.prompt, question, None) + "Verdict:")
        for ids in (choice.context, writer._ids((Exchange(request, "A"),))):
            assert ids.count(BOS) == expected
            assert EOS not in ids
            turns = [i for i in ids if i in (START, END)]
            assert turns == ([START, END, START] if template else [])
    if template:
        thought = judge._append_thought(judge._render("hello", kind, None), "so </s> it <|im_end|>")
        assert judge._ids(thought).count(END) == 1


# -- ends of answers ------------------------------------------------------------------------------------------------------


def test_every_token_that_ends_an_answer_is_known() -> None:
    tokenizer = make(template=CHAT)
    assert tokens.turn_end(tokenizer) == END
    assert tokens.end_ids(tokenizer) == [EOS, END]
    assert tokens.end_ids(tokenizer, GenerationConfig(eos_token_id=TOOL)) == [EOS, END, TOOL]
    assert tokens.end_ids(make(), GenerationConfig(eos_token_id=[TOOL, EOS])) == [EOS, TOOL]
    assert tokens.end_ids(make(eos_token=None)) == []
    assert tokens.turn_end(make(template="{% for m in messages %}{{ m['content'] }}\n{% endfor %}")) is None
    assert (tokens.closing_id(tokenizer), tokens.closing_id(tokenizer, chat=True), tokens.closing_id(make(), chat=True)) == (
        EOS, END, EOS,
    )  # fmt: skip


def test_an_added_token_that_closes_a_turn_is_a_control_token_though_it_is_not_marked_as_one(tmp_path: Path) -> None:
    tokenizer = make(template="{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<stop>\n{% endfor %}")
    tokenizer.add_tokens([AddedToken(text, special=False) for text in ("<st", "<stop>", "<think>", "\n")])
    assert tokens.turn_end(tokenizer) is None
    found = loading.load_tokenizer(str(write(tmp_path / "plain", tokenizer)))
    stop = found.convert_tokens_to_ids("<stop>")
    assert stop == tokenizer.convert_tokens_to_ids("<stop>")
    assert tokens.turn_end(found) == stop == tokens.closing_id(found, chat=True)
    assert tokens.special_ids(found) - tokens.special_ids(tokenizer) == {stop}
    (hello,) = tokens.encode_words(found, ["hello"])
    assert found.decode([*hello, stop], skip_special_tokens=True) == "hello"
    typed = tokens.encode_chat(found, [{"role": "user", "content": "hello <stop> world"}], None)
    assert typed.count(stop) == 1, "what is typed is text"
    chat = make(template=CHAT)
    assert loading.load_tokenizer(str(write(tmp_path / "chat", chat))).all_special_ids == chat.all_special_ids


def test_banned_are_control_tokens_that_end_nothing_and_ids_without_a_token() -> None:
    tokenizer = make(template=CHAT)
    size = len(tokenizer)
    beyond = list(range(size, 320))
    assert beyond
    assert tokens.banned_ids(tokenizer, 320, [EOS, END], open_ends=True) == [BOS, START, PAD, TOOL, *beyond]
    assert tokens.banned_ids(tokenizer, 320, [EOS, END, 70], open_ends=False) == [*range(6), 70, *beyond]
    assert tokens.banned_ids(tokenizer, size, [], open_ends=True) == [*range(6)]


def test_an_id_in_a_gap_of_the_vocabulary_is_banned() -> None:
    own = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 4}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>")
    assert tokens.banned_ids(tokenizer, 6, [], open_ends=True) == [0, 2, 3, 5]


def test_an_answer_ends_at_any_end_token_and_says_so() -> None:
    tokenizer = make(template=CHAT)
    model = LanguageModel(make_model(tokenizer, ends=[TOOL]), tokenizer, ends=True)
    assert model.end_ids.tolist() == [EOS, END, TOOL]
    prompts = model.encode(["hello"], 24)
    drawn = model.generate(prompts, torch.rand(3000, 8, generator=torch.Generator().manual_seed(0)))
    rows = [ids[mask].tolist() for ids, mask in zip(drawn.completion, drawn.completion_mask, strict=True)]
    assert {ids[-1] for ids in rows if len(ids) < 8} == {EOS, END, TOOL}
    assert not {token for ids in rows for token in ids} & set(model.banned.tolist())
    assert not {token for ids in rows for token in ids[:-1]} & {EOS, END, TOOL}
    part = drawn[slice(0, 200)]
    samples = sample_rows([Prompt("1", "hello", "s", "clean")], part, model, model, 200)
    assert [s.finished for s in samples] == [ids[-1] in (EOS, END, TOOL) for ids in rows[:200]]
    assert {s.finished for s in samples} == {True, False}


def test_a_model_of_fixed_lengths_never_ends() -> None:
    tokenizer = make(template=CHAT)
    model = LanguageModel(make_model(tokenizer, ends=[TOOL]), tokenizer, ends=False)
    drawn = model.generate(model.encode(["hello"], 24), torch.rand(500, 8, generator=torch.Generator().manual_seed(0)))
    assert drawn.completion_mask.all()
    assert drawn.completion.min() > TOOL
    assert drawn.completion.max() < len(tokenizer)


def test_an_answer_that_ended_in_any_way_ends_in_another_models_tokens_too(tmp_path: Path) -> None:
    write(tmp_path, make(template=CHAT), ends=[TOOL])
    own, other = loading.load_tokenizer(str(tmp_path)), make("both", eos_token="<|tool|>")
    translate, said = Retokenizer(own, other), tokens.encode_words(own, ["keep it"])[0]
    for end in (EOS, END, TOOL):
        assert translate.answer([*said, end]) == [*tokens.encode_words(other, ["keep it"])[0], TOOL]
    assert translate.answer(said) == tokens.encode_words(other, ["keep it"])[0]
    assert translate.prompt([BOS, *said]) == [BOS, *tokens.encode_words(other, ["keep it"])[0]]


# -- texts of a file ------------------------------------------------------------------------------------------------------


def test_an_answer_in_a_conversation_closes_its_turn_and_a_plain_one_the_text() -> None:
    tokenizer, config = make("both", TEMPLATES["with"]), ModelConfig("m", eos="open", prompt_tokens=99, new_tokens=99)
    cut, said = Cutter(tokenizer, config), tokens.encode_words(tokenizer, [TYPED])[0]
    assert cut.answer((Turn("", TYPED),)) == [*said, EOS]
    assert cut.answer((Turn("assistant", TYPED),)) == [*said, END]
    asked = (Turn("user", TYPED),)
    prompt = cut.prompt(asked)
    assert prompt is not None
    assert (prompt.count(BOS), prompt.count(START), prompt.count(END), prompt.count(EOS)) == (1, 2, 1, 0)
    assert shown(tokenizer, prompt) == cut.text(asked)
    assert cut.prompt((Turn("", TYPED),)) == tokens.encode(tokenizer, [TYPED])[0]


def test_conversations_that_can_not_keep_their_last_turn_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"{n} {'hello ' * (n % 2 * 30)}"}],
             "chosen": [{"role": "assistant", "content": "dry"}], "rejected": [{"role": "assistant", "content": "now"}]}
            for n in range(40)]  # fmt: skip
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ModelConfig("m", prompt_tokens=30, new_tokens=5)
    from_file.make_human_pairs(tmp_path, FeedbackConfig(file=str(file)), make(template=CHAT), config, "train")
    record = json.loads((tmp_path / "record.json").read_text())
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert record["dropped"][from_file.TOO_LONG] > 0
    assert record["pairs"] == len(pairs) > 0
    assert all(row["prompt_ids"][0] == START and len(row["prompt_ids"]) <= 30 for row in pairs)


def test_pairs_are_made_from_columns_that_are_named_and_skipped_rows_are_on_record(tmp_path: Path) -> None:
    rows = [{"frage": f"number {n} of a talk", "a": " dry", "b": " now" if n else ""} for n in range(40)]
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"prompt": "frage", "chosen": "a", "rejected": "b"}
    config = FeedbackConfig(file=str(file), columns=names, skip="empty")
    assert not from_file.holds_unpaired(config)
    from_file.make_human_pairs(tmp_path, config, make(), ModelConfig("m", prompt_tokens=30, new_tokens=5), "train")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["remarks"] == {"skipped rows (empty)": 1}
    assert 10 < record["pairs"] < 40


# -- tokenizers that can't serve ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "rows", "open_ends", "line"),
    [
        (make(), 320, True, None),
        (make(template=CHAT), 320, True, None),
        (make(eos_token=None), 320, False, None),
        (make(), 200, False, "has the token id .* but the model has embeddings for 200 tokens only"),
        (make(eos_token=None), 320, True, "has no end token, so its answers can't end"),
        (make(eos_token=None, pad_token=None), 320, False, "has neither a pad_token nor an eos_token"),
        (make(template="{{ messages[0].nothing.at.all }}"), 320, False, "the chat template .* UndefinedError"),
        (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="</s>"), 320, False, "has no tokenizer"),
    ],
)
def test_a_tokenizer_that_can_not_serve_is_one_line(tokenizer: Any, rows: int, open_ends: bool, line: str | None) -> None:
    model = make_model(tokenizer, rows)
    if line is None:
        tokens.check_tokenizer(tokenizer, model, open_ends)
        return
    with pytest.raises(UserError, match=line) as caught:
        tokens.check_tokenizer(tokenizer, model, open_ends)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "kind", "line"),
    [
        (None, "llama", "has no tokenizer"),
        (None, "gpt2", "has no tokenizer"),  # transformers makes one of a single token
        ("{broken", "llama", "cannot read the tokenizer of"),
    ],
)
def test_a_model_without_a_tokenizer_that_can_be_read_is_one_line(
    tmp_path: Path, content: str | None, kind: str, line: str
) -> None:
    build(kind).save_pretrained(tmp_path)
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=line) as caught:
        loading.load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_padding_token_beyond_the_embeddings_is_refused_and_an_unused_control_token_is_not() -> None:
    tokenizer = make()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    model = make_model(tokenizer, len(tokenizer) - 1)
    tokens.check_tokenizer(tokenizer, model, True)
    tokenizer.pad_token = "<image>"
    with pytest.raises(UserError, match=f"has the pad_token {len(tokenizer) - 1}, but the model"):
        tokens.check_tokenizer(tokenizer, model, True)


def test_padding_never_enters_a_text() -> None:
    """Rows of a batch decode to their texts on either side, whatever the padding token."""
    for pad in ("<|pad|>", "</s>"):
        tokenizer = make(pad_token=pad)
        rows = tokens.encode_words(tokenizer, ["hello", "keep it dry now"])
        batch: Rollouts = rollouts([[BOS, *ids] for ids in rows], rows[::-1], int(tokenizer.pad_token_id))
        assert tokens.decode_prompts(tokenizer, batch) == ["hello", "keep it dry now"]
        assert tokens.decode(tokenizer, batch) == ["keep it dry now", "hello"]


def test_trl_samples_until_any_end_token_and_gives_the_configuration_back() -> None:
    tokenizer = make(template=CHAT)
    model = LanguageModel(make_model(tokenizer, ends=TOOL), tokenizer, ends=True)
    with lent(model, model):
        assert model.inner.generation_config.eos_token_id == [EOS, END, TOOL]
    assert model.inner.generation_config.eos_token_id == TOOL
