"""A process of a run that waits for a dead one ends in a line before torchrun, which has asked it to, kills it."""

import signal
import subprocess
import sys
from datetime import timedelta

import torch

WAITS = """
import signal, sys, time
from datetime import timedelta
from torch.distributed import TCPStore
from isoalign.core import heartbeat, stopping

heartbeat.EVERY, heartbeat.STOPPING = 0.05, 0.3
stopping.install()
store = TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False, timeout=timedelta(seconds=60))
heartbeat.Heartbeat(1, 2, store).start()
with stopping.finishing():  # a step, in which the first process, killed while it saves, tells nothing more
    print("waits", flush=True)
    while True:
        time.sleep(0.01)
"""


def test_a_process_that_waits_for_a_dead_one_ends_in_a_line_once_it_is_asked_to_stop() -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    command = [sys.executable, "-c", WAITS, str(store.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        waiting.send_signal(signal.SIGTERM)
        _, stderr = waiting.communicate(timeout=30)
    assert waiting.returncode == 2
    assert "process 0 of this run has given no sign of life" in stderr
    assert "run the same command again" in stderr
    assert store.get("failed") == b""
