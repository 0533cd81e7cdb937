"""Keys digest what code means: what changes no result changes no key, and what may change one does."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from isoalign.core.errors import UserError
from isoalign.core.places import BASELINES
from isoalign.core.records import Budget
from isoalign.core.source import meaning
from isoalign.core.store import Store
from isoalign.runs.needs import check_reads
from isoalign.runs.overrides import task_named
from isoalign.runs.pipeline import Run
from isoalign.stages.shared import SharedStages
from isoalign.training import registry
from isoalign.training.needs import needs_of
from workbench import Bench

ORIGINAL = '''"""An algorithm."""
import math
from collections.abc import Iterator

import torch
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Step, register
from isoalign.baselines.dpo import DPO

SCALE = 2


@register
class Mine(DPO):
    """A class."""

    beta: float = 0.1

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """A round."""
        yield Step(lab.pairs(self.batch_size), self.loss)

    def loss(self, lab: Lab, pairs: Pairs) -> torch.Tensor:
        margin = lab.log_ratio(pairs.chosen) - lab.log_ratio(pairs.rejected)
        return -logsigmoid(self.beta * margin) * math.log(SCALE) + torch.zeros(1)
'''

SAME = {
    "a comment": ("SCALE = 2", "SCALE = 2  # why"),
    "a docstring changed": ('"""A round."""', '"""One round of it,\n        over two lines."""'),
    "a docstring gone": ('        """A round."""\n', ""),
    "a docstring for the class gone": ('    """A class."""\n\n', ""),
    "text below an attribute": ("beta: float = 0.1", 'beta: float = 0.1\n    """KL coefficient."""'),
    "blank lines": ("SCALE = 2", "\n\n\nSCALE   =   2"),
    "parentheses and line breaks": ("-logsigmoid(self.beta * margin)", "(-logsigmoid(\n  (self.beta * margin),\n ))"),
    "a number written otherwise": ("SCALE = 2", "SCALE = 0b10"),
    "from a module": ("import math\n", "from math import log\n"),
    "under another name": ("import math\n", "import math as m\n"),
    "the order of imports": ("import torch\nfrom torch.nn.functional import logsigmoid\n",
                             "from torch.nn.functional import logsigmoid\nimport torch\n"),
    "an import nobody uses": ("import math\n", "import math\nimport json\n"),
    "an import in the function": ("        margin =", "        import math\n        margin ="),
    "annotations of a function": ("def loss(self, lab: Lab, pairs: Pairs) -> torch.Tensor:", "def loss(self, lab, pairs):"),
    "an annotated local": ("        margin =", "        margin: torch.Tensor ="),
    "an import for types alone": (
        "import math\n", "import math\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import json\n"),
    "pass": ("        margin =", "        pass\n        margin ="),
}  # fmt: skip
USES = {"from a module": ("math.log(", "log("), "under another name": ("math.log(", "m.log(")}

OTHER = {
    "a constant": ("SCALE = 2", "SCALE = 3"),
    "a whole number for a float": ("beta: float = 0.1", "beta: float = 1"),
    "a float for a whole number": ("SCALE = 2", "SCALE = 2.0"),
    "truth for a number": ("SCALE = 2", "SCALE = True"),
    "an operator": ("self.beta * margin", "self.beta + margin"),
    "a sign": ("return -logsigmoid", "return logsigmoid"),
    "another function of the module": ("math.log(", "math.log2("),
    "another function by the same name": (
        "from torch.nn.functional import logsigmoid", "from torch.nn.functional import softplus as logsigmoid"),
    "the same name from another package": ("from torch.nn.functional import logsigmoid", "from elsewhere import logsigmoid"),
    "sides exchanged": ("lab.log_ratio(pairs.chosen) - lab.log_ratio(pairs.rejected)",
                        "lab.log_ratio(pairs.rejected) - lab.log_ratio(pairs.chosen)"),
    "another parent": ("from isoalign.baselines.dpo import DPO", "from isoalign.baselines.ipo import IPO as DPO"),
    "a decorator gone": ("@register\n", ""),
    "a field's type": ("beta: float = 0.1", "beta: int = 0.1"),
    "a default": ("def loss(self, lab: Lab, pairs: Pairs)", "def loss(self, lab: Lab, pairs: Pairs = None)"),
    "a name that hides an import": ("lab: Lab, pairs: Pairs)", "lab: Lab, pairs: Pairs, math=0)"),
    "an import hidden by a variable": ("        margin =", "        math = self\n        margin ="),
    "a module's name bound anew": ("SCALE = 2", "SCALE = 2\nmath = None"),
    "a line gone": (" + torch.zeros(1)", ""),
    "a condition": ("        return -", "        if lab.progress:\n            return -"),
    "indentation": ("        margin = lab", "        if lab:\n            pass\n        margin = lab"),
}  # fmt: skip


def edited(edit: tuple[str, str], text: str = ORIGINAL) -> str:
    before, after = edit
    assert before in text
    return text.replace(before, after, 1)


@pytest.mark.parametrize("name", SAME)
def test_what_changes_no_result_changes_no_key(name: str) -> None:
    text = edited(SAME[name])
    text = edited(USES[name], text) if name in USES else text
    assert meaning(text, "mine") == meaning(ORIGINAL, "mine")


@pytest.mark.parametrize("name", OTHER)
def test_what_may_change_a_result_changes_the_key(name: str) -> None:
    assert meaning(edited(OTHER[name]), "mine") != meaning(ORIGINAL, "mine")


def test_all_edits_that_may_change_a_result_differ_from_one_another() -> None:
    found = [meaning(edited(edit), "mine") for edit in OTHER.values()]
    assert len(set(found)) == len(found)


def test_a_relative_import_is_the_absolute_one() -> None:
    assert meaning("from .dpo import DPO\nx = DPO()", "pack.mine") == meaning(
        "from pack.dpo import DPO\nx = DPO()", "pack.mine"
    )
    assert meaning("from .dpo import DPO\nx = DPO()", "pack.mine") != meaning("from .ipo import DPO\nx = DPO()", "pack.mine")


def test_a_name_that_one_function_binds_is_an_import_in_another() -> None:
    local = "import math\ndef f(math):\n    return math.log\ndef g():\n    return math.log"
    spelt = "from math import log\nimport math\ndef f(math):\n    return math.log\ndef g():\n    return log"
    other = "import math\ndef f(m):\n    return math.log\ndef g():\n    return math.log"
    assert meaning(local, "mine") == meaning(spelt, "mine")
    assert meaning(local, "mine") != meaning(other, "mine")


def provenance(node: ast.AST) -> bool:
    """Whether it tells of a paper, which changes no result."""
    return isinstance(node, ast.AnnAssign) and bool(
        {"Paper", "Rows", "Scalars"} & set(re.findall(r"\w+", ast.unparse(node.annotation)))
    )


def test_where_a_method_is_from_is_no_part_of_its_key_and_its_settings_are() -> None:
    text = "from isoalign import Paper\nclass A:\n    paper: ClassVar[Paper] = Paper({})\n    beta: float = {}\n"
    assert meaning(text.format(1, 2), "mine") == meaning(text.format("'judge'", 2), "mine")
    assert meaning(text.format(1, 2), "mine") != meaning(text.format(1, 3), "mine")
    assert not registry.names_constant(registry.algorithm("dpo"), "pairs")


@pytest.mark.parametrize("where", ["", "from pack.mine import Rows\n", "from .isoalign import Rows\n"])
def test_a_constant_of_a_class_that_only_has_the_name_of_provenance_is_part_of_the_key(where: str) -> None:
    text = where + "SIZE: Rows = Rows({})\ndef f(lab):\n    return lab.pairs(SIZE.n)\n"
    assert meaning(text.format(64), "pack.mine") != meaning(text.format(128), "pack.mine")
    told = "from isoalign import Rows\n" + text.removeprefix(where)
    assert meaning(told.format(64), "pack.mine") == meaning(told.format(128), "pack.mine")


@pytest.mark.parametrize("file", sorted(BASELINES.rglob("*.py")), ids=lambda file: file.stem)
def test_every_algorithm_formatted_otherwise_and_without_its_docstrings_keeps_its_key(file: Path) -> None:
    """Python's own unparser is another formatter; every constant and operator of the files counts."""
    text, module = file.read_text(), ".".join(["isoalign.baselines", *file.relative_to(BASELINES).with_suffix("").parts])
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    assert meaning(ast.unparse(tree), module) == meaning(text, module)
    known = {meaning(text, module)}
    whole = ast.parse(text)
    told = {id(n) for each in ast.walk(whole) if provenance(each) for n in ast.walk(each)}
    for place in [n for n in ast.walk(whole) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]:
        if id(place) in told:
            continue
        changed = ast.parse(text)
        for node in ast.walk(changed):
            if isinstance(node, ast.Constant) and (node.lineno, node.col_offset) == (place.lineno, place.col_offset):
                node.value = place.value + 1
        found = meaning(ast.unparse(changed), module)
        assert found not in known, f"{file.name}:{place.lineno}: {place.value}"
        known.add(found)


