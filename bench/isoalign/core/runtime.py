"""Settings of the process before heavy work: threads, allocator, quiet libraries."""

import ctypes
import os
import sys
import warnings

from isoalign.core import products
from isoalign.core.lazy import torch


def quiet() -> None:
    """Environment of a run, set before torch is imported: no telemetry, no spinning threads, no network unless asked."""
    defaults = {
        "OMP_WAIT_POLICY": "PASSIVE",  # two busy-waiting processes on one machine starve each other
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HYDRA_FULL_ERROR": "0",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looking for GPUs must not initialise CUDA: a process chooses one first
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore", FutureWarning)  # of the trainers' own arguments; users cannot fix them
    # joblib replaces a worker of a sweep whose memory has grown, between two runs, and loses nothing
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
    _keep_memory()


def _keep_memory() -> None:
    """Have glibc keep large blocks: giving every logits buffer back to the kernel doubles the time of a small model."""
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):  # another C library: slower, not wrong
        return


def threads(count: int) -> None:
    """Set torch's threads; 0 leaves its default. Products take the faster library, see `products`."""
    products.speed_up()
    if count:
        torch.set_num_threads(count)
