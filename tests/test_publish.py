"""Published cards are small, say what the cards said, and nothing is published by halves."""

import json
import lzma
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isoalign.cli.commands import invoke
from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate, Point
from isoalign.evaluation import card, packs
from isoalign.report.publish import publish
from isoalign.tools import verify


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
    assert card.read_cards(tmp_path / "published" / "nano") == [card.published(one) for one in cards[:2]]
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


def test_a_published_card_that_was_renamed_is_refused_before_its_values_are_lost(tmp_path: Path) -> None:
    first, second = (card.write_card(full(name), tmp_path / "local") for name in ("dpo", "kto"))
    publish([first], tmp_path)
    folder = tmp_path / "published" / "nano"
    (folder / first.name).rename(folder / "best.json")
    before = files(tmp_path / "published")
    with pytest.raises(UserError, match=rf"best.json must be named {first.name}, as its card is; rename it"):
        publish([second], tmp_path)
    assert files(tmp_path / "published") == before


def full(algorithm: str, seed: int = 0) -> Card:
    """A card with values by prompt, a curve and seals."""
    rng = np.random.default_rng([seed, len(algorithm)])
    prompts = [f"a-prompt-{i:03}" for i in range(256)]

    def column(scale: float) -> dict[str, float | None]:
        return dict(zip(prompts, rng.gamma(2, scale / 2, 256).tolist(), strict=True))

    values = {"toxicity_mean": column(0.1), "kl": column(8.0), "length": dict.fromkeys(prompts, 1 / 3)}
    ends = [
        {"toxicity_mean": column(0.1), "kl": dict.fromkeys(prompts, 0.0)},
        {"toxicity_mean": column(0.1), "kl": column(7.0)},
    ]
    points = [Point(float(i), 1e12 * i, i, {"kl": Estimate(1 / 3, None, None, 256)}, end) for i, end in enumerate(ends)]
    metrics = {name: Estimate(float(np.mean(list(by.values()))), 0.0, 1 / 7, 256) for name, by in values.items()}  # type: ignore[arg-type]
    metrics |= {name: Estimate(0.25, 0.0, 0.5, 64) for name in ("toxicity_mean/clean", "ead@common")}
    one = replace(make(algorithm), seed=seed, key=f"{seed}123456789ab", values=values, curve=points, data={"plot": {"x": 1.0}})
    return card.sealed(
        replace(one, metrics=metrics | {"toxicity_reduction": Estimate(0.1, 0.09, 0.11, 256, 3)}, notes={"draws": 8})
    )


def test_a_published_card_is_small_and_its_means_are_those_of_the_card(tmp_path: Path) -> None:
    cards = [full("dpo", seed) for seed in range(3)]
    paths = [card.write_card(one, tmp_path / "local") for one in cards]
    publish(paths, tmp_path)
    folder = tmp_path / "published" / "nano"
    size = sum(path.stat().st_size for path in [*folder.glob("dpo*"), folder / packs.PACK])
    assert size < 0.5 * sum(path.stat().st_size for path in paths)
    for before, after in zip(cards, card.read_cards(folder), strict=True):
        assert after.digits == 3
        assert card.broken_seals(after) == []
        assert (after.config, after.notes, after.data, after.flags) == (before.config, before.notes, before.data, before.flags)
        assert after.metrics["length"] == Estimate(0.333333, 0.0, 0.142857, 256)
        assert after.metrics.keys() == before.metrics.keys()
        for name in ("toxicity_reduction", "toxicity_mean/clean", "ead@common"):
            assert after.metrics[name] == before.metrics[name]
        columns = [
            (before.values, after.values),
            *((p.values, q.values) for p, q in zip(before.curve, after.curve, strict=True)),
        ]
        for own, theirs in columns:
            for name, by in own.items():
                assert theirs[name].keys() == by.keys()
                known, rounded = (np.array(list(each.values()), dtype=float) for each in (by, theirs[name]))
                assert abs(rounded.mean() - known.mean()) <= known.std() / math.sqrt(len(known)) / 8
                assert np.abs(rounded - known).max() <= 5e-3 * known.max()
        assert after.values["length"]["a-prompt-000"] == 1 / 3, "one value for all takes no room"
    read = json.loads((folder / "dpo-s0-01234567.json").read_text())
    assert read["metrics"]["toxicity_reduction"] == [0.1, 0.09, 0.11, 256, 3]
    assert not [name for name in read["metrics"] if "/" in name or "@" in name]
    assert [read[name] for name in ("values", "parents", "contents", "seals", packs.PARTS)] == [packs.PACK] * 5
    line = json.loads(lzma.decompress((folder / packs.PACK).read_bytes()).splitlines()[0])
    assert line["card"] == "dpo-s0-01234567.json"
    assert line[packs.PARTS] == {name: [0.25, 0.0, 0.5, 64] for name in ("toxicity_mean/clean", "ead@common")}
    assert len(line["values"][0]["columns"]["kl"]) == 256


