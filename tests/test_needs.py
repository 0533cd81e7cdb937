"""What a method asks of a task is known, and refused in a line where the task has none, before anything is made."""

import re
from pathlib import Path
from typing import Any

import pytest

from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.core.store import Store
from isoalign.runs.needs import CHECKS, check_needs
from isoalign.runs.overrides import task_named
from isoalign.stages.shared import SharedStages
from isoalign.training import registry
from isoalign.training.lab import Lab
from isoalign.training.needs import needs_of
from workbench import Bench, Terminal, algorithms, complaint, finished, loops, quick, small


class Listening(Lab):
    """A lab that notes which services are asked for."""

    asked: set[str]

    def pairs(self, *args: Any, **named: Any) -> Any:
        self.asked.add("pairs")
        return super().pairs(*args, **named)

    def labels(self, *args: Any, **named: Any) -> Any:
        self.asked.add("labels")
        return super().labels(*args, **named)

    def revisions(self, *args: Any, **named: Any) -> Any:
        self.asked.add("revisions")
        return super().revisions(*args, **named)

    def reward(self, rollouts: Any, labelled_by: str = "annotator") -> Any:
        self.asked.add("reward" if labelled_by == "annotator" else "judge_reward")
        return super().reward(rollouts, labelled_by)

    def judge(self, *args: Any, **named: Any) -> Any:
        before = set(self.asked)
        found = super().judge(*args, **named)
        self.asked = before | {"judge"}  # by the scores of this judge, which another one does without
        return found

    def judge_score(self, *args: Any, **named: Any) -> Any:
        self.asked.add("judge_score")
        return super().judge_score(*args, **named)

    def teacher(self, *args: Any, **named: Any) -> Any:
        self.asked.add("teacher")
        return super().teacher(*args, **named)


OTHER = [
    (name, small(name, labelled_by=by)) for name in ("online_dpo", "xpo", "sppo", "nash_md") for by in ("judge", "reward")
]


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        *quick(algorithms(), "dpo", "cai-canonical", "gkd"),
        *quick(loops()),
        *(pytest.param(*each, id=f"{each[0]}-{each[1].labelled_by}", marks=pytest.mark.slow) for each in OTHER),
    ],
)
def test_a_method_asks_for_what_it_says_or_its_code_names_and_for_nothing_else(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any
) -> None:
    trainer = tiny_bench.trainer(algorithm, Budget(4e8, steps=60), tmp_path)
    trainer.lab.__class__, trainer.lab.asked = Listening, set()  # type: ignore[assignment, attr-defined]
    trainer.run(name)
    assert trainer.lab.asked == needs_of(algorithm) - {"all_weights"}  # type: ignore[attr-defined]


def test_every_need_has_a_check() -> None:
    for name in registry.algorithm_names():
        assert needs_of(registry.algorithm(name)()) <= CHECKS.keys()


LACKING = [
    ("tr_dpo", ["FILE"], "holds unpaired feedback; preference pairs must come from comparisons"),
    ("nash_md", ["FILE"], "holds unpaired feedback; a reward model must come from comparisons"),
    ("cai", [], "revisions need a constitution"),
    ("rlaif", ["algorithm.mode=direct", "task.judge.kind=lm", "task.judge.model=nano"], "cannot score single ones"),
    ("kto", ["OTHER"], "the simulated annotator knows toxicity alone"),
    ("rso", ["OTHER"], "the simulated annotator knows toxicity alone"),
    ("online_dpo", ["OTHER"], "the classifier judge knows toxicity alone"),
    ("sppo", ["OTHER", "algorithm.labelled_by=judge"], "the classifier judge knows toxicity alone"),
    ("trl_tr_dpo", ["task.model.lora=4"], "set task.model.lora=0"),
    ("gkd", [], "it learns from a teacher, and the task has none: set task.teacher"),
]
TYPED = {
    "OTHER": ["task.objective.name=warmth", "task.evaluation.scorer=rule:words_at_least:3",
              "task.evaluation.second_scorer=rule:lowercase_start", "task.objective.higher_is_better=true"],
}  # fmt: skip


def typed(words: list[str], folder: Path) -> list[str]:
    """The words with what their capitals stand for."""
    thumbs = folder / "thumbs.jsonl"
    thumbs.write_text('{"prompt": "you are", "completion": " kind", "label": true}\n' * 3)
    known = TYPED | {"FILE": [f"task.feedback.file={thumbs}"]}
    return [each for word in words for each in known.get(word, [word])]


@pytest.mark.parametrize(("name", "words", "line"), LACKING, ids=lambda each: each if isinstance(each, str) else "")
def test_what_a_task_does_not_have_is_found(tmp_path: Path, name: str, words: list[str], line: str) -> None:
    settings = [word for word in typed(words, tmp_path) if "task." in word]
    own = dict(word.removeprefix("algorithm.").split("=") for word in words if word.startswith("algorithm."))
    shared = SharedStages(task_named("nano", settings), Store(tmp_path / "store"))
    with pytest.raises(UserError, match=re.escape(line)):
        check_needs(small(name, **own), shared)
    assert not finished(tmp_path / "store")


@pytest.mark.slow
def test_what_a_task_does_not_have_is_one_line_before_anything_is_made(terminal: Terminal, tmp_path: Path) -> None:
    for name, words, line in LACKING:
        said = complaint(terminal(terminal.run(f"algorithm={name}", *typed(words, tmp_path))))
        assert line in said, (name, said)
        assert not finished(terminal.store), name
