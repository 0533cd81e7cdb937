"""The store: a stage that is there is complete, whatever happened while it was made, and is made once."""

import errno
import json
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isoalign.core import manifests
from isoalign.core import store as stores
from isoalign.core.errors import MachineFailed, UserError
from isoalign.core.manifests import content, file_fingerprint
from isoalign.core.records import Card
from isoalign.core.store import Store, added_later, digest, recipe_fields
from isoalign.evaluation.kept import stage_of
from isoalign.runs import failures
from workbench import SmallDisk, Terminal, complaint


@dataclass(frozen=True)
class Settings:
    a: int
    b: tuple[float, ...] = (1.0,)


def visible(root: Path) -> list[str]:
    """What lies in a store, locks left out."""
    return sorted(file.name for file in root.iterdir() if not file.name.endswith(".lock"))


def test_a_key_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"x": Settings(1)}) == digest({"x": {"a": 1, "b": [1.0]}})
    keys = {digest(value) for value in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": None}, {"a": True}, {"b": 1})}
    assert len(keys) == 6
    assert all(len(key) == 16 for key in keys)


def test_a_setting_that_came_later_changes_a_key_only_where_it_is_used() -> None:
    @dataclass(frozen=True)
    class Grown:
        a: int
        b: tuple[float, ...] = (1.0,)
        c: int = added_later(0)

    assert digest({"x": Grown(1)}) == digest({"x": Settings(1)})
    assert digest({"x": Grown(1, c=2)}) != digest({"x": Settings(1)})
    assert recipe_fields(Grown(1, c=2)) == {"a": 1, "b": (1.0,), "c": 2}


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, Settings])
def test_what_has_no_exact_json_is_no_key(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        digest({"value": value})


def test_a_stage_is_made_once_and_carries_its_recipe(tmp_path: Path) -> None:
    made = []

    def make(work: Path) -> None:
        made.append(work)
        (work / "data.txt").write_text("done")

    store = Store(tmp_path / "new" / "store")
    first = store.get("sft", "abc", {"config": Settings(3)}, make)
    assert first == store.get("sft", "abc", {"config": Settings(3)}, make) == store.path("sft", "abc")
    assert len(made) == 1
    assert json.loads((first / "recipe.json").read_text()) == {"stage": "sft", "config": {"a": 3, "b": [1.0]}}
    assert visible(store.root) == ["sft-abc"]


def test_a_stage_that_was_not_read_is_no_parent_whether_it_is_in_the_store_or_not(tmp_path: Path) -> None:
    read, unread = digest({"stage": "read"}), digest({"stage": "unread"})
    contents = []
    for others in ([], ["unread"]):
        store = Store(tmp_path / str(len(others)))
        for name in ["read", *others]:
            store.get(name, digest({"stage": name}), {}, lambda work: None)
        made = store.get("train", "abc", {"pairs": [read, unread]}, lambda work: [unread])
        assert json.loads((made / "manifest.json").read_text())["parents"].keys() == {f"read-{read}"}
        contents.append(content(made))
    assert contents[0] == contents[1]


def test_a_manifest_that_names_another_parent_or_row_is_not_as_it_was_made(tmp_path: Path) -> None:
    parent = digest({"stage": "pairs"})
    for number, (old, new) in enumerate([(parent, parent[::-1]), ('"rows": "', '"rows": "0')]):
        store = Store(tmp_path / str(number))
        store.get("pairs", parent, {}, lambda work: None)
        key, recipe = digest({"stage": "train", "pairs": parent}), {"pairs": parent}
        made = store.get("train", key, recipe, lambda work: (work / "log.jsonl").write_text("a") and None)
        assert not store.changes(made)
        stores._OPENED.clear()
        manifest = made / "manifest.json"
        manifest.write_text(manifest.read_text().replace(old, new))
        assert "train" in store.changes(made)[0]
        assert store.damage(made) == "manifest.json"


def test_the_record_of_a_round_within_a_stage_is_checked_to_the_byte_and_counts_without_its_seconds(tmp_path: Path) -> None:
    contents = []
    for seconds in (1.5, 2.5):

        def make(work: Path, seconds: float = seconds) -> None:
            (work / "rounds" / "1").mkdir(parents=True)
            (work / "rounds" / "1" / "record.json").write_text(json.dumps({"asked": 3, "seconds": seconds}))

        store = Store(tmp_path / str(seconds))
        made = store.get("train", digest({"stage": "train"}), {}, make)
        assert store.changes(made) == []
        stores._OPENED.clear()
        assert store.damage(made) == ""
        contents.append(content(made))
    assert contents[0] == contents[1]


def test_while_a_stage_is_being_made_it_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def make(work: Path) -> None:
        (work / "half").touch()
        assert not store.path("sft", "abc").exists()

    store.get("sft", "abc", {}, make)
    assert store.path("sft", "abc").exists()


def test_a_failed_stage_publishes_nothing_and_the_next_attempt_starts_clean(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def broken(work: Path) -> None:
        (work / "half").touch()
        raise UserError("no such luck")

    with pytest.raises(UserError, match="no such luck"):
        store.get("sft", "abc", {}, broken)
    assert visible(tmp_path) == []
    again = store.get("sft", "abc", {}, lambda work: None)
    assert {file.name for file in again.iterdir()} == {"recipe.json", "manifest.json"}


def test_a_stage_that_died_with_a_checkpoint_finds_it_again_and_leaves_none_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def dies(work: Path) -> None:
        (work / "checkpoint").mkdir()
        (work / "checkpoint" / "state.pt").write_text("7")
        raise RuntimeError("out of memory")

    def goes_on(work: Path) -> None:
        (work / "result").write_text((work / "checkpoint" / "state.pt").read_text())

    with pytest.raises(RuntimeError):
        store.get("train", "abc", {}, dies)
    assert [name.partition("abc")[0] for name in visible(tmp_path)] == [".work-train-"]
    done = store.get("train", "abc", {}, goes_on)
    assert (done / "result").read_text() == "7"
    assert not (done / "checkpoint").exists()
    assert visible(tmp_path) == ["train-abc"]


def test_stages_may_need_one_another(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def outer(work: Path) -> None:
        inner = store.get("inner", "1", {}, lambda work: (work / "x").touch())
        assert (inner / "x").exists()

    store.get("outer", "1", {}, outer)
    assert visible(tmp_path) == ["inner-1", "outer-1"]


def _race(root: str, barrier: Any, log: str) -> None:
    def make(work: Path) -> None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)  # long enough for the other to arrive at the lock
        (work / "whole").touch()

    barrier.wait()
    folder = Store(Path(root)).get("sft", "abc", {}, make)
    assert (folder / "whole").exists()


def test_processes_that_need_a_stage_at_once_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    log = tmp_path / "log"
    jobs = [context.Process(target=_race, args=(str(tmp_path / "store"), barrier, str(log))) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1
    assert visible(tmp_path / "store") == ["sft-abc"]


def test_a_store_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the store"):
        Store(tmp_path / "file" / "store").get("sft", "abc", {}, lambda work: None)


def chain(root: Path) -> tuple[Store, Path, Path]:
    """A stage, and one that was made from it."""
    store = Store(root)

    def made(name: str, recipe: dict[str, Any], text: str) -> Path:
        key = digest({"stage": name, **recipe})
        return store.get(name, key, recipe, lambda work: (work / "rows.jsonl").write_text(text) and None)

    parent = made("pairs", {"seed": 1}, "a\nb\n")
    return store, parent, made("train", {"pairs": parent.name.partition("-")[2]}, "c\n")


def test_a_manifest_stands_for_the_files_and_all_that_led_to_them(tmp_path: Path) -> None:
    store, parent, child = chain(tmp_path)
    assert store.parents(child) == [parent]
    assert json.loads((child / "manifest.json").read_text())["parents"] == {parent.name: content(parent)}
    assert store.changes(parent) == store.changes(child) == []
    before = content(child)
    (parent / "rows.jsonl").write_text("a\nB\n")
    assert store.changes(parent) == [f"{parent.name}/rows.jsonl: row 2 was changed"]
    forged = json.loads((parent / "manifest.json").read_text())
    forged["files"]["rows.jsonl"] = file_fingerprint(parent / "rows.jsonl")
    (parent / "manifest.json").write_text(json.dumps(forged, indent=1))
    assert store.changes(parent) == [f"{parent.name}/manifest.json: is not as it was written"]
    (parent / "manifest.json").write_text(json.dumps(forged | {"content": content(parent)}, indent=1))
    assert store.changes(parent) == []
    assert store.changes(child) == [f"{parent.name}/manifest.json: not the one that {child.name} was made from"]
    assert content(child) == before


def test_files_that_came_or_went_and_a_recipe_that_does_not_fit_are_named(tmp_path: Path) -> None:
    store, parent, child = chain(tmp_path)
    (parent / "rows.jsonl").unlink()
    (parent / "more.txt").touch()
    assert store.changes(parent) == [f"{parent.name}/rows.jsonl: is missing", f"{parent.name}/more.txt: was added"]
    recipe = child / "recipe.json"
    recipe.write_text(recipe.read_text().replace("train", "tried"))
    assert f"{child.name}/recipe.json: does not match the stage's key" in store.changes(child)
    (child / "manifest.json").unlink()
    assert f"{child.name}: has no manifest.json" in store.changes(child)
    assert content(child) == ""


# -- damage -----------------------------------------------------------------------------------------------------------------


class Maker:
    """A stage with a small file, a record with a clock, and weights that are large."""

    def __init__(self, root: Path) -> None:
        self.store, self.made = Store(root), 0
        self.recipe: dict[str, Any] = {"seed": 1}
        self.key = digest({"stage": "train", **self.recipe})

    def get(self) -> Path:
        """As another process would open it."""
        stores._OPENED.clear()
        return self.store.get("train", self.key, self.recipe, self._make)

    def _make(self, work: Path) -> None:
        self.made += 1
        (work / "rows.jsonl").write_text("a\nb\n")
        (work / "record.json").write_text(
            json.dumps({"spent": {"flops": 7, "seconds": 0.1 * self.made}, "device": str(self.made)})
        )
        (work / "weights.bin").write_bytes(bytes(manifests.ALWAYS + 1))


def flip(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    times = file.stat()
    file.write_bytes(whole)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as bad disks do


@pytest.mark.parametrize("harm", [flip, lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1])])
@pytest.mark.parametrize("name", ["rows.jsonl", "record.json", "weights.bin", "manifest.json", "recipe.json"])
def test_a_stage_that_was_damaged_is_set_aside_named_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, harm: Any
) -> None:
    maker = Maker(tmp_path)
    before = content(maker.get())
    harm(maker.get() / name)
    folder = maker.get()
    assert maker.made == 2
    assert content(folder) == before  # another clock and machine are the same stage
    [aside] = tmp_path.glob(".damaged-*")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"the store's {folder.name} is not as it was made (" in told
    assert aside.name in told
    assert name == "manifest.json" or name in told
    assert maker.store.find(maker.key) == folder
    assert maker.get() == folder
    assert maker.made == 2
    harm(folder / name)
    assert maker.get() == folder  # the same process, or one of the same number in another container
    assert maker.made == 3
    assert len(list(tmp_path.glob(".damaged-*"))) == 2


def test_a_large_file_is_read_again_only_when_its_size_or_times_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, read = Maker(tmp_path), []
    folder = maker.get()
    maker.get()
    whole = manifests._sha256
    monkeypatch.setattr(manifests, "_sha256", lambda file: read.append(file.name) or whole(file))
    maker.get()
    assert "weights.bin" not in read
    os.utime(folder / "weights.bin")
    maker.get()
    assert read.count("weights.bin") == 1
    assert maker.made == 1


def test_a_stage_made_from_another_parent_is_made_again(tmp_path: Path) -> None:
    store, parent, child = chain(tmp_path)
    shutil.rmtree(parent)
    stores._OPENED.clear()
    recipe = json.loads((parent.parent / child.name / "recipe.json").read_text())
    assert store.damage(child) == ""  # without its parent there is nothing to compare
    store.get(
        "pairs", parent.name.partition("-")[2], {"seed": 1}, lambda work: (work / "rows.jsonl").write_text("x\n") and None
    )
    stores._OPENED.clear()
    assert store.damage(child) == f"manifest.json (made from another {parent.name})"
    again = store.get("train", child.name.partition("-")[2], {"pairs": recipe["pairs"]},
                      lambda work: (work / "rows.jsonl").write_text("y\n") and None)  # fmt: skip
    assert (again / "rows.jsonl").read_text() == "y\n"
    assert store.changes(again) == []


def test_those_who_only_read_are_told_of_damage(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    folder = maker.get()
    stores._OPENED.clear()
    assert maker.store.damage(folder) == ""
    flip(folder / "record.json")
    assert maker.store.damage(folder) == ""  # this process has looked
    stores._OPENED.clear()
    assert maker.store.damage(folder) == "record.json"


def test_a_stage_that_is_whole_but_another_than_its_card_was_made_from_is_not_rescored(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    folder = maker.get()
    key = folder.name.rpartition("-")[2]
    card = Card("", "nano", "dpo", {}, 0, {}, {}, {}, {"scores": key}, {}, "", contents={"scores": content(folder)})
    assert stage_of(card, maker.store, "scores") == folder
    card.contents["scores"] = "0123456789abcdef"
    with pytest.raises(UserError, match=f"{folder.name} in the store .* is another than the card was made from"):
        stage_of(card, maker.store, "scores")


def test_a_folder_that_vanishes_while_a_stage_is_made_is_the_machines_failure(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def vanish(work: Path) -> None:
        shutil.rmtree(store.root)
        (work / "rows.jsonl").write_text("")

    with pytest.raises(MachineFailed, match=r"work-pairs-0123456789abcdef\.\S+ vanished while it was written"):
        store.get("pairs", "0123456789abcdef", {}, vanish)


def test_a_disk_that_is_full_is_named_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def fill(work: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def outer(work: Path) -> None:
        store.get("sft", "0123456789abcdef", {}, fill)

    with pytest.raises(MachineFailed, match="No space left on device; free some space") as raised:
        store.get("pairs", "0123456789abcdef", {}, outer)
    assert str(raised.value).count(str(store.root)) == 1
    assert not list(store.root.glob(".work-*"))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "600k"])
def test_a_disk_that_fills_up_ends_a_run_in_one_line_and_nothing_is_the_methods_failure(
    terminal: Terminal, small_disk: SmallDisk, size: str
) -> None:
    typed = [word.replace(str(terminal.store), "DISK/store") for word in terminal.run("algorithm=dpo", "budget.flops=6e9")]
    line = complaint(small_disk(size, typed, terminal.env))
    assert "No space left on device" in line
    assert "/disk/store" in line
    assert small_disk(size, typed, terminal.env | {failures.TRIAL: "1"}).returncode == failures.MACHINE
    assert not list((terminal.home / "results").rglob("*.json"))
