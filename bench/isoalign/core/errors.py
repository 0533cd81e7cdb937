"""The one exception that a user sees: a line that says what is wrong, where, and what to do."""

import dataclasses
import difflib
import sys
import sysconfig
import traceback
from pathlib import Path

from isoalign.core.places import is_harness

LONGEST = 300  # characters of another exception's message that are shown


class UserError(Exception):
    """A mistake that the user can fix. The command line prints only its text and exits with status 2."""


class TrainingFailed(UserError):
    """A method's own training failed: it is noted beside the cards, where a mistyped setting is not."""


class MachineFailed(UserError):
    """The machine failed, not the method: too little memory, a full disk, a broken device. It is noted nowhere."""


def unforeseen(error: BaseException) -> str:
    """The line for an unexpected exception, with the place in the user's code that it came from."""
    reason = _text(error)
    if isinstance(error, dataclasses.FrozenInstanceError):
        reason += "; an algorithm and its rows are frozen: what must survive goes into lab.state, weights into lab.module"
    place = f"at {where}; " if (where := _place(error)) else ""
    return f"{type(error).__name__}: {reason} ({place}set ISOALIGN_DEBUG=1 for the traceback)"


def interrupt_of(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that caused an exception, if one did: cleaning up after one may raise another."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return error
        error = error.__context__
    return None


def _text(error: BaseException) -> str:
    """The first line of an exception's message, shortened, in characters that can be written."""
    line = str(error).strip().partition("\n")[0].encode("utf-8", "replace").decode()
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _place(error: BaseException) -> str:
    """File and line of the innermost frame outside libraries and Python; of a frame of the harness, who called it too."""
    names = ("torch", "numpy", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "scipy", "safetensors")
    loaded = [module for name in names if (module := sys.modules.get(name))]
    libraries = [Path(str(module.__file__)).parent for module in loaded]
    standard = Path(sysconfig.get_path("stdlib"))
    harness = ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        python = standard in file.parents and "site-packages" not in file.parts
        if not file.exists() or python or any(folder in file.parents for folder in libraries):
            continue
        place = f"{file.parent.name}/{file.name}:{frame.lineno}"
        if not is_harness(frame.filename):
            return f"{harness}, called by {place}" if harness else place
        harness = harness or place
    return ""


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The line for an unknown name: the nearest known one, then all."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    install = "; an algorithm of a package is known once the package is installed: pip install -e FOLDER"
    end = install if kind == "algorithm" else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(known)}{end}"
