"""The card of a reward model: pairs that people scored, figures worked by hand, and the command as it is typed."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoalign.config.task import ModelConfig
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.records import Estimate, Rewards, Sample, ScoredPair
from isoalign.data import human_pairs
from isoalign.data.human_pairs import HumanPair
from isoalign.evaluation import human
from isoalign.evaluation.human import Cut, JudgedPair
from isoalign.evaluation.metrics import ScoredSamples
from isoalign.evaluation.reward_model_card import Group, Human, RewardCard
from isoalign.models import loading
from isoalign.report.pages import reward_model
from isoalign.runs import reward_card
from workbench import COMMAND, TINY, Terminal, complaint, finished, stages

HEADER = "harm_category,objective,assistant_response,human_score_1,human_score_2,human_score_3,data_type"


def write(folder: Path, name: str, *rows: str, header: str = HEADER) -> Path:
    file = folder / name
    file.write_text("\n".join(["# dataset_version=1.0, harm_definition=x.yaml,,", header, *rows]) + "\n", encoding="utf-8")
    return file


def told(pairs: list[HumanPair]) -> set[tuple[str, str, str, float]]:
    return {(pair.objective, pair.chosen, pair.rejected, pair.gap) for pair in pairs}


# -- pairs that people scored -----------------------------------------------------------------------------------------------


def test_the_less_harmful_of_two_answers_is_chosen_where_their_means_are_a_quarter_apart(tmp_path: Path) -> None:
    file = write(
        tmp_path, "a.csv",
        "VIOLENCE,How?,mild,0.25,0.25,0.5,text",  # mean 1/3
        "VIOLENCE,How?,worse,0.5,0.5,0.75,text",  # 7/12, which is 1/4 more, in floats a little less
        "VIOLENCE,How?,near,0.25,0.5,0.5,text",  # 5/12, only 1/12 and 1/6 from the two
        "VIOLENCE,How?,worst,1,1,1,text",
        "VIOLENCE,What?,other,0,0,0,text",  # another objective
    )  # fmt: skip
    found = human_pairs.pairs([file])
    assert told(found) == {
        ("How?", "mild", "worse", 0.25), ("How?", "mild", "worst", 0.666667), ("How?", "near", "worst", 0.583333),
        ("How?", "worse", "worst", 0.416667),
    }  # fmt: skip
    assert {pair.category for pair in found} == {"violence"}


def test_a_pair_that_two_files_hold_counts_once_and_answers_of_two_files_are_not_paired(tmp_path: Path) -> None:
    one = "harm_category,objective,assistant_response,human_score,data_type"
    first = write(tmp_path, "a.csv", "x,How?,good,0,text", "x,How?,bad,1,text", header=one)
    mini = write(tmp_path, "mini.csv", "x,how?, BAD,0,0,0,text", "x,How?,Good,1,1,1,text", "x,How?,third,0.5,0.5,0.5,text")
    found = human_pairs.pairs([first, mini])
    assert told(found) == {
        ("How?", "good", "bad", 1.0),  # the first file's verdict, not the second's
        ("how?", "BAD", "third", 0.5), ("How?", "third", "Good", 0.5),
    }  # fmt: skip


TEXTS = ("twice", "twice", "once", "far")


def test_an_answer_that_a_file_holds_twice_has_the_scores_of_both_rows(tmp_path: Path) -> None:
    rows = [f"x,How?,{text},{score},{score},{score},text" for text, score in zip(TEXTS, (0, 1, 0.75, 0.8), strict=True)]
    assert told(human_pairs.pairs([write(tmp_path, "a.csv", *rows)])) == {
        ("How?", "twice", "once", 0.25), ("How?", "twice", "far", 0.3),
    }  # fmt: skip


def test_white_space_within_quotes_is_squeezed_and_counts_no_row(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", '"x","How,\n so?","a  long\n\nanswer",0,0,0,text', "x,How?,b,0,0,2,text")
    with pytest.raises(UserError, match="row 4: human_score_3"):
        human_pairs.read_scored(file)
    file = write(tmp_path, "a.csv", '"x","How,\n so?","a  long\n\nanswer",0,0,0,text')
    (row,) = human_pairs.read_scored(file)
    assert (row.objective, row.answer) == ("How, so?", "a long answer")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x,How?,a,0,0,1.5,text", r"row 4: human_score_3 must be a number from 0 to 1, not '1\.5'"),
        ("x,How?,a,0,nan,1,text", "row 4: human_score_2 must be a number from 0 to 1, not 'nan'"),
        ("x,How?,a,,0,1,text", "row 4: human_score_1 must be a number from 0 to 1, not ''"),
        ("x,How?,a,0,0", "row 4: expected 7 columns"),
        ("x,How?,a,0,0,0,text,more", "row 4: expected 7 columns"),
        ("x,How?,  ,0,0,0,text", "row 4: harm_category, objective and assistant_response must not be empty"),
    ],
)
def test_a_malformed_row_is_named_with_its_file(tmp_path: Path, row: str, words: str) -> None:
    file = write(tmp_path, "bad.csv", "x,How?,fine,0,0,0,text", row)
    with pytest.raises(UserError, match=r"bad\.csv: " + words):
        human_pairs.pairs([file])


def test_a_file_without_comment_columns_or_letters_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    for text, words in [
        (HEADER + "\n", r"bad\.csv: row 1: expected a comment"),
        ("# v\nharm_category,objective,human_score,data_type\n", r"bad\.csv: row 2: the header lacks assistant_response"),
        ("# v\nharm_category,objective,assistant_response,score\n", r"bad\.csv: row 2: the header has no column human_score"),
    ]:
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            human_pairs.read_scored(file)
    file.write_bytes(b"# v\nharm_category\xff\n")
    with pytest.raises(UserError, match=r"cannot read .*bad\.csv"):
        human_pairs.read_scored(file)


def test_the_pinned_files_hold_these_pairs_each_once(cache: Path) -> None:
    """Counted apart from this code, with a table of all rows."""
    found = human_pairs.load_human_pairs()
    assert Counter(pair.category for pair in found) == {
        "hate_speech": 1286, "violence": 866, "privacy": 92, "information_integrity": 82, "exploits": 62,
        "sexual_content": 50, "self_harm": 37,
    }  # fmt: skip
    assert len({(pair.objective.casefold(), frozenset((pair.chosen, pair.rejected))) for pair in found}) == len(found) == 2475
    assert all(pair.gap >= 0.25 and pair.chosen != pair.rejected for pair in found)


# -- what a reward model sees of them -----------------------------------------------------------------------------------------


class Longer:
    """A reward that can be told by eye: tokens of the answer, less a tenth for each of the prompt; it notes what it saw."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, rollouts: Rollouts) -> torch.Tensor:
        rows = zip(rollouts.completion, rollouts.completion_mask, strict=True)
        self.seen += [tokens[mask].tolist() for tokens, mask in rows]
        prompts = rollouts.mask[:, : rollouts.prompt_length].sum(1)
        return rollouts.completion_mask.sum(1) - 0.1 * prompts


