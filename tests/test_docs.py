"""README, CONTRIBUTING and docs/: short and linked; commands, settings and files that they name exist."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from scripts import methods_to_docs

import isoalign
from isoalign.baselines import dpo
from isoalign.cli.commands import isoalign as commands_of_isoalign
from isoalign.config.search_path import options
from isoalign.data import formats
from isoalign.runs import overrides
from isoalign.runs.exchanged import composed
from isoalign.runs.overrides import check_overrides, task_named
from isoalign.training import registry
from workbench import FixedRatios

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))
READERS = [page for page in PAGES if page.name != "CHANGELOG.md"]  # the changelog tells of what was, too


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """A page's blocks of code in a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# -- form --------------------------------------------------------------------------------------------------------------


def test_the_readme_has_1500_words_at_most() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500


def test_contributing_opens_with_a_contract_of_ten_lines() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")[1]
    assert section.startswith("The contract")
    assert [line.split(".")[0] for line in section.splitlines() if line[:1].isdigit()] == [str(n) for n in range(1, 11)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_and_example_is_on_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for file in [*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]:
        assert file.name == "index.md" or f"{file.name})" in index, file.name


# -- what pages name exists --------------------------------------------------------------------------------------------

OURS = ("bench/", "baselines/", "conf/", "docs/", "examples/", "scripts/", "tests/", "results/")
TO_BE_MADE = re.compile(r"[A-Z]{4}|smaug|shouting|short\.yaml|^results/local")


@pytest.mark.parametrize("page", READERS, ids=lambda page: page.stem)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    for name in re.findall(r"`([^`\s]+)`", prose(page)):
        if name.startswith(OURS) and not TO_BE_MADE.search(name):
            assert list(ROOT.glob(name.rstrip("/"))), f"{page.name}: {name}"
    for card in re.findall(r"results/published/\S+?\.json", page.read_text(encoding="utf-8")):
        assert list(ROOT.glob(card)) or TO_BE_MADE.search(card), f"{page.name}: {card}"


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `isoalign ...` that a page has, in blocks and in the text."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(isoalign [^`]+)`", prose(page))
    for line in lines:
        for part in line.partition("  #")[0].split("&&"):
            if part.strip().startswith("isoalign ") and "..." not in part:
                yield shlex.split(part.partition(">")[0])[1:]


@cache
def helped(*command: str) -> str:
    """What the help of a command says."""
    done = CliRunner().invoke(commands_of_isoalign, [*command, "--help"], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@cache
def check_run(words: tuple[str, ...], sweep: bool) -> None:
    """A run's settings exist; pages repeat one another."""
    check_overrides(list(words), sweep)


task_as = cache(task_named)


@cache
def composed_once(*choices: str) -> Any:
    """The configuration of some choices, which many commands share."""
    return composed(list(choices))


def plain(words: list[str]) -> list[str]:
    """Settings and names as they could be: for what stands for any name there is one that there is."""
    stands = {"algorithm=NAME": "algorithm=dpo", "algorithm=mine": "algorithm=dpo", "algorithm=smaug": "algorithm=dpo",
              "+sweep=smaug": "+sweep=dpo"}  # fmt: skip
    return [stands.get(word, word) for word in words]


@pytest.mark.parametrize("page", READERS, ids=lambda page: page.stem)
def test_every_command_and_setting_that_a_page_names_exists(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "composed", lambda choices: composed_once(*choices))
    for words in map(plain, commands(page)):
        command = words[:2] if words[0] in ("data", "new") else words[:1]
        settings = [word for word in words if re.match(r"[\w./+]+=", word)]
        if command == ["run"] and "hydra/sweeper=optuna" in words:  # of a package that is not installed here
            settings = [word for word in settings if not word.startswith("hydra")]
        if command == ["run"]:
            check_run(tuple(settings), "-m" in words)
        elif settings:
            task_as("nano", tuple(word for word in settings if word.startswith("task.")))
        for flag in words:
            if flag.startswith("--") and flag != "--help" and command != ["run"]:
                assert flag in helped(*command), f"{page.name}: isoalign {' '.join(words)}"
        assert command[0] in helped(), f"{page.name}: isoalign {' '.join(words)}"


@pytest.mark.parametrize("page", READERS, ids=lambda page: page.stem)
def test_every_setting_of_a_task_that_the_text_names_exists(page: Path) -> None:
    known = task_as("nano")
    for name in re.findall(r"`(task\.[a-z_.]+)(?:=[^`]*)?`", prose(page)):
        place: Any = known
        for step in name.split(".")[1:]:
            assert hasattr(place, step), f"{page.name}: {name}"
            place = getattr(place, step)


@pytest.mark.parametrize("page", READERS, ids=lambda page: page.stem)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`make ([\w-]+)`", text) + re.findall(r"^make ([\w-]+)", text, flags=re.MULTILINE):
        assert name in targets, f"{page.name}: make {name}"


def test_the_page_on_extending_names_all_that_the_lab_has_and_nothing_else(tiny_lab: isoalign.Lab) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    table = text.split("| of `lab` |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)(?:\([^`]*)?`", row.split("|")[1])}
    assert named == {name for name in dir(tiny_lab) if not name.startswith("_")}
    assert all(hasattr(isoalign.trl, name) for name in re.findall(r"`trl\.(\w+)`", text))
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", text, flags=re.MULTILINE)) <= set(isoalign.__all__)


