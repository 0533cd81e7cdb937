"""The win rate: rates, flips and bias by hand, length control against statsmodels, who may judge, and runs to the board."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from isoalign.config.evaluation import OFF, EvaluationConfig, WinRateConfig
from isoalign.config.fill import build_config
from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.records import Contest, Question, Sample
from isoalign.core.store import Store, recipe_fields
from isoalign.core.text import text_fingerprint
from isoalign.data.opponents import read_answers
from isoalign.evaluation import metrics
from isoalign.evaluation.card import read_card
from isoalign.evaluation.metrics import ScoredSamples, win_rate
from isoalign.evaluation.win_rate import make_contests, read_contests
from isoalign.feedback.judges.scorer import ScorerJudge, load_scorer_judge
from isoalign.feedback.judges.verdicts import Showing, Verdict, in_both_orders
from isoalign.models.answer_scorers import AnswerScorer
from isoalign.runs.win_rate import taught
from isoalign.stages.shared import SharedStages
from isoalign.stats import exact_ends
from isoalign.stats.length_control import length_controlled
from isoalign.tools.tuning.search import Search
from workbench import COMMAND, Terminal, complaint, finished, stages


def contest(prompt: str, first: float | None, second: float | None, draw: int = 0, **more: Any) -> Contest:
    settings: dict[str, Any] = {"length": 10, "other_length": 10} | more
    return Contest(prompt, draw, first, second, **settings)


def scored(contests: Sequence[Contest]) -> ScoredSamples:
    cells = sorted({(c.prompt_id, c.draw) for c in contests})
    samples = [Sample(p, d, "", "", [], None, None, None, None, "here", "even" if p < "c" else "odd") for p, d in cells]
    return ScoredSamples(samples, "main", {"main": [0.1] * len(samples)}, contests=list(contests))


BY_HAND = [
    contest("a", 0.9, 0.8),  # wins in both orders: 1
    contest("b", 0.7, 0.2),  # turns with the order, for the first place: 1/2
    contest("c", 0.5, 0.9),  # a tie and a win: 3/4
    contest("d", 0.1, 0.4),  # loses both: 0
    contest("e", None, 0.9, missing="refused"),  # no verdict in one order: a tie, counted
    contest("f", 0.5, 0.5, equal=True),  # the same text: a tie of which nobody was asked
]


def test_ties_are_halves_flips_are_ties_and_what_is_missing_is_counted() -> None:
    found = win_rate.measure(scored(BY_HAND))
    assert found["win_rate"].value == pytest.approx((1 + 0.5 + 0.75 + 0 + 0.5 + 0.5) / 6)
    assert (found["win_rate"].n, found["win_rate"].missing) == (6, 0)
    assert (found["judge_flips"].n, found["judge_flips"].missing) == (4, 1)
    assert found["win_rate_weighted"].value == pytest.approx((0.85 + 0.45 + 0.7 + 0.25 + 0.5 + 0.5) / 6)
    # of the four that were answered in both orders: one flips; half the difference of the orders is 0, 1/2, -1/4, 0
    assert found["judge_flips"].value == pytest.approx(1 / 4)
    assert found["judge_position_bias"].value == pytest.approx((0 + 0.5 - 0.25 + 0) / 4)
    assert found["judge_missing"].value == pytest.approx(1 / 5)  # of those that were asked about
    assert found["judge_questions"].value == 2 * 5
    assert found["win_rate/even"].value == pytest.approx((1 + 0.5) / 2)
    assert "no verdict on 20.0%" in str(win_rate.flags(found, None)[0])


def test_a_judge_that_sees_the_place_alone_gives_a_half_and_flips_every_time() -> None:
    found = win_rate.measure(scored([contest(name, 1.0, 0.0) for name in "abcdef"]))
    assert [found[name].value for name in ("win_rate", "judge_flips", "judge_position_bias")] == [0.5, 1, 0.5]
    assert any("shown first in 100%" in flag.text for flag in win_rate.flags(found, None))
    found = win_rate.measure(scored([contest(name, 0.0, 1.0) for name in "abcdef"]))
    assert [found[name].value for name in ("win_rate", "judge_flips", "judge_position_bias")] == [0.5, 1, -0.5]
    assert any("shown second in 100%" in flag.text for flag in win_rate.flags(found, None))


def test_exchanging_policy_and_opponent_mirrors_the_win_rate_and_keeps_the_judge() -> None:
    mirrored = [
        replace(
            c, first=None if c.second is None else 1 - c.second, second=None if c.first is None else 1 - c.first,
            length=c.other_length, other_length=c.length,
        )
        for c in BY_HAND
    ]  # fmt: skip
    ours, theirs = win_rate.measure(scored(BY_HAND)), win_rate.measure(scored(mirrored))
    assert theirs["win_rate"].value == pytest.approx(1 - (ours["win_rate"].value or 0))
    for name in ("judge_flips", "judge_position_bias", "judge_missing"):
        assert theirs[name].value == pytest.approx(ours[name].value)


def test_a_run_without_a_judge_has_no_such_family_and_its_keys_know_none() -> None:
    run = scored(BY_HAND)
    assert "win_rate" in metrics.measure_all(run)
    assert "win_rate" not in metrics.measure_all(replace(run, contests=[]))
    assert "win_rate" not in metrics.versions()
    assert metrics.versions(judged=True)["win_rate"] == win_rate.VERSION
    assert set(metrics.values_all(run, ["win_rate"])["win_rate"]) == set("abcdef"), "what compare pairs by"


@pytest.mark.parametrize(
    ("contests", "said"),
    [
        ([contest("z", 1.0, 1.0)], "of other samples, for example prompt z draw 0"),
        ([contest("a", 1.0, 1.0), contest("a", 0.0, 0.0)], "2 verdicts on prompt a draw 0"),
        ([contest("a", 1.5, 1.0)], r"verdict: value 0 is 1.5"),
    ],
)
def test_verdicts_of_other_samples_are_refused(contests: list[Contest], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(scored(BY_HAND), contests=contests)


# -- length control ----------------------------------------------------------------------------------------------------


def drawn(n: int, theta: float, phi: float, shift: float, seed: int = 0) -> tuple[Any, Any]:
    """Wins and differences of lengths from the model itself; answers longer by ``shift`` deviations."""
    rng = np.random.default_rng(seed)
    delta = np.round(rng.normal(40 * shift, 40, n))
    rate = 1 / (1 + np.exp(-(theta + phi * np.tanh(delta / delta.std(ddof=1)))))
    return (rng.random((2, n)) < rate).mean(0), delta  # two orders: 0, 1/2 or 1


@pytest.mark.parametrize(("theta", "phi", "shift"), [(0.0, 2.0, 1.0), (0.7, -1.0, 0.5), (-1.0, 0.0, 0.0), (0.3, 3.0, -1.0)])
def test_length_control_is_the_logistic_regression_of_statsmodels(theta: float, phi: float, shift: float) -> None:
    wins, delta = drawn(400, theta, phi, shift)
    x = np.tanh(delta / np.std(delta, ddof=1))
    fit = sm.GLM(wins, sm.add_constant(x), family=sm.families.Binomial()).fit()
    found = length_controlled(wins, delta, [str(i) for i in range(len(wins))])
    assert found.value == pytest.approx(1 / (1 + np.exp(-fit.params[0])), abs=2e-3)  # the prior of the slope is weak
    # and its interval is that of the sandwich estimator, up to the resampling
    robust = sm.GLM(wins, sm.add_constant(x), family=sm.families.Binomial()).fit(cov_type="HC0")
    low, high = 1 / (1 + np.exp(-robust.conf_int()[0]))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    assert found.low < 1 / (1 + np.exp(-theta)) < found.high


def test_a_judge_that_likes_length_alone_gives_a_high_rate_and_a_half_at_equal_lengths() -> None:
    rng = np.random.default_rng(1)
    delta = np.round(rng.normal(40, 40, 300))
    wins = np.where(delta == 0, 0.5, delta > 0)
    found = length_controlled(wins, delta, [str(i) for i in range(300)])
    assert wins.mean() > 0.8
    assert found.value == pytest.approx(0.5, abs=0.1)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high


def test_a_judge_blind_to_length_gives_the_same_rate_twice() -> None:
    rng = np.random.default_rng(2)
    delta, wins = np.round(rng.normal(40, 40, 2000)), (rng.random(2000) < 0.7).astype(float)
    found = length_controlled(wins, delta, [str(i // 4) for i in range(2000)])
    assert found.value == pytest.approx(wins.mean(), abs=0.03)
    assert found.n == 500


def test_the_ends_of_length_control() -> None:
    names = [str(i) for i in range(20)]
    delta = list(range(-10, 10))
    won, lost = (exact_ends(length_controlled([win] * 20, delta, names)) for win in (1.0, 0.0))
    assert (won.value, won.high, lost.value, lost.low) == (1, 1, 0, 0)
    assert won.low == pytest.approx(0.025 ** (1 / won.n)), "as of any share that was always seen"
    assert lost.high == pytest.approx(1 - won.low)
    half = length_controlled([0.5] * 20, delta, names)
    assert (half.value, half.low, half.high) == (0.5, 0.5, 0.5)
    # lengths that never differ leave the win rate as it is; a constant difference can't be told from quality
    same = length_controlled([1.0] * 15 + [0.0] * 5, [0] * 20, names)
    assert same.value == pytest.approx(0.75)
    assert length_controlled([1.0] * 15 + [0.0] * 5, [7] * 20, names).value is None
    assert length_controlled([], [], []).value is None


def test_answers_that_are_all_longer_are_flagged_as_an_extrapolation() -> None:
    longer = [contest(f"p{i}", float(i % 3 > 0), float(i % 3 > 0), length=20 + i) for i in range(12)]
    told = win_rate.flags(win_rate.measure(scored(longer)), None)
    assert any("100% of the answers are longer" in flag.text for flag in told)


# -- who judges, against whom ------------------------------------------------------------------------------------------


class Likes:
    """A judge that prefers an answer with a word, else the place shown first; some questions it won't answer."""

    name, identity = "likes", dict[str, Any]()

    def __init__(self, word: str, refuses: str = "") -> None:
        self.word, self.refuses, self.asked = word, refuses, list[tuple[Question, str | None]]()

    def __call__(self, questions: Sequence[Question], principle: str | None = None) -> list[Verdict]:
        self.asked += [(question, principle) for question in questions]
        return in_both_orders(questions, lambda shown: map(self.showing, shown))

    def showing(self, question: Question) -> Showing:
        if self.refuses and self.refuses in question.prompt:
            return Showing(None, 3, missing="refused", reason="I would rather not")
        first, second = (self.word in text for text in (question.first, question.second))
        return Showing(0.9 if first >= second else 0.1, tokens=7)


