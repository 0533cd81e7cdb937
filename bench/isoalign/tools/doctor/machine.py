"""Cores, memory, accelerators, and the precision that they offer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from isoalign.core.devices import memory_limit
from isoalign.core.lazy import torch
from isoalign.core.products import multiplies_bf16
from isoalign.tools.doctor.finding import NOTE, OK, PROBLEM, Finding

TOPIC = "machine"
GIB = 2**30
LEAST_RAM = 4 * GIB  # a run on nano takes less than half of it
TF32, BF16 = (8, 0), (8, 0)  # compute capability from which a GPU has them


def look() -> Iterator[Finding]:
    """Processor and memory; with a torch that works, devices and precision too."""
    yield _processes()
    yield _memory()
    try:
        yield _threads()
    except Exception:  # whatever a broken torch raises: its own line says it
        return
    cuda = torch.cuda.is_available()
    yield from _gpus() if cuda else [_no_gpu()]
    yield from _gpu_precision() if cuda else [_cpu_precision()]


def _processes() -> Finding:
    """torchrun and accelerate launch say of how many processes this is one; somebody else's variables would mislead a run."""
    size = os.environ.get("WORLD_SIZE", "")
    if size in ("", "1"):
        return Finding(OK, TOPIC, "processes", "1" if size else "1 (WORLD_SIZE is not set)")
    if {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return Finding(OK, TOPIC, "processes", f"{size}, started by a launcher")
    remedy = "unset WORLD_SIZE, or start `isoalign run` by torchrun or accelerate launch"
    return Finding(PROBLEM, TOPIC, "processes", f"WORLD_SIZE={size}, but RANK is not set", remedy, fatal=True)


def _memory() -> Finding:
    total = memory_limit()
    if total < LEAST_RAM:
        remedy = "keep to nano, one run at a time"
        return Finding(NOTE, TOPIC, "memory", f"{total / GIB:.1f} GiB is little", remedy)
    return Finding(OK, TOPIC, "memory", f"{total / GIB:.1f} GiB")


def _threads() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    found = f"{cores} cores, {threads} {'thread' if threads == 1 else 'threads'} of torch"
    if threads > cores:
        return Finding(NOTE, TOPIC, "processor", found, f"set threads={cores} for a run: more threads than cores are slower")
    return Finding(OK, TOPIC, "processor", found)


def _gpus() -> Iterator[Finding]:
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found, mark, remedy = f"{card.name}, {card.total_memory / GIB:.1f} GiB", OK, ""
        try:
            free = torch.cuda.mem_get_info(index)[0]
            found += f", {free / GIB:.1f} GiB free"
            if free < card.total_memory / 2:
                mark, remedy = NOTE, "another process uses it; nvidia-smi says which"
        except RuntimeError as error:  # it may be in use by one process alone
            mark, found = PROBLEM, f"{found}, can't be used: {str(error).strip().partition(chr(10))[0]}"
            remedy = "see nvidia-smi, or choose another device with CUDA_VISIBLE_DEVICES"
        yield Finding(mark, TOPIC, f"cuda:{index}", found, remedy, fatal=mark == PROBLEM)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.device_count() > 1:
        found = f"{torch.cuda.device_count()} visible (CUDA_VISIBLE_DEVICES={visible or 'not set'}); a run uses one"
        yield Finding(NOTE, TOPIC, "devices", found, "device=cuda:N chooses; runs of a sweep take different ones")


def _no_gpu() -> Finding:
    slow = "right for nano and smol; models of 1B and more take days"
    if torch.backends.mps.is_available():
        return Finding(OK, TOPIC, "accelerator", "mps (Apple)")
    if not (shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()):
        return Finding(NOTE, TOPIC, "accelerator", "none: runs use the processor", slow)
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        remedy = "unset CUDA_VISIBLE_DEVICES"
        return Finding(NOTE, TOPIC, "accelerator", "hidden by CUDA_VISIBLE_DEVICES: runs use the processor", remedy)
    if torch.version.cuda is None:
        remedy = "install a build of torch with CUDA: https://pytorch.org/get-started/locally/"
        return Finding(PROBLEM, TOPIC, "accelerator", "an NVIDIA GPU, but torch is a build for processors only", remedy)
    remedy = "update the NVIDIA driver, or install a torch for an older CUDA; nvidia-smi says which it has"
    return Finding(PROBLEM, TOPIC, "accelerator", f"an NVIDIA GPU that torch for CUDA {torch.version.cuda} can't use", remedy)


def _cpu_precision() -> Finding:
    if multiplies_bf16():
        return Finding(OK, TOPIC, "precision", "fp32; bf16 in hardware (task.model.bf16=true)")
    slow = "leave task.model.bf16=false: without hardware for it bf16 is slower than fp32"
    return Finding(NOTE, TOPIC, "precision", "fp32; no bf16 in hardware", slow)


def _gpu_precision() -> Iterator[Finding]:
    capability = torch.cuda.get_device_capability(0)
    mode = torch.get_float32_matmul_precision()
    tf32 = f"TF32 {'off' if mode == 'highest' else 'on'}" if capability >= TF32 else "no TF32"
    if capability >= BF16:
        yield Finding(OK, TOPIC, "precision", f"fp32; bf16 in hardware (task.model.bf16=true); {tf32}")
    else:
        remedy = "leave task.model.bf16=false"
        yield Finding(NOTE, TOPIC, "precision", f"fp32; bf16 is emulated, and slow; {tf32}", remedy)