def test_tasks_have_a_row_each() -> None:
    tasks = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert not [name for name in options("task") if f"| `{name}` |" not in tasks]


def test_the_page_of_methods_is_what_the_methods_say_of_themselves() -> None:
    assert methods_to_docs.page() == methods_to_docs.PAGE.read_text(encoding="utf-8"), "run scripts/methods_to_docs.py"


def test_the_rooms_of_the_layout_are_those_of_the_import_contracts_in_their_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    rooms = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8").split("## Rooms")[1].split("## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", rooms, flags=re.MULTILINE) == layers


TERMS = [
    "annotator", "bill", "bootstrap interval", "card", "control", "gain", "gate", "gold", "Holm", "implicit accuracy", "judge",
    "key", "KL from the reference", "nat", "Pareto", "proxy", "rank span", "reduction", "reward model", "rollout", "scorer",
    "seal", "snapshot", "stage", "store", "stratum", "verdict",
]  # fmt: skip


def test_the_glossary_has_what_a_reader_needs_in_order() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    titles = re.findall(r"^\*\*(.*?):", text, flags=re.MULTILINE)
    named = {word.strip(" *").lower() for title in titles for word in title.split(",")}
    assert not [term for term in TERMS if not any(term.lower() in word for word in named)]
    assert [title.lower().strip("*") for title in titles] == sorted(title.lower().strip("*") for title in titles)


def test_every_row_on_the_page_of_formats_is_read_as_the_format_that_it_stands_under(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    seen = set()
    for section in text.split("\n## ")[1:]:
        name = section.partition("\n")[0]
        for number, block in enumerate(re.findall(r"```json\n(.*?)```", section, flags=re.DOTALL)):
            objects = re.split(r"\n(?=\{)", block.strip())
            file = tmp_path / f"{name}-{number}.jsonl"
            file.write_text("\n".join(json.dumps(json.loads(each)) for each in objects), encoding="utf-8")
            assert formats.read_file(file).format == name
            seen.add(name)
    assert sorted(seen) == formats.format_names()


# -- the method in the README -------------------------------------------------------------------------------------------


def test_the_method_in_the_readme_is_dpo_and_has_twelve_lines() -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    space: dict[str, Any] = {"__name__": "readme"}
    exec("from collections.abc import Iterator\nfrom torch import Tensor\nfrom torch.nn.functional import logsigmoid\n"
         "from isoalign import Lab, Pairs, Step, register\n" + block, space)  # fmt: skip
    lab: Any = FixedRatios([1.0, -2.0], [0.5, 1.0])
    pairs: Any = SimpleNamespace(chosen="chosen", rejected="rejected")
    ours, theirs = (method.loss(lab, pairs) for method in (space["DPO"](), dpo.DPO()))
    torch.testing.assert_close(ours, theirs)
    assert registry.hyperparameters(space["DPO"]()) == registry.hyperparameters(dpo.DPO())


# -- what stands beside the code ------------------------------------------------------------------------------------------


def test_the_citation_has_what_its_format_asks_for() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["cff-version"] == "1.2.0"
    assert cited["message"]
    assert (cited["title"], cited["license"]) == (project["name"], project["license"])
    assert cited["authors"] == [{"name": "The isoalign developers"}]
    assert cited["type"] == "software"


def test_the_workflow_runs_what_continuous_integration_runs_on_every_python_that_is_allowed() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    steps = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert steps == {"quick": ["make check", "make test"], "full": [".ci/run"]}
    assert jobs["quick"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


# -- the site --------------------------------------------------------------------------------------------------------------


def test_every_page_has_one_place_in_the_navigation_of_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    placed = [page for part in yaml.safe_load(text) for pages in part.values() for page in pages]
    made = {"project.md", "contributing.md", "changelog.md", "api.md"}  # by scripts/docs_site.py
    assert sorted(placed) == sorted(made | {page.name for page in (ROOT / "docs").glob("*.md")})


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html")]
    assert len(pages) > 20
    assert not [
        found for page in pages for found in re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?://[^"]*"', page)
    ]
