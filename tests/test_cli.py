"""The command as a user types it: what it does, and the one line it says when something is wrong."""

import importlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import click
import pytest

from isoalign.cli.commands import COMMANDS, invoke
from isoalign.config.search_path import options
from isoalign.core import plugins
from isoalign.data.assets import ASSETS, file_digest
from workbench import COMMAND, Terminal, complaint, finished, stages

Done = CompletedProcess[str]

ROOT = Path(__file__).parents[1]
HELP = [[name] for name in COMMANDS] + [["data", "check"], ["new", "algorithm"]]
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "evaluate", "sklearn", "statsmodels", "wandb", "openai"}

BETAS = "task.training.betas=[0.9,0.95]"  # the default

# What a user may get wrong, and what the line must say. None of these may start a stage. (test_config has more of them.)
WRONG: dict[str, tuple[list[str], list[str]]] = {
    "an unknown algorithm": (["algorithm=dpoo"], ["unknown algorithm 'dpoo'", "did you mean 'dpo'", *options("algorithm")]),
    "an unknown task": (["task=mano"], ["unknown task 'mano'", "did you mean 'nano'", *options("task")]),
    "a typo in a key": (["algorithm.bta=1"], ["algorithm.bta", "did you mean 'algorithm.beta'"]),
    "a word where a number is due": (["algorithm.beta=big"], ["algorithm.beta", "big"]),
    "a list without its end": (["algorithm.beta=[1"], ["algorithm.beta=[1: "]),
    "a launcher that nobody has": (["-m", "hydra/launcher=slrm"], ["hydra/launcher/slrm"]),
    "an interpolation of nothing": (["algorithm.beta=${x}"], ["x"]),
    "a tracking that there is not": (["tracking=ofline"], ["unknown tracking 'ofline'", "did you mean 'offline'"]),
    "a budget without end": (["budget.flops=inf"], ["budget.flops must be positive and finite, not inf"]),
    "a budget that is no number": (["budget.flops=nan"], ["budget.flops must be positive and finite, not nan"]),
    "a seed that is no number": (["seed=x"], ["seed"]),
    "a budget of nothing": (["budget.flops=0"], ["budget.flops must be positive"]),
    "a batch that KTO can't use": (["algorithm=kto", "algorithm.batch_size=1"], ["batch_size must be 2 or more"]),
    "a store under a file": (["store=file/store"], ["cannot write to file/store", "store="]),
}


def without(libraries: set[str]) -> list[str]:
    """The command as one that fails where any of some libraries was loaded."""
    code = f"""
import sys
from isoalign.cli.main import main
try:
    main()
finally:
    if loaded := {libraries} & sys.modules.keys():
        sys.exit(f"loaded: {{loaded}}")
"""
    return [sys.executable, "-c", code]


