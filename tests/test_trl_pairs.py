"""The losses of TRL's DPO trainer as rows: each row's first loss is its paper's, on answers of unequal length."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from isoalign.core.records import Budget
from isoalign.training import registry
from isoalign.training.lab import Lab
from workbench import Bench, nudge, small

ROWS = sorted(["trl_pairs", *registry.algorithm("trl_pairs").rows])  # type: ignore[attr-defined]


def hoped(name: str, a: Any, lab: Lab) -> Tensor:
    """The mean loss by the paper's formula, written out from sums and means of log-ratios."""
    pairs = lab.pairs(5)
    sides = (pairs.chosen, pairs.rejected)
    logp = [lab.policy(side).logp for side in sides]
    ratios = [ours - lab.reference(side).logp for ours, side in zip(logp, sides, strict=True)]
    lengths = [side.completion_mask.sum(1) for side in sides]
    w, r = (ratio.sum(1) for ratio in ratios)
    margin = a.beta * (w - r)
    if name == "trl_pairs":
        return -logsigmoid(a.beta * (w / lengths[0] - r / lengths[1]))
    if name == "trl_hinge":
        return relu(1 - margin)
    if name == "trl_exo":
        p, q = margin.sigmoid(), torch.tensor(1 - a.label_smoothing)
        return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    if name == "trl_nca":
        return -logsigmoid(a.beta * w) - (logsigmoid(-a.beta * w) + logsigmoid(-a.beta * r)) / 2
    if name == "trl_bco_pair":
        return -logsigmoid(a.beta * w) - logsigmoid(-a.beta * r)
    if name == "trl_sppo_hard":
        return (w - 0.5 / a.beta) ** 2 + (r + 0.5 / a.beta) ** 2
    if name == "trl_aot":
        mine, base = (
            torch.stack([x.sum(1) for x in each]) for each in (logp, [p - q for p, q in zip(logp, ratios, strict=True)])
        )
        return -logsigmoid(a.beta * ((mine[0] - mine[1]).sort()[0] - (base[0] - base[1]).sort()[0]))
    if name == "trl_aot_unpaired":
        return -logsigmoid(a.beta * (w.sort()[0] - r.sort()[0]))
    if name == "trl_apo_zero":
        return 1 - (a.beta * w).sigmoid() + (a.beta * r).sigmoid()
    if name == "trl_apo_down":
        return (a.beta * w).sigmoid() + 1 - margin.sigmoid()
    if name == "trl_discopop":
        mix = (margin / a.discopop_tau).sigmoid()
        return -logsigmoid(margin) * (1 - mix) + (-margin).exp() * mix
    if name == "trl_rpo":
        return -logsigmoid(margin) - a.sft_weight * logp[0].sum() / lengths[0].sum()
    if name == "trl_wpo":
        weights = []
        for side, said, length in zip(sides, logp, lengths, strict=True):
            sure = (2 * lab.policy(side).logits.log_softmax(-1)).logsumexp(-1) * side.completion_mask
            weights.append(((said - sure).sum(1) / length).exp().detach())
        return -logsigmoid(margin) * weights[0] * weights[1]
    if name == "trl_ld_dpo":
        shared = torch.minimum(*lengths).unsqueeze(1)
        places = torch.arange(ratios[0].shape[1])
        weigh = [torch.where(places[: x.shape[1]] < shared, x, a.ld_alpha * x).sum(1) for x in ratios]
        return -logsigmoid(a.beta * (weigh[0] - weigh[1]))
    value = {
        "trl_forward_kl": lambda x: -(-x).exp(),
        "trl_js": lambda x: math.log(2) + logsigmoid(x),
        "trl_alpha": lambda x: ((a.alpha - 1) * x).exp() / (a.alpha - 1),
    }[name]
    return -logsigmoid(a.beta * (value(w) - value(r)))


@pytest.mark.parametrize("name", ROWS)
def test_the_first_loss_of_a_row_is_its_papers(tiny_bench: Bench, tmp_path: Path, name: str) -> None:
    algorithm = small(name, batch_size=5)
    trainer = tiny_bench.trainer(algorithm, Budget(1e15, steps=1), tmp_path)
    nudge(trainer.lab)
    fresh = nudge(tiny_bench.lab())
    loss = hoped(name, algorithm, fresh).mean()
    loss.backward()
    trainer.run(name)
    assert trainer.log[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss_type": "magic"}, "loss_type must be one of sigmoid, hinge"),
        ({"f_divergence": "tv"}, "f_divergence must be one of reverse_kl"),
        ({"label_smoothing": 0.5}, r"label_smoothing must lie in \[0, 0.5\)"),
        ({"loss_type": "exo_pair"}, "label_smoothing must be above 0"),
        ({"ld_alpha": 1.5}, r"ld_alpha must lie in \[0, 1\]"),
    ],
)
def test_what_trl_would_turn_into_nonsense_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        registry.algorithm("trl_pairs")(**settings)


def test_the_first_loss_of_apo_zero_on_single_answers_is_its_papers(tiny_bench: Bench, tmp_path: Path) -> None:
    algorithm = small("trl_apo_zero_unpaired", batch_size=5, desirable_weight=1.5, undesirable_weight=0.5)
    trainer = tiny_bench.trainer(algorithm, Budget(1e15, steps=1), tmp_path)
    nudge(trainer.lab)
    fresh = nudge(tiny_bench.lab())
    labels = fresh.labels(5)
    reward, up = algorithm.beta * fresh.log_ratio(labels.rollouts), labels.desirable
    trainer.run("trl_apo_zero_unpaired")
    hoped = torch.where(up, 1.5 * (1 - reward.sigmoid()), 0.5 * reward.sigmoid()).mean()
    assert trainer.log[0]["loss"] == pytest.approx(hoped.item(), rel=1e-4)
