"""One side of steps.py: our training on the work in a folder. Runs with older commits of ours, too.

    python steps_ours.py FOLDER NAME

Prints the CPU time and the FLOPs on the bill after each optimizer step, and how many steps an epoch and an iteration have.
NAME ``machine`` is a large product of fp32 matrices instead, in FLOPs a CPU second.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from isoalign.config.task import ModelConfig
from isoalign.config.training import TrainConfig
from isoalign.core import runtime
from isoalign.core.batches import Prompts, Step
from isoalign.core.lazy import peft
from isoalign.core.records import Budget
from isoalign.data.preferences import Feedback, rollouts
from isoalign.models import reward
from isoalign.models.flops import shape_of
from isoalign.models.language import LanguageModel
from isoalign.models.loading import load_model
from isoalign.stages.sft import lora_config
from isoalign.tools.conformance.workbench import FixedSource
from isoalign.training import registry
from isoalign.training.meter import Meter
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer


class Timed(Trainer):
    """A trainer that notes CPU time and FLOPs after each step, sampling and scoring included."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.marks, self.flops = [time.process_time()], [0]

    def _step(self, step: Step) -> None:
        super()._step(step)
        self.marks.append(time.process_time())
        self.flops.append(self.meter.flops)


def method(name: str, work: dict[str, Any], rows: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An algorithm in the training loop that all share."""
    batch, pairs = work["batch"], work["pairs"]
    defaults = registry.algorithm(name)()
    sizes = {"batch_size": batch * (2 if name == "kto" else 1)} if hasattr(defaults, "batch_size") else {}
    algorithm = registry.algorithm(name)(**sizes)
    feedback = Feedback(rows["prompts"], rows["chosen"], rows["rejected"], [{}] * pairs, "simulated", {"feedback": 10})
    tokens = torch.tensor(rows["prompts"])
    prompts = Prompts(tokens, torch.ones_like(tokens).bool(), torch.arange(pairs))
    base = str(folder / "model")
    policy, reference = models(base, work["lora"])
    rewarder = reward.HeadReward(folder / "reward", ModelConfig(base), device="cpu")
    source: Any = FixedSource(prompts, {"annotator": feedback}, {"annotator": rewarder}, None)
    epoch = pairs // batch
    steps = work["epochs"] * epoch if sizes else work["iterations"] * per_iteration(algorithm)
    meter = Meter(Budget(1e18, steps=steps))
    session = Session(policy, reference, source, meter, work["answer"], 0)
    with tempfile.TemporaryDirectory() as temporary:
        trainer = Timed(algorithm, session, TrainConfig(warmup=2, checkpoint_seconds=1e9), Path(temporary))
        trainer.run(name)
    return {
        "marks": trainer.marks, "flops": trainer.flops, "epoch": epoch if sizes else 0, "each": per_iteration(algorithm),
    }  # fmt: skip


def per_iteration(algorithm: Any) -> int:
    """Optimizer steps on one batch of samples."""
    rows = getattr(algorithm, "minibatch", 0)
    return algorithm.epochs * algorithm.rollouts // rows if rows else 1


def models(base: str, lora: int) -> tuple[LanguageModel, LanguageModel]:
    """The policy and the reference, which are one model with an adapter."""
    model, tokenizer = load_model(base)
    if lora:
        adapted = LanguageModel(peft.get_peft_model(model, lora_config(lora, "CAUSAL_LM")), tokenizer, ends=False)
        return adapted, adapted
    frozen, _ = load_model(base)
    return LanguageModel(model.requires_grad_(True), tokenizer, ends=False), LanguageModel(frozen, tokenizer, ends=False)


def supervised(name: str, work: dict[str, Any], rows: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The loop of the SFT base and of reward models."""
    from isoalign.stages.fitting import Fit  # which older commits lack
    from isoalign.stages.reward import BradleyTerry, paired

    base, size = str(folder / "model"), work["batch"]
    length = work["prompt"] + work["answer"]
    if name == "reward":
        model, tokenizer = reward.load_reward_model(base, base)
        triples = list(zip(rows["prompts"], rows["chosen"], rows["rejected"], strict=True))
        losses: Any = BradleyTerry(model, tokenizer.pad_token_id, "float32")
        shape, heads = shape_of(model, None), [0] * 2 * size
    else:
        model, tokenizer = load_model(base)
        read = LanguageModel(model, tokenizer, True)
        losses = lambda batch: -read(batch).logp.sum(1)  # noqa: E731
        shape, heads = read.shape, [work["answer"]] * size

    def gather(index: torch.Tensor) -> Any:
        places, pad = index.tolist(), tokenizer.pad_token_id
        if name == "reward":
            return paired(triples, places, pad)
        return rollouts([rows["prompts"][i] for i in places], [rows["chosen"][i] for i in places], pad)

    model.requires_grad_(True).train()
    marks = [time.process_time()]

    def note() -> bool:
        marks.append(time.process_time())
        return False

    Fit(work["pairs"], size, 64, 1e-4, "lr", 0, work["epochs"]).run(model, gather, losses, name, stop=note)
    each = shape.forward([length] * len(heads), heads) + shape.backward([length] * len(heads), heads)
    return {"marks": marks, "flops": [each * step for step in range(len(marks))], "epoch": work["pairs"] // size, "each": 1}


def product_speed(size: int = 2048, times: int = 8) -> float:
    """FLOPs a CPU second of a product of large matrices, the best of some."""
    a, b = torch.randn(2, size, size).unbind()
    taken = []
    for _ in range(times):
        start = time.process_time()
        a @ b
        taken.append(time.process_time() - start)
    return 2 * size**3 / min(taken)


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    runtime.quiet()
    runtime.threads(1)
    if name == "machine":
        print(product_speed())
        return
    told = json.loads((folder / "work.json").read_text())
    side = supervised if name in ("sft", "reward") else method
    print(json.dumps(side(name, told["work"], told["rows"], folder)))


if __name__ == "__main__":
    main()
