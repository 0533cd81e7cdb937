"""AI judges: log-probabilities against a naive loop, and a real server that misbehaves in every way that servers do."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import GPT2Config, GPT2LMHeadModel

from isoalign.config import known, task
from isoalign.config.feedback import JudgeConfig
from isoalign.config.fill import build_config
from isoalign.core import store
from isoalign.core.errors import UserError
from isoalign.data.comments import Comment
from isoalign.feedback import judges
from isoalign.feedback.judges import Question, classifier, client, lm, server, templates
from isoalign.feedback.judges.limits import RateLimiter
from isoalign.feedback.judges.verdicts import Showing, Verdict, combine, summary
from isoalign.models import language, loading
from isoalign.models.classifiers import CharClassifier
from isoalign.models.language import LanguageModel
from isoalign.stages import pairs
from isoalign.tools.conformance.workbench import KIND, RUDE
from workbench import Bench, Size, write_model

QUESTIONS = [
    Question("you are", " a stupid idiot", " very kind"),
    Question("you are", " right", " a moron, and everybody knows it since you wrote this page about nothing at all"),
    Question("what a", " lovely page this is", " dumb page"),
    Question("go", "", " away, idiot"),
]
KEY = "sk-a-key-that-must-never-be-seen"


# -- what all have in common -------------------------------------------------------------------------------------------


def test_a_verdict_is_the_mean_over_both_orders_and_one_order_alone_is_none() -> None:
    # shown first it wins with .9; shown second the other one, shown first, wins with .7, so this one with .3
    both = combine(Showing(0.9, tokens=5, flops=10, reason="well"), Showing(0.7, tokens=6, flops=20))
    assert both.orders == (0.9, pytest.approx(0.3))
    assert both.p == pytest.approx(0.6)
    assert (both.tokens, both.flops, both.reason, both.missing) == (11, 30, "well", "")
    half = combine(Showing(0.9, tokens=5), Showing(None, missing="refused", reason="I won't"))
    assert (half.p, half.orders, half.missing, half.tokens) == (None, (0.9, None), "refused", 5)


def test_the_summary_counts_bias_flips_and_what_is_missing() -> None:
    questions = [Question(f"prompt {i}", "a", "b") for i in range(4)]
    verdicts = [
        Verdict(0.5, (1.0, 0.0), tokens=10, flops=3),  # sees the place alone: bias 1/2, flips
        Verdict(0.9, (0.9, 0.9), tokens=20, flops=4),  # bias 0
        Verdict(0.75, (0.7, 0.8), tokens=30, flops=5, estimated=True),  # prefers the second place by .05
        Verdict(None, (0.6, None), tokens=5, flops=1, missing="refused"),
    ]
    found = summary(questions, verdicts)
    assert (found["asked"], found["missing"], found["tokens"], found["flops"]) == (4, {"refused": 1}, 65, 13)
    assert found["estimated"] == 1
    bias, flips = found["position_bias"], found["inconsistent"]
    assert bias.value == pytest.approx((0.5 + 0 - 0.05) / 3)
    assert bias.low < bias.value < bias.high
    assert (bias.n, bias.missing) == (3, 1)
    assert flips.value == pytest.approx(1 / 3)
    assert summary([], [])["position_bias"].value is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "oracle"}, "task.judge.kind must be one of classifier, lm, server"),
        ({"thought": -1}, "task.judge.thought"),
        ({"requests_per_minute": -1}, "task.judge.requests_per_minute"),
        ({"token_limit": -1}, "task.judge.token_limit"),
        ({"retries": -1}, "task.judge.retries"),
        ({"concurrency": 0}, "task.judge.concurrency"),
        ({"timeout": 0}, "task.judge.timeout"),
        ({"timeout": math.nan}, "task.judge.timeout"),
        ({"kind": "lm"}, "task.judge.model must name the model of the lm judge"),
        ({"kind": "server", "base_url": "http://localhost/v1"}, "task.judge.model"),
        ({"kind": "server", "model": "m"}, "task.judge.base_url must be the server's address"),
        ({"kind": "server", "model": "m", "base_url": "localhost:8000"}, "task.judge.base_url"),
        ({"kind": "server", "model": "m", "base_url": "http://[::1"}, "task.judge.base_url"),
        ({"kind": "server", "model": "m", "base_url": "http://h:99999"}, "task.judge.base_url"),
    ],
)
def test_what_a_judge_cannot_be_is_said_in_one_line_that_names_the_field(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        build_config(JudgeConfig, settings, "task.judge")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": f"http://me:{KEY}@localhost/v1"},
        {"base_url": f"http://localhost/v1?api_key={KEY}"},
        {"base_url": "http://localhost/v1", "key_env": KEY},
    ],
)
def test_a_key_in_the_configuration_is_refused_and_not_repeated(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        build_config(JudgeConfig, {"kind": "server", "model": "m"} | settings, "task.judge")
    assert KEY not in str(error.value)
    assert "environment variable" in str(error.value)


def test_braces_of_an_answer_are_no_places_of_the_template() -> None:
    text = templates.load_template("").render("{second}", "{question} {}", "%s {prompt}", None, templates.LINE)
    assert text.count("{second}") == text.count("{question} {}") == text.count("%s {prompt}") == 1
    assert text.endswith("either\nVerdict: A\nor\nVerdict: B")


def test_lone_halves_of_characters_are_replaced_and_whole_ones_joined() -> None:
    assert templates.repair_unicode("a\ud83d\ude00b\ud83dc") == "a\U0001f600b\N{REPLACEMENT CHARACTER}c"


def test_a_template_of_ones_own_needs_every_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("{prompt}|{first}|{second}|{question}")
    assert templates.load_template(str(file)).render("x", "y", "z", "be kind", "!").startswith("x|y|z|")
    file.write_text("{prompt} {first} {question}")
    with pytest.raises(UserError, match=r"lacks \{second\}"):
        templates.load_template(str(file))
    with pytest.raises(UserError, match="must be one of continuation, reply or a readable text file"):
        templates.load_template("nonesuch")


def test_an_identity_changes_with_what_verdicts_depend_on_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    first, second = write_model(tmp_path / "a"), write_model(tmp_path / "b", Size(seed=1))
    mine = tmp_path / "mine.txt"
    mine.write_text("{prompt}{first}{second}{question}")
    base = {"kind": "server", "model": "m", "base_url": "http://h/v1"}
    different = [
        {},
        {"kind": "lm", "model": str(first)},
        {"kind": "lm", "model": str(second)},
        {"kind": "lm", "model": str(first), "thought": 8},
        {"kind": "lm", "model": str(first), "template": "reply"},
        {"kind": "lm", "model": str(first), "template": str(mine)},
        base,
        base | {"model": "n"},
        base | {"base_url": "http://other/v1"},
    ]
    identities = [json.dumps(judges.judge_identity(JudgeConfig(**each)), sort_keys=True) for each in different]
    assert len(set(identities)) == len(different)
    assert str(tmp_path) not in "".join(identities)
    limits = {"concurrency": 1, "retries": 9, "timeout": 1.0, "token_limit": 5, "requests_per_minute": 7, "key_env": "MY_KEY"}
    same = judges.judge_identity(JudgeConfig(**base | limits))
    assert same == judges.judge_identity(JudgeConfig(**base | {"base_url": "http://h/v1/"})) == json.loads(identities[6])
    assert "KEY" not in json.dumps(same)


# -- the classifier ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def annotators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotators")
    comments = [Comment(f"{text} {n}", text in RUDE) for n in range(3) for text in KIND + RUDE]
    CharClassifier.fit(comments).save(folder / "judge")
    return folder


def test_the_classifier_compares_odds_and_sees_no_order(annotators: Path, tmp_path: Path) -> None:
    judge = judges.load_judge(JudgeConfig(), tmp_path, annotators)
    annotator = CharClassifier.load(annotators / "judge")
    for question, verdict in zip(QUESTIONS, judge(QUESTIONS), strict=True):
        rude, other = (float(p) for p in annotator([question.first, question.second]))
        kind = (1 - rude) / rude  # odds of being acceptable; Bradley-Terry: p = odds / (odds + odds)
        assert verdict.p == pytest.approx(kind / (kind + (1 - other) / other))
        assert verdict.orders == (verdict.p, verdict.p)
        assert verdict.flops == annotator.flops([question.first]) + annotator.flops([question.second])
        assert verdict.tokens == 0
        (turned,) = judge([question.swapped])
        assert turned.p == pytest.approx(1 - (verdict.p or 0))
    found = summary(QUESTIONS, judge(QUESTIONS))
    assert (found["position_bias"].value, found["inconsistent"].value) == (0, 0)
    assert judge([]) == []


def test_the_classifiers_certainty_is_bounded() -> None:
    class Sure(CharClassifier):
        def __call__(self, texts: Any) -> Any:
            return torch.tensor([float("idiot" in text) for text in texts]).double().numpy()

    nothing = torch.zeros(1).numpy()
    (verdict,) = classifier.ClassifierJudge(Sure([], nothing, nothing, 0.0), {})([Question("", "kind", "idiot")])
    # .999 / .001 against .001 / .999: 1 / (1 + (1 / 999) ** 2)
    assert verdict.p == pytest.approx(1 / (1 + 999**-2), rel=1e-9)


def test_the_classifier_says_that_it_cannot_read_a_principle(annotators: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set task.judge.kind to lm or server"):
        judges.load_judge(JudgeConfig(), tmp_path, annotators)(QUESTIONS, "Be kind.")


# -- language models ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tiny_bench: Bench) -> lm.LMJudge:
    """A random Llama; a batch holds three of the eight showings, so that rows of many lengths are padded."""
    return lm_judge(tiny_bench.model)


@pytest.fixture(scope="module")
def gpt2(tiny_bench: Bench) -> lm.LMJudge:
    """A model whose positions are counted from the first token, so that padding could shift them."""
    torch.manual_seed(0)
    _, tokenizer = loading.load_model(str(tiny_bench.model))
    shape = GPT2Config(
        vocab_size=320, n_positions=600, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2, bos_token_id=0, eos_token_id=0
    )
    model = LanguageModel(GPT2LMHeadModel(shape).eval(), tokenizer, ends=True)
    return lm.LMJudge(JudgeConfig(kind="lm", model=str(tiny_bench.model)), model, batch_size=3, quiet=True)


def lm_judge(folder: Path, batch_size: int = 3, **settings: Any) -> lm.LMJudge:
    judge = lm.load_lm(JudgeConfig(kind="lm", model=str(folder), **settings), quiet=True)
    judge.batch_size = batch_size
    return judge


@torch.no_grad()
def naive(judge: lm.LMJudge, text: str, label: str) -> float:
    """Log-probability of the tokens that a label adds to a text: one row, no padding, no cache, no harness."""
    chat = judge.model.tokenizer.chat_template is not None
    before, after = (judge.model.tokenizer(t, add_special_tokens=not chat)["input_ids"] for t in (text, text + label))
    assert after[: len(before)] == before
    total = 0.0
    for at in range(len(before), len(after)):
        logits = judge.model.inner(input_ids=torch.tensor([after[:at]])).logits[0, -1].double()
        logits[judge.model.banned] = -torch.inf
        total += float(logits.log_softmax(-1)[after[at]])
    return total


def question_text(question: Question, principle: str | None = None) -> str:
    body = templates.load_template("").render(question.prompt, question.first, question.second, principle, templates.LINE)
    return f"{body}\n\nVerdict:"


def odds(a: float, b: float) -> float:
    return 1 / (1 + math.exp(b - a))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_verdict_is_the_softmax_of_what_a_naive_loop_finds(name: str, request: pytest.FixtureRequest) -> None:
    judge = request.getfixturevalue(name)
    verdicts = judge(QUESTIONS)
    assert len({round(verdict.p, 4) for verdict in verdicts}) == len(QUESTIONS)
    for question, verdict in zip(QUESTIONS, verdicts, strict=True):
        texts = [question_text(question), question_text(question.swapped)]
        ahead, behind = (odds(naive(judge, text, " A"), naive(judge, text, " B")) for text in texts)
        assert verdict.orders == (pytest.approx(ahead, abs=1e-5), pytest.approx(1 - behind, abs=1e-5))
        assert verdict.p == pytest.approx((ahead + 1 - behind) / 2, abs=1e-5)
        # the body reads all but the label's last token
        assert verdict.tokens == sum(len(judge.model.tokenizer(text + " A")["input_ids"]) - 1 for text in texts)


def test_log_probabilities_are_those_of_a_naive_loop(gpt2: lm.LMJudge) -> None:
    texts = [question_text(question) for question in QUESTIONS]
    found = gpt2.log_probs([gpt2.choice(text) for text in texts])
    # " A" and " B" share their first token, whose log-probability is left out of both
    expected = [[naive(gpt2, text, label) - naive(gpt2, text, " ") for label in (" A", " B")] for text in texts]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("thought", [0, 6])
def test_a_verdict_does_not_depend_on_how_questions_are_batched(tiny_bench: Bench, thought: int) -> None:
    alone, few, all_ = (lm_judge(tiny_bench.model, size, thought=thought)(QUESTIONS) for size in (1, 3, 16))
    for one, two, three in zip(alone, few, all_, strict=True):
        assert one.p == pytest.approx(two.p, abs=1e-5)
        assert one.p == pytest.approx(three.p, abs=1e-5)
        assert (one.flops, one.tokens, one.reason) == (two.flops, two.tokens, two.reason)
    turned = lm_judge(tiny_bench.model, thought=thought)(QUESTIONS[::-1])[::-1]
    assert [verdict.p for verdict in turned] == [verdict.p for verdict in few]


def test_long_questions_get_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "BATCH_TOKENS", 100)
    lengths = [10, 60, 200, 30, 30, 10, 40, 20]
    batches = lm._batches([(length, "", i) for i, length in enumerate(lengths)], 3)
    assert [[length for length, _, _ in batch] for batch in batches] == [[10, 10, 20], [30, 30], [40], [60], [200]]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_chances_of_both_answers_add_up_to_one(name: str, request: pytest.FixtureRequest) -> None:
    judge = request.getfixturevalue(name)
    straight, turned = judge(QUESTIONS), judge([question.swapped for question in QUESTIONS])
    assert [a.p + b.p for a, b in zip(straight, turned, strict=True)] == pytest.approx([1.0] * len(QUESTIONS), abs=1e-12)
    assert [a.p for a in straight] != pytest.approx([0.5] * len(QUESTIONS), abs=1e-3)


def test_a_model_that_says_a_to_everything_has_half_a_point_of_bias_and_no_opinion(tmp_path: Path) -> None:
    judge = lm_judge(write_model(tmp_path))
    inner = judge.model.inner
    (a,) = judge.model.tokenizer("A", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for layer in inner.model.layers:  # nothing is added to the embedding of the last token, which is the same everywhere
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        context = torch.tensor([judge.choice(question_text(QUESTIONS[0])).context])
        state = inner.model(input_ids=context).last_hidden_state[0, -1]
        weight = torch.zeros_like(inner.lm_head.weight)
        weight[a] = 40 * state / state.norm() ** 2  # a logit of 40 for A, 0 for every other token
        inner.lm_head.weight = torch.nn.Parameter(weight)
    verdicts = judge(QUESTIONS)
    assert [verdict.p for verdict in verdicts] == pytest.approx([0.5] * 4, abs=1e-9)
    found = summary(QUESTIONS, verdicts)
    assert found["position_bias"].value == pytest.approx(0.5)
    assert found["inconsistent"].value == 1.0


def test_a_label_of_several_tokens_is_as_likely_as_all_of_them_together(tmp_path: Path) -> None:
    model, tokenizer = loading.load_model(str(write_model(tmp_path)))
    tokenizer.add_tokens([AddedToken(" A", normalized=False)])  # " B" is still a space and a letter
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[-1] = model.get_output_embeddings().weight[50]
    chosen = JudgeConfig(kind="lm", model=str(tmp_path))
    judge = lm.LMJudge(chosen, LanguageModel(model, tokenizer, ends=True), batch_size=3, quiet=True)
    assert [len(label) for label in judge.choice(question_text(QUESTIONS[0])).labels] == [1, 2]
    for question, verdict in zip(QUESTIONS, judge(QUESTIONS), strict=True):
        texts = [question_text(question), question_text(question.swapped)]
        ahead, behind = (odds(naive(judge, text, " A"), naive(judge, text, " B")) for text in texts)
        assert verdict.orders == (pytest.approx(ahead, abs=1e-5), pytest.approx(1 - behind, abs=1e-5))


def test_a_model_with_a_chat_format_is_asked_in_it(tmp_path: Path) -> None:
    judge = lm_judge(write_model(tmp_path))
    judge.model.tokenizer.chat_template = (
        "<|endoftext|>{% for m in messages %}{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}assistant> "
    )
    judge.chat = True
    (verdict,) = judge(QUESTIONS[:1])
    found = []
    for question in (QUESTIONS[0], QUESTIONS[0].swapped):
        text = question_text(question).removesuffix("\n\nVerdict:")
        text = f"<|endoftext|>user> {text}\nassistant> Verdict:"
        found.append(odds(naive(judge, text, " A"), naive(judge, text, " B")))
    assert verdict.orders == (pytest.approx(found[0], abs=1e-5), pytest.approx(1 - found[1], abs=1e-5))


def test_a_chat_format_that_a_folder_brings_is_seen(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    assert not lm_judge(folder).chat
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert lm_judge(folder).chat


def test_a_long_prompt_is_cut_from_the_left_and_an_answer_never(llama: lm.LMJudge) -> None:
    question = Question("these are the first words " + "and so on " * 150 + "and these the last:", " good", " bad")
    tokenizer = llama.model.tokenizer

    def length(start: int) -> int:
        shown = Question(question.prompt[start:], question.first, question.second)
        return len(tokenizer(question_text(shown) + " A")["input_ids"])

    room = llama.longest or 0
    assert length(0) > room
    (verdict,) = llama([question])
    short = next(start for start in range(len(question.prompt)) if length(start) <= room)
    (cut,) = llama([Question(question.prompt[short:], question.first, question.second)])
    assert verdict.p == pytest.approx(cut.p or 0, abs=1e-5)
    assert (verdict.cut, cut.cut) == (True, False)
    assert (summary([question], [verdict])["cut"], "cut" in summary([question], [cut])) == (1, False)
    assert 2 * (room - 3) <= verdict.tokens <= 2 * (room - 1)
    (other,) = llama([Question(question.prompt, question.first, " awful")])
    assert other.p != pytest.approx(verdict.p or 0, abs=1e-6)


def test_a_criterion_is_asked_for_instead_of_less_toxicity_and_is_part_of_what_a_judge_is(tiny_bench: Bench) -> None:
    plain, told = (lm_judge(tiny_bench.model, **words) for words in ({}, {"criterion": "The sum is right."}))
    assert plain.template.render("2+2=", " 4", " 5", None, "").endswith(templates.QUESTION + "\n")
    for judge in (told, plain):
        asked = judge.template.render("2+2=", " 4", " 5", None if judge is told else "The sum is right.", "")
        assert asked.endswith(templates.BY_PRINCIPLE + "The sum is right.\n")
    assert told.template.render("2+2=", " 4", " 5", "Be kind.", "").endswith("Be kind.\n"), "a constitution's comes first"
    assert plain.identity != told.identity
    assert plain.identity["template"] == store.digest([
        templates.BODIES["continuation"], templates.QUESTION, templates.BY_PRINCIPLE, templates.LETTER, templates.LINE,
        templates.THINK, templates.OPENING, templates.LABELS,
    ]), "verdicts without a criterion keep their keys"  # fmt: skip


NEEDED = {"name": "mine", "model": {"name": "nano"}, "sft": {"steps": 1, "lr": 1e-3}, "reward": {"pairs": 1, "lr": 1e-3}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "lm", "model": "m"}, "task.judge.criterion must say what is better for the objective help"),
        ({"kind": "classifier"}, "the classifier judge knows toxicity alone"),
        ({"kind": "lm", "model": "m", "criterion": "It helps."}, ""),
    ],
)
def test_of_another_objective_a_judge_must_be_told_what_is_better(settings: dict[str, Any], said: str) -> None:
    goal = {"name": "help", "higher_is_better": True}
    made = build_config(task.TaskConfig, NEEDED | {"judge": settings, "objective": goal}, "task")
    assert known.misfit(made, "judge").startswith(said)
    assert bool(known.misfit(made, "judge")) == bool(said)


def test_a_criterion_that_nobody_reads_is_refused() -> None:
    for settings, said in (
        ({"judge": {"criterion": "x"}}, "task.judge.criterion is for a judge of kind lm or server, not for classifier"),
        (
            {"judge": {"kind": "lm", "model": "m", "criterion": "x"}, "constitution": {"file": "kindness"}},
            "task.judge.criterion has no effect with task.constitution.file",
        ),
        (
            {"evaluation": {"win_rate": {"judge": {"kind": "lm", "model": "m", "criterion": "x"}}}},
            "set task.evaluation.win_rate.criterion",
        ),
    ):
        with pytest.raises(UserError, match=said):
            build_config(task.TaskConfig, NEEDED | settings, "task")


@pytest.mark.parametrize("thought", [0, 6])
def test_answers_that_are_too_long_leave_a_verdict_missing_and_say_why(tiny_bench: Bench, thought: int) -> None:
    judge = lm_judge(tiny_bench.model, thought=thought)
    before, long, after = judge([QUESTIONS[0], Question("go", " on and on" * 400, " no"), QUESTIONS[1]])
    assert (long.p, long.missing, long.tokens, long.flops) == (None, "too long", 0, 0)
    assert "512" in long.reason
    assert before.p == pytest.approx(judge(QUESTIONS)[0].p, abs=1e-5)
    assert after.p is not None


def test_no_number_from_broken_weights_is_a_missing_verdict(tmp_path: Path) -> None:
    judge = lm_judge(write_model(tmp_path))
    with torch.no_grad():
        judge.model.inner.model.norm.weight.fill_(math.nan)
    verdicts = judge(QUESTIONS)
    assert [(verdict.p, verdict.missing) for verdict in verdicts] == [(None, "not finite")] * 4
    assert all(verdict.flops > 0 for verdict in verdicts)  # it was computed all the same


def test_a_chain_of_thought_is_what_the_model_would_write_and_stands_before_the_verdict(tiny_bench: Bench) -> None:
    judge = lm_judge(tiny_bench.model, thought=6)
    tokenizer = judge.model.tokenizer
    verdict = judge(QUESTIONS)[0]
    probabilities, thoughts, tokens = [], [], 0
    for question in (QUESTIONS[0], QUESTIONS[0].swapped):
        body = templates.load_template("").render(question.prompt, question.first, question.second, None, templates.THINK)
        ids = tokenizer(f"{body}\n\nComparison:")["input_ids"]
        written: list[int] = []
        while len(written) < 6 and tokenizer.eos_token_id not in written:  # greedy, without a cache
            logits = judge.model.inner(input_ids=torch.tensor([ids + written])).logits[0, -1]
            written.append(int(logits.argmax()))
        thoughts.append(tokenizer.decode(written, skip_special_tokens=True).strip())
        text = f"{body}\n\nComparison: {thoughts[-1]}\n\nVerdict:"
        probabilities.append(odds(naive(judge, text, " A"), naive(judge, text, " B")))
        tokens += len(ids) + len(written) + len(tokenizer(text + " A")["input_ids"]) - 1
    assert verdict.tokens == tokens
    assert verdict.orders == (pytest.approx(probabilities[0], abs=1e-5), pytest.approx(1 - probabilities[1], abs=1e-5))
    assert verdict.reason == "\n---\n".join(thoughts)


def test_a_thought_ends_where_the_model_begins_to_tell_its_verdict(llama: lm.LMJudge) -> None:
    ids = llama.model.tokenizer("so so.\nVerdict: B, because", add_special_tokens=False)["input_ids"]
    assert llama._thought("text", ids) == "so so."


@pytest.mark.parametrize("thought", [0, 12])
def test_the_price_of_a_verdict_is_what_the_kernels_count(tmp_path: Path, thought: int) -> None:
    # one row a batch, as padding is free by design; rotary positions and norms make the rest (see test_meter.py)
    folder = write_model(tmp_path, Size(width=128, layers=4, vocabulary=512, feed_forward=352))
    judge = lm_judge(folder, batch_size=1, thought=thought)
    judge([QUESTIONS[0]])

    def attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        (verdict,) = judge([QUESTIONS[0]])
    assert verdict.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_principle_is_read(llama: lm.LMJudge) -> None:
    (plain,), (kind,), (cruel,) = (llama(QUESTIONS[:1], principle) for principle in (None, "Be kind.", "Be cruel."))
    assert len({round(verdict.p or 0, 6) for verdict in (plain, kind, cruel)}) == 3
    text = question_text(QUESTIONS[0], "Be kind.")
    assert kind.orders[0] == pytest.approx(odds(naive(llama, text, " A"), naive(llama, text, " B")), abs=1e-5)


def test_lone_surrogates_in_an_answer_do_not_stop_a_language_model(llama: lm.LMJudge) -> None:
    (verdict,) = llama([Question("so \udcff", "\ud83d", " fine")])
    assert verdict.p is not None


def test_embedded_models_have_the_identity_of_their_weights() -> None:
    assert len(loading.weights_identity("smollm2")) == 64
    assert loading.weights_identity("nano") == loading.weights_identity(str(Path(language.__file__).parent / "nano"))


# -- a server that misbehaves ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the server does with a request. ``then`` misbehaves by hand, in place of the rest."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    then: Callable[[Any], None] | None = None


class Server:
    """A real HTTP server on a free port. ``script`` maps the number of a request, from 0, and its body to an answer."""

    def __init__(self, script: Callable[[int, dict[str, Any]], Answer]) -> None:
        self.script = script
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.closing = threading.Event()
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/chat/completions"
                with lock:
                    number = len(outer.seen)
                    outer.seen.append(body)
                    outer.keys.append(self.headers["Authorization"])
                answer = outer.script(number, body)
                if answer.then:
                    self.close_connection = True
                    answer.then(self)
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


Serve = Callable[[Callable[[int, dict[str, Any]], Answer]], Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    started: list[Server] = []

    def start(script: Callable[[int, dict[str, Any]], Answer]) -> Server:
        started.append(Server(script))
        return started[-1]

    yield start
    for each in started:
        each.close()


def completion(text: str | None, top: dict[str, float] | None = None, **message: Any) -> dict[str, Any]:
    """A chat completion of 30 tokens that were read and one that was written."""
    listed = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in (top or {}).items()]
    first = {"token": text, "logprob": -0.1, "top_logprobs": listed}
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{
            "index": 0, "finish_reason": message.pop("finish_reason", "stop"),
            "message": {"role": "assistant", "content": text, **message},
            "logprobs": {"content": [first]} if top else None,
        }],
        "usage": {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31},
    }  # fmt: skip


def ok(text: str | None, top: dict[str, float] | None = None, **message: Any) -> Answer:
    return Answer(json.dumps(completion(text, top, **message)).encode())


def error(status: int, message: str = "no", **headers: str) -> Answer:
    return Answer(
        json.dumps({"error": {"message": message}}).encode(), status, {k.replace("_", "-"): v for k, v in headers.items()}
    )


def asked_for_letter(body: dict[str, Any]) -> bool:
    return bool(body.get("logprobs"))


def shown_first(body: dict[str, Any]) -> str:
    """The answer that a request shows first."""
    return str(body["messages"][0]["content"]).partition("Continuation A:\n")[2].partition("\n")[0]


def kinder(body: dict[str, Any]) -> str:
    """The letter of the answer without a rude word."""
    return "B" if any(word in shown_first(body) for word in ("idiot", "moron", "dumb")) else "A"


def by_letter(_: int, body: dict[str, Any]) -> Answer:
    """A server that tells log-probabilities: three to one for the kinder answer."""
    letter = kinder(body)
    other = "AB".replace(letter, "")
    return ok(letter, {letter: math.log(0.75), other: math.log(0.25)})


def by_line(_: int, body: dict[str, Any]) -> Answer:
    """A server that tells none."""
    return ok("I" if asked_for_letter(body) else f"Verdict: {kinder(body)}")


@dataclass
class Sleeper:
    """Counts seconds in place of sleeping them."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def ask(at: Server | str, cache: Path, sleeper: Sleeper | None = None, **settings: Any) -> server.ServerJudge:
    base_url = at if isinstance(at, str) else at.base_url
    settings = {"concurrency": 1, "retries": 2, "timeout": 60.0} | settings
    chosen = JudgeConfig(kind="server", model="m", base_url=base_url, **settings)
    return server.ServerJudge(chosen, cache, sleep=sleeper or Sleeper(), quiet=True)


