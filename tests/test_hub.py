"""Models of the hub by revision, and rows that are embedded."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import transformers

from isoalign.core.errors import UserError
from isoalign.data import hub
from isoalign.data.prompts import read_prompts
from isoalign.models import loading, scorers

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
    assert scorers.scorer_identity("hf:org/toxic@main#toxic") == NEW
    with pytest.raises(UserError, match="cannot load org/toxic at revision v2"):
        scorers.load_scorer("hf:org/toxic@v2#toxic")


def test_embedded_questions_are_rows_like_any_other() -> None:
    questions = read_prompts("embedded:questions", "question")
    assert len(questions) > 3000
    assert all(question.text for question in questions)
    with pytest.raises(UserError, match="embedded:none: no embedded rows have this name; known: questions"):
        read_prompts("embedded:none", "question")
