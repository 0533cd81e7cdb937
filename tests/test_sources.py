"""Where models, prompts and demonstrations come from: revisions of the hub, embedded rows, columns, formats and openings."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import transformers

from isoalign.config.task import PromptsConfig, SFTConfig
from isoalign.core.errors import UserError
from isoalign.data import hub, prompts
from isoalign.data.prompts import read_own
from isoalign.models import loading, scorers
from isoalign.stages import sft
from isoalign.tools.new_task import NewTask

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with two commits of a model, the newer one with another tokenizer_config."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--org--small"
    (root / "refs").mkdir(parents=True)
    for ref, commit in (("main", NEW), ("v1.0", OLD)):
        (root / "refs" / ref).write_text(commit)
        shutil.copytree(loading.model_path("nano"), root / "snapshots" / commit)
    hub.model_folder.cache_clear()
    hub.model_identity.cache_clear()
    return root


def test_a_revision_is_a_commit_a_branch_or_a_tag(cache: Path) -> None:
    for revision, commit in ((OLD, OLD), ("v1.0", OLD), ("main", NEW)):
        assert loading.model_path(f"org/small@{revision}") == str(cache / "snapshots" / commit)
        assert loading.weights_identity(f"org/small@{revision}") == commit  # whichever name it was asked for by
    assert loading.count_parameters("org/small@v1.0") == loading.count_parameters("nano")
    assert len(loading.load_tokenizer("org/small@v1.0")) == len(loading.load_tokenizer("nano"))


def test_a_revision_that_is_not_there_is_one_line(cache: Path) -> None:
    for name in ("org/small@v9", "org/none@main"):
        with pytest.raises(
            UserError, match=r"^cannot load org/\w+ at revision \w+: it is not in the hub's cache; set HF_HUB_OFFLINE=0"
        ):
            loading.load_config(name)
    with pytest.raises(UserError, match="a folder has no revision"):
        loading.load_config(f"{cache}@main")
    with pytest.raises(UserError, match="NAME@REVISION"):
        loading.load_config("org/small@")


def test_a_folder_whose_name_has_an_at_is_a_folder(cache: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cache / "snapshots" / OLD, tmp_path / "mine@home")
    assert loading.model_path(str(folder)) == str(folder)
    assert loading.weights_identity(str(folder)) != OLD  # a digest of its files


def test_a_scorer_has_a_revision_before_its_label(cache: Path) -> None:
    folder = cache.parent / "models--org--toxic"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(NEW)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        loading.model_path("nano"), num_labels=2, id2label={0: "fine", 1: "toxic"}
    )
    classifier.save_pretrained(folder / "snapshots" / NEW)
    loading.load_tokenizer("nano").save_pretrained(folder / "snapshots" / NEW)
    texts = ["you are kind", "go away"]
    toxic, fine = (scorers.load_scorer(f"hf:org/toxic@main#{label}")(texts) for label in ("toxic", "fine"))
    assert [a + b for a, b in zip(toxic, fine, strict=True)] == pytest.approx([1.0, 1.0])  # type: ignore[operator]
    assert scorers.scorer_identity("hf:org/toxic@main#toxic") == f"{NEW} read 3"
    with pytest.raises(UserError, match="cannot load org/toxic at revision v2"):
        scorers.load_scorer("hf:org/toxic@v2#toxic")


def test_embedded_questions_are_rows_like_any_other() -> None:
    questions = read_own("embedded:questions", PromptsConfig(source="embedded:questions", column="question"))
    assert len(questions) > 3000
    assert all(question.text for question in questions)
    with pytest.raises(UserError, match="embedded:none: no embedded rows have this name; known: questions"):
        read_own("embedded:none", PromptsConfig(source="embedded:none", column="question"))


HH = "\n\nHuman: how is number {0}?\n\nAssistant: fine\n\nHuman: and then?\n\nAssistant: {1}"


def lines(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(file)


def own(source: str, **more: Any) -> PromptsConfig:
    return PromptsConfig(**{"train": 0, "validation": 0, "test": 0, "source": source, **more})


def test_prompts_of_feedback_are_read_by_its_format(tmp_path: Path) -> None:
    source = lines(tmp_path / "hh.jsonl", [{"chosen": HH.format(i, "so"), "rejected": HH.format(i, "no")} for i in range(60)])
    chosen = own(source, format="transcripts")
    found = [each for split in prompts.SPLITS for each in prompts.load_split(chosen, split)]
    assert len(found) == 60
    assert [turn.role for turn in found[0].turns] == ["user", "assistant", "user"]
    assert {each.turns[-1].content for each in found} == {"and then?"}
    with pytest.raises(UserError, match=r"hh.jsonl: row 1: prompt is missing; task.prompts.format=transcripts takes"):
        read_own(source, own(source))
    with pytest.raises(ValueError, match=r"task.prompts.stratum is for prompts of a column"):
        own(source, format="transcripts", stratum="source")


@pytest.mark.parametrize("format", ["", "demonstrations"])
def test_rows_without_a_prompt_are_refused_or_skipped_and_counted(tmp_path: Path, format: str) -> None:
    rows = [{"prompt": f"number {i}", "completion": "so"} for i in range(5)]
    source = lines(tmp_path / "mine.jsonl", [*rows, {"prompt": " ", "completion": "no"}, rows[0]])
    with pytest.raises(UserError, match=r"mine.jsonl: row 6: prompt .*skip=empty leaves such rows out"):
        read_own(source, own(source, format=format))
    config = own(source, format=format, skip="empty")
    assert len(read_own(source, config)) == 5
    assert prompts.count_skipped(config) == 1


def test_a_new_task_over_feedback_takes_its_prompts(tmp_path: Path) -> None:
    source = lines(tmp_path / "hh.jsonl", [{"chosen": HH.format(i, "so"), "rejected": HH.format(i, "no")} for i in range(60)])
    file = NewTask("talk", "nano", source, feedback=source).write(tmp_path / "conf")
    assert "format: transcripts" in file.read_text()
    assert "column:" not in file.read_text()


def test_a_column_may_hold_an_object_with_the_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": {"text": f"number {i} is", "toxicity": 0.5}, "challenging": i % 2 == 0} for i in range(30)]
    source = lines(tmp_path / "rtp.jsonl", [*rows, {"prompt": {"text": None}}])
    with pytest.raises(UserError, match=r"row 31: prompt.text is missing"):
        read_own(source, own(source, column="prompt.text"))
    lines(tmp_path / "good.jsonl", rows)
    good = str(tmp_path / "good.jsonl")
    found = read_own(good, own(good, column="prompt.text", stratum="challenging"))
    assert [each.text for each in found] == [row["prompt"]["text"] for row in rows]
    assert {each.stratum for each in found} == {"True", "False"}
    with pytest.raises(UserError, match=r"row 1: prompt: unknown|row 1: prompt: a message's role is missing"):
        read_own(good, own(good))


def test_the_opening_of_a_text_may_be_the_prompt(tmp_path: Path) -> None:
    source = lines(tmp_path / "reviews.jsonl", [{"text": f"film number {i} is\nall of it lovely"} for i in range(9)] * 2)
    found = read_own(source, own(source, column="text", opening=4))
    assert [each.text for each in found] == [f"film number {i} is" for i in range(9)]
    spoken = lines(tmp_path / "chat.jsonl", [{"prompt": [{"role": "user", "content": "a long question of mine"}]}])
    assert read_own(spoken, own(spoken, opening=2))[0].turns[0].content == "a long question of mine"


def test_texts_alone_are_demonstrations_by_their_openings(tmp_path: Path) -> None:
    source = lines(tmp_path / "reviews.jsonl", [{"review": "one two three  four five"}, {"review": "one two"}])
    losses = Counter[str]()
    config = SFTConfig(1, 0.1, source=source, columns={"text": "review"}, opening=2)
    [shown] = sft.read_demonstrations(config, losses)
    assert (shown.prompt[0].content, shown.completion[0].content) == ("one two", " three four five")
    assert losses == {"left out as they are no longer than their opening": 1}
    with pytest.raises(UserError, match=r"reviews.jsonl: row 1: text is missing; columns=\{text: NAME\} names the column"):
        sft.read_demonstrations(SFTConfig(1, 0.1, source=source, opening=2))


def test_columns_and_skipped_rows_of_demonstrations_are_named_and_counted(tmp_path: Path) -> None:
    rows = [{"question": "how?", "answer": "so"}, {"question": "", "answer": "no"}]
    source = lines(tmp_path / "mine.jsonl", rows)
    columns, losses = {"prompt": "question", "completion": "answer"}, Counter[str]()
    with pytest.raises(UserError, match=r"row 2: prompt is empty; skip=empty leaves such rows out"):
        sft.read_demonstrations(SFTConfig(1, 0.1, source=source, columns=columns))
    [shown] = sft.read_demonstrations(SFTConfig(1, 0.1, source=source, columns=columns, skip="empty"), losses)
    assert (shown.prompt[0].content, shown.completion[0].content) == ("how?", "so")
    assert losses == {"skipped rows (empty)": 1}
    with pytest.raises(ValueError, match=r"task.sft.skip must be empty, tools, faulty"):
        SFTConfig(1, 0.1, skip="all")