TWO = [QUESTIONS[0], QUESTIONS[2]]  # rude first, kind first


def everything_saved(folder: Path) -> str:
    return "".join(file.read_text(encoding="utf-8") for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_with_log_probabilities_is_asked_for_one_letter(serve: Serve, tmp_path: Path, concurrency: int) -> None:
    at = serve(by_letter)
    verdicts = ask(at, tmp_path, concurrency=concurrency)(TWO)
    assert [verdict.p for verdict in verdicts] == pytest.approx([0.25, 0.75])
    assert [verdict.orders for verdict in verdicts] == [pytest.approx((0.25, 0.25)), pytest.approx((0.75, 0.75))]
    assert [verdict.tokens for verdict in verdicts] == [62, 62]
    assert not any(verdict.estimated or verdict.missing or verdict.flops for verdict in verdicts)
    assert len(at.seen) == 4
    wanted = {"model": "m", "temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    assert all({name: body[name] for name in wanted} == wanted for body in at.seen)
    assert set(at.keys) == {f"Bearer {KEY}"}


def test_a_server_without_log_probabilities_is_found_out_once_and_then_asked_for_a_line(serve: Serve, tmp_path: Path) -> None:
    at = serve(by_line)
    verdicts = ask(at, tmp_path, concurrency=4)(TWO)
    assert [verdict.p for verdict in verdicts] == [0.0, 1.0]
    assert [asked_for_letter(body) for body in at.seen] == [True, False, False, False, False]
    assert [verdict.tokens for verdict in verdicts] == [93, 62]  # the first has the question that found out on its bill


def test_a_server_that_rejects_log_probabilities_is_asked_for_a_line(serve: Serve, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return error(400, "logprobs are not supported") if asked_for_letter(body) else by_line(number, body)

    at = serve(script)
    judge = ask(at, tmp_path)
    assert [verdict.p for verdict in judge(TWO)] == [0.0, 1.0]
    assert [asked_for_letter(body) for body in at.seen] == [True, False, False, False, False]
    judge(QUESTIONS)
    assert not any(asked_for_letter(body) for body in at.seen[1:])


@pytest.mark.parametrize(
    "top",
    [
        {"A": math.nan, "B": -0.1},
        {"A": math.inf, "B": -0.1},
        {"A": "likely", "B": -0.1},
        {"A": None},
        {"I": -0.1, "The": -2.0},  # neither letter
        {"A": -math.inf, "B": -math.inf},
    ],
)
def test_log_probabilities_that_say_nothing_lead_to_the_line(serve: Serve, tmp_path: Path, top: dict[str, Any]) -> None:
    at = serve(lambda number, body: ok("A", top) if asked_for_letter(body) else by_line(number, body))
    assert [verdict.p for verdict in ask(at, tmp_path)(TWO)] == [0.0, 1.0]


def test_a_letter_that_is_not_listed_is_at_most_as_likely_as_the_last_that_is() -> None:
    # B is under both .2, the last listed, and .05, all that is left
    assert server.letter_probability([("A", math.log(0.75)), ("I", math.log(0.2))]) == pytest.approx(0.75 / 0.8)
    assert server.letter_probability([("A", math.log(0.9))]) == pytest.approx(0.9)
    assert server.letter_probability([(" B", math.log(0.6)), ("B", math.log(0.2)), ("A", math.log(0.2))]) == pytest.approx(0.2)
    assert server.letter_probability([("A", 0.0), ("B", -9999.0)]) == 1.0
    assert server.letter_probability([("An", -0.1), ("a", -3.0)]) is None
    assert server.letter_probability(None) is server.letter_probability([]) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Verdict: A", 1.0),
        ("Verdict: B", 0.0),
        ("A is ruder than B.\nVerdict: B", 0.0),
        ("**Verdict: A**", 1.0),
        ("> **Verdict:** [[B]].\r\n", 0.0),
        ("VERDICT: A\n\n", 1.0),
        ("Verdict: A\nNo, wait.\nVerdict: B", 0.0),
        ("A better answer is B", None),
        ("Verdict: A better one is B", None),
        ("Verdict: a", None),
        ("Verdict: A or B", None),
        ("Verdict: A\nVerdict: neither", None),
        ("Verdict: C", None),
        ("Verdict:", None),
        ("My verdict: A", None),
        ("A", 1.0),
        (" **B**\n", 0.0),
        ("A.\nB.", None),
        ("", None),
    ],
)
def test_only_the_last_line_with_a_verdict_counts(text: str, found: float | None) -> None:
    assert server.line_probability(text) == found


def test_a_chain_of_thought_is_asked_for_and_kept_as_the_reason(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda _, body: ok(f"A calls names, B doesn't.\n\nVerdict: {kinder(body)}"))
    (verdict,) = ask(at, tmp_path, thought=100)(QUESTIONS[:1])
    assert verdict.p == 0.0
    assert verdict.reason.count("A calls names") == 2
    assert {body["max_tokens"] for body in at.seen} == {132}
    assert not any(asked_for_letter(body) for body in at.seen)
    assert "Then end with one line" in at.seen[0]["messages"][0]["content"]


def test_a_verdict_that_flips_with_the_order_is_a_tie(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda _, body: ok("Verdict: A"))
    verdicts = ask(at, tmp_path)(TWO)
    assert [(verdict.p, verdict.orders) for verdict in verdicts] == [(0.5, (1.0, 0.0))] * 2
    assert summary(TWO, verdicts)["position_bias"].value == 0.5


def test_a_principle_is_what_the_server_is_asked_to_judge_by(serve: Serve, tmp_path: Path) -> None:
    at = serve(by_letter)
    judge = ask(at, tmp_path)
    judge(TWO, "Choose the one a friend would write.")
    assert all("Choose the one a friend would write." in body["messages"][0]["content"] for body in at.seen)
    judge(TWO)
    assert len(at.seen) == 8  # another question, another answer


@pytest.mark.parametrize(
    ("reply", "cause", "reason"),
    [
        (ok(None, refusal="I won't compare these."), "refused", "I won't compare these."),
        (ok("", finish_reason="content_filter"), "refused", ""),
        (ok("I'm sorry, I can't help with that."), "no verdict", "I'm sorry"),
        (ok("A B A B"), "no verdict", "A B A B"),
        (ok(None), "no verdict", ""),
        (ok("First, let me", finish_reason="length"), "no verdict", "First"),
    ],
)
def test_what_is_no_verdict_is_missing_with_its_cause_and_is_paid_for(
    serve: Serve, tmp_path: Path, reply: Answer, cause: str, reason: str
) -> None:
    at = serve(lambda number, body: reply if "idiot" in body["messages"][0]["content"] else by_letter(number, body))
    kind, rude = ask(at, tmp_path)(TWO[::-1])
    assert (rude.p, rude.missing) == (None, cause)
    assert reason in rude.reason
    assert rude.tokens == (62 if cause == "refused" else 124)  # who refuses is not asked again in other words
    assert kind.p == 0.75
    assert summary(TWO, [rude, kind])["missing"] == {cause: 1}
    before = len(at.seen)
    assert ask(at, tmp_path)(TWO[::-1]) == [kind, rude]
    assert len(at.seen) == before


# -- retries -----------------------------------------------------------------------------------------------------------


def fail_first(times: int, answer: Answer) -> Callable[[int, dict[str, Any]], Answer]:
    return lambda number, body: answer if number < times else by_letter(number, body)


def test_a_server_is_left_alone_for_as_long_as_it_asks(serve: Serve, tmp_path: Path) -> None:
    sleeper = Sleeper()
    at = serve(fail_first(1, error(429, "slow down", Retry_After="7")))
    assert [verdict.p for verdict in ask(at, tmp_path, sleeper)(TWO)] == pytest.approx([0.25, 0.75])
    assert sleeper.slept == [7.0]


def test_a_date_to_come_back_at_is_understood(serve: Serve, tmp_path: Path) -> None:
    sleeper = Sleeper()
    at = serve(fail_first(1, error(503, Retry_After=formatdate(time.time() + 100, usegmt=True))))
    ask(at, tmp_path, sleeper)(TWO)
    assert 50 < sleeper.slept[0] <= 101


def test_a_server_that_asks_for_a_day_stops_the_run(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda number, body: by_letter(number, body) if number < 2 else error(429, "quota", Retry_After="86400"))
    sleeper = Sleeper()
    with pytest.raises(UserError, match="asks to wait 86400 s: HTTP 429: quota; 1 of 2 verdicts are saved"):
        ask(at, tmp_path, sleeper)(TWO)
    assert sleeper.slept == []


def test_waits_double_with_a_jitter_that_is_the_same_every_time(serve: Serve, tmp_path: Path) -> None:
    slept = []
    for run in range(2):
        sleeper = Sleeper()
        at = serve(fail_first(4, error(500)))
        assert ask(at, tmp_path / str(run), sleeper, retries=4)(TWO)[0].p == pytest.approx(0.25)
        assert len(at.seen) == 8
        slept.append(sleeper.slept)
    for attempt, seconds in enumerate(slept[0]):
        assert 0.25 * 2**attempt <= seconds <= 0.5 * 2**attempt
    assert len(slept[0]) == 4
    assert len({round(seconds / 2**attempt, 6) for attempt, seconds in enumerate(slept[0])}) == 4


def drop(handler: Any) -> None:
    """Close amid the body."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b'{"choices": [')


def drop_error(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 500 Sorry\r\nContent-Length: 500\r\n\r\n" + b'{"error": ')


def hang_up(_: Any) -> None:
    """Close without a word."""


HTML = b"<!doctype html><html><body>504 Gateway Time-out</body></html>"
MISBEHAVIOUR = [
    pytest.param(error(500), "server error", id="500"),
    pytest.param(error(502), "server error", id="502"),
    pytest.param(error(408), "server error", id="408"),
    pytest.param(error(429), "rate limit", id="429"),
    pytest.param(error(429, Retry_After="soon"), "rate limit", id="429 soon"),
    pytest.param(Answer(HTML, 503), "server error", id="html 503"),
    pytest.param(Answer(then=drop), "no connection", id="closes amid the body"),
    pytest.param(Answer(then=drop_error), "no connection", id="closes amid an error"),
    pytest.param(Answer(then=hang_up), "no connection", id="hangs up"),
    pytest.param(Answer(b"not gzip", headers={"Content-Encoding": "gzip"}), "no connection", id="bad encoding"),
    pytest.param(Answer(HTML, headers={"Content-Type": "text/html"}), "malformed", id="html 200"),
    pytest.param(Answer(b""), "malformed", id="empty"),
    pytest.param(Answer(b"{"), "malformed", id="half a json"),
    pytest.param(Answer(b"[" * 100_000), "malformed", id="deep"),
    pytest.param(Answer(b"null"), "malformed", id="null"),
    pytest.param(Answer(b'{"choices": []}'), "malformed", id="no choices"),
    pytest.param(Answer(b'{"choices": [7]}'), "malformed", id="a number for a choice"),
    pytest.param(Answer(b'{"choices": [{"message": "hi"}]}'), "malformed", id="text for a message"),
    pytest.param(Answer(b'{"error": {"message": "out of memory"}}'), "malformed", id="200 error"),
    pytest.param(Answer(b"\xff\xfe\x00"), "malformed", id="no text"),
]


@pytest.mark.parametrize(("wrong", "cause"), MISBEHAVIOUR)
def test_what_goes_wrong_twice_is_tried_a_third_time(serve: Serve, tmp_path: Path, wrong: Answer, cause: str) -> None:
    sleeper = Sleeper()
    at = serve(fail_first(2, wrong))
    assert [verdict.p for verdict in ask(at, tmp_path, sleeper)(TWO)] == pytest.approx([0.25, 0.75])
    assert len(sleeper.slept) == 2
    assert len(at.seen) == 6


@pytest.mark.parametrize(("wrong", "cause"), MISBEHAVIOUR)
def test_what_never_works_is_a_missing_verdict_with_its_cause(serve: Serve, tmp_path: Path, wrong: Answer, cause: str) -> None:
    at = serve(lambda number, body: wrong if "idiot" in body["messages"][0]["content"] else by_letter(number, body))
    rude, kind = ask(at, tmp_path, retries=1)(TWO)
    assert (rude.p, rude.missing, rude.tokens) == (None, cause, 0)
    assert rude.reason
    assert kind.p == pytest.approx(0.75)


def test_a_server_that_does_not_answer_in_time_is_given_up(serve: Serve, tmp_path: Path) -> None:
    def silent(_: Any) -> None:
        at.closing.wait(30)

    def script(number: int, body: dict[str, Any]) -> Answer:
        return Answer(then=silent) if number == 0 else by_letter(number, body)

    at = serve(script)
    assert ask(at, tmp_path, timeout=0.2)(TWO)[0].p == pytest.approx(0.25)
    assert len(at.seen) == 5


def test_an_answer_that_trickles_in_is_given_up_when_its_time_is_over(serve: Serve, tmp_path: Path) -> None:
    def trickle(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with suppress(OSError):
            while not at.closing.wait(0.02):  # each byte well within the time that a read may take
                handler.wfile.write(b" ")

    at = serve(lambda number, body: Answer(then=trickle))
    judge = ask(at, tmp_path, timeout=0.3, retries=0)
    with pytest.raises(UserError, match=r"answered nothing: no complete answer within task.judge.timeout=0.3 s"):
        judge(QUESTIONS[:1])


def test_an_answer_without_end_is_given_up(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_BODY", 1000)
    at = serve(lambda *_: ok("word " * 1000))
    with pytest.raises(UserError, match="answered nothing: an answer of over"):
        ask(at, tmp_path, retries=0)(QUESTIONS[:1])


def test_a_server_that_is_not_there_stops_the_run(tmp_path: Path, serve: Serve) -> None:
    at = serve(by_letter)
    at.close()
    sleeper = Sleeper()
    with pytest.raises(UserError, match="failed 5 requests in a row, the last with: no connection") as stopped:
        ask(at.base_url, tmp_path, sleeper)(QUESTIONS)
    assert "0 of 4 verdicts are saved in" in str(stopped.value)
    assert len(sleeper.slept) == 10
    assert "\n" not in str(stopped.value)


# -- stops and goes on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_server_that_goes_away_half_way_costs_nothing_that_was_answered(
    serve: Serve, tmp_path: Path, concurrency: int
) -> None:
    many = [Question(f"{i}", " idiot", " kind") for i in range(20)]
    alive = threading.Event()
    at = serve(lambda number, body: by_letter(number, body) if number < 12 or alive.is_set() else error(500, "out of memory"))
    with pytest.raises(UserError) as stopped:
        ask(at, tmp_path, concurrency=concurrency)(many)
    said = str(stopped.value)
    assert "failed 5 requests in a row, the last with: HTTP 500: out of memory" in said
    assert f" of 20 verdicts are saved in {tmp_path}; run the same command to resume" in said
    # twelve showings were answered; which, among those on their way at once, is up to the threads
    assert int(said.partition(" of 20 verdicts")[0].split()[-1]) in ((6,) if concurrency == 1 else (4, 5, 6))
    assert len(list(tmp_path.glob("*.json"))) == 12
    alive.set()
    before = len(at.seen)
    verdicts = ask(at, tmp_path, concurrency=concurrency)(many)
    assert len(at.seen) - before == 40 - 12
    fresh = ask(at, tmp_path / "fresh", concurrency=concurrency)(many)
    assert verdicts == fresh  # and billed alike


def test_one_good_answer_begins_the_count_of_failures_anew(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda number, body: by_letter(number, body) if number % 5 == 4 else error(500))
    verdicts = ask(at, tmp_path, retries=0)([Question(f"{i}", " idiot", " kind") for i in range(10)])
    assert [verdict.missing for verdict in verdicts] == ["server error"] * 10
    assert sum(verdict.tokens > 0 for verdict in verdicts) == 4  # 4 of 20 showings were answered, in 4 different pairs


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "is the key in OPENAI_API_KEY right?"), (403, "may the key"), (404, "task.judge.model"), (405, "see task.judge")],
)
def test_a_refusal_of_key_or_model_stops_at_once(serve: Serve, tmp_path: Path, status: int, advice: str) -> None:
    at = serve(lambda number, _: error(status, f"Incorrect API key provided: {KEY}\nsee the manual"))
    with pytest.raises(UserError) as stopped:
        ask(at, tmp_path, concurrency=4)(QUESTIONS)
    said = str(stopped.value)
    assert f"HTTP {status}: Incorrect API key provided: [redacted] see the manual" in said
    assert advice in said
    assert KEY not in said
    assert "\n" not in said
    assert len(at.seen) == 1


def test_a_missing_key_is_fine_for_a_server_that_wants_none_and_named_where_it_wants_one(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    at = serve(by_letter)
    ask(at, tmp_path / "a")(TWO)
    assert set(at.keys) == {"Bearer none"}
    closed = serve(lambda *_: error(401, "who are you?"))
    with pytest.raises(UserError, match="set the key in OPENAI_API_KEY"):
        ask(closed, tmp_path / "b")(TWO)
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    ask(at, tmp_path / "c", key_env="MY_KEY")(TWO)
    assert at.keys[-1] == f"Bearer {KEY}"


@pytest.mark.parametrize("value", ["sk-caf\u00e9-0123456789", "sk-two words-0123", "sk-line\nbreak-0123"])
def test_a_key_that_can_be_none_is_not_sent_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds characters that no key has") as stopped:
        ask("http://localhost/v1", tmp_path)
    assert value not in str(stopped.value)


def test_a_question_that_the_server_rejects_is_missing_and_the_run_goes_on(serve: Serve, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        long = len(body["messages"][0]["content"]) > 2000
        return error(400, "maximum context length is 500 tokens") if long else by_letter(number, body)

    at = serve(script)
    sleeper = Sleeper()
    long = [Question(f"{i} " + "so on " * 400, " a", " b") for i in range(6)]
    verdicts = ask(at, tmp_path, sleeper)([*long, *TWO])
    assert [verdict.missing for verdict in verdicts] == ["rejected"] * 6 + ["", ""]
    assert "maximum context length" in verdicts[0].reason
    assert verdicts[-1].p == pytest.approx(0.75)
    assert sleeper.slept == []


def test_a_server_that_takes_no_request_at_all_is_not_asked_for_ever(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda *_: error(400, "temperature must be 1"))
    with pytest.raises(
        UserError, match="rejected 50 requests and answered none, the last with: HTTP 400: temperature must be 1"
    ):
        ask(at, tmp_path)([Question(f"{i}", " a", " b") for i in range(100)])
    assert len(at.seen) == 50


def test_nothing_but_failures_is_no_result_even_of_few_questions(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda *_: error(500, "broken"))
    with pytest.raises(UserError, match="answered nothing: HTTP 500: broken; run the same command to retry"):
        ask(at, tmp_path)(TWO)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_run_has_kept_every_answer_that_came(serve: Serve, tmp_path: Path) -> None:
    process: list[subprocess.Popen[bytes]] = []

    def script(number: int, body: dict[str, Any]) -> Answer:
        if number == 5:
            process[0].kill()
            process[0].wait()
        return by_letter(number, body)

    at = serve(script)
    code = f"""if True:
        from pathlib import Path
        from isoalign.feedback.judges import JudgeConfig, Question
        from isoalign.feedback.judges.server import ServerJudge
        judge = ServerJudge(JudgeConfig(kind="server", model="m", base_url={at.base_url!r}, concurrency=1), Path("kept"))
        input()
        judge([Question(f"{{i}}", " idiot", " kind") for i in range(8)])"""
    process.append(subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE))
    process[0].communicate(b"go\n", timeout=60)
    assert process[0].returncode != 0
    kept = sorted((tmp_path / "kept").iterdir())
    assert [file.suffix for file in kept] == [".json"] * 5
    verdicts = ask(at, tmp_path / "kept")([Question(f"{i}", " idiot", " kind") for i in range(8)])
    assert len(at.seen) == 6 + 16 - 5
    assert [verdict.p for verdict in verdicts] == pytest.approx([0.25] * 8)


def test_an_interrupted_run_asks_no_more_and_keeps_what_was_on_its_way(serve: Serve, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            judge.client.stop_signal.stopped.wait(10)
        return by_letter(number, body)

    at = serve(script)
    judge = ask(at, tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the workers of a test run ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            judge(QUESTIONS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(at.seen) == len(list(tmp_path.iterdir())) == 4
    assert [verdict.p for verdict in judge(TWO)] == pytest.approx([0.25, 0.75])  # and can be asked again


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [by_letter, by_line])
def test_a_second_run_sends_nothing_and_is_billed_alike(
    serve: Serve, tmp_path: Path, script: Callable[[int, dict[str, Any]], Answer]
) -> None:
    at = serve(script)
    first = ask(at, tmp_path)(QUESTIONS)
    asked = len(at.seen)
    at.close()
    judge = ask(at, tmp_path, token_limit=asked * 31)  # what it cost is known: nothing is estimated
    assert judge(QUESTIONS) == first
    assert len(at.seen) == asked
    assert judge.client.token_budget.spent == asked * 31


def test_a_server_that_rejects_log_probabilities_is_not_needed_for_a_second_run(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda number, body: error(400, "no logprobs") if asked_for_letter(body) else by_line(number, body))
    first = ask(at, tmp_path)(QUESTIONS)
    asked = len(at.seen)
    assert ask(at, tmp_path)(QUESTIONS) == first
    assert len(at.seen) == asked


def test_questions_that_share_a_showing_send_it_once_and_are_billed_each(serve: Serve, tmp_path: Path) -> None:
    at = serve(by_letter)
    one, two, three = ask(at, tmp_path, concurrency=4)([QUESTIONS[0], QUESTIONS[0].swapped, QUESTIONS[0]])
    assert len(at.seen) == 2
    assert one == three
    assert one.p == pytest.approx(1 - (two.p or 0))
    assert one.tokens == two.tokens == 62


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: '{"request": 1, "reply": 2}',
        lambda text: text.replace('"model": "m"', '"model": "n"'),
        lambda text: text.replace('"tokens": 31', '"tokens": "many"'),
        lambda text: text.replace('"top": [', '"top": [7, '),
        lambda text: text.replace('"tokens"', '"token"'),
        lambda text: "\x00" * len(text),
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_answer_is_asked_for_again(serve: Serve, tmp_path: Path, damage: Callable[[str], str]) -> None:
    at = serve(by_letter)
    first = ask(at, tmp_path)(TWO)
    for file in tmp_path.iterdir():
        file.write_text(damage(file.read_text()))
    assert ask(at, tmp_path)(TWO) == first
    assert len(at.seen) == 8
    assert ask(at, tmp_path)(TWO) == first
    assert len(at.seen) == 8


def test_another_model_or_server_does_not_get_the_answers_of_this_one(serve: Serve, tmp_path: Path) -> None:
    at, other = serve(by_letter), serve(by_line)
    assert ask(at, tmp_path)(TWO)[0].p == pytest.approx(0.25)
    assert ask(other, tmp_path)(TWO)[0].p == 0.0


def test_the_key_is_nowhere_even_if_the_server_repeats_it(serve: Serve, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        text = body["messages"][0]["content"]
        if "lovely" in text:
            return Answer(f"<html>{'x' * 150} Authorization: Bearer {KEY}</html>".encode())
        if "moron" in text:
            return error(500, f"upstream said no to {KEY}")
        if "away" in text:
            return ok(None, refusal=f"I don't talk to {KEY}")
        escaped = "".join(f"\\u{ord(char):04x}" for char in KEY)  # the same text, written otherwise
        return Answer(json.dumps(completion("SECRET\nVerdict: A")).replace("SECRET", f"Your key is {escaped}").encode())

    at = serve(script)
    judge = ask(at, tmp_path, retries=0, thought=50)
    verdicts = judge(QUESTIONS)
    assert [verdict.missing for verdict in verdicts] == ["", "server error", "malformed", "refused"]
    said = repr(verdicts) + everything_saved(tmp_path) + json.dumps(judge.identity) + judge.name
    assert KEY not in said
    assert KEY[:12] not in said  # nor half of it, where a line was cut
    assert "Your key is [redacted]" in said
    assert "[redacted]" in everything_saved(tmp_path)


def test_a_short_word_for_a_key_is_not_cut_out_of_answers(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "A")
    at = serve(lambda *_: ok("Verdict: A"))
    assert ask(at, tmp_path)(TWO)[0].p == 0.5


def test_any_text_can_be_asked_about_and_answered_with(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda *_: Answer(json.dumps(completion("\ud83d caf\u00e9 \U0001f600\nVerdict: A")).encode()))
    odd = Question("\u0000 \ud800", "na\u00efve \U0001f600 \udfff", "\u202e\ufeff</s> \"{'")
    (verdict,) = ask(at, tmp_path, thought=10)([odd])
    assert verdict.p == 0.5
    verdict.reason.encode()
    assert "na\u00efve \U0001f600 \N{REPLACEMENT CHARACTER}" in at.seen[0]["messages"][0]["content"]
    assert ask(at, tmp_path, thought=10)([odd]) == [verdict]
    assert len(at.seen) == 2


# -- limits ------------------------------------------------------------------------------------------------------------


def test_requests_are_spread_evenly_over_a_minute() -> None:
    sleeper = Sleeper()
    limiter = RateLimiter(30, lambda: sleeper.now, sleeper)
    starts = []
    for _ in range(4):
        limiter.wait()
        starts.append(sleeper.now)
    assert starts == [0, 2, 4, 6]
    sleeper.now = 100
    limiter.wait()  # time that was not used is not saved up
    limiter.wait()
    assert sleeper.now == 102


def test_retries_keep_the_pace_too(serve: Serve, tmp_path: Path) -> None:
    at = serve(fail_first(1, error(429, Retry_After="1")))
    sleeper = Sleeper()
    chosen = JudgeConfig(kind="server", model="m", base_url=at.base_url, concurrency=1, requests_per_minute=6)
    server.ServerJudge(chosen, tmp_path, sleep=sleeper, clock=lambda: sleeper.now, quiet=True)(QUESTIONS[:1])
    assert len(at.seen) == 3
    assert sleeper.now == 20  # starts at 0, 10 (1 of it for the server) and 20


def test_a_request_that_could_pass_the_limit_is_not_sent(serve: Serve, tmp_path: Path) -> None:
    many = [Question(f"{i}", " idiot", " kind") for i in range(10)]
    at = serve(by_letter)
    text = templates.load_template("").render("0", " idiot", " kind", None, templates.LETTER)
    estimate = math.ceil(len(text) / 4) + 1
    limit = 5 * 31 + estimate - 1  # five have cost 31 each; a sixth could be one too many
    with pytest.raises(UserError) as stopped:
        ask(at, tmp_path, token_limit=limit)(many)
    assert len(at.seen) == 5
    assert f"could exceed task.judge.token_limit={limit}, of which 155 tokens are spent; raise it to continue" in str(
        stopped.value
    )
    assert "2 of 10 verdicts are saved in" in str(stopped.value)
    with pytest.raises(UserError, match="155 tokens are spent"):  # what is kept counts as if it had just been paid
        ask(at, tmp_path, token_limit=limit)(many)
    assert len(at.seen) == 5
    with pytest.raises(UserError, match="186 tokens are spent"):
        ask(at, tmp_path, token_limit=limit + 1)(many)
    assert len(at.seen) == 6
    ask(at, tmp_path, token_limit=20 * 31 + estimate)(many)
    assert len(at.seen) == 20


def test_a_limit_stops_many_threads_where_it_stops_one(serve: Serve, tmp_path: Path) -> None:
    many = [Question(f"{i}", " idiot", " kind") for i in range(10)]
    at = serve(by_letter)
    estimate = math.ceil(len(templates.load_template("").render("0", " idiot", " kind", None, templates.LETTER)) / 4) + 1
    with pytest.raises(UserError, match="310 tokens are spent"):
        ask(at, tmp_path, concurrency=4, token_limit=10 * 31 + estimate - 1)(many)
    assert len(at.seen) == 10


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": 3},
        {"total_tokens": 5},
        "many",
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 0, "completion_tokens": 0},
    ],
)
def test_tokens_that_the_server_does_not_count_are_estimated_and_marked(serve: Serve, tmp_path: Path, usage: Any) -> None:
    at = serve(lambda *_: Answer(json.dumps(completion("Verdict: A") | {"usage": usage}).encode()))
    (verdict,) = ask(at, tmp_path, thought=10)(QUESTIONS[:1])
    texts = [body["messages"][0]["content"] + "Verdict: A" for body in at.seen]
    assert verdict.tokens == sum(math.ceil(len(text) / 4) for text in texts)
    assert verdict.estimated
    assert summary(QUESTIONS[:1], [verdict])["estimated"] == 1


def test_a_folder_that_cannot_be_written_stops_the_run_in_one_line(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    at = serve(by_letter)
    with pytest.raises(UserError, match=r"cannot write .*; 0 of 4 verdicts are saved") as stopped:
        ask(at, tmp_path / "file", concurrency=4)(QUESTIONS)
    assert "\n" not in str(stopped.value)
    assert len(at.seen) == 1


def test_a_server_judge_without_its_package_says_what_to_install(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match="needs the package openai: pip install openai"):
        ask("http://127.0.0.1:9/v1", tmp_path)(TWO)


def test_a_bug_is_not_taken_for_a_missing_verdict(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = serve(by_letter)
    judge = ask(at, tmp_path)
    monkeypatch.setattr(client, "max_tokens", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        judge(TWO)
    monkeypatch.undo()
    assert len(at.seen) == 0


def test_a_judge_without_a_usable_verdict_is_reported_with_its_answer(serve: Serve, tmp_path: Path) -> None:
    at = serve(lambda _, body: ok("purple monkey"))
    rows = [{"id": "p", "text": "you", "prompt_ids": [1], "answers": [" a", " b", " c"], "answer_ids": [[2], [3], [4]]}]
    with pytest.raises(UserError, match=r"none of the judge's 3 verdicts is usable \(3 no verdict\).*'purple monkey"):
        pairs.by_judge(rows, ask(at, tmp_path), task.FeedbackConfig(judge_margin=0.0), 0)
