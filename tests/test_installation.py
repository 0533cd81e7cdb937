"""One import name, wherever one stands: foreign packages called conf, bench or baselines are nobody's business."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOREIGN = ("conf", "bench", "baselines", "stats", "core", "config", "data")
COMMANDS = (
    ["--help"],
    ["run", "--cfg", "job", "algorithm=dpo"],
    ["run", "--cfg", "job", "-m", "algorithm=dpo,kto"],
    ["board", "--help"],
    ["tune", "--help"],
    ["verify", "nothing.json"],
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built without an index."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        ROOT,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("isoalign-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `isoalign` of an environment that has the wheel, beside the packages of this one."""
    home = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = next((home / "lib").glob("python*/site-packages"))
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(command, check=True, capture_output=True)
    where = subprocess.run(
        [python, "-c", "import isoalign; print(isoalign.__file__)"], capture_output=True, text=True, cwd=home
    )
    assert Path(where.stdout.strip()).is_relative_to(site), where
    return home / "bin" / "isoalign"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder full of packages that are called as folders of this project are, and break whoever imports them."""
    for name in FOREIGN:
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text(f"raise RuntimeError('the foreign {name} was imported')\n")
        (package / "config.yaml").write_text("foreign: true\n")
    return tmp_path


def test_a_wheel_has_one_top_level_package_and_everything_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"isoalign"}
    sources = [file.relative_to(ROOT / "bench") for file in (ROOT / "bench").rglob("*.py") if "__pycache__" not in file.parts]
    assert {file.as_posix() for file in sources} <= set(names)
    for folder, kind in (("baselines", "py"), ("conf", "yaml"), ("bench/isoalign/models/nano", "*")):
        package = folder.removeprefix("bench/") if folder.startswith("bench") else f"isoalign/{folder}"
        files = [file for file in (ROOT / folder).rglob(f"*.{kind}") if "__pycache__" not in file.parts]
        assert files
        assert {f"{package}/{file.relative_to(ROOT / folder).as_posix()}" for file in files} <= set(names)


def test_this_environment_has_one_top_level_package_of_ours() -> None:
    code = (
        "import importlib.util as u; print([n for n in ('bench', 'baselines', 'conf', 'isoalign') if u.find_spec(n)], "
        "[n for n in ('isoalign.baselines', 'isoalign.conf') if u.find_spec(n)])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "['isoalign'] ['isoalign.baselines', 'isoalign.conf']", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", ["editable", "wheel"])
@pytest.mark.parametrize("path", [False, True], ids=["in the working directory", "on the path"])
def test_foreign_packages_of_our_folders_names_break_no_command(
    how: str, path: bool, foreign: Path, request: pytest.FixtureRequest, environment: dict[str, str]
) -> None:
    here = Path(sysconfig.get_path("scripts")) / "isoalign"
    command = here if how == "editable" else request.getfixturevalue("installed")
    env = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(foreign)} if path else {}
    for words in COMMANDS:
        first = subprocess.run([here, *words], capture_output=True, text=True, cwd="/", env=environment)
        done = subprocess.run([command, *words], capture_output=True, text=True, cwd=os.path.sep if path else foreign, env=env)
        assert "the foreign" not in done.stderr, (words, done.stderr)
        assert (done.returncode, done.stdout, done.stderr) == (first.returncode, first.stdout, first.stderr), words


def test_python_dash_m_is_the_command(foreign: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "isoalign", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=foreign, env=environment)
    assert done.returncode == 0, done.stderr
    assert "usage: isoalign" in done.stdout.lower()
