"""Keeping a store: what is in it, what was changed, what can go, and that nothing else goes."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from isoalign.cli.commands import invoke
from isoalign.core.errors import UserError
from isoalign.core.store import Store, digest
from isoalign.evaluation.card import read_card, sealed, write_card
from isoalign.tools import storekeeping

CARD = next(Path(__file__).parents[1].glob("results/published/nano/dpo-s0-*.json"))


def stage(store: Store, name: str, **recipe: Any) -> Path:
    key = digest({"stage": name, **recipe})
    return store.get(name, key, recipe, lambda work: (work / "rows.jsonl").write_text("a\n") and None)


def key_of(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Store, dict[str, Path]]:
    """A base, two runs on it, scores of the first, and one stage that has nothing to do with them."""
    store = Store(tmp_path / "store")
    found = {"sft": stage(store, "sft", seed=0)}
    for seed in (0, 1):
        found[f"train{seed}"] = stage(store, "train", sft=key_of(found["sft"]), seed=seed)
    found["scores"] = stage(store, "scores", train=key_of(found["train0"]))
    found["alone"] = stage(store, "pairs", seed=5)
    return store, found


def names(chosen: list[storekeeping.Item]) -> set[str]:
    return {item.name for item in chosen}


def test_a_stage_goes_with_all_that_was_made_from_it(kept: tuple[Store, dict[str, Path]]) -> None:
    store, found = kept
    assert names(storekeeping.descendants(store, [key_of(found["train0"])])) == {found["train0"].name, found["scores"].name}
    assert names(storekeeping.descendants(store, [found["sft"].name])) == {
        path.name for name, path in found.items() if name != "alone"
    }
    with pytest.raises(UserError, match="holds no stage 'nothing'"):
        storekeeping.descendants(store, ["nothing"])


def test_what_no_card_names_is_found_and_its_parents_are_kept(
    kept: tuple[Store, dict[str, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, found = kept
    folder = tmp_path / "results" / "local" / "nano"
    folder.mkdir(parents=True)
    words = ["store", "prune", "--unnamed", "--results", str(tmp_path / "results"), "--store", str(store.root)]
    assert invoke([*words, "--yes"]) == 2
    assert "no cards in" in capsys.readouterr().err
    card = replace(read_card(CARD), parents={"scores": key_of(found["scores"])})
    write_card(sealed(card), folder)
    (folder / "failed").mkdir()
    (folder / "failed" / "dpo-s0.json").write_text('{"algorithm": "dpo", "reason": "no"}')
    (tmp_path / "results" / "tuning.json").write_text('{"trials": []}')
    assert names(storekeeping.unnamed(store, [tmp_path / "results"])) == {found["train1"].name, found["alone"].name}
    rewards = folder / "reward" / "annotator-1.json"
    rewards.parent.mkdir()
    rewards.write_text(json.dumps({"format": 2, "by": "annotator", "parents": {"pairs": key_of(found["alone"])}}))
    assert names(storekeeping.unnamed(store, [tmp_path / "results"])) == {found["train1"].name}
    rewards.write_text("{")
    with pytest.raises(UserError, match=r"annotator-1.json, which may be a card: .*; mend it or remove it"):
        storekeeping.unnamed(store, [tmp_path / "results"])
    rewards.unlink()
    assert invoke(words) == 0
    assert "would go" in capsys.readouterr().out
    assert all(path.is_dir() for path in found.values())
    assert invoke([*words, "--yes"]) == 0
    assert {name for name, path in found.items() if path.is_dir()} == {"sft", "train0", "scores"}


def _hold(lock: str, begun: Any, done: Any) -> None:
    with FileLock(lock):
        begun.set()
        done.wait(60)


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Context in which another process holds a lock."""
    context = multiprocessing.get_context("fork")
    begun, done = context.Event(), context.Event()
    living = context.Process(target=_hold, args=(str(lock), begun, done))
    living.start()
    begun.wait(60)
    try:
        yield
    finally:
        done.set()
        living.join()