def test_a_key_covers_what_an_algorithm_builds_on_and_not_what_it_does_not() -> None:
    ppo, rlaif, dpo = (registry.source_digest(registry.algorithm(name)) for name in ("ppo", "rlaif", "dpo"))
    assert len({ppo, rlaif, dpo}) == 3
    assert registry.source_digest(registry.algorithm("ppo")) == ppo


def test_what_runs_and_either_of_two_imports_of_a_name_are_part_of_a_meaning() -> None:
    plain = meaning("BETA = 1\n", "m")
    assert meaning("if TYPE_CHECKING:\n    BETA = 2\nBETA = 1\n", "m") == plain
    assert meaning("if typing.TYPE_CHECKING:\n    BETA = 2\nBETA = 1\n", "m") == plain
    assert meaning("if not TYPE_CHECKING:\n    BETA = 2\nBETA = 1\n", "m") != plain
    either = "try:\n    from {} import f\nexcept ImportError:\n    from slow import f\nx = f(1)\n"
    found = [meaning(either.format(name), "m") for name in ("fast", "other", "slow")]
    assert len(set(found)) == 3


def test_what_a_package_itself_holds_and_what_lies_beside_it_is_in_the_key_of_its_modules(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from .inner import SCALE\n\nBETA = 1\n")
    (package / "inner" / "__init__.py").write_text("SCALE = 1\n")
    (package / "mine.py").write_text("import torch\nfrom beside import GAMMA\n\nfrom . import BETA\n\nx = BETA * GAMMA\n")
    (tmp_path / "beside.py").write_text("GAMMA = 1\n")
    code = "from isoalign.core import source; print(source.source_digest(['pack.mine']))"
    found = []
    edits = [
        ("__init__.py", ""),
        ("__init__.py", "BETA = 2\n"),
        ("inner/__init__.py", "SCALE = 2\n"),
        ("../beside.py", "GAMMA = 2\n"),
    ]
    for file, text in edits:
        with (package / file).open("a") as stream:
            stream.write(text)
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)})
        found.append(done.stdout)
    assert len(set(found)) == 4


