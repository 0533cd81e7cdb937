"""The command `isoalign`: whatever happens, it ends in an exit status and at most one line of complaint."""

import os
import signal
import sys
from types import FrameType

from isoalign.cli.complaint import complain

INTERRUPTED = 130  # as shells have it
STOPPED = "stopped; run the same command to resume"


def main() -> None:
    """Run what is typed. Exit status: 0 done, 1 something failed or is wrong, 2 cannot be done as typed, 130 interrupted."""
    status = 1
    signal.signal(signal.SIGINT, _interrupt)
    try:
        from isoalign.cli.commands import invoke  # here, so that an interrupt while modules load is one line as well

        status = invoke(sys.argv[1:])
        sys.stdout.flush()  # a closed pipe is noticed now, not at exit
    except SystemExit as stop:  # Hydra's way to end
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the process at once
        complain(STOPPED)
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
    _exit(status)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; but end at once where a module is being imported. Libraries catch what is raised inside their
    imports and go on half loaded, and whatever fails then hides the interrupt."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            complain(STOPPED)
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _exit(status: int) -> None:
    """Leave; without waiting for threads that an algorithm left behind."""
    if getattr(sys.modules.get("isoalign.training.process_state"), "strays", None):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
