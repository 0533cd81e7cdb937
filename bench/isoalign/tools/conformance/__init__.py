"""Conformance: what every algorithm must do, a plug-in's too, tried on a tiny model in about a minute and told in words."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from isoalign.core.errors import UserError, unforeseen, unknown
from isoalign.core.progress import hidden, track

if TYPE_CHECKING:
    from isoalign.tools.conformance.algorithm_under_test import AlgorithmUnderTest


@dataclass(frozen=True)
class Finding:
    """One check's outcome. ``passed``: None where the check does not apply to the algorithm; ``told``: what was seen."""

    check: str
    demand: str
    passed: bool | None
    told: str

    def line(self) -> str:
        """The finding as a line of the report."""
        mark = {True: "passed", False: "FAILED", None: "n/a"}[self.passed]
        return f"{mark:<6} {self.check}: {self.demand} ({self.told})"


def examine(name: str, algorithm: Any, only: Sequence[str] = ()) -> Iterator[Finding]:
    """Try an algorithm, check by check; ``only`` some of them. Raises UserError for a check that there is not."""
    from isoalign.tools.conformance.checks import CHECKS

    for check in only:
        if check not in CHECKS:
            raise UserError(unknown("check", check, list(CHECKS)))
    if not hasattr(algorithm, "iteration") and not hasattr(algorithm, "train"):
        if hasattr(algorithm, "select"):
            raise UserError(f"{name} trains nothing, it selects: the suite is of training, so there is nothing to try")
        raise UserError(f"algorithm {name} has no method iteration(lab), so there is nothing to try; see docs/extending.md")
    return _findings(name, algorithm, only or list(CHECKS))


def _findings(name: str, algorithm: Any, wanted: Sequence[str]) -> Iterator[Finding]:
    from isoalign.tools.conformance.algorithm_under_test import AlgorithmUnderTest
    from isoalign.tools.conformance.checks import CHECKS
    from isoalign.tools.conformance.workbench import tiny

    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        bench = tiny(Path(folder) / "bench")
        raised: dict[str, str] = {}
        for check in track(wanted, f"checking {name}"):
            tested = AlgorithmUnderTest(name, algorithm, bench, Path(folder) / check)
            demand = str(CHECKS[check].__doc__).strip().rstrip(".")
            passed, told, endless = _outcome(CHECKS[check], tested)
            if passed is False and raised.setdefault(told, check) != check:
                told = f"as in {raised[told]}"
            yield Finding(check, demand, passed, told)
            if endless:
                return  # it would be so at every check


def _outcome(check: Callable[[AlgorithmUnderTest], str], tested: AlgorithmUnderTest) -> tuple[bool | None, str, bool]:
    """Whether it holds, what was seen, and whether there is no end to what it does."""
    from isoalign.tools.conformance.algorithm_under_test import CheckFailed, NotApplicable
    from isoalign.training.guard import IdleTimeout

    try:
        with hidden():
            return True, check(tested), False
    except NotApplicable as why:
        return None, str(why), False
    except (CheckFailed, UserError) as why:
        return False, str(why), isinstance(why, IdleTimeout)
    except Exception as error:  # the algorithm's own, whatever it is
        if os.environ.get("ISOALIGN_DEBUG"):
            raise
        return False, unforeseen(error), False
