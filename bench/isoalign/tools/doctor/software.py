"""Python and the packages that isoalign needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from isoalign.tools.doctor.finding import NOTE, OK, PROBLEM, Finding

TOPIC = "software"
SHOWN = ("torch", "transformers", "trl", "peft")  # each has a line; of the others only what is wrong
NEWEST = (3, 13)  # the newest Python that is tested


def look() -> Iterator[Finding]:
    """Python, then each package of ``SHOWN``, then all others."""
    try:
        known = metadata.metadata("isoalign")["Requires-Python"]
        needed = [Requirement(line) for line in metadata.requires("isoalign") or []]
    except metadata.PackageNotFoundError:
        yield Finding(
            NOTE, TOPIC, "isoalign", "not installed, so versions are not checked", "pip install -e . in the checkout"
        )
        return
    yield _python(known)
    plain = [requirement for requirement in needed if requirement.marker is None]  # those with one are extras
    wrong = []
    for requirement in sorted(plain, key=lambda r: SHOWN.index(r.name) if r.name in SHOWN else len(SHOWN)):
        finding = _package(requirement)
        if requirement.name in SHOWN:
            yield finding
        elif finding.mark != OK:
            wrong.append(finding)
    yield from wrong
    if not wrong:
        yield Finding(OK, TOPIC, "other packages", f"all {len(plain) - len(SHOWN)} are there, in versions that are supported")


def _python(needed: str) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if not SpecifierSet(needed).contains(version, prereleases=True):
        remedy = "make an environment with Python 3.11 to 3.13"
        return Finding(PROBLEM, TOPIC, "python", f"{version}; isoalign needs {needed}", remedy, fatal=True)
    if sys.version_info[:2] > NEWEST:
        remedy = "if something fails, use Python 3.11 to 3.13"
        return Finding(NOTE, TOPIC, "python", f"{version}, newer than those that are tested", remedy)
    return Finding(OK, TOPIC, "python", version)


def _package(needed: Requirement) -> Finding:
    install = f"pip install '{needed.name}{needed.specifier}'"
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return Finding(PROBLEM, TOPIC, needed.name, f"missing; isoalign needs {needed}", install, fatal=True)
    if not needed.specifier.contains(version, prereleases=True):
        return Finding(PROBLEM, TOPIC, needed.name, f"{version}; isoalign needs {needed.specifier}", install, fatal=True)
    if needed.name == "torch":
        try:
            importlib.import_module("torch")
        except Exception as error:  # a broken installation may raise anything
            reason = str(error).strip().partition("\n")[0]
            again = f"install it again: pip install --force-reinstall 'torch=={version}'"
            return Finding(PROBLEM, TOPIC, "torch", f"{version}, but can't be imported: {reason}", again, fatal=True)
    return Finding(OK, TOPIC, needed.name, version)


def broken(error: ImportError) -> Finding:
    """The finding for a package that can't be imported, so that nothing beyond the software can be looked at."""
    remedy = "install what is missing, then run `isoalign doctor` again: it has not looked any further"
    return Finding(PROBLEM, TOPIC, "imports", str(error), remedy, fatal=True)
