"""Feedback in the columns of public data sets, columns that are named, rows that are skipped, and data sets of the hub."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isoalign.config.task import FeedbackConfig, SFTConfig
from isoalign.core.errors import UserError
from isoalign.core.store import digest
from isoalign.data import formats
from isoalign.data.formats import Comparison, Turn, Turns
from isoalign.data.formats.check import check_file
from isoalign.data.formats.hub import Address
from isoalign.runs.overrides import task_named
from isoalign.stages import from_file
from isoalign.stages.sft import read_demonstrations

THINGS = [f"thing {i}" for i in range(41)]
GOOD, BAD = "Keep the {} dry and clean.", "Only a fool would ask that about a {}."


def ask(thing: str) -> str:
    return f"How should I look after my {thing}?"


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def plain(text: str) -> Turns:
    return (Turn("", text),)


def asked(text: str) -> Turns:
    return (Turn("user", text),)


def said(text: str) -> Turns:
    return (Turn("assistant", text),)


def jsonl(file: Path, rows: Iterable[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def parquet(file: Path, rows: Iterable[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


def table(file: Path, rows: Iterable[Any]) -> Path:
    rows = list(rows)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
            for row in rows
        )
    return file


CONTAINERS: dict[str, Callable[[Path, Any], Path]] = {"rows.jsonl": jsonl, "rows.csv": table, "rows.parquet": parquet}


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- each public shape: a row about a thing, the prompt, and place of the better answer ------------------------------------

Row = dict[str, Any]


def part(text: str) -> list[Row]:
    """A text in two parts."""
    return [{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]


def shapes(thing: str) -> dict[str, tuple[Row, Turns, Turns, Turns, int | None, str]]:
    """By name: a row in the columns of a data set, and the prompt, chosen, rejected, place and rater that it holds."""
    q, good, bad = ask(thing), GOOD.format(thing), BAD.format(thing)
    chat, text = (asked(q), said(good), said(bad)), (plain(q), plain(good), plain(bad))
    both = {"chosen": [user(q), assistant(good)], "rejected": [user(q), assistant(bad)]}
    post = f"SUBREDDIT: r/tifu\n\nTITLE: t\n\nPOST: {q}\n\nTL;DR:"
    article = f"Title: t\n\nArticle: {q}\n\nTL;DR:"
    return {
        "HH-RLHF": (
            {"chosen": f"\n\nHuman: {q}\n\nAssistant: {good}", "rejected": f"\n\nHuman: {q}\n\nAssistant: {bad}"},
            *chat, None, ""),
        "UltraFeedback binarized": (
            {"prompt": q, "prompt_id": "1", **both, "messages": both["chosen"], "score_chosen": 8.0, "score_rejected": 7.5},
            *chat, None, ""),
        "UltraFeedback": (
            {"source": "flan", "instruction": q, "models": ["m", "n"], "completions": [
                {"response": bad, "overall_score": 3.0, "model": "m"}, {"response": good, "overall_score": 7.5, "model": "n"}],
             "correct_answers": ["None"]},
            *text, None, ""),
        "Tulu 3": ({"id": "1", "source": "tulu", "prompt": q, **both}, *chat, None, ""),
        "Skywork": ({**both, "source": "magpie"}, *chat, None, ""),
        "RewardBench": (
            {"prompt": q, "chosen": good, "chosen_model": "m", "rejected": bad, "rejected_model": "n", "subset": "s", "id": 1},
            *text, None, ""),
        "SHP": (
            {"post_id": "p", "domain": "ask", "history": q, "score_A": 9, "score_B": 3, "human_ref_A": good,
             "human_ref_B": bad, "labels": 1, "score_ratio": 3.0},
            *text, 0, ""),
        "SHP, B": ({"history": q, "human_ref_A": bad, "human_ref_B": good, "labels": 0}, *text, 1, ""),
        "HelpSteer2's preferences": (
            {"split": "train", "prompt": q, "response_1": good, "response_2": bad, "preference_strength": -3,
             "preference_statement": "Response 1 is better"},
            *text, 0, ""),
        "HelpSteer2's preferences, 2": (
            {"prompt": q, "response_1": bad, "response_2": good, "preference_strength": 1}, *text, 1, ""),
        "HelpSteer3": (
            {"domain": "general", "language": "english", "context": [user(q)], "response1": bad, "response2": good,
             "overall_preference": 2, "individual_preference": [{"score": 2, "reasoning": "r"}]},
            *chat, 1, ""),
        "PKU-SafeRLHF, one label": (
            {"prompt": q, "response_0": good, "response_1": bad, "is_response_0_safe": True, "better_response_id": 0},
            *text, 0, ""),
        "WebGPT": (
            {"question": {"dataset": "t", "id": "0", "full_text": q}, "quotes_0": {"title": ["t"]}, "answer_0": bad,
             "score_0": -0.67, "answer_1": good, "score_1": 0.67},
            *text, 1, ""),
        "summarize_from_feedback": (
            {"info": {"id": "i", "post": q, "title": "t", "subreddit": "tifu", "site": None, "article": None}, "summaries": [
                {"text": good, "policy": "sup", "note": "-"}, {"text": bad, "policy": "ref", "note": "-"}],
             "choice": 0, "worker": "w", "batch": "b", "split": "train", "extra": {"confidence": None}},
            plain(post), plain(good), plain(bad), 0, "w"),
        "summarize_from_feedback, news": (
            {"info": {"post": None, "title": "t", "article": q}, "summaries": [{"text": bad}, {"text": good}], "choice": 1},
            plain(article), plain(good), plain(bad), 1, ""),
        "Chatbot Arena": (
            {"question_id": "0", "model_a": "m", "model_b": "n", "winner": "model_a", "judge": "j",
             "conversation_a": both["chosen"], "conversation_b": both["rejected"], "turn": 1, "language": "English"},
            *chat, 0, "j"),
        "Chatbot Arena, texts": (
            {"prompt": json.dumps([q]), "response_a": json.dumps([bad]), "response_b": json.dumps([good]),
             "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
            *chat, 1, ""),
        "Chatbot Arena, texts and a vote": (
            {"id": 1, "prompt": q, "response_a": bad, "response_b": good, "winner": "model_b"}, *text, 1, ""),
        "Chatbot Arena, lists of texts and a vote": (
            {"prompt": json.dumps([q]), "response_a": json.dumps([good]), "response_b": json.dumps([bad]), "winner": "A"},
            *chat, 0, ""),
        "entries with a rating": (
            {"prompt": q, "completions": [{"completion": bad, "rating": 1}, {"completion": good, "rating": 4}]},
            *text, None, ""),
        "pairs beside messages and a label": ({**both, "messages": both["chosen"], "label": 1, "score": 2}, *chat, None, ""),
        "OpenAI's preferences": (
            {"input": {"messages": [user(q)], "tools": [], "parallel_tool_calls": True},
             "preferred_output": [assistant(good)], "non_preferred_output": [assistant(bad)]},
            *chat, None, ""),
        "ShareGPT's pairs": (
            {"conversations": [{"from": "human", "value": q}], "chosen": {"from": "gpt", "value": good},
             "rejected": {"from": "gpt", "value": bad}},
            *chat, None, ""),
        "Orca's pairs": (
            {"system": "You are terse.", "question": q, "chosen": good, "rejected": bad},
            (Turn("system", "You are terse."), *asked(q)), said(good), said(bad), None, ""),
        "Orca's pairs, no system": ({"system": "", "question": q, "chosen": good, "rejected": bad}, *chat, None, ""),
        "parts of content": (
            {"prompt": [user(part(q))], "chosen": [assistant(part(good))], "rejected": [assistant(part(bad))]},
            *chat, None, ""),
    }  # fmt: skip


@pytest.mark.parametrize("file", CONTAINERS)
@pytest.mark.parametrize("shape", shapes("x"))
def test_public_pairs_are_read_as_they_are(tmp_path: Path, shape: str, file: str) -> None:
    rows = [shapes(thing)[shape] for thing in THINGS]
    source = CONTAINERS[file](tmp_path / file, [row[0] for row in rows])
    found = formats.read_file(source).comparisons
    assert [(p.prompt, p.chosen, p.rejected, p.place, p.rater) for p in found] == [row[1:] for row in rows]
    assert check_file(source).problems == ()


def test_each_correct_answer_stands_against_each_wrong_one(tmp_path: Path) -> None:
    """RewardBench 2: one of four; its ties have several correct answers."""
    rows = [{"id": str(i), "prompt": ask(thing), "chosen": [GOOD.format(thing)], "rejected": [f"bad {n}" for n in range(3)],
             "num_correct": 1, "subset": "Focus"} for i, thing in enumerate(THINGS)]  # fmt: skip
    rows.append({"id": "t", "prompt": "A colour?", "chosen": ["red", "blue"], "rejected": ["dog", "red"], "subset": "Ties"})
    data = formats.read_file(jsonl(tmp_path / "a.jsonl", rows))
    assert len(data.comparisons) == 41 * 3 + 3
    assert [(p.chosen[0].content, p.rejected[0].content) for p in data.comparisons[-3:]] == [
        ("red", "dog"), ("blue", "dog"), ("blue", "red"),
    ]  # fmt: skip
    assert data.remarks == {"pairs of equal answers": 1}
    rows[1]["rejected"] = ["bad", " "]
    assert "row 2: rejected[1] is empty" in refusal(lambda: formats.read_file(jsonl(tmp_path / "b.jsonl", rows)))


@pytest.mark.parametrize("file", CONTAINERS)
def test_nectar_is_read_with_its_ranks_and_transcripts(tmp_path: Path, file: str) -> None:
    rows = [{"prompt": f"\n\nHuman: {ask(thing)}\n\nAssistant: ", "answers": [
        {"answer": "worst", "model": "m", "rank": 3.0}, {"answer": "best", "model": "n", "rank": 1.0},
        {"answer": "middle", "model": "o", "rank": 2.0}, {"answer": "also worst", "model": "p", "rank": 3.0},
    ], "turns": 1, "source": ["sharegpt"], "good_natured": True} for thing in THINGS]  # fmt: skip
    data = formats.read_file(CONTAINERS[file](tmp_path / file, rows))
    assert len(data.comparisons) == 41 * 5  # six pairs less the two worst
    assert data.ties == 41
    first = data.comparisons[0]
    assert first.prompt == asked(ask(THINGS[0]))
    assert {(p.chosen[0].content, p.rejected[0].content) for p in data.comparisons} == {
        ("best", "worst"), ("middle", "worst"), ("best", "middle"), ("best", "also worst"), ("middle", "also worst"),
    }  # fmt: skip
    if file != "rows.csv":
        assert first.source == "sharegpt"
    bad = [{"prompt": "q", "answers": ["a", "b"]}]
    assert "answers[0] must be an object with answer and rank" in refusal(
        lambda: formats.read_file(jsonl(tmp_path / "bad.jsonl", bad))
    )


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_messages_with_a_label_or_a_score_are_feedback(tmp_path: Path, column: str) -> None:
    answers = [(GOOD, True, 4), (BAD, False, 1)]
    rows = [{column: [user(ask(thing)), assistant(text.format(thing))], "label": label, "stars": stars}
            for thing in THINGS for text, label, stars in answers]  # fmt: skip
    file = jsonl(tmp_path / "a.jsonl", rows)
    data = formats.read_file(file)
    assert [(each.prompt, each.completion, each.desirable) for each in data.unpaired[:2]] == [
        (asked(ask(THINGS[0])), said(text.format(THINGS[0])), label) for text, label, _ in answers
    ]
    rated = formats.read_file(file, columns={"score": "stars"}, format="ratings").comparisons
    assert [(each.prompt, each.chosen, each.rejected) for each in rated] == [
        (asked(ask(thing)), said(GOOD.format(thing)), said(BAD.format(thing))) for thing in THINGS
    ]
    once = jsonl(tmp_path / "c.jsonl", [{column: [user("q"), assistant("a")], "score": 3}])
    assert "format=demonstrations learns from all answers" in refusal(lambda: formats.read_file(once))
    assert len(formats.read_file(once, "demonstrations").demonstrations) == 1
    rows[1]["label"] = "weather"  # a topic is no verdict
    assert "row 2: label must be true or false" in refusal(lambda: formats.read_file(jsonl(tmp_path / "b.jsonl", rows)))


def helpsteer2(**names: str) -> list[Row]:
    """Two answers to each of 41 prompts by one nameless rater; every tenth two are as good as each other."""
    rows = []
    for i, thing in enumerate(THINGS):
        for text, score in ((GOOD, 4), (BAD, 4 if i % 10 == 0 else 0)):
            row = {"prompt": ask(thing), "response": text.format(thing), "helpfulness": score, "verbosity": 1}
            rows.append({names.get(name, name): value for name, value in row.items()})
    return rows


@pytest.mark.parametrize("names", [{}, {"response": "completion", "helpfulness": "score"}], ids=["as it is", "renamed"])
def test_scores_without_a_rater_are_those_of_one_nameless_rater(tmp_path: Path, names: dict[str, str]) -> None:
    file = jsonl(tmp_path / "a.jsonl", helpsteer2(**names))
    data = formats.read_file(file)
    assert data.format == "ratings"
    assert not data.demonstrations
    assert (len(data.comparisons), data.ties) == (36, 5)
    assert all(pair.chosen[0].content.startswith("Keep") and pair.rater == "" for pair in data.comparisons)
    report = check_file(file)
    assert (report.pairs, report.problems, report.raters) == (36, (), 0)


@pytest.mark.parametrize("column", ["rating", "desirable", "rank", "helpfulness"])
def test_a_column_that_says_which_demonstrations_are_good_is_a_problem(tmp_path: Path, column: str) -> None:
    rows = [{"messages": [user("q"), assistant(f"a {i}")], column: i % 2} for i in range(4)]
    file = jsonl(tmp_path / "a.jsonl", rows)
    (problem,) = check_file(file).problems
    assert problem.startswith(f"column {column} beside demonstrations is not read, so bad answers would be imitated too")
    assert refusal(lambda: formats.read_file(file)) == f"{file}: {problem}"
    assert len(formats.read_file(file, "demonstrations").demonstrations) == 4  # as the line says
    rest = [{"prompt": f"q {i % 2}", "completion": f"a {i}", "rating": i} for i in range(4)]
    rated = jsonl(tmp_path / "b.jsonl", rest)
    assert "columns={score: rating}" in check_file(rated).problems[0]
    assert len(formats.read_file(rated, columns={"score": "rating"}).comparisons) == 2
    assert check_file(jsonl(tmp_path / "c.jsonl", [{**rest[0], "rating_source": "x"} | {"rating": 1}])).problems
    assert not check_file(jsonl(tmp_path / "d.jsonl", [{"prompt": "q", "completion": "a", "id": 1}])).problems


STARS = [3, 1, 5, 2, 4, 4]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("stars", STARS), ("quality", [0.5, 4.5, 3, 3, 2.5, 1]), ("valid", [True, False, False, True, True, True]),
        ("verdict", ["good", "bad", "bad", "good", "good", "good"]), ("likert", ["-1", "2", "0", "1", "-2", "0"]),
        ("meta", [{"stars": value, "user": "u"} for value in STARS]),
    ],
)  # fmt: skip
def test_a_scale_that_differs_between_answers_to_one_prompt_is_refused(tmp_path: Path, column: str, values: list) -> None:
    rows = [
        {"prompt": f"q {i // 2}", "completion": f"a {i}", column: value, "user": f"u{i}"} for i, value in enumerate(values)
    ]
    file = jsonl(tmp_path / "a.jsonl", rows)
    (problem,) = check_file(file).problems
    name = "meta.stars" if column == "meta" else column
    assert problem.startswith(f"column {name} beside demonstrations is not read, so bad answers would be imitated too (")
    assert refusal(lambda: formats.read_file(file)) == f"{file}: {problem}"
    assert len(formats.read_file(file, "demonstrations").demonstrations) == 6  # as the line says
    if column == "stars":
        assert "1, 2, 3, 4, 5" in problem
        assert len(formats.read_file(file, columns={"score": "stars"}).comparisons) == 2  # 3 > 1, 5 > 2, 4 = 4
        talk = [{"messages": [user(row["prompt"]), assistant(row["completion"])], "stars": row["stars"]} for row in rows]
        assert check_file(jsonl(tmp_path / "b.jsonl", talk)).problems


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", range(6)), ("row", range(100, 106)), ("created", [1764350000 + i for i in range(6)]), ("turn", [1, 3] * 3),
        ("num_tokens", [4, 9, 2, 3, 8, 1]), ("sample", [1, 0] * 3), ("which", [0, 1] * 3), ("model", ["a", "b"] * 3),
        ("difficulty", [1, 1, 5, 5, 3, 3]),
        ("user_id", [5, 3, 5, 2, 1, 4]), ("hash", ["1e4", "ff", "0a", "7", "8", "9"]), ("tags", [["good"], []] * 3),
    ],
)  # fmt: skip
def test_columns_that_are_no_scale_are_no_problem(tmp_path: Path, column: str, values: Any) -> None:
    rows = [{"prompt": f"q {i // 2}", "completion": f"a {i}", column: value} for i, value in enumerate(values)]
    file = jsonl(tmp_path / "a.jsonl", rows)
    report = check_file(file)
    assert report.problems == ()
    assert len(formats.read_file(file).demonstrations) == 6
    told = [line for line in report.warnings if "unread column" in line]
    assert bool(told) == (column == "which")  # it numbers the answers, or says that the second is the better one


def test_a_scale_of_which_it_is_not_known_what_it_says_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {i}", "completion": f"a {i}", "stars": value} for i, value in enumerate(STARS)]
    file = jsonl(tmp_path / "a.jsonl", rows)
    what = "demonstrations beside the unread column stars, which may say how good an answer is"
    report = check_file(file)
    assert (report.problems, report.warnings) == ((), (f"{what}: 6",))
    assert "left out" not in report.text()
    losses: Counter[str] = Counter()
    read_demonstrations(SFTConfig(1, 0.1, source=str(file)), losses)
    assert losses == {what: 6}  # which a card shows
    percent = [{"prompt": f"q {i // 2}", "completion": f"a {i}", "share": i * 7 % 100} for i in range(120)]
    (line,) = check_file(jsonl(tmp_path / "b.jsonl", percent)).warnings
    assert "the unread column share" in line


def test_scores_that_tie_or_say_the_opposite_are_counted_and_warned_of(tmp_path: Path) -> None:
    scores = [(7.0, 7.0)] * 14 + [(3.0, 8.0)] * 14 + [(8.0, 3.0)] * 13
    for chosen, rejected in (("score_chosen", "score_rejected"), ("chosen_rating", "rejected_rating")):
        rows = [{"prompt": ask(thing), "chosen": GOOD.format(thing), "rejected": BAD.format(thing), chosen: one, rejected: two}
                for thing, (one, two) in zip(THINGS, scores, strict=True)]  # fmt: skip
        file = jsonl(tmp_path / f"{chosen}.jsonl", rows)
        assert len(formats.read_file(file).comparisons) == 41
        report = check_file(file)
        assert report.remarks == {
            "pairs whose two answers have the same score": 14, "pairs whose rejected answer has the higher score": 14,
        }  # fmt: skip
        assert report.unread == ()
        assert report.problems == ()
        assert "warning: pairs whose two answers have the same score: 14; they are kept" in report.text()
        assert "warning: pairs whose rejected answer has the higher score: 14; they are kept" in report.text()
        assert "left out" not in report.text()
    words = [{"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": None, "score_rejected": "good"}]
    assert check_file(jsonl(tmp_path / "words.jsonl", words)).warnings == ()


# -- ties of votes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "tie"),
    [
        ("Chatbot Arena", {"winner": "tie"}),
        ("Chatbot Arena", {"winner": "tie (bothbad)"}),
        ("Chatbot Arena, texts", {"winner_model_b": 0, "winner_tie": 1}),
        ("HelpSteer2's preferences", {"preference_strength": 0}),
        ("HelpSteer3", {"overall_preference": 0}),
        ("WebGPT", {"score_0": 0.0, "score_1": 0.0}),
    ],
)  # fmt: skip
def test_votes_that_tie_are_left_out_and_counted(tmp_path: Path, shape: str, tie: Row) -> None:
    rows = [shapes(thing)[shape][0] | (tie if i % 4 == 0 else {}) for i, thing in enumerate(THINGS)]
    data = formats.read_file(jsonl(tmp_path / "a.jsonl", rows))
    assert (len(data.comparisons), data.ties) == (30, 11)
    assert check_file(tmp_path / "a.jsonl").remarks == {"ties": 11}


@pytest.mark.parametrize(
    ("shape", "change", "told"),
    [
        ("Chatbot Arena", {"winner": "both"}, "winner must be model_a, model_b or a tie, not 'both'"),
        ("Chatbot Arena, texts", {"winner_tie": 1}, "one of winner_model_a, winner_model_b, winner_tie must be 1, not 2"),
        ("Chatbot Arena, texts", {"response_a": '["a", "b"]'}, "response_a has 2 turns where prompt has 1"),
        ("HelpSteer2's preferences", {"preference_strength": 4}, "preference_strength must lie between -3 and 3, not 4"),
        ("SHP", {"labels": 2}, "labels must be 0 or 1, not 2"),
        ("WebGPT", {"score_0": "x"}, "score_0 must be a finite number, not 'x'"),
        ("summarize_from_feedback", {"summaries": [{"text": "a"}]}, "summaries has 1 summaries; a choice needs two"),
        ("summarize_from_feedback", {"info": {"id": "i"}}, "info is empty"),
        ("OpenAI's preferences", {"input": {"messages": [user("q")], "tools": [{"type": "function"}]}}, "input offers tools"),
        ("ShareGPT's pairs", {"chosen": {"from": "robot", "value": "x"}}, "chosen: unknown role 'robot'"),
        (
            "parts of content",
            {"chosen": [assistant([{"type": "image_url", "image_url": "x"}])]},
            "chosen: a part of a message's content is of type 'image_url'; only parts of text are read",
        ),
    ],
)
def test_a_bad_row_of_a_public_shape_is_refused_by_what_is_wrong(tmp_path: Path, shape: str, change: Row, told: str) -> None:
    rows = [shapes(thing)[shape][0] for thing in THINGS[:3]]
    rows[2] |= change
    line = refusal(lambda: formats.read_file(jsonl(tmp_path / "a.jsonl", rows)))
    assert line.startswith(f"{tmp_path / 'a.jsonl'}: row 3: ")
    assert told in line


# -- OASST ----------------------------------------------------------------------------------------------------------------


def message(identity: str, parent: str | None, role: str, rank: int | None = None) -> Row:
    return {"message_id": identity, "parent_id": parent, "user_id": "u", "text": f"text of {identity}", "role": role,
            "rank": rank, "lang": "en", "message_tree_id": "r", "tree_state": "ready_for_export"}  # fmt: skip


TREE = [
    message("b", "r", "assistant", 1), message("a", "r", "assistant", 0),  # answers may stand before what they answer
    message("r", None, "prompter"), message("c", "r", "assistant"),  # c was not ranked
    message("p", "a", "prompter", 0), message("s", "a", "prompter", 1),  # replies of people are ranked too
    message("x", "p", "assistant", 2), message("y", "p", "assistant", 0), message("z", "p", "assistant", 2),
    message("lone", "s", "assistant", 0),
]  # fmt: skip


def nested(identity: str | None = None) -> list[Row]:
    return [row | {"replies": nested(row["message_id"])} for row in TREE if row["parent_id"] == identity]


@pytest.mark.parametrize("file", CONTAINERS)
@pytest.mark.parametrize("rows", [TREE, [{"message_tree_id": "r", "tree_state": "ready", "prompt": nested()[0]}]])
def test_answers_in_a_tree_are_compared_by_rank(tmp_path: Path, rows: list[Row], file: str) -> None:
    if len(rows) == 1 and file == "rows.parquet":
        pytest.skip("replies of replies differ in depth; the files of OASST are JSON lines")
    source = CONTAINERS[file](tmp_path / file, rows)
    data = formats.read_file(source)
    found = {(p.chosen[0].content[-1], p.rejected[0].content[-1]): p.prompt for p in data.comparisons}
    short = asked("text of r")
    long = (*short, Turn("assistant", "text of a"), Turn("user", "text of p"))
    assert found == {("a", "b"): short, ("y", "x"): long, ("y", "z"): long}
    assert data.remarks == {"ties": 1, "answers without a rank": 1}
    report = check_file(source)
    assert (report.pairs, report.prompts) == (3, 2)
    assert report.lengths["answer words"].median == 3


def test_a_tree_that_lacks_a_message_is_refused(tmp_path: Path) -> None:
    rows = [row for row in TREE if row["message_id"] != "a"] + [message("a2", "r", "assistant", 0)]
    line = refusal(lambda: formats.read_file(jsonl(tmp_path / "a.jsonl", rows)))
    assert line.endswith("row 4: parent_id 'a' is not in the file")
    circle = [message("a", "b", "assistant", 0), message("b", "a", "prompter"), message("c", "b", "assistant", 1)]
    line = refusal(lambda: formats.read_file(jsonl(tmp_path / "b.jsonl", circle)))
    assert line.endswith("parent_id 'a' leads back to the message itself")
    twice = [*TREE, message("v", "b", "assistant", 0), message("w", "b", "assistant", 1)]
    line = refusal(lambda: formats.read_file(jsonl(tmp_path / "d.jsonl", twice)))
    assert line.endswith("row 11: message 'v' answers a message of the assistant's")
    odd = [*TREE, message("q", "r", "robot")]
    assert "row 11: unknown role 'robot'" in refusal(lambda: formats.read_file(jsonl(tmp_path / "c.jsonl", odd)))


# -- columns that are named, rows that are skipped -------------------------------------------------------------------------

PKU = {"prompt": "q", "response_0": "zero", "response_1": "one", "better_response_id": 0, "safer_response_id": 1}


def test_two_verdicts_on_one_row_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [PKU])
    assert "choose one with columns={choice: better_response_id} or columns={choice: safer_response_id}" in refusal(
        lambda: formats.read_file(file)
    )
    for column, better in (("better_response_id", "zero"), ("safer_response_id", "one")):
        (pair,) = formats.read_file(file, columns={"choice": column}).comparisons
        assert pair.chosen == plain(better)


def test_columns_may_have_any_names_that_are_told(tmp_path: Path) -> None:
    row = {"frage": "q", "a": "good", "b": "bad", "prompt": "not this one", "annotator": "x"}
    file = jsonl(tmp_path / "a.jsonl", [row])
    names = {"prompt": "frage", "chosen": "a", "rejected": "b"}
    assert formats.read_file(file, columns=names).comparisons == (Comparison(plain("q"), plain("good"), plain("bad"), 1, "x"),)
    assert check_file(file, columns=names).unread == ()
    assert "row 1: unknown column 'frag'; did you mean 'frage'?" in refusal(
        lambda: formats.read_file(file, columns=names | {"prompt": "frag"})
    )
    assert "columns names 'promt', which no format has; did you mean 'prompt'?" in refusal(
        lambda: formats.read_file(file, columns={"promt": "frage"})
    )
    assert "a column may be named: columns={rejected: NAME}" in refusal(
        lambda: formats.read_file(file, columns={"prompt": "frage", "chosen": "a"})
    )
    swapped = formats.read_file(jsonl(tmp_path / "b.jsonl", [{"prompt": "q", "chosen": "bad", "rejected": "good"}]), columns={
        "chosen": "rejected", "rejected": "chosen"})  # fmt: skip
    assert swapped.comparisons[0].chosen == plain("good")


def test_two_columns_that_look_like_the_prompt_are_refused_with_the_choice(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"instruction": "do", "input": "it", "chosen": "a", "rejected": "b"}])
    assert "instruction and input look like the prompt: choose one with columns={prompt: instruction}" in refusal(
        lambda: formats.read_file(file)
    )
    (pair,) = formats.read_file(file, columns={"prompt": "instruction"}).comparisons
    assert pair.prompt == plain("do")


def hh(rejected: str, thing: str) -> Row:
    start = f"\n\nHuman: {ask(thing)}\n\nAssistant:"
    return {"chosen": f"{start} {GOOD.format(thing)}", "rejected": f"{start}{rejected}"}


def test_empty_answers_are_refused_or_skipped_by_choice_and_counted(tmp_path: Path) -> None:
    rows = [hh("" if i == 3 else " No.", thing) for i, thing in enumerate(THINGS)]
    file = jsonl(tmp_path / "a.jsonl", rows)
    assert refusal(lambda: formats.read_file(file)) == (
        f"{file}: row 4: rejected ends with an empty turn; skip=empty leaves such rows out"
    )
    for skip in ("empty", "faulty"):
        data = formats.read_file(file, skip=skip)
        assert (data.rows, len(data.comparisons)) == (41, 40)
        assert data.remarks == {"skipped rows (empty)": 1}
    report = check_file(file, skip="empty")
    assert (report.rows, report.pairs, report.duplicate_rows) == (41, 40, 0)
    assert report.warnings == ("rows that are skipped by choice: 1 of 41",)
    assert "left out" in report.text()
    assert "row 4" in refusal(lambda: formats.read_file(file, skip="tools"))
    assert "unknown kind of rows to skip 'emty'; did you mean 'empty'?" in refusal(
        lambda: formats.read_file(file, skip="emty")
    )
    nothing = jsonl(tmp_path / "b.jsonl", [hh("", thing) for thing in THINGS])
    assert refusal(lambda: formats.read_file(nothing, skip="empty")).endswith(
        "nothing is left to train on (skipped rows (empty): 41)"
    )


def test_rows_that_can_not_be_read_are_skipped_by_choice_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    good = json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"})
    odd = json.dumps({"prompt": "q", "chosen": [user("x")], "rejected": "b"})
    file.write_text(f"no JSON\n{good}\n{odd}\n" + json.dumps({"prompt": "q", "chosen": " ", "rejected": "b"}) + "\n")
    data = formats.read_file(file, skip="faulty")
    assert (data.rows, len(data.comparisons)) == (4, 1)
    assert data.remarks == {"skipped rows (faulty)": 2, "skipped rows (empty)": 1}
    assert "row 1: cannot be read" in refusal(lambda: formats.read_file(file, skip="empty"))
    file.write_text("no JSON\n")
    assert refusal(lambda: formats.read_file(file, skip="faulty")) == f"{file} has no rows that can be read"


CALL = [assistant(None) | {"tool_calls": [{"name": "look"}]}, {"role": "tool", "content": "ok"}, assistant("Dry.")]


@pytest.mark.parametrize(
    "chosen",
    [
        CALL,
        [{"role": "tool", "content": "ok"}, assistant("Dry.")],
        [assistant([{"type": "tool_use", "name": "look"}]), assistant("Dry.")],
        [assistant("x") | {"function_call": {"name": "look"}}],
    ],
)
def test_tool_calls_are_refused_by_name_or_skipped(tmp_path: Path, chosen: list[Row]) -> None:
    rows = [{"prompt": [user(ask(t))], "chosen": chosen, "rejected": [assistant("No.")]} for t in THINGS]
    rows.append({"prompt": [user("q")], "chosen": [assistant("a") | {"tool_calls": None}], "rejected": [assistant("b")]})
    file = jsonl(tmp_path / "a.jsonl", rows)
    line = refusal(lambda: formats.read_file(file))
    assert "row 1: chosen: a message calls or answers a tool (" in line
    assert "conversations with tools are not read; skip=tools leaves such rows out (41 rows are rejected" in line
    data = formats.read_file(file, skip="tools")
    assert len(data.comparisons) == 1
    assert data.remarks == {"skipped rows (tools)": 41}


# -- the command line, tasks ----------------------------------------------------------------------------------------------


def isoalign(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "isoalign", *map(str, words)], capture_output=True, text=True)


def test_the_check_takes_names_of_columns_and_rows_to_skip(tmp_path: Path) -> None:
    rows = [{"frage": ask(t), "a": "good", "b": "" if t == "thing 7" else "bad"} for t in THINGS]
    file = jsonl(tmp_path / "a.jsonl", rows)
    found = isoalign("data", "check", file, "--columns", "prompt=frage,chosen=a", "--columns", "rejected=b", "--skip", "empty")
    assert found.returncode == 0, found.stderr
    assert "skipped rows (empty): 1" in found.stdout
    same = isoalign("data", "check", file, "--columns", "{prompt: frage, chosen: a, rejected: b}", "--skip", "empty")
    assert same.stdout == found.stdout
    refused = isoalign("data", "check", file, "--columns", "prompt")
    assert refused.returncode == 2
    assert "--columns takes NAME=COLUMN, as in prompt=question,chosen=a, not 'prompt'" in refused.stderr
    rated = jsonl(tmp_path / "b.jsonl", [{"messages": [user("q"), assistant("a")], "rating": 1}])
    assert isoalign("data", "check", rated).returncode == 1


def test_a_task_takes_names_of_columns_from_the_command_line() -> None:
    task = task_named("nano", ["task.feedback.columns={prompt: question, chosen: a}", "task.feedback.skip=empty"])
    assert (task.feedback.columns, task.feedback.skip) == ({"prompt": "question", "chosen": "a"}, "empty")
    assert task_named("nano").feedback.columns is None
    assert "task.feedback.columns" in refusal(lambda: task_named("nano", ["task.feedback.columns=prompt"]))


def test_names_of_columns_and_skipped_rows_are_in_the_key_only_where_they_are_set() -> None:
    bare = from_file.file_recipe(FeedbackConfig(file="x"), "digest")
    assert set(bare) == {"version", "file", "format"}
    assert digest(FeedbackConfig()) == digest(FeedbackConfig(columns=None, skip=""))
    others = [FeedbackConfig(file="x", columns={"prompt": "q"}), FeedbackConfig(file="x", skip="empty")]
    assert len({digest(from_file.file_recipe(config, "digest")) for config in others} | {digest(bare)}) == 3
    with pytest.raises(ValueError, match=r"task\.feedback\.skip must be empty, tools, faulty"):
        FeedbackConfig(skip="all")


# -- the hub --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:org/name", Address("org/name")),
        ("hf:org/name:conf", Address("org/name", "conf", guess=True)),
        ("hf:org/name:conf:test", Address("org/name", "conf", split="test")),
        ("hf:org/name#test", Address("org/name", split="test")),
        ("hf:org/name:conf@v1.0#test", Address("org/name", "conf", "v1.0", "test")),
        ("hf:org/name@main", Address("org/name", revision="main")),
    ],
)
def test_an_address_has_configuration_revision_and_split(source: str, expected: Address) -> None:
    assert Address.parse(source) == expected


@pytest.mark.parametrize("source", ["hf:", "hf:#test", "hf:a/b:c:d#e", "hf:a/b:c:d:e", "hf:a/b@main:conf"])
def test_an_address_of_another_form_is_refused(source: str) -> None:
    line = refusal(lambda: Address.parse(source))
    assert line == f"{source}: name a data set of the hub as hf:NAME[:CONFIG][@REVISION][#SPLIT]"


def test_a_folder_takes_a_split_and_no_revision(tmp_path: Path) -> None:
    folder = tmp_path / "my@data"
    for split in ("train", "test"):
        parquet(folder / f"{split}-00000-of-00001.parquet", [pair(split)])
    assert chosen(f"hf:{folder}") == ["train"]
    assert chosen(f"hf:{folder}#test") == chosen(f"hf:{folder}:test") == ["test"]
    (tmp_path / "plain").mkdir()
    line = refusal(lambda: formats.read_file(f"hf:{tmp_path / 'plain'}@main"))
    assert line.endswith(f"a folder has no revision; {tmp_path / 'plain'} is read as it is")


def pair(text: str) -> Row:
    return {"prompt": "q", "chosen": text, "rejected": "bad"}


OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caches of the hub and of datasets, empty."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return tmp_path


def snapshot(hub: Path, name: str, commit: str, refs: Iterable[str] = ()) -> Path:
    """The folder of a commit in the cache of the hub, as a download leaves it."""
    root = hub / "hub" / f"datasets--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    for ref in refs:
        (root / "refs" / ref).write_text(commit)
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


def chosen(source: str) -> list[str]:
    return [each.chosen[0].content for each in formats.read_file(source).comparisons]


CARD = """---
dataset_info:
- config_name: one
  splits: [{name: train, num_examples: 2, num_bytes: 1}, {name: test, num_examples: 1, num_bytes: 1}]