def test_values_are_rounded_to_three_digits_and_five_decimals() -> None:
    by: dict[str, float | None] = {"a": 12.34567, "b": 0.123456, "c": 0.001234567, "d": 0.0000123, "e": None, "f": 3, "g": 0.0}
    after = card.published(replace(make("dpo"), values={"kl": by})).values["kl"]
    assert after == {"a": 12.3, "b": 0.123, "c": 0.00123, "d": 0.00001, "e": None, "f": 3, "g": 0.0}
    assert type(after["f"]) is int


@pytest.mark.parametrize(("about", "spread"), [(1522.0, 2.0), (1e-5, 4e-6), (0.3, 0.1), (-40.0, 1e-3)])
def test_values_keep_what_tells_methods_apart_whatever_their_scale(about: float, spread: float) -> None:
    rng = np.random.default_rng(3)
    columns = [about + spread * rng.normal(size=256) for _ in range(2)]
    columns[1] = columns[0] + 0.1 * spread * (1 + rng.normal(size=256))
    known, found = [], []
    for column in columns:
        by: dict[str, float | None] = {str(i): float(value) for i, value in enumerate(column)}
        known.append(column)
        after = card.published(replace(make("dpo"), values={"kl": by})).values["kl"]
        found.append(np.array(list(after.values()), dtype=float))
    (low, high), (gap, rounded) = (0.9, 1.1), ((each[1] - each[0]) for each in (known, found))
    assert low * gap.mean() < rounded.mean() < high * gap.mean()
    assert low * gap.std() < rounded.std() < high * gap.std()


def test_a_pack_that_is_gone_changed_or_of_others_is_one_line_and_what_has_no_card_leaves_it(tmp_path: Path) -> None:
    first, second = (card.write_card(full("dpo", seed), tmp_path / "local") for seed in (0, 1))
    publish([first], tmp_path)
    folder = tmp_path / "published" / "nano"
    pack, own = folder / packs.PACK, folder / first.name
    alone = pack.read_bytes()
    publish([second], tmp_path)
    both = pack.read_bytes()
    (folder / second.name).unlink()
    publish([first], tmp_path)
    assert pack.read_bytes() == alone, "the line of a card that was removed goes"
    pack.write_bytes(both)
    assert card.read_cards(folder) == [card.published(card.read_card(first))], "more than is asked for harms nothing"
    text = lzma.decompress(alone).decode()
    changed = re.sub(r'"kl":\[(\d)', lambda found: f'"kl":[1{found[1]}', text, count=1)
    for content, told in (
        (lzma.compress(changed.encode()), "was changed since it was written: values"),
        (lzma.compress(text.replace(own.name, "else-s0-01234567.json").encode()), "does not have the values by prompt of"),
        (alone[:100], "cannot read"),
        (None, "has its values by prompt in values.jsonl.xz, which is not beside it; copy that file too"),
    ):
        pack.unlink() if content is None else pack.write_bytes(content)
        with pytest.raises(UserError, match=told) as caught:
            card.read_unchanged(own)
        assert "\n" not in str(caught.value)


