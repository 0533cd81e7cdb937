"""`isoalign new`, and the page that tells how to write an algorithm: followed word for word, in a package of its own."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from workbench import COMMAND, Terminal, complaint, page


def installed(home: Path, package: str, points: str) -> None:
    """What pip leaves of a package."""
    info = home / f"{package}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(points)


def points(project: Path) -> str:
    """The entry points of a pyproject.toml as an installed package has them."""
    found = re.findall(r'\[project\.entry-points\."(isoalign\.\w+)"\]\n(\w+) = "([\w.]+)"', project.read_text())
    return "\n".join(f"[{group}]\n{name} = {value}" for group, name, value in found)


@pytest.fixture
def new(terminal: Terminal) -> Terminal:
    """A terminal in whose Python the package that `isoalign new algorithm smaug` wrote is installed."""
    folder = terminal.home / "mine"
    done = terminal([COMMAND, "new", "algorithm", "smaug", "--package", str(folder)])
    assert done.returncode == 0, done.stderr
    assert f"next: pip install -e {folder} && isoalign check smaug" in done.stdout
    installed(folder, "isoalign_smaug", points(folder / "pyproject.toml"))
    terminal.env["PYTHONPATH"] = str(folder)
    return terminal


def own_tests_pass(new: Terminal) -> None:
    """The package's own tests pass."""
    done = new(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", str(new.home / "mine" / "tests")]
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_what_new_writes_is_found_configured_tested_and_conforms(new: Terminal) -> None:
    own_tests_pass(new)
    done = new([COMMAND, "check", "smaug", "settings", "budget", "pure", "metered"])
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "smaug: 4 checks, none failed"
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == ["passed"] * 4
    assert "unknown key 'algorithm.bta'; did you mean 'algorithm.beta'" in complaint(
        new(new.run("algorithm=smaug", "algorithm.bta=1"))
    )
    assert "algorithm.beta=0.03" in new(new.run("-m", "algorithm=smaug", "+sweep=smaug", "budget.flops=0")).stdout


@pytest.mark.slow
def test_a_second_algorithm_joins_the_package_of_the_first(new: Terminal) -> None:
    folder = new.home / "mine"
    first = (folder / "isoalign_smaug" / "smaug.py").read_text()
    done = new([COMMAND, "new", "algorithm", "second", "--package", str(folder)])
    assert done.returncode == 0, done.stderr
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["isoalign.algorithms"] == {
        "smaug": "isoalign_smaug.smaug",
        "second": "isoalign_smaug.second",
    }
    assert (folder / "isoalign_smaug" / "smaug.py").read_text() == first
    assert (folder / "isoalign_smaug" / "conf" / "algorithm" / "second.yaml").exists()
    own_tests_pass(new)
    done = new([COMMAND, "new", "algorithm", "second", "--package", str(folder)])
    assert "pyproject.toml already has an algorithm second" in complaint(done)


def test_a_task_of_a_package_that_is_not_installed_is_written_with_what_to_do_next(terminal: Terminal) -> None:
    folder = terminal.home / "mine"
    assert terminal([COMMAND, "new", "algorithm", "smaug", "--package", str(folder)]).returncode == 0
    asked = terminal.home / "asked.jsonl"
    asked.write_text("".join(json.dumps({"prompt": f"What is number {i}?"}) + "\n" for i in range(80)))
    given = ["--model", str(terminal.model), "--prompts", str(asked), "--feedback", ""]
    done = terminal([COMMAND, "new", "task", "counting", *given, "--demonstrations", "none", "--package", str(folder)])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"next: pip install -e {folder} && isoalign task show counting\n")
    assert (folder / "isoalign_smaug" / "conf" / "task" / "counting.yaml").exists()


def test_a_name_that_a_package_brings_already_is_refused_and_the_package_left_as_it_is(terminal: Terminal) -> None:
    (terminal.home / "theirs").mkdir()
    project = terminal.home / "pyproject.toml"
    text = '[project]\nname = "theirs"\n[project.entry-points."isoalign.algorithms"]\nfresh = "theirs.sub.fresh"\n'
    project.write_text(text)
    said = complaint(terminal([COMMAND, "new", "algorithm", "fresh", "--package", str(terminal.home)]))
    assert "pyproject.toml already has an algorithm fresh" in said
    assert [file.name for file in terminal.home.rglob("*") if file.is_file()] == ["pyproject.toml"]
    assert project.read_text() == text


def test_a_package_that_brings_no_algorithm_is_left_as_it_is(terminal: Terminal) -> None:
    project = terminal.home / "pyproject.toml"
    project.write_text('[project]\nname = "theirs"\n')
    said = complaint(terminal([COMMAND, "new", "algorithm", "fresh", "--package", str(terminal.home)]))
    assert 'pyproject.toml has no algorithm under [project.entry-points."isoalign.algorithms"] in a package' in said
    assert [file.name for file in terminal.home.rglob("*") if file.is_file()] == ["pyproject.toml"]


@pytest.fixture
def of_the_page(new: Terminal) -> Terminal:
    """The same, with the files of docs/extending.md in place of the start."""
    home = new.home / "mine" / "isoalign_smaug"
    (home / "smaug.py").write_text(page("baselines/smaug.py"))
    (home / "conf" / "algorithm" / "smaug.yaml").write_text(page("conf/algorithm/smaug.yaml"))
    (home / "conf" / "sweep" / "smaug.yaml").write_text(page("conf/sweep/smaug.yaml"))
    test = page("tests/test_smaug.py").replace("isoalign.baselines.smaug", "isoalign_smaug.smaug")
    (new.home / "mine" / "tests" / "test_smaug.py").write_text(test)
    return new


@pytest.mark.slow
def test_the_algorithm_of_the_page_works_as_it_stands(of_the_page: Terminal) -> None:
    own_tests_pass(of_the_page)
    done = of_the_page([COMMAND, "check", "smaug", "settings", "budget", "pure"])
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "smaug: 3 checks, none failed"


@pytest.mark.slow
def test_the_algorithm_of_the_page_conforms(of_the_page: Terminal) -> None:
    done = of_the_page([COMMAND, "check", "smaug"])
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dpo", "algorithm dpo already exists"),
        ("My-Method", "'My-Method' can't be the name of an algorithm"),
        ("class", "'class' can't be the name of an algorithm: it is a Python keyword"),
        *((name, f"'{name}' can't be the name of an algorithm: use lower-case") for name in ("größe", "__init__", "_", "2nd")),
        ("null", "'null' can't be the name of an algorithm: yaml reads it as None"),
        ("off", "'off' can't be the name of an algorithm: yaml reads it as False"),
        ("nan", "'nan' can't be the name of an algorithm: Hydra reads it as nan"),
        ("fresh", "this is not a checkout of isoalign"),
    ],
)
def test_a_name_that_will_not_do_is_refused_and_nothing_written(terminal: Terminal, name: str, words: str) -> None:
    before = sorted(terminal.home.rglob("*"))
    assert words in complaint(terminal([COMMAND, "new", "algorithm", name]))
    assert sorted(terminal.home.rglob("*")) == before


def test_nothing_is_overwritten(terminal: Terminal) -> None:
    folder = terminal.home / "mine"
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "test_fresh.py").write_text("mine")
    said = complaint(terminal([COMMAND, "new", "algorithm", "fresh", "--package", str(folder)]))
    assert "test_fresh.py already exists" in said
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["test_fresh.py"]
