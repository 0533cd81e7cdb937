"""Conformance: what every algorithm must do, a plug-in's too, tried on a tiny model in about a minute and told in words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.errors import UserError
from bench.registry import unknown


@dataclass(frozen=True)
class Finding:
    """One check's outcome. ``holds``: None where the demand is none of the algorithm's; ``told``: what was seen."""

    check: str
    demand: str
    holds: bool | None
    told: str

    def line(self) -> str:
        """The finding as a line of the report."""
        mark = {True: "holds", False: "BROKEN", None: "exempt"}[self.holds]
        return f"{mark:<7} {self.check}: {self.demand} ({self.told})"


def examine(name: str, algorithm: Any, only: Sequence[str] = ()) -> Iterator[Finding]:
    """Try an algorithm, check by check; ``only`` some of them. Raises UserError for a check that there is not."""
    from bench.conformance.checks import CHECKS

    for check in only:
        if check not in CHECKS:
            raise UserError(unknown("check", check, list(CHECKS)))
    if not hasattr(algorithm, "iteration") and not hasattr(algorithm, "train"):
        raise UserError(f"algorithm {name} has no method iteration(lab), so there is nothing to try; see CONTRIBUTING.md")
    return _findings(name, algorithm, only or list(CHECKS))


def _findings(name: str, algorithm: Any, wanted: Sequence[str]) -> Iterator[Finding]:
    from bench.conformance.checks import CHECKS, Broken, Exempt, Subject
    from bench.conformance.workbench import small, tiny

    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        bench = tiny(Path(folder) / "bench")
        for check in wanted:
            subject = Subject(name, small(algorithm), bench, Path(folder) / check)
            demand = str(CHECKS[check].__doc__).strip().rstrip(".")
            try:
                yield Finding(check, demand, True, CHECKS[check](subject))
            except Exempt as why:
                yield Finding(check, demand, None, str(why))
            except Broken as why:
                yield Finding(check, demand, False, str(why))
            except UserError as error:
                yield Finding(check, demand, False, str(error))
            except Exception as error:
                yield Finding(check, demand, False, f"{type(error).__name__}: {error}".partition("\n")[0])
