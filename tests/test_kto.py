"""KTO's loss and reference point against numbers worked by hand, and against TRL's on the same batch and models."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from isoalign.baselines.kto import KTO, Judged, mismatch
from isoalign.core.batches import Labels
from isoalign.data.preferences import rollouts
from isoalign.training.lab import Lab, session_of
from workbench import Bench, nudge, open_vocabulary, trl_arguments

SIGMOID = {x: 1 / (1 + math.exp(-x)) for x in (-0.75, -0.25, 0.25, 0.5, 1.0)}


class FixedRatios:
    """A lab of which only the log-ratios matter."""

    def __init__(self, ratios: list[float]) -> None:
        self.ratios = torch.tensor(ratios)

    def log_ratio(self, _: Any) -> torch.Tensor:
        return self.ratios

    def log(self, **_: Any) -> None:
        pass


def loss(algorithm: KTO, ratios: list[float], up: list[bool], point: float) -> list[float]:
    labels: Any = Labels(None, torch.tensor(up), torch.arange(len(up)))  # type: ignore[arg-type]
    lab: Any = FixedRatios(ratios)
    return algorithm.loss(lab, Judged(labels, torch.tensor(point).expand(len(up)))).tolist()


def test_gains_are_measured_from_the_reference_point_up_for_good_answers_and_down_for_bad() -> None:
    # beta .5, reference 1: gains 2 - 1 and -(2.5 - 1)
    hoped = [1 - SIGMOID[0.5], 1 - SIGMOID[-0.75]]
    assert loss(KTO(beta=0.5), [2.0, 2.5], [True, False], 1.0) == pytest.approx(hoped)


def test_the_weights_scale_each_side() -> None:
    algorithm = KTO(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    hoped = [2 * (1 - SIGMOID[0.25]), 3 * (1 - SIGMOID[-0.25])]
    assert loss(algorithm, [0.5, 0.5], [True, False], 0.0) == pytest.approx(hoped)


def test_a_single_answer_is_refused_because_nothing_mismatches_it() -> None:
    with pytest.raises(ValueError, match="batch_size must be 2 or more"):
        KTO(batch_size=1)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_each_prompt_meets_the_answer_of_the_row_before_on_even_and_odd_batches(rows: int) -> None:
    prompts = [[10 * row + place for place in range(1 + row)] for row in range(rows)]
    answers = [[100 + 10 * row + place for place in range(rows - row)] for row in range(rows)]
    batch = rollouts(prompts, answers, pad=1)
    wrong = mismatch(batch)
    for row in range(rows):
        real = wrong.tokens[row][wrong.mask[row]].tolist()
        assert real == prompts[row] + answers[row - 1]
    assert wrong.prompt_length == batch.prompt_length


def test_the_reference_point_is_the_mean_log_ratio_of_the_mismatched_rows_and_never_negative(tiny_lab: Lab) -> None:
    nudge(tiny_lab)
    batch = tiny_lab.labels(5).rollouts
    with torch.no_grad():
        raw = tiny_lab.log_ratio(mismatch(batch)).mean()
    assert KTO().reference_point(tiny_lab, batch) == raw.clamp(min=0)
    assert not KTO().reference_point(tiny_lab, batch).requires_grad


def test_the_reference_point_travels_with_every_row_so_that_batches_may_be_cut(tiny_lab: Lab) -> None:
    nudge(tiny_lab)
    (step,) = KTO(batch_size=7).iteration(tiny_lab)
    assert step.batch.reference_point.shape == (7,)
    whole = step.loss(tiny_lab, step.batch)
    parts = [step.loss(tiny_lab, step.batch[slice(start, start + 3)]) for start in (0, 3, 6)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", [1, 8])
def test_loss_and_gradient_are_trls_on_the_same_batch(tiny_bench: Bench, tmp_path: Path, seed: int) -> None:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    lab = open_vocabulary(nudge(tiny_bench.lab(), seed))
    feedback = tiny_bench.source.feedback("annotator")
    index = torch.tensor([0, 3, 4, 7, 9, 12, 15])  # verdicts 0 up, 1 down, 2 up, 3 down, 4 down, 6 up, 7 down
    labels = feedback.labels(index, session_of(lab).pad)
    algorithm = KTO(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    point = algorithm.reference_point(lab, labels.rollouts)
    ours = algorithm.loss(lab, Judged(labels, point.expand(7))).mean()
    ours.backward()

    words = Dataset.from_list([{"prompt": "you", "completion": c, "label": c == " are kind"} for c in (" are kind", " idiot")])
    arguments = KTOConfig(
        **trl_arguments(tmp_path), beta=0.3, max_length=None, desirable_weight=1.5, undesirable_weight=0.5
    )  # fmt: skip
    model, reference = copy.deepcopy(session_of(lab).policy.inner), copy.deepcopy(session_of(lab).reference.inner)
    model.zero_grad()
    trainer = KTOTrainer(
        model, reference, args=arguments, train_dataset=words, processing_class=session_of(lab).policy.tokenizer
    )
    answers = [(feedback.chosen if i % 2 == 0 else feedback.rejected)[i // 2] for i in index.tolist()]
    rows = [
        {
            "prompt_ids": feedback.prompts[i // 2],
            "completion_ids": answers[place],
            "KL_completion_ids": answers[place - 1],
            "label": i % 2 == 0,
        }
        for place, i in enumerate(index.tolist())
    ]
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    for mine, other in zip(session_of(lab).policy.inner.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_the_parity_batches_have_a_reference_point_on_either_side_of_zero(tiny_bench: Bench) -> None:
    """Else the comparison with TRL would miss one of the two branches of max(0, KL)."""
    points = []
    for seed in (1, 8):
        lab = open_vocabulary(nudge(tiny_bench.lab(), seed))
        batch = tiny_bench.source.feedback("annotator").labels(torch.tensor([0, 3, 4, 7, 9, 12, 15]), session_of(lab).pad)
        points.append(KTO().reference_point(lab, batch.rollouts).item())
    assert min(points) == 0 < max(points)
