"""Methods that train nothing and choose among answers: what they choose, what they pay, and what they may not give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isoalign.baselines.best_of_n import BestOfN
from isoalign.config.task import ModelConfig
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows
from isoalign.core.records import Budget
from isoalign.data.prompts import Prompt
from isoalign.evaluation import selection
from isoalign.stages.completions import completion_ids
from isoalign.stages.cutting import encode_prompts
from isoalign.training.lab import Lab
from workbench import Bench

PROMPTS = [Prompt(str(n), text, "here", "clean") for n, text in enumerate(["you are", "they say", "it is"])]
DRAWS, EACH = 2, 3


@dataclass
class Choice:
    """Chooses by a function of the answers, and remembers what it chose among."""

    score: Callable[[Rollouts], Any]
    draws: Any = EACH
    seen: tuple[list[int], ...] = ()

    def select(self, lab: Any, answers: Rollouts) -> Any:
        self.seen = tuple(completion_ids(answers))
        return self.score(answers)


def sums(answers: Rollouts) -> Tensor:
    return (answers.completion * answers.completion_mask).sum(1).float()


def choose(bench: Bench, work: Path, choice: Choice, flops: float = 1e15) -> tuple[list[dict[str, Any]], dict[Any, int]]:
    session = bench.session(Budget(flops))
    config = ModelConfig(str(bench.model), prompt_tokens=8, new_tokens=bench.new_tokens)
    selection.make_selection(work, choice, session, bench.language_model(), config, PROMPTS, DRAWS)
    return read_rows(work / selection.ANSWERS), dict(session.meter.items)


def test_of_every_few_answers_the_one_with_the_highest_score_is_kept(tiny_bench: Bench, tmp_path: Path) -> None:
    choice = Choice(sums)
    rows, bill = choose(tiny_bench, tmp_path, choice)
    assert len(choice.seen) == len(PROMPTS) * DRAWS * EACH
    groups = [choice.seen[start : start + EACH] for start in range(0, len(choice.seen), EACH)]
    assert [row["ids"] for row in rows] == [max(group, key=sum) for group in groups]
    assert [(row["prompt_id"], row["draw"]) for row in rows] == [(p.id, draw) for p in PROMPTS for draw in range(DRAWS)]
    assert set(bill) == {("policy", "sample")}
    first, _ = choose(tiny_bench, tmp_path, Choice(lambda answers: -torch.arange(len(answers)).float()))
    assert [row["ids"] for row in first] == [group[0] for group in groups], "the same answers, another choice"


def test_best_of_n_chooses_by_the_reward_model_and_pays_for_it(tiny_bench: Bench, tmp_path: Path) -> None:
    rows, bill = choose(tiny_bench, tmp_path, BestOfN(draws=EACH))  # type: ignore[arg-type]
    among = Choice(lambda answers: tiny_bench.source.reward("annotator")(answers))
    assert choose(tiny_bench, tmp_path, among)[0] == rows
    assert bill["reward", "forward"] > 0


def test_answers_are_those_that_were_sampled_whatever_select_does_to_them(tiny_bench: Bench, tmp_path: Path) -> None:
    def forge(answers: Rollouts) -> Tensor:
        answers.tokens[:, answers.prompt_length :] = 7
        return torch.zeros(len(answers))

    honest, _ = choose(tiny_bench, tmp_path, Choice(lambda answers: torch.zeros(len(answers))))
    assert choose(tiny_bench, tmp_path, Choice(forge))[0] == honest


def test_the_bill_is_of_one_choice_however_many_prompts_are_scored(tiny_bench: Bench, tmp_path: Path) -> None:
    """What a budget must cover, and so the largest number of answers to choose from, does not depend on the evaluation."""
    _, bill = choose(tiny_bench, tmp_path, Choice(sums))
    session = tiny_bench.session(Budget(1e15))
    config = ModelConfig(str(tiny_bench.model), prompt_tokens=8, new_tokens=tiny_bench.new_tokens)
    Lab(session).generate(encode_prompts(session.policy.tokenizer, PROMPTS[:1], config), EACH)
    assert bill == dict(session.meter.items)
    assert choose(tiny_bench, tmp_path / "..", Choice(sums), flops=sum(bill.values()))[1] == bill, "to the last unit"


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(lambda answers: torch.full((len(answers),), float("nan"))), "a score, not nan, for each of 18 answers"),
        (Choice(lambda answers: torch.zeros(3)), "a score, not nan, for each of 18 answers"),
        (Choice(lambda answers: None), "a score, not nan, for each of 18 answers"),
        (Choice(sums, draws=0), "needs a field draws: int of 1 or more"),
        (Choice(sums, draws=None), "needs a field draws: int of 1 or more"),
    ],
)
def test_invalid_scores_of_a_selection_are_refused_and_no_file_is_written(
    tiny_bench: Bench, tmp_path: Path, choice: Choice, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        choose(tiny_bench, tmp_path, choice)
    assert not list(tmp_path.iterdir())


def test_a_budget_that_does_not_cover_one_choice_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the best of 3 answers: flops: .* lower algorithm\.draws"):
        choose(tiny_bench, tmp_path, Choice(sums), flops=1000)
    assert not list(tmp_path.iterdir())
