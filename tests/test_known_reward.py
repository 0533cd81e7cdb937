"""A task whose annotator, reward and objective are one known function: its sign, scale and verdicts by hand, what it refuses,
and runs by the command line."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from isoalign.config.feedback import JudgeConfig, PanelConfig
from isoalign.config.fill import build_config
from isoalign.config.task import FeedbackConfig, TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.store import Store
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.evaluation.card import read_card
from isoalign.evaluation.metrics import reward_health
from isoalign.models import loading
from isoalign.models.answer_scorers import AnswerScorer, load_answer_scorer
from isoalign.models.known_reward import Asked, KnownFunction, KnownReward
from isoalign.stages import pairs
from isoalign.stages.opinions import Scores
from isoalign.stages.shared import OpinionJudge, SharedStages
from workbench import Terminal, complaint

KNOWN: dict[str, Any] = {
    "name": "t", "known_reward": True, "objective": {"name": "sentiment", "higher_is_better": True, "bounds": [-1, 1]},
    "model": {"name": "nano"}, "sft": {"steps": 1, "lr": 0.1}, "reward": {"pairs": 1, "lr": 0.1},
    "evaluation": {"scorer": "vader", "second_scorer": "polarity"},
}  # fmt: skip
SHORT = "you are"


def length(higher: bool, scores: Any = None) -> AnswerScorer:
    """The length of an answer in words, of which more or less is better."""
    count = scores or (lambda _, answers: [float(len(answer.split())) for answer in answers])
    return AnswerScorer("words", count, higher, (0.0, None))


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"feedback": {"file": "pairs.jsonl"}}, "task.feedback.file from people: set one of them"),
        ({"reward": KNOWN["reward"] | {"base": "nano"}}, "so task.reward.base has no effect"),
        ({"reward": KNOWN["reward"] | {"classifier": "annotator"}}, "so task.reward.classifier has no effect"),
        ({"reward": KNOWN["reward"] | {"golden": 4}}, "so task.reward.golden has no effect"),
        ({"reward": KNOWN["reward"] | {"hard": 0.5}}, "so task.reward.hard has no effect"),
        ({"shaping": {"members": 3}}, "set task.shaping.members=1"),
        ({"shaping": {"length_penalty": 0.1}}, "task.shaping.length_penalty makes the reward another function"),
        ({"shaping": {"clip": 1.0}}, "task.shaping.clip makes the reward another function"),
        (
            {"evaluation": {"scorer": "vader", "second_scorer": "vader"}},
            "task.evaluation.second_scorer must be another scorer than vader",
        ),
        ({"judge": {"kind": "scorer", "model": "polarity"}}, "task.judge.model polarity is an evaluation scorer"),
        ({"judge": {"kind": "scorer"}}, "task.judge.model must name"),
    ],
)
def test_settings_that_contradict_a_known_reward_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        build_config(TaskConfig, KNOWN | settings, "task")
    assert "\n" not in str(raised.value)
    build_config(TaskConfig, KNOWN, "task")


# -- the reward --------------------------------------------------------------------------------------------------------


def known(
    model: Path, folder: Path, scorer: AnswerScorer, higher: bool, asked: dict | None = None, **record: Any
) -> KnownReward:
    (folder / "record.json").write_text(json.dumps({"mean": 0.0, "deviation": 1.0, "flops": {"forward": 0}} | record))
    return KnownReward(folder, str(model), KnownFunction(scorer, higher, asked or {}))


def texts(model: Path, prompt: str, *answers: str) -> Any:
    tokenizer = loading.load_tokenizer(str(model))
    ids = tokenizer(prompt)["input_ids"]
    return as_rollouts([ids] * len(answers), [tokenizer(answer)["input_ids"] for answer in answers], tokenizer.pad_token_id)


def test_more_reward_is_better_in_either_direction(tiny_model: Path, tmp_path: Path) -> None:
    answers = texts(tiny_model, SHORT, "kind", "kind and kind")
    up, down = (known(tiny_model, tmp_path, length(higher), higher)(answers).tolist() for higher in (True, False))
    assert up == [1.0, 3.0]
    assert down == [-1.0, -3.0]


def test_it_is_shifted_and_scaled_by_the_record_and_what_has_no_score_gets_the_mean(tiny_model: Path, tmp_path: Path) -> None:
    answers = texts(tiny_model, SHORT, "kind", "kind and kind")
    half = length(True, lambda _, given: [None if " " in answer else 5.0 for answer in given])
    assert known(tiny_model, tmp_path, half, True, mean=2.0, deviation=4.0)(answers).tolist() == [0.75, 0.0]
    none = known(tiny_model, tmp_path, length(True, lambda _, given: [None] * len(given)), True, mean=3.0)
    assert none(answers).tolist() == [0.0, 0.0]
    assert none.unscored == 2


def test_it_reads_the_whole_prompt_and_its_right_answer_where_the_model_reads_a_part(tiny_model: Path, tmp_path: Path) -> None:
    answers = texts(tiny_model, SHORT, "kind 7")
    ids = tuple(loading.load_tokenizer(str(tiny_model))(SHORT)["input_ids"])
    seen: list[Any] = []

    def look(*columns: list[str]) -> list[float]:
        seen.append(columns)
        return [1.0]

    scorer = AnswerScorer("look", look, True, references=True)
    known(tiny_model, tmp_path, scorer, True, {ids: Asked("They say that you are", "7")})(answers)
    assert [column[0] for column in (seen[0][0], seen[0][2])] == ["They say that you are", "7"]
    plain = AnswerScorer("look", look, True)
    known(tiny_model, tmp_path, plain, True)(answers)
    assert seen[1][0][0].strip() == SHORT, "of a prompt that is not the task's what the model reads"


def test_a_function_costs_nothing_and_a_network_its_passes(tiny_model: Path, tmp_path: Path) -> None:
    answers = texts(tiny_model, SHORT, "kind", "kind and kind")
    free = known(tiny_model, tmp_path, length(True), True)
    assert (free.flops(answers), free.training_bill(), free.verdicts(), free.seconds()) == (0, [], {}, 0.0)
    priced = AnswerScorer("words", length(True).score, True, (0.0, None), price=lambda _, given: 10 * len(given))
    billed = known(tiny_model, tmp_path, priced, True, flops={"forward": 60})
    assert (billed.flops(answers), billed.training_bill()) == (20, [("reward", "forward", 60)])
    with pytest.raises(UserError, match="tox_block is an evaluation scorer without FLOPs; it can't train anything"):
        load_answer_scorer("tox_block").flops(["a"], ["b"])


def sums(folder: Path, count: int = 40) -> Path:
    rows = [{"question": f"and what is {i} and {i}", "right": {"answer": 2 * i}} for i in range(count)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "sums.jsonl"


def test_each_prompt_is_known_by_what_the_model_reads_of_it(tiny_model: Path, tmp_path: Path) -> None:
    asked = {"source": str(sums(tmp_path)), "column": "question", "reference": "right.answer"}
    asked |= {"train": 0, "validation": 0, "test": 0}
    settings = KNOWN | {
        "model": {"name": str(tiny_model), "prompt_tokens": 64}, "prompts": asked,
        "objective": {"name": "sums", "higher_is_better": True, "bounds": [0, 1]},
        "evaluation": {"scorer": "rule:number", "second_scorer": "rule:exact"},
    }  # fmt: skip
    made = build_config(TaskConfig, settings, "task")
    function = SharedStages(made, Store(tmp_path / "store")).known_function()
    wanted = {Asked(f"and what is {i} and {i}", str(2 * i)) for i in range(40)}
    assert set(function.prompts.values()) == wanted
    assert function.equal == 0
    short = build_config(TaskConfig, settings | {"model": {"name": str(tiny_model), "prompt_tokens": 1}}, "task")
    with pytest.raises(UserError, match=r"two prompts with different right answers, .* once cut to"):
        SharedStages(short, Store(tmp_path / "store")).known_function()


# -- the verdicts ------------------------------------------------------------------------------------------------------


def answers(folder: Path, *rows: list[str]) -> Path:
    folder.mkdir()
    asked = [
        {"id": f"p{i}", "text": SHORT, "stratum": "s", "prompt_ids": [3], "answers": row}
        | {"answer_ids": [[4 + j] for j in range(len(row))]}
        for i, row in enumerate(rows)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (folder / "record.json").write_text(json.dumps({"flops": 120}))
    return folder


def judged(tmp_path: Path, opinion: Scores, given: Path, margin: float = 0.0, panel: PanelConfig | None = None) -> Any:
    work = tmp_path / "pairs"
    work.mkdir(exist_ok=True)
    feedback = FeedbackConfig(margin=margin, noise=0.0)
    pairs.make_annotator_pairs(work, given, opinion, feedback, panel or PanelConfig(), 0, None)
    rows = [json.loads(line) for line in (work / "pairs.jsonl").read_text().splitlines()]
    return [(row["chosen"], row["rejected"]) for row in rows], json.loads((work / "record.json").read_text())


def test_the_better_score_is_chosen_in_either_direction_and_a_tie_is_no_pair(tmp_path: Path) -> None:
    given = answers(tmp_path / "answers", ["one", "one two three", "and two more"], ["a b", "c d"])
    longer, record = judged(tmp_path, Scores(length(True), True), given)
    assert longer == [("one two three", "one"), ("and two more", "one")]
    assert record["flops_each"] == {"feedback": 60}, "the sampling of 120 FLOPs over two pairs; the function is free"
    shorter, _ = judged(tmp_path, Scores(length(False), False), given)
    assert shorter == [("one", "one two three"), ("one", "and two more")]
    with pytest.raises(UserError, match=r"words: the scores of no two answers to one prompt differ by more than 2"):
        judged(tmp_path, Scores(length(True), True), given, margin=2.0)


def test_a_panel_reads_the_scores_in_their_own_units(tmp_path: Path) -> None:
    given = answers(tmp_path / "answers", *([["one", "one two three"]] * 400))
    panel = PanelConfig(annotators=1, temperature=(2.0,))
    found, _ = judged(tmp_path, Scores(length(True), True), given, panel=panel)
    share = statistics.fmean(chosen == "one two three" for chosen, _ in found)
    # utilities 3 and 1: P = sigmoid((3 - 1) / 2) = .731, standard error .022
    assert share == pytest.approx(0.731, abs=0.07)


def test_answers_without_a_score_are_in_no_pair_and_counted(tmp_path: Path) -> None:
    some = length(True, lambda _, given: [None if answer == "odd" else float(len(answer)) for answer in given])
    given = answers(tmp_path / "answers", ["odd", "a", "bc"])
    found, record = judged(tmp_path, Scores(some, True), given)
    assert found == [("bc", "a")]
    assert (record["unscored"], record["answers"]) == (1, 3)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("question", "of 4 answers of the SFT base none fulfils rule:question, so there is nothing to learn from"),
        ("lowercase", "of 4 answers of the SFT base every one fulfils rule:lowercase, so there is nothing to learn from"),
    ],
)
def test_a_rule_that_none_or_every_answer_fulfils_is_one_line(tmp_path: Path, rule: str, said: str) -> None:
    given = answers(tmp_path / "answers", ["one", "two"], ["three", "four"])
    with pytest.raises(UserError, match=said) as raised:
        judged(tmp_path, Scores(load_answer_scorer(f"rule:{rule}"), True), given)
    assert "\n" not in str(raised.value)


def test_a_judge_that_is_a_scorer_gives_the_place_of_the_score_between_its_bounds() -> None:
    sure = AnswerScorer("sure", lambda _, given: [None if not one else float(one) for one in given], True, (-1.0, 1.0))
    for higher, wanted in ((True, [0.75, 0.0, 0.5]), (False, [0.25, 1.0, 0.5])):
        judge = OpinionJudge(Scores(sure, higher))
        assert judge(["0.5", "-1", ""], ["p"] * 3).tolist() == pytest.approx(wanted)
    with pytest.raises(UserError, match="the scores of the judge words have no bounds"):
        OpinionJudge(Scores(length(True), True))(["a"], ["p"])
    assert JudgeConfig("scorer", "vader_half").compares is False


def test_the_coarser_lexicon_knows_every_second_word_and_no_rule() -> None:
    half, whole = load_answer_scorer("vader_half"), load_answer_scorer("vader")
    said = ["good", "bad", "great", "awful", "love", "hate", "happy", "sad", "nice", "terrible"]
    agreed = [a == b for a, b in zip(half([""] * 10, said), whole([""] * 10, said), strict=True)]
    assert 0 < sum(agreed) < len(agreed)
    word = said[agreed.index(True)]
    assert half([""], [f"not {word}"]) == half([""], [word])


def test_no_warning_of_a_reward_model_is_raised_for_a_known_reward() -> None:
    perfect = {"rm_accuracy": 1.0, "reward_spread": 0.0, "rm_saturated": 1.0}
    estimates = {name: reward_health.Estimate(value, None, None, 9) for name, value in perfect.items()}
    assert len(reward_health.warnings(estimates)) == 3
    assert reward_health.warnings(estimates | {"reward_known": reward_health.Estimate(1.0, None, None, 9)}) == []


# -- by the command line -----------------------------------------------------------------------------------------------

RULE = ["task=nano_rule", "task.evaluation.scorer=rule:contains:a", "task.evaluation.curve_draws=1", "budget.steps=2"]


@pytest.mark.slow
def test_a_run_on_a_known_rule_ends_in_a_card_without_a_proxy_gap(terminal: Terminal) -> None:
    done = terminal(terminal.run("algorithm=ppo", "algorithm.rollouts=8", "algorithm.minibatch=8", *RULE))
    assert done.returncode == 0, done.stderr
    card = read_card(Path(done.stdout.strip().splitlines()[-1]))
    assert card.notes["known_reward"] == (
        "annotator, reward and objective are one known function (rule:contains:a): no proxy gap"
    )
    for exact in ("rm_accuracy", "rm_accuracy_clean", "rm_agreement", "reward_known"):
        assert card.metrics[exact].value == 1.0, exact
    assert "annotators" not in card.parents
    assert not [name for name in card.metrics if name.startswith(("rm_ece", "rm_brier"))]
    assert {"pass_at_1", "pass_at_2"} <= card.metrics.keys()
    assert not [item for item in card.spent["items"] if item["role"] == "reward" and item["flops"]]
    # the reward is the objective, shifted and scaled: on pairs of one right and one wrong answer mean and deviation are known
    reward = json.loads((next(terminal.store.glob("reward-*")) / "record.json").read_text())
    for point in card.curve:
        by_reward = (point.metrics["objective_mean"].value - reward["mean"]) / reward["deviation"]
        assert point.metrics["proxy_reward"].value == pytest.approx(by_reward, abs=1e-4)
    assert reward["mean"] == pytest.approx(0.5)
    board = terminal([*terminal.run()[:1], "board", "nano_rule", "--results", str(terminal.home / "results")])
    assert board.returncode == 0, board.stderr
    page = (terminal.home / "results" / "nano_rule" / "leaderboard.md").read_text()
    assert "Known reward:" in page
    assert "the proxy of a method that learned from it is the objective itself" in page
    assert "Pass@2" in page


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dpo", "kto", "rloo", "grpo", "best_of_n", "rlaif", "trl_grpo", "rft"])
def test_every_kind_of_method_learns_from_a_known_rule(terminal: Terminal, algorithm: str) -> None:
    done = terminal(terminal.run(f"algorithm={algorithm}", *RULE))
    assert done.returncode == 0, done.stderr
    card = read_card(Path(done.stdout.strip().splitlines()[-1]))
    assert card.metrics["rm_agreement"].value == 1.0 or algorithm == "rlaif"
    learned_from_judge = "the AI judge (scorer rule:lowercase_start), which is a proxy" in card.notes["known_reward"]
    assert learned_from_judge == (algorithm == "rlaif")


PLUGIN = """
VERSION = 1
HIGHER_IS_BETTER = False
BOUNDS = (0, None)

