"""Scorers of prompt and completion: VADER against the package's own code, the second lexicon by hand, and those of another
package, good ones and ones that misbehave."""

from __future__ import annotations

import importlib.util
import math
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoalign.core import plugins
from isoalign.core.errors import UserError
from isoalign.core.objective import TOXICITY, Objective
from isoalign.data.assets import ASSETS, asset_path
from isoalign.models import answer_scorers, scorers
from isoalign.models.answer_scorers import AnswerScorer, check_price, check_scorers, load_answer_scorer
from isoalign.models.polarity import Polarity
from isoalign.models.vader import Vader
from workbench import Terminal, complaint

SENTIMENT = Objective("sentiment", True, (-1.0, 1.0), 0.0)

SENTENCES = [
    "", "the and of", "VADER is smart, handsome, and funny.", "VADER is VERY SMART, handsome, and FUNNY!!!",
    "The book was good.", "The book was kind of good.", "The plot was good, but the characters are uncompelling.",
    "Today only kinda sux! But I'll get by, lol", "At least it isn't a horrible book.", "Catch utf-8 emoji such as 💘 and 💋",
    "Not bad at all", "It is never so good as this", "without a doubt an excellent idea", "no good or bad thing",
    "That was the shit", "to die for", "least interesting", "at least interesting", "Make sure you :) or :D today!",
    "Is it good??", "Is it good????", "sort of nice", "yeah right, great", "I HATE you", "hate", "isn't this wonderful",
]  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], float]:
    """The compound score of the package's own code, out of its wheel."""
    folder = tmp_path_factory.mktemp("vader")
    flags = ["--quiet", "--no-deps", "--no-input", "--disable-pip-version-check", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *flags, "--dest", str(folder), ASSETS["vader"].wheel]
    subprocess.run(command, check=False)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        pytest.skip("no package index can be reached")
    zipfile.ZipFile(wheels[0]).extractall(folder)
    spec = importlib.util.spec_from_file_location("their_vader", folder / "vaderSentiment" / "vaderSentiment.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    analyzer = module.SentimentIntensityAnalyzer()
    return lambda text: float(analyzer.polarity_scores(text)["compound"])


def test_vader_gives_the_score_of_the_package_for_sentences_and_for_random_words(original: Callable[[str], float]) -> None:
    own, rng = Vader.load(asset_path("vader")), random.Random(0)
    rules = "so never this without doubt no or nor but least at very kind of sort VERY GOOD isn't yeah right ! ?? ???? to die"
    words = [*list(own.valence)[::9], *rules.split() * 30, *list(own.emojis)[:20]]
    texts = [*SENTENCES, *(" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(3000))]
    assert [text for text in texts if own(text) != original(text)] == []
    assert own("") == 0.0


def test_polarity_is_the_mean_of_the_words_that_have_one_with_negations_turned() -> None:
    made = Polarity({"good": 0.6, "bad": -0.8, "late": 0.0})
    assert made("A good, bad and late day") == pytest.approx(-0.1)
    assert made("It isn’t very good") == pytest.approx(-0.3), "a negation two words before"
    assert made("not a word of it is good") == pytest.approx(0.6), "too far before"
    assert made("nothing here") == 0.0
    real = Polarity.load(asset_path("polarity"))
    assert real("a wonderful day") > 0.5
    assert real("an awful day") < -0.5


def test_the_two_lexicons_are_read_as_scorers_of_which_more_is_better() -> None:
    for name in ("vader", "polarity"):
        scorer = load_answer_scorer(name)
        assert (scorer.higher_is_better, scorer.bounds) == (True, (-1.0, 1.0))
        good, bad = scorer(["Is it?", "Is it?"], ["It is wonderful.", "It is awful."])
        assert good is not None
        assert bad is not None
        assert good > 0 > bad


def test_a_classifier_reads_the_completion_alone_and_less_of_it_is_better() -> None:
    texts = ["You are an idiot.", "Thank you."]
    scorer = load_answer_scorer("tox_block")
    assert scorer(["x", "y"], texts) == scorers.load_scorer("tox_block")(texts)
    assert scorer.higher_is_better is False
    assert [scorers.direction(name) for name in ("hf:a/b", "hf:a/b#toxic", "hf:a/b#POSITIVE")] == [False, False, None]


# -- of another package ------------------------------------------------------------------------------------------------

GOOD = """
VERSION = 3
HIGHER_IS_BETTER = True
BOUNDS = (0, 1)

def load(device):
    def score(prompts, completions):
        return [None if not answer else float(prompt.split()[0] in answer) for prompt, answer in zip(prompts, completions)]
    return score
"""
WRONG = {
    "undirected": (GOOD.replace("HIGHER_IS_BETTER", "MORE"), "does not define HIGHER_IS_BETTER"),
    "unsure": (GOOD.replace("= True", "= 'yes'"), "HIGHER_IS_BETTER True or False"),
    "unbound": (GOOD.replace("(0, 1)", "(1, 0)"), "BOUNDS must be"),
    "versionless": (GOOD.replace("VERSION = 3", ""), "does not define VERSION"),
    "loadless": (GOOD.replace("def load", "def unload"), "does not define load"),
    "broken": ("import nowhere_to_be_found\n", "can't be imported"),
}
RAISING = GOOD.replace("return [None", "assert 'x' not in completions, 'an x'\n        return [None")
IMPURE = {  # a score of the call instead of the answer, and what is said of it
    "batch": (
        GOOD.replace("return [", "return [len(a) / max(map(len, completions)) for a in completions]\n        ["),
        "alone",
    ),
    "place": (GOOD.replace("return [", "return [i / 9 for i, _ in enumerate(completions)]\n        ["), "in another order"),
    "chance": (
        GOOD.replace("return [", "import random\n        return [random.random() for _ in completions]\n        ["),
        "again",
    ),
    "gaps": (
        GOOD.replace("return [", "return [0.5 if len(completions) > 1 else None] * len(completions)\n        ["),
        "alone",
    ),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of scorers, as pip would have installed it."""
    home, info = tmp_path / "site" / "judging", tmp_path / "site" / "judging-0.1.dist-info"
    home.mkdir(parents=True)
    info.mkdir()
    texts = {"echo": GOOD, "raising": RAISING, "vader": GOOD} | {name: text for name, (text, _) in (WRONG | IMPURE).items()}
    (home / "__init__.py").touch()
    for name, text in texts.items():
        (home / f"{name}.py").write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: judging\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(
        "[isoalign.scorers]\n" + "\n".join(f"{name} = judging.{name}" for name in texts if name != "vader")
    )
    monkeypatch.syspath_prepend(str(home.parent))
    for cached in (plugins.entry_points, load_answer_scorer):
        cached.cache_clear()
    yield home.parent
    for cached in (plugins.entry_points, load_answer_scorer):
        cached.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "judging"]:
        del sys.modules[name]


@pytest.mark.usefixtures("site")
def test_a_scorer_of_another_package_sees_prompt_and_completion_and_is_named_with_its_version() -> None:
    scorer = load_answer_scorer("echo")
    assert scorer(["yes or no?", "yes or no?", "yes?"], ["yes", "no", ""]) == [1.0, 0.0, None]
    assert (scorer.higher_is_better, scorer.bounds) == (True, (0, 1))
    assert scorers.scorer_identity("echo") == "echo 3 of judging 0.1"


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", WRONG)
def test_a_scorer_that_is_not_whole_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=re.escape(WRONG[name][1])) as raised:
        load_answer_scorer(name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("site")
def test_a_scorer_that_raises_is_one_line_with_the_row() -> None:
    with pytest.raises(UserError, match=r"the scorer raising fails on row 2 \('x'\): AssertionError: an x") as raised:
        load_answer_scorer("raising")(["a", "b", "c"], ["a", "x", "x"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([0.5], r"a list of 2 scores, not 1"),
        (0.5, "not a float"),
        ([0.5, 1.5], r"gave 1.5 for row 2 \('b'\), which is not a finite number in \[0.0, 1.0\]"),
        ([math.nan, 0.5], "gave nan for row 1"),
        (["high", 0.5], "gave 'high' for row 1"),
    ],
)
def test_what_is_no_score_is_refused_with_the_row(returned: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        AnswerScorer("odd", lambda _, __: returned, True)(["p", "p"], ["a", "b"])


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", IMPURE)
def test_a_scorer_that_depends_on_its_call_or_on_chance_is_refused_before_it_scores_anything(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"the scorer {name} gives '.*' \S+ beside other answers and \S+ {IMPURE[name][1]}; a"
    ):
        check_scorers(name, "echo", Objective("echo", True), "cpu", ["yes or no?"])
    with pytest.raises(UserError, match="must depend on its own prompt and answer alone"):
        check_price(name, "cpu", ["yes or no?", "I or you?"])


@pytest.mark.usefixtures("site")
def test_a_scorer_of_another_package_is_tried_once_on_few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    scorer = load_answer_scorer("echo")
    counted = replace(scorer, score=lambda prompts, texts: [calls.append(len(texts))] * 0 or scorer.score(prompts, texts))
    monkeypatch.setattr(answer_scorers, "load_answer_scorer", lambda *_: counted)
    check_scorers("echo", "echo", Objective("echo", True), "cpu", ["tried once?"])
    check_price("echo", "cpu", ["tried once?"])
    assert calls == [4, 4, 4, 1, 1, 1, 1]


@pytest.mark.parametrize("rude", [0.9, 0.0003], ids=["that only a rude text shows", "of shares near 0"])
def test_a_score_that_depends_on_longer_texts_is_refused(rude: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score of 0 for all but the rude text; and one whose change is small beside 1 and large beside itself."""

    def score(_: Any, texts: list[str]) -> list[float]:
        longest = max(map(len, texts))
        return [rude * (len(text) / longest) ** 2 if "idiot" in text else 0.0 for text in texts]

    monkeypatch.setattr(answer_scorers, "load_answer_scorer", lambda *_: AnswerScorer(f"padded {rude}", score, False))
    with pytest.raises(UserError, match=r"gives 'You are a stupid idiot\.'"):
        check_price(f"padded {rude}", "cpu", ["so"])


def test_scores_may_be_numbers_of_numpy() -> None:
    given = [np.float32(0.5), np.float64(0.25), np.int64(1)]
    found = AnswerScorer("numpy", lambda _, __: given, True)(["p"] * 3, ["a", "b", "c"])
    assert (found, set(map(type, found))) == ([0.5, 0.25, 1.0], {float})
    with pytest.raises(UserError, match="for row 1"):
        AnswerScorer("numpy", lambda _, __: [np.float32("nan")], True)(["p"], ["a"])


def test_direction_and_bounds_must_be_the_objective_s() -> None:
    check_scorers("vader", "polarity", SENTIMENT, "cpu")
    check_scorers("tox_block", "toxic_classifier", TOXICITY, "cpu")
    with pytest.raises(UserError, match=r"scorer: of the scorer vader higher is better, of task.objective toxicity"):
        check_scorers("vader", "toxic_classifier", TOXICITY, "cpu")
    with pytest.raises(UserError, match=r"task.evaluation.second_scorer: of the scorer tox_block lower is better"):
        check_scorers("vader", "tox_block", SENTIMENT, "cpu")
    with pytest.raises(UserError, match=r"set task.objective.bounds=\[-1,1\]"):
        check_scorers("vader", "polarity", Objective("sentiment", True), "cpu")


@pytest.mark.slow
def test_the_command_line_refuses_a_scorer_that_contradicts_or_fails_before_training(furnished: Terminal, site: Path) -> None:
    furnished.env["PYTHONPATH"] = str(site)
    words = ["algorithm=sft", "task.evaluation.draws=2", "task.evaluation.curve_draws=1"]
    line = complaint(furnished(furnished.run(*words, "task.evaluation.scorer=vader")))
    assert "of the scorer vader higher is better, of task.objective toxicity lower is better" in line
    fails = (site / "judging" / "raising.py").read_text().replace("'x' not in completions", "False")
    (site / "judging" / "raising.py").write_text(fails)
    goal = ["task.objective.name=echoing", "task.objective.higher_is_better=true", "task.evaluation.second_scorer=echo"]
    line = complaint(furnished(furnished.run(*words, *goal, "task.evaluation.scorer=raising")))
    assert "the scorer raising fails on row 1" in line
