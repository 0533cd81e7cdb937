"""Every method says where it is from: paper, equation, family, the paper's values, the test of its loss, what it logs."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from isoalign.config.search_path import options
from isoalign.core import plugins
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.training import registry
from isoalign.training.lab import HARNESS_SCALARS
from isoalign.training.provenance import FAMILIES, Paper
from workbench import CLASSES, Bench, algorithms, loops, quick, small

TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", registry.algorithm_names())
def test_a_method_has_a_paper_values_of_its_fields_a_search_space_and_a_test_of_its_loss(name: str) -> None:
    cls = registry.algorithm(name)
    assert "paper" in vars(cls), f"{name} inherits its paper: give it one of its own, and a row one in its class's rows"
    paper: Paper = vars(cls)["paper"]
    fields = {field.name for field in dataclasses.fields(cls)}
    assert paper.authors
    assert paper.equation
    assert paper.learns_from
    assert 1990 <= paper.year <= 2026
    assert re.fullmatch(r"(\d{4}\.\d{5})?", paper.arxiv)
    assert not paper.arxiv or abs(2000 + int(paper.arxiv[:2]) - paper.year) <= 1  # the year is the publication's
    assert set(paper.values) <= fields
    assert not fields or name in options("sweep"), f"{name} has no conf/sweep/{name}.yaml"
    file, colon, against = paper.parity.partition(": ")
    assert colon
    assert against
    text = (TESTS / file).read_text(encoding="utf-8")
    names = {cls.__name__, name, name.removeprefix("trl_"), cls.__module__.rpartition(".")[2]}  # a row by its class's file
    assert name == "sft" or any(re.search(rf"\b{word}\b", text) for word in names), f"{file}: no {name}"


@pytest.mark.parametrize("name", CLASSES)
def test_a_docstring_says_what_every_field_is(name: str) -> None:
    cls = registry.algorithm(name)
    said = re.sub(r"\s+", " ", cls.__doc__ or "")
    others = re.search(r"settings( of both)?,? (and the advantages \(eq. 6\), )?are those of|as in (GRPO|DPO|PPO)", said)
    usual = {"lr", "epochs", "minibatch", "batch_size", "rollouts", "draws", "clip"}  # the same in all
    fields = {field.name for field in dataclasses.fields(cls)}
    assert others or fields - usual <= set(re.findall(r"``(\w+)``", said))


def test_families_are_known_without_importing_a_method() -> None:
    named = {name: registry.algorithm(name).paper.family for name in registry.algorithm_names()}  # type: ignore[attr-defined]
    assert plugins.families() == named
    assert list(plugins.families()) == registry.algorithm_names()


def test_every_family_has_a_method_or_waits_for_one_and_an_unknown_one_is_refused() -> None:
    found = {registry.algorithm(name).paper.family for name in registry.algorithm_names()}  # type: ignore[attr-defined]
    assert found <= set(FAMILIES)
    assert {"pairs", "unpaired", "reward", "judge", "none"} <= found
    with pytest.raises(ValueError, match="family must be one of pairs, unpaired"):
        Paper("A", "B", 2024, family="magic", learns_from="c", parity="d: e")


@pytest.mark.parametrize(("name", "algorithm"), quick(algorithms(), "dpo", "bco", "ppo", "dapo", "xpo"))
def test_what_a_method_logs_is_what_it_says_that_it_logs(tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any) -> None:
    said: Paper = type(algorithm).paper
    assert seen(tiny_bench, tmp_path, name, algorithm) == set(said.logs)


@pytest.mark.parametrize(("name", "algorithm"), quick(loops(), "trl_dpo"))
def test_what_a_loop_of_trls_logs_is_what_it_says_that_it_logs(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any
) -> None:
    said: Paper = type(algorithm).paper
    assert seen(tiny_bench, tmp_path, name, algorithm) == set(said.logs)


def seen(bench: Bench, work: Path, name: str, algorithm: Any) -> set[str]:
    """Names of the scalars in the log of a few steps."""
    trainer = bench.trainer(algorithm, Budget(1e15, steps=9), work)
    trainer.run(name)
    return {scalar for row in trainer.log for scalar in row} - HARNESS_SCALARS


# -- rows: a yaml over another algorithm's class -----------------------------------------------------------------------


def test_a_row_is_its_class_with_its_yaml_as_defaults_and_shares_its_code(tmp_path: Path) -> None:
    row, base = registry.algorithm("trl_exo"), registry.algorithm("trl_pairs")
    assert issubclass(row, base)
    assert registry.hyperparameters(row()) == registry.hyperparameters(base()) | {
        "beta": 0.1, "loss_type": "exo_pair", "label_smoothing": 0.001,
    }  # fmt: skip
    assert registry.source_digest(row) == registry.source_digest(base)
    assert small("trl_exo", beta=0.3).beta == 0.3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: mine\nbeta: 0.5\n", "must say whose class it takes"),
        ("name: mine\nof: dpoo\n", "unknown algorithm 'dpoo'; did you mean 'dpo'"),
        ("name: mine\nof: trl_exo\n", "unknown algorithm 'trl_exo'"),
        ("name: mine\nof: dpo\nbta: 0.5\n", "unknown setting of dpo 'bta'; did you mean 'beta'"),
        ("name: other\nof: dpo\n", "name must be mine"),
        ("- dpo\n", "must say whose class it takes"),
    ],
)
def test_a_yaml_that_names_no_class_or_a_setting_that_there_is_not_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    rows = plugins.rows() | {"mine": file}
    monkeypatch.setattr(plugins, "rows", lambda: rows)
    with pytest.raises(UserError, match=words):
        registry.algorithm("mine")