def load(device):
    def score(prompts, completions, references):
        return [float(len(answer) + 0 * len(right)) for answer, right in zip(completions, references, strict=True)]
    return score
"""


@pytest.mark.slow
def test_a_scorer_of_another_package_with_right_answers_is_annotator_reward_and_objective(terminal: Terminal) -> None:
    home, info = terminal.home / "site" / "counting", terminal.home / "site" / "counting-0.1.dist-info"
    home.mkdir(parents=True)
    info.mkdir()
    (home / "__init__.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[isoalign.scorers]\nbrevity = counting\n")
    terminal.env["PYTHONPATH"] = str(home.parent)
    words = [
        "task.known_reward=true", "task.objective={name: letters, higher_is_better: false, bounds: [0, null], threshold: 9}",
        "task.evaluation.scorer=brevity", "task.evaluation.second_scorer=toxic_classifier", "algorithm=rloo", "budget.steps=2",
        "task.evaluation.curve_draws=1", "algorithm.rollouts=8",
    ]  # fmt: skip
    line = complaint(terminal(terminal.run(*words)))
    assert "the scorer brevity compares with right answers, and these prompts have none: set task.prompts.reference" in line
    words += [f"task.prompts.source={sums(terminal.home, 120)}", "task.prompts.column=question"]
    words += ["task.prompts.reference=right.answer", *(f"task.prompts.{split}=0" for split in ("train", "validation", "test"))]
    done = terminal(terminal.run(*words))
    assert done.returncode == 0, done.stderr
    card = read_card(Path(done.stdout.strip().splitlines()[-1]))
    assert card.metrics["rm_agreement"].value == 1.0, "the shorter answer has the higher reward"
    assert [flag.text for flag in card.flags if "billed at 0 FLOPs" in flag.text]
    reward = json.loads((next(terminal.store.glob("reward-*")) / "record.json").read_text())
    for point in card.curve:
        by_reward = (-point.metrics["objective_mean"].value - reward["mean"]) / reward["deviation"]
        assert point.metrics["proxy_reward"].value == pytest.approx(by_reward, abs=1e-4)


def test_an_objective_that_the_toxicity_annotator_does_not_know_is_not_trained_on_it(terminal: Terminal) -> None:
    words = ["task=nano_sentiment", "task.known_reward=false", "budget.steps=1", "algorithm=dpo"]
    line = complaint(terminal(terminal.run(*words)))
    assert "the simulated annotator knows toxicity alone, and the objective is sentiment: set task.known_reward=true" in line
    assert not list(terminal.store.glob("sft-*")), "before anything is trained"


@pytest.mark.slow
def test_a_rule_that_no_answer_fulfils_ends_before_training(terminal: Terminal) -> None:
    never = ["task.evaluation.scorer=rule:words_at_least:400", "algorithm=dpo", "task=nano_rule", "budget.steps=1"]
    line = complaint(terminal(terminal.run(*never)))
    assert "of 96 answers of the SFT base none fulfils rule:words_at_least:400" in line
    assert not list(terminal.store.glob("train-*"))
