"""The evaluation scorers and embeddings: known numbers, and that a text's score depends on nothing but the text."""

import io
import math
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from isoalign.config.evaluation import EvaluationConfig
from isoalign.core.errors import UserError
from isoalign.data import assets, convert
from isoalign.evaluation.scores import weights_digest
from isoalign.models import scorers
from isoalign.models.answer_scorers import load_answer_scorer
from isoalign.models.bilstm import LABELS, LENGTH, BiLSTM, Vocabulary
from isoalign.models.embed import WIDTH, embed
from isoalign.models.scorers import Scorer, load_scorer
from isoalign.runs.flags import score_flags

TEXTS = [
    "You are an idiot and you smell.",
    "Thanks, that was kind of you.",
    "",
    "zxqv " * 300,
    "what a shitty day " * 40,
] + [f"This is comment number {i}, " + "and it goes on " * (i % 7) for i in range(40)]

# What the README of tox-block prints with rescale=True: (p - low) / (high - low) with its RESCALE_PROBA.
LOW = torch.tensor([0.002116, 0.000011, 0.000347, 0.000040, 0.000373, 0.000074])
HIGH = torch.tensor([0.999858, 0.648682, 0.997533, 0.918887, 0.986303, 0.901117])
TOX_BLOCK = {
    "Good morning my friend, I hope you're having a fantastic day!": [
        0.053478114,
        0.000627402,
        0.004466843,
        0.009578479,
        0.007578434,
        0.002106668,
    ],
    "I will kill you, you fucking idiot!": [
        0.999867976,
        0.787036300,
        0.988563359,
        0.848390818,
        0.988339722,
        0.171059251,
    ],
    "I do strongly disagree with the fascist views of this joke that calls itself a political party.": [
        0.026190076,
        0.000071851,
        0.000949360,
        0.000123213,
        0.002919062,
        0.002209889,
    ],
}
# What the README of toxic-comment-classifier prints: all labels of one text, and the mean of the labels of others.
TOXIC_CLASSIFIER = {
    "You are so dumb and stupid!": [0.988940299, 0.072567724, 0.620429277, 0.019348456, 0.866407514, 0.040729482],
}
MEANS = {
    "I hate you so much!": 0.1395,
    "This is wonderful news.": 0.0013,
    "You're disgusting!": 0.3110,
    "Absolutely love your energy!": 0.0088,
    "You're the worst person ever!": 0.0937,
    "Have a nice day :)": 0.0115,
}


def test_tox_block_prints_what_its_readme_prints() -> None:
    found = BiLSTM.load(assets.asset_path("tox_block"))(list(TOX_BLOCK))
    expected = torch.tensor(list(TOX_BLOCK.values()))
    torch.testing.assert_close(((found - LOW) / (HIGH - LOW)).abs(), expected, atol=2e-7, rtol=0)


def test_toxic_classifier_prints_what_its_readme_prints() -> None:
    model = BiLSTM.load(assets.asset_path("toxic_classifier"))
    expected = torch.tensor(list(TOXIC_CLASSIFIER.values()))
    torch.testing.assert_close(model(list(TOXIC_CLASSIFIER)), expected, atol=2e-7, rtol=0)
    torch.testing.assert_close(model(list(MEANS)).mean(1), torch.tensor(list(MEANS.values())), atol=5.1e-5, rtol=0)


def test_a_scorer_gives_the_probability_of_toxic() -> None:
    text = "I will kill you, you fucking idiot!"
    raw = TOX_BLOCK[text][LABELS.index("toxic")] * (HIGH[0] - LOW[0]) + LOW[0]
    assert load_scorer("tox_block")([text]) == [pytest.approx(float(raw), abs=1e-6)]