def test_a_script_that_is_run_has_a_source_and_what_lies_beside_it_too(tmp_path: Path) -> None:
    script = "import beside\nfrom isoalign.core import source\n\nprint(source.source_digest(['__main__']))\n"
    found = []
    for text, beside in ((script, "A = 1\n"), (f"{script}B = 1\n", "A = 1\n"), (script, "A = 2\n")):
        (tmp_path / "script.py").write_text(text)
        (tmp_path / "beside.py").write_text(beside)
        done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, env={})
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert len(set(found)) == 3


def test_an_empty_package_and_one_that_cannot_be_imported_are_no_fault_of_a_plug_in(tmp_path: Path) -> None:
    for package in ("plug", "helpers"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "helpers" / "util.py").write_text("FACTOR = 1\n")
    (tmp_path / "absent.py").write_text("import nothing_of_this_name\n")
    imports = [
        "from helpers import util",
        "from plug import own",
        "try:\n    import absent\nexcept ImportError:\n    absent = None",
    ]
    (tmp_path / "plug" / "mine.py").write_text("\n".join(imports))
    (tmp_path / "plug" / "own.py").write_text("SCALE = 1\n")
    code = "from isoalign.core import source; print(source.source_digest(['plug.mine']))"
    found = []
    for text in ("FACTOR = 1\n", "FACTOR = 2\n"):
        (tmp_path / "helpers" / "util.py").write_text(text)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert len(set(found)) == 2


UNDECLARED = """
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from isoalign import Lab, Step


@dataclass(frozen=True)
class Mine:
    needs: ClassVar[dict[str, Any]] = {}
    lr: float = 0.1

    def iteration(self, lab: Lab) -> Iterator[Step]:
        lab.CALL
        yield Step(lab.pairs(4).chosen, self.loss)

    def loss(self, lab: Lab, rows: Any) -> Any:
        return -lab.policy(rows).logp.sum(1)
"""


