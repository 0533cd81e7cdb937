"""Answers have the tokens and the texts that they have behind their prompts, and none that the model may not write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from isoalign.config.task import FeedbackConfig, ModelConfig
from isoalign.core.errors import UserError
from isoalign.data import comments
from isoalign.data.formats import Turn
from isoalign.data.preferences import rollouts
from isoalign.models import loading, tokens
from isoalign.models.language import LanguageModel
from isoalign.models.reward import Retokenizer
from isoalign.stages import from_file, sft
from isoalign.stages.cutting import Cutter
from isoalign.tools import external

WORDS = ["The cat sat on the mat and the dog sat too [INST] [/INST] . isoalign"] * 30
INST = "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
INST += "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
KINDS = ("prepended", "first", "bytes")


def make(kind: str, **more: Any) -> Any:
    """Tokenizers that put a space before every text (Llama 2), before the first word (Metaspace), or nowhere (GPT-2)."""
    own = Tokenizer(models.BPE(unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    if kind == "bytes":
        own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    own.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False))
    if kind == "prepended":
        own.pre_tokenizer = None
        own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    elif kind == "first":
        own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        own.decoder = decoders.Metaspace(prepend_scheme="first")
    own.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=own, padding_side="left", **names, **more)


def saved(folder: Path, tokenizer: Any, **generation: Any) -> Path:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if generation:
        model.generation_config = GenerationConfig(**generation)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pairs_of(folder: Path, tokenizer: Any, chosen: list[str], config: ModelConfig) -> tuple[list[Any], dict[str, Any]]:
    """The pairs of a file with one prompt for each of the chosen answers, and their record."""
    rows = [{"prompt": "The cat" + " sat" * n, "chosen": text, "rejected": " too"} for n, text in enumerate(chosen)]
    file = folder / "verdicts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_file.make_human_pairs(folder, FeedbackConfig(file=str(file)), tokenizer, config, "train")
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    return pairs, json.loads((folder / "record.json").read_text())


# -- tokens and texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("head", "rest"), [("The cat", " sat on the mat"), ("The dog sat", "."), ("The cat", "")])
def test_prompt_and_answer_have_the_tokens_and_the_text_of_the_whole(kind: str, head: str, rest: str) -> None:
    tokenizer = make(kind)
    [prompt], [answer] = tokens.encode(tokenizer, [head]), tokens.encode_words(tokenizer, [rest])
    assert prompt + answer == tokenizer(head + rest)["input_ids"]
    both = rollouts([prompt], [answer], 2)
    assert tokens.decode_prompts(tokenizer, both)[0] + tokens.decode(tokenizer, both)[0] == head + rest


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_keeps_its_space_in_another_models_tokens(kind: str) -> None:
    own, other = make(kind), make("bytes")
    translate = Retokenizer(own, other)
    [prompt], [answer] = tokens.encode(own, ["The cat"]), tokens.encode_words(own, [" sat on"])
    assert translate.prompt(prompt) + translate.answer(answer) == other("The cat sat on")["input_ids"]


def test_examples_of_sft_are_the_tokens_of_the_whole_comment() -> None:
    tokenizer = make("prepended")
    rows = sft.examples(tokenizer, ModelConfig("m", eos="masked", prompt_tokens=999, new_tokens=5), 20, 3, 0)
    texts = [comment.text for comment in comments.load_comments("sft")]
    random.Random(0).shuffle(texts)
    wholes = tokenizer(texts[:200])["input_ids"]
    for prompt, answer in rows:
        assert any(ids[: len(prompt) + 5] == prompt + answer for ids in wholes)


@pytest.mark.parametrize("kind", ["prepended", "bytes"])
def test_an_answer_in_a_conversation_has_the_space_that_its_template_writes(kind: str) -> None:
    tokenizer = make(kind, chat_template=INST)
    cut = Cutter(tokenizer, ModelConfig("m", eos="masked", prompt_tokens=99, new_tokens=99))
    talk = [{"role": "user", "content": "The cat"}, {"role": "assistant", "content": "sat on"}]
    whole = tokens.encode_chat_text(tokenizer, tokens.chat_text(tokenizer, talk, answer=False))
    prompt = cut.prompt((Turn("user", "The cat"),))
    assert prompt is not None
    said = prompt + cut.answer((Turn("assistant", "sat on"),))
    assert said == whole[: len(said)]
    assert len(said) < len(whole)


# -- tokens that no answer may have ---------------------------------------------------------------------------------------


def test_pairs_with_an_unknown_token_are_left_out_and_counted(tmp_path: Path) -> None:
    tokenizer = loading.load_tokenizer(str(saved(tmp_path, make("first"))))
    answers = [" sat on ☂" if n % 2 else " sat on" for n in range(40)]
    config = ModelConfig(str(tmp_path), eos="open", prompt_tokens=50, new_tokens=9)
    pairs, record = pairs_of(tmp_path, tokenizer, answers, config)
    model = LanguageModel(loading.load_model(str(tmp_path))[0], tokenizer, ends=True)
    kept = rollouts([row["prompt_ids"] for row in pairs], [row["chosen_ids"] for row in pairs], 2)
    assert model(kept).logp.min() > -50
    assert record["dropped"][from_file.UNSAYABLE] > 0
    assert {row["chosen"] for row in pairs} == {" sat on"}


def test_pairs_with_a_word_that_ends_answers_are_left_out_where_the_length_is_fixed(tmp_path: Path) -> None:
    tokenizer = make("first")
    word = tokens.encode_words(tokenizer, [" dog"])[0][-1]
    tokenizer = loading.load_tokenizer(str(saved(tmp_path, tokenizer, eos_token_id=[2, word])))
    answers = [" and the dog" if n % 2 else " sat on" for n in range(40)]
    for eos, left in (("masked", {" sat on"}), ("open", {" sat on", " and the dog"})):
        config = ModelConfig(str(tmp_path), eos=eos, prompt_tokens=50, new_tokens=9)
        pairs, record = pairs_of(tmp_path, tokenizer, answers, config)
        assert {row["chosen"] for row in pairs} == left
        assert (from_file.UNSAYABLE in record["dropped"]) is (eos == "masked")


def test_labels_with_an_unknown_token_are_left_out_and_counted(tmp_path: Path) -> None:
    tokenizer = loading.load_tokenizer(str(saved(tmp_path, make("first"))))
    rows = [
        {"prompt": "The cat" + " sat" * (n // 2), "completion": " ☂" if n % 4 == 1 else " on", "label": n % 2 == 0}
        for n in range(80)
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ModelConfig(str(tmp_path), eos="open", prompt_tokens=50, new_tokens=9)
    from_file.make_unpaired(tmp_path, FeedbackConfig(file=str(file)), tokenizer, config)
    record = json.loads((tmp_path / "record.json").read_text())
    left = [json.loads(line)["answer_ids"] for line in (tmp_path / "unpaired.jsonl").read_text().splitlines()]
    assert record["dropped"][from_file.UNSAYABLE] > 0
    assert all(tokenizer.unk_token_id not in ids for ids in left)


def test_an_outside_answer_with_an_unknown_token_has_the_probability_that_the_weights_give(tmp_path: Path) -> None:
    folder = str(saved(tmp_path, make("first")))
    inner, tokenizer = loading.load_model(folder)
    prompt, answers = [1, 5, 6], [[7, 8], [], [7, 0]]
    usual, none, unknown = external.base_logp([prompt] * 3, answers, LanguageModel(inner, tokenizer, ends=True))
    logp = inner(input_ids=torch.tensor([[*prompt, 7, 0]])).logits[0].log_softmax(-1)
    assert unknown == pytest.approx((logp[2, 7] + logp[3, 0]).item(), abs=1e-4)
    allowed = inner(input_ids=torch.tensor([[*prompt, 7, 8]])).logits[0]
    allowed[:, [0, 1]] = -torch.inf
    assert usual == pytest.approx((allowed.log_softmax(-1)[2, 7] + allowed.log_softmax(-1)[3, 8]).item(), abs=1e-4)
    assert none == 0


def test_an_end_token_below_zero_is_none_and_a_nested_one_is_refused() -> None:
    tokenizer = make("bytes")
    ends = tokens.end_ids(tokenizer, GenerationConfig(eos_token_id=-1))
    assert ends == [2]
    assert tokens.banned_ids(tokenizer, len(tokenizer), ends, open_ends=False) == [0, 1, 2]
    with pytest.raises(UserError, match=r"has the end token \[0\], not a number; mend eos_token_id"):
        tokens.end_ids(tokenizer, GenerationConfig(eos_token_id=[[0]]))
