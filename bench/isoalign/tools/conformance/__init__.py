"""Conformance: checks that every algorithm must pass, plug-ins included, on a tiny model in seconds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoalign.core.errors import MachineFailed, UserError, unforeseen, unknown
from isoalign.core.memory import machine_failure
from isoalign.core.progress import hidden, track
from isoalign.core.randomness import own_random_state
from isoalign.tools.conformance.algorithm_under_test import AlgorithmUnderTest, CheckFailed, NotApplicable
from isoalign.tools.conformance.checks import CHECKS
from isoalign.tools.conformance.workbench import tiny
from isoalign.training.guard import IdleTimeout


@dataclass(frozen=True)
class Finding:
    """The outcome of a check. ``passed``: None if the check does not apply to the algorithm; ``detail``: what was observed."""

    check: str
    demand: str
    passed: bool | None
    detail: str

    def line(self) -> str:
        """The finding as a line of the report."""
        mark = {True: "passed", False: "FAILED", None: "n/a"}[self.passed]
        return f"{mark:<6} {self.check}: {self.demand} ({self.detail})"


def examine(name: str, algorithm: Any, only: Sequence[str] = (), device: str = "cpu") -> Iterator[Finding]:
    """Run all checks on an algorithm, or those named in ``only``, with the models on a device.

    The default is the CPU, where the same seed gives the same bits. Raises UserError for an unknown check.
    """
    for check in only:
        if check not in CHECKS:
            raise UserError(unknown("check", check, list(CHECKS)))
    if not hasattr(algorithm, "iteration") and not hasattr(algorithm, "train"):
        if hasattr(algorithm, "select"):
            raise UserError(f"algorithm {name} selects answers and does not train; all checks are of training")
        raise UserError(f"algorithm {name} has no method iteration(lab) to check; see docs/extending.md")
    return _findings(name, algorithm, only or list(CHECKS), device)


def _findings(name: str, algorithm: Any, wanted: Sequence[str], device: str) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder, own_random_state():
        tested = AlgorithmUnderTest(name, algorithm, tiny(Path(folder) / "bench", device), Path(folder) / "runs")
        raised: dict[str, str] = {}
        for check in track(wanted, f"checking {name}"):
            demand = str(CHECKS[check].__doc__).strip().rstrip(".")
            passed, detail, timed_out = _outcome(CHECKS[check], tested)
            if passed is False and raised.setdefault(detail, check) != check:
                detail = f"as in {raised[detail]}"
            yield Finding(check, demand, passed, detail)
            if timed_out:
                return  # every other check would time out too


def _outcome(check: Callable[[AlgorithmUnderTest], str], tested: AlgorithmUnderTest) -> tuple[bool | None, str, bool]:
    """Whether the check passed, what was observed, and whether the algorithm timed out."""
    try:
        with hidden():
            return True, check(tested), False
    except NotApplicable as why:
        return None, str(why), False
    except MachineFailed:
        raise
    except (CheckFailed, UserError) as why:
        return False, str(why), isinstance(why, IdleTimeout)
    except Exception as error:  # of the algorithm's code
        if failure := machine_failure(error):
            raise failure from error
        if os.environ.get("ISOALIGN_DEBUG"):
            raise
        return False, unforeseen(error), False