configs:
- {config_name: one, default: true, data_files: [{split: train, path: one/train-*}, {split: test, path: one/test-*}]}
- {config_name: two, data_files: [{split: train, path: two/train-*}]}
---
"""


def test_the_cache_of_the_hub_is_read_by_configuration_revision_and_split(hub: Path) -> None:
    for commit, refs, word in ((OLD, ["v1.0"], "old"), (NEW, ["main"], "new")):
        folder = snapshot(hub, "org/toy", commit, refs)
        (folder / "README.md").write_text(CARD)
        for part in range(2):
            parquet(folder / "one" / f"train-0000{part}-of-00002.parquet", [pair(f"{word} one {part}")])
        parquet(folder / "one" / "test-00000-of-00001.parquet", [pair(f"{word} test")])
        parquet(folder / "two" / "train-00000-of-00001.parquet", [pair(f"{word} two")])
    assert chosen("hf:org/toy") == ["new one 0", "new one 1"]
    assert chosen("hf:org/toy#test") == chosen("hf:org/toy:test") == chosen("hf:org/toy:one:test") == ["new test"]
    assert chosen("hf:org/toy:two") == ["new two"]
    assert chosen("hf:org/toy:one@v1.0#test") == ["old test"]
    assert chosen(f"hf:org/toy:two@{OLD}") == ["old two"]
    assert from_file.file_identity("hf:org/toy#test") != from_file.file_identity("hf:org/toy@v1.0#test")
    assert not list((hub / "datasets").rglob("*.arrow"))  # nothing is copied
    line = refusal(lambda: formats.read_file("hf:org/toy:three#train"))
    assert line.startswith("cannot read hf:org/toy:three#train: ")
    assert "unknown split or configuration 'dev'; splits: train, test" in refusal(
        lambda: formats.read_file("hf:org/toy:one#dev")
    )
    gone = refusal(lambda: formats.read_file("hf:org/toy@v9"))
    assert gone.startswith("cannot read hf:org/toy@v9: ")
    assert gone.endswith("set HF_HUB_OFFLINE=0 to allow the download")


def test_a_cache_that_holds_some_files_of_a_split_only_is_refused(hub: Path) -> None:
    folder = snapshot(hub, "org/toy", NEW, ["main"])
    (folder / "README.md").write_text(CARD)
    parquet(folder / "one" / "train-00000-of-00002.parquet", [pair("one")])
    parquet(folder / "one" / "test-00000-of-00001.parquet", [pair("test")])
    assert refusal(lambda: formats.read_file("hf:org/toy#train")) == (
        "cannot read hf:org/toy#train: only 1 of 2 rows are in the cache; download it again"
    )
    assert chosen("hf:org/toy#test") == ["test"]


def test_a_folder_of_a_data_set_serves_as_a_configuration(hub: Path) -> None:
    """HH-RLHF has folders, compressed files and no configurations."""
    import gzip

    folder = snapshot(hub, "org/hh", NEW, ["main"])
    for name in ("harmless-base", "helpful-base"):
        (folder / name).mkdir()
        for split in ("train", "test"):
            with gzip.open(folder / name / f"{split}.jsonl.gz", "wt") as stream:
                stream.writelines(json.dumps(hh(" No.", f"{name} {split} {i}")) + "\n" for i in range(3))
    data = formats.read_file("hf:org/hh:helpful-base#test")
    assert data.format == "transcripts"
    assert [each.prompt[0].content for each in data.comparisons] == [ask(f"helpful-base test {i}") for i in range(3)]
    assert len(formats.read_file("hf:org/hh#test").comparisons) == 6


def test_the_cache_of_datasets_is_read_where_its_commit_is_the_one_asked_for(hub: Path) -> None:
    import datasets

    parquet(hub / "made" / "toy" / "train-00000-of-00001.parquet", [pair("cached")])
    builder = datasets.load_dataset_builder(str(hub / "made" / "toy"), cache_dir=str(hub / "other"))
    builder.download_and_prepare(str(hub / "datasets" / "org___toy" / "default" / "0.0.0" / OLD))
    (snapshot(hub, "org/toy", OLD, ["main"]) / "README.md").write_text(CARD)  # all that such a download leaves of the files
    assert chosen("hf:org/toy") == chosen(f"hf:org/toy@{OLD}#train") == ["cached"]
    assert refusal(lambda: formats.read_file(f"hf:org/toy@{NEW}")) == (
        f"hf:org/toy: the cache holds commit {OLD}, not revision {NEW}"
    )


def test_many_rows_are_read_a_part_at_a_time(hub: Path) -> None:
    """The first rows come before the rest are read, and rows that were read are not kept."""
    import tracemalloc

    folder = snapshot(hub, "org/big", NEW, ["main"])
    for part in range(4):
        parquet(folder / f"train-0000{part}-of-00004.parquet", [pair(f"{part} {i} " + "x" * 4000) for i in range(1000)])
    opened = formats.open_file("hf:org/big")
    next(opened.rows)
    tracemalloc.start()
    count = 1 + sum(1 for _ in opened.rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4000
    assert peak < 12e6  # of 16 MB of text
