"""Algorithms, metrics, judges and tasks of another package, found by entry points; and some that misbehave."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

from workbench import COMMAND, Terminal, complaint, page

HEAD = """
from collections.abc import Iterator
import torch
from torch import Tensor
from isoalign import Lab, Rollouts, Step, register
"""
GOOD = """
@register
class Good:
    batch_size: int = 4
    lr: float = 1e-3

    def iteration(self, lab: Lab) -> Iterator[Step]:
        yield Step(lab.pairs(self.batch_size).chosen, self.loss)

    def loss(self, lab: Lab, rows: Rollouts) -> Tensor:
        return -lab.policy(rows).logp.sum(1) / rows.completion_mask.sum(1)
"""


def variant(iteration: str = "", loss: str = "") -> str:
    """The good one, something done before its steps or in its loss."""
    text = GOOD.replace("        yield", f"{_inside(iteration)}        yield") if iteration else GOOD
    return HEAD + (text.replace("        return", f"{_inside(loss)}        return") if loss else text)


def _inside(lines: str) -> str:
    return "".join(f"        {line}\n" for line in dedent(lines).strip().splitlines())


SMUGGLE = """
if not hasattr(torch, "smuggled"):
    torch.smuggled = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8))
torch.smuggled(torch.zeros(1, 8))
"""
SWALLOW = """
try:
    from isoalign.config.task import PromptsConfig
    from isoalign.data import prompts
    prompts.load_split(PromptsConfig(), "test")
except Exception:
    pass
"""
OPEN = """
import glob, os
list(open(sorted(glob.glob(os.environ["STORE"] + "/samples-*/samples.jsonl"))[0]))
"""
LOOP = """
while True:
    try:
        lab.prompts(1)
    except Exception:
        pass
"""
CLING = """
while True:
    try:
        {}
    except BaseException:
        pass
"""
STOP = """
if lab.progress > 0.3:
    while True:
        lab.generate(lab.prompts(4))
"""
EDIT = """
with torch.no_grad():
    for weight in lab._session.policy.inner.parameters():
        weight.add_(0.01)