@pytest.mark.parametrize("name", ["tox_block", "toxic_classifier"])
def test_a_score_depends_on_its_text_alone(name: str) -> None:
    scorer = load_scorer(name)
    scores = scorer(TEXTS)
    assert all(score is not None and 0 <= score <= 1 for score in scores)
    assert scorer(TEXTS[::-1]) == scores[::-1]
    assert scorer(TEXTS) == scores
    assert [scorer([text])[0] for text in TEXTS] == pytest.approx(scores, abs=1e-6)
    assert Scorer(name, scorer.probabilities, batch_size=7)(TEXTS) == pytest.approx(scores, abs=1e-6)
    assert scorer([]) == []


@pytest.mark.parametrize("name", ["tox_block", "toxic_classifier"])
def test_texts_without_a_known_word_score_as_the_empty_text(name: str) -> None:
    empty, blank, unknown = load_scorer(name)(["", " \n\t", "zxqvzxqv qqqqqzzzz"])
    assert empty == blank == unknown
    assert empty is not None
    assert 0 < empty < 0.2


def test_the_last_words_are_kept_and_the_padding_is_on_the_left() -> None:
    vocabulary = Vocabulary([f"w{i}" for i in range(1, 201)], filters="!.\n")
    numbers = vocabulary.encode(["W3 unknown w1!w2.", " ".join(f"w{i}" for i in range(1, 151)), ""])
    assert numbers.shape == (3, LENGTH)
    assert numbers[0].tolist() == [0] * (LENGTH - 3) + [3, 1, 2]
    assert numbers[1].tolist() == list(range(51, 151))
    assert not numbers[2].any()


def test_a_failure_is_missing_and_costs_no_other_text_its_score() -> None:
    def probabilities(texts: list[str]) -> torch.Tensor:
        if any("broken" in text for text in texts):
            raise RuntimeError("cannot read this")
        return torch.tensor([math.nan if text == "nan" else len(text) / 10 for text in texts])

    scorer = Scorer("test", probabilities, batch_size=4)  # type: ignore[arg-type]
    texts = ["a", "broken", "nan", None, "abcde", "", "ab"]
    assert scorer(texts) == [pytest.approx(0.1), None, None, None, 0.5, 0.0, pytest.approx(0.2)]  # type: ignore[arg-type]


def test_unknown_scorers_are_named_with_the_known_ones() -> None:
    known = r"tox_block, toxic_classifier, vader, vader_half, polarity, rule:NAME, hf:.* and reward:"
    with pytest.raises(UserError, match=known):
        load_scorer("perspective")


# --- Hugging Face classifiers ------------------------------------------------------------------------------------


