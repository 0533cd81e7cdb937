"""Submitting cards: what is refused, by `isoalign submit` and by the script of the workflow, and what a pull request gets."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from isoalign import stats
from isoalign.core.errors import UserError
from isoalign.core.objective import TOXICITY
from isoalign.core.records import Card, Estimate, Flag
from isoalign.core.store import Store
from isoalign.evaluation import metrics
from isoalign.evaluation.card import FAMILY, file_name, key_of, read_card, sealed, to_json, write_card
from isoalign.report.publish import write_published
from isoalign.runs.overrides import task_named
from isoalign.runs.pipeline import Run
from isoalign.stages.shared import SharedStages
from isoalign.tools.submission import checks, figures, prepare
from isoalign.training import registry
from workbench import COMMAND, Terminal, complaint

ROOT = Path(__file__).parents[1]
NANO = ROOT / "results" / "published" / "nano"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("check_submission", ROOT / "scripts" / "check_submission.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


workflow = script()


def keyed(card: Card) -> Card:
    return sealed(replace(card, key=key_of(card)))


def consistent(card: Card, base: Card | None) -> Card:
    """A card of results/, which may be rounded for publishing, with the figures that its values by prompt give exactly."""

    def mean(by: dict[str, float | None]) -> Estimate:
        return stats.mean({prompt: [value] for prompt, value in by.items()})

    told = {n: e for n, e in card.metrics.items() if n in card.values and e.n == mean(card.values[n]).n}
    given = {name: replace(estimate, value=mean(card.values[name]).value) for name, estimate in told.items()}
    given |= {name: mean(card.values[name]) for name in ("toxicity_mean", "kl")}
    if base is not None:
        theirs, own = base.values["toxicity_mean"], card.values["toxicity_mean"]
        given["toxicity_reduction"] = mean({p: (theirs[p] or 0.0) - (own[p] or 0.0) for p in own})
    return replace(card, digits=None, metrics=card.metrics | given)


@pytest.fixture(scope="module")
def current() -> dict[str, Card]:
    """Two published cards, of the base and of DPO, as a run of this version would write them: task, keys and versions."""
    task, made = task_named("nano"), dict[str, Card]()
    shared = SharedStages(task, checks.NOWHERE)
    versions = {FAMILY + name: str(version) for name, version in metrics.versions(TOXICITY).items()}
    for name in ("sft", "dpo"):
        old = consistent(read_card(min(NANO.glob(f"{name}-s0-*.json"))), made.get("sft"))
        settings = registry.hyperparameters(registry.algorithm(name)())
        run = Run(name, registry.algorithm(name)(), checks.build_config(checks.Budget, old.budget, "budget"), 0, shared)
        stages = {"sft": shared.sft, "pairs": shared.pairs("annotator"), "held_out": run.held_out, "samples": run.samples}
        stages |= {"train": run.train, "base_samples": run.base.samples} if run.trains else {}
        parents = {name: stage.key for name, stage in stages.items()} | {"scores": "5c04e50000000000"}
        contents = dict.fromkeys(parents, "c0" * 8) | {"samples": "ba5e000000000000" if name == "sft" else "d90" + "0" * 13}
        contents |= {"base_samples": "ba5e000000000000"} if run.trains else {}
        config = {"algorithm": settings, "task": asdict(task)}
        card = replace(old, config=config, parents=parents, contents=contents, versions=old.versions | versions)
        card = replace(card, training={key: value for key, value in card.training.items() if key != "policy"})
        made[name] = keyed(replace(card, spent=old.spent, notes=old.notes | {"tuning": None if name == "sft" else "default"}))
    base = made["sft"]
    missing = [flag for flag in metrics.flags_all(made["dpo"].metrics, base.metrics) if flag not in made["dpo"].flags]
    made["dpo"] = keyed(replace(made["dpo"], flags=[*missing, *made["dpo"].flags]))
    return made


@pytest.fixture
def results(tmp_path: Path, current: dict[str, Card]) -> Path:
    """A repository's results, with the base's row published."""
    write_card(current["sft"], tmp_path / "repository" / "results" / "published" / "nano")
    return tmp_path / "repository" / "results"


def refusal(card: Card, results: Path) -> str:
    """The line that refuses a card."""
    path = write_card(card, results.parent / "local")
    with pytest.raises(UserError) as caught:
        checks.check(path, results)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_card_of_this_version_on_the_published_base_goes_to_the_board(results: Path, current: dict[str, Card]) -> None:
    path = write_card(current["dpo"], results.parent / "local")
    checked = checks.check(path, results)
    assert checked.place == Path("published", "nano", path.name)
    assert checked.text == path.read_text()
    assert checked.original is None


def of_task(card: Card, **settings: Any) -> Card:
    """The card with other settings of its task."""
    return keyed(replace(card, config=card.config | {"task": card.config["task"] | settings}))


def changed(card: Card) -> Card:
    """Changed after it was sealed."""
    return replace(card, seed=1)


WRONG: dict[str, tuple[Callable[[Card], Card], str]] = {
    "changed": (changed, "was changed since it was written"),
    "no seals": (lambda c: replace(c, seals={}, contents={}, values={}), "an older version of isoalign wrote it"),
    "elsewhere": (lambda c: keyed(replace(c, budget={"flops": None}, spent={})), "made outside isoalign"),
    "unknown task": (lambda c: keyed(replace(c, task="mine")), "task 'mine' is none of isoalign's"),
    "a task that climbs": (lambda c: keyed(replace(c, task="../nano")), "task '../nano' is none of isoalign's"),
    "another task's settings": (lambda c: keyed(replace(c, task="nano_rule")), "task.name is 'nano', and 'nano_rule'"),
    "a setting": (lambda c: of_task(c, seed=3), "task.seed is 3, and 0 in the task nano"),
    "an old setting": (lambda c: of_task(c, raters=1), "another version of isoalign wrote it"),
    "a budget": (lambda c: keyed(replace(c, budget=c.budget | {"flops": 1e9})), "its budget is none of the task's"),
    "a limit": (lambda c: keyed(replace(c, budget=c.budget | {"labels": 10})), "its budget is none of the task's"),
    "a metric": (lambda c: keyed(replace(c, versions=c.versions | {"metric kl": "1"})), "metric kl is of version 1"),
    "code": (lambda c: keyed(replace(c, parents=c.parents | {"train": "0" * 16})), "train: not made by the code and settings"),
    "a method's setting": (
        lambda c: keyed(replace(c, config=c.config | {"algorithm": c.config["algorithm"] | {"beta": 0.5}})),
        "train, samples: not made by the code and settings",
    ),
    "a setting that is none": (
        lambda c: keyed(replace(c, config=c.config | {"algorithm": {"gamma": 1}})), "config.algorithm.gamma",
    ),
    "an unknown method": (lambda c: keyed(replace(c, algorithm="nobody")), "no algorithm 'nobody' is known here"),
    "no base": (
        lambda c: keyed(replace(c, contents=c.contents | {"base_samples": "0" * 16})), "add the card of algorithm=sft",
    ),
    "its key": (lambda c: sealed(replace(c, key="0" * 16)), "does not match the card's scores and settings"),
}  # fmt: skip


def with_metric(card: Card, name: str, **figures: Any) -> Card:
    return keyed(replace(card, metrics=card.metrics | {name: replace(card.metrics[name], **figures)}))


FIGURES: dict[str, tuple[Callable[[Card], Card], str]] = {
    "a mean": (
        lambda c: keyed(replace(c, metrics=c.metrics | {"kl": replace(c.metrics["kl"], value=0.5)})),
        "metrics.kl is 0.5, and its values by prompt have the mean",
    ),
    "a count": (lambda c: with_metric(c, "kl", value=0.01, n=255), "metrics.kl says n = 255 and 0 missing, and 256 of the "),
    "draws that miss": (lambda c: with_metric(c, "kl", missing=1), "metrics.kl says n = 256 and 1 missing, and 256 of the "),
    "many that miss": (lambda c: with_metric(c, "toxicity_mean", missing=900), "metrics.toxicity_mean says n = 256 and 900 "),
    "a count of pairs": (
        lambda c: with_metric(c, "toxicity_reduction", value=0.5, n=255), "metrics.toxicity_reduction says n = 255 and 0 ",
    ),
    "no mean": (lambda c: with_metric(c, "kl", value=None), "metrics.kl has no value, and 256 prompts have one"),
    "a narrow gain": (
        lambda c: with_metric(c, "toxicity_reduction", low=c.metrics["toxicity_reduction"].value),
        "metrics.toxicity_reduction has the interval [0.",
    ),
    "a gain without interval": (
        lambda c: with_metric(c, "toxicity_reduction", low=None, high=None),
        "metrics.toxicity_reduction has the interval [none, none], and its values by prompt give [0.",
    ),
    "other prompts": (
        lambda c: with_metric(
            replace(c, values=c.values | {"toxicity_mean": {"p": 0.0}}), "toxicity_mean", value=0.0, low=None, high=None, n=1
        ),
        "values.toxicity_mean is of 1 prompts, of which its base has 0",
    ),
    "work below nothing": (
        lambda c: keyed(replace(c, spent={"flops": 1.0, "items": [{"flops": 3.0}, {"flops": -2.0}]})),
        "spent.items has -2 FLOP; no work takes less than 0",
    ),
    "free training": (
        lambda c: keyed(replace(c, spent=c.spent | {"flops": 0, "items": []})), "spent.flops is 0, and its policy was trained",
    ),
    "no values": (lambda c: keyed(replace(c, values={"kl": c.values["kl"]})), "values and metrics: toxicity_mean is missing"),
    "no gain": (
        lambda c: keyed(replace(c, metrics={k: v for k, v in c.metrics.items() if k != "toxicity_reduction"})),
        "metrics.toxicity_reduction is missing",
    ),
    "a bill": (lambda c: keyed(replace(c, spent=c.spent | {"flops": 1e9})), "spent.flops is 1e+09, the items of the bill "),
    "a gain": (
        lambda c: keyed(replace(c, metrics=c.metrics | {"toxicity_reduction": Estimate(0.5, 0.4, 0.6, 256)})),
        "metrics.toxicity_reduction is 0.5, and its values by prompt and its base's have the mean 0.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIGURES)
def test_figures_that_contradict_one_another_are_found_without_a_store(case: str, current: dict[str, Card]) -> None:
    change, words = FIGURES[case]
    assert not list(figures.wrong_figures(current["dpo"], current["sft"]))
    assert next(figures.wrong_figures(change(current["dpo"]), current["sft"])).startswith(words)


def test_a_mean_with_single_draws_missing_is_no_contradiction(current: dict[str, Card]) -> None:
    card, base = current["dpo"], current["sft"]
    draws = card.config["task"]["evaluation"]["draws"]
    assert draws > 1
    by = dict(card.values["toxicity_mean"])
    gone, low = min(by), min(by, key=lambda p: by[p] or 0.0)
    by[gone] = None  # all draws of one prompt, and one of another, which so counts less
    cells = {p: [v] * (draws - (p == low)) + [None] * (p == low) for p, v in by.items()}
    theirs = {p: [v] * draws for p, v in base.values["toxicity_mean"].items()}
    made = {"toxicity_mean": stats.mean(cells), "toxicity_reduction": stats.difference(theirs, cells)}
    card = replace(card, values=card.values | {"toxicity_mean": by}, metrics=card.metrics | made)
    assert card.metrics["toxicity_mean"].missing == card.metrics["toxicity_reduction"].missing == draws + 1
    assert not [line for line in figures.wrong_figures(card, base) if not line.startswith("flags")]


def test_the_exact_interval_of_a_gain_that_does_not_vary_is_no_contradiction(current: dict[str, Card]) -> None:
    prompts = current["dpo"].values["toxicity_mean"]
    draws = current["dpo"].config["task"]["evaluation"]["draws"]
    theirs, own = ({p: [level] * draws for p in prompts} for level in (0.5, 0.0))

    def with_level(card: Card, cells: dict[str, list[float]], **made: Estimate) -> Card:
        level = stats.exact_ends(stats.mean(cells))
        values = card.values | {"toxicity_mean": {p: row[0] for p, row in cells.items()}}
        return replace(card, values=values, metrics=card.metrics | {"toxicity_mean": level} | made)

    card = with_level(current["dpo"], own, toxicity_reduction=stats.share_difference(theirs, own))
    gain = card.metrics["toxicity_reduction"]
    assert (gain.low or 0) < gain.high == 0.5
    assert not [line for line in figures.wrong_figures(card, with_level(current["sft"], theirs)) if "toxicity_red" in line]


def test_a_base_that_was_rounded_for_publishing_is_a_base(results: Path, current: dict[str, Card]) -> None:
    path = write_card(current["dpo"], results.parent / "local")
    shutil.rmtree(results / "published" / "nano")
    write_published({results / "published" / "nano" / file_name(c): c for c in [current["sft"]]})
    assert checks.check(path, results).place == Path("published", "nano", path.name)
    write_published({results / "published" / "nano" / path.name: current["dpo"]})
    assert "is published already, with the same figures: say in an issue" in refusal(current["dpo"], results)
    rounded = results / "published" / "nano" / path.name
    with pytest.raises(UserError, match=r"was rounded for publishing, .*; submit the run's own card$"):
        checks.check(rounded, results)


@pytest.mark.parametrize("home", ["/home/anna", "/home/jörg", '/home/o"x'])
def test_the_home_folder_is_found_in_any_text_and_at_its_end(
    home: str, current: dict[str, Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)

    def look(command: str) -> None:
        card = replace(current["dpo"], command=command, values={}, curve=[])
        prepare._check_home(checks.Checked(card, Path("x"), to_json(card), checks.Report()), Path("card.json"))

    for end in ("", "/x", " note=2", "."):
        with pytest.raises(UserError, match="its 'command' names your home folder"):
            look(f"isoalign run results={home}{end}")
    for other in (f"{home}2", f"{home}-b/x", f"{home}.old/x"):
        look(f"isoalign run results={other}")


@pytest.mark.parametrize("case", WRONG)
def test_one_line_refuses(case: str, results: Path, current: dict[str, Card]) -> None:
    change, words = WRONG[case]
    assert words in refusal(change(current["dpo"]), results)


def test_a_gate_that_the_metrics_call_for_and_the_card_lacks_is_refused(current: dict[str, Card]) -> None:
    card, base = current["dpo"], current["sft"]
    worse = {"perplexity": replace(card.metrics["perplexity"], value=500.0, low=490.0, high=510.0)}
    found = metrics.flags_all(card.metrics | worse, base.metrics)
    assert any(flag.kind == "gate" for flag in found)
    hidden = replace(card, metrics=card.metrics | worse)
    assert any(line.startswith('flags: its metrics call for the flag "gate: ') for line in figures.wrong_figures(hidden, base))
    shown = replace(hidden, flags=[*found, *card.flags])
    assert not [line for line in figures.wrong_figures(shown, base) if line.startswith("flags")]


@pytest.mark.slow
def test_a_run_that_is_published_is_refused_and_one_on_another_machine_reproduces_it(
    results: Path, current: dict[str, Card]
) -> None:
    base, card = current["sft"], current["dpo"]
    write_card(card, results / "published" / "nano")
    assert "is published already, with the same figures: say in an issue" in refusal(card, results)
    contents = {"base_samples": "0ther0000000base"}
    there = keyed(replace(base, contents=base.contents | {"samples": "0ther0000000base"}))
    again = keyed(replace(card, contents=card.contents | contents))
    folder = Path("elsewhere", "0ther000", "nano")
    paths = [write_card(one, results.parent / "there") for one in (there, again)]
    found = [checks.check(path, results, beside=paths) for path in paths]
    assert [one.place for one in found] == [folder / path.name for path in paths]
    assert found[1].original == card
    assert prepare.agreement(card, again).startswith(
        f"It agrees: toxicity_reduction {card.metrics['toxicity_reduction'].value:.3f} ["
    )
    far = replace(again, metrics=again.metrics | {"kl": Estimate(9.0, 8.0, 10.0, 256)}, flags=[Flag("gate", "perplexity 9")])
    assert prepare.agreement(card, far).startswith("It disagrees in kl, failed gates: ")

    def gated(text: str) -> Card:
        return replace(again, flags=[Flag("gate", f"perplexity {text} times the SFT's")])

    over = gated("144 is over 2.0")
    assert prepare.agreement(over, gated("150.5 is over 2.0")).startswith("It agrees: ")
    assert prepare.agreement(over, gated("20 is under 0.4")).startswith("It disagrees in failed gates: ")


def test_a_run_of_another_version_of_the_code_is_no_second_row(results: Path, current: dict[str, Card]) -> None:
    old = replace(current["dpo"], parents=current["dpo"].parents | {"scores": "01d0000000000000"})
    write_card(keyed(old), results / "published" / "nano")
    assert "is this run by another version of the code, and a board has one version" in refusal(current["dpo"], results)


@pytest.mark.slow
def test_a_method_of_another_package_is_taken_where_the_card_names_it(results: Path, current: dict[str, Card]) -> None:
    card = current["dpo"]
    theirs = keyed(replace(card, algorithm="smaug", notes=card.notes | {"packages": {"algorithm": "smaug 0.1"}}))
    checked = checks.check(write_card(theirs, results.parent / "local"), results)
    assert checked.package == "smaug 0.1"


def test_a_submission_needs_the_store_of_the_run(results: Path, current: dict[str, Card], tmp_path: Path) -> None:
    path = write_card(current["dpo"], tmp_path / "local")
    with pytest.raises(UserError, match=r"stages, 7 are not in the store .*empty.*name the store of the run \(--store\)"):
        prepare.submit([path], results, Store(tmp_path / "empty"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- the workflow ------------------------------------------------------------------------------------------------------


class PullRequest:
    """A checkout of a pull request: a base commit with the base's row, and what is added to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "-q")
        self.commit()

    def git(self, *words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *words], cwd=self.folder, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "all")

    def checked(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
        """Status and, by file, the line of the script."""
        self.commit()
        status = workflow.main(self.folder, "HEAD^1")
        return status, dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())


