"""`isoalign doctor`: what it finds on this machine, and what it says of faults that are planted."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from isoalign.cli.commands import invoke
from isoalign.core import devices
from isoalign.data.assets import ASSETS, asset_folder
from isoalign.runs.overrides import task_named
from isoalign.tools.doctor import access, machine
from isoalign.tools.doctor.finding import Finding
from workbench import COMMAND

Environment = dict[str, str]
ROOT = Path(__file__).parents[1]


Doctor = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def doctor(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Doctor:
    """The command, in this process: its exit status, and its findings by name."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ISOALIGN", "WANDB"))]:
        monkeypatch.delenv(name)

    def run(*words: str, **more: str) -> tuple[int, dict[str, dict[str, Any]]]:
        with monkeypatch.context() as patch:
            for name, value in (environment | more).items():
                patch.setenv(name, value)
            status = invoke(["doctor", "--json", "--store", str(tmp_path / "store"), *words])
        said = capsys.readouterr()
        assert said.err == ""
        assert "sesame" not in said.out  # the keys below
        report = json.loads(said.out)
        assert report["works"] == (status == 0) == (not any(each["fatal"] for each in report["findings"]))
        for each in report["findings"]:
            assert each["mark"] in ("ok", "note", "problem")
            assert each["mark"] == "ok" or each["remedy"], each
            assert each["mark"] == "problem" or not each["fatal"], each
        return status, {each["name"]: each for each in report["findings"]}

    return run


def test_a_machine_on_which_these_tests_run_is_fit_and_nothing_is_left_behind(doctor: Doctor, tmp_path: Path) -> None:
    status, found = doctor()
    assert status == 0
    assert not list(tmp_path.iterdir())
    assert found["torch"]["found"] == torch.__version__
    assert not [each for each in found.values() if each["topic"] == "software" and each["mark"] != "ok"]
    assert f"all {len(access.NEEDED)} of a run" in found["assets"]["found"]


def test_the_table_is_for_people(environment: Environment, tmp_path: Path) -> None:
    command = [COMMAND, "doctor", "--results", str(tmp_path / "file" / "cards")]
    (tmp_path / "file").touch()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment | {"WORLD_SIZE": "2"})
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[-1] == "A run will not work: see processes, results."
    place = next(
        n for n, line in enumerate(lines) if re.match(r"  problem  processes +WORLD_SIZE=2, but RANK is not set", line)
    )
    assert "-> unset WORLD_SIZE" in lines[place + 1]
    text = " ".join(done.stdout.split())
    assert re.search(r"problem results cannot write to \S+file/cards: Not a directory -> \S.* results=FOLDER", text)


