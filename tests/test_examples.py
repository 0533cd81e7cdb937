"""The scripts of examples/, run as after a fresh clone: each alone, in an empty folder, without network."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# What each must print, worked by hand or known from elsewhere.
SAYS = {
    "feedback_file": [
        "left out            pairs of equal answers: 1",  # the fifth row
        "agreement           0.500 on 2 items",  # ann and bob agree on the sky and not on the neighbour
        "1 of 1, in 2 rows",  # the prompt to be held out shares nine words with two rows
        "4 comparisons; the first: ' blue today.' over ' stupid.'",
    ],
    "metrics_alone": [
        "toxicity_fraction                0.200",  # one of five scores is .5 or more, the sixth is missing
        "toxicity_reduction               0.182",  # (.38 + .04 + .29 + .00 + .20) / 5
        "empty_rate                       0.167",
        "refusal_rate                     0.167",
    ],
    "own_judge": [
        "P = 0.50  He said",  # .7 when shown first, .3 when shown second
        "position bias 0.04, verdicts that flip with the order 20%",  # .2 in one of five questions, 0 in the others
        "agrees with people on 70%",  # three, one half, and one that it gets wrong
    ],
    "own_method": ["30 steps", "passed budget:", "passed pure:"],
    "own_metric": [
        "capitals             0.200",  # (0 + 0 + 0 + 0 + 1) / 5; " ..." has no letter
        "1 missing",
        "capitals_reduction   0.313",  # (4/10 + 2/4 + 4/6 + 0 + 0) / 5
    ],
    "price_of_a_step": [
        "4,212,992 weights, 3,162,112 of them multiplied for each token",  # as many as in the nano model that is shipped
        "a round of PPO costs",
    ],
    "read_cards": ["of 4.5e+12 FLOP in 52 steps", "toxicity_mean: not resolved", "ctrl sft_chosen     3 0.054"],
    "statistics_alone": [
        "after Holm's correction",
        "rank of A: 2 to 3",
        "rank of B: 1 to 1",
        "Holm on p-values from anywhere: [0.03, 0.06, 0.06]",  # 3 x .01, then 2 x .03, then no less than that
    ],
}


def test_there_is_an_example_for_each_thing_said() -> None:
    assert [file.stem for file in EXAMPLES] == sorted(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs_alone_in_an_empty_folder_and_says_what_it_should(file: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ISOALIGN", "WANDB", "PYTHONPATH"))}
    offline = {"HF_HUB_OFFLINE": "1", "ISOALIGN_OFFLINE": "1", "ISOALIGN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=kept | offline | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for words in SAYS[file.stem]:
        assert words in done.stdout
    assert not [left for left in tmp_path.rglob("*") if left.is_file()]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_short_and_asks_for_no_private_name(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not [name.name for name in node.names if name.name.startswith("_")]
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), ast.unparse(node)