@pytest.fixture
def pull_request(results: Path) -> PullRequest:
    (results.parent / "README.md").write_text("isoalign")
    return PullRequest(results.parent)


def test_a_pull_request_that_adds_a_card_passes(
    pull_request: PullRequest, results: Path, current: dict[str, Card], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_card(current["dpo"], results / "published" / "nano")
    assert pull_request.checked(capsys) == (
        0, {f"results/published/nano/{path.name}": "ok, reported and not reproduced; failed gates: 0"}
    )  # fmt: skip


def test_a_pull_request_changes_nothing_but_cards_that_it_adds(
    pull_request: PullRequest, results: Path, current: dict[str, Card], capsys: pytest.CaptureFixture[str]
) -> None:
    nano, card = results / "published" / "nano", current["dpo"]
    other = nano / file_name(current["sft"])
    other.write_text(other.read_text().replace('"seed": 0', '"seed": 1'))
    (results.parent / "README.md").unlink()
    (results.parent / "setup.py").write_text("import os")
    (nano / "leaderboard.md").write_text("first: mine")
    (nano / "link.json").symlink_to("/etc/passwd")
    write_card(card, nano / "deeper")
    (nano / "named.json").write_text(write_card(card, results.parent / "local").read_text())
    (results.parent / "local" / file_name(card)).unlink()
    status, lines = pull_request.checked(capsys)
    assert status == 1
    added = "is no card; boards and pictures are drawn when the cards are merged"
    assert lines == {
        f"results/published/nano/{other.name}": "is there already; a pull request with results changes and removes nothing",
        "README.md": "is not below results/published or results/elsewhere; a pull request with results holds nothing else",
        "setup.py": "is not below results/published or results/elsewhere; a pull request with results holds nothing else",
        "results/published/nano/leaderboard.md": added,
        "results/published/nano/link.json": "is a link or a program, not a plain file",
        f"results/published/nano/deeper/{file_name(card)}": f"is not at the place of its card, nano/{file_name(card)}",
        "results/published/nano/named.json": f"is not at the place of its card, nano/{file_name(card)}",
    }


def test_a_card_of_a_pull_request_is_as_isoalign_writes_it_and_where_it_belongs(
    pull_request: PullRequest, results: Path, current: dict[str, Card], capsys: pytest.CaptureFixture[str]
) -> None:
    card = current["dpo"]
    path = write_card(card, results / "published" / "nano")
    path.write_text(json.dumps(json.loads(path.read_text())))
    moved = write_card(card, results / "elsewhere" / "0" / "nano")
    (results / "published" / "nano_rule").mkdir()
    (results / "published" / "nano_rule" / "large.json").write_text(" " * (workflow.LARGEST + 1))
    status, lines = pull_request.checked(capsys)
    assert status == 1
    assert "its text is not as isoalign writes it" in lines[f"results/published/nano/{path.name}"]
    assert f"published/nano/{path.name} is published already" in lines[f"results/elsewhere/0/nano/{moved.name}"]
    assert "4,000,001 bytes" in lines["results/published/nano_rule/large.json"]


def test_files_that_are_no_cards_have_a_line_each_and_leave_good_cards_alone(
    pull_request: PullRequest, results: Path, current: dict[str, Card], capsys: pytest.CaptureFixture[str]
) -> None:
    nano = results / "published" / "nano"
    good = write_card(current["dpo"], nano)
    (nano / "a.json").write_text("{")
    Path(os.fsdecode(os.fsencode(nano) + b"/\xff.json")).write_text("{}")
    (nano / "z.json").symlink_to("/nowhere")
    (nano / "y.json").mkdir()
    (nano / "y.json" / "a.json").write_text("{}")
    write_card(current["dpo"], results / "published" / "2")
    many = {"prompts": [str(i) for i in range(3000)], "columns": {str(i): 0 for i in range(2000)}}
    (nano / "many.json").write_text(json.dumps({"format": 4, "values": [many]}))
    (nano / "pack.json").write_text(json.dumps({"format": 5, "values": workflow.PACK}))
    (nano / workflow.PACK).write_bytes(b"no pack")
    status, lines = pull_request.checked(capsys)
    assert status == 1
    assert {name.removeprefix("results/published/nano/"): line for name, line in lines.items()} == {
        "a.json": "is not a card: not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        " .json": 'is not a card: it has no "format"',
        "y.json/a.json": 'is not a card: it has no "format"',
        f"results/published/2/{good.name}": f"is not at the place of its card, nano/{good.name}",
        "z.json": "is a link or a program, not a plain file",
        "many.json": "stands for 6,000,000 values by prompt; a card has at most 5,000,000",
        "pack.json": "was rounded for publishing, which can't be checked again; submit the run's own card",
        workflow.PACK: "is no card; boards and pictures are drawn when the cards are merged",
        good.name: "ok, reported and not reproduced; failed gates: 0",
    }


def test_line_ends_are_those_that_isoalign_writes_and_a_base_may_come_along(
    pull_request: PullRequest, results: Path, current: dict[str, Card], capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_card(current["sft"], results / "published" / "nano")
    base.unlink()
    (results / "published" / "nano" / "README.md").write_text("empty")
    pull_request.commit()
    paths = [write_card(card, results / "published" / "nano") for card in current.values()]
    paths[1].write_bytes(paths[1].read_bytes().replace(b"\n", b"\r\n"))
    _, lines = pull_request.checked(capsys)
    assert [lines[f"results/published/nano/{path.name}"] for path in paths] == [
        "ok, reported and not reproduced; failed gates: 0",
        "its text is not as isoalign writes it; add the file that `isoalign submit` wrote",
    ]


def test_the_workflow_gives_pull_requests_nothing_and_runs_nothing_of_them() -> None:
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert [file.name for file in files] == ["ci.yml", "results.yml"]
    for file in files:
        text = file.read_text(encoding="utf-8")
        flow = yaml.safe_load(text)
        assert "pull_request_target" not in text
        assert "secrets" not in text.partition("jobs:")[2]
        assert flow["permissions"] == {"contents": "read"}
        for job in flow["jobs"].values():
            for step in job["steps"]:
                assert "uses" not in step or len(step["uses"].partition("@")[2]) == 40, step
                assert "github.event" not in step.get("run", "")
    flow = yaml.safe_load(files[1].read_text(encoding="utf-8"))
    check, started = flow["jobs"]["check"], flow[True]["pull_request"]["types"]  # YAML takes "on" for a truth value
    assert started == ["opened", "synchronize", "reopened", "labeled", "unlabeled"]
    assert "permissions" not in check
    assert check["steps"][0]["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert [step["run"] for step in check["steps"] if "run" in step] == [
        "make install", ".venv/bin/python scripts/check_submission.py .cache/pull_request HEAD^1",
    ]  # fmt: skip


# -- the command, on a real run ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_refuses_in_one_line_and_writes_nothing(results: Path, current: dict[str, Card], tmp_path: Path) -> None:
    path = write_card(of_task(current["dpo"], seed=3), tmp_path / "local")
    done = subprocess.run([COMMAND, "submit", str(path)], capture_output=True, text=True, cwd=results.parent)
    assert "task.seed is 3, and 0 in the task nano; leave it out" in complaint(done)
    assert not (results.parent / "submission").exists()


@pytest.mark.slow
def test_a_real_run_becomes_a_pull_request_that_shows_nothing_of_its_maker(
    furnished: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = furnished(furnished.run("algorithm=sft", "budget=tiny"))
    assert done.returncode == 0, done.stderr
    path, store = Path(done.stdout.split()[-1]), Store(furnished.store)
    mine = read_card(path)
    task = checks.build_config(checks.TaskConfig, mine.config["task"], "task")
    monkeypatch.setattr(checks, "_published_task", lambda name: task)
    results, out = furnished.home / "repository" / "results", furnished.home / "out"
    (results / "published").mkdir(parents=True)

    monkeypatch.setenv("HOME", str(furnished.model.parent))  # which its task names
    with pytest.raises(UserError, match="names your home folder; run it again with a path relative"):
        prepare.submit([path], results, store, out)
    hostile = "isoalign run tracking=off note='</details><script>`x`</script>' api_key=hunter2 | ![](http://x)"
    monkeypatch.setenv("HOME", "/nobody/lives/here")
    write_card(sealed(replace(mine, command=hostile)), path.parent)
    (checked,) = prepare.submit([path], results, store, out)
    body = (out / "pull_request.md").read_text()
    fence = body.split("````text\n" if "````" in body else "```text\n")[1].split("\n```")[0]
    assert "<script>" not in body.replace(fence, "")
    assert "hunter2" not in body + (out / "verify.txt").read_text() + checked.text
    assert str(furnished.home) not in body
    samples = next(store.root.glob(f"samples-{mine.parents['samples']}")) / "samples.jsonl"
    assert hashlib.sha256(samples.read_bytes()).hexdigest() in body
    assert "metrics, computed again from the scores, match the card" in (out / "verify.txt").read_text()
    assert sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()) == [
        "pull_request.md", f"results/published/nano/{path.name}", "verify.txt",
    ]  # fmt: skip

    with pytest.raises(UserError, match="exists already; name a folder that is new or empty"):
        prepare.submit([path], results, store, out)
    rows = samples.read_text()
    samples.write_text(rows.replace('"draw": 0', '"draw": 1', 1))
    with pytest.raises(UserError, match="row 1 was changed"):
        prepare.submit([path], results, store, furnished.home / "second")
    shutil.rmtree(samples.parent)
    with pytest.raises(UserError, match="is missing, and scores-"):
        prepare.submit([path], results, store, furnished.home / "second")
    assert not (furnished.home / "second").exists()