@pytest.mark.parametrize(
    ("call", "changes"),
    [
        ("teacher(1)", ["task.teacher=smollm2"]),
        ('generate(1, by="teacher")', ["task.teacher=smollm2"]),
        ('critic(1, start="reward")', ["task.reward.lr=0.7"]),
        ("reward(1)", ["task.reward.lr=0.7"]),
    ],
)
def test_what_the_lab_gives_is_in_the_key_whatever_a_method_declares(
    call: str, changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"mine_{abs(hash(call))}"
    (tmp_path / f"{name}.py").write_text(UNDECLARED.replace("CALL", call))
    monkeypatch.syspath_prepend(tmp_path)
    algorithm = importlib.import_module(name).Mine()
    keys = [
        Run("mine", algorithm, Budget(1e9), 0, SharedStages(task_named("nano", words), Store(tmp_path / "store"))).train.key
        for words in (["task.teacher=nano"], ["task.teacher=nano", *changes])
    ]
    assert keys[0] != keys[1]


def test_what_a_method_gets_by_code_that_its_key_does_not_follow_is_refused(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sly.py").write_text(UNDECLARED.replace("lab.CALL", "getattr(lab, 'rew' + 'ard')(lab.pairs(4).chosen)"))
    monkeypatch.syspath_prepend(tmp_path)
    algorithm = importlib.import_module("sly").Mine()
    trainer = tiny_bench.trainer(algorithm, Budget(1e15, steps=1), tmp_path)
    trainer.run("mine")

    def uses(service: str) -> bool:
        return registry.uses_attribute(type(algorithm), service)

    with pytest.raises(UserError, match="mine got reward of the lab by code that keys do not follow"):
        check_reads("mine", trainer.session, uses, uses("reward"), taught=False)
    check_reads("mine", trainer.session, uses, rewarded=True, taught=False)


def test_a_teacher_that_a_method_samples_by_and_its_key_does_not_follow_is_refused(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slyer.py").write_text(UNDECLARED.replace("CALL", "generate(lab.prompts(2), by='teach' + 'er')"))
    monkeypatch.syspath_prepend(tmp_path)
    algorithm = importlib.import_module("slyer").Mine()
    trainer = tiny_bench.trainer(algorithm, Budget(1e15, steps=1), tmp_path)
    trainer.run("mine")
    with pytest.raises(UserError, match="mine got teacher of the lab by code that keys do not follow"):
        check_reads("mine", trainer.session, lambda service: False, rewarded=False, taught=False)
    check_reads("mine", trainer.session, lambda service: False, rewarded=False, taught=True)


@pytest.mark.parametrize("declared", ["", "    needs: ClassVar[dict[str, Any]] = {}\n"])
def test_a_setting_that_chooses_the_teacher_asks_for_it_and_puts_it_in_the_key(
    declared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"chooser_{len(declared)}"
    text = UNDECLARED.replace("    needs: ClassVar[dict[str, Any]] = {}\n", declared + '    by: str = "reference"\n')
    (tmp_path / f"{name}.py").write_text(text.replace("CALL", "generate(1, by=self.by)"))
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module(name).Mine

    def key(by: str, teacher: str) -> str:
        shared = SharedStages(task_named("nano", [f"task.teacher={teacher}"]), Store(tmp_path / "store"))
        return Run("mine", made(by=by), Budget(1e9), 0, shared).train.key

    assert key("teacher", "nano") != key("teacher", "smollm2")
    assert key("reference", "nano") == key("reference", "smollm2")
    assert "teacher" in needs_of(made(by="teacher"))
    assert "teacher" not in needs_of(made())


PLUGIN = "from pack.helper import twice\n\ndef identity(config):\n    return {'rule': twice(1)}\n"
HELPER = '"""Help."""\n\ndef twice(x):\n    return 2 * x\n'


@pytest.mark.parametrize(
    ("file", "edit", "same"),
    [
        ("helper.py", ('"""Help."""', '"""Other help."""'), True),
        ("helper.py", ("2 * x", "( 2  *  x )  # two"), True),
        ("judge.py", ("from pack.helper import twice", "from .helper import twice"), True),
        ("judge.py", ("from pack.helper import twice", "import pack.helper"), False),  # and then twice is no name
        ("helper.py", ("2 * x", "3 * x"), False),
        ("helper.py", ("2 * x", "x * 2"), False),
        ("judge.py", ("twice(1)", "twice(2)"), False),
        ("judge.py", ("'rule'", "'role'"), False),
    ],
)
def test_a_judge_of_a_package_and_what_it_imports_there_are_in_its_key(
    tmp_path: Path, file: str, edit: tuple[str, str], same: bool
) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    for name, text in {"__init__.py": "", "judge.py": PLUGIN, "helper.py": HELPER}.items():
        (package / name).write_text(text)

    def key() -> str:
        code = "from isoalign.core import source; print(source.source_digest(['pack.judge']))"
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)}
        ).stdout

    before = key()
    target = package / file
    target.write_text(edited(edit, target.read_text()))
    if file == "judge.py" and "import pack.helper" in target.read_text():
        target.write_text(target.read_text().replace("twice(1)", "pack.helper.triple(1)"))
    assert (key() == before) is same