def test_what_an_older_version_published_is_read_and_made_small_by_publishing_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "published" / "nano"
    old = card.write_card(full("dpo"), folder)
    before = card.read_card(old)
    assert before.digits is None
    publish([old], tmp_path)
    assert card.read_card(old) == card.published(before)
    assert json.loads(old.read_text())["format"] == 5


def test_what_cards_of_a_board_share_is_in_the_pack_and_cards_that_still_have_it_are_read(tmp_path: Path) -> None:
    config = {"algorithm": {"lr": 0.1}, "task": {"name": "nano", "prompts": {"train": 8}}}
    one = card.sealed(replace(full("dpo"), config=config, parents={"sft": "aaaa"}, contents={"sft": "bbbb"}))
    publish([card.write_card(one, tmp_path / "local")], tmp_path)
    (file,) = (tmp_path / "published" / "nano").glob("*.json")
    read = json.loads(file.read_text())
    assert read["config"] == {"algorithm": {"lr": 0.1}, "task": packs.PACK}
    known = card.read_unchanged(file)
    assert (known.config, known.parents, known.contents) == (config, {"sft": "aaaa"}, {"sft": "bbbb"})
    whole = {"config": config, "parents": known.parents, "contents": known.contents, "seals": known.seals}
    file.write_text(json.dumps(read | whole))
    assert card.read_unchanged(file) == known
    publish([file], tmp_path)
    assert json.loads(file.read_text()) == read


def _apart(text: str) -> tuple[list[str], list[float]]:
    """The words of an output, without the rules of tables, and its numbers with decimals."""
    parts = re.split(r"(\d+\.\d+)", re.sub(r"[\s─]+", " ", text))
    return parts[::2], [float(number) for number in parts[1::2]]


def test_what_was_published_with_a_digit_more_keeps_it_until_it_is_published_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = card.write_card(full("dpo"), tmp_path / "local")
    monkeypatch.setattr(packs, "DIGITS", 4)
    publish([local], tmp_path)
    monkeypatch.undo()
    place = tmp_path / "published" / "nano" / local.name
    fine = card.read_unchanged(place)
    assert fine.digits == 4
    publish([place], tmp_path)
    coarse = card.read_unchanged(place)
    assert coarse.digits == 3
    assert coarse.values["kl"] != fine.values["kl"]
    assert coarse.metrics == fine.metrics
    known = card.read_card(local)
    for one in (fine, coarse):
        assert verify._differences(one.values, known.values, "values", digits=one.digits) == []
    assert verify._differences(coarse.values, known.values, "values", digits=4)


def test_commands_read_published_cards_as_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cards = [full(name, seed) for name in ("dpo", "ppo-x") for seed in (0, 1)]
    paths = [card.write_card(one, tmp_path / "local" / "nano") for one in cards]
    publish(paths, tmp_path)
    said = []
    for results in ("local", "published"):
        named = ["--results", str(tmp_path / results)]
        for words in (["board", "nano"], ["compare", "dpo", "ppo-x"]):
            assert invoke([*words, *named]) == 0
        assert invoke(["show", str(tmp_path / results / "nano" / paths[0].name)]) == 0
        said.append(re.sub(r"\S*(local|published)\S*", "", capsys.readouterr().out))
    words, numbers = zip(*(_apart(each) for each in said), strict=True)
    assert words[0] == words[1]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-2, abs=3e-3), "but for last digits"
    assert invoke(["verify", str(tmp_path / "published" / "nano" / paths[0].name), "--store", str(tmp_path / "store")]) == 1
    assert "ok: the card's 20 entries agree with their seals" in capsys.readouterr().out


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