def write_package(folder: Path, name: str, version: str) -> None:
    """What makes Python believe that a version of a package is installed."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_versions_out_of_range_are_named_with_the_command_that_puts_them_right(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("trl", "1.99.0"), ("gguf", "0.1")):
        write_package(tmp_path / "site", name, version)
    monkeypatch.syspath_prepend(tmp_path / "site")
    status, found = doctor()
    assert status == 2
    assert found["trl"]["found"] == "1.99.0; isoalign needs <1.17,>=1.16"
    assert found["trl"]["remedy"] == "pip install 'trl<1.17,>=1.16'"
    assert (found["gguf"]["mark"], found["peft"]["mark"]) == ("problem", "ok")


@pytest.mark.parametrize(("package", "line"), [("torch", "torch"), ("hydra", "imports")])
def test_a_package_that_cannot_be_imported_is_a_line(
    package: str, line: str, environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError('libnothing.so: no such file')\n")
    env = environment | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([COMMAND, "doctor"], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (2, "")
    assert re.search(rf"problem +{line} .*libnothing.so: no such file", done.stdout)
    assert done.stdout.endswith(f"A run will not work: see {line}.\n")


def test_assets_that_cannot_be_fetched_and_those_that_are_corrupt(doctor: Doctor, tmp_path: Path) -> None:
    status, found = doctor(ISOALIGN_CACHE=str(tmp_path / "none"))
    assert status == 2
    assert found["assets"]["found"].startswith("not fetched: comments, rtp_scored")
    assert "ISOALIGN_OFFLINE is set" in found["assets"]["found"]
    status, found = doctor(ISOALIGN_CACHE=str(tmp_path / "none"), ISOALIGN_OFFLINE="")
    assert (status, found["assets"]["mark"]) == (0, "note")  # a run fetches them
    assert "161 MB" in found["assets"]["found"]  # 29 + 20 + 2 + 18 + 8 + 84
    copy = tmp_path / "cache" / "assets" / asset_folder("rtp_categories").name
    shutil.copytree(asset_folder("rtp_categories"), copy)
    next(copy.glob("rtp_*")).write_text("changed")
    status, found = doctor(ISOALIGN_CACHE=str(tmp_path / "cache"), ISOALIGN_OFFLINE="")
    assert status == 2
    assert "is corrupt" in found["assets"]["found"]
    assert found["assets"]["remedy"].startswith("delete the folder")


def test_the_assets_that_a_run_needs_are_those_that_make_bench_fetches() -> None:
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "isoalign assets " in line)
    assert line.partition("isoalign assets ")[2].split() == list(access.NEEDED)
    assert set(access.NEEDED) < set(ASSETS)


def test_smol_needs_its_model_too(doctor: Doctor, tmp_path: Path) -> None:
    _, found = doctor("--task", "smol", ISOALIGN_CACHE=str(tmp_path / "none"))
    assert "smollm2" in found["assets"]["found"]


def test_models_of_the_hub_are_those_of_its_cache_unless_it_may_be_asked(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    wanted = "task.model.name=some/model"
    status, found = doctor(wanted)
    assert status == 2
    assert found["model"]["found"] == "some/model is no folder, and not in the hub's cache"
    assert "HF_HUB_OFFLINE=0" in found["model"]["remedy"]
    status, found = doctor(wanted, HF_HUB_OFFLINE="0", ISOALIGN_OFFLINE="", HF_TOKEN="sesame")
    assert (status, found["model"]["mark"]) == (0, "note")
    assert "with HF_TOKEN; 0 models" in found["hub"]["found"]
    cached = tmp_path / "hub" / "models--some--model"
    (snapshot := cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    status, found = doctor(wanted)
    lacking = "the hub's cache lacks weights in safetensors and a tokenizer of some/model"
    assert (status, found["model"]["found"]) == (2, lacking)
    for file in ("model.safetensors", "tokenizer.json"):
        (snapshot / file).write_text("")
    status, found = doctor(wanted)
    assert (status, found["model"]["mark"]) == (0, "ok")
    assert doctor(f"{wanted}@another")[0] == 2
    (snapshot / "model.safetensors").rename(snapshot / "model-1-of-2.safetensors")
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks 1 of the 2 files of weights" in doctor(wanted)[1]["model"]["found"]
    assert found["hub"]["found"].endswith(": some/model")


def test_a_folder_that_holds_no_model_is_a_problem(doctor: Doctor, tmp_path: Path, tiny_model: Path) -> None:
    assert doctor(f"task.model.name={tiny_model}")[0] == 0
    status, found = doctor(f"task.model.name={tmp_path / 'gone' / 'away'}")
    assert (status, found["model"]["found"].endswith("is no folder, and not in the hub's cache")) == (2, True)
    (tmp_path / "empty").mkdir()
    status, found = doctor(f"task.model.name={tmp_path / 'empty'}")
    assert status == 2
    assert "lacks config.json and weights in safetensors and a tokenizer" in found["model"]["found"]


def test_weights_that_an_index_names_must_be_there(doctor: Doctor, tmp_path: Path, tiny_model: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    (half / "model.safetensors").rename(half / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (half / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    status, found = doctor(f"task.model.name={half}")
    assert status == 2
    assert "lacks 1 of the 2 files of weights that model.safetensors.index.json names" in found["model"]["found"]
    shutil.copy(half / "model-00001-of-00002.safetensors", half / "model-00002-of-00002.safetensors")
    assert doctor(f"task.model.name={half}")[0] == 0


def test_all_that_a_task_names_is_looked_at(
    doctor: Doctor, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    there = tmp_path / "prompts.jsonl"
    there.write_text('{"prompt": "x"}\n')
    words = [
        f"task.prompts.source={there}", f"task.prompts.test_source={tmp_path / 'gone.jsonl'}", "task.teacher=some/teacher",
        "task.evaluation.second_scorer=hf:nobody/none#toxic", f"task.feedback.annotator=reward:{tiny_model}",
        f"task.reward.base={tiny_model}", "task.sft.source=hf:someone/texts@abc#train",
        "task.judge.kind=lm", "task.judge.model=some/judge", "task.constitution.file=kindness.yaml",
    ]  # fmt: skip
    status, found = doctor(*words)
    marks = {name: each["mark"] for name, each in found.items() if each["topic"] == "data" and "assets" not in name}
    assert status == 2
    assert marks == {
        "teacher": "problem", "annotator": "ok", "base of the reward model": "ok", "second scorer": "problem",
        "prompts": "ok", "test prompts": "problem", "demonstrations": "problem", "judge's model": "problem",
        "principles": "problem", "hub": "note",
    }  # fmt: skip
    assert found["second scorer"]["found"] == "nobody/none is no folder, and not in the hub's cache"
    assert "task.evaluation.second_scorer" in found["second scorer"]["remedy"]
    (tmp_path / "hub" / "datasets--someone--texts").mkdir(parents=True)
    _, found = doctor(*words, "task.constitution.file=kindness")
    assert (found["demonstrations"]["mark"], "principles" in found) == ("ok", False)
    status, found = doctor("--task", "rtp_gpt2", "task.model.name=nano")
    assert status == 2
    assert {name for name, each in found.items() if each["fatal"]} == {"annotator", "scorer", "second scorer", "prompts"}


def test_keys_are_said_to_be_there_and_never_shown(doctor: Doctor, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "NETRC": ""}
    status, found = doctor(**home)
    assert (status, found["W&B"]["found"]) == (0, "offline, no key")
    _, found = doctor(WANDB_API_KEY="sesame", OPENAI_API_KEY="sesame", **home)
    assert found["W&B"]["found"] == "online, a key is set"
    assert found["judge"]["found"].endswith("OPENAI_API_KEY is set")
    _, found = doctor(WANDB_MODE="online", **home)
    assert (found["W&B"]["mark"], found["W&B"]["fatal"]) == ("problem", False)  # tracking never ends a run
    _, found = doctor(WANDB_MODE="ofline", **home)
    assert "unknown W&B mode 'ofline'" in found["W&B"]["found"]
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password sesame\n")
    (tmp_path / ".netrc").chmod(0o600)
    _, found = doctor(WANDB_MODE="online", **home)
    assert found["W&B"]["found"] == "online, a key in .netrc"


def test_a_mistyped_task_is_one_line(environment: Environment, tmp_path: Path) -> None:
    command = [COMMAND, "doctor", "--task", "mano"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("isoalign: unknown task 'mano'.*\n", done.stderr)


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that answers, though not with what is asked for."""

    def do_HEAD(self) -> None:
        self.send_error(401)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_servers_are_asked_only_on_demand_and_one_that_refuses_is_there(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # nothing listens
            judge = [
                "task.judge.kind=server", "task.judge.model=m", f"task.judge.base_url=http://127.0.0.1:{nobody.getsockname()[1]}"
            ]  # fmt: skip
            plain = {"no_proxy": "127.0.0.1", "OPENAI_API_KEY": ""}
            monkeypatch.setattr(constants, "ENDPOINT", here)
            status, found = doctor(*judge, **plain)
            assert "network" not in {each["topic"] for each in found.values()}
            assert found["judge"]["remedy"] == "a server of your own needs no key"
            status, found = doctor(*judge, "--network", **plain)
        server.shutdown()
    assert status == 0
    assert found["hub"]["found"] == f"{here} answers"
    assert (found["judge"]["topic"], found["judge"]["mark"]) == ("network", "note")
    assert "refused" in found["judge"]["found"]


def card(name: str, gib: float) -> SimpleNamespace:
    return SimpleNamespace(name=name, total_memory=int(gib * 2**30))


def pretend(monkeypatch: pytest.MonkeyPatch, cards: list[SimpleNamespace], free: float, capability: tuple[int, int]) -> None:
    """Have torch tell of cards that are not here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (int(free * 2**30), cards[index].total_memory))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)


def seen() -> dict[str, Finding]:
    return {finding.name: finding for finding in machine.look()}


def test_cards_are_named_with_their_memory_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, [card("Big", 80), card("Big", 80)], free=79, capability=(9, 0))
    found = seen()
    assert (found["cuda:1"].mark, found["cuda:1"].found) == ("ok", "Big, 80.0 GiB, 79.0 GiB free")
    assert found["devices"].found == "2 visible (CUDA_VISIBLE_DEVICES=not set); a run uses one"
    assert "bf16 in hardware" in found["precision"].found
    pretend(monkeypatch, [card("Old", 16)], free=2, capability=(7, 0))
    found = seen()
    assert (found["cuda:0"].mark, found["precision"].mark) == ("note", "note")
    assert "devices" not in found


def test_a_card_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # which other tests' libraries may have set
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    pretend(monkeypatch, [], 0, (0, 0))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert seen()["accelerator"].found == "an NVIDIA GPU, but torch is a build for processors only"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert seen()["accelerator"].mark == "problem"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "hidden by CUDA_VISIBLE_DEVICES" in seen()["accelerator"].found


def test_little_memory_and_many_threads_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: 2**31)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    found = seen()
    assert (found["memory"].mark, found["processor"].mark) == ("note", "note")


def test_the_limit_of_a_control_group_is_the_memory_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    total, groups = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), dict[str, str]()

    def read(file: Path) -> str:
        if file.name not in groups:
            raise FileNotFoundError(file)
        return groups[file.name]

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setitem(devices._chosen, "cpu", "cpu")
    for name, limit, expected in (
        ("", "", total), ("memory.max", "max\n", total), ("memory.max", "1024\n", 1024), ("memory.max", f"{2 * total}", total),
        ("memory.limit_in_bytes", "4096\n", 4096),
    ):  # fmt: skip
        groups.clear()
        groups[name] = limit
        assert machine.memory_limit() == devices.memory() == expected


def test_little_space_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=2**30))
    (found,) = access.folders({"store": tmp_path / "a" / "b"})
    assert (found.mark, found.found) == ("note", f"1.0 GiB free in {tmp_path / 'a' / 'b'}")
    assert "store=FOLDER" in found.remedy


def test_the_task_named_is_the_one_that_is_looked_at() -> None:
    model = next(access.models(task_named("nano", ["task.model.name=x/y"])))
    assert model.name == "model"