def light(words: list[str], environment: dict[str, str]) -> Done:
    """What comes of a command that must load no heavy library."""
    return subprocess.run([*without(HEAVY), *words], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What came of every command above, two at a time."""
    home = tmp_path_factory.mktemp("said")
    (home / "file").touch()
    terminal = Terminal(home, home / "store", tiny_model, environment)
    commands = {name: [*terminal.run(), *words] for name, (words, _) in WRONG.items()}
    with ThreadPoolExecutor(2) as pool:
        found: dict[str, Any] = dict(zip(commands, pool.map(terminal, commands.values()), strict=True))
    return found | {"home": home}


@pytest.fixture(scope="module")
def helps(environment: dict[str, str]) -> dict[str, Any]:
    """Exit status of the help of each command, heavy libraries that it loads, and what it says; all in one process."""
    code = f"""
import contextlib, io, json, sys
from isoalign.cli.commands import invoke
found, loaded = {{}}, set()
for words in {HELP}:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = invoke([*words, "--help"])
    before, loaded = loaded, {HEAVY} & sys.modules.keys()
    found[" ".join(words)] = (status, sorted(loaded - before), said.getvalue())
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_each_help_fits_on_a_screen_and_loads_no_heavy_library(words: list[str], helps: dict[str, Any]) -> None:
    status, heavy, text = helps[" ".join(words)]
    assert (status, heavy) == (0, [])
    lines = text.splitlines()
    assert lines[0].startswith(" ".join(["Usage: isoalign", *words]))
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100


def test_the_overview_imports_no_command_and_no_library_but_click(environment: dict[str, str]) -> None:
    commands = {f"isoalign.cli.{entry.module}" for entry in COMMANDS.values()}
    heavy = commands | HEAVY | {"numpy", "omegaconf", "hydra"}
    code = f"""
import sys
from isoalign.cli.commands import invoke
invoke(["--help"])
sys.exit(" ".join({heavy} & sys.modules.keys()) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout and entry.help in done.stdout for name, entry in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_a_command_what_its_own_help_says(name: str) -> None:
    command = getattr(importlib.import_module(f"isoalign.cli.{COMMANDS[name].module}"), name)
    assert isinstance(command, click.Command)
    assert (command.name, str(command.help).splitlines()[0]) == (name, COMMANDS[name].help)


def test_boards_comparisons_and_publishing_load_no_torch(environment: dict[str, str], tmp_path: Path) -> None:
    cards = [next((ROOT / "results" / "published" / "nano").glob(f"{name}-s0-*.json")) for name in ("sft", "dpo")]
    done = light(["publish", *map(str, cards), "--results", str(tmp_path)], environment)
    assert done.returncode == 0, done.stderr
    for words in (["board", "nano"], ["compare", "sft", "dpo"]):
        done = light([*words, "--results", str(tmp_path / "published")], environment)
        assert done.returncode == 0, done.stderr
        assert "dpo" in done.stdout


def test_the_help_of_run_names_every_algorithm_task_and_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["run", "--help"]) == 0
    text = capsys.readouterr().out
    for group in ("algorithm", "task", "budget"):
        unnamed = {name for name in options(group) if name not in text}
        assert unnamed <= {name for name in plugins.rows() if name.startswith("trl_")}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("bord", "unknown command 'bord'; did you mean 'board'? known: run, status, "),
        ("--verbose", "no such option '--verbose'; see `isoalign --help`"),
        (
            "board --reslts x",
            "no such option '--reslts'; did you mean one of: '--across', '--results'? see `isoalign board --help`",
        ),
        ("board nano smol", "got unexpected extra argument (smol); see `isoalign board --help`"),
        ("board nano --along", "option '--along' requires an argument; see `isoalign board --help`"),
        ("board --across --along seed", "--across and --along cannot be combined; see `isoalign board --help`"),
        ("compare dpo", "missing argument 'B'; see `isoalign compare --help`"),
        ("verify", "missing argument 'CARD...'; see `isoalign verify --help`"),
        ("tune nano --trials many", "invalid value for '--trials': 'many' is not a valid integer; see `isoalign tune --help`"),
        ("plan nano --mfu nan", "invalid value for '--mfu': nan is not a finite number; see `isoalign plan --help`"),
        ("plan nano --price inf", "invalid value for '--price': inf is not a finite number; see `isoalign plan --help`"),
        ("score --task nano", "missing option '--samples'; see `isoalign score --help`"),
        ("rescore --all --metric kl", "give either --metric NAME or --all; see `isoalign rescore --help`"),
        ("data chek", "no such command 'chek'; did you mean 'check'? see `isoalign data --help`"),
        ("prompts nano seed=1", "seed=1: only settings of the task (task.KEY=VALUE) are accepted here"),
    ],
)
def test_what_is_typed_wrong_is_one_line_with_the_help_to_read(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"isoalign: {line}")
    assert said.err.count("\n") == 1


def test_settings_of_the_task_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("task.evaluation.draws=3 nano", "nano task.evaluation.draws=3"):
        if words.startswith("task"):
            words = f"score {words.split()[0]} --samples nowhere.jsonl --task nano task.prompts.test=16"
            assert invoke(words.split()) == 2
            assert "cannot read nowhere.jsonl" in capsys.readouterr().err
        else:
            assert invoke(["prompts", *words.split()]) == 0
            assert json.loads(capsys.readouterr().out.splitlines()[0])["draws"] == 3


def test_an_exception_that_nobody_foresaw_is_one_line_and_on_request_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("nothing")

    monkeypatch.setattr("isoalign.report.compare.sides", fail)
    assert invoke(["compare", "a", "b"]) == 2
    assert capsys.readouterr().err == (
        f"isoalign: KeyError: 'nothing' (at tests/{Path(__file__).name}:{fail.__code__.co_firstlineno + 1}; "
        "set ISOALIGN_DEBUG=1 for the traceback)\n"
    )
    monkeypatch.setenv("ISOALIGN_DEBUG", "1")
    with pytest.raises(KeyError):
        invoke(["compare", "a", "b"])


INTERRUPT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["isoalign", "run", "algorithm=dpo"]
from isoalign.cli.main import main
main()
"""


@pytest.mark.parametrize("name", ["click", "hydra", "numpy.dtypes", "torch.nn"])
def test_an_interrupt_while_modules_load_is_one_line(name: str, environment: dict[str, str]) -> None:
    """Most of them catch what is raised inside their imports, and fail later in ways of their own."""
    done = subprocess.run([sys.executable, "-c", INTERRUPT.format(name=name)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "isoalign: stopped; run the same command to resume\n"


def test_what_fails_because_of_an_interrupt_is_the_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("half of it is gone")

    monkeypatch.setattr("isoalign.report.compare.sides", interrupted)
    with pytest.raises(KeyboardInterrupt):
        invoke(["compare", "a", "b"])


def test_a_pipe_that_closes_is_no_error(environment: dict[str, str]) -> None:
    done = subprocess.run(f"{COMMAND} --help | true", shell=True, capture_output=True, text=True, env=environment)
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_with_status_two(said: dict[str, Done], name: str) -> None:
    line = complaint(said[name])
    assert all(word in line for word in WRONG[name][1]), line


@pytest.mark.slow
def test_none_of_it_left_anything_behind(said: dict[str, Any]) -> None:
    home = said["home"]
    assert finished(home / "store") == {}
    assert sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()) == ["file"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("board nano --results nowhere", "no cards in nowhere/nano"),
        ("assets minilmm", "did you mean 'minilm'"),
        ("publish {file}", "file is not a card"),
        ("score --samples {file} --task nano --device cuda:7", "device=cuda:7 is not there"),
        ("reward nano --device gpu", "device=gpu is not there"),
    ],
)
def test_the_other_commands_complain_in_the_same_way(
    words: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "file").touch()
    assert invoke(words.format(file=file).split()) == 2
    assert line in capsys.readouterr().err


# -- assets and data that are not what they should be --------------------------------------------------------------------


def with_changed_comments(terminal: Terminal, change: Callable[[Path], None]) -> Terminal:
    """The same terminal with a cache of its own: every asset a link, the comments a copy that ``change`` was let at."""
    home = terminal.home / "cache" / "assets"
    home.mkdir(parents=True)
    for folder in (Path(terminal.env["ISOALIGN_CACHE"]) / "assets").iterdir():
        if folder.name.startswith("comments-"):
            shutil.copytree(folder, home / folder.name)
            change(home / folder.name)
        elif not folder.name.startswith("."):
            (home / folder.name).symlink_to(folder)
    return replace(terminal, env=terminal.env | {"ISOALIGN_CACHE": str(home.parent)})


@pytest.mark.slow
def test_a_flipped_byte_in_an_asset_is_found_before_it_is_used(terminal: Terminal) -> None:
    def flip(folder: Path) -> None:
        with (folder / "clean_data.csv").open("r+b") as file:
            file.seek(1000)
            byte = file.read(1)
            file.seek(1000)
            file.write(bytes([byte[0] ^ 1]))

    broken = with_changed_comments(terminal, flip)
    for command in ([COMMAND, "assets", "comments"], broken.run()):
        line = complaint(broken(command))
        assert "clean_data.csv does not match its sha256" in line
        assert "delete the folder" in line
    assert finished(terminal.store) == {}


@pytest.mark.slow
def test_a_malformed_row_of_data_is_named_with_its_file(terminal: Terminal) -> None:
    def break_row(folder: Path) -> None:
        (folder / "clean_data.csv").write_text("is_offensive,text\n0,thank you\nmaybe,what is this\n1,you idiot\n")
        manifest = json.dumps({"clean_data.csv": file_digest(folder / "clean_data.csv")})
        (folder / "manifest.json").write_text(manifest)

    broken = with_changed_comments(terminal, break_row)
    line = complaint(broken(broken.run()))
    assert "clean_data.csv: row 3: expected is_offensive (0 or 1) and text, not 'maybe'" in line
    assert finished(terminal.store) == {}


def test_an_asset_that_cannot_be_fetched_is_one_line(terminal: Terminal, tmp_path: Path) -> None:
    offline = replace(terminal, env=terminal.env | {"ISOALIGN_CACHE": str(tmp_path / "empty")})
    done = offline([COMMAND, "assets", "comments"])
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert lines[-1].startswith(f"isoalign: {ASSETS['comments'].wheel} is not in the cache")
    assert not any((tmp_path / "empty" / "assets").iterdir())


# -- whole runs ----------------------------------------------------------------------------------------------------------


def touched(folder: Path) -> dict[Path, int]:
    """When each file and folder was last written."""
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.mark.slow
def test_a_run_prints_its_card_and_running_it_again_does_no_work_and_loads_little(furnished: Terminal) -> None:
    command = furnished.run("algorithm=dpo", "algorithm.batch_size=8", "budget.flops=2e8", "seed=3", BETAS)
    first = furnished(command)
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.splitlines()[-1])
    card = json.loads(path.read_text())
    assert path.parent == furnished.home / "results" / "nano"
    assert (card["algorithm"], card["seed"], card["task"]) == ("dpo", 3, "nano")
    assert card["budget"]["flops"] == 2e8
    assert card["spent"]["flops"] == sum(item["flops"] for item in card["spent"]["items"]) <= 2e8
    words = shlex.split(card["command"])
    assert words[:2] == ["isoalign", "run"]
    assert {"algorithm=dpo", BETAS} <= set(words)
    assert f"'{BETAS}'" in card["command"], "a shell would take the brackets for a pattern"
    assert {"toxicity_mean", "kl", "implicit_accuracy", "distinct_2", "perplexity"} <= set(card["metrics"])
    before, written, times = finished(furnished.store), path.read_bytes(), touched(furnished.store)
    again = furnished([*without(HEAVY - {"torch"} | {"matplotlib", "scipy.stats"}), *command[1:]])
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert "%|" not in again.stderr
    assert finished(furnished.store) == before
    assert touched(furnished.store) == times  # so a store that can only be read will do
    assert path.read_bytes() == written


