"""Verifiable rules on answers judged by hand, right answers of prompts, and pass@k against every way to choose."""

from __future__ import annotations

import json
import os
import sys
from decimal import Decimal
from itertools import combinations
from pathlib import Path

import pytest

from isoalign.config.task import PromptsConfig
from isoalign.core.errors import UserError
from isoalign.core.objective import Objective
from isoalign.core.records import Sample
from isoalign.data import prompts
from isoalign.evaluation.metrics import ScoredSamples, objective
from isoalign.models import rules, scorers
from isoalign.models.answer_scorers import check_scorers, load_answer_scorer
from isoalign.models.rules import load_rule

CASES = {
    "sentence": (["It is. ", 'He said "no!"'], ["It is", "Yes, e.g. this"]),
    "question": (["Why?", "why? not"], ["Why."]),
    "asks": (["Well. Why is it so?", "but can you?"], ["So what", "It is late?", "Stop?"]),
    "mark": (["No!"], ["No."]),
    "lowercase": (["is it so, 7 times?"], ["Is it", "123 ..."]),
    "lowercase_start": (["'tis So"], ["It is", "..."]),
    "lowercase_words:2": (["one two"], ["one", "One two three"]),
    "no_comma": (["a b"], ["a, b"]),
    "words_at_most:2": (["two words"], ["these are three"]),
    "words_at_least:3": (["these are three"], ["two words"]),
    "mentions_prompt:4": (["the WEATHER, again"], ["the rain", "weathered", "how"]),
    "without:E": (["a word"], ["the word", "EGG"]),
    "contains:thank": (["Thanks"], ["than k"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_holds_for_what_fulfils_it_and_never_for_an_empty_answer(name: str) -> None:
    right, wrong = CASES[name]
    asked = "how is the weather today"
    scorer = load_answer_scorer(f"rule:{name}")
    answers = [*right, *wrong, "", " \n"]
    assert scorer([asked] * len(answers), answers) == [1.0] * len(right) + [0.0] * (len(wrong) + 2)
    assert (scorer.higher_is_better, scorer.bounds, scorer.flops(["a"], ["b"])) == (True, (0.0, 1.0), 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("questoin", "question"),
        ("question:3", "takes no argument: write rule:question"),
        ("words_at_most", "takes a whole number: write rule:words_at_most:ARGUMENT"),
        ("words_at_most:few", "takes a whole number"),
        ("words_at_most:0", "takes a whole number"),
        ("without", "takes a text"),
    ],
)
def test_a_rule_that_is_none_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        load_rule(f"rule:{name}")
    assert "\n" not in str(raised.value)


def test_a_rule_s_version_is_in_its_identity() -> None:
    assert scorers.scorer_identity("rule:question") == "rule:question 1"
    assert scorers.scorer_identity("rule:number") == "rule:number 2"
    assert scorers.scorer_identity("rule:words_at_least:3") == "rule:words_at_least:3 1"


# -- right answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("so 1,234.5 of them", "1234.5"), ("1e3", "1000"), ("2-3", "3"), ("it is -3", "-3"), ("1/2", None), ("12:30", None),
     ("a ratio of 2:3", None), ("none", None), ("5 and 7.", "7"),
     ("it is .5", "0.5"), ("-.5", "-0.5"), ("\u22125", "-5"), ("3 \u2212 .25", "0.25"), ("v1.2.5", "5"), ("end.5", "5")],
)  # fmt: skip
def test_a_number_is_a_plain_one(text: str, number: str | None) -> None:
    assert rules.last_number(text) == (None if number is None else Decimal(number))


def test_a_reference_of_several_numbers_is_refused() -> None:
    with pytest.raises(UserError, match=r"the reference '5 of 7 apples' has several numbers; write one behind ####"):
        load_answer_scorer("rule:number")(["q"], ["7"], ["5 of 7 apples"])
    assert load_answer_scorer("rule:number")(["q"], ["7"], ["5 + 2 = 7 #### 7 apples"]) == [1.0]


def test_the_last_number_is_compared_with_the_right_one_after_the_hashes() -> None:
    scorer = load_answer_scorer("rule:number")
    right = ["She had 3 and 4.\n#### 1,072", "-2.50", "7"]
    answers = ["so 1072, or so", "It is -2.5", "7 or 8"]
    assert scorer(["q"] * 3, answers, right) == [1.0, 1.0, 0.0]
    assert scorer(["q"] * 2, ["none", "1"], ["1", ""]) == [0.0, None], "no number, and no right answer to compare with"
    with pytest.raises(UserError, match=r"the scorer rule:number fails on row 2 \('8'\): ValueError: .*'eight' has no number"):
        scorer(["q"] * 2, ["7", "8"], ["7", "eight"])
    with pytest.raises(UserError, match=r"set task\.prompts\.reference to their column"):
        scorer(["q"], ["7"])
    assert load_answer_scorer("rule:exact")(["q"] * 2, [" Paris ", "Paris, France"], ["paris"] * 2) == [1.0, 0.0]
    assert load_answer_scorer("rule:exact")(["q"], ["72"], ["48 + 24 = 72\n#### 72"]) == [1.0], "as for the other two"


def test_without_math_verify_its_rule_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"needs the package math-verify .*\[antlr4_9_3\]") as raised:
        load_rule("rule:math")
    assert "\n" not in str(raised.value)