"""
FOREVER = HEAD + GOOD.replace("        yield", "        try:\n            yield").replace(
    "self.loss)\n", "self.loss)\n        finally:\n            while True:\n                pass\n", 1
)
ALGORITHMS = {
    "good": HEAD + GOOD,
    "nans": variant(loss="rows = rows\nreturn lab.policy(rows).logp.sum(1) * float('nan')"),
    "raises": variant("raise KeyError('no such thing')"),
    "sly": variant("getattr(lab, 'rew' + 'ard')(lab.pairs(2).chosen)"),
    "exits": variant("import sys\nsys.exit(0)"),
    "loops": variant(LOOP),
    "clings": variant(CLING.format("lab.generate(lab.prompts(4))")),
    "clutches": variant(CLING.format("lab.prompts(1)")),
    "sleeps": variant("import time\ntime.sleep(1e6)"),
    "idle": variant("return"),
    "clings_to_its_end": FOREVER,
    "makes": variant("lab.module('v', lambda width: __import__('time').sleep(1e6))"),
    "cancels": variant("import asyncio\nraise asyncio.CancelledError('enough')"),
    "ends": variant(
        "from isoalign.training.meter import BudgetSpent\nif lab.progress:\n    raise BudgetSpent('flops: enough')"
    ),
    "edits": variant(EDIT),
    "gathers": variant("(-lab.policy(lab.pairs(2).chosen).logp.sum(1)).sum().backward()"),
    "tuples": variant("rows = lab.pairs(2)\nyield Step((rows, rows), self.loss)"),
    "samples": variant("while True:\n    lab.generate(lab.prompts(8))"),
    "lists": variant("from isoalign.data import prompts\nprompts.load_toxic()"),
    "bytes": variant("import glob, os\nopen(glob.glob(os.environ['STORE'] + '/samples-*/*.jsonl')[0].encode(), 'rb')"),
    "shells": variant("import subprocess\nsubprocess.run(['cat', '/dev/null'])"),
    "moves": variant("import os\nos.chdir('/')"),
    "hooks": variant("torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: None)"),
    "doubles": variant("torch.set_default_dtype(torch.float64)"),
    "threads": variant("import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()"),
    "shouts": variant("raise ValueError('x' * 200000)"),
    "mumbles": variant("raise ValueError('caf\\udc80')"),
    "logs": variant("lab.log(loss=0.0)"),
    "free": variant(loss="return torch.zeros(len(rows), requires_grad=True)"),
    "stops": variant(STOP),
    "smuggles": variant(SMUGGLE),
    "whispers": variant("lab.log(kl=float('nan'))"),
    "freezes": variant("lab.module('fixed', lambda width: torch.nn.Identity())(torch.ones(1))"),
    "peeks": variant(SWALLOW),
    "opens": variant(OPEN),
    "tables": "WORDS = open(__file__.replace('tables.py', 'words.txt')).read()\n"
    + variant("from pathlib import Path\nPath(__file__).with_name('table.json').read_text()"),
}
SAID = {
    "nans": "nans seed 0: the loss or the gradient was not finite for 5 steps in a row",
    "raises": "KeyError: 'no such thing'",
    "sly": "sly got reward of the lab by code that keys do not follow",
    "exits": "its code called exit",
    "loops": "its code made no paid call to the lab for 2 seconds",
    "clings": "its code made no paid call to the lab for 2 seconds",
    "clutches": "its code made no paid call to the lab for 2 seconds",
    "sleeps": "its code made no paid call to the lab for 2 seconds",
    "idle": "an iteration spent none of the budget, so the run would never end",
    "free": "the loss of a step makes no paid call to the lab",
    "clings_to_its_end": "its code made no paid call to the lab for 2 seconds",
    "makes": "its code made no paid call to the lab for 2 seconds",
    "cancels": "CancelledError: enough",
    "ends": "it ended its run itself; only the meter ends a run",
    "edits": "it changed weights of the policy or the reference",
    "gathers": "its own code called backward()",
    "tuples": "iteration(lab) yielded a Step of a tuple",
    "samples": "raise budget.flops, or check that iteration() yields a step",
    "lists": "it tried to read the prompts",
    "bytes": "it tried to read",
    "shells": "it tried to read the output of another program",
    "moves": "it changed the working directory for the whole process",
    "hooks": "it changed the hooks of all modules for the whole process",
    "doubles": "doubles seed 0: ",
    "threads": "it left a thread running",
    "shouts": "xxx... (at elsewhere/shouts.py",
    "mumbles": "ValueError: caf?",
    "logs": "lab.log cannot take loss",
    "peeks": "it tried to read the prompts",
    "opens": "it tried to read",
}
METRIC = page("bench/isoalign/evaluation/metrics/shouting.py")


def package(folder: Path) -> Path:
    """A package as pip would have installed it."""
    home = folder / "site" / "elsewhere"
    (home / "conf" / "task").mkdir(parents=True)
    (home / "conf" / "algorithm").mkdir()
    for name in ("__init__.py", "conf/__init__.py"):
        (home / name).touch()
    for name, text in ALGORITHMS.items():
        (home / f"{name}.py").write_text(text)
    for data in ("words.txt", "table.json"):
        (home / data).write_text("{}")
    (home / "shouting.py").write_text(METRIC)
    (home / "oracle.py").write_text(page("my_package/oracle.py"))
    (home / "conf" / "task" / "theirs.yaml").write_text(page("conf/task/short.yaml").replace("name: short", "name: theirs"))
    points = {
        "algorithms": {name: f"elsewhere.{name}" for name in ALGORITHMS}, "metrics": {"shouting": "elsewhere.shouting"},
        "judges": {"oracle": "elsewhere.oracle"}, "conf": {"theirs": "elsewhere.conf"},
    }  # fmt: skip
    info = folder / "site" / "elsewhere-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(
        "\n".join(f"[isoalign.{kind}]\n" + "\n".join(f"{n} = {v}" for n, v in own.items()) for kind, own in points.items())
    )
    return folder / "site"


@pytest.fixture
def elsewhere(furnished: Terminal) -> Terminal:
    """A terminal in whose Python the package is installed."""
    furnished.env.update(PYTHONPATH=str(package(furnished.home)), STORE=str(furnished.store))
    return furnished


@pytest.mark.slow
def test_the_scorer_and_the_task_of_the_page_are_found_together(terminal: Terminal) -> None:
    home = terminal.home / "site" / "my_package"
    (home / "conf" / "task").mkdir(parents=True)
    for name in ("__init__.py", "conf/__init__.py"):
        (home / name).touch()
    (home / "exact.py").write_text(page("my_package/exact.py"))
    (home / "conf" / "task" / "digits.yaml").write_text(page("my_package/conf/task/digits.yaml"))
    (info := home.parent / "my_package-0.1.dist-info").mkdir()
    project = tomllib.loads(page("pyproject.toml"))["project"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(
        "\n".join(f"[{kind}]\n" + "\n".join(f"{n} = {v}" for n, v in own.items())
                  for kind, own in project["entry-points"].items())
    )  # fmt: skip
    terminal.env.update(PYTHONPATH=str(home.parent))
    done = terminal([COMMAND, "task", "show", "digits", f"task.model.name={terminal.model}"])
    assert done.returncode == 0, done.stderr
    assert "reward: exact itself, a known reward; scored by exact and rule:words_at_least:3" in done.stdout
    look = "from isoalign.models.answer_scorers import check_scorers; from isoalign.runs.overrides import task_named; "
    look += "t = task_named('digits'); e = t.evaluation; check_scorers(e.scorer, e.second_scorer, t.objective, 'cpu', ['q'])"
    tried = terminal([sys.executable, "-c", look])
    assert tried.returncode == 0, tried.stderr


QUICK = ["budget.flops=2e9", "budget.steps=8", "task.training.patience=5", "task.training.idle_seconds=2"]


@pytest.mark.slow
def test_plugins_of_another_package_are_found_configured_and_used(elsewhere: Terminal) -> None:
    shown = elsewhere([COMMAND, "run", "--help"]).stdout
    assert "good" in shown
    assert "theirs" in shown
    words = ["task=theirs", "algorithm=good", "algorithm.batch_size=5", "budget.steps=2"]
    done = elsewhere(elsewhere.run(*words))
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert (card["task"], card["algorithm"]) == ("theirs", "good")
    assert card["config"]["algorithm"] == {"batch_size": 5, "lr": 1e-3}
    assert card["metrics"]["capitals"]["value"] is not None
    assert card["versions"]["metric shouting"] == "1"
    assert card["versions"]["elsewhere"] == "0.1"
    assert re.fullmatch(r"[0-9a-f]{8}", card["versions"]["elsewhere code"])
    assert card["notes"]["packages"] == {"algorithm": "elsewhere 0.1", "task": "elsewhere 0.1"}
    board = elsewhere([COMMAND, "board", "theirs", "--results", str(elsewhere.home / "results")])
    assert board.returncode == 0, board.stderr
    table = Path(board.stdout.splitlines()[-1]).read_text().split("### Style\n\n")[1]
    assert table.splitlines()[0].split() == ["|", "Method", "|", "Capitals", "↓", "|"]
    assert "batch_siz" in complaint(elsewhere(elsewhere.run("algorithm=good", "algorithm.batch_siz=5")))

    judged = elsewhere(elsewhere.run("algorithm=rlaif", "task.judge.kind=oracle", "algorithm.rollouts=8", "budget.steps=1"))
    assert judged.returncode == 0, judged.stderr
    card = json.loads(Path(judged.stdout.splitlines()[-1]).read_text())
    assert card["notes"]["judge"]["name"] == "oracle"
    assert card["notes"]["packages"] == {"judge": "elsewhere 0.1"}
    oracle = elsewhere.home / "site" / "elsewhere" / "oracle.py"
    oracle.write_text(oracle.read_text().replace("<", ">"))
    again = elsewhere(elsewhere.run("algorithm=rlaif", "task.judge.kind=oracle", "algorithm.rollouts=8", "budget.steps=1"))
    assert again.stdout.splitlines()[-1] != judged.stdout.splitlines()[-1], (
        "another judge's verdicts were taken for this one's"
    )

    (elsewhere.home / "site" / "elsewhere" / "shouting.py").write_text(METRIC.replace("stats.mean(grid)", "1 / 0"))
    card_file = Path(judged.stdout.splitlines()[-1])
    words = ["rescore", "--metric", "shouting", "--store", str(elsewhere.store), str(card_file)]
    assert "metric shouting: ZeroDivisionError: division by zero (at elsewhere/shouting.py:" in complaint(
        elsewhere([COMMAND, *words])
    )


@pytest.mark.slow
def test_a_sweep_continues_past_misbehaving_algorithms_and_the_board_stays_intact(elsewhere: Terminal) -> None:
    done = elsewhere(elsewhere.run("-m", f"algorithm={','.join(ALGORITHMS)}", *QUICK))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("isoalign: ")]
    for name, words in SAID.items():
        assert any(line.startswith(f"isoalign: {name} seed 0: ") and words in line for line in told), (name, told)
    assert f"{len(SAID)} of the sweep's runs failed" in told[-1]
    results = elsewhere.home / "results" / "nano"
    cards = {card["algorithm"]: card for card in (json.loads(file.read_text()) for file in results.glob("*.json"))}
    assert set(cards) == set(ALGORITHMS) - set(SAID)
    assert not any(flag["kind"] == "gate" and flag["text"].startswith("it ran") for flag in cards["good"]["flags"])
    smuggled = {"kind": "gate", "text": "it ran a model that the meter does not count: Sequential of 280 parameters"}
    assert smuggled in cards["smuggles"]["flags"]
    read = {name for name, card in cards.items() for flag in card["flags"] if flag["text"].startswith("its code read ")}
    assert read == {"tables"}
    assert any(flag["text"].startswith("its code read table.json, words.txt, ") for flag in cards["tables"]["flags"])
    board = elsewhere([COMMAND, "board", "nano", "--results", str(elsewhere.home / "results")])
    assert board.returncode == 0, board.stderr
    assert "failed: raises seed 0: KeyError: 'no such thing'" in board.stdout
    assert "good" in board.stdout


UNFIT = {  # what is wrong before there is a run
    "unset": (
        HEAD + GOOD.replace("batch_size: int = 4", "batch_size: int"),
        "missing 1 required positional argument: 'batch_size'",
    ),
    "invalid": (
        HEAD + GOOD.replace("lr: float = 1e-3", "lr: float = float('nan')"),
        "algorithm.lr must be a finite number, not nan",
    ),
    "negative": (HEAD + GOOD.replace("lr: float = 1e-3", "lr: float = -1.0"), "algorithm.lr must be 0 or more, not -1.0"),
    "odd": (HEAD + GOOD.replace("lr: float", "how: object = print\n    lr: float"), "algorithm.how is a builtin_function"),
    "refuses": (HEAD + GOOD + "\n    def __post_init__(self):\n        raise ValueError('never')", "ValueError: never"),
    "leaves": ("import sys\nsys.exit(0)", "its code called exit"),
    "cancelled": ("raise GeneratorExit", "GeneratorExit"),
    "reads": ("from isoalign.data import prompts\nprompts.load_toxic()" + HEAD + GOOD, "it tried to read the prompts"),
    "computes": (
        "import torch\ntorch.nn.Linear(2, 2)(torch.ones(1, 2))" + HEAD + GOOD,
        "it runs Linear outside a training run",
    ),
}


@pytest.fixture
def unfit(elsewhere: Terminal) -> Terminal:
    """A terminal where all that is installed are algorithms that can't be had."""
    home = elsewhere.home / "site"
    for name, (text, _) in UNFIT.items():
        (home / "elsewhere" / f"{name}.py").write_text(text)
    points = "[isoalign.algorithms]\n" + "\n".join(f"{name} = elsewhere.{name}" for name in UNFIT)
    (home / "elsewhere-0.1.dist-info" / "entry_points.txt").write_text(points)
    return elsewhere


