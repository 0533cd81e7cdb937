"""`isoalign new`: the files of an algorithm that works from the start, in a checkout or as a package of its own."""

from __future__ import annotations

import keyword
import re
import tomllib
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from isoalign.core import plugins
from isoalign.core.errors import UserError
from isoalign.core.files import save

SOURCE = '''"""{title}: say here in a line what it is."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from isoalign import Lab, Pairs, Step, register


@register
class {title}:
    """Authors, year, "Title", equation. This start is DPO (Rafailov et al. 2023, eq. 7): replace it by your method.

    ``beta``: KL coefficient. ``batch_size``: pairs per step.
    """

    kl_price: ClassVar[str] = "beta"  # the field that is the KL coefficient, if there is one
    closed_form: ClassVar[bool] = True  # whether the optimum is base x exp(reward / coefficient)

    beta: float = 0.1
    batch_size: int = 32
    lr: float = 1e-4

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One round: gather data, then one Step for each optimizer step."""
        yield Step(lab.pairs(self.batch_size), self.loss)

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """One value per row [B]."""
        margin = lab.log_ratio(pairs.chosen) - lab.log_ratio(pairs.rejected)
        lab.log(margin=margin.mean())
        return -logsigmoid(self.beta * margin)
'''
SETTINGS = "name: {name}\nbeta: 0.1\nbatch_size: 32\nlr: 0.0001\n"
SPACE = (
    "# @package hydra.sweeper.params\nalgorithm.lr: choice(3e-5, 1e-4, 3e-4, 1e-3)\nalgorithm.beta: choice(0.03, 0.1, 0.3)\n"
)
TEST = '''"""{title}: its loss against numbers worked by hand, and the suite that every algorithm passes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from isoalign.tools.conformance import examine
from {package}.{name} import {title}


def test_the_loss_of_a_pair_is_the_chance_that_its_order_is_wrong() -> None:
    lab: Any = SimpleNamespace(log_ratio=lambda answers: answers, log=lambda **_: None)
    pairs: Any = SimpleNamespace(chosen=torch.tensor([0.0, 20.0]), rejected=torch.tensor([0.0, 0.0]))
    # sigmoid(.1 x 0) = 1/2 and sigmoid(.1 x 20) = .8808: minus their logarithms
    torch.testing.assert_close({title}(beta=0.1).loss(lab, pairs), torch.tensor([0.6931, 0.1269]), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_it_conforms() -> None:
    assert [finding.line() for finding in examine("{name}", {title}()) if finding.passed is False] == []
'''
PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "isoalign-{dashed}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["isoalign"]

[project.entry-points."isoalign.algorithms"]
{name} = "{package}.{name}"

[project.entry-points."isoalign.conf"]
{package} = "{package}.conf"

[tool.setuptools]
packages.find = {{ include = ["{package}*"] }}
package-data = {{ "{package}.conf" = ["**/*.yaml"] }}

[tool.pytest.ini_options]
markers = ["slow: takes a minute or more"]
"""


def write_algorithm(name: str, package: Path | None) -> list[Path]:
    """Write the files; returns their paths. Without ``package`` they go into the checkout that this is run in.

    Raises UserError, with nothing written, for a name that can't be one or is taken, and where a file would be overwritten.
    """
    if keyword.iskeyword(name):
        raise UserError(f"{name!r} can't be the name of an algorithm: it is a Python keyword")
    check_name(name, "an algorithm", "my_method")
    files = _into_package(name, package) if package and (package / "pyproject.toml").exists() else {}
    if name in plugins.algorithms():
        raise UserError(f"algorithm {name} already exists; choose another name")
    files = files or (_in_package(name, package) if package else _in_checkout(name))
    if taken := [path for path in files if path.exists() and path.name != "pyproject.toml"]:
        raise UserError(f"{taken[0]} already exists; remove it, or choose another name")
    for path, text in files.items():
        save(path, text)
    return list(files)


def check_name(name: str, what: str, example: str) -> None:
    """Raise UserError for a name that files, yaml and command lines can't all have."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        wanted = f"use lower-case letters, digits and underscores, a letter first, as in {example}"
        raise UserError(f"{name!r} can't be the name of {what}: {wanted}")
    typed = OverridesParser.create().parse_override(f"name={name}").value()
    for reader, value in (("yaml", yaml.safe_load(name)), ("Hydra", typed)):  # true, null, nan, off ...
        if value != name:
            raise UserError(f"{name!r} can't be the name of {what}: {reader} reads it as {value!r}")


def task_folder(package: Path | None) -> Path:
    """Where the yaml of a task goes: conf/task of this checkout, or of a package. Raises UserError if there is none."""
    if package is None:
        if not Path("conf/task/nano.yaml").exists():
            raise UserError("this is not a checkout of isoalign; for a package: isoalign new task NAME --package FOLDER")
        return Path("conf/task")
    try:
        points = tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"]["isoalign.conf"]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        lack = 'has no entry point [project.entry-points."isoalign.conf"]; see docs/extending.md, "A package of your own"'
        raise UserError(f"{package / 'pyproject.toml'} {lack}") from error
    return package.joinpath(*next(iter(points.values())).split("."), "task")


def _in_checkout(name: str) -> dict[Path, str]:
    if not (Path("baselines/__init__.py").exists() and Path("conf/algorithm").is_dir()):
        raise UserError("this is not a checkout of isoalign; for a package: isoalign new algorithm NAME --package FOLDER")
    return _common(name, Path("baselines"), Path("conf"), Path("tests"), "isoalign.baselines")


def _in_package(name: str, folder: Path) -> dict[Path, str]:
    package, dashed = f"isoalign_{name}", name.replace("_", "-")
    home = folder / package
    files = {home / "__init__.py": "", home / "conf" / "__init__.py": ""}
    files |= _common(name, home, home / "conf", folder / "tests", package)
    return files | {folder / "pyproject.toml": PROJECT.format(name=name, package=package, dashed=dashed)}


def _into_package(name: str, folder: Path) -> dict[Path, str]:
    """Files and pyproject.toml of a package with one more algorithm."""
    project = folder / "pyproject.toml"
    text = project.read_text()
    table = '[project.entry-points."isoalign.algorithms"]\n'
    try:
        points = tomllib.loads(text)["project"]["entry-points"]
        package = next(iter(points["isoalign.algorithms"].values())).partition(".")[0]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, StopIteration):
        points, package = {}, ""
    home = folder / package
    if table not in text or not package or not home.is_dir():
        lack = f"algorithm under {table.strip()} in a package of that folder"
        raise UserError(f'{project} has no {lack}; see docs/extending.md, "A package of your own"')
    if name in points["isoalign.algorithms"]:
        raise UserError(f"{project} already has an algorithm {name}; choose another name")
    conf = folder.joinpath(*next(iter(points.get("isoalign.conf", {}).values()), "").split("."))
    files = _common(name, home, conf, folder / "tests", package)
    if conf == folder:  # it has none: the fields configure its algorithms
        files = {path: told for path, told in files.items() if path.suffix == ".py"}
    return files | {project: text.replace(table, f'{table}{name} = "{package}.{name}"\n', 1)}


def _common(name: str, home: Path, conf: Path, tests: Path, package: str) -> dict[Path, str]:
    title = "".join(word.capitalize() for word in name.split("_") if word)
    return {
        home / f"{name}.py": SOURCE.format(title=title),
        conf / "algorithm" / f"{name}.yaml": SETTINGS.format(name=name),
        conf / "sweep" / f"{name}.yaml": SPACE,
        tests / f"test_{name}.py": TEST.format(name=name, title=title, package=package),
    }
