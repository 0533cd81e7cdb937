"""Constitutional AI: principles from a yaml, revisions by them with their price, and a judge that is asked by them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from isoalign.baselines.cai import CAI
from isoalign.config.feedback import ConstitutionConfig, JudgeConfig
from isoalign.config.fill import build_config
from isoalign.config.task import ModelConfig, TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.jsonl import write_rows
from isoalign.core.records import Budget
from isoalign.core.store import Store
from isoalign.data.formats import Turn
from isoalign.data.preferences import Feedback
from isoalign.feedback import constitution, judges
from isoalign.feedback.constitution import Constitution, Principle, PrincipledJudge
from isoalign.feedback.judges import Question, lm
from isoalign.feedback.judges.writer import Exchange, LMWriter, ServerWriter, Talk, Written
from isoalign.models import loading
from isoalign.models.flops import Shape
from isoalign.models.language import LanguageModel
from isoalign.runs.overrides import task_named
from isoalign.stages import revisions
from isoalign.stages.cutting import Cutter
from isoalign.stages.shared import SharedStages
from isoalign.training.lab import session_of
from test_judges import Answer, Server, ok
from workbench import COMMAND, Bench, Size, Terminal, complaint, small, write_model

CHAT = "{% for m in messages %}{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}assistant>"

KIND = Principle("kind", "Find what is rude.", "Make it kind.", "It is kind.")
SHORT = Principle("short", "Find what is long.", "Make it short.", "It is short.")
BOTH = Constitution((KIND, SHORT))


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


# -- the yaml -------------------------------------------------------------------------------------------------------------

ONE = "- {name: a, critique: b, revision: c, preference: d}\n"


def test_a_constitution_is_a_list_of_principles_and_white_space_in_them_means_nothing(tmp_path: Path) -> None:
    text = "- name: kind\n  critique: >\n    Find what\n    is rude.\n  revision: Make it  kind.\n  preference: It is kind.\n"
    assert constitution.load_constitution(str(write(tmp_path / "mine.yaml", text))) == Constitution((KIND,))


def test_the_constitutions_that_ship_can_be_read_by_name() -> None:
    assert "kindness" in constitution.shipped_constitutions()
    for name, file in constitution.shipped_constitutions().items():
        assert constitution.load_constitution(name) == constitution.load_constitution(str(file))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must hold a list of principles, each with name, critique, revision, preference"),
        ("kind: be kind", "must hold a list of principles"),
        ("[]", "must hold a list of principles"),
        ("- be kind", "principle 1: expected name, critique, revision, preference, not 'be kind'"),
        (ONE + "- {name: kind, critique: b, revision: c}", "principle 2 (kind): preference is missing; it must be a text"),
        (
            "- {name: kind, critique: b, revision: '  ', preference: d}",
            "principle 1 (kind): revision must be a text, not '  '",
        ),
        ("- {name: kind, critique: 3, revision: c, preference: d}", "principle 1 (kind): critique must be a text, not '3'"),
        ("- {critique: b, revision: c, preference: d}", "principle 1: name is missing; it must be a text"),
        (ONE.replace("d}", "d, weight: 2}"), "principle 1 (a): unknown weight; known: name, critique, revision, preference"),
        (ONE * 2, "two principles are named 'a'"),
        ("- name: [", "mine.yaml, line 1 is not valid yaml"),
        ("- !!python/object/apply:os.getcwd []", "line 1 is not valid yaml"),
    ],
)
def test_a_yaml_that_is_no_constitution_is_one_line_with_the_file_and_the_principle(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(UserError) as caught:
        constitution.load_constitution(str(write(tmp_path / "mine.yaml", text)))
    line = str(caught.value)
    assert line.startswith(f"task.constitution.file: {tmp_path / 'mine.yaml'}")
    assert told in line
    assert "\n" not in line


def test_a_constitution_that_is_not_there_is_one_line_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    for name in ("kindess", str(tmp_path), str(tmp_path / "bytes.yaml")):
        with pytest.raises(UserError, match=r"must be one of kindness.* or a readable yaml file"):
            constitution.load_constitution(name)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "classifier"}, "task.constitution.kind must be lm or server, not 'classifier'"),
        ({"tokens": 0}, "task.constitution.tokens must be 1 or more"),
        ({"prompts": -1}, "task.constitution.prompts 0 or more"),
        ({"principles": 2}, "task.constitution.principles"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        build_config(ConstitutionConfig, settings, "task.constitution")
    assert told in str(caught.value)


def test_an_items_principle_is_chance_that_depends_on_seed_and_item_alone() -> None:
    items = [f"item {i}" for i in range(400)]
    first = [BOTH.choose(item, 0) for item in items]
    assert 160 < first.count(KIND) < 240  # 200 +- 4 standard deviations of 10
    assert [BOTH.choose(item, 0) for item in reversed(items)] == first[::-1]
    other = [BOTH.choose(item, 1) for item in items]
    assert 160 < sum(a == b for a, b in zip(first, other, strict=True)) < 240
    assert len({BOTH.digest, Constitution((SHORT, KIND)).digest, Constitution((KIND,)).digest}) == 3


# -- the writer -----------------------------------------------------------------------------------------------------------

TALK = (Exchange("What is bad?", "Critique", "All of it."), Exchange("Mend it.", "Revision"))


def writer(folder: Path, tokens: int = 8, batch_size: int = 16) -> LMWriter:
    model, tokenizer = loading.load_model(str(folder))
    return LMWriter("tiny", LanguageModel(model, tokenizer, ends=True), tokens, batch_size)


@torch.no_grad()
def naive(critic: LMWriter, ids: list[int]) -> list[int]:
    """Greedy decoding, token by token: one row, no padding, no cache."""
    written: list[int] = []
    while len(written) < critic.tokens and critic.model.tokenizer.eos_token_id not in written:
        written.append(int(critic.model.inner(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax()))
    return written


def test_a_model_writes_what_is_likeliest_whatever_is_asked_beside_it(tiny_model: Path) -> None:
    critic = writer(tiny_model)
    assert critic.text(TALK) == "What is bad?\n\nCritique: All of it.\n\nMend it.\n\nRevision:"
    talks: list[Talk] = [TALK[:1], TALK, (Exchange("Why?", "Answer"),)]
    tokenizer, shape = critic.model.tokenizer, critic.model.shape
    for talk, said in zip(talks, critic(talks), strict=True):
        ids = tokenizer(critic.text(talk))["input_ids"]
        written = naive(critic, ids)
        assert said.text == tokenizer.decode(written, skip_special_tokens=True).strip().partition("\n\n")[0].strip()
        assert said.tokens == len(ids) + len(written)
        assert said.flops == shape.prefill([len(ids)]) + shape.decode([len(ids)], [len(written)])


def test_a_model_with_a_chat_format_is_asked_in_turns(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = CHAT
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert writer(folder).text(TALK) == "user> What is bad?\nassistant> All of it.\nuser> Mend it.\nassistant>"


def test_what_does_not_fit_the_model_is_not_asked_and_costs_nothing(tiny_model: Path) -> None:
    long = (Exchange("so on " * 600, "Answer"),)
    first, second = writer(tiny_model)([long, TALK])
    assert first == Written("", missing="too long")
    assert second.tokens > 0


def test_the_price_of_writing_is_what_the_kernels_count(tmp_path: Path) -> None:
    critic = writer(write_model(tmp_path, Size(width=128, layers=4, vocabulary=512, feed_forward=352)), batch_size=1)
    critic([TALK])

    def attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        (said,) = critic([TALK])
    assert said.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.fixture
def critic_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Answers with the last request in capitals; refuses those that speak of rudeness."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")

    def script(_: int, body: dict[str, Any]) -> Answer:
        asked = body["messages"][-1]["content"]
        return ok(None, refusal="I won't.") if "rude" in asked else ok(f" {asked.upper()} ")

    server = Server(script)
    yield server
    server.close()


def test_a_server_writes_in_turns_once_and_its_refusals_are_reported(critic_server: Server, tmp_path: Path) -> None:
    config = JudgeConfig(kind="server", model="m", base_url=critic_server.base_url)
    asked = ServerWriter(config, tmp_path, tokens=9)
    rude = (Exchange("Something rude?", "Answer"),)
    found = asked([TALK, rude])
    assert found == [Written("MEND IT.", tokens=31), Written("", tokens=31, missing="refused")]
    assert ServerWriter(config, tmp_path, tokens=9)([TALK, rude]) == found
    assert len(critic_server.seen) == 2
    (body,) = (body for body in critic_server.seen if len(body["messages"]) > 1)
    assert [(m["role"], m["content"]) for m in body["messages"]] == [
        ("user", "What is bad?"), ("assistant", "All of it."), ("user", "Mend it."),
    ]  # fmt: skip
    assert (body["max_tokens"], body["temperature"]) == (9, 0)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    config = JudgeConfig(kind="server", model="m", base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(UserError, match=r"failed 5 requests in a row.*; answers are saved in .*; run the same command"):
        ServerWriter(config, tmp_path, tokens=9)([(Exchange(f"{i}?", "Answer"),) for i in range(9)])


# -- the stage ------------------------------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A critic that knows its lines: by a word of the answer that it is shown, its critique and its revision."""

    lines: dict[str, tuple[Written, Written]]
    name: str = "scripted"
    heard: list[Talk] = field(default_factory=list)

    def __call__(self, talks: Sequence[Talk]) -> list[Written]:
        self.heard += talks
        return [self.lines[next(w for w in self.lines if w in talk[0].request)][len(talk) - 1] for talk in talks]


