"""Yaml that people exchange is data: it runs nothing, reads nothing and names no place outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isoalign.config.fill import build_config
from isoalign.config.task import TaskConfig
from isoalign.core import plugins
from isoalign.core.errors import UserError
from isoalign.runs.exchanged import _is_large, composed
from workbench import Terminal, complaint

PLAIN = "defaults:\n  - nano\n  - _self_\nname: {name}\n"
GLOBAL = "# @package _global_\ndefaults:\n  - /task/nano@task\n  - _self_\ntask:\n  name: {name}\n"
CALLBACK = """hydra:
  callbacks:
    evil: {{_target_: subprocess.check_call, args: [touch, {trace}]}}
"""
LOGGING = (
    "hydra:\n  job_logging:\n    version: 1\n    handlers: {{evil: {{'()': subprocess.Popen, args: [touch, {trace}]}}}}\n"
)
HARM = {
    "callbacks": (GLOBAL + CALLBACK, "its yaml sets hydra.callbacks; only the command line may"),
    "logs": (GLOBAL + LOGGING, "its yaml sets hydra.job_logging"),
    "places": (GLOBAL + "hydra:\n  verbose: true\n", "its yaml sets hydra.verbose"),
    "launches": (GLOBAL.replace("  - _self_", "  - override /hydra/launcher: joblib\n  - _self_"), "its yaml sets hydra."),
    "sets": (GLOBAL + "hydra:\n  job: {{env_set: {{PATH: /tmp}}}}\n", "its yaml sets hydra.job"),
    "names_code": (PLAIN + "model: {{_target_: os.system}}\n", "a configuration names no code"),
    "reads": (PLAIN + "feedback: {{file: '${{oc.env:HOME}}'}}\n", "reads neither the environment nor files"),
    "reads_deep": (PLAIN + "feedback: {{columns: {{prompt: '${{oc.decode:${{oc.env:HOME}}}}'}}}}\n", "reads neither"),
    "reads_keys": (PLAIN + "feedback: {{columns: {{'${{oc.env:HOME}}': a}}}}\n", "task="),
}  # fmt: skip

CHECK = """
import sys
from isoalign.core.errors import UserError
from isoalign.runs.overrides import check_overrides
for name in sys.argv[1:]:
    try:
        check_overrides([f"task={name}"], False)
        print(f"{name}: accepted")
    except UserError as error:
        print(f"{name}: {error}")
"""


@pytest.fixture
def elsewhere(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a Python in which a package with these tasks is installed."""
    home = tmp_path / "site" / "foreign" / "conf"
    (home / "task").mkdir(parents=True)
    for folder in (home, home.parent):
        (folder / "__init__.py").touch()
    for name, (text, _) in HARM.items():
        (home / "task" / f"{name}.yaml").write_text(text.format(name=name, trace=tmp_path / "ran"))
    (home / "task" / "fine.yaml").write_text(PLAIN.format(name="fine") + "evaluation: {draws: 2}\n")
    info = tmp_path / "site" / "foreign-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[isoalign.conf]\nforeign = foreign.conf\n")
    return environment | {"PYTHONPATH": str(tmp_path / "site")}


def test_a_configuration_that_is_more_than_data_is_refused_in_one_line(elsewhere: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHECK, "fine", *HARM], capture_output=True, text=True, env=elsewhere)
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert told["fine"] == "accepted", done.stderr
    for name, (_, said) in HARM.items():
        assert said in told[name]
        assert f"task={name}" in told[name]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("words", [["task=callbacks"], ["task=callbacks", "-m", "seed=0,1"], ["task=logs", "--cfg=job"]])
def test_no_command_runs_what_it_names(
    elsewhere: dict[str, str], tmp_path: Path, terminal: Terminal, words: list[str]
) -> None:
    terminal.env.update(PYTHONPATH=elsewhere["PYTHONPATH"])
    assert "its yaml sets hydra" in complaint(terminal(terminal.run(*words)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../../up", "a/b", "..", ".hidden", "", "a\nb", "x" * 101, "a b", "C:\\x"])
def test_a_task_has_a_plain_name(name: str) -> None:
    settings = {"name": name, "model": {"name": "nano"}, "sft": {"steps": 1, "lr": 0.1}, "reward": {"pairs": 1, "lr": 0.1}}
    with pytest.raises(UserError, match=r"task\.name must be a plain name"):
        build_config(TaskConfig, settings, "task")


def test_a_name_typed_does_not_leave_the_results(terminal: Terminal) -> None:
    line = complaint(terminal(terminal.run("task.name=../../up", "algorithm=dpo")))
    assert "task.name must be a plain name, as my_task, not '../../up'" in line
    assert not list(terminal.home.parent.glob("**/up"))


LAUGHS = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 9))
TOO_MUCH = {
    "references": LAUGHS,
    "a part within itself": "a: &a {b: *a}\n",
    "mappings": "a: " + "{a: " * 60 + "1" + "}" * 60,
    "lists": "a: " + "[" * 5000 + "]" * 5000,
    "a long text": f"a: {'x' * 10**6}",
    "many values": f"a: [{'1, ' * 30_000}]",
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_yaml_that_is_too_much_to_read_is_refused_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "task").mkdir()
    file = tmp_path / "task" / "mine.yaml"
    file.write_text(TOO_MUCH[kind])
    monkeypatch.setattr(plugins, "configurations", lambda: {"foreign.conf": tmp_path})
    with pytest.raises(UserError, match=f"{file} is too much for a configuration"):
        composed(["task=nano", "algorithm=dpo"])


def test_references_are_no_fault() -> None:
    assert not _is_large("a: &a [1, 2]\nb: [*a, *a, {c: *a}]\n")