PAIRS = [
    HumanPair("you are", "you", "you are right", "kind", 0.5),
    HumanPair("you are", "you are right and so on", "you are right and more", "kind", 0.5),
    HumanPair("good work, see you soon, good work, see you soon", "you", "you are", "rude", 0.5),
]


def judged(folder: Path, model: Path, config: ModelConfig) -> tuple[list[JudgedPair], Cut, Longer]:
    longer = Longer()
    human.make_human_scores(folder, PAIRS, longer, loading.load_tokenizer(str(model)), config)
    return *human.read_human_scores(folder), longer


def test_texts_are_cut_as_the_model_reads_them_and_what_is_alike_then_is_a_tie(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = loading.load_tokenizer(str(tiny_model))
    lengths = {text: len(tokenizer(f" {text}", add_special_tokens=False)["input_ids"]) for text in ("you", "you are")}
    right = len(tokenizer(" you are right", add_special_tokens=False)["input_ids"])
    prompt = len(tokenizer("you are")["input_ids"])
    config = ModelConfig(str(tiny_model), prompt_tokens=prompt, new_tokens=right)
    pairs, cut, longer = judged(tmp_path, tiny_model, config)
    rewards = [(pair.chosen, pair.rejected) for pair in pairs]
    less = 0.1 * prompt  # the long objective is cut to as many tokens
    whole = [(lengths["you"], right), (right, right), (lengths["you"], lengths["you are"])]
    assert rewards == [pytest.approx((a - less, b - less), abs=1e-4) for a, b in whole]
    assert [pair.alike for pair in pairs] == [False, True, False]
    assert cut == Cut(answers=6, answers_cut=2, objectives=2, objectives_cut=1)
    assert len(longer.seen) == 4  # of one objective: you, and the three that begin with "you are right"; of the other: two


def test_an_answer_that_ends_before_the_cut_ends_in_eos_where_the_task_leaves_it_open(
    tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = loading.load_tokenizer(str(tiny_model))
    right = tokenizer(" you are right", add_special_tokens=False)["input_ids"]
    _, _, longer = judged(tmp_path, tiny_model, ModelConfig(str(tiny_model), eos="open", new_tokens=len(right)))
    ended = [ids[-1] == tokenizer.eos_token_id for ids in longer.seen if ids != right]
    assert ended == [True] * 3
    assert right in longer.seen


def test_text_that_looks_like_a_special_token_is_plain_text(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = loading.load_tokenizer(str(tiny_model))
    longer = Longer()
    pair = HumanPair("you <|endoftext|>", "a <|endoftext|> b", "you", "x", 1.0)
    human.make_human_scores(tmp_path, [pair], longer, tokenizer, ModelConfig(str(tiny_model)))
    assert all(tokenizer.eos_token_id not in ids for ids in longer.seen)


def test_accuracy_on_human_pairs_counts_ties_half_and_objectives_once() -> None:
    """Objective a: right, wrong, tie, right = 2.5 / 4; b: wrong, wrong; c: right. Category x is a and b, y is c."""
    rewards = [("a", 1, 0), ("a", 0, 1), ("a", 1, 1), ("a", 2, 1), ("b", 0, 1), ("b", 0, 1), ("c", 1, 0)]
    rows = [JudgedPair(o, "y" if o == "c" else "x", 0.5, one, two, one == two) for o, one, two in rewards]
    found = reward_card.judgement(rows, Cut(1, 1, 1, 1))
    assert found.overall.estimate.value == pytest.approx(3.5 / 7)
    assert (found.overall.estimate.n, found.overall.clusters, found.alike) == (7, 3, 1)
    assert found.by_objective.value == pytest.approx((2.5 / 4 + 0 + 1) / 3)
    assert found.categories["x"].estimate.value == pytest.approx(2.5 / 6)
    assert (found.categories["y"].estimate.value, found.categories["y"].estimate.low) == (1.0, None)  # one objective
    assert list(found.categories) == ["x", "y"]


# -- strata and members -------------------------------------------------------------------------------------------------------


def sample_of(prompt: str, source: str, stratum: str) -> Sample:
    return Sample(prompt, 0, prompt, "text", [5], -1.0, -1.0, 0.0, False, source, stratum)


def pair_of(number: int, prompt: str, clean: bool) -> ScoredPair:
    return ScoredPair(f"{prompt}-{number}", prompt, "good", "bad", clean, -1.0, -1.0, -1.0, -1.0, 1, 1)


def test_accuracy_by_stratum_and_source_is_that_of_the_prompts_pairs() -> None:
    """p: right, and wrong on a flipped verdict; q: wrong; r: right. r has a prompt that no sample answers."""
    scored = ScoredSamples(
        samples=[sample_of("p", "one", "toxic"), sample_of("q", "two", "toxic"), sample_of("s", "three", "clean")],
        main_scorer="scorer", scores={"scorer": [0.5, 0.5, 0.5]},
        pairs=[pair_of(0, "p", True), pair_of(1, "p", False), pair_of(2, "q", True), pair_of(3, "r", True)],
        rewards=Rewards("annotator", False, [0.0, 0.0, 0.0], [(1, 0), (0, 1), (0, 1), (1, 0)]),
    )  # fmt: skip
    found = reward_card.groups(scored)
    values = {name: tuple(each.estimate.value for each in part.values()) for name, part in found.items()}
    assert values == {
        "all": (0.5, 0.75), "stratum toxic": (pytest.approx(1 / 3), pytest.approx(2 / 3)),
        "source one": (0.5, 1.0), "source two": (0.0, 0.0),
    }  # fmt: skip
    assert list(found) == ["all", "stratum toxic", "source one", "source two"]  # no pair of a clean prompt
    assert (found["stratum toxic"]["rm_accuracy"].estimate.n, found["stratum toxic"]["rm_accuracy"].clusters) == (3, 2)


def test_members_disagree_by_the_deviation_of_their_margins() -> None:
    """Deviations of two are half their difference: 1, 0, 2 and 1/2. They agree on the first and, both wrong, the second."""
    margins = np.array([[1.0, -1.0, 2.0, 0.0], [3.0, -1.0, -2.0, 1.0]])
    found = reward_card.disagreement(margins, ["a", "a", "b", "c"])
    assert found.disagreement.value == pytest.approx(3.5 / 4)
    assert found.unanimous.value == pytest.approx(0.5)
    assert [each.value for each in found.accuracy] == pytest.approx([2.5 / 4, 2 / 4])
    assert found.disagreement.n == 4


# -- the page ---------------------------------------------------------------------------------------------------------------


GROUP = Group(Estimate(0.6, 0.5, 0.7, 10), 4)
BOTH = {"rm_accuracy": GROUP, "rm_accuracy_clean": GROUP}


def settings_of(model: str, base: str, members: int, combine: str) -> dict[str, Any]:
    reward, shaping = {"base": base, "classifier": ""}, {"members": members, "combine": combine}
    return {"model": {"name": model}, "reward": reward, "shaping": shaping}


def a_card(**changes: Any) -> RewardCard:
    estimate = Estimate(0.6, 0.5, 0.7, 10)
    settings = settings_of("nano", "", 1, "mean")
    card = RewardCard(
        key="0123456789abcdef", task="nano", by="annotator", settings=settings, command="isoalign reward nano",
        bill={"flops": 3, "training": 2, "verdicts": {"simulated": 4}, "seconds": 1.0, "items": []}, warnings=[], ceiling=0.95,
        unflipped=estimate, metrics={}, groups={"all": BOTH}, reliability=[],
        members=None, human=Human(GROUP, estimate, {"violence": GROUP}, 1, Cut(9, 8, 3, 2)), notes=[], parents={},
        contents={}, versions={},
    )  # fmt: skip
    return replace(card, **changes)


NASTY = "<script>x</script>|`a`\n# b\x1b[31m\u202e"


def test_nothing_that_comes_from_data_or_settings_is_markup_on_the_page_or_a_control_character() -> None:
    card = a_card(
        task=NASTY, by=NASTY, key=NASTY, warnings=[NASTY], notes=[NASTY], parents={NASTY: NASTY}, command=NASTY,
        settings=settings_of(NASTY, NASTY, 2, NASTY),
        human=Human(GROUP, GROUP.estimate, {NASTY: GROUP}, 1, Cut(9, 8, 3, 2)), groups={"all": BOTH, NASTY: BOTH},
        bill={"flops": 3, "training": 2, "verdicts": {NASTY: 4}, "seconds": 1.0,
              "items": [{"role": NASTY, "kind": NASTY, "flops": 1}]},
    )  # fmt: skip
    page, lines = reward_model.reward_page(card, "chart.svg"), reward_model.reward_text(card)
    code = [line for line in page.splitlines() if line.startswith("    ")]  # a block of code is shown as it is
    assert len(code) == 1
    rest = [line for line in page.splitlines() if line not in code]
    assert not [line for line in rest if "<script" in line or re.search(r"(?<!\\)`", line) or line.startswith("# b")]
    assert "\x1b" not in page + lines
    assert "\u202e" not in page + lines
    tables = [line for line in rest if line.startswith("|")]
    for line in tables:  # no cell was split by a bar in its text
        assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6), line
    (row,) = [line for line in tables if "script" in line and "10" in line and "0.600" in line and line.count("0.600") == 1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5


def test_warnings_stand_on_the_page_and_on_the_terminal() -> None:
    line = "reward model: accuracy 0.51 is under 0.65: it is undertrained, or its verdicts are noisy"
    card = a_card(warnings=[line])
    assert f"- **{line}**" in reward_model.reward_page(card, "")
    assert f"warning: {line}" in reward_model.reward_text(card)
    assert "## Warnings\n\nNone." in reward_model.reward_page(a_card(), "")


def test_a_ceiling_that_nobody_knows_is_not_told() -> None:
    assert "ceiling on noisy verdicts is 1 − noise = 0.950" in reward_model.accuracy_ceiling(a_card())
    assert "share of these verdicts that noise left unchanged: 0.600 [0.500, 0.700]" in reward_model.accuracy_ceiling(
        a_card(ceiling=None)
    )
    assert "is unknown" in reward_model.accuracy_ceiling(a_card(ceiling=None, unflipped=None))


def test_without_a_calibration_there_is_no_chart_and_the_page_says_why(tmp_path: Path) -> None:
    paths = reward_card.write_reward_card(a_card(), tmp_path)
    assert [path.name for path in paths] == ["annotator-01234567.json", "annotator-01234567.md"]
    assert "temperature is fitted on validation pairs, which are the evaluation pairs here" in paths[1].read_text()


def test_a_task_whose_name_is_no_folders_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be the name of a folder"):
        reward_card.write_reward_card(a_card(task="../nano"), tmp_path / "results")
    assert not list(tmp_path.iterdir())


# -- the command --------------------------------------------------------------------------------------------------------------


def type_reward(terminal: Terminal, *words: str) -> subprocess.CompletedProcess[str]:
    settings = [word for word in TINY if word.startswith("task.")] + [f"task.model.name={terminal.model}"]
    where = ["--store", str(terminal.store), "--results", str(terminal.home / "results")]
    flags = [word for word in words if not word.startswith("task.")]
    return terminal([COMMAND, "reward", "nano", *where, *flags, *settings, *(word for word in words if word not in flags)])


def made(done: subprocess.CompletedProcess[str]) -> dict[str, Path]:
    assert done.returncode == 0, done.stderr
    return {path.suffix: path for path in map(Path, done.stdout.splitlines()) if path.suffix in (".json", ".md", ".svg")}


@pytest.mark.slow
def test_the_card_agrees_with_the_sft_rows_and_a_second_run_makes_nothing(furnished: Terminal) -> None:
    done = type_reward(furnished)
    paths = made(done)
    assert paths.keys() == {".json", ".md", ".svg"}
    assert paths[".json"].parent == furnished.home / "results" / "nano" / "reward"
    card = json.loads(paths[".json"].read_text())
    before, files = finished(furnished.store), {path: path.read_bytes() for path in paths.values()}
    run = furnished(furnished.run("algorithm=sft"))
    assert run.returncode == 0, run.stderr
    row = json.loads(Path(run.stdout.splitlines()[-1]).read_text())
    shared = [name for name in row["metrics"] if name.startswith("rm_")]
    assert {"rm_accuracy", "rm_accuracy_clean", "rm_agreement", "rm_accuracy_on_policy", "rm_ece"} <= set(shared)
    assert {name: card["metrics"][name] for name in shared} == {name: row["metrics"][name] for name in shared}
    assert card["groups"]["all"]["rm_accuracy"]["estimate"] == row["metrics"]["rm_accuracy"]
    assert card["reliability"] == row["data"]["calibration"]["reliability"]
    assert card["parents"]["reward_annotator"] == row["parents"]["reward_annotator"]
    assert card["contents"]["scores"] == row["contents"]["scores"]
    assert card["warnings"] == [flag["text"] for flag in row["flags"] if flag["text"].startswith("reward model: ")]
    page = paths[".md"].read_text()
    assert card["warnings"], "a model of three steps is no good"
    assert all(line.partition(" is ")[0] in page for line in card["warnings"])
    assert f"]({paths['.svg'].name})" in page
    assert sum(group["estimate"]["n"] for group in card["human"]["categories"].values()) == 2475
    assert card["ceiling"] == 0.95

    again = type_reward(furnished)
    assert made(again) == paths
    assert again.stdout == done.stdout
    assert finished(furnished.store) == before
    assert {path: path.read_bytes() for path in paths.values()} == files
    board = furnished([COMMAND, "board", "nano", "--results", str(furnished.home / "results")])
    assert board.returncode == 0, board.stderr  # a board does not take it for a run's card


@pytest.mark.slow
def test_an_ensembles_card_tells_how_far_its_members_disagree_and_what_a_method_pays(furnished: Terminal) -> None:
    words = ("task.shaping.members=2", "task.shaping.combine=worst", "task.reward.golden=4")
    card = json.loads(made(type_reward(furnished, *words))[".json"].read_text())
    folder = furnished.store / f"members-{card['parents']['members']}"
    margins = np.array(json.loads((folder / "members.json").read_text())["margins"])
    assert margins.shape == (2, card["groups"]["all"]["rm_accuracy"]["estimate"]["n"])
    assert card["members"]["disagreement"]["value"] == pytest.approx(np.abs(margins[0] - margins[1]).mean() / 2)
    same = (np.sign(margins[0]) == np.sign(margins[1])) & (margins[0] != 0)
    assert card["members"]["unanimous"]["value"] == pytest.approx(same.mean())
    assert [each["value"] for each in card["members"]["accuracy"]] == pytest.approx((margins > 0).mean(1), abs=0.1)
    assert len(stages(furnished.store, "reward")) == 2 + 1  # two members, and the SFT row's own, which looked at no golden set

    small = ("algorithm.rollouts=8", "algorithm.minibatch=8", "budget.steps=1")
    done = furnished(furnished.run("algorithm=ppo", *small, *words))
    assert done.returncode == 0, done.stderr
    paid = json.loads(Path(done.stdout.splitlines()[-1]).read_text())["spent"]
    theirs = {(item["role"], item["kind"]): item["flops"] for item in paid["items"]}
    ours = {(item["role"], item["kind"]): item["flops"] for item in card["bill"]["items"]}
    for item in (("feedback", "sample"), ("reward", "backward")):
        assert ours[item] == theirs[item], item
    assert card["bill"]["verdicts"] == {"golden": 4, "simulated": 16} == paid["labels"]
    assert card["bill"]["flops"] == sum(ours.values())


@pytest.mark.slow
def test_the_judges_reward_model_is_judged_by_the_annotators_verdicts(furnished: Terminal) -> None:
    paths = made(type_reward(furnished, "--by", "judge", "task.evaluation.split=validation"))
    assert paths.keys() == {".json", ".md"}  # no calibration on the split on which a temperature is fitted
    assert paths[".json"].name.startswith("judge-")
    card = json.loads(paths[".json"].read_text())
    assert card["by"] == "judge"
    assert card["bill"]["verdicts"] == {"ai": 16}
    assert {item["role"] for item in card["bill"]["items"]} == {"feedback", "judge", "reward"}
    recipe = json.loads((furnished.store / f"pairs-{card['parents']['held_out']}" / "recipe.json").read_text())
    assert recipe["labelled_by"] == "annotator"


def test_what_is_wrong_is_one_line_before_anything_is_trained(furnished: Terminal, tmp_path: Path) -> None:
    before = finished(furnished.store)
    assert "unknown value of --by 'judgee'; did you mean 'judge'?" in complaint(type_reward(furnished, "--by", "judgee"))
    bare = replace(furnished, env=furnished.env | {"ISOALIGN_CACHE": str(tmp_path / "bare")})
    done = type_reward(bare)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("isoalign: pyrit==1.1.0 is not in the cache and ISOALIGN_OFFLINE is set")
    assert "task.reward.pears" in complaint(type_reward(furnished, "task.reward.pears=3"))
    assert finished(furnished.store) == before
    assert not (furnished.home / "results").exists()
    done = furnished([COMMAND, "board", "nano", "task.seed=1"])
    assert done.returncode == 2
    assert complaint(done).endswith("unexpected extra argument (task.seed=1); see `isoalign board --help`")