def sample(prompt: str, text: str, draw: int = 0) -> Sample:
    return Sample(prompt, draw, f"tell {prompt}", text, [], None, None, None, None)


CONFIG = build_config(WinRateConfig, {"judge": {"kind": "lm", "model": "x"}, "criterion": "is kind"}, "win_rate")


SCORED = replace(CONFIG, criterion="")


def test_contests_ask_in_both_orders_and_not_about_equal_texts(tmp_path: Path) -> None:
    own = [sample("a", "so kind"), sample("b", "same"), sample("c", "plain"), sample("d", "kind")]
    answers = {("a", 0): "rude!", ("b", 0): "same", ("c", 0): "plain too", ("d", 0): "kind as well"}
    judge = Likes("kind")
    make_contests(tmp_path, own, answers, judge, CONFIG)
    assert [question.prompt for question, _ in judge.asked] == ["tell a", "tell c", "tell d"]
    assert {principle for _, principle in judge.asked} == {"is kind"}
    assert read_contests(tmp_path) == [
        Contest("a", 0, 0.9, 0.9, 7, 5, tokens=14),
        Contest("b", 0, 0.5, 0.5, 4, 4, equal=True),
        Contest("c", 0, 0.9, pytest.approx(0.1), 5, 9, tokens=14),  # type: ignore[arg-type]
        Contest("d", 0, 0.9, pytest.approx(0.1), 4, 12, tokens=14),  # type: ignore[arg-type]
    ]
    assert [c.win for c in read_contests(tmp_path)] == [1, 0.5, 0.5, 0.5]
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["contests"], record["equal"], record["questions"], record["tokens"]) == (4, 1, 6, 42)


