"""What the benchmark of training steps makes of measured times, by hand, and that its sides do the same work."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from isoalign.core.store import Store
from isoalign.models.loading import load_model

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "scripts" / "benchmarks"
sys.path.append(str(BENCHMARKS))

import runs  # noqa: E402
import steps  # noqa: E402
import steps_trl  # noqa: E402
from work import Work, write  # noqa: E402

spec = importlib.util.spec_from_file_location("all_benchmarks", BENCHMARKS / "all.py")
assert spec is not None
assert spec.loader is not None
everything = importlib.util.module_from_spec(spec)
spec.loader.exec_module(everything)

SMALL = Work(pairs=4, batch=2, prompt=3, answer=2)


def test_an_epoch_bears_what_was_computed_before_it_and_the_first_step_does_not_count() -> None:
    times, work = steps.Round().times, Work(pairs=6, batch=2)
    ours = {"marks": [0.0, 5.0, 6.0, 7.0, 7.5, 8.0, 8.5], "flops": [0, 9, 19, 29, 30, 30, 30], "epoch": 3, "each": 1}
    trl = {"marks": [0.0, 5.0, 8.0, 11.0, 13.0, 15.0, 17.0], "precomputing": 3.0, "epoch": 3}
    steps.add(times, "dpo", "ours", ours, work, speed=20.0)
    steps.add(times, "dpo", "TRL", trl, work, speed=20.0)
    assert times[", first epoch"] == {"ours": 1000.0, "machine": 500.0, "TRL": 4000.0}  # (11 - 5) / 2 + 3 / 3
    assert times[", later epochs"] == {"ours": 500.0, "TRL": 2000.0}


def test_updates_of_one_iteration_are_steps() -> None:
    """Four updates on each batch of samples: TRL's PPO tells of one iteration at a time, ours of each update."""
    times, work = steps.Round().times, Work()
    steps.add(
        times, "ppo", "ours", {"marks": [0, 9, 9, 9, 9, 10, 11, 12, 13], "flops": [0] * 9, "epoch": 0, "each": 4}, work, 1.0
    )
    steps.add(times, "ppo", "TRL", {"marks": [0, 20, 32], "epoch": 0, "each": 1, "updates": 4}, work, 1.0)
    assert times[""]["ours"] == 1000.0
    assert times[""]["TRL"] == 3000.0


def test_ratios_are_taken_round_by_round() -> None:
    assert steps.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == "2.00 (1.00 to 3.00)"
    assert steps.ratio([2.0], [1.0, 3.0]) == "–"  # a side that failed in some round


def test_kto_pairs_each_prompt_of_a_batch_with_the_answer_before() -> None:
    rows = {"prompts": [[1], [2]], "chosen": [[11], [21]], "rejected": [[12], [22]], "batch": 1}
    table = steps_trl.table("kto", rows)
    assert [(row["completion_ids"], row["KL_completion_ids"], row["label"]) for row in table] == [
        ([11], [12], True), ([12], [11], False), ([21], [22], True), ([22], [21], False),
    ]  # fmt: skip


@pytest.mark.parametrize("part", everything.PARTS)
def test_the_page_has_a_place_for_every_part(part: str) -> None:
    page = everything.PAGE.read_text(encoding="utf-8")
    one, other, again = (f"`python {part}.py`, {name}, today:\n\n| {n} |" for name, n in [("A-1", 1), ("B-2", 2), ("A-1", 3)])
    written = everything.replaced(page, part, one, "A-1")
    assert everything.replaced(written, part, one, "A-1") == written
    both = everything.replaced(written, part, other, "B-2")
    assert f"\n{one}\n\n{other}\n<!-- end of {part} -->\n" in both
    assert f"\n{again}\n\n{other}\n<!-- end of {part} -->\n" in everything.replaced(both, part, again, "A-1")
    with pytest.raises(ValueError, match="no marks of nothing"):
        everything.replaced(page, "nothing", "", "A-1")


@pytest.mark.slow
def test_both_sides_begin_with_the_same_loss_on_the_same_rows(tmp_path: Path) -> None:
    """SFT on rows that are all one batch: the loss that TRL logs is ours before any update."""
    write(SMALL, tmp_path)
    told = json.loads((tmp_path / "work.json").read_text())
    rows = told["rows"]
    model, _ = load_model(str(tmp_path / "model"))
    tokens = torch.tensor([p + c for p, c in zip(rows["prompts"], rows["chosen"], strict=True)])
    logp = model(input_ids=tokens).logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    expected = -logp[:, SMALL.prompt - 1 :].mean().item()
    told["work"] |= {"batch": 4, "epochs": 1}
    (tmp_path / "work.json").write_text(json.dumps(told))
    command = [sys.executable, str(BENCHMARKS / "steps_trl.py"), str(tmp_path), "sft", "default"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (loss,) = (
        float(line.split("'train_loss': '")[1].split("'")[0]) for line in done.stdout.splitlines() if "train_loss" in line
    )
    assert abs(loss - expected) < 1e-3 * expected


def test_a_stage_is_told_without_those_that_it_makes_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = Store(tmp_path), iter([0.0, 1.0, 4.0, 10.0])  # the outer stage takes 10 s, the inner one 3 of them
    monkeypatch.setattr(runs.time, "process_time", lambda: next(clock))

    def score(_: Path) -> None:
        store.get("samples", "2", {}, lambda _: None)

    with runs.stages_timed() as spent:
        store.get("scores", "1", {"steps": 5}, score)
    assert spent == {"samples": 3.0, "scores of the curve": 7.0}