SHAPE = Shape(body=10, attention=0, head=1)  # reading n tokens: 20 n + 2; each further token written: 22


def candidates(folder: Path, tokenizer: Any, answers: dict[str, str], stratum: str = "toxic") -> Path:
    """Candidates with two draws each, of which the second one is to be left alone."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"id": f"p{i}", "text": f"prompt {i}", "stratum": "clean" if word == "clean" else stratum, "prompt_ids": [0, 5, 6],
         "answers": [text, " another"], "answer_ids": [tokenizer(text, add_special_tokens=False)["input_ids"], [7, 8]]}
        for i, (word, text) in enumerate(answers.items())
    ]  # fmt: skip
    write_rows(folder / "answers.jsonl", rows)
    return folder


def said(text: str, missing: str = "") -> Written:
    return Written(text, tokens=10, flops=1000, missing=missing)


def test_a_revision_in_a_chat_template_is_a_turn_like_every_answer(tiny_model: Path) -> None:
    tokenizer = loading.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = CHAT
    cut = Cutter(tokenizer, ModelConfig(str(tiny_model), eos="open", template="always", new_tokens=8))
    row = {"id": "p", "text": "q", "prompt_ids": [1], "answers": ["you idiot"], "answer_ids": [[2]]}
    found = revisions.revision_row(row, KIND, said("It is rude."), said("Fine, friend."), cut)
    assert isinstance(found, dict)
    assert found["chosen_ids"] == cut.answer((Turn("assistant", "Fine, friend."),))


def revise(
    tmp_path: Path, model: Path, lines: dict[str, tuple[Written, Written]], eos: str = "masked", **more: Any
) -> tuple[list[dict[str, Any]], dict[str, Any], Scripted]:
    """Rows and record of the stage, on one answer for each line."""
    tokenizer, critic = loading.load_tokenizer(str(model)), Scripted(lines)
    answers = candidates(tmp_path / "answers", tokenizer, {word: f" you {word}" for word in lines})
    config = ModelConfig(str(model), eos=eos, new_tokens=more.get("new_tokens", 8))
    principles, limit = more.get("principles", BOTH), more.get("limit", 0)
    revisions.make_revisions(tmp_path, answers, SHAPE, Cutter(tokenizer, config), critic, principles, limit, seed=0)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    return rows, json.loads((tmp_path / "record.json").read_text()), critic


def test_an_answer_is_shown_with_its_prompt_and_then_with_its_critique(tmp_path: Path, tiny_model: Path) -> None:
    lines = {"idiot": (said("It is rude."), said("dear friend"))}
    (row,), record, critic = revise(tmp_path, tiny_model, lines, principles=Constitution((KIND,)))
    opening = "Beginning of a text:\nprompt 0\n\nContinuation:\nyou idiot\n\nCritique request: Find what is rude."
    request = "Revision request: Make it kind. Write the new continuation and nothing else."
    assert critic.heard == [
        (Exchange(opening, "Critique"),),
        (Exchange(opening, "Critique", "It is rude."), Exchange(request, "Revision")),
    ]
    assert (row["rejected"], row["principle"], row["critique"]) == (" you idiot", "kind", "It is rude.")
    assert row["prompt_ids"] == [0, 5, 6]
    assert " dear friend".startswith(row["chosen"])
    assert record["principles"] == {"kind": 1}


def test_what_can_not_be_used_is_counted_by_its_reason_left_out_and_paid(tmp_path: Path, tiny_model: Path) -> None:
    fine = said("Rude.")
    lines = {
        "idiot": (fine, said("are kind")),
        "moron": (fine, said("“ ”")),
        "clown": (fine, said('"you clown"')),  # as it was, in quotes
        "fool": (said("", "refused"), fine),
        "dunce": (said(""), fine),
        "twit": (fine, said("", "timeout")),
        "clean": (fine, fine),  # no red-team prompt
    }
    rows, record, critic = revise(tmp_path, tiny_model, lines)
    assert [row["prompt_id"] for row in rows] == ["p0"]
    assert record["left_out"] == {
        "blank": 1, "critique: blank": 1, "critique: refused": 1, "timeout": 1, "unchanged": 1,
    }  # fmt: skip
    assert (record["asked"], record["revised"], record["source"]) == (6, 1, "ai_revisions")
    assert not any("clean" in talk[0].request for talk in critic.heard)
    # 6 critiques and 4 revisions, all for the one that is left
    assert (record["passes"], record["tokens"], record["flops"]) == (10, 100, 10_000)
    tokenizer = loading.load_tokenizer(str(tiny_model))
    words = [word for word in lines if word != "clean"]
    lengths = [len(tokenizer(f" you {word}", add_special_tokens=False)["input_ids"]) for word in words]
    assert record["flops_each"] == {"critic": 10_000, "feedback": sum(20 * 3 + 2 + 22 * (n - 1) for n in lengths)}
    assert record["asked_each"] == {"critic_passes": 10, "critic_tokens": 100}
    assert Feedback.read(tmp_path).price([0]) == record["flops_each"]


@pytest.mark.parametrize(("eos", "ends"), [("masked", False), ("open", True)])
def test_a_revision_is_cut_to_the_tasks_tokens_and_ends_where_that_is_open(
    tmp_path: Path, tiny_model: Path, eos: str, ends: bool
) -> None:
    tokenizer = loading.load_tokenizer(str(tiny_model))
    short, long = "kind", "what a lovely page this is, and what a lovely page that was, thank you for your kind help"
    rows, _, _ = revise(
        tmp_path, tiny_model, {"idiot": (said("x"), said(short)), "moron": (said("x"), said(long))}, eos, new_tokens=6
    )
    whole = tokenizer(f" {long}", add_special_tokens=False)["input_ids"]
    assert rows[1]["chosen_ids"] == whole[:6]
    word = tokenizer(f" {short}", add_special_tokens=False)["input_ids"]
    assert len(word) < 6
    assert rows[0]["chosen_ids"] == word + [tokenizer.eos_token_id] * ends
    assert rows[0]["chosen"] == f" {short}"


def test_a_limit_spares_the_critic_and_no_red_team_prompt_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    lines = {word: (said("x"), said("kind words")) for word in ("idiot", "moron", "clown")}
    rows, record, critic = revise(tmp_path, tiny_model, lines, limit=2)
    assert (len(rows), record["asked"], len(critic.heard)) == (2, 2, 4)
    with pytest.raises(UserError, match=r"^scripted revised none of 0 answers: there is no red-team prompt"):
        revise(tmp_path, tiny_model, {"clean": (said("x"), said("x"))})
    with pytest.raises(UserError, match=r"^scripted revised none of 1 answers: 1 unchanged; see task\.constitution"):
        revise(tmp_path, tiny_model, {"idiot": (said("x"), said("you idiot"))})


@pytest.mark.parametrize(
    ("text", "hoped"), [("kind", " kind"), (", friend", ", friend"), ('"kind"', " kind"), ('"a" or "b', ' "a" or "b')]
)
def test_a_revision_continues_the_prompt(text: str, hoped: str) -> None:
    assert revisions.with_space(revisions.unquoted(text)) == hoped


# -- the judge ------------------------------------------------------------------------------------------------------------

QUESTIONS = [Question(f"you are {i}", " a stupid idiot", " very kind") for i in range(6)]


def test_each_question_to_a_judge_has_its_own_principle(tiny_model: Path) -> None:
    inner = lm.load_lm(JudgeConfig(kind="lm", model=str(tiny_model)), quiet=True)
    judge = PrincipledJudge(inner, BOTH, seed=0)
    asked = [judge.preference(question) for question in QUESTIONS]
    assert set(asked) == {"It is kind.", "It is short."}
    found = judge(QUESTIONS)
    for question, principle, verdict in zip(QUESTIONS, asked, found, strict=True):
        assert verdict.p == pytest.approx(inner([question], principle)[0].p, abs=1e-6)
        other = ({"It is kind.", "It is short."} - {principle}).pop()
        assert verdict.p != pytest.approx(inner([question], other)[0].p, abs=1e-6)
    assert judge.identity != PrincipledJudge(inner, Constitution((KIND,)), seed=0).identity != inner.identity


def test_a_server_reads_the_principle_of_each_question(critic_server: Server, tmp_path: Path) -> None:
    judge = judges.load_judge(JudgeConfig(kind="server", model="m", base_url=critic_server.base_url), tmp_path, quiet=True)
    principled = PrincipledJudge(judge, BOTH, seed=0)
    principled(QUESTIONS)
    for question in QUESTIONS:
        bodies = [body["messages"][0]["content"] for body in critic_server.seen]
        own = [text for text in bodies if f"{question.prompt}\n" in text]
        assert own
        assert all(f"Principle: {principled.preference(question)}\n" in text for text in own)


def nano(**settings: Any) -> TaskConfig:
    return task_named("nano", [f"task.{key.replace('__', '.')}={value}" for key, value in settings.items()])


def test_principles_change_the_pairs_only_of_a_judge_that_reads_them(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.yaml", ONE)
    asked = {"judge__kind": "lm", "judge__model": "nano"}

    def keys(by: str, **settings: Any) -> str:
        return SharedStages(nano(**settings), Store(tmp_path)).pairs(by).key

    assert keys("judge") == keys("judge", constitution__file=file)  # the classifier reads none
    assert keys("annotator") == keys("annotator", constitution__file=file, **asked)
    own, shipped = (keys("judge", constitution__file=name, **asked) for name in (file, "kindness"))
    assert len({own, shipped, keys("judge", **asked)}) == 3


def test_the_key_of_revisions_covers_all_that_they_depend_on(tmp_path: Path) -> None:
    base = nano(constitution__file="kindness")
    server = replace(base.judge, base_url="http://localhost:1/v1", model="m")
    tasks = [
        base,
        nano(constitution__file=write(tmp_path / "mine.yaml", ONE)),
        *(replace(base, constitution=replace(base.constitution, **change)) for change in (
            {"tokens": 9}, {"prompts": 9}, {"model": "nano"})),
        replace(base, judge=server, constitution=replace(base.constitution, kind="server")),
        replace(base, judge=server, constitution=replace(base.constitution, kind="server", model="other")),
        replace(base, seed=1),
    ]  # fmt: skip
    assert revisions.turns_recipe(base) == {}
    assert revisions.turns_recipe(replace(base, model=replace(base.model, template="always"))) == {"turns": True}
    keys = [SharedStages(task, Store(tmp_path)).revisions_stage.key for task in tasks]
    assert len(set(keys)) == len(tasks)
    assert (
        SharedStages(replace(base, judge=replace(server, kind="server")), Store(tmp_path)).revisions_stage.key == keys[0]
    )  # the judge doesn't revise


def test_a_critic_on_a_server_without_an_address_is_one_line(tmp_path: Path) -> None:
    shared = SharedStages(
        nano(constitution__file="kindness", constitution__kind="server", constitution__model="m"), Store(tmp_path)
    )
    with pytest.raises(
        UserError, match=r"^task\.constitution\.kind=server uses the server of task\.judge: task\.judge\.base_url"
    ):
        _ = shared.revisions_stage.key


# -- the algorithm --------------------------------------------------------------------------------------------------------


def test_revisions_are_paid_once_with_their_critique(tiny_bench: Bench) -> None:
    given = replace(tiny_bench.source.verdicts["revisions"], flops_each={"feedback": 10, "critic": 7},
                    asked_each={"critic_passes": 2.0, "critic_tokens": 30.0})  # fmt: skip
    source = replace(tiny_bench.source, verdicts=tiny_bench.source.verdicts | {"revisions": given})
    lab = tiny_bench.replace(source=source).lab()
    first = lab.revisions(4)
    assert first.chosen.tokens.shape[0] == first.rejected.tokens.shape[0] == 4
    assert session_of(lab).meter.items == {("feedback", "sample"): 40, ("critic", "sample"): 28}
    seen = [*first.index.tolist(), *lab.revisions(7).index.tolist()]
    assert sorted(seen) == list(range(11))
    lab.revisions(11)
    spent = session_of(lab).meter.spent()
    assert (spent["flops"], spent["labels"]) == (11 * 17, {"ai_revisions": 11})
    assert spent["judge"] == {"critic_passes": 22, "critic_tokens": 330}


def test_imitation_is_the_mean_surprise_of_a_revisions_tokens() -> None:
    logp = torch.tensor([[-1.0, -2.0, 0.0], [-3.0, -3.0, -6.0]])
    lab: Any = SimpleNamespace(policy=lambda rows: SimpleNamespace(logp=logp))
    revised: Any = SimpleNamespace(completion_mask=torch.tensor([[True, True, False], [True, True, True]]))
    torch.testing.assert_close(CAI().imitation(lab, revised), torch.tensor([1.5, 4.0]))


@pytest.mark.parametrize(("share", "imitated"), [(0.0, 0), (0.3, 3), (1.0, 8)])
def test_it_imitates_for_its_share_of_the_budget_and_then_learns_from_the_judge(
    tiny_bench: Bench, tmp_path: Path, share: float, imitated: int
) -> None:
    trainer = tiny_bench.trainer(small("cai", revision_share=share), Budget(1e15, steps=8), tmp_path)
    trainer.run("cai")
    by_reward = [row["step"] for row in trainer.log if "reward" in row]
    assert (by_reward[0] if by_reward else 9) == imitated + 1  # steps 1, 2 and 3 begin at 0, 1/8 and 2/8
    labels = trainer.meter.spent()["labels"]
    assert ("ai" in labels, "ai_revisions" in labels) == (share < 1, share > 0)


@pytest.mark.parametrize("bad", [{"revision_share": 1.5}, {"revision_share": -0.1}, {"batch_size": 0}])
def test_a_share_that_is_none_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"revision_share must lie in \[0, 1\]|batch_size must be 1 or more, not 0"):
        CAI(**bad)


WORDS = ["algorithm=cai", "algorithm.batch_size=8", "algorithm.rollouts=8", "algorithm.minibatch=8",
         "algorithm.revision_share=0.4", "budget.steps=4", "task.reward.pairs=8", "task.judge.kind=lm",
         "task.feedback.judge_margin=0", "task.feedback.judge_questions=20", "task.constitution.tokens=12"]  # fmt: skip


@pytest.mark.slow
def test_the_command_revises_imitates_and_learns_from_principled_preferences(furnished: Terminal, tmp_path: Path) -> None:
    lines = [f"- {{name: {p.name}, critique: {p.critique}, revision: {p.revision}, preference: {p.preference}}}\n"
             for p in BOTH.principles]  # fmt: skip
    file = write(tmp_path / "mine.yaml", "".join(lines))
    done = furnished(furnished.run(*WORDS, f"task.judge.model={furnished.model}", f"task.constitution.file={file}"))
    assert done.returncode == 0, done.stderr
    path = done.stdout.splitlines()[-1]
    verified = furnished([COMMAND, "verify", path, "--store", str(furnished.store)])
    assert verified.returncode == 0, verified.stdout
    card = json.loads(Path(path).read_text())

    folder = furnished.store / f"revisions-{card['parents']['revisions']}"
    record = json.loads((folder / "record.json").read_text())
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert card["notes"]["revisions"] == record
    assert record["asked"] == 18  # three quarters of 24 prompts are toxic
    assert record["revised"] == len(rows) == 18 - sum(record["left_out"].values())
    assert {row["principle"] for row in rows} <= {"kind", "short"}
    assert all(1 <= len(row["chosen_ids"]) <= 6 and row["chosen"] != row["rejected"] for row in rows)

    spent = card["spent"]
    read = spent["labels"]["ai_revisions"]
    assert read == min(len(rows), 16)  # two steps of 8
    bill = {(item["role"], item["kind"]): item["flops"] for item in spent["items"]}
    assert bill["critic", "sample"] == read * (record["flops"] // len(rows))
    assert spent["judge"]["critic_tokens"] == round(read * record["tokens"] / len(rows))
    assert bill["judge", "forward"] > 0
    assert spent["labels"]["ai"] == 8
    assert card["notes"]["judge"]["missing"] == {}


def test_the_stages_cost_is_that_of_each_talk_without_a_cache(tiny_model: Path, tmp_path: Path) -> None:
    """All but the words of the critic is known, so every talk can be had again by hand."""
    critic = writer(tiny_model, tokens=6)
    tokenizer, shape = critic.model.tokenizer, critic.model.shape
    answers = {"idiot": " you stupid idiot", "moron": " shut up you moron"}
    folder = candidates(tmp_path / "answers", tokenizer, answers)
    cut = Cutter(tokenizer, ModelConfig(str(tiny_model), new_tokens=5))
    revisions.make_revisions(tmp_path, folder, shape, cut, critic, Constitution((KIND,)), 0, seed=0)
    record = json.loads((tmp_path / "record.json").read_text())
    tokens = flops = 0
    for i, answer in enumerate(answers.values()):
        talk = (revisions.critique_request({"text": f"prompt {i}", "answers": [answer]}, KIND),)
        for _ in range(2):
            ids = tokenizer(critic.text(talk))["input_ids"]
            written = naive(critic, ids)
            body, attention, head = shape.body, shape.attention, shape.head
            flops += 2 * body * len(ids) + 4 * attention * len(ids) ** 2 + 2 * head
            for context in range(len(ids) + 1, len(ids) + len(written)):
                flops += 2 * (body + head) + 4 * attention * context
            tokens += len(ids) + len(written)
            critique = tokenizer.decode(written, skip_special_tokens=True).strip().partition("\n\n")[0].strip()
            talk = revisions.revision_request(talk[0], critique, KIND)
    assert (record["asked"], record["passes"]) == (2, 4)
    assert (record["tokens"], record["flops"]) == (tokens, flops)
    assert math.isclose(record["flops_each"]["critic"], flops / record["revised"], abs_tol=1)


def test_cai_without_principles_is_one_line_before_any_work(furnished: Terminal) -> None:
    line = complaint(furnished(furnished.run("algorithm=cai", "budget.steps=1")))
    assert "revisions need a constitution: set task.constitution.file to a yaml file, or to a built-in one: kindness" in line
    assert not list(furnished.store.glob("*train-*"))