def test_unanswered_questions_are_ties_up_to_a_share_and_refused_beyond_it(tmp_path: Path) -> None:
    own = [sample(f"{name}{i}", f"kind {i}") for name in ("fine", "awkward") for i in range(4 if name == "fine" else 1)]
    answers = {(s.prompt_id, s.draw): "rude" for s in own}
    make_contests(tmp_path, own, answers, Likes("kind", refuses="awkward"), CONFIG)  # one of five: .2
    lost = read_contests(tmp_path)[-1]
    assert (lost.first, lost.missing, lost.win) == (None, "refused", 0.5)
    assert json.loads((tmp_path / "record.json").read_text())["missing"] == {"refused": 1}
    strict = replace(CONFIG, missing=0.1)
    with pytest.raises(UserError, match=r"no verdict on 1 of 5 contests \(refused: 1; such as 'I would rather not") as raised:
        make_contests(tmp_path, own, answers, Likes("kind", refuses="awkward"), strict)
    assert "\n" not in str(raised.value)


def test_a_scorer_judges_by_its_own_direction_and_equal_scores_tie() -> None:
    def characters(_: Sequence[str], texts: Sequence[str]) -> list[float | None]:
        return [None if text == "?" else float(len(text)) for text in texts]

    length = AnswerScorer("length", characters, True, (0.0, None))
    questions = [Question("p", "longer", "short"), Question("p", "a", "b"), Question("p", "a", "?")]
    assert [v.p for v in ScorerJudge(length, True)(questions)] == [1, 0.5, None]
    assert [v.p for v in ScorerJudge(length, False)(questions)] == [0, 0.5, None]
    assert ScorerJudge(length, True)(questions)[2].missing == "no score"


