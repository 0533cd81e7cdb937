"""Logs of other tools, compared in pairs and scored. The logs were written by lm_eval 0.4.13 and inspect_ai 0.3.285."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats as scipy_stats

from isoalign.core.errors import UserError
from isoalign.data.logs.log import Log
from isoalign.data.logs.read import read_log
from isoalign.data.prompts import load_split
from isoalign.report.compare_logs import compare_logs
from isoalign.runs.overrides import task_named
from isoalign.tools import external
from workbench import COMMAND, complaint

LOGS = Path(__file__).parent / "logs"
LM_EVAL = [LOGS / name / "samples_sums_2026-11-29T04-18-56.714177.jsonl" for name in ("one", "two")]
INSPECT = [LOGS / f"inspect_{name}.json" for name in ("one", "two")]
ALPACA = [LOGS / f"alpaca_{name}.json" for name in ("one", "two")]


def read(file: Path) -> Log:
    log = read_log(file)
    assert log is not None
    return log


def compared(pair: list[Path]) -> dict[str, dict[str, Any]]:
    return {metric["name"]: metric for metric in compare_logs(*map(read, pair)).data()["metrics"]}


def changed(source: Path, folder: Path, change: Callable[[list[Any]], Any]) -> Path:
    """A copy of a log whose rows were changed, under the same name."""
    file = folder / source.name
    if source.suffix == ".jsonl":
        rows = [json.loads(line) for line in source.read_text().splitlines()]
        change(rows)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        whole = json.loads(source.read_text())
        change(whole["samples"] if isinstance(whole, dict) else whole)
        file.write_text(json.dumps(whole))
    return file


# -- what is read, and its numbers --------------------------------------------------------------------------------------------


def test_lm_eval_is_compared_for_each_filter() -> None:
    """The answers 4, 8, "It is 3", 9 and 4, 9, "It is 2", 1 to sums that make 4, 8, 3, 7: strictly right are 2 and 1 of 4, as
    the third is no number alone; flexibly 3 and 1."""
    found = compared(LM_EVAL)
    assert [(name, m["mean_a"], m["mean_b"], m["value"], m["n"]) for name, m in found.items()] == [
        ("exact_match,flexible-extract", 0.75, 0.25, 0.5, 4), ("exact_match,strict-match", 0.5, 0.25, 0.25, 4),
    ]  # fmt: skip
    assert (read(LM_EVAL[0]).task, read(LM_EVAL[0]).name) == ("sums", "one")


def test_inspect_is_compared_over_epochs() -> None:
    """Two scorers give C or I: A has 3 of 4 right in both epochs, B one; differences by prompt are 0, 1, 1, 0."""
    found = compared(INSPECT)
    assert {(name, m["mean_a"], m["mean_b"], m["value"]) for name, m in found.items()} == {
        ("match", 0.75, 0.25, 0.5), ("includes", 0.75, 0.25, 0.5),
    }  # fmt: skip
    assert (len(read(INSPECT[0]).rows), len(read(INSPECT[0]).by_key())) == (8, 4)


def test_the_interval_is_that_of_paired_differences_and_p_is_corrected_over_the_metrics() -> None:
    """Differences 0, 1, 1, 0: their mean .5, standard error 1/sqrt(12); the interval is of Student's t with 3 degrees of
    freedom, and both metrics have the same p, so that Holm doubles it."""
    match = compared(INSPECT)["match"]
    reach = scipy_stats.t.ppf(0.975, 3) / 12**0.5
    assert match["low"] == pytest.approx(0.5 - reach, abs=0.1)
    assert match["high"] == pytest.approx(0.5 + reach, abs=0.1)
    assert match["p_holm"] == pytest.approx(2 * match["p"])
    assert match["verdict"] == "not resolved"


def test_a_difference_of_many_prompts_is_resolved_and_says_whose_is_higher(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    for file, output in ((first, "long answer"), (second, "no")):
        rows = [{"instruction": f"q{i}", "output": output + "!" * (i % 3), "generator": file.stem} for i in range(40)]
        file.write_text(json.dumps(rows))
    length = compared([first, second])["length"]
    assert (length["value"], length["verdict"]) == (9.0, "a is higher")


def test_alpaca_eval_s_win_rates_are_its_own() -> None:
    """`alpaca_eval.metrics.get_winrate` (0.6.6) says 60.0 and 62.5, and 42.5 and 37.5, of these annotations."""
    found = compared(ALPACA)
    assert (found["win_rate"]["mean_a"], found["win_rate"]["mean_b"]) == (pytest.approx(0.6), pytest.approx(0.425))
    assert (found["discrete_win_rate"]["mean_a"], found["discrete_win_rate"]["mean_b"]) == (0.625, 0.375)


# -- what makes it wrong without a word ---------------------------------------------------------------------------------------


def nan(row: dict[str, Any], name: str) -> None:
    row[name] = float("nan")


FAULTS = [
    (LM_EVAL, lambda r: r.append(r[1]), r"samples_sums\S*: row 9: doc_id 1 with filter strict-match is already in row 2"),
    (LM_EVAL, lambda r: nan(r[0], "exact_match"), r"row 1: exact_match is nan, which is no score; write null"),
    (LM_EVAL, lambda r: r[4].update(doc="1 + 1 ="), r"row 5: doc_id 0 is another document than in row 1"),
    (LM_EVAL, lambda r: [each.update(doc=0) for each in r], r"row 1: '0' has another document than row 1 of \S*two"),
    (LM_EVAL, lambda r: r.__delitem__(slice(2, None, 4)), r"row 3: '2' is in this log alone, as are 0 more rows"),
    (LM_EVAL, lambda r: [each.update(filter="other") for each in r[:4]] + [r.__delitem__(slice(4, 8))],
     r"no metric is in both; \S*one\S*: .*exact_match,other; .* exact_match,strict-match; score both in the same way"),
    (LM_EVAL, lambda r: r[3].update(exact_match="1.0"),
     r"no metric is in both; \S*: none \(no number: exact_match in row 4\); .*; score both in the same way"),
    (LM_EVAL, lambda r: r[1].pop("resps"), r"row 2: resps is missing, which lm-eval samples have"),
    (INSPECT, lambda r: r.append(r[0]), r"inspect_one.json: row 9: 'q0' is already in row 1; keep one of them"),
    (INSPECT, lambda r: r[3]["scores"]["match"].update(value=float("inf")), r"row 4: score match is inf, which is no score"),
    (INSPECT, lambda r: [each.update(input="2 + 3 =") for each in r], r"row 1: 'q0' has another document than row 1 of"),
    (INSPECT, lambda r: r.clear(), r"inspect_one.json: it holds no samples; write it anew with them"),
    (ALPACA, lambda r: r.append(r[2]), r"alpaca_one.json: row 5: 'Name a bird.' is already in row 3"),
    (ALPACA, lambda r: r[0].update(preference=3), r"row 1: preference must be from 1 \(output_1\) to 2 \(output_2\), not 3"),
    (ALPACA, lambda r: nan(r[0], "preference"), r"row 1: preference is nan, which is no score"),
    (ALPACA, lambda r: r[1].update(output_1="Three"), r"row 2: 'Count to two.' has another opponent's output than row 2"),
    (ALPACA, lambda r: r[0].update(generator_2="three"), r"alpaca_one.json: it holds 2 models: one, three; keep one"),
    (ALPACA, lambda r: [each.update(annotator="other") for each in r], r"are of different opponents or judges"),
]  # fmt: skip


@pytest.mark.parametrize(("pair", "change", "said"), FAULTS)
def test_a_fault_is_one_line_with_file_row_and_key(pair: list[Path], change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compare_logs(read(changed(pair[0], tmp_path, change)), read(pair[1]))
    assert "\n" not in str(caught.value)


def test_logs_of_different_tasks_or_tools_are_not_compared(tmp_path: Path) -> None:
    other = tmp_path / "samples_products_2026-11-29T04-18-56.714177.jsonl"
    other.write_bytes(LM_EVAL[1].read_bytes())
    with pytest.raises(UserError, match=r"are of different tasks \(sums and products\)"):
        compare_logs(read(LM_EVAL[0]), read(other))
    with pytest.raises(UserError, match="are of different formats"):
        compare_logs(read(LM_EVAL[0]), read(INSPECT[0]))


def test_an_evaluation_that_was_not_completed_and_an_archive_say_what_to_do(tmp_path: Path) -> None:
    whole = json.loads(INSPECT[0].read_text()) | {"status": "cancelled"}
    (tmp_path / "x.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"ended with status 'cancelled'; complete it: inspect eval-retry x\.json"):
        read_log(tmp_path / "x.json")
    (tmp_path / "x.jsonl").write_bytes(LM_EVAL[0].read_bytes().replace(b"It is", b"It \xff"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_log(tmp_path / "x.jsonl")
    (tmp_path / "x.eval").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"inspect log convert x\.eval --to json"):
        read_log(tmp_path / "x.eval")


def test_grades_that_are_no_numbers_are_not_compared_on_the_rows_where_they_look_like_some(tmp_path: Path) -> None:
    def grade(samples: list[Any]) -> None:
        for i, sample in enumerate(samples):
            sample["scores"]["grade"] = {"value": "ABC"[i % 3]}

    def listed(rows: list[Any]) -> None:
        for i, row in enumerate(rows):
            row["metrics"] = ["grade", *row["metrics"]]
            row["grade"] = [1, 2] if i == 2 else 1.0

    for files, change in ((INSPECT, grade), (LM_EVAL, listed)):
        logs = []
        for file in files:
            folder = tmp_path / file.parent.name / file.stem
            folder.mkdir(parents=True)
            logs.append(read(changed(file, folder, change)))
        assert all("grade" in log.skipped and not any("grade" in name for name in log.metrics) for log in logs)
        assert all(log.metrics for log in logs)


def test_where_a_metric_is_no_number_is_said_beside_what_is_compared(tmp_path: Path) -> None:
    def graded(samples: list[Any]) -> None:
        samples[3]["scores"]["match"]["value"] = "correct"

    text = compare_logs(read(changed(INSPECT[0], tmp_path, graded)), read(INSPECT[1])).text()
    assert re.search(r"not one number a row: match; \S*inspect_one\.json \(no number: match in row 4\)\.", text)


def test_documents_are_known_by_their_hashes_and_where_there_are_none_that_is_said(tmp_path: Path) -> None:
    def trimmed(hashes: bool, folder: str) -> Log:
        def trim(rows: list[Any]) -> None:
            for row in rows:
                hashed = {"doc_hash": f"{folder} {row['doc']}", "target_hash": row["target"]} if hashes else {}
                for name in ("doc", "target", "doc_hash", "target_hash"):
                    row.pop(name, None)
                row.update(hashed)

        (tmp_path / folder).mkdir(exist_ok=True)
        return read(changed(LM_EVAL[0], tmp_path / folder, trim))

    with pytest.raises(UserError, match=r"row 1: '0' has another document than row 1 of"):
        compare_logs(trimmed(True, "one"), trimmed(True, "two"))
    assert "by id alone" not in compare_logs(trimmed(True, "one"), trimmed(True, "one")).text()
    text = compare_logs(trimmed(False, "one"), read(LM_EVAL[1])).text()
    assert "4 prompts are matched by id alone, as a log has neither documents nor their hashes; of these 0 are worded" in text
    assert "though their documents are the same" not in text


@pytest.mark.parametrize(
    "change",
    [
        {"output": "4"},
        {"output": {"choices": {}}},
        {"output": {"choices": ["4"]}},
        {"attachments": [], "input": "attachment://x"},
    ],
)
def test_an_odd_sample_of_inspect_has_no_answer_and_no_traceback(change: dict[str, Any], tmp_path: Path) -> None:
    def odd(samples: list[Any]) -> None:
        samples[0].update(change)

    assert len(read(changed(INSPECT[0], tmp_path, odd)).rows) > 1


def test_two_logs_in_a_file_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([json.loads(file.read_text()) for file in INSPECT]))
    with pytest.raises(UserError, match=r"x\.json: it holds 2 logs; keep one in a file"):
        read_log(tmp_path / "x.json")


def test_rows_of_one_side_are_left_out_only_on_demand_and_are_counted(tmp_path: Path) -> None:
    def cut(rows: list[Any]) -> None:
        rows[:] = [row for row in rows if row["doc_id"] != 2]

    first, second = read(changed(LM_EVAL[0], tmp_path, cut)), read(LM_EVAL[1])
    found = compare_logs(first, second, matched=True)
    assert "3 prompts matched, 0 in A alone, 1 in B alone" in found.text()
    assert {name: found.data()[name] for name in ("matched", "only_a", "only_b")} == {"matched": 3, "only_a": 0, "only_b": 1}
    strict = {metric["name"]: metric for metric in found.data()["metrics"]}["exact_match,strict-match"]
    assert (strict["mean_a"], strict["mean_b"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_what_is_missing_worded_otherwise_or_on_one_side_alone_is_said(tmp_path: Path) -> None:
    def change(rows: list[Any]) -> None:
        rows[0].update(exact_match=None)
        rows[1].update(metrics=["exact_match", "bleu"], bleu=[1, 2])
        for row in rows:
            row["arguments"]["gen_args_0"]["arg_0"] = "Q: " + row["doc"]["question"]

    text = compare_logs(read(changed(LM_EVAL[0], tmp_path, change)), read(LM_EVAL[1])).text()
    assert "Not compared, on one side alone or not one number a row: bleu; " in text
    assert "Prompts without a score on both sides, left out: exact_match,strict-match 1." in text
    assert "4 prompts are worded differently (template or examples)" in text


def test_answers_under_other_settings_and_prompts_in_the_older_form_are_told(tmp_path: Path) -> None:
    def settings(rows: list[Any]) -> None:
        for row in rows:
            row["arguments"]["gen_args_0"]["arg_1"] = {"until": ["\n"], "temperature": 1.0, "max_gen_toks": 16}

    text = compare_logs(read(changed(LM_EVAL[0], tmp_path, settings)), read(LM_EVAL[1])).text()
    assert re.search(r"not given under the same conditions on both sides, by .*temperature", text)

    def older(shots: str) -> Any:
        def change(rows: list[Any]) -> None:
            for row in rows:
                first = row["arguments"]["gen_args_0"]
                row["arguments"] = [[shots + first["arg_0"], first.get("arg_1", {})]]

        return change

    for number, (shots, said) in enumerate((("", False), ("Q: 1+1 A: 2\n", True))):
        (folder := tmp_path / str(number)).mkdir()
        both = [read(changed(LM_EVAL[0], folder, older(each))) for each in ("",)], [read(LM_EVAL[0])]
        other = read(changed(LM_EVAL[0], folder, older(shots)))
        assert ("are worded differently" in compare_logs(other, both[1][0]).text()) == said


def test_text_in_names_is_inert(tmp_path: Path) -> None:
    def change(rows: list[Any]) -> None:
        for row in rows:
            row["scores"] = {"m\x1b[31m\nx": {"value": 1}}

    pair = [read(changed(file, tmp_path, change)) for file in INSPECT]
    assert all(char.isprintable() or char == "\n" for char in compare_logs(*pair).text())


# -- the command line ---------------------------------------------------------------------------------------------------------


def test_the_command_compares_logs_and_prints_json() -> None:
    words = [COMMAND, "compare", *map(str, LM_EVAL)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "one (A) against two (B) on sums: 4 prompts matched" in done.stdout
    found = json.loads(subprocess.run([*words, "--json"], capture_output=True, text=True).stdout)
    assert (found["a"], found["b"], found["task"], found["matched"], len(found["metrics"])) == ("one", "two", "sums", 4, 2)
    done = subprocess.run([COMMAND, "compare", str(LM_EVAL[0]), "dpo"], capture_output=True, text=True)
    assert re.search("dpo is no log of lm-eval, Inspect or AlpacaEval", complaint(done))


# -- scoring ------------------------------------------------------------------------------------------------------------------


def test_answers_of_each_tool_become_rows_to_be_scored(tmp_path: Path) -> None:
    task = task_named("nano")
    chosen = load_split(task.prompts, task.evaluation.split)[:3]
    lm_eval = [
        {"doc_id": i, "resps": [["x", f"y{i}"]], "arguments": {"gen_args_0": {"arg_0": p.text}}} for i, p in enumerate(chosen)
    ]
    inspect = {"status": "success", "eval": {}, "samples": [
        {"id": i, "epoch": draw + 1, "input": [{"role": "user", "content": p.text}],
         "output": {"choices": [{"message": {"content": ("x", f"y{i}")[draw]}}]}}
        for i, p in enumerate(chosen) for draw in (0, 1)
    ]}  # fmt: skip
    alpaca = [{"instruction": p.text, "output": "x", "generator": "m"} for p in chosen]
    for kind, whole, draws in (("lm", lm_eval, 2), ("in", inspect, 2), ("al", alpaca, 1)):
        file = tmp_path / f"{kind}.json"
        file.write_text("\n".join(map(json.dumps, whole)) if kind == "lm" else json.dumps(whole))
        rows = external.read_external(file, external.rows_of_log(file, file.read_text()), chosen, task)
        assert [(row["prompt_id"], row["draw"], row["completion"]) for row in rows] == [
            (p.id, draw, ("x", f"y{i}")[draw]) for i, p in enumerate(chosen) for draw in range(draws)
        ]


def test_answers_to_conversations_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(samples: list[Any]) -> None:
        samples[0]["input"] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": samples[0]["input"]}]

    file = changed(INSPECT[0], tmp_path, change)
    external.rows_of_log(file, file.read_text())
    count = len(json.loads(file.read_text())["samples"])
    assert f"1 of {count} answers are to conversations, of which the last turn alone is read" in capsys.readouterr().err


def test_a_log_without_answers_is_not_scored(tmp_path: Path) -> None:
    file = tmp_path / "samples_x.jsonl"
    file.write_text(json.dumps({"doc_id": 0, "resps": [[[-1.5, True]], [[-2.5, False]]], "acc": 1.0}) + "\n")
    with pytest.raises(UserError, match="row 1: lm-eval samples: it has no answer that the model wrote"):
        external.rows_of_log(file, file.read_text())


def test_the_log_likelihood_that_lm_eval_calls_perplexity_is_not_called_so(tmp_path: Path) -> None:
    def change(rows: list[Any]) -> None:
        for row in rows:
            row.update(metrics=["perplexity"], perplexity=-1.5)

    for side in "ab":
        (tmp_path / side).mkdir()
    pair = [changed(file, tmp_path / side, change) for file, side in zip(LM_EVAL, "ab", strict=True)]
    assert {name.partition(",")[0] for name in compared(pair)} == {"log_likelihood"}


def test_judges_and_conditions_of_inspect_are_read_and_lost_draws_are_counted(tmp_path: Path) -> None:
    def log(name: str, lost: bool = False, **more: Any) -> Path:
        whole = json.loads(INSPECT[0].read_text())
        whole["eval"] |= more
        for sample in whole["samples"]:
            if lost and sample["epoch"] == 2:
                sample["scores"] = None
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(whole))
        return file

    judged = [log(name, model_roles={"grader": {"model": name}}) for name in ("large", "tiny")]
    with pytest.raises(UserError, match="of different opponents or judges"):
        compare_logs(*map(read, judged))
    shots = compare_logs(read(log("five", task_args={"fewshot": 5})), read(log("none", task_args={"fewshot": 0}))).text()
    assert "Answers were not given under the same conditions on both sides, by task_args." in shots
    reached = [log(f"at {count}", model_roles={"grader": {"model": "one", "config": {"max_connections": count}}},
                   model_generate_config={"max_connections": count}) for count in (5, 20)]  # fmt: skip
    assert "not given" not in compare_logs(*map(read, reached)).text(), "how models are reached changes no answer"
    own = [log(f"own {name}", model=name, scorers=[{"name": "model_graded_qa"}]) for name in ("a", "b")]
    with pytest.raises(UserError, match=r"opponents or judges \(a and b\)"):
        compare_logs(*map(read, own))
    whole, part = read(log("whole")), read(log("part", lost=True))
    epochs = sum(row.draw == 1 for row in whole.rows)
    assert epochs
    assert f"draws without a score, 0 of A and {epochs} of B" in compare_logs(whole, part).text()