@pytest.mark.slow
def test_an_algorithm_that_cannot_be_created_is_one_line_in_run_and_check_and_affects_no_other(unfit: Terminal) -> None:
    commands = [(name, [COMMAND, "run", f"algorithm={name}"]) for name in UNFIT]
    for name, command in [*commands, ("refuses", [COMMAND, "check", "refuses"])]:
        said = complaint(unfit(command))
        assert UNFIT[name][1] in said
        assert f"algorithm {name}: " in said or "algorithm." in said
    done = unfit([COMMAND, "run", "--cfg", "job", "algorithm=dpo"])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_run_that_comes_through_after_all_is_no_longer_noted_as_failed(elsewhere: Terminal) -> None:
    command = elsewhere.run("algorithm=raises", *QUICK)
    assert "no such thing" in complaint(elsewhere(command))
    (note,) = (elsewhere.home / "results" / "nano" / "failed").glob("raises-s0-*.json")
    assert json.loads(note.read_text())["reason"].startswith("KeyError")
    (elsewhere.home / "site" / "elsewhere" / "raises.py").write_text(ALGORITHMS["good"])
    assert elsewhere(command).returncode == 0
    assert not note.exists()


@pytest.mark.slow
def test_what_stopped_learning_early_is_flagged(elsewhere: Terminal) -> None:
    done = elsewhere(elsewhere.run("algorithm=stops", "budget.flops=2e9"))
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert any("of the FLOPs that it spent: it stopped learning there" in flag["text"] for flag in card["flags"])


