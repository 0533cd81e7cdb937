"""Whose failure an error is: the method's, or the machine's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from isoalign.core.errors import MachineFailed, TrainingFailed, UserError, unforeseen
from isoalign.core.memory import machine_failure


@contextmanager
def as_training_failure() -> Iterator[None]:
    """Context in which every error is a failure of the method, except one of the machine."""
    try:
        yield
    except MachineFailed:
        raise
    except UserError as error:
        if failure := machine_failure(error):
            raise failure from error
        raise TrainingFailed(str(error)) from error
    except Exception as error:
        if os.environ.get("ISOALIGN_DEBUG"):
            raise
        if failure := machine_failure(error):
            raise failure from error
        raise TrainingFailed(unforeseen(error)) from error
