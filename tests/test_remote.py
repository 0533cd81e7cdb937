"""Published results behind a URL: read, written and compared as if they lay here, and told in one line where that fails."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from isoalign.cli.commands import invoke
from isoalign.core import remote
from isoalign.core.errors import UserError
from isoalign.evaluation.card import published, read_card, to_json

CARDS = sorted(Path(__file__).parents[1].glob("results/published/nano/*-s0-*.json"))[:3]


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder that is in this process's memory alone."""
    system = fsspec.filesystem("memory")
    yield "memory://bucket/team"
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a local S3 server."""
    if missing := [name for name in ("s3fs", "moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: pip install s3fs moto flask flask-cors, without constraints.txt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    patch = pytest.MonkeyPatch()
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        patch.setenv(name, value)
    patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": address})
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        last = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None
            assert time.monotonic() < last
        fsspec.filesystem("s3").mkdir("team")
        yield "s3://team/isoalign"
    finally:
        server.kill()
        server.wait()
        patch.undo()


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert invoke([str(word) for word in words]) == status
    told = capsys.readouterr()
    return told.out if not status else told.err


def round_trip(url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Publishing, boards and comparisons give what they give in a folder."""
    first, second, third = map(str, CARDS)
    said(capsys, "publish", first, "--results", str(folder))
    assert said(capsys, "publish", first, "--results", url) == f"{url}/published/nano/leaderboard.md\n"
    said(capsys, "publish", second, third, "--results", str(folder))
    said(capsys, "publish", second, third, "--results", url)
    with remote.folder(url) as here:
        for file in (folder / "published" / "nano").glob("*.json"):
            assert (here / "published" / "nano" / file.name).read_bytes() == file.read_bytes()
        assert len(list(here.rglob("*.json"))) == 3
    local = said(capsys, "board", "nano", "--results", str(folder / "published"))
    there = said(capsys, "board", "nano", "--results", f"{url}/published")
    assert there == local.replace(str(folder), url)
    one = f"{url}/published/nano/{CARDS[0].name}"
    assert said(capsys, "compare", one, second) == said(capsys, "compare", first, second)
    system, root = fsspec.core.url_to_fs(f"{url}/published/nano")
    assert system.cat_file(f"{root}/leaderboard.md") == (folder / "published" / "nano" / "leaderboard.md").read_bytes()
    system.pipe_file(f"{root}/frontier-9.svg", b"<svg/>")
    said(capsys, "board", "nano", "--results", f"{url}/published")
    assert not system.exists(f"{root}/frontier-9.svg")  # a chart of a section that there is no more


def test_results_behind_a_url_are_as_those_in_a_folder(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    round_trip(bucket, tmp_path, capsys)


@pytest.mark.slow
def test_results_on_an_s3_server_are_as_those_in_a_folder(s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    round_trip(s3, tmp_path, capsys)
    told = said(capsys, "board", "--results", "s3://nobodys/x", status=2)
    assert told.count("\n") == 1


def test_a_url_of_files_is_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "publish", str(CARDS[0]), "--results", f"file://{tmp_path}")
    assert read_card(tmp_path / "published" / "nano" / CARDS[0].name) == published(read_card(CARDS[0]))


def test_nothing_is_written_where_something_is_refused(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "publish", str(CARDS[0]), "--results", bucket)
    system = fsspec.filesystem("memory")
    before = {path: system.cat_file(path) for path in system.find("/")}
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    told = said(capsys, "publish", str(CARDS[1]), str(broken), "--results", bucket, status=2)
    assert told.count("\n") == 1
    name = f"{bucket}/published/nano/{CARDS[0].name}"
    system.pipe_file(name, to_json(read_card(CARDS[1])).encode())
    told = said(capsys, "publish", str(CARDS[0]), "--results", bucket, status=2)
    assert f"{name} holds another card" in told
    assert set(system.find("/")) == before.keys()


def write_both(bucket: str, name: str) -> None:
    """Write a file while another process writes it."""
    system, root = fsspec.core.url_to_fs(bucket)
    with remote.folder(bucket) as here:
        (here / name).write_bytes(b"mine")
        (here / "leaderboard.md").write_bytes(b"mine")
        system.pipe_file(f"{root}/{name}", b"theirs")


@pytest.mark.parametrize("name", [remote.PACK, "dpo.json"])
def test_what_another_has_written_meanwhile_is_not_replaced(bucket: str, name: str) -> None:
    system, root = fsspec.core.url_to_fs(bucket)
    for before in (None, b"fetched"):
        if before is not None:
            system.pipe_file(f"{root}/{name}", before)
        with pytest.raises(UserError, match=f"another process has changed {name} there meanwhile") as caught:
            write_both(bucket, name)
        assert "\n" not in str(caught.value)
        assert system.cat_file(f"{root}/{name}") == b"theirs"
        assert not system.exists(f"{root}/leaderboard.md")
    with remote.folder(bucket) as here:
        (here / name).write_bytes(b"mine")
        (here / f".{name}.lock").touch()
    assert [path.rpartition("/")[2] for path in system.find(root)] == [name], "locks stay on this machine"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["board", "--results", "memory://nothing"], "no cards in memory://nothing"),
        (["board", "--results", "nosuch://x"], "cannot read nosuch://x"),
        (["compare", "memory://none/a.json", "dpo"], "cannot read memory://none/a.json"),
        (["publish", "s3://me:hunter2hunter2@h/x.json"], "cannot read s3://"),
    ],
)
def test_what_can_not_be_read_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, *words, status=2)
    assert told in line
    assert line.count("\n") == 1
    assert "hunter2" not in line


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket: str) -> None:
    class Hostile:
        def find(self, root: str) -> list[str]:
            return [f"{root}/../../evil.json"]

        def cat_file(self, path: str) -> Any:
            return b"{}"

    with pytest.raises(UserError, match="no name of a file"):
        remote._fetch(Hostile(), "/bucket", Path("/tmp/nowhere"))