def _tiny(folder: Path, labels: list[str], head: bool = True, **settings: object) -> str:
    """A random BERT of 2 layers with a word tokenizer, saved the way the hub does; ``hf:`` and its path."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    known = "you are an idiot and thanks that was kind of this is comment number"
    words = ["[PAD]", "[UNK]", *known.split()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    config.max_position_embeddings = 64
    config.initializer_range = 0.5
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    for name, value in settings.items():
        setattr(config, name, value)
    model = BertForSequenceClassification(config) if head else BertModel(config)
    model.save_pretrained(folder)
    return f"hf:{folder}"


def test_hugging_face_classifiers_score_each_text_alone(tmp_path: Path) -> None:
    name = _tiny(tmp_path, ["nothate", "hate"])
    scorer, other = load_scorer(name), load_scorer(f"{name}#nothate")
    scores = scorer(TEXTS)
    assert len(set(scores)) > 5
    assert [text for text, score in zip(TEXTS, scores, strict=True) if score is None] == [""]  # no token, nothing to read
    assert [scorer([text])[0] for text in TEXTS] == [score and pytest.approx(score, abs=1e-6) for score in scores]
    assert [a + b for a, b in zip(scores, other(TEXTS), strict=True) if a is not None and b is not None] == pytest.approx(
        [1.0] * (len(TEXTS) - 1)
    )
    assert scorer.name == name


def test_a_scorer_of_the_same_name_with_other_weights_is_another(tmp_path: Path) -> None:
    first, second = (
        _tiny(tmp_path / "a", ["nothate", "hate"]),
        _tiny(tmp_path / "b", ["nothate", "hate"], initializer_range=0.1),
    )
    assert scorers.scorer_identity(first) == scorers.scorer_identity(f"{first}#hate") != scorers.scorer_identity(second)
    assert scorers.scorer_identity("hf:nobody/nothing") == "nobody/nothing read 3"  # not to be had: loading it says so
    assert scorers.scorer_identity("tox_block") == "tox_block"
    as_reward = scorers.scorer_identity(first.replace("hf:", "reward:"))
    assert scorers.weights_of(scorers.scorer_identity(first)) == as_reward == scorers.weights_of(as_reward), "one model"


def test_a_hub_name_stands_for_its_commit(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--some--scorer"
    _tiny(repo / "snapshots" / commit, ["nothate", "hate"])
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    code = "from isoalign.models.scorers import scorer_identity; print(scorer_identity('hf:some/scorer#hate'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"HF_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == f"{commit} read 3", done.stderr


def test_texts_that_a_scorer_reads_in_part_are_counted_and_told(tmp_path: Path) -> None:
    """Else an insult before a hundred kind words would be seen by nobody."""
    long, short = "You are kind. " * 40, "You are kind."
    hub = _tiny(tmp_path / "a", ["toxic", "clean"])
    for name in ("tox_block", "toxic_classifier", hub):
        assert load_answer_scorer(name).count_longer([long * 20, short]) == 1
    assert load_scorer("tox_block").count_longer([" ".join(["kind"] * 100), " ".join(["kind"] * 101)]) == 1
    assert load_answer_scorer("vader").count_longer([long]) == 0
    (tmp_path / "scores.json").write_text('{"tox_block": [0.1, 0.2], "vader": [0.1, 0.2]}')
    assert score_flags(tmp_path) == []
    (tmp_path / "longer.json").write_text('{"tox_block": 1, "vader": 0}')
    (flag,) = score_flags(tmp_path)
    assert flag.text.startswith("1 of 2 completions are longer than tox_block reads: it scored a part of them")


def test_independent_labels_get_a_sigmoid(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    labels = ["severe_toxic", "Toxic", "insult"]
    name = _tiny(tmp_path, labels, problem_type="multi_label_classification")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    logits = model(input_ids=torch.tensor([[2, 3, 4, 5]])).logits[0]
    assert load_scorer(name)(["You are an idiot"]) == [pytest.approx(logits[1].sigmoid().item(), abs=1e-6)]
    assert load_scorer(f"{name}#insult")(["You are an idiot"]) == [pytest.approx(logits[2].sigmoid().item(), abs=1e-6)]


def test_hugging_face_mistakes_are_one_line(tmp_path: Path) -> None:
    name = _tiny(tmp_path / "a", ["LABEL_0", "LABEL_1"])
    with pytest.raises(UserError, match="LABEL_0, LABEL_1"):
        load_scorer(name)
    with pytest.raises(UserError, match="no label spam"):
        load_scorer(f"{name}#spam")
    with pytest.raises(UserError, match="not a trained classifier"):
        load_scorer(_tiny(tmp_path / "b", ["toxic", "clean"], head=False))
    with pytest.raises(UserError, match="has 2 outputs of a regression, which are no probabilities"):
        load_scorer(_tiny(tmp_path / "c", ["toxic", "length"], problem_type="regression") + "#toxic")
    with pytest.raises(UserError, match=r"several labels of harm, .*set problem_type in its config\.json"):
        load_scorer(_tiny(tmp_path / "d", ["toxic", "obscene", "insult"]))
    load_scorer(_tiny(tmp_path / "e", ["toxic", "neutral", "kind"]))
    with pytest.raises(UserError, match="cannot load the scorer 'hf:nobody/nothing'"):
        load_scorer("hf:nobody/nothing")
    with pytest.raises(UserError, match=r"cannot load the scorer 'hf:/nowhere/scorer': the folder does not exist$"):
        load_scorer("hf:/nowhere/scorer")


def test_weights_that_are_pickles_are_refused(tmp_path: Path) -> None:
    name = _tiny(tmp_path, ["toxic", "clean"])
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load"):
        load_scorer(name)


# --- Conversion --------------------------------------------------------------------------------------------------


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch should-not-exist",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_runs_a_command_is_refused(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"system, which is not allowed"):
        convert.read_pickle(io.BytesIO(pickle.dumps({"a": _Payload()}, protocol)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("payload", [b"cbuiltins\neval\n(S'1'\ntR.", b"cbuiltins\ngetattr\n.", b"cnumpy\nload\n."])
def test_nothing_but_plain_data_is_unpickled(payload: bytes) -> None:
    with pytest.raises(UserError, match="not allowed"):
        convert.read_pickle(io.BytesIO(payload))


def test_plain_data_is_unpickled() -> None:
    data = {"words": OrderedDict(a=1, b=2), "list": [1, 2.5, None, "x"]}
    assert convert.read_pickle(io.BytesIO(pickle.dumps(data))) == data


@pytest.mark.parametrize("name", ["tox_block", "toxic_classifier"])
def test_the_cache_holds_nothing_raw(name: str) -> None:
    assert {file.name for file in assets.asset_path(name).iterdir()} == {
        "manifest.json",
        "vocabulary.json",
        "weights.safetensors",
    }


# --- Embeddings --------------------------------------------------------------------------------------------------


def test_embeddings_are_unit_vectors_that_know_what_is_alike() -> None:
    vectors = embed(["A man is eating food.", "A man eats something.", "The stock market fell today.", ""])
    assert vectors.shape == (4, WIDTH)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    cosine = vectors @ vectors.T
    assert cosine[0, 1] > 0.7 > 0.2 > cosine[0, 2]
    assert embed([]).shape == (0, WIDTH)


def test_an_embedding_depends_on_its_text_alone() -> None:
    texts = [
        "",
        "A short text.",
        "A text that is a little longer.",
        "what a day " * 20,
        "Another short text.",
        "word " * 400,
    ]
    vectors = embed(texts)
    assert torch.equal(embed(texts[::-1]).flip(0), vectors)
    torch.testing.assert_close(embed(texts, batch_size=2), vectors, atol=1e-5, rtol=0)
    torch.testing.assert_close(embed(["word " * 300])[0], vectors[-1], atol=1e-5, rtol=0)  # cut at 256 tokens


def _left_padded(folder: Path) -> dict[str, Any]:
    """Write a tokenizer that pads on the left. Returns what the configuration of a classifier of two labels says of it."""
    from transformers import AutoTokenizer

    _tiny(folder, ["nothate", "hate"])
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.save_pretrained(folder)
    labels = {"id2label": {0: "nothate", 1: "hate"}, "label2id": {"nothate": 0, "hate": 1}}
    return {"vocab_size": len(tokenizer), "pad_token_id": 0, **labels}


def test_a_classifier_that_was_saved_with_padding_on_the_left_scores_each_text_alone(tmp_path: Path) -> None:
    """Positions are counted from the first token, so that padding before a text would move it."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    labels = _left_padded(tmp_path)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5, **labels)
    torch.manual_seed(0)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    scorer = load_scorer(f"hf:{tmp_path}")
    texts = ["you are kind", "this is a comment number of an idiot and thanks"]
    assert scorer(texts) == pytest.approx([scorer([text])[0] for text in texts], abs=1e-5)


