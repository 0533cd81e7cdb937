"""A method of one's own: one class, trained on a tiny model, billed, and held to the rules. Ten seconds, no network."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import relu
from transformers.utils import logging

from isoalign import Lab, Pairs, Step, register
from isoalign.core.records import Budget
from isoalign.tools.conformance import examine
from isoalign.tools.conformance.workbench import tiny


@register
class SLiC:
    """Zhao et al. 2023, "SLiC-HF", without its regulariser: a hinge on the margin of the chosen answer, in nats."""

    margin: float = 1.0
    batch_size: int = 8
    lr: float = 1e-3

    def iteration(self, lab: Lab) -> Iterator[Step]:
        """One batch of pairs, one optimizer step. The harness calls it until the budget is spent."""
        yield Step(lab.pairs(self.batch_size), self.loss)

    def loss(self, lab: Lab, pairs: Pairs) -> Tensor:
        """One value for each row [B]; the harness averages, goes backward and steps."""
        margin = lab.policy(pairs.chosen).logp.sum(1) - lab.policy(pairs.rejected).logp.sum(1)
        lab.log(margin=margin.mean())
        return relu(self.margin - margin)


torch.set_num_threads(1)  # a model this small gains nothing from more
logging.set_verbosity_error()
logging.disable_progress_bar()

with tempfile.TemporaryDirectory() as folder:
    bench = tiny(Path(folder))  # a Llama of two layers, prompts, feedback and reward models, made on the spot
    trainer = bench.trainer(SLiC(), Budget(flops=5e8), Path(folder) / "work")
    trainer.run("slic")

first, last = trainer.log[0], trainer.log[-1]
print(f"{trainer.meter.steps} steps for {trainer.meter.flops:.3g} of {trainer.meter.budget.flops:.3g} FLOP")
print(f"margin: {first['margin']:.1f} nats at first, {last['margin']:.1f} at the end")
for item in trainer.meter.spent()["items"]:
    print(f"  {item['role']:<8} {item['kind']:<8} {item['flops']:>12,} FLOP")

# Two of the checks that `isoalign check NAME` makes of a method that has a file.
for finding in examine("slic", SLiC(), ["budget", "pure"]):
    print(finding.line())