def test_what_a_network_costs_as_a_judge_is_entered_or_unknown(tmp_path: Path) -> None:
    def count(_: Sequence[str], texts: Sequence[str]) -> list[float | None]:
        return [float(len(text)) for text in texts]

    def judge(price: Any) -> ScorerJudge:
        return ScorerJudge(AnswerScorer("net", count, True, (0.0, None), price=price), True)

    priced = judge(
        lambda prompts, texts: sum(10 * len(prompt) + len(text) for prompt, text in zip(prompts, texts, strict=True))
    )
    samples, answers = [sample("a", "four"), sample("b", "of")], {("a", 0): "two", ("b", 0): "six"}
    flops = sum(2 * 10 * len(s.prompt) + len(s.completion) + 3 for s in samples)
    for each, known in ((priced, flops), (judge(None), None)):
        make_contests(tmp_path, samples, answers, each, SCORED)
        record = json.loads((tmp_path / "record.json").read_text())
        assert (record["flops"], record["tokens"]) == (known, None)
        found = win_rate.measure(scored(read_contests(tmp_path)))
        assert found["win_rate"].value == 0.5
        assert "judge_tokens" not in found
    lexicon = load_scorer_judge("vader", "cpu", None)
    make_contests(tmp_path, samples, answers, lexicon, SCORED)
    assert json.loads((tmp_path / "record.json").read_text())["flops"] == 0
    assert win_rate.measure(scored(read_contests(tmp_path)))["judge_tokens"].value == 0


def test_the_lexicon_says_that_more_is_better_and_a_label_must_be_the_tasks(cache: Path) -> None:
    judge = load_scorer_judge("vader", "cpu", None)
    assert judge([Question("you are", " wonderful and kind", " a horrible liar")])[0].p == 1
    toxic = load_scorer_judge("tox_block", "cpu", None)
    assert toxic([Question("you are", " very kind", " a stupid idiot")])[0].p == 1


