"""The command `isoalign`: whatever happens, it ends in an exit status and at most one line of complaint."""

import os
import signal
import sys

from isoalign.cli.complaint import complain


def main() -> None:
    """Run what is typed. Exit status: 0 done, 1 something failed or is wrong, 2 cannot be done as typed, 130 interrupted."""
    status = 1
    try:
        from isoalign.cli.commands import invoke  # here, so that an interrupt while modules load is one line as well

        status = invoke(sys.argv[1:])
        sys.stdout.flush()  # a closed pipe is noticed now, not at exit
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the process at once
        complain("stopped; the same command goes on from what is finished")
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
    _exit(status)


def _exit(status: int) -> None:
    """Leave; without waiting for threads that an algorithm left behind."""
    process_state = sys.modules.get("isoalign.training.process_state")
    if process_state and process_state.strays:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
