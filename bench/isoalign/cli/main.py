"""The command `isoalign`: whatever happens, it ends in an exit status and at most one line of complaint."""

import os
import signal
import sys

from isoalign.core import stopping
from isoalign.core.complaint import complain


def main() -> None:
    """Run what is typed. Exit status: 0 done, 1 something failed or is wrong, 2 cannot be done as typed, 130 and 143
    stopped by SIGINT and SIGTERM."""
    status = 1
    stopping.install()
    try:
        from isoalign.cli.commands import invoke  # here, so that an interrupt while modules load is one line as well

        status = invoke(sys.argv[1:])
        sys.stdout.flush()  # a closed pipe is noticed now, not at exit
        stopping.over()
    except SystemExit as stop:  # Hydra's way to end
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        stopping.over()
    except KeyboardInterrupt as stopped:
        for number in stopping.SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        complain(stopping.LINE)
        status = getattr(stopped, "status", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
    _exit(status)


def _exit(status: int) -> None:
    """Leave; without waiting for threads that an algorithm left behind."""
    if getattr(sys.modules.get("isoalign.training.process_state"), "strays", None):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