@pytest.mark.slow
def test_a_budget_too_small_for_one_step_is_one_line_and_leaves_no_stage_of_it(furnished: Terminal) -> None:
    for name in ("dpo", "ppo"):
        line = complaint(furnished(furnished.run(f"algorithm={name}", "budget.flops=1000")))
        assert f"isoalign: {name} seed 0: the budget is too small for one step" in line
        assert "raise budget.flops" in line
    assert not stages(furnished.store, "train")
    finished(furnished.store)
    assert not list((furnished.home / "results" / "nano").glob("*.json"))  # no card


@pytest.mark.slow
def test_a_sweep_makes_what_its_runs_share_once_and_a_run_that_fails_stops_no_other(terminal: Terminal) -> None:
    sweep = ["-m", "algorithm=dpo,kto", "algorithm.batch_size=8", "budget.flops=2e8"]
    done = terminal(terminal.run(*sweep, "seed=0,1"))
    assert done.returncode == 0, done.stderr
    count = {
        kind: len(stages(terminal.store, kind)) for kind in ("sft", "annotators", "completions", "pairs", "train", "agreement")
    }
    # completions and pairs of three splits: train, validation, test
    assert count == {"sft": 1, "annotators": 1, "completions": 3, "pairs": 3, "train": 4, "agreement": 1}
    cards = sorted(card.name.rpartition("-")[0] for card in (terminal.home / "results" / "nano").glob("*.json"))
    assert cards == ["dpo-s0", "dpo-s1", "kto-s0", "kto-s1"]

    before = stages(terminal.store)
    more = terminal(terminal.run("-m", "algorithm=kto,dpo", "algorithm.batch_size=1", "budget.flops=2e8"))
    assert more.returncode == 1
    complaints = [line for line in more.stderr.splitlines() if line.startswith("isoalign: ")]
    assert complaints == [
        "isoalign: kto seed 0: algorithm: batch_size must be 2 or more: the reference point needs mismatched answers",
        "isoalign: 1 of the sweep's runs failed: kto seed 0",
    ]
    assert "Traceback" not in more.stderr
    new = [name.partition("-")[0] for name in set(stages(terminal.store)) - set(before)]
    assert set(new) == {"curve", "metrics", "samples", "scores", "train"}
    assert [new.count(kind) for kind in ("train", "metrics", "curve")] == [1, 1, 1]
    assert new.count("samples") == new.count("scores") > 1  # of the snapshots too
    assert len(list((terminal.home / "results" / "nano").glob("dpo-s0-*.json"))) == 2
