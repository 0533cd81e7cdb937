"""Where feedback comes from: panels of annotators, files of people's verdicts, judges that are asked."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from isoalign.config.feedback import PanelConfig
from isoalign.config.task import ModelConfig
from isoalign.core.errors import UserError
from isoalign.core.store import Store, recipe_fields
from isoalign.data.formats import Turn
from isoalign.models import loading
from isoalign.runs.flags import whose_verdicts
from isoalign.runs.overrides import task_named
from isoalign.stages.cutting import Cutter
from isoalign.stages.shared import SharedStages
from workbench import COMMAND, Terminal, complaint

ASKED = ["task.judge.kind=lm", "task.feedback.judge_margin=0", "task.feedback.judge_questions=40"]


def card_of(terminal: Terminal, *words: str) -> dict[str, Any]:
    """The card of a run that verifies."""
    done = terminal(terminal.run(*words))
    assert done.returncode == 0, done.stderr
    path = done.stdout.splitlines()[-1]
    verified = terminal([COMMAND, "verify", path, "--store", str(terminal.store)])
    assert verified.returncode == 0, verified.stdout
    card: dict[str, Any] = json.loads(Path(path).read_text())
    return card


def rows_of(
    terminal: Terminal, card: dict[str, Any], parent: str = "pairs", file: str = "pairs.jsonl"
) -> list[dict[str, Any]]:
    folder = Store(terminal.store).find(card["parents"][parent])
    assert folder is not None
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


# -- panels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_panel_gives_every_verdict_with_its_annotators_and_is_on_bill_and_card(furnished: Terminal) -> None:
    words = ["algorithm=dpo", "algorithm.batch_size=8", "budget.steps=2", "task.feedback.noise=0.3", "task.panel.annotators=5",
             "task.panel.golden=10", "task.panel.coverage=0.8"]  # fmt: skip
    card = card_of(furnished, *words)
    rows, panel = rows_of(furnished, card), card["notes"]["panel"]
    assert all(1 <= len(row["annotators"]) <= 5 for row in rows)
    assert sum(row["clean"] for row in rows) / len(rows) == pytest.approx(panel["right"])
    assert panel["right"] > 0.7  # one annotator is right on .7 of them
    assert panel["annotators"] == 5
    assert len(panel["accuracy"]) == 5
    assert 0 < panel["agreement"]["agreement"]["value"] < 1
    labels = card["spent"]["labels"]
    assert labels["calibration"] == 5 * 8  # coverage .8 of 10 golden items
    assert 16 < labels["simulated"] <= 16 * 5  # of two batches


def test_a_panel_of_one_careful_annotator_is_the_single_annotator(tmp_path: Path) -> None:
    """Nor does any other setting that came later make a stage again that was made without it."""
    task = task_named("nano", ["task.panel.annotators=1", "task.panel.temperature=[0.0]"])
    recipe = SharedStages(task, Store(tmp_path)).pairs("annotator").recipe
    assert recipe.keys() == {"version", "completions", "annotators", "config", "labelled_by", "seed"}
    assert recipe_fields(recipe["config"]).keys() == {"draws", "margin", "judge_margin", "noise"}
    several = SharedStages(task_named("nano", ["task.panel.annotators=3"]), Store(tmp_path)).pairs("annotator").recipe
    assert several["panel"] == PanelConfig(annotators=3)


def test_more_golden_items_than_there_are_is_one_line(furnished: Terminal) -> None:
    words = ["algorithm=dpo", "budget.steps=1", "task.panel.golden=5000", "task.panel.annotators=2"]
    line = complaint(furnished(furnished.run(*words)))
    assert "task.panel.golden is 5000, but the validation split has only" in line


# -- files ----------------------------------------------------------------------------------------------------------------


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.slow
def test_people_teach_in_the_place_of_the_simulated_annotator(furnished: Terminal, tmp_path: Path) -> None:
    """Two of three annotators prefer the kind answer; where one stands alone there is no pair."""
    rows = [{"prompt": f"opening number {i} of a talk", "chosen": " thank you kindly", "rejected": " you stupid idiot",
             "annotator": annotator} for i in range(60) for annotator in ("ann", "bob")]  # fmt: skip
    rows += [row | {"chosen": row["rejected"], "rejected": row["chosen"], "annotator": "cat"} for row in rows[::2]]
    tied = {"prompt": "opening that splits them", "chosen": " a", "rejected": " b"}
    rows += [tied | {"annotator": "ann"}, {**tied, "chosen": " b", "rejected": " a", "annotator": "bob"}]
    rows.append({"prompt": "an opening", "chosen": " a", "rejected": "", "annotator": "ann"})
    rows = [{"frage": row.pop("prompt"), **row, "chosen_rating": 1, "rejected_rating": 2} for row in rows]
    file = write(tmp_path / "mine.jsonl", rows)
    words = ["algorithm=ppo", "algorithm.rollouts=8", "algorithm.minibatch=8", "budget.steps=1", "task.reward.pairs=8"]
    words += ["task.feedback.columns={prompt: frage}", "task.feedback.skip=empty"]
    card = card_of(furnished, *words, f"task.feedback.file={file}")
    told = [flag["text"] for flag in card["notes"]["flags"]]
    assert "mine.jsonl: skipped rows (empty): 1" in told
    assert "mine.jsonl: pairs whose rejected answer has the higher score: 182" in told  # 60 x 2 + 60 + 2
    pairs, held_out = rows_of(furnished, card), rows_of(furnished, card, "held_out")
    texts = {row["chosen"] for row in pairs + held_out}
    assert texts == {pairs[0]["chosen"]}
    assert " thank you kindly".startswith(pairs[0]["chosen"])
    assert not {row["prompt_id"] for row in pairs} & {row["prompt_id"] for row in held_out}
    assert card["spent"]["labels"] == {"human": 8 * 3}
    assert not [item for item in card["spent"]["items"] if item["role"] == "feedback"]
    assert card["notes"]["file"] == "mine.jsonl"
    assert card["notes"]["noise"] is None
    assert not [couple for couple in card["notes"]["correlation"] if "annotator" in couple]  # none is simulated
    assert card["metrics"]["rm_accuracy"]["n"] == len(held_out)


@pytest.mark.slow
def test_kto_learns_from_unpaired_feedback_and_others_say_that_they_can_not(furnished: Terminal, tmp_path: Path) -> None:
    rows = [{"prompt": f"opening number {i}", "completion": " fine words" if i % 3 else " vile words", "label": bool(i % 3)}
            for i in range(60)]  # fmt: skip
    file = write(tmp_path / "thumbs.jsonl", rows)
    card = card_of(furnished, "algorithm=kto", "algorithm.batch_size=8", "budget.steps=2", f"task.feedback.file={file}")
    assert card["spent"]["labels"] == {"human": 16}  # two steps of 8
    rows = rows_of(furnished, card, "unpaired", "unpaired.jsonl")
    assert {row["desirable"] for row in rows} == {True, False}
    # nothing that people said is flipped, and what its accuracy is measured on is said
    assert card["notes"]["noise"] is None
    told = " | ".join(flag["text"] for flag in card["notes"]["flags"])
    assert (
        "thumbs.jsonl compares no answers: the accuracy of reward model and policy is measured on verdicts of toxicity" in told
    )
    assert "verdicts of people" not in told
    for method in ("dpo", "ppo"):
        line = complaint(furnished(furnished.run(f"algorithm={method}", "budget.steps=1", f"task.feedback.file={file}")))
        assert "thumbs.jsonl holds unpaired feedback" in line
        assert "KTO learns from unpaired feedback" in line


def test_whose_verdicts_a_figure_rests_on_is_said() -> None:
    task, few = task_named("nano", []), {"verdicts": [{}] * 119}
    simulated, people = few | {"source": "simulated"}, few | {"source": "human"}
    (line,) = whose_verdicts(task, [people], "")
    assert "all 119 verdicts of people, fewer than" in line
    trained, measured = whose_verdicts(task, [simulated], "thumbs.jsonl")
    assert "all 119 verdicts of the simulated annotator, fewer than" in trained
    assert measured.startswith("thumbs.jsonl compares no answers: ")
    assert measured.endswith("measured on verdicts of toxicity by the simulated annotator, not by people")
    own = replace(task, feedback=replace(task.feedback, annotator="vader"))
    assert whose_verdicts(own, [], "thumbs.jsonl")[0].endswith("measured on verdicts by vader, not by people")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": "a", "completion": " b"}], "holds demonstrations"),
        ([{"prompt": "a b c", "chosen": " x", "rejected": " y"}], "has no usable verdict on a"),
        ([{"question": "a"}], "mine.jsonl"),
        ([], "mine.jsonl"),
    ],
)
def test_a_file_that_can_not_teach_is_one_line(
    furnished: Terminal, tmp_path: Path, rows: list[dict[str, Any]], told: str
) -> None:
    file = write(tmp_path / "mine.jsonl", rows)
    words = ["algorithm=dpo", "budget.steps=1", "task.reward.epochs=2", f"task.feedback.file={file}"]
    line = complaint(furnished(furnished.run(*words)))
    assert told in line
    assert "mine.jsonl" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["task.feedback.file=x", "task.rounds.count=2"],
            "above 1 needs simulated annotators; with task.feedback.file set it to 1",
        ),
        (
            ["task.feedback.file=x", "task.panel.annotators=3"],
            "annotators and task.feedback.file replaces them: set one",
        ),
        (["task.reward.golden=5", "task.evaluation.split=validation"], "which can't also be the evaluation split"),
        (["task.panel.golden=5", "task.evaluation.split=validation"], "which can't also be the evaluation split"),
        (
            ["task.rounds.count=2", "task.rounds.prompts=900"],
            "must be at most task.prompts.train=800, not 900",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        task_named("nano", words)


def test_what_looks_like_the_end_of_text_in_a_file_is_text(tiny_model: Path) -> None:
    """Else a token that the policy may never say would be in what it learns."""
    tokenizer = loading.load_tokenizer(str(tiny_model))
    cut = Cutter(tokenizer, ModelConfig(str(tiny_model), new_tokens=50))
    one, several = (Turn("assistant", "so"),), (Turn("assistant", "so"), Turn("user", "no"), Turn("assistant", "yes"))
    assert cut.answer(several) == cut.answer(one), "what a user says behind it is learned by nobody"
    assert (cut.is_cut(one), cut.is_cut(several)) == (False, True)
    ids = cut.answer((Turn("", "so<|endoftext|>it ends"),))
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == "so<|endoftext|>it ends"


# -- judges ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_language_model_judges_and_its_passes_bias_and_agreement_are_reported(furnished: Terminal) -> None:
    words = ["algorithm=rlaif", "algorithm.rollouts=8", "algorithm.minibatch=8", "budget.steps=1", "task.reward.pairs=8"]
    card = card_of(furnished, *words, *ASKED, f"task.judge.model={furnished.model}")
    spent, judge = card["spent"], card["notes"]["judge"]
    assert [item for item in spent["items"] if item["role"] == "judge" and item["flops"] > 0]
    assert spent["judge"]["tokens"] > spent["judge"]["passes"] > 0
    assert set(judge["agreement"]) == {"annotator", "clean", "tox_block", "toxic_classifier"}
    assert judge["position_bias"]["value"] is not None
    assert judge["missing"] == {}
    record = json.loads((furnished.store / f"judge-{card['parents']['judge']}" / "judge.json").read_text())
    assert record == judge


@pytest.mark.slow
def test_a_judge_that_compares_can_not_score_one_answer(furnished: Terminal) -> None:
    words = ["algorithm=rlaif", "algorithm.mode=direct", "budget.steps=1", *ASKED, f"task.judge.model={furnished.model}"]
    assert "set algorithm.mode=canonical" in complaint(furnished(furnished.run(*words)))


class Judging(BaseHTTPRequestHandler):
    """A server that prefers the longer answer, says nonsense to every seventh request, and breaks down after ``most``."""

    most = 10**9
    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        text = json.loads(body)["messages"][-1]["content"]
        if len(self.asked) >= self.most:
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.asked.append(body.decode())
        first, second = text.partition("Continuation A:")[2].split("Continuation B:")
        letter = "A" if len(first) > len(second.partition("\n\n")[0]) else "B"
        said = "who knows?" if len(self.asked) % 7 == 0 else f"Verdict: {letter}"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 50, "completion_tokens": 4, "total_tokens": 54}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.slow
def test_after_a_server_fails_the_same_command_continues_with_the_paid_answers(furnished: Terminal) -> None:
    class Handler(Judging):
        asked: ClassVar[list[str]] = []
        most = 30

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    words = ["algorithm=rlaif", "algorithm.rollouts=8", "algorithm.minibatch=8", "budget.steps=1", "task.reward.pairs=8",
             "task.judge.kind=server", f"task.judge.base_url=http://127.0.0.1:{server.server_address[1]}/v1",
             "task.judge.model=m", "task.judge.retries=0", "task.feedback.judge_margin=0",
             "task.feedback.judge_questions=40"]  # fmt: skip
    quiet = replace(furnished, env=furnished.env | {"OPENAI_API_KEY": "sk-secret-of-the-test", "NO_PROXY": "127.0.0.1"})
    try:
        line = complaint(quiet(quiet.run(*words)))
        assert "verdicts are saved in" in line
        assert len(Handler.asked) == 30
        Handler.most = 10**9
        card = card_of(quiet, *words)
    finally:
        server.shutdown()
        server.server_close()
    assert len(Handler.asked) == len(set(Handler.asked))  # nothing was asked, or paid, twice
    judge = card["notes"]["judge"]
    assert judge["missing"].keys() == {"no verdict"}
    assert judge["position_bias"]["value"] == pytest.approx(0, abs=0.3)
    assert card["spent"]["judge"]["tokens"] > 0
    everything = [file.read_text(errors="ignore") for file in quiet.home.rglob("*.json*") if file.is_file()]
    assert not any("sk-secret-of-the-test" in text for text in everything)
