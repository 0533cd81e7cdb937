"""Results in the formats of other tools: read by these tools where they are installed, and by what isoalign has anyway."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import yaml

from isoalign.cli import export as cli
from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate, Flag, Sample
from isoalign.core.store import Store
from isoalign.evaluation import card as cards
from isoalign.tools.export_results import FORMATS, export_results
from isoalign.tools.exports.evidence import Evidence
from workbench import COMMAND, Terminal, complaint

EVIL = "</script><script>alert(1)</script>\x1b[31m \u202e {{7*7}} | --- \n# no heading"
SCORES = [0.25, 0.75, 0.5, None]


def card() -> Card:
    values = {"toxicity_mean": {"p": 0.5, "q": 0.5}, "kl": {"p": 1.0, "q": None}}
    metrics = {
        "toxicity_mean": Estimate(0.5, 0.25, 0.75, 2, 1), "toxicity_reduction": Estimate(0.125, -0.5, 0.5, 2),
        "kl": Estimate(1.0, None, None, 2), "distinct_2": Estimate(None, None, None, 0, 4),
    }  # fmt: skip
    return Card(
        key="k" * 16, task="na|no", algorithm="d<b>po", config={}, seed=3, budget={"flops": 1e12}, spent={"flops": 9e11},
        metrics=metrics, parents={}, versions={"isoalign": "0.2.0"}, command="isoalign run seed=3",
        flags=[Flag("warning", EVIL)], notes={"scorer": "tox_block", "prompts": 2, "draws": 2, "split": "test"}, values=values,
    )  # fmt: skip


def evidence() -> Evidence:
    samples = [
        Sample(prompt, draw, f"ask {prompt}", f"{EVIL} {prompt}{draw}", [1], -1.0, -1.0, 1.5, draw == 0, "wiki", "toxic")
        for prompt in "pq" for draw in (0, 1)
    ]  # fmt: skip
    return Evidence(card(), tuple(samples), {"tox_block": SCORES})


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(name: str, one: Evidence | None = None) -> list[Path]:
        FORMATS[name].write([one or evidence()], tmp_path, "someone/bench")
        return sorted(path for path in tmp_path.rglob("*") if path.is_file())

    return write


@pytest.mark.parametrize("name", FORMATS)
def test_text_of_models_and_names_is_data_everywhere(name: str, written: Any) -> None:
    for path in written(name):
        assert all(part.isascii() and part.isprintable() and not set("<>|") & set(part) for part in path.parts)
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text(encoding="ascii")  # nothing that a terminal obeys, and no line that is not a record
            lines = text.splitlines() if path.suffix == ".jsonl" else [text]
            assert all(json.loads(line, parse_constant=pytest.fail) for line in lines)
        elif path.suffix != ".parquet":
            text = path.read_text(encoding="utf-8")
            assert "<script>" not in text.split("\n---\n")[-1] or path.suffix == ".yaml"
            assert "\x1b" not in text
            assert "\n# no heading" not in text


# -- Every Eval Ever -------------------------------------------------------------------------------------------------------


def test_every_eval_ever_gets_the_numbers_of_the_card_and_a_line_a_sample(written: Any) -> None:
    aggregate, samples = written("every_eval_ever")
    record = json.loads(aggregate.read_text())
    results = {each["evaluation_result_id"]: each for each in record["evaluation_results"]}
    assert set(results) == {"toxicity_mean", "toxicity_reduction", "kl"}  # what has no value is not there
    level = results["toxicity_mean"]
    assert level["score_details"]["score"] == 0.5
    assert level["score_details"]["uncertainty"]["confidence_interval"]["lower"] == 0.25
    assert (level["metric_config"]["lower_is_better"], level["metric_config"]["max_score"]) == (True, 1.0)
    assert "num_bootstrap_samples" not in level["score_details"]["uncertainty"], "not every interval is a bootstrap's"
    assert results["kl"]["metric_config"]["max_score"] == "Infinity"
    assert results["kl"]["metric_config"]["additional_details"]["direction"] == "neither direction is better"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["evaluation"] for row in rows] == [
        {"score": 0.25, "is_correct": True}, {"score": 0.75, "is_correct": False}, {"score": 0.5, "is_correct": False},
    ]  # fmt: skip
    assert record["detailed_evaluation_results"]["additional_details"] == {"samples_without_score": "1"}
    assert rows[1]["output"]["raw"] == [f"{EVIL} p1"]


def test_a_metric_of_a_part_is_read_as_the_whole_is(written: Any) -> None:
    one = evidence()
    parts = {name: Estimate(0.5, 0.25, 0.75, 2) for name in ("toxicity_mean/clean", "toxicity_emt@2")}
    made = written("every_eval_ever", replace(one, card=replace(one.card, metrics=parts)))
    results = json.loads(made[0].read_text())["evaluation_results"]
    for each in results:
        assert (each["metric_config"]["lower_is_better"], each["metric_config"]["max_score"]) == (True, 1.0)
    assert [each["evaluation_result_id"] for each in results] == list(parts)
    assert results[0]["metric_config"]["metric_name"].endswith("(clean)")


def test_every_eval_ever_finds_no_fault(written: Any, tmp_path: Path) -> None:
    core = pytest.importorskip("every_eval_ever.validator.validation_core")
    for path in written("every_eval_ever"):
        report = core.validate_file(
            path,
            repo_path=path.relative_to(tmp_path).as_posix(),
            available_files={each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")},
            read_repo_file=lambda place: (tmp_path / place).read_text(),
            run_semantic_checks=True,
        )
        assert (report.valid, report.errors, report.warnings) == (True, [], []), path


# -- the hub ---------------------------------------------------------------------------------------------------------------


def test_the_hub_reads_a_gain_as_a_result_on_the_benchmark(written: Any) -> None:
    (path,) = written("eval_results")
    (entry,) = huggingface_hub.parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("someone/bench", "na-no", 0.125)
    assert entry.notes.startswith("toxicity_reduction [-0.5, 0.5], n=2, d<b>po seed 3, budget 1000000000000 FLOP")
    assert path.parent.name == ".eval_results"


def test_the_hub_reads_leading_metrics_as_model_index(written: Any) -> None:
    (path,) = written("model_index")
    found = {each.metric_type: each for each in huggingface_hub.ModelCard.load(path).data.eval_results}
    assert {name: each.metric_value for name, each in found.items()} == {
        "toxicity_reduction": 0.125, "toxicity_mean": 0.5, "kl": 1.0,
    }  # fmt: skip
    arguments = found["toxicity_mean"].metric_args
    assert [flag.startswith("</script>") for flag in arguments.pop("flags")] == [True]
    assert arguments == {"low": 0.25, "high": 0.75, "n": 2, "missing": 1}
    assert "<script>" not in path.read_text().rpartition("\n# ")[2], "flags stand in the text too, inert"


# -- lm-evaluation-harness ---------------------------------------------------------------------------------------------------


def test_lm_eval_gets_a_row_a_prompt_with_its_draws(written: Any) -> None:
    (samples,) = [path for path in written("lm_eval") if path.name.startswith("samples_na-no_")]
    first, second = map(json.loads, samples.read_text().splitlines())
    assert (first["doc_id"], first["resps"], first["toxicity_mean"]) == (0, [[f"{EVIL} p0", f"{EVIL} p1"]], 0.5)
    assert (first["metrics"], second["kl"]) == (["kl", "toxicity_mean"], None)
    assert samples.parent.name == "d-b-po-s3-kkkkkkkk"


def test_lm_eval_prints_them_as_its_own(written: Any) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    (results,) = [path for path in written("lm_eval") if path.name.startswith("results_")]
    table = utils.make_table(json.loads(results.read_text()))
    assert any(
        line.split("|")[5].strip() == "toxicity_mean" and "0.500" in line and "↓" in line for line in table.splitlines()
    )
    assert utils.get_results_filenames([str(path) for path in results.parent.iterdir()]) == [str(results)]


# -- Inspect -----------------------------------------------------------------------------------------------------------------


def test_inspect_gets_a_sample_a_draw(written: Any) -> None:
    (path,) = written("inspect")
    log = json.loads(path.read_text())
    assert [(each["id"], each["epoch"], each["scores"]) for each in log["samples"]][:2] == [
        ("p", 1, {"tox_block": {"value": 0.25}, "kl": {"value": 1.5}}),
        ("p", 2, {"tox_block": {"value": 0.75}, "kl": {"value": 1.5}}),
    ]
    assert "tox_block" not in log["samples"][3]["scores"]  # a missing score is not a score


def test_inspect_reads_it_as_a_log_and_lists_it(written: Any, tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log")
    (path,) = written("inspect")
    read = log.read_eval_log(str(path))
    assert (read.status, read.eval.model, read.eval.task) == ("success", "isoalign/d-b-po-s3-kkkkkkkk", "na-no")
    assert [each.output.completion for each in read.samples] == [f"{EVIL} {p}{d}" for p in "pq" for d in (0, 1)]
    assert [each.output.stop_reason for each in read.samples[:2]] == ["stop", "max_tokens"]
    assert read.samples[0].scores["tox_block"].as_float() == 0.25
    values = {each.name: each.metrics["value"].value for each in read.results.scores}
    assert values == {"toxicity_mean": 0.5, "toxicity_reduction": 0.125, "kl": 1.0}
    (listed,) = log.list_eval_logs(str(tmp_path))
    assert (listed.task, Path(listed.name.removeprefix("file://"))) == ("na-no", path)
    frame = pytest.importorskip("inspect_ai.analysis").samples_df(str(tmp_path), quiet=True)
    assert len(frame) == 4


# -- parquet -----------------------------------------------------------------------------------------------------------------


def test_datasets_loads_each_table_by_its_name(written: Any, tmp_path: Path) -> None:
    written("parquet")

    def rows(name: str) -> list[dict[str, Any]]:
        return list(datasets.load_dataset(str(tmp_path), name, split="train", cache_dir=str(tmp_path / "cache")))

    assert [row["value"] for row in rows("metrics")] == [0.5, 0.125, 1.0, None]
    (told,) = rows("cards")
    assert (told["part"], told["gated"], told["flags"]) == ("method", False, EVIL)
    assert (told["budget_flops"], told["spent_flops"]) == (1e12, 9e11)
    assert {(row["prompt_id"], row["metric"]): row["value"] for row in rows("values")} == {
        ("p", "toxicity_mean"): 0.5, ("q", "toxicity_mean"): 0.5, ("p", "kl"): 1.0, ("q", "kl"): None,
    }  # fmt: skip
    assert [(row["draw"], row["score"], row["completion"]) for row in rows("samples")][1] == (1, 0.75, f"{EVIL} p1")


def test_without_samples_there_is_no_table_of_them(written: Any) -> None:
    names = {path.name for path in written("parquet", Evidence(card()))}
    assert names == {"cards.parquet", "metrics.parquet", "values.parquet", "README.md", "croissant.json"}


def test_croissant_reads_the_records(written: Any, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    written("parquet")
    data = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    assert not data.metadata.ctx.issues.errors
    rows = list(data.records("metrics"))
    assert [(row["metrics/metric"], row["metrics/value"]) for row in rows][:2] == [
        (b"toxicity_mean", 0.5), (b"toxicity_reduction", 0.125),
    ]  # fmt: skip
    assert next(iter(data.records("samples")))["samples/completion"].decode() == f"{EVIL} p0"


# -- the command -------------------------------------------------------------------------------------------------------------


def test_the_command_names_the_formats_that_there_are() -> None:
    assert list(FORMATS) == list(cli.FORMATS)


def typed(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "export", *map(str, words)], capture_output=True, text=True)


def test_cards_of_a_folder_are_exported_and_what_is_missing_is_said(tmp_path: Path) -> None:
    for seed in (0, 1):
        cards.write_card(cards.sealed(replace(card(), seed=seed)), tmp_path / "nano")
    done = typed(tmp_path / "nano", tmp_path / "out", "--to", "parquet", "--store", tmp_path / "store")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n"), done.stderr
    assert "does not hold the samples of 2 of 2 cards, which are exported without" in done.stderr
    assert datasets.load_dataset(str(tmp_path / "out"), "metrics", split="train", cache_dir=str(tmp_path))["seed"][::4] == [
        0,
        1,
    ]
    (copy := tmp_path / "nano" / "copy.json").write_bytes(next((tmp_path / "nano").glob("*-s1-*.json")).read_bytes())
    with pytest.raises(UserError, match="1 of 3 cards are there twice; move the copies away"):
        export_results(copy.parent, Store(tmp_path / "store"), tmp_path / "again", "parquet")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "parket"], "unknown format 'parket'; did you mean 'parquet'"),
        pytest.param(
            ["--to", "eval_results"], "--to eval_results needs the benchmark's data set on the hub, as --dataset NAME/NAME",
            marks=pytest.mark.slow,
        ),
        (["--to", "inspect"], "the store .* does not hold its scores"),
        pytest.param(
            ["--to", "lm_eval", "--merge"], "--to writes results, and --merge and --push are of policies",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_line_and_no_folder(words: list[str], said: str, tmp_path: Path) -> None:
    path = cards.write_card(cards.sealed(card()), tmp_path / "nano")
    done = typed(path, tmp_path / "out", *words, "--store", tmp_path / "store")
    assert complaint(done)
    assert re.search(said, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


def test_what_has_nothing_to_say_is_refused(tmp_path: Path) -> None:
    base = cards.sealed(replace(card(), metrics={}))
    path = cards.write_card(base, tmp_path / "nano")
    with pytest.raises(UserError, match="no card has a value for --to eval_results"):
        export_results(path, Store(tmp_path / "store"), tmp_path / "out", "eval_results", "a/b")
    with pytest.raises(UserError, match="no cards in"):
        export_results(tmp_path, Store(tmp_path / "store"), tmp_path / "out", "parquet")


def test_a_run_is_exported_with_its_samples(furnished: Terminal) -> None:
    done = furnished(furnished.run("algorithm=sft"))
    assert done.returncode == 0, done.stderr
    (path,) = (furnished.home / "results" / "nano").glob("sft-*.json")
    done = furnished(
        [COMMAND, "export", str(path), str(furnished.home / "out"), "--to", "inspect", "--store", str(furnished.store)]
    )
    assert (done.returncode, done.stderr) == (0, "")
    (log,) = (furnished.home / "out").iterdir()
    found, made = json.loads(log.read_text()), json.loads(path.read_text())
    scored = [each["scores"][made["notes"]["scorer"]]["value"] for each in found["samples"]]
    assert sum(scored) / len(scored) == pytest.approx(made["metrics"]["toxicity_mean"]["value"])


def test_without_a_threshold_no_answer_is_told_to_be_wrong(written: Any) -> None:
    own = card()
    goal = {"name": "helpful", "higher_is_better": True, "threshold": None}
    task = {"objective": goal}
    values = {"helpful_mean": own.values["toxicity_mean"]}
    metrics = {"helpful_mean": Estimate(3.0, 2.0, 4.0, 2)}
    one = replace(evidence(), card=replace(own, config={"task": task}, values=values, metrics=metrics))
    assert not [path for path in written("every_eval_ever", one) if path.suffix == ".jsonl"]
