"""A tenth of what `scripts/reliability/` tries: kills, signals, races, damage, disks, hostile input, servers, secrets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("kills", "signals", "races", "machines", "damage", "disks", "text", "fuzz", "servers", "secrets")
SCRIPT = [sys.executable, "-m", "scripts.reliability"]


@pytest.mark.slow
def test_a_part_that_there_is_not_is_named() -> None:
    done = subprocess.run([*SCRIPT, "kils"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such part: kils" in done.stderr


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_silent(environment: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [*SCRIPT, "--share", "0.1", "--seed", "1", "-o", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    for part in PARTS:
        assert f"## {part}\n" in page.read_text(encoding="utf-8")
