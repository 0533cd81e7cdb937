"""A folder of wheels and assets that lets isoalign run on a machine with torch and no package index, and its use there.

    python scripts/gpu/wheels.py FOLDER [--python 3.12]    # where an index can be reached and isoalign is installed

It holds every package that isoalign needs, at the versions that are installed here, but torch and what torch alone needs; and
in ``FOLDER/cache`` the embedded assets of a run.
"""

from __future__ import annotations

import argparse
import shutil
import site
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUILD = "setuptools"  # for `pip install -e`
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def requirements() -> list[str]:
    """What isoalign needs, without torch."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [line for line in needed if not line.startswith("torch>")]


def closure() -> list[str]:
    """The requirements and all that they need, pinned to what is installed here, without torch and what torch alone needs."""
    from packaging.requirements import Requirement  # where wheels are only used it may be missing

    waiting, found, seen = [Requirement(line) for line in [*requirements(), BUILD]], {}, set()
    while waiting:
        needed = waiting.pop()
        for extra in {"", *needed.extras}:
            if needed.name == "torch" or (needed.name, extra) in seen:
                continue
            seen.add((needed.name, extra))
            package = metadata.distribution(needed.name)
            found[package.metadata["Name"]] = package.version
            others = map(Requirement, package.requires or [])
            waiting += [each for each in others if each.marker is None or each.marker.evaluate({"extra": extra})]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def make(folder: Path, python: str) -> None:
    """Download the wheels and copy the assets."""
    from isoalign.data import assets
    from isoalign.tools.doctor.access import NEEDED

    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    if python:
        command += ["--python-version", python, *(word for each in PLATFORMS for word in ("--platform", each))]
    pure = [each for each in closure() if not each.startswith("antlr4")]  # hydra's parser has no wheel on the index
    subprocess.run([*command, *pure], check=True)
    others = [each for each in closure() if each not in pure]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), *others], check=True)
    for name in NEEDED:
        here = assets.asset_path(name)
        shutil.copytree(here, folder / "cache" / "assets" / here.name, dirs_exist_ok=True)


def install(folder: Path, home: Path) -> Path:
    """The Python of a new virtual environment in ``home``: it sees the packages of this one, has what is missing out of
    ``folder``, and this checkout. Raises CalledProcessError, with pip's output, if a wheel is missing."""
    quiet: dict[str, Any] = {"check": True, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], **quiet)
    packages = next((home / "lib").glob("python*/site-packages"))
    seen = [path for path in [*sys.path, *site.getsitepackages()] if path.endswith(("site-packages", "dist-packages"))]
    (packages / "seen.pth").write_text("\n".join(dict.fromkeys(seen)) + "\n")  # also where this is a virtual environment
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-index", "--find-links", str(folder)]
    subprocess.run([*pip, *requirements(), f"{BUILD}>=77"], **quiet)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], **quiet)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="", help="version of Python on the other machine  [default: this one's]")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.python)
    print(arguments.folder)


if __name__ == "__main__":
    main()
