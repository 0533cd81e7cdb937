"""The same work for every side of a benchmark: models, rows, processes to measure in, and what the machine itself can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from isoalign.core.lazy import transformers
from isoalign.models.loading import load_model
from isoalign.tools.conformance.workbench import write_reward

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IDS = (100, 4096)  # of random tokens: none is special in any of the models
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TQDM_DISABLE": "1", "WANDB_MODE": "disabled"}


@dataclass(frozen=True)
class Work:
    """Rows of equal lengths in tokens, and how many steps are taken. ``batch``: pairs, or half of the answers, of a step;
    ``warm``: steps, or iterations, that are not counted; ``lora``: rank of the adapter, 0 for all weights."""

    model: str = "nano"
    prompt: int = 24
    answer: int = 20
    pairs: int = 96
    batch: int = 32
    epochs: int = 2
    warm: int = 1
    lora: int = 0
    iterations: int = 2

    @property
    def steps(self) -> int:
        """Optimizer steps over the pairs."""
        return self.epochs * self.pairs // self.batch


def write(work: Work, folder: Path) -> None:
    """The model with its tokenizer, a reward model on it, and the rows, in files that need none of our code."""
    if work.model == "30m":
        model, tokenizer = _llama_30m(), load_model("nano")[1]
    else:
        model, tokenizer = load_model(work.model)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_reward(folder / "reward", folder / "model", 1)
    tokenizer.save_pretrained(folder / "reward")
    generator = torch.Generator().manual_seed(0)
    shape = {"prompts": work.prompt, "chosen": work.answer, "rejected": work.answer}
    rows = {name: torch.randint(*IDS, (work.pairs, width), generator=generator).tolist() for name, width in shape.items()}
    (folder / "work.json").write_text(json.dumps({"work": asdict(work), "rows": rows}))


def _llama_30m() -> Any:
    """30 million parameters, a third of them a head over 32,000 tokens."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32_000, hidden_size=384, num_hidden_layers=10, num_attention_heads=6, intermediate_size=1024,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def measured(script: str, *arguments: str, path: str = "", **environment: str) -> Any:
    """What a process of its own, of one thread, prints as its last line, in JSON; a line of text where it fails."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    inherited["PYTHONPATH"] = path
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], capture_output=True, text=True,
        env=inherited | QUIET | OFFLINE | environment,
    )  # fmt: skip
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def checkout(commit: str) -> Iterator[str]:
    """The Python path of another commit of this repository."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkout"
        git("worktree", "add", "--detach", "--quiet", str(place), commit)
        try:
            yield str(place / "bench")
        finally:
            git("worktree", "remove", "--force", str(place))


@contextmanager
def old_trl(version: str) -> Iterator[str]:
    """The Python path of a release of TRL, beside the transformers and torch that are installed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, f"trl=={version}"]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # without it, PPO is not measured
        yield folder


def git(*arguments: str) -> str:
    """What git says in this repository."""
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout.strip()


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = "an unnamed processor"
    units = torch.backends.cpu.get_cpu_capability()
    if dict(torch.cpu.get_capabilities()).get("amx_bf16"):
        units += " and AMX"
    return f"{name}, {units}, {os.cpu_count()} cores"