@pytest.mark.parametrize(
    ("points", "algorithm", "words"),
    [
        (
            "[isoalign.algorithms]\ndpo = elsewhere.good",
            "dpo",
            "elsewhere.good provides an algorithm 'dpo', which is the name of a baseline",
        ),
        ("[isoalign.algorithms]\nlost = elsewhere.lost", "lost", "elsewhere.lost can't be imported: ModuleNotFoundError"),
        ("[isoalign.algorithms]\noracle = elsewhere.oracle", "oracle", "oracle.py registers no algorithm"),
        ("[isoalign.metrics]\nbare = elsewhere.good", "dpo", "good.py does not define measure(scored)"),
        ("[isoalign.metrics]\nlost = elsewhere.lost", "dpo", "elsewhere.lost can't be imported: ModuleNotFoundError"),
        ("[isoalign.metrics]\ngone = nowhere.gone", "dpo", "nowhere.gone can't be imported: ModuleNotFoundError"),
        ("[isoalign.metrics]\ntext = elsewhere.text", "dpo", "text.py can't be read as Python: invalid syntax"),
    ],
)
def test_an_entry_point_that_is_wrong_is_one_line_before_any_training(
    elsewhere: Terminal, points: str, algorithm: str, words: str
) -> None:
    (elsewhere.home / "site" / "elsewhere" / "text.py").write_text("no Python at all")
    (elsewhere.home / "site" / "elsewhere-0.1.dist-info" / "entry_points.txt").write_text(points)
    done = elsewhere(elsewhere.run(f"algorithm={algorithm}", "budget.steps=2"))
    assert words in complaint(done)
    assert "training" not in done.stderr