def test_a_classifier_that_is_sure_of_all_texts_is_padded_where_it_reads_each_alone(tmp_path: Path) -> None:
    """Probabilities near 0 do not show on which side padding moves a text; logits do."""
    from transformers import BertConfig, BertForSequenceClassification

    labels = _left_padded(tmp_path)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
        initializer_range=0.5, **labels,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.bias[:] = torch.tensor([10.0, -10.0])
    model.save_pretrained(tmp_path)
    scorer = load_scorer(f"hf:{tmp_path}")
    texts = ["you are kind", "this is a comment number of an idiot and thanks"]
    alone = [scorer([text])[0] for text in texts]
    assert max(alone) < 1e-6
    assert scorer(texts) == pytest.approx(alone, rel=1e-4, abs=0)


def test_a_classifier_whose_attention_depends_on_the_longest_text_is_refused_or_reads_less(tmp_path: Path) -> None:
    """BigBird's sparse attention, which a short text switches off for good; and rotary embeddings by the length (longrope)."""
    from transformers import AutoTokenizer, BigBirdConfig, BigBirdForSequenceClassification, Phi3Config
    from transformers import Phi3ForSequenceClassification as Phi3

    _tiny(tmp_path, ["nothate", "hate"])
    rows = len(AutoTokenizer.from_pretrained(tmp_path))
    labels = {"id2label": {0: "nothate", 1: "hate"}, "label2id": {"nothate": 0, "hate": 1}, "pad_token_id": 0}
    sizes = {"vocab_size": rows, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BigBirdForSequenceClassification(BigBirdConfig(**sizes, **labels)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="set attention_type to original_full"):
        load_scorer(f"hf:{tmp_path}")
    rope = {"rope_theta": 1e4, "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
    config = Phi3Config(
        **sizes, **labels, num_key_value_heads=2, max_position_embeddings=510, original_max_position_embeddings=12,
        initializer_range=0.5, rope_parameters=rope | {"original_max_position_embeddings": 12}, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    Phi3(config).save_pretrained(tmp_path)
    scorer = load_scorer(f"hf:{tmp_path}")
    texts = ["you are kind", "this is a comment number " * 6]
    assert scorer(texts) == pytest.approx([scorer([text])[0] for text in texts], abs=1e-5)
    assert scorer.count_longer(texts) == 1


@pytest.mark.parametrize("padding", [None, "[PAD]", "thanks"], ids=["no padding token", "its own", "another token"])
def test_a_decoder_s_classifier_reads_a_text_where_its_own_forward_does(padding: str | None, tmp_path: Path) -> None:
    """Also where its tokenizer writes an end, and has no padding token, or another than the configuration."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    _tiny(tmp_path, ["nothate", "hate"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, eos_token="of", pad_token=padding)
    end = tokenizer.convert_tokens_to_ids("of")
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A of", special_tokens=[("of", end)])
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token == padding
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, max_position_embeddings=64, initializer_range=0.5, eos_token_id=end,
        pad_token_id=None if padding is None else 0, id2label={0: "nothate", 1: "hate"}, label2id={"nothate": 0, "hate": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    texts = ["you are kind", "this is a comment number of an idiot and thanks", "idiot"]
    with torch.no_grad():
        logits = [model(**AutoTokenizer.from_pretrained(tmp_path)(text, return_tensors="pt")).logits[0] for text in texts]
    wanted = [each.softmax(-1)[1].item() for each in logits]
    assert load_scorer(f"hf:{tmp_path}")(texts) == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) - min(wanted) > 0.05


def test_scorers_that_are_brought_have_a_digest_of_their_weights_and_those_that_ship_none(tmp_path: Path) -> None:
    assert weights_digest(EvaluationConfig()) == ""
    assert weights_digest(EvaluationConfig(scorer="vader", second_scorer="rule:number")) == ""
    found = []
    for name, weights in (("mine", b"one"), ("retrained", b"two"), ("copied", b"two")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "bert"}')
        (folder / "model.safetensors").write_bytes(weights)
        found.append(weights_digest(EvaluationConfig(second_scorer=f"hf:{folder}")))
    assert len(found[0]) == 8
    assert found[0] != found[1] == found[2]
