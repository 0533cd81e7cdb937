"""Feedback from files: every format in every container, what is refused, and what a check of a file finds."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from isoalign.core.errors import UserError
from isoalign.core.text import normalise
from isoalign.data import formats
from isoalign.data.formats import Comparison, Demonstration, Turn, Turns, UnpairedLabel, agreement
from isoalign.data.formats.check import check_file
from isoalign.data.formats.leakage import LEAST, Leakage, words
from isoalign.data.formats.types import REASONING, TRANSCRIPT

DOCS = Path(__file__).parent.parent / "docs" / "formats.md"
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def plain(text: str) -> Turns:
    return (Turn("", text),)


def asked(*texts: str) -> Turns:
    """Turns of the user and the assistant, one after the other."""
    return tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))


def said(*texts: str) -> Turns:
    return tuple(Turn(("assistant", "user")[i % 2], text) for i, text in enumerate(texts))


def jsonl(file: Path, rows: Iterable[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def json_list(file: Path, rows: Iterable[Any]) -> Path:
    file.write_text(json.dumps(list(rows), indent=2))
    return file


def table(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    rows = list(rows)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
            for row in rows
        )
    return file


def parquet(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


CONTAINERS: dict[str, Callable[[Path, Any], Path]] = {
    "rows.jsonl": jsonl, "rows.json": json_list, "lines.json": jsonl, "rows.csv": table, "rows.parquet": parquet,
}  # fmt: skip


def pairs_of(data: formats.Data) -> list[tuple[Turns, Turns, Turns]]:
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in data.comparisons]


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line
    return line


# -- each format ---------------------------------------------------------------------------------------------------------

SKY = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
BLUE, GREEN = [user("Sky?"), assistant("Blue.")], [user("Sky?"), assistant("Green.")]
PAIRS: dict[str, tuple[dict[str, Any], tuple[Turns, Turns, Turns]]] = {
    "plain": (SKY, (plain("The sky is"), plain(" blue."), plain(" green."))),
    "plain, the prompt in both": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        (plain("The sky is"), plain(" blue."), plain(" green.")),
    ),
    "plain, words that begin alike": (
        {"chosen": "It is grey", "rejected": "It is green"},
        (plain("It is"), plain(" grey"), plain(" green")),
    ),
    "plain, with more white space than one": (
        {"chosen": "It is \n grey", "rejected": "It is \n green"},
        (plain("It is"), plain(" \n grey"), plain(" \n green")),
    ),
    "plain, one the beginning of the other": (
        {"chosen": "It is grey", "rejected": "It is grey and"},
        (plain("It is"), plain(" grey"), plain(" grey and")),
    ),
    "messages": (
        {"prompt": BLUE[:1], "chosen": BLUE[1:], "rejected": GREEN[1:]},
        (asked("Sky?"), said("Blue."), said("Green.")),
    ),
    "messages, the prompt in both": ({"chosen": BLUE, "rejected": GREEN}, (asked("Sky?"), said("Blue."), said("Green."))),
    "messages, the prompt in both and beside them": (
        {"prompt": BLUE[:1], "chosen": BLUE, "rejected": GREEN},
        (asked("Sky?"), said("Blue."), said("Green.")),
    ),
    "UltraFeedback binarized": (
        {"prompt": "Sky?", "prompt_id": "7", "chosen": BLUE, "rejected": GREEN, "messages": BLUE, "score_chosen": 8.0},
        (asked("Sky?"), said("Blue."), said("Green.")),
    ),
    "UltraFeedback binarized with a system turn": (
        {"prompt": "Sky?", "chosen": [{"role": "system", "content": ""}, *BLUE], "rejected": [
            {"role": "system", "content": ""}, *GREEN]},
        ((Turn("system", ""), *asked("Sky?")), said("Blue."), said("Green.")),
    ),
    "a plain prompt and answers of messages": (
        {"prompt": "Sky?", "chosen": BLUE[1:], "rejected": GREEN[1:]},
        (asked("Sky?"), said("Blue."), said("Green.")),
    ),
    "a prompt of messages and plain answers": (
        {"prompt": BLUE[:1], "chosen": "Blue.", "rejected": "Green."},
        (asked("Sky?"), said("Blue."), said("Green.")),
    ),
    "an answer that is one message, not a list": (
        {"prompt": BLUE[:1], "chosen": BLUE[1], "rejected": GREEN[1]},
        (asked("Sky?"), said("Blue."), said("Green.")),
    ),
    "conversations that part in a user's turn": (
        {"chosen": [*BLUE, user("Why?"), assistant("Light.")], "rejected": [*BLUE, user("Oh?"), assistant("Yes.")]},
        (asked("Sky?"), said("Blue.", "Why?", "Light."), said("Blue.", "Oh?", "Yes.")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("file", CONTAINERS)
@pytest.mark.parametrize("case", PAIRS)
def test_pairs_are_the_same_whatever_they_are_kept_in(tmp_path: Path, case: str, file: str) -> None:
    row, expected = PAIRS[case]
    data = formats.read_file(CONTAINERS[file](tmp_path / file, [row, row]))
    assert data.format == "pairs"
    assert pairs_of(data) == [expected, expected]
    assert [pair.row for pair in data.comparisons] == [1, 2]


def test_an_implicit_prompt_of_messages_is_the_one_that_trl_extracts(tmp_path: Path) -> None:
    from trl import extract_prompt

    row = {"chosen": [*BLUE, user("Why?"), assistant("Light.")], "rejected": [*BLUE, user("Why?"), assistant("Paint.")]}
    theirs = extract_prompt(row)
    (found,) = pairs_of(formats.read_file(jsonl(tmp_path / "a.jsonl", [row])))
    assert [[(t.role, t.content) for t in turns] for turns in found] == [
        [(m["role"], m["content"]) for m in theirs[name]] for name in ("prompt", "chosen", "rejected")
    ]


HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Sky?\n\nAssistant:"


def test_transcripts_behind_a_preamble_are_told(tmp_path: Path) -> None:
    rows = [{"chosen": f"{HH} {i} yes", "rejected": f"{HH} {i} no"} for i in range(3)]
    first = {name: f"A dialogue:{text}" for name, text in rows[0].items()}
    data = formats.read_file(jsonl(tmp_path / "a.jsonl", [first, *rows[1:]]))
    assert (data.format, data.remarks) == ("pairs", {TRANSCRIPT: 3})
    assert f"warning: {TRANSCRIPT}: 3; format=transcripts reads those" in check_file(tmp_path / "a.jsonl").text()
    assert formats.read_file(tmp_path / "a.jsonl", "transcripts", skip="faulty").remarks == {"skipped rows (faulty)": 1}
    assert formats.read_file(jsonl(tmp_path / "b.jsonl", rows)).remarks == {}


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (f"{HH} Blue.", f"{HH} Green.", (asked("Hi", "Hello", "Sky?"), said("Blue."), said("Green."))),
        (f"{HH} Blue. ", f"{HH} Blueish.\n", (asked("Hi", "Hello", "Sky?"), said("Blue."), said("Blueish."))),
        (
            "\n\nHuman: Sky?\n\nAssistant: Blue.",
            "\n\nHuman: Sky?\n\nAssistant: No.\n\nHuman: Why?\n\nAssistant: Not.",
            (asked("Sky?"), said("Blue."), said("No.", "Why?", "Not.")),
        ),
        (
            f"{HH} Blue.",
            "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Sea?\n\nAssistant: Green.",
            (asked("Hi"), said("Hello", "Sky?", "Blue."), said("Hello", "Sea?", "Green.")),
        ),
        (
            "Human: Sky?\n\nAssistant: Blue.",
            "Human: Sky?\n\nAssistant: Green.",
            (asked("Sky?"), said("Blue."), said("Green.")),
        ),
        (
            "\r\n\r\nHuman: Sky?\r\n\r\nAssistant: Blue.",
            "\r\n\r\nHuman: Sky?\r\n\r\nAssistant: Green.",
            (asked("Sky?"), said("Blue."), said("Green.")),
        ),
    ],
    ids=["last turn", "spaces", "from the first answer on", "in a user's turn", "no empty lines first", "CRLF"],
)
@pytest.mark.parametrize("file", CONTAINERS)
def test_transcripts_part_at_the_last_turn_of_the_assistant_that_begins_in_both(
    tmp_path: Path, file: str, chosen: str, rejected: str, expected: tuple[Turns, Turns, Turns]
) -> None:
    data = formats.read_file(CONTAINERS[file](tmp_path / file, [{"chosen": chosen, "rejected": rejected}]))
    assert data.format == "transcripts"
    assert pairs_of(data) == [expected]


def test_no_prompt_ends_with_a_turn_of_the_assistant(tmp_path: Path) -> None:
    """Where one assistant turn follows another the answer begins with the first: a template would open a second one."""
    hh = HH + " One.\n\nAssistant:"
    (pair,) = formats.read_file(
        jsonl(tmp_path / "hh.jsonl", [{"chosen": f"{hh} Blue.", "rejected": f"{hh} Green."}])
    ).comparisons
    assert [turn.role for turn in pair.prompt] == ["user", "assistant", "user"]
    assert [turn.content for turn in (*pair.chosen, *pair.rejected)] == ["One.", "Blue.", "One.", "Green."]
    talk = [user("Sky?"), assistant("One."), assistant("Blue.")]
    other = [*talk[:2], assistant("Green.")]
    (pair,) = formats.read_file(jsonl(tmp_path / "pairs.jsonl", [{"chosen": talk, "rejected": other}])).comparisons
    assert (pair.prompt, len(pair.chosen), len(pair.rejected)) == (asked("Sky?"), 2, 2)
    (shown,) = formats.read_file(jsonl(tmp_path / "shown.jsonl", [{"messages": talk}])).demonstrations
    assert (shown.prompt, len(shown.completion)) == (asked("Sky?"), 2)


@pytest.mark.parametrize("file", CONTAINERS)
def test_demonstrations_are_texts_or_messages(tmp_path: Path, file: str) -> None:
    texts = CONTAINERS[file](tmp_path / f"a{file}", [{"prompt": "The sky is", "completion": " blue.", "source": "web"}])
    assert formats.read_file(texts).demonstrations == (Demonstration(plain("The sky is"), plain(" blue."), 1, "web"),)
    spoken = Demonstration(asked("Sky?"), said("Blue."), 1)
    for row in ({"messages": BLUE}, {"prompt": BLUE[:1], "completion": BLUE[1:]}, {"prompt": "Sky?", "completion": BLUE}):
        assert formats.read_file(CONTAINERS[file](tmp_path / file, [row])).demonstrations == (spoken,)
    both = jsonl(tmp_path / "both.jsonl", [{"prompt": "a", "completion": "b"}, {"messages": BLUE}])
    assert formats.read_file(both).demonstrations == (Demonstration(plain("a"), plain("b"), 1), Demonstration(
        asked("Sky?"), said("Blue."), 2))  # fmt: skip


@pytest.mark.parametrize("choice", [0, "0", 0.0, 1, "1", 1.0, " 1 "])
@pytest.mark.parametrize("file", CONTAINERS)
def test_of_two_candidates_the_chosen_one_and_its_place_are_kept(tmp_path: Path, file: str, choice: Any) -> None:
    row = {"input_text": "q", "candidate_0": "first", "candidate_1": "second", "choice": choice}
    (pair,) = formats.read_file(CONTAINERS[file](tmp_path / file, [row])).comparisons
    place = int(choice)
    both = (plain("first"), plain("second"))
    assert (pair.chosen, pair.rejected, pair.place) == (both[place], both[1 - place], place)


@pytest.mark.parametrize("file", CONTAINERS)
def test_equal_ranks_are_ties_and_every_other_two_answers_a_pair(tmp_path: Path, file: str) -> None:
    row = {"prompt": "q", "answers": ["a", "b", "c", "d"], "ranking": [2, 1, 2, 4]}
    data = formats.read_file(CONTAINERS[file](tmp_path / file, [row]))
    # b before a, c and d; a and c before d; a and c tie
    found = {(pair.chosen[0].content, pair.rejected[0].content) for pair in data.comparisons}
    assert found == {("b", "a"), ("b", "c"), ("b", "d"), ("a", "d"), ("c", "d")}
    assert data.ties == 1


@QUICK
@given(ranks=st.integers(2, 8).flatmap(lambda n: st.lists(st.integers(1, n), min_size=n, max_size=n)))
def test_n_answers_give_n_choose_2_pairs_and_ties_none_against_the_ranks(tmp_path: Path, ranks: list[int]) -> None:
    answers = [f"answer {i}" for i in range(len(ranks))]
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "answers": answers, "ranking": ranks}])
    if len(set(ranks)) == 1:
        assert "nothing is left to train on" in refusal(lambda: formats.read_file(file))
        return
    data = formats.read_file(file)
    assert len(data.comparisons) + data.ties == len(ranks) * (len(ranks) - 1) // 2
    assert data.ties == sum(a == b for a, b in combinations(ranks, 2))
    rank = dict(zip(answers, ranks, strict=True))
    assert all(rank[pair.chosen[0].content] < rank[pair.rejected[0].content] for pair in data.comparisons)


@QUICK
@given(n=st.integers(2, 12))
def test_n_answers_in_order_give_n_choose_2_pairs(tmp_path: Path, n: int) -> None:
    data = formats.read_file(jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "ranked": [f"answer {i:02}" for i in range(n)]}]))
    assert len(data.comparisons) == n * (n - 1) // 2
    assert all(pair.chosen[0].content < pair.rejected[0].content for pair in data.comparisons)


WIDE = [
    {"prompt": "q", "completion": "a", "scores": {"ann": 4, "bob": 2, "cy": 1.5}},
    {"prompt": "other", "completion": "x", "scores": {"ann": 5, "bob": None, "cy": None}},
    {"prompt": "q", "completion": "b", "scores": {"ann": 1, "bob": 5, "cy": None}},
    {"prompt": "q", "completion": "c", "scores": {"ann": 4, "bob": None, "cy": 1}},
]
# ann: a > b, c > b, a and c tie; bob: b > a; cy: a > c
RATED = {("ann", "a", "b", 1), ("ann", "c", "b", 4), ("bob", "b", "a", 3), ("cy", "a", "c", 1)}
LONG = [
    {"prompt": row["prompt"], "completion": row["completion"], "rater": rater, "score": score}
    for row in WIDE for rater, score in row["scores"].items() if score is not None
]  # fmt: skip


@pytest.mark.parametrize("file", CONTAINERS)
@pytest.mark.parametrize("rows", [WIDE, LONG], ids=["wide", "long"])
def test_scores_of_raters_are_compared_rater_by_rater(tmp_path: Path, file: str, rows: list[dict[str, Any]]) -> None:
    data = formats.read_file(CONTAINERS[file](tmp_path / file, rows))
    assert data.format == "ratings"
    found = {(p.rater, p.chosen[0].content, p.rejected[0].content, p.row) for p in data.comparisons}
    assert {pair[:3] for pair in found} == {pair[:3] for pair in RATED}
    assert data.ties == 1
    if rows is WIDE:
        assert found == RATED
    items = agreement.verdict_table(data.comparisons)
    assert sorted(map(len, items.values())) == [1, 1, 2]  # ann and bob both judged a and b, and differ
    assert agreement.rater_agreement(agreement.judged_by_several(items))["agreement"].value == 0.0


def test_a_list_of_scored_completions_as_ultrafeedback_has_it_becomes_pairs(tmp_path: Path) -> None:
    rows = [
        {"source": "flan", "instruction": "q", "completions": [
            {"response": "a", "overall_score": 3.0, "model": "m"}, {"response": "b", "score": None, "overall_score": 7.5}]},
        {"source": "flan", "prompt": "r", "completions": [
            {"completion": "a", "score": 1}, {"completion": "b", "score": 1}, {"completion": "c", "score": None}]},
    ]  # fmt: skip
    data = formats.read_file(jsonl(tmp_path / "a.jsonl", rows))
    assert data.comparisons == (Comparison(plain("q"), plain("b"), plain("a"), 1, "", "flan"),)
    assert data.ties == 1


@pytest.mark.parametrize("file", CONTAINERS)
@pytest.mark.parametrize(("up", "down"), [(True, False), (1, 0), ("1", "0"), (1.0, 0.0), ("True", "FALSE"), ("up", "down")])
def test_unpaired_labels_are_known_however_they_are_spelt(tmp_path: Path, file: str, up: Any, down: Any) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": up}, {"prompt": "q", "completion": "b", "label": down}]
    data = formats.read_file(CONTAINERS[file](tmp_path / file, rows))
    assert data.unpaired == (UnpairedLabel(plain("q"), plain("a"), True, 1), UnpairedLabel(plain("q"), plain("b"), False, 2))


@pytest.mark.parametrize("file", CONTAINERS)
def test_unpaired_labels_may_be_on_conversations(tmp_path: Path, file: str) -> None:
    rows = [
        {"prompt": BLUE[:1], "completion": BLUE[1:], "label": True},
        {"prompt": GREEN[:1], "completion": GREEN[1:], "label": False},
    ]
    data = formats.read_file(CONTAINERS[file](tmp_path / file, rows))
    assert [label.completion for label in data.unpaired] == [said("Blue."), said("Green.")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Sky?", "completion": "Bleu.", "label": True},
        {"prompt": "Sky?", "completion": "Bleu.", "score": 1},
        {"prompt": "Sky?", "completions": [{"completion": "Bleu.", "score": 1}, {"completion": "Blue.", "score": 0}]},
        {"prompt": "Sky?", "answers": ["Bleu.", "Blue."], "ranking": [1, 2]},
        {"prompt": "Sky?", "candidate_0": "Bleu.", "candidate_1": "Blue.", "choice": 0},
        {"prompt": "Sky?", "chosen": "Bleu.", "rejected": "Blue."},
        {"prompt": "Sky?", "completion": "Bleu."},
    ],
    ids=lambda row: list(row)[-1],
)
def test_a_column_system_is_the_first_turn_in_every_format_of_rows(tmp_path: Path, row: dict[str, Any]) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"system": "Answer in French."} | row])
    opened = formats.open_file(str(file))
    (first, *_) = (record for each in opened.rows for record in each.records)
    assert first.prompt == (Turn("system", "Answer in French."), *asked("Sky?"))  # type: ignore[union-attr]
    assert "system" not in opened.unread


def test_a_prompt_that_is_null_is_none_that_the_answers_begin_with(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": None, "chosen": "I'm sorry, no.", "rejected": "I'm sorry, yes."},
    ]
    with pytest.raises(UserError, match="row 2: prompt is missing"):
        formats.read_file(str(jsonl(tmp_path / "a.jsonl", rows)))


@pytest.mark.parametrize("whole", [False, True])
def test_messages_of_different_trees_may_have_the_same_ids(tmp_path: Path, whole: bool) -> None:
    rows: list[dict[str, Any]] = []
    for tree, (question, best, worst) in enumerate([("Sky?", "Blue.", "Green."), ("Grass?", "Green.", "Blue.")]):
        replies = [{"message_id": str(i), "text": text, "role": "assistant", "rank": i} for i, text in ((1, best), (2, worst))]
        first = {"message_id": "0", "text": question, "role": "prompter"}
        if whole:
            rows.append({"message_tree_id": str(tree), "prompt": first | {"replies": replies}})
        else:
            rows += [{"message_tree_id": str(tree), "parent_id": None} | first]
            rows += [{"message_tree_id": str(tree), "parent_id": "0"} | reply for reply in replies]
    data = formats.read_file(str(jsonl(tmp_path / "a.jsonl", rows)))
    assert pairs_of(data) == [(asked("Sky?"), said("Blue."), said("Green.")), (asked("Grass?"), said("Green."), said("Blue."))]
    twice = [*rows, rows[0] | ({"prompt": rows[0]["prompt"] | {"text": "Sea?"}} if whole else {"text": "Sea?"})]
    with pytest.raises(UserError, match="message_id '0' is that of another message, in row 1"):
        formats.read_file(str(jsonl(tmp_path / "b.jsonl", twice)))


@pytest.mark.parametrize("container", [jsonl, parquet])
def test_messages_that_were_written_as_text_are_read_as_messages(tmp_path: Path, container: Callable[..., Path]) -> None:
    rows = [{"prompt": json.dumps([user("Sky?")]), "chosen": json.dumps([assistant("Blue.")]), "rejected": "Green."}]
    data = formats.read_file(str(container(tmp_path / f"a.{container.__name__}", rows)))
    assert pairs_of(data) == [(asked("Sky?"), said("Blue."), said("Green."))]
    plain_json = [{"prompt": "List them.", "chosen": '[{"name": "a"}]', "rejected": "[1]"}]
    assert pairs_of(formats.read_file(str(container(tmp_path / f"b.{container.__name__}", plain_json)))) == [
        (plain("List them."), plain('[{"name": "a"}]'), plain("[1]"))
    ]


def test_the_page_on_formats_has_each_with_examples_that_are_read_as_it(tmp_path: Path) -> None:
    page = DOCS.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", page, flags=re.DOTALL | re.MULTILINE))
    assert sorted(set(sections) & set(formats.format_names())) == formats.format_names()
    for name in formats.format_names():
        blocks = re.findall(r"```json\n(.*?)```", sections[name], flags=re.DOTALL)
        assert blocks
        for block in blocks:
            rows = "[" + re.sub(r"\}\n\{", "},\n{", block) + "]"
            (tmp_path / "example.json").write_text(rows)
            assert formats.read_file(tmp_path / "example.json").format == name


# -- containers ----------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


@QUICK
@given(texts=st.lists(st.tuples(TEXTS, TEXTS, TEXTS).filter(lambda t: t[1] != t[2]), min_size=1, max_size=5))
@example(texts=[('a "quoted"\r\n, and\nmore\r', "\u2028x\x85", "[1, 2]"), ("{}", "[", '"')])
@pytest.mark.parametrize("file", CONTAINERS)
def test_what_is_written_is_read(tmp_path: Path, file: str, texts: list[tuple[str, str, str]]) -> None:
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in texts]
    data = formats.read_file(CONTAINERS[file](tmp_path / file, rows), "pairs")
    assert pairs_of(data) == [tuple(map(plain, row)) for row in texts]


@QUICK
@given(start=TEXTS, chosen=TEXTS, rejected=TEXTS)
@example(start="a ", chosen="b", rejected="b c")
def test_an_implicit_prompt_ends_between_words_and_nothing_is_lost(
    tmp_path: Path, start: str, chosen: str, rejected: str
) -> None:
    row = {"chosen": start + chosen, "rejected": start + rejected}
    file = jsonl(tmp_path / "a.jsonl", [row])
    if not re.search(r"\S\s", start) or chosen == rejected:  # no whole word that both begin with, or nothing to tell apart
        return
    ((prompt, better, worse),) = pairs_of(formats.read_file(file, "pairs"))
    assert prompt[0].content + better[0].content == row["chosen"]
    assert prompt[0].content + worse[0].content == row["rejected"]
    assert better[0].content[0].isspace()
    assert worse[0].content[0].isspace()


def test_line_ends_of_windows_a_byte_order_mark_and_empty_lines_change_nothing(tmp_path: Path) -> None:
    lines = [json.dumps(SKY), "", json.dumps(SKY), "", ""]
    for file, text in {
        "a.jsonl": "\r\n".join(lines),
        "a.json": "\r\n[\r\n" + json.dumps(SKY) + ",\r\n" + json.dumps(SKY) + "]\r\n\r\n",
        "a.csv": 'prompt,chosen,rejected\r\nThe sky is," blue."," green."\r\nThe sky is, blue., green.\r\n\r\n',
        "a.tsv": "prompt\tchosen\trejected\nThe sky is\t blue.\t green.\n\nThe sky is\t blue.\t green.\n",
    }.items():
        (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert pairs_of(formats.read_file(tmp_path / file)) == [PAIRS["plain"][1]] * 2, file


def test_a_compressed_file_is_read_and_a_truncated_one_refused(tmp_path: Path) -> None:
    packed = gzip.compress(jsonl(tmp_path / "a.jsonl", [SKY] * 500).read_bytes(), mtime=0)
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    assert formats.read_file(tmp_path / "a.jsonl.gz").rows == 500
    (tmp_path / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert f"cannot read {tmp_path / 'b.jsonl.gz'}: " in refusal(lambda: formats.read_file(tmp_path / "b.jsonl.gz"))


def test_a_row_of_a_csv_is_counted_as_a_row_whatever_lines_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('prompt,completion\n"one\ntwo\nthree",a\n\nq,b\nq\n')
    # the header is line 1, row 1 begins on line 2 and has three, line 5 is empty
    assert refusal(lambda: formats.read_file(file)) == f"{file}: row 3 (line 7): has 1 cells where the header has 2"


def test_a_cell_of_a_csv_that_looks_like_a_list_is_a_text_unless_it_is_of_messages(tmp_path: Path) -> None:
    odd = ["[1, 2]", '{"a": 1}', "[INST] hi", '[{"name": "x"}]', "[{'name': 'x'}]"]
    data = formats.read_file(table(tmp_path / "a.csv", [{"prompt": "q", "completion": text} for text in odd]))
    assert [demo.completion[0].content for demo in data.demonstrations] == odd
    printed = table(tmp_path / "b.csv", [{"prompt": "q", "completion": str(BLUE[1:])}])
    assert "row 1 (line 2): completion holds the repr of a Python list" in refusal(lambda: formats.read_file(printed))


def test_a_rater_that_is_not_a_number_has_no_name(tmp_path: Path) -> None:
    columns = {"prompt": ["q"] * 3, "completion": ["a", "b", "c"], "label": [True, False, True]}
    pq.write_table(pa.table(columns | {"annotator": [7.0, float("nan"), float("inf")]}), tmp_path / "a.parquet")
    assert [label.rater for label in formats.read_file(tmp_path / "a.parquet").unpaired] == ["7.0", "", ""]


def test_a_map_of_parquet_holds_scores_too(tmp_path: Path) -> None:
    columns = {
        "prompt": ["q", "q"], "completion": ["a", "b"],
        "scores": pa.array([[("ann", 1.0)], [("ann", 2.0)]], pa.map_(pa.string(), pa.float64())),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (pair,) = formats.read_file(tmp_path / "a.parquet").comparisons
    assert (pair.chosen, pair.rater) == (plain("b"), "ann")


def test_a_folder_is_read_by_its_split(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [SKY, {**SKY, "chosen": " grey."}]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows[:1])).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "files").mkdir()
    parquet(tmp_path / "files" / "train-00000-of-00001.parquet", rows)
    parquet(tmp_path / "files" / "test-00000-of-00001.parquet", rows[:1])
    before = {name: sorted(path.name for path in (tmp_path / name).rglob("*")) for name in ("saved", "splits", "files")}
    for name in ("saved", "splits", "files"):
        assert len(formats.read_file(tmp_path / name).comparisons) == 2
        assert len(formats.read_file(f"hf:{tmp_path / name}").comparisons) == 2
    for name in ("splits", "files"):
        assert len(formats.read_file(f"hf:{tmp_path / name}:test").comparisons) == 1
        line = refusal(lambda name=name: formats.read_file(f"hf:{tmp_path / name}:dev"))
        assert line.endswith("unknown split or configuration 'dev'; splits: train, test")
    assert len(formats.read_file(f"hf:{tmp_path / 'files'}:default:test").comparisons) == 1
    assert before == {name: sorted(path.name for path in (tmp_path / name).rglob("*")) for name in before}


def test_nothing_of_the_hub_is_fetched_and_no_code_of_a_folder_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # as it is where the library came first
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    line = refusal(lambda: formats.read_file("hf:nobody/never-heard-of-it"))
    assert "OfflineModeIsEnabled" in line
    assert line.startswith("cannot read hf:nobody/never-heard-of-it: ")
    assert line.endswith("set HF_HUB_OFFLINE=0 to allow the download")
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert f"cannot read {folder}: " in refusal(lambda: formats.read_file(folder))
    assert not (tmp_path / "ran").exists()
    assert "name a data set of the hub as hf:NAME" in refusal(lambda: formats.read_file("hf:"))


# -- what is refused -----------------------------------------------------------------------------------------------------

DEMO = {"prompt": "q", "completion": "a"}
CHOICE = {"input_text": "q", "candidate_0": "a", "candidate_1": "b"}
RATING = {"prompt": "q", "completion": "a"}

ROWS: list[tuple[str, Any, str]] = [
    ("an empty prompt", {"prompt": " \n", "completion": "a"}, "prompt is empty"),
    ("an empty answer", {"prompt": "q", "completion": ""}, "completion is empty"),
    ("an empty message", {"prompt": BLUE[:1], "completion": [assistant(" ")]}, "completion is empty"),
    ("no messages", {"messages": []}, "messages is empty"),
    ("a number for a text", {"prompt": 7, "completion": "a"}, "prompt must be a text or a list of messages, not 7"),
    ("null for a text", {"prompt": "q", "completion": None}, "completion is missing"),
    ("half a character", {"prompt": "q", "completion": "a\ud800"}, "completion holds half a character"),
    ("half a character in a message", {"messages": [user("\udfff"), assistant("a")]}, "messages holds half a character"),
    ("no role", {"messages": [{"content": "hi"}, assistant("a")]}, "messages: a message's role is missing"),
    ("no content", {"messages": [user("hi"), {"role": "assistant"}]}, "messages: a message's content is missing"),
    ("null content", {"messages": [user("hi"), {"role": "assistant", "content": None}]}, "a message's content is missing"),
    ("an unknown role", {"messages": [{"role": "robot", "content": "x"}, assistant("a")]}, "messages: unknown role 'robot'"),
    ("a list of texts", {"messages": ["hi", "ho"]}, "a message is an object with role and content, not 'hi'"),
    ("the user last", {"messages": [user("hi"), assistant("a"), user("b")]}, "messages ends with a user turn"),
    ("no prompt", {"messages": [assistant("a")]}, "messages has no prompt before the assistant turn"),
    (
        "an assistant turn that the answer would follow",
        {"prompt": [user("q"), assistant("The answer")], "chosen": [assistant(" is 4.")], "rejected": [assistant(" is 5.")]},
        "ends with an assistant turn, and the answer would open another",
    ),
    ("a system turn alone", {"messages": [{"role": "system", "content": "s"}, assistant("a")]}, "the prompt is empty"),
    ("pairs: the user last", {"chosen": BLUE, "rejected": BLUE[:1]}, "rejected ends with a user turn"),
    ("pairs: nothing shared", {"chosen": BLUE, "rejected": [user("Sea?"), assistant("x")]}, "share no prompt"),
    ("pairs: no words shared", {"chosen": "blue sky", "rejected": "blueish"}, "share no prompt"),
    ("pairs: another prompt", {"prompt": [user("x")], "chosen": BLUE, "rejected": GREEN}, "must begin with an assistant turn"),
    ("pairs: two lists", {"prompt": BLUE[:1], "chosen": ["Sky?", "Blue."], "rejected": ["Sky?", "No."]}, "role and content"),
    ("transcripts: another prompt", {"chosen": f"{HH} x", "rejected": "\n\nHuman: Yo\n\nAssistant: y"}, "share no prompt"),
    ("transcripts: the user last", {"chosen": f"{HH} x", "rejected": f"{HH} x\n\nHuman: y"}, "rejected ends with a user turn"),
    ("transcripts: an empty answer", {"chosen": f"{HH} x", "rejected": HH}, "rejected ends with an empty turn"),
    ("choice 2", {**CHOICE, "choice": 2}, "choice must be 0 or 1, not 2"),
    ("choice true", {**CHOICE, "choice": True}, "choice must be 0 or 1, not True"),
    ("choice of words", {**CHOICE, "choice": "candidate_0"}, "choice must be 0 or 1, not 'candidate_0'"),
    ("a candidate too few", {**CHOICE, "choice": 0, "candidate_1": ""}, "candidate_1 is empty"),
    ("one answer ranked", {"prompt": "q", "answers": ["a"], "ranking": [1]}, "has 1 answers; a ranking needs 2 to 1000"),
    ("one answer in order", {"prompt": "q", "ranked": ["a"]}, "ranked has 1 answers; a ranking needs 2 to 1000"),
    ("ranks too few", {"prompt": "q", "answers": ["a", "b"], "ranking": [1]}, "ranking has 1 ranks for 2 answers"),
    ("places from 0", {"prompt": "q", "answers": ["a", "b"], "ranking": [0, 1]}, "must hold the rank of each answer, from 1"),
    ("rank too high", {"prompt": "q", "answers": ["a", "b"], "ranking": [1, 3]}, "must hold the rank of each answer, from 1"),
    ("a rank of words", {"prompt": "q", "answers": ["a", "b"], "ranking": [1, "x"]}, "ranking must be a finite number"),
    ("an empty answer ranked", {"prompt": "q", "ranked": ["a", ""]}, "ranked[1] is empty"),
    ("answers no list", {"prompt": "q", "ranked": "a"}, "ranked must be a list, not 'a'"),
    ("an infinite score", '{"prompt": "q", "completion": "a", "rater": "x", "score": 1e999}', "a finite number, not inf"),
    ("a score of words", {**RATING, "rater": "x", "score": "nan"}, "score of 'x' must be a finite number, not 'nan'"),
    ("a score of true", {**RATING, "scores": {"x": True}}, "score of 'x' must be a finite number, not True"),
    ("no score at all", {**RATING, "scores": {"x": None}}, "scores has no score"),
    ("scores no object", {**RATING, "scores": [1, 2]}, "scores must be an object, not [1, 2]"),
    ("one scored completion", {"prompt": "q", "completions": [{"response": "a", "score": 1}]}, "a comparison needs two"),
    ("a label of words", {**RATING, "label": "maybe"}, "label must be true or false, 1 or 0, up or down, not 'maybe'"),
    ("a label of 2", {**RATING, "label": 2}, "not 2"),
    ("not a number", '{"prompt": "q", "completion": "a", "x": NaN}', "NaN is not a finite number"),
    ("minus infinity", '{"prompt": "q", "completion": "a", "x": -Infinity}', "-Infinity is not a finite number"),
    ("a list", "[1, 2]", "a row must be a JSON object, not '[1, 2]'"),
    ("a number", "7", "a row must be a JSON object, not '7'"),
    ("broken JSON", '{"prompt": "q"', "cannot be read: Expecting ',' delimiter"),
    ("two objects", '{"prompt": "q"} {}', "more follows the object"),
    ("a name twice", '{"prompt": "q", "completion": "a", "label": true, "label": false}', "it has 'label' twice"),
    ("endless nesting", '{"prompt": ' + "[" * 100_000, "it is nested too deeply"),
]  # fmt: skip
GOOD: dict[str, Any] = {
    "messages": {"messages": BLUE}, "chosen": {"chosen": BLUE, "rejected": GREEN}, "input_text": {**CHOICE, "choice": 0},
    "ranked": {"prompt": "q", "ranked": ["a", "b"]}, "ranking": {"prompt": "q", "answers": ["a", "b"], "ranking": [1, 2]},
    "rater": {**RATING, "rater": "x", "score": 1}, "scores": {**RATING, "scores": {"x": 1}},
    "completions": {"prompt": "q", "completions": [{"response": "a", "score": 1}, {"response": "b", "score": 2}]},
    "label": {**RATING, "label": True},
}  # fmt: skip


def good_before(bad: Any) -> Any:
    """A sound row of the format that the bad one is meant for."""
    if isinstance(bad, dict) and isinstance(bad.get("chosen"), str):
        return (
            {"chosen": f"{HH} a", "rejected": f"{HH} b"} if "Human" in bad["chosen"] else {"chosen": "a b", "rejected": "a c"}
        )
    columns = bad if isinstance(bad, dict) else ["rater"] if "score" in bad else []
    return next((row for column, row in GOOD.items() if column in columns), DEMO)


@pytest.mark.parametrize(("bad", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_bad_row_is_refused_with_its_number(tmp_path: Path, bad: Any, message: str) -> None:
    good = good_before(bad)
    file = tmp_path / "a.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in (good, good, bad, good)]
    file.write_text("\n".join(lines))
    for act in (formats.read_file, check_file):
        line = refusal(lambda act=act: act(file))
        assert line.startswith(f"{file}: row 3: ")
        assert message in line
    listed = tmp_path / "a.json"
    listed.write_text("[" + ",\n".join(lines) + "]")
    if not message.startswith("more follows"):
        assert refusal(lambda: formats.read_file(listed)).startswith(f"{listed}: row 3: ")


def test_the_number_of_rejected_rows_is_reported(tmp_path: Path) -> None:
    rows = [{**CHOICE, "choice": choice} for choice in (0, 5, 1, 5, *[5] * 6)]
    line = refusal(lambda: formats.read_file(jsonl(tmp_path / "a.jsonl", rows)))
    assert line.endswith("row 2: choice must be 0 or 1, not 5 (8 rows are rejected: 2, 4, 5, 6, 7, ...)")
    line = refusal(lambda: formats.read_file(jsonl(tmp_path / "a.jsonl", rows[:4])))
    assert line.endswith("row 2: choice must be 0 or 1, not 5 (2 rows are rejected: 2, 4)")


def test_rows_are_read_one_by_one_and_errors_in_them_are_reported_at_the_end(tmp_path: Path) -> None:
    opened = formats.open_file(jsonl(tmp_path / "a.jsonl", [DEMO, 7, DEMO]))
    assert [next(opened.rows).number, next(opened.rows).number] == [1, 3]
    assert "row 2: " in refusal(lambda: next(opened.rows))


def test_a_column_that_is_not_read_may_hold_anything(tmp_path: Path) -> None:
    deep: Any = "bottom"
    for _ in range(200):
        deep = {"in": [deep]}
    assert formats.read_file(jsonl(tmp_path / "a.jsonl", [{**DEMO, "extra": deep}])).rows == 1


def test_nesting_that_can_be_read_but_not_shown_is_refused_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for depth in range(50, 1000, 50):
        bad = '{"prompt": "q", "completion": ' + "[" * depth + "]" * depth + "}"
        file.write_text(f"{json.dumps(DEMO)}\n{bad}\n")
        assert refusal(lambda: formats.read_file(file)).startswith(f"{file}: row 2: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows"),
        ("\ufeff\n\n", "has no rows"),
        ('{"a": 1}', "row 1: no format has any of the columns ('a'); formats: candidates (input_text, candidate_0, "),
        ("{}", "row 1: no format has any of the columns (none)"),
        ('{"prompt": "q", "chosen": "a"}', "pairs needs prompt, chosen, rejected; missing: rejected; found: 'prompt',"),
        ('{"prompt": "q"}', "demonstrations needs prompt, completion; missing: completion; found: 'prompt'"),
        ('{"input_text": "q", "candidate_0": "a", "candidate_1": "b"}', "candidate_0, candidate_1, choice; missing: choice"),
        ("\u0000", "row 1: cannot be read"),
    ],
)  # fmt: skip
def test_a_file_that_fits_no_format_is_refused_with_the_nearest(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(content, encoding="utf-8")
    line = refusal(lambda: formats.read_file(file))
    assert line.startswith(str(file))
    assert message in line


def test_a_format_set_by_name_is_taken_or_refused_with_what_the_file_lacks(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{**RATING, "label": 1}, {**RATING, "label": 0}])
    assert formats.read_file(file).format == "unpaired"
    assert len(formats.read_file(file, "demonstrations").demonstrations) == 2
    assert "row 1: candidates needs input_text" in refusal(lambda: formats.read_file(file, "candidates"))
    assert "unknown format 'unpared'; did you mean 'unpaired'?" in refusal(lambda: formats.read_file(file, "unpared"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", b"prompt,completion\nq,a\nq,a,b\n", "row 2 (line 3): has 3 cells where the header has 2"),
        ("a.csv", b"prompt,completion\nq,\xff\n", "row 1 (line 2): not UTF-8 (byte 0xff)"),
        ("a.csv", b'prompt,completion\nq,"a\n', "row 1 (line 2): cannot be read: unexpected end of data"),
        ("a.csv", b"prompt,completion\n", "has no rows"),
        ("a.csv", b"prompt,completion,prompt\nq,a,b\n", "column 'prompt' is in the header twice"),
        ("a.csv", b"prompt;completion\nq;a\n", "no format has any of the columns ('prompt;completion')"),
        ("a.csv", b"prompt,ranked\nq,a\n", "row 1 (line 2): ranked must be JSON in a CSV, not 'a'"),
        ("a.jsonl", b'{"prompt": "q", "completion": "a"}\n{"prompt": "\xff"}', "row 2: not UTF-8 (byte 0xff)"),
        ("a.jsonl", '{"prompt": "q"}'.encode("utf-16"), "row 1: not UTF-8 (byte 0xff); save the file as UTF-8"),
        ("a.json", b'[{"prompt": "\xff"}]', "row 1: this or a later row is not UTF-8 (byte 0xff)"),
        ("a.json", b'[{"prompt": "q", "completion": "a"}', "row 1: a comma or the end of the list must follow"),
        ("a.json", b'[{"prompt": "q", "completion": "a"},', "row 2: cannot be read: Expecting value"),
        ("a.json", b'[{"prompt": "q", "completion": "a"}] x', "row 2: text follows the end of the list"),
        ("a.json", b"[]", "has no rows"),
        ("a.parquet", b"PAR1 nothing", "cannot read"),
        ("a.parquet", b"", "cannot read"),
        ("a.jsonl.gz", b"not gzip", "cannot read"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (tmp_path / file).write_bytes(content)
    line = refusal(lambda: formats.read_file(tmp_path / file))
    assert str(tmp_path / file) in line
    assert message in line


def test_a_truncated_parquet_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a.parquet", [{**DEMO, "completion": f"answer {i}"} for i in range(3000)]).read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b.parquet").write_bytes(whole[:length])
        assert f"cannot read {tmp_path / 'b.parquet'}" in refusal(lambda: formats.read_file(tmp_path / "b.parquet"))
    (tmp_path / "c.parquet").write_bytes(whole[:200] + b"\xff" * 2000 + whole[2200:])
    assert f"cannot read {tmp_path / 'c.parquet'}" in refusal(lambda: formats.read_file(tmp_path / "c.parquet"))


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    line = refusal(lambda: formats.read_file(tmp_path / "none.jsonl"))
    assert line == f"cannot read {tmp_path / 'none.jsonl'}: No such file or directory"
    assert "cannot read" in refusal(lambda: formats.read_file(tmp_path))  # a folder without data


def test_a_thousand_answers_of_one_rater_are_the_most(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": f"answer {i}", "rater": "x", "score": 1} for i in range(1001)]
    line = refusal(lambda: formats.read_file(jsonl(tmp_path / "a.jsonl", rows)))
    assert "row 1001: more than 1000 answers of one annotator to one prompt" in line


def test_control_characters_of_a_file_never_reach_the_terminal(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{**SKY, "source": "\x1b[2Jx\ny", "odd\x1b\n": 1}])
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", check_file(file).text())
    bad = jsonl(tmp_path / "b.jsonl", [{"\x1b[2J\n": 1}])
    assert not re.search(r"[\x00-\x1f]", refusal(lambda: formats.read_file(bad)))
    bad = jsonl(tmp_path / "c.jsonl", [{**RATING, "label": "\x1b[2J\n"}])
    assert not re.search(r"[\x00-\x1f]", refusal(lambda: formats.read_file(bad)))


# -- what is counted -----------------------------------------------------------------------------------------------------


def test_equal_answers_are_left_out_and_counted_and_a_prompt_from_elsewhere_is_warned_of(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Sky?", "chosen": BLUE, "rejected": GREEN}, {"prompt": "Sky?", "chosen": BLUE, "rejected": BLUE},
        {"prompt": "Sea?", "chosen": BLUE, "rejected": GREEN},
    ]  # fmt: skip
    file = jsonl(tmp_path / "a.jsonl", rows)
    assert len(formats.read_file(file).comparisons) == 2
    report = check_file(file)
    assert report.remarks == {"pairs of equal answers": 1, "rows whose prompt column is not a turn of their conversation": 1}
    assert "pairs of equal answers: 1" in report.text()
    assert report.warnings == (
        "rows whose prompt column is not a turn of their conversation: 1; the prompt is taken from the conversation",
    )
    same = [{"chosen": "one text", "rejected": "one text"}, {"chosen": f"{HH} x", "rejected": f"{HH} x "}]
    for row in same:
        line = refusal(lambda row=row: formats.read_file(jsonl(tmp_path / "b.jsonl", [row])))
        assert line.endswith("nothing is left to train on (pairs of equal answers: 1)")
        assert check_file(tmp_path / "b.jsonl").problems == ("nothing is left to train on (pairs of equal answers: 1)",)


@pytest.mark.parametrize(("label", "word"), [(True, "up"), (False, "down")])
def test_one_sided_labels_are_refused_for_training_and_reported_by_a_check(tmp_path: Path, label: bool, word: str) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{**RATING, "completion": text, "label": label} for text in "abc"])
    problem = f"all 3 labels are {word}; training needs both"
    assert refusal(lambda: formats.read_file(file)) == f"{file}: {problem}"
    report = check_file(file)
    assert report.problems == (problem,)
    assert f"problem: {problem}" in report.text()
    assert f"**Problem**: {problem}" in report.markdown()


def test_a_check_counts_duplicates_and_contradictions(tmp_path: Path) -> None:
    def row(chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
        return {"prompt": "q", "chosen": chosen, "rejected": rejected, **more}

    rows = [
        row("a", "b"), row("a", "b"),  # the same row
        row("a", "b", id=7),  # another row, the same verdict
        row("b", "a"),  # the contrary
        row("a", "b", rater="x"), row("b", "a", rater="y"),  # two raters may differ
        row("a", "c"), {**row("b", "a"), "prompt": "r"},  # other answers, another prompt
    ]  # fmt: skip
    report = check_file(jsonl(tmp_path / "a.jsonl", rows))
    assert (report.rows, report.prompts, report.pairs) == (8, 2, 8)
    assert (report.duplicate_rows, report.duplicates, report.contradictions) == (1, 2, 1)
    assert "items with contradictory verdicts of one annotator: 1" in report.text()
    labels = [{**RATING, "label": label} for label in (1, 0, 0)]
    report = check_file(jsonl(tmp_path / "b.jsonl", labels))
    assert (report.duplicate_rows, report.duplicates, report.contradictions) == (1, 1, 1)
    assert (report.up, report.down) == (1, 2)
    assert "3, 33.3% good" in report.text()
    assert check_file(jsonl(tmp_path / "c.jsonl", [DEMO, DEMO, {**DEMO, "prompt": "r"}])).duplicates == 1


def test_lengths_are_of_different_texts_and_the_length_bias_of_pairs(tmp_path: Path) -> None:
    rows = [
        {"prompt": "one two", "chosen": "a bb", "rejected": "c"},  # 4 characters and 2 words against 1 and 1
        {"prompt": "one two", "chosen": "c", "rejected": "dd"},  # 1 and 1 against 2 and 1
        {"prompt": "three", "chosen": "xy z", "rejected": "c"},  # 4 and 2 against 1 and 1
        {"prompt": "three", "chosen": "xy z", "rejected": "uv w"},  # 4 and 2 twice
    ]
    report = check_file(jsonl(tmp_path / "a.jsonl", rows))
    lengths = {name: (found.median, found.p95, found.longest) for name, found in report.lengths.items()}
    assert lengths == {
        "prompt characters": (6.0, 7, 7),  # 7 and 5
        "prompt words": (1.5, 2, 2),
        "answer characters": (3.0, 4, 4),  # 4, 1, 2 and 4, 1, 4: "c" counts once for each prompt
        "answer words": (1.5, 2, 2),
    }
    bias = report.length_bias
    assert bias is not None
    assert bias.characters == pytest.approx((3 - 1 + 3 + 0) / 4)
    assert bias.words == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert (bias.longer, bias.unequal) == (2, 3)
    assert "66.7% of 3 pairs of unequal length" in report.text()


def test_the_length_that_95_percent_do_not_exceed_is_the_19th_of_20(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * length, "completion": "a"} for length in range(1, 21)]
    found = check_file(jsonl(tmp_path / "a.jsonl", rows)).lengths["prompt characters"]
    assert (found.median, found.p95, found.longest) == (10.5, 19, 20)


def test_how_often_the_first_candidate_wins_is_reported(tmp_path: Path) -> None:
    rows = [{**CHOICE, "input_text": f"q{i}", "choice": choice} for i, choice in enumerate((0, 0, 0, "1"))]
    report = check_file(jsonl(tmp_path / "a.jsonl", rows))
    assert report.first_chosen == (3, 4)
    assert "75.0% of 4 pairs of candidates" in report.text()
    assert check_file(jsonl(tmp_path / "b.jsonl", [SKY])).first_chosen is None


def test_agreement_is_the_share_of_pairs_of_raters_that_say_the_same(tmp_path: Path) -> None:
    def votes(prompt: str, *labels: int) -> list[dict[str, Any]]:
        return [{**RATING, "prompt": prompt, "label": label, "rater": f"rater {i}"} for i, label in enumerate(labels)]

    # 1 of 3 pairs alike, then 1 of 1, then no other rater
    report = check_file(jsonl(tmp_path / "a.jsonl", [*votes("p", 1, 1, 0), *votes("q", 0, 0), *votes("r", 1)]))
    assert report.agreement["agreement"].value == pytest.approx(2 / 4)
    assert set(report.agreement) == {"agreement", "cohen_kappa", "fleiss_kappa", "krippendorff_alpha"}
    assert "0.500" in report.text()
    assert (report.raters, report.judged_by_several) == (3, 2)
    assert check_file(jsonl(tmp_path / "b.jsonl", votes("p", 1) + votes("q", 0))).agreement == {}


def test_an_item_is_the_same_whichever_answer_was_chosen() -> None:
    one = Comparison(plain("q"), plain("a"), plain("b"), 1, "x")
    two = Comparison(plain("q"), plain("b"), plain("a"), 2, "y")
    other = Comparison(plain("r"), plain("a"), plain("b"), 3, "y")
    assert one.item == two.item != other.item
    assert {one.verdict, two.verdict} == {0, 1}
    assert agreement.verdict_table([one, two, other]) == {
        one.item: {"x": one.verdict, "y": two.verdict}, other.item: {"y": other.verdict},
    }  # fmt: skip


@pytest.mark.parametrize("old", ["rank", "answer_rank", "Toxicity", "mean-loss"])
def test_a_column_of_which_less_is_better_is_no_score(old: str, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "response": answer, old: i} for i, answer in enumerate("abc")])
    with pytest.raises(UserError, match=f"of score more is better, and the name of '{old}' says that less is"):
        check_file(file, columns={"score": old})
    for name in ("frank", "non_toxic", "harm_free", "negative loss"):
        free = jsonl(tmp_path / "b.jsonl", [{"prompt": "q", "response": answer, name: i} for i, answer in enumerate("abc")])
        assert check_file(free, columns={"score": name}).pairs == 3


def test_candidates_of_which_one_place_always_wins_are_doubted(tmp_path: Path) -> None:
    """As where 0 and 1 are labels, and no strengths of a preference."""
    rows = [{"prompt": f"q{i}", "response_1": "a", "response_2": "b", "label": i % 2} for i in range(24)]
    (warning,) = check_file(jsonl(tmp_path / "a.jsonl", rows), columns={"preference_strength": "label"}).warnings
    assert warning == "the second candidate wins all 12 pairs: does its column mean what the format says?"
    rows[0]["label"] = -1
    assert check_file(jsonl(tmp_path / "b.jsonl", rows), columns={"preference_strength": "label"}).warnings == ()


def test_reasoning_beside_the_content_of_messages_is_told(tmp_path: Path) -> None:
    def talk(i: int, **more: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a", **more}]

    rows = [{"messages": talk(i, reasoning_content="hm" if i < 2 else "")} for i in range(5)]
    report = check_file(jsonl(tmp_path / "a.jsonl", rows))
    assert report.demonstrations == 5
    assert f"{REASONING}: 2; they are kept" in report.warnings
    talks = [talk(0, thinking="hm"), talk(0)]
    rated = [{"prompt": each[:1], "completion": each[1:], "score": score} for score, each in enumerate(talks)]
    rated[1]["completion"] = [{"role": "assistant", "content": "b"}]
    report = check_file(jsonl(tmp_path / "b.jsonl", rated))
    assert (report.pairs, report.warnings) == (1, (f"{REASONING}: 1; they are kept",))


def test_sources_and_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    rows = [{**SKY, "prompt": f"q{i}", "subset": "web" if i else "books", "id": i, "note": None} for i in range(3)]
    report = check_file(jsonl(tmp_path / "a.jsonl", rows))
    assert report.sources == {"books": 1, "web": 2}
    assert report.unread == ("id", "note")
    assert "web 2, books 1" in report.text()
    assert "| columns not read" in report.markdown()


# -- leakage -------------------------------------------------------------------------------------------------------------


def test_evaluation_prompts_are_found_in_prompts_and_answers_whatever_their_case_and_punctuation(tmp_path: Path) -> None:
    evaluation = [
        "one two three four five six seven eight nine",  # any 8 of its words in a row
        "What is the capital?",  # 4 words: all of them
        "so good",  # too short
        "never seen by anybody at all, not once, ever",
    ]
    rows = [
        {"prompt": "Say: ONE two, three four\nfive six seven; eight!", "completion": "no"},
        {"prompt": "q", "completion": "so good: what is -- the Capital of"},
        {"prompt": "one two three four five six seven", "completion": "what is the best capital"},
        {"prompt": "q", "completion": "so good: what is -- the Capital of"},
    ]
    file = jsonl(tmp_path / "a.jsonl", rows)
    report = check_file(file, evaluation_prompts=evaluation)
    assert report.leaks is not None
    assert (report.leaks.prompts, report.leaks.searched, report.leaks.short) == (2, 3, 1)
    assert (report.leaks.rows, report.leaks.first) == (3, (1, 2, 4))
    assert "66.7% of the evaluation prompts are in the data: rows 1, 2, 4" in report.text()
    assert "2 of 3, in 3 rows (1 too short to search for)" in report.text()
    stricter = check_file(file, evaluation_prompts=evaluation, ngram=9)
    assert stricter.leaks is not None
    assert (stricter.leaks.prompts, stricter.leaks.first) == (1, (2, 4))
    assert check_file(file).leaks is None
    assert "need at least 1 word, not 0" in refusal(lambda: check_file(file, evaluation_prompts=evaluation, ngram=0))


def test_a_match_is_not_made_across_turns(tmp_path: Path) -> None:
    evaluation = ["what is the capital"]
    apart = jsonl(tmp_path / "a.jsonl", [{"messages": [user("what is"), assistant("the capital")]}])
    within = jsonl(tmp_path / "b.jsonl", [{"messages": [user("hi"), assistant("what is the capital")]}])
    found = [check_file(file, evaluation_prompts=evaluation).leaks for file in (apart, within)]
    assert [leaks.prompts for leaks in found if leaks] == [0, 1]


WORDS = st.lists(st.sampled_from("abcd"), max_size=14).map(" ".join)


@QUICK
@given(prompts=st.lists(WORDS, max_size=4), text=WORDS, n=st.integers(1, 9))
def test_leaks_are_those_that_a_search_word_by_word_finds(prompts: list[str], text: str, n: int) -> None:
    def within(gram: list[str]) -> bool:
        seen = text.split()
        return any(seen[i : i + len(gram)] == gram for i in range(len(seen) - len(gram) + 1))

    expected, short = set(), 0
    for number, prompt in enumerate(map(str.split, prompts)):
        if len(prompt) < min(LEAST, n):
            short += 1
        elif len(prompt) < n:
            expected |= {number} if within(prompt) else set()
        else:
            expected |= {number} if any(within(prompt[i : i + n]) for i in range(len(prompt) - n + 1)) else set()
    leakage = Leakage(prompts, n)
    assert leakage.matches(text) == expected
    assert leakage.short == short


@QUICK
@given(text=st.text(max_size=40))
@example(text="ﬁve ŞTRASSE\u00a0Straße ǅ")
def test_the_words_looked_for_are_those_of_the_normalised_text(text: str) -> None:
    assert words(text) == re.findall(r"\w+", normalise(text))