@pytest.mark.slow
def test_a_broken_algorithm_harms_no_other(elsewhere: Terminal) -> None:
    brought = "lost = elsewhere.lost\nkto = elsewhere.good\ngood = elsewhere.good"
    points = f"[isoalign.algorithms]\n{brought}\n[isoalign.conf]\nno = elsewhere.no\nfile = elsewhere.good"
    (elsewhere.home / "site" / "elsewhere-0.1.dist-info" / "entry_points.txt").write_text(points)
    done = elsewhere(elsewhere.run("algorithm=good", "budget.steps=2"))
    assert done.returncode == 0
    assert "elsewhere.no can't be imported: ModuleNotFoundError" in done.stderr
    assert "elsewhere.good is a module; it must be a package with yaml files" in done.stderr
    assert "continuing without its configuration" in done.stderr


def test_a_yaml_that_is_none_is_one_line_with_file_and_line(elsewhere: Terminal) -> None:
    (elsewhere.home / "site" / "elsewhere" / "conf" / "algorithm" / "good.yaml").write_text("name: good\nlr: [1\n")
    assert "good.yaml, line 3: not valid yaml: expected ',' or ']'" in complaint(elsewhere(elsewhere.run("algorithm=good")))


def test_a_yaml_with_another_name_is_reported_with_its_file(elsewhere: Terminal) -> None:
    (elsewhere.home / "site" / "elsewhere" / "conf" / "algorithm" / "good.yaml").write_text("name: god\n")
    said = complaint(elsewhere(elsewhere.run("algorithm=good")))
    assert "algorithm/good.yaml has name: god; it must be name: good, as the file" in said
