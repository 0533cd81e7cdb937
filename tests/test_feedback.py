"""Feedback: verdicts become pairs and labels, a walk over them misses none and goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoalign.core.batches import Prompts
from isoalign.core.errors import UserError
from isoalign.data.preferences import Cursor, Feedback, rollouts, select
from isoalign.training.lab import Lab, session_of
from workbench import Bench

ROW = {"pair_id": "a-01", "prompt_ids": [0, 5], "chosen_ids": [6], "rejected_ids": [7, 8]}
PAD = 1


def write(folder: Path, rows: list[Any]) -> Path:
    (folder / "pairs.jsonl").write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    (folder / "record.json").write_text(json.dumps({"source": "simulated", "flops_each": {"feedback": 3}}))
    return folder


@given(size=st.integers(1, 9), seed=st.integers(0, 99), counts=st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_a_cursor_covers_every_epoch_exactly_however_it_is_cut(size: int, seed: int, counts: list[int]) -> None:
    cursor = Cursor(size, seed)
    walked = [item for count in counts for item in cursor.take(count).tolist()]
    for start in range(0, len(walked) - size + 1, size):
        assert sorted(walked[start : start + size]) == list(range(size))
    assert Cursor(size, seed).take(sum(counts)).tolist() == walked
    assert cursor.position == sum(counts)


@given(size=st.integers(1, 9), before=st.integers(0, 30), after=st.integers(1, 30))
def test_a_cursor_goes_on_from_its_position_alone(size: int, before: int, after: int) -> None:
    whole = Cursor(size, seed=3)
    whole.take(before)
    assert Cursor(size, 3, before).take(after).tolist() == whole.take(after).tolist()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [tuple(Cursor(50, seed, epoch * 50).take(50).tolist()) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_pairs_hold_both_answers_behind_the_same_prompt(tmp_path: Path) -> None:
    other = ROW | {"prompt_ids": [0, 5, 9], "chosen_ids": [2, 3, 4], "rejected_ids": [5]}
    feedback = Feedback.read(write(tmp_path, [ROW, other]))
    assert len(feedback) == 2
    pairs = feedback.pairs(torch.tensor([1, 0]), PAD)
    assert pairs.index.tolist() == [1, 0]
    assert pairs.chosen.tokens.tolist() == [[0, 5, 9, 2, 3, 4], [PAD, 0, 5, 6, PAD, PAD]]
    assert pairs.chosen.mask.long().tolist() == [[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0]]
    assert pairs.rejected.tokens.tolist() == [[0, 5, 9, 5, PAD], [PAD, 0, 5, 7, 8]]
    assert pairs.rejected.prompt_length == pairs.chosen.prompt_length == 3


def test_every_verdict_calls_its_chosen_answer_good_and_its_rejected_one_bad(tmp_path: Path) -> None:
    feedback = Feedback.read(write(tmp_path, [ROW, ROW | {"chosen_ids": [9]}]))
    labels = feedback.labels(torch.tensor([0, 1, 2, 3]), PAD)
    assert labels.desirable.tolist() == [True, False, True, False]
    assert labels.index.tolist() == [0, 0, 1, 1]
    assert labels.rollouts.completion.tolist() == [[6, PAD], [7, 8], [9, PAD], [7, 8]]


@pytest.mark.parametrize(
    "bad",
    [
        "{broken\n",
        "[]\n",
        "3\n",
        {key: value for key, value in ROW.items() if key != "rejected_ids"},
        ROW | {"chosen_ids": []},
        ROW | {"prompt_ids": None},
        ROW | {"chosen_ids": "text"},
        ROW | {"rejected_ids": [1, "two"]},
        ROW | {"rejected_ids": [1, -2]},
    ],
)
def test_a_malformed_row_is_named_with_its_file(tmp_path: Path, bad: Any) -> None:
    folder = write(tmp_path, [ROW, bad, ROW])
    with pytest.raises(UserError, match=r"pairs\.jsonl: row 2: not a preference pair") as caught:
        Feedback.read(folder)
    assert "\n" not in str(caught.value)


def test_a_row_may_hold_any_line_separator_that_is_not_a_newline(tmp_path: Path) -> None:
    row = ROW | {"chosen": "one\u2028two\x85three\x1cfour"}
    file = write(tmp_path, []) / "pairs.jsonl"
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in [row, ROW]), encoding="utf-8")
    assert len(Feedback.read(tmp_path)) == 2


def test_rollouts_pad_prompts_on_the_left_and_answers_on_the_right() -> None:
    batch = rollouts([[0], [0, 2, 3]], [[4, 5], [6]], PAD)
    assert batch.tokens.tolist() == [[PAD, PAD, 0, 4, 5], [0, 2, 3, 6, PAD]]
    assert batch.completion.tolist() == [[4, 5], [6, PAD]]
    assert batch.completion_mask.tolist() == [[True, True], [True, False]]


def test_a_batch_cut_by_rows_keeps_its_columns_together(tiny_bench: Bench) -> None:
    pairs = tiny_bench.source.feedback("annotator").pairs(torch.arange(6), PAD)
    part = pairs[torch.tensor([4, 1])]
    assert len(part) == 2
    assert part.index.tolist() == [4, 1]
    assert torch.equal(part.chosen.tokens, pairs.chosen.tokens[[4, 1]])
    assert part.rejected.prompt_length == pairs.rejected.prompt_length


def test_selected_prompts_lose_the_padding_that_none_of_them_needs() -> None:
    tokens = torch.tensor([[1, 1, 0], [1, 0, 2], [0, 2, 3]])
    prompts = Prompts(tokens, tokens != 1, torch.arange(3))
    part = select(prompts, torch.tensor([1, 0]))
    assert part.tokens.tolist() == [[0, 2], [1, 0]]
    assert part.mask.tolist() == [[True, True], [False, True]]
    assert part.index.tolist() == [1, 0]


def test_all_verdicts_of_an_epoch_are_read_before_one_is_read_again(tiny_lab: Lab) -> None:
    size = len(session_of(tiny_lab).source.feedback("annotator"))
    seen = torch.cat([tiny_lab.pairs(size - 4).index, tiny_lab.pairs(4).index])
    assert sorted(seen.tolist()) == list(range(size))
