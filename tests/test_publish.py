"""Published cards are exact copies, and nothing is published by halves."""

import json
from pathlib import Path

import pytest

from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate
from isoalign.evaluation import card
from isoalign.report.publish import publish


def make(algorithm: str, task: str = "nano", value: float = 0.1) -> Card:
    metrics = {"toxicity_reduction": Estimate(value, value - 0.01, value + 0.01, 128)}
    budget, spent = {"flops": 1e12}, {"flops": 9e11}
    parents = {"sft": "aaaa"}
    return Card("0123456789ab", task, algorithm, {}, 0, budget, spent, metrics, parents, {}, "isoalign run")  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_cards_and_their_boards_appear_by_task(tmp_path: Path) -> None:
    cards = [make("dpo"), make("kto"), make("dpo", "smol")]
    paths = [card.write_card(one, tmp_path / "local" / one.task) for one in cards]
    boards = publish(paths, tmp_path)
    assert boards == [tmp_path / "published" / task / "leaderboard.md" for task in ("nano", "smol")]
    assert card.read_cards(tmp_path / "published" / "nano") == cards[:2]
    assert "kto" in boards[0].read_text()
    assert "kto" not in boards[1].read_text()


def test_publishing_again_adds_to_the_board_and_changes_nothing_else(tmp_path: Path) -> None:
    first, second = (card.write_card(make(name), tmp_path / "local") for name in ("dpo", "kto"))
    publish([first], tmp_path)
    before = files(tmp_path / "published")
    publish([first], tmp_path)
    assert files(tmp_path / "published") == before
    (board,) = publish([second], tmp_path)
    assert "dpo" in board.read_text()
    assert "kto" in board.read_text()


def test_what_is_no_card_is_refused_and_nothing_copied(tmp_path: Path) -> None:
    good = card.write_card(make("dpo"), tmp_path / "local")
    bad = tmp_path / "notes.json"
    bad.write_text("{}")
    for path, words in ((bad, "is not a card"), (tmp_path / "none", "cannot read"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=words) as caught:
            publish([good, path], tmp_path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(UserError, match="no cards named"):
        publish([], tmp_path)
    assert not (tmp_path / "published").exists()


def test_a_card_never_replaces_one_of_another_content(tmp_path: Path) -> None:
    one, two = (card.write_card(make("dpo", value=value), tmp_path / str(value)) for value in (0.1, 0.2))
    with pytest.raises(UserError, match="holds another card"):
        publish([one, two], tmp_path)
    assert not (tmp_path / "published").exists()
    publish([one], tmp_path)
    before = files(tmp_path / "published")
    with pytest.raises(UserError, match="holds another card"):
        publish([two], tmp_path)
    assert files(tmp_path / "published") == before


@pytest.mark.parametrize("task", ["../evil", "a/b", "..", ".git", ""])
def test_a_task_can_not_leave_the_folder_of_results(tmp_path: Path, task: str) -> None:
    path = card.write_card(make("dpo", task), tmp_path / "local")
    with pytest.raises(UserError, match="can't be the name of a folder"):
        publish([path], tmp_path)


def test_a_secret_put_in_by_hand_is_not_published(tmp_path: Path) -> None:
    path = card.write_card(make("dpo"), tmp_path / "local")
    data = json.loads(card.to_json(make("dpo"))) | {"command": "WANDB_API_KEY=hunter2 isoalign run"}
    path.write_text(json.dumps(data))
    publish([path], tmp_path)
    assert b"hunter2" not in b"".join(files(tmp_path / "published").values())