def test_what_is_no_stage_is_never_touched(kept: tuple[Store, dict[str, Path]], capsys: pytest.CaptureFixture[str]) -> None:
    store, found = kept
    folder = Path(__file__).parents[1] / "results" / "published" / "nano_rule"
    wrong = store.root.parent / "thesis"
    for root in (wrong, store.root):
        for name in ("chapters", f"photos-{'0' * 16}", ".work-of-mine", ".damaged-goods"):
            (root / name).mkdir(parents=True)
        for name in ("notes.txt", ".mail.lock"):
            (root / name).touch()
    words = ["store", "prune", "--yes", "--unnamed", "--results", str(folder), "--store"]
    assert invoke([*words, str(wrong)]) == 2
    assert f"{wrong} is no store: it holds 'chapters', and no stage" in capsys.readouterr().err
    there = {path.name for path in wrong.iterdir()}
    assert invoke(["store", "prune", key_of(found["train0"]), "--yes", "--store", str(store.root)]) == 0
    assert not found["train0"].exists()
    assert invoke([*words, str(store.root)]) == 0
    assert {path.name for path in store.root.iterdir()} - {".checked"} == there
    assert len(there) == 6


def test_cards_behind_a_link_to_a_folder_count(kept: tuple[Store, dict[str, Path]], tmp_path: Path) -> None:
    store, found = kept
    elsewhere, results = tmp_path / "elsewhere", tmp_path / "results"
    write_card(sealed(replace(read_card(CARD), parents={"scores": key_of(found["scores"])})), elsewhere)
    results.mkdir()
    (results / "nano").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(results)
    assert names(storekeeping.unnamed(store, [results])) == {found["train1"].name, found["alone"].name}
    with pytest.raises(UserError, match=r"cannot look for cards in .*/nowhere: No such file or directory; name the folders"):
        storekeeping.unnamed(store, [results, tmp_path / "nowhere"])


def test_what_dead_processes_left_behind_goes_and_the_work_of_living_ones_stays(
    kept: tuple[Store, dict[str, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, found = kept
    dead, alive = f"train-{'dead' * 4}", f"train-{'a11e' * 4}"
    for name in (dead, alive):
        (store.root / f".work-{name}").mkdir()
        (store.root / f".{name}.lock").touch()
    (store.root / f".damaged-{dead}-1").mkdir()
    with held(store.root / f".{alive}.lock"):
        assert invoke(["store", "ls", "--store", str(store.root)]) == 0
        assert "unfinished: 2, 0.000 GiB, 1 of them in use" in capsys.readouterr().out
        assert invoke(["store", "prune", "--yes", "--store", str(store.root)]) == 0
        results = Path(__file__).parents[1] / "results" / "published" / "nano"
        unnamed = ["store", "prune", "--unnamed", "--yes", "--results", str(results), "--store", str(store.root)]
        assert invoke(unnamed) == 2
        assert f"{alive} is being made, and no card names yet what its run has made" in capsys.readouterr().err
    left = {path.name for path in store.root.iterdir()}
    assert left == {f".work-{alive}", f".{alive}.lock", *(path.name for path in found.values())}


def test_every_file_is_read_again_and_changes_are_named(
    kept: tuple[Store, dict[str, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, found = kept
    assert invoke(["store", "verify", "--store", str(store.root)]) == 0
    assert capsys.readouterr().out == "5 stages, 5 of them as they were made\n"
    (found["sft"] / "rows.jsonl").write_text("b\n")
    (found["alone"] / "manifest.json").write_text("{")
    assert invoke(["store", "verify", "--store", str(store.root)]) == 1
    told = capsys.readouterr().out
    assert f"CHANGED: {found['sft'].name}/rows.jsonl: row 1 was changed" in told
    assert f"CHANGED: {found['alone'].name}: its recipe or manifest can't be read" in told
    assert told.endswith("5 stages, 3 of them as they were made\n")
    assert invoke(["store", "ls", "--store", str(store.root / "nothing")]) == 2
    assert "no store at" in capsys.readouterr().err