# -- given answers -----------------------------------------------------------------------------------------------------


def rows(file: Path, *given: dict[str, Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(file)


def test_given_answers_are_matched_by_prompt_whatever_the_case_and_other_rows_are_left(tmp_path: Path) -> None:
    wanted = {text_fingerprint("You are"), text_fingerprint("user: hi\n\nassistant:")}
    source = rows(
        tmp_path / "a.jsonl",
        {"question": "you  are", "a": "kind"},
        {"question": "of another split", "a": "x"},
        {"question": [{"role": "user", "content": "hi"}], "a": [{"role": "assistant", "content": "hello"}]},
    )
    found = read_answers(source, {"prompt": "question", "completion": "a"}, wanted)
    assert sorted(found.values()) == ["hello", "kind"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"prompt": "one", "completion": "x"}], "has no answer to 1 of the 2 evaluation prompts"),
        ([{"prompt": "one", "completion": "x"}, {"prompt": "two", "completion": "y"}, {"prompt": "ONE", "completion": "z"}],
         "row 3: its prompt is already in row 1"),
        ([{"prompt": "one", "completion": "x"}, {"prompt": "two"}], "row 2: completion is missing"),
        ([{"prompt": "one", "completion": [{"role": "user", "content": "x"}]}], "row 1: completion holds a turn of the user"),
        ([{"text": "one"}], "row 1: prompt is missing"),
        ([{"prompt": "one", "completion": " "}], "row 1: completion is empty; leave such prompts out"),
    ],
)  # fmt: skip
def test_given_answers_that_are_missing_or_doubled_are_one_line_with_the_row(
    tmp_path: Path, given: list[dict[str, Any]], said: str
) -> None:
    source = rows(tmp_path / "a.jsonl", *given)
    with pytest.raises(UserError, match=said) as raised:
        read_answers(source, None, {text_fingerprint("one"), text_fingerprint("two")})
    assert "\n" not in str(raised.value)
    assert source in str(raised.value)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"judge": {"kind": "oracle"}},
            "task.evaluation.win_rate.judge.kind must be one of classifier, lm, server, scorer, none",
        ),
        ({"judge": {"kind": "lm"}}, "task.evaluation.win_rate.judge.model must name the model of the lm judge"),
        ({"judge": {"kind": "scorer"}}, "task.evaluation.win_rate.judge.model must name the scorer"),
        ({"judge": {"kind": "scorer", "model": "win_rate"}}, "a scorer of single answers"),
        ({"judge": {"kind": "server", "model": "m"}}, "task.evaluation.win_rate.judge.base_url"),
        ({"judge": {"model": "m"}}, "judge.kind is empty, so task.evaluation.win_rate.judge.model has no effect"),
        ({"draws": 2}, "task.evaluation.win_rate.draws has no effect without a judge"),
        ({"judge": {"kind": "classifier"}, "draws": -1}, "task.evaluation.win_rate.draws"),
        ({"judge": {"kind": "classifier"}, "missing": 1.0}, "task.evaluation.win_rate.missing"),
        ({"judge": {"kind": "classifier"}, "opponent": " "}, "task.evaluation.win_rate.opponent"),
        ({"judge": {"kind": "classifier"}, "criterion": "is kind"}, "a classifier does not"),
        ({"judge": {"kind": "classifier"}, "columns": {"answer": "a"}}, "maps prompt and completion, not answer"),
    ],
)
def test_settings_that_cannot_be_are_one_line_that_names_them(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as raised:
        build_config(WinRateConfig, settings, "task.evaluation.win_rate")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def task(**evaluation: Any) -> TaskConfig:
    objective = evaluation.pop("objective", {})
    settings = {
        "name": "t", "model": {"name": "nano"}, "sft": {"steps": 1, "lr": 1e-3}, "reward": {"pairs": 1, "lr": 1e-3},
        "evaluation": evaluation, "objective": objective,
    }  # fmt: skip
    made: TaskConfig = build_config(TaskConfig, settings, "task")
    return made


def test_a_win_rate_is_switched_off_by_a_word_whatever_else_is_set() -> None:
    made = build_config(WinRateConfig, {"judge": {"kind": "none", "model": "m"}, "draws": 3, "criterion": "is kind"}, "x")
    assert not made.on


def test_tuning_asks_no_judge_by_whom_nothing_is_chosen() -> None:
    judge = ("task.evaluation.win_rate.judge.kind=scorer", "task.evaluation.win_rate.judge.model=vader")
    goal = ("task.objective={name: win rate, higher_is_better: true, threshold: null}", "task.evaluation.scorer=win_rate")

    def off(*settings: str) -> list[str]:
        return Search("nano", 1, "one_standard_error", 1, Path("x"), settings=settings)._off

    assert off() == off(*judge, *goal) == []
    assert off(*judge) == ["task.evaluation.win_rate.judge.kind=none"]


def test_a_win_rate_is_told_in_a_line_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    source = rows(tmp_path / "given.jsonl", {})
    settings = {"judge": {"kind": "lm", "model": str(tmp_path)}, "opponent": source, "criterion": "is kind", "draws": 2}
    made = build_config(WinRateConfig, settings, "x")
    assert made.describe("vader") == f'lm:{tmp_path.name} against given.jsonl, asked for "is kind", 2 draws of a prompt'
    assert made.describe("win_rate").endswith("all draws of a prompt")
    by_class = build_config(WinRateConfig, {"judge": {"kind": "classifier"}}, "x")
    assert by_class.describe("vader") == "the toxicity classifier against the SFT base, 1 draw of a prompt"


def test_a_judge_that_reads_must_know_what_is_better_unless_that_is_less_toxicity() -> None:
    lm = {"judge": {"kind": "lm", "model": "m"}}
    assert task(win_rate=lm).evaluation.win_rate.on
    goal = {"name": "help", "higher_is_better": True}
    with pytest.raises(UserError, match="criterion must say what is better for the objective help"):
        task(win_rate=lm, objective=goal)
    with pytest.raises(UserError, match="the classifier judge knows toxicity alone, and the objective is help"):
        task(win_rate={"judge": {"kind": "classifier"}}, objective=goal)
    assert task(win_rate=lm | {"criterion": "is helpful"}, objective=goal).evaluation.win_rate.on


def test_a_task_ranks_by_win_rate_only_with_a_judge_and_an_objective_of_which_more_is_better() -> None:
    judge = {"judge": {"kind": "scorer", "model": "vader"}}
    with pytest.raises(UserError, match="needs the judge"):
        task(scorer="win_rate", objective={"name": "win rate", "higher_is_better": True})
    with pytest.raises(UserError, match="not a second one"):
        task(second_scorer="win_rate", win_rate=judge)
    with pytest.raises(UserError, match="of which more is better"):
        task(scorer="win_rate", win_rate=judge)
    assert task(scorer="win_rate", win_rate=judge, objective={"name": "win rate", "higher_is_better": True})


def test_a_task_without_one_has_the_same_settings_in_recipes_as_before() -> None:
    assert EvaluationConfig().win_rate == OFF
    assert "win_rate" not in recipe_fields(EvaluationConfig())
    assert build_config(EvaluationConfig, {}, "x") == EvaluationConfig()


# -- runs --------------------------------------------------------------------------------------------------------------


def judged(terminal: Terminal, *words: str) -> list[str]:
    """The words of a run whose win rate the tiny language model judges."""
    judge = "task.evaluation.win_rate.judge"
    return terminal.run(f"{judge}.kind=lm", f"{judge}.model={terminal.model}", "task.evaluation.win_rate.draws=0", *words)


def card_of(terminal: Terminal, algorithm: str) -> Path:
    (found,) = (terminal.home / "results" / "nano").glob(f"{algorithm}-*.json")
    return found


@pytest.mark.slow
def test_a_run_with_a_language_model_as_judge_reaches_card_and_board_and_is_verified(furnished: Terminal) -> None:
    before = set(stages(furnished.store))
    done = furnished(judged(furnished, "algorithm=dpo", "budget.steps=2", "task.training.snapshots=[]"))
    assert done.returncode == 0, done.stderr
    assert len(stages(furnished.store, "win_rate")) == 2  # of the policy and of the base
    assert before <= set(stages(furnished.store))
    path = card_of(furnished, "dpo")
    card = read_card(path)
    assert 0 <= (card.metrics["win_rate"].value or 0) <= 1
    assert card.metrics["win_rate"].n == 16
    assert len(card.values["win_rate"]) == 16
    record = card.notes["win_rate_judge"]
    assert record["contests"] == 32
    assert record["questions"] == card.metrics["judge_questions"].value == 2 * (32 - record["equal"])
    assert card.metrics["judge_tokens"].value == record["tokens"] > 0
    assert card.spent["labels"].get("ai") is None, "the judge is free of the budget"
    board = furnished([COMMAND, "board", "nano", "--results", str(furnished.home / "results")])
    assert board.returncode == 0, board.stderr
    page = (path.parent / "leaderboard.md").read_text()
    assert "### Win rate" in page
    assert "lm:model against the SFT base, all draws of a prompt" in page
    verified = furnished([COMMAND, "verify", str(path), "--store", str(furnished.store)])
    assert verified.returncode == 0, verified.stdout + verified.stderr
    again = finished(furnished.store)
    rescore = furnished([COMMAND, "rescore", "--all", str(path), "--store", str(furnished.store)])
    assert rescore.returncode == 0, rescore.stderr
    assert read_card(path).metrics == card.metrics
    assert finished(furnished.store) == again, "nobody is asked again"
    # a contest that is changed is found
    (folder,) = (furnished.store / f"win_rate-{card.parents['win_rate']}",)
    file = folder / "contests.jsonl"
    file.write_text(file.read_text().replace('"length": ', '"length": 1', 1))
    assert "contests.jsonl: row 1" in furnished([COMMAND, "verify", str(path), "--store", str(furnished.store)]).stdout


@pytest.mark.slow
def test_a_task_may_rank_by_win_rate_but_not_by_the_judge_that_labelled_the_data(furnished: Terminal) -> None:
    goal = ["task.objective={name: win rate, higher_is_better: true, threshold: null}", "task.evaluation.scorer=win_rate"]
    goal += ["task.evaluation.second_scorer=vader", "task.evaluation.win_rate.criterion=It is kind.", "budget.steps=2"]
    goal += ["task.judge.kind=lm", f"task.judge.model={furnished.model}", "task.judge.template=reply"]
    goal += ["task.judge.criterion=It is kind."]
    done = furnished(judged(furnished, "algorithm=rlaif", "task.training.snapshots=[0.5]", *goal))
    assert done.returncode == 0, done.stderr
    card = read_card(card_of(furnished, "rlaif"))
    rate, gain = card.metrics["win_rate"].value, card.metrics["gain"].value
    assert card.metrics["objective_mean"].value == rate is not None
    assert gain == pytest.approx(rate - 0.5, abs=1e-9), "the base against itself is a half"
    assert card.curve[0].metrics["objective_mean"].value == 0.5
    assert [flag.kind for flag in card.flags if "the judge of its win rate also labelled" in flag.text] == ["gate"]


@pytest.mark.slow
def test_given_answers_are_checked_before_anything_is_trained(terminal: Terminal) -> None:
    source = rows(terminal.home / "answers.jsonl", {"prompt": "no such prompt", "completion": "x"})
    judge = ["task.evaluation.win_rate.judge.kind=scorer", "task.evaluation.win_rate.judge.model=vader"]
    done = terminal(terminal.run("algorithm=dpo", *judge, f"task.evaluation.win_rate.opponent={source}"))
    assert "has no answer to 16 of the 16 evaluation prompts" in complaint(done)
    assert stages(terminal.store) == []


@pytest.mark.slow
def test_the_base_has_a_win_rate_against_given_answers_and_so_have_completions_from_elsewhere(furnished: Terminal) -> None:
    (folder,) = (furnished.store / name for name in stages(furnished.store, "samples"))
    drawn = [row for row in map(json.loads, (folder / "samples.jsonl").read_text().splitlines()) if row["draw"] == 0]
    given = [{"question": row["prompt"], "a": " awful" if n % 2 else " wonderful"} for n, row in enumerate(drawn)]
    source = rows(furnished.home / "answers.jsonl", *given)
    words = [f"task.evaluation.win_rate.{each}" for each in (
        "judge.kind=scorer", "judge.model=vader", f"opponent={source}", "columns={prompt: question, completion: a}",
    )]  # fmt: skip
    done = furnished(furnished.run("algorithm=sft", *words))
    assert done.returncode == 0, done.stderr
    card = read_card(card_of(furnished, "sft"))
    # a tiny model's words are in no lexicon, so they lose to " wonderful" and win against " awful", mostly
    assert 0.2 < (card.metrics["win_rate"].value or 0) < 0.8
    assert card.metrics["judge_questions"].value == 2 * 16, "one draw of each prompt, in both orders"
    assert "scorer:vader against answers.jsonl, 1 draw of a prompt" in card.notes["win_rate"]
    ours = rows(furnished.home / "ours.jsonl", *({"prompt": row["prompt"], "completion": " wonderful"} for row in drawn))
    settings = [word for word in furnished.run(*words) if word.startswith("task.")]
    places = ["--store", str(furnished.store), "--results", str(furnished.home / "results")]
    done = furnished([COMMAND, "score", "--samples", ours, "--task", "nano", *places, *settings])
    assert done.returncode == 0, done.stderr
    (path,) = (furnished.home / "results" / "nano").glob("ours-*.json")
    assert read_card(path).metrics["win_rate"].value == pytest.approx(0.75), "a tie or a win each"
    assert furnished([COMMAND, "verify", str(path), "--store", str(furnished.store)]).returncode == 0


@pytest.mark.parametrize(
    ("feedback", "judge", "labels", "rewarded", "said"),
    [
        ({}, {"kind": "classifier"}, {"ai_scores": 5.0}, False, "labelled its training data"),
        ({}, {"kind": "classifier"}, {"ai": 5.0}, True, "labelled its training data"),
        ({}, {"kind": "classifier"}, {"simulated": 5.0}, True, ""),
        ({"judge": {"kind": "scorer", "model": "polarity"}}, {"kind": "scorer", "model": "polarity"}, {"ai": 5.0}, False,
         "taught it"),
        ({"judge": {"kind": "scorer", "model": "polarity"}}, {"kind": "scorer", "model": "polarity"}, {"simulated": 5.0}, True,
         ""),
        ({"judge": {"kind": "scorer", "model": "polarity"}}, {"kind": "scorer", "model": "vader_half"}, {"ai": 5.0}, True, ""),
        ({"judge": {"kind": "server", "model": "m", "base_url": "http://localhost/v1"}},
         {"kind": "server", "model": "m", "base_url": "http://localhost/v1/", "template": "reply"}, {"ai": 5.0}, True,
         "labelled its training data"),
        ({"judge": {"kind": "server", "model": "m", "base_url": "http://localhost/v1"}},
         {"kind": "server", "model": "other", "base_url": "http://localhost/v1"}, {"ai": 5.0}, True, ""),
    ],
)  # fmt: skip
def test_a_judge_that_taught_the_policy_is_known_whatever_it_is_asked(
    tmp_path: Path, feedback: dict[str, Any], judge: dict[str, Any], labels: dict[str, float], rewarded: bool, said: str
) -> None:
    made = build_config(TaskConfig, asdict(task(win_rate={"judge": judge})) | feedback, "task")
    assert taught(SharedStages(made, Store(tmp_path)), labels, rewarded) == said