def test_math_verify_compares_what_is_equal_in_another_form() -> None:
    pytest.importorskip("math_verify")
    rule = load_rule("rule:math")
    answers, right = ["so $\\frac{1}{2}$", "0.5", "the answer is 72", "73"], ["1/2", "1/2", "48 + 24 = 72\n#### 72", "#### 72"]
    assert rule(["q"] * 4, answers, right) == [1.0, 1.0, 1.0, 0.0]


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_column_of_the_prompts_has_their_right_answers(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} and {i}?", "answer": 2 * i} for i in range(40)]
    file = write(tmp_path / "sums.jsonl", [*rows, rows[0]])
    config = PromptsConfig(0, 0, 0, source=str(file), column="question", reference="answer")
    found = [prompt for split in prompts.SPLITS for prompt in prompts.load_split(config, split)]
    assert {(prompt.text, prompt.reference) for prompt in found} == {(row["question"], str(row["answer"])) for row in rows}
    tried = found[:2]
    check_scorers(
        "rule:number", "rule:exact", Objective("sums", True, (0.0, 1.0), 0.5), "cpu",
        [prompt.text for prompt in tried], [prompt.reference for prompt in tried],
    )  # fmt: skip
    assert "reference" not in prompts.Prompt("1", "a", "b", "c").row(), "what stages without one were made of stays as it was"


def test_a_file_that_changes_between_two_runs_of_a_process_is_read_again(tmp_path: Path) -> None:
    config = PromptsConfig(0, 0, 0, source=str(tmp_path / "a.jsonl"))
    found = []
    for word in ("Old", "New"):
        write(tmp_path / "a.jsonl", [{"prompt": f"{word} prompt {i}"} for i in range(40)])
        os.utime(tmp_path / "a.jsonl", ns=(0, len(found)))
        found.append({prompt.text[:3] for prompt in prompts.own_split(config, "train")})
    assert found == [{"Old"}, {"New"}]


def test_whole_numbers_of_a_column_with_a_gap_are_whole(tmp_path: Path) -> None:
    file = write(tmp_path / "gap.jsonl", [{"prompt": f"What is {i} / 2?", "answer": i / 2} for i in range(40)])
    config = PromptsConfig(0, 0, 0, source=str(file), reference="answer")
    found = [prompt for split in prompts.SPLITS for prompt in prompts.own_split(config, split)]
    assert {prompt.reference for prompt in found if prompt.text in ("What is 4 / 2?", "What is 5 / 2?")} == {"2", "2.5"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "b"}, "row 2: .*answer"),
        ({"prompt": "b", "answer": " "}, r"row 2: answer must hold the right answer, a text or a number, not ' '"),
        ({"prompt": "b", "answer": ["7"]}, r"row 2: answer must hold"),
        ({"prompt": "A", "answer": "8"}, r"row 2: the same prompt has two right answers in answer: '7' and '8'"),
    ],
)
def test_a_right_answer_that_is_missing_or_contradicted_is_named_with_its_row(tmp_path: Path, row: dict, said: str) -> None:
    file = write(tmp_path / "odd.jsonl", [{"prompt": "a", "answer": "7"}, row])
    with pytest.raises(UserError, match=said):
        prompts.own_split(PromptsConfig(0, 0, 0, source=str(file), reference="answer"), "train")


def test_a_reference_without_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.prompts\.reference is a column of task\.prompts\.source"):
        PromptsConfig(reference="answer")


# -- pass@k ------------------------------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_all_choices_of_k_draws_that_hold_a_right_one() -> None:
    for draws in range(1, 7):
        for right in range(draws + 1):
            results = [True] * right + [False] * (draws - right)
            for k in range(1, draws + 1):
                chosen = list(combinations(results, k))
                assert objective.pass_at(draws, right, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def scored(grid: dict[str, list[float | None]], goal: Objective) -> ScoredSamples:
    cells = [(p, d) for p, row in grid.items() for d in range(len(row))]
    samples = [Sample(p, d, "", "", [], None, None, None, False, "", "") for p, d in cells]
    return ScoredSamples(samples, "main", {"main": [grid[p][d] for p, d in cells]}, objective=goal)


def test_pass_at_k_is_averaged_over_prompts_and_needs_k_scores() -> None:
    rule = Objective("rule", True, (0.0, 1.0), 0.5)
    found = objective.measure(scored({"a": [1, 0, 0, 0], "b": [0, 0, 0, 0], "c": [1, 1, None, 0]}, rule))
    # a: 1/4; b: 0; c: 2 of 3
    assert found["pass_at_1"].value == pytest.approx((1 / 4 + 0 + 2 / 3) / 3)
    # a: 3 of the 6 pairs of draws hold the right one; c: all three pairs do
    assert found["pass_at_2"].value == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert found["pass_at_4"].value == pytest.approx((1 + 0) / 2)
    assert found["pass_at_4"].missing == 1
    assert found["pass_at_2"].low is not None
    assert "pass_at_8" not in found
    worse = objective.measure(scored({"a": [1, 0, 0, 0]}, Objective("fault", False, (0.0, 1.0), 0.5)))
    assert worse["pass_at_1"].value == pytest.approx(3 / 4), "of a fault that is 1, right is 0"


def test_scores_that_are_no_rule_s_have_no_pass_at_k() -> None:
    for grid, goal in (
        ({"a": [1.0, 0.5]}, Objective("share", True, (0.0, 1.0), 0.5)),
        ({"a": [1.0, 0.0]}, Objective("sentiment", True, (-1.0, 1.0), 0.5)),
    ):
        assert not [name for name in objective.measure(scored(grid, goal)) if name.startswith("pass_at")]
