"""One run in several processes, over gloo: the same bill, labels, losses, weights and samples as in one."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch

from isoalign.core import devices
from isoalign.core.errors import UserError
from isoalign.models.shards import layers_of
from isoalign.runs.needs import check_shards
from isoalign.runs.overrides import task_named
from isoalign.stages import footprint
from isoalign.training import registry
from isoalign.training.checkpoint import load_checkpoint
from processes import outcome
from workbench import FAST, Bench, Terminal, algorithms, complaint, stages

HERE = Path(__file__).parent
ENGINE = ["rloo:4+transformers"]
QUICK = ["dpo", "ppo_critic@s"]
ALL = [each.id for each in algorithms()]
SOME = [name for name in ALL if name in FAST]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def launch(count: int, folder: Path, environment: dict[str, str], names: Sequence[str]) -> dict[str, Any]:
    """What comes of algorithms in so many processes."""
    command = [*TORCHRUN, str(count), str(HERE / "processes.py"), str(folder / "bench"), str(folder / "out.pt"), *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = torch.load(folder / "out.pt")
    return found


def whole(name: str) -> str:
    """The same run, of which each process holds all weights."""
    return name.replace("@s", "@")


def apart(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """By how much weights differ at most: by float error."""
    moved = torch.cat([(a - b).abs().flatten() for a, b in zip(ones, others, strict=True)])
    assert (moved > 1e-6).float().mean() < 1e-3  # Adam divides what rounding leaves of a gradient that is 0 by almost 0
    assert moved.max() < 1e-4
    return moved.max().item()


def check_same(one: dict[str, Any], several: dict[str, Any]) -> tuple[float, float]:
    """All that is counted is equal, losses and weights are so to float error; returns the largest of each."""
    assert several["spent"] == one["spent"]
    assert several["state"].keys() == one["state"].keys()
    assert several["snapshots"] == one["snapshots"]
    assert one["snapshots"], "one at half of what is left, at least"
    assert [row.keys() for row in several["log"]] == [row.keys() for row in one["log"]]
    assert [row["flops_spent"] for row in several["log"]] == [row["flops_spent"] for row in one["log"]]
    least = 0.1  # of a loss by which an error is divided: its terms cancel where it is near 0
    losses = [abs(a["loss"] - b["loss"]) / max(abs(a["loss"]), least) for a, b in zip(one["log"], several["log"], strict=True)]
    assert max(losses) < 2e-5
    return max(losses), apart(one["weights"], several["weights"])


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (2, QUICK),
        pytest.param(2, ALL, marks=pytest.mark.slow),
        pytest.param(2, [f"{name}@s" for name in ALL], marks=pytest.mark.slow),
        pytest.param(3, ["ppo:4@s", "dpo:4@sc", "tr_dpo:4@s"], marks=pytest.mark.slow),
        pytest.param(3, ENGINE, marks=pytest.mark.slow),
        pytest.param(3, SOME, marks=pytest.mark.slow),
    ],
)
def test_in_several_processes_the_bill_is_the_same_and_so_are_losses_and_weights_to_float_error(
    tiny_bench: Bench, tmp_path: Path, environment: dict[str, str], count: int, names: list[str]
) -> None:
    found = launch(count, tmp_path, environment, names)
    for name in names:
        one = outcome(tiny_bench, whole(name), tmp_path / "one" / name)
        assert len(one["log"]) >= 3
        loss, weight = check_same(one, found[name])
        print(f"{count} processes, {name}: {len(one['log'])} steps, losses to {loss:.1e}, weights to {weight:.1e}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ppo_critic", "dpo:4", "ppo_critic@s", "dpo:4@s", "tr_dpo@s"]
)  # with a module of its own, with an adapter, with an anchor
def test_a_run_goes_on_in_another_number_of_processes_whether_or_not_they_hold_the_weights_together(
    tiny_bench: Bench, tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    one, work = outcome(tiny_bench, whole(name), tmp_path / "one"), tmp_path / name
    steps = 5 if "critic" in name else 3  # an iteration of it has four, and its budget three of these
    if "critic" not in name:
        outcome(tiny_bench, f"{whole(name)}!{steps}", work)
    for count in (2, 3):
        launch(count, tmp_path, environment, [f"{name}!{steps}"])
        check_parts(work, count if "@s" in name else 0)
    check_same(one, outcome(tiny_bench, whole(name), work))


def check_parts(work: Path, count: int) -> None:
    """Of the last checkpoint of a run so many processes have written parts, each its share."""
    last = max(work.glob("checkpoint/*.pt"))
    sizes = [file.stat().st_size for file in work.glob(f"checkpoint/{last.name[:6]}/*")]
    assert len(sizes) == count
    if count:
        assert max(sizes) < 0.8 * sum(sizes)


@pytest.mark.slow
def test_in_double_precision_weights_are_the_same_so_that_what_differs_in_single_is_rounding(
    tiny_bench: Bench, tmp_path: Path, environment: dict[str, str]
) -> None:
    names = ["rloo@d", "rlaif@d", "ppo@d", "dpo@d"]  # the first three differ by 1e-6 and more in fp32
    found = launch(2, tmp_path, environment, names)
    for name in names:
        one = outcome(tiny_bench, name, tmp_path / "one" / name)
        assert one["weights"][0].dtype == torch.float64
        assert check_same(one, found[name])[1] < 5e-8  # log-probabilities are rounded to fp32


@pytest.mark.slow
def test_in_bf16_it_makes_no_difference_who_holds_the_weights(tmp_path: Path, environment: dict[str, str]) -> None:
    names = ["dpo:4@b", "ppo@bc"]
    apart = launch(2, tmp_path, environment, [name.replace("@", "@s") for name in names])
    together = launch(2, tmp_path, environment, names)
    for name in names:
        check_same(together[name], apart[name.replace("@", "@s")])


@pytest.mark.slow
def test_weights_that_processes_hold_together(tmp_path: Path, environment: dict[str, str]) -> None:
    command = [*TORCHRUN, "2", str(HERE / "sharded.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    work = tmp_path / "killed"
    work.mkdir()
    command[-1:] = [str(work), "die"]
    assert subprocess.run(command, capture_output=True, cwd=HERE, env=environment | {"OMP_NUM_THREADS": "1"}).returncode
    assert (work / "said").exists()
    loaded = load_checkpoint(work)
    assert loaded
    assert loaded[1] == {"n": 1}


# -- the command line ---------------------------------------------------------------------------------------------------


def typed(terminal: Terminal, count: int, *words: str) -> list[str]:
    """`torchrun ... -m isoalign run` of the words."""
    return [*TORCHRUN, str(count), "-m", "isoalign", *terminal.run(*words)[1:]]


def said(stderr: str) -> list[str]:
    """The lines that isoalign said, two of which processes may write into one; torchrun adds a report of its own."""
    return re.findall(r"isoalign: (?:(?!isoalign: ).)*", stderr)


def rows(store: Path, stage: str, file: str) -> list[dict[str, Any]]:
    """The rows of a file in all stages of a kind."""
    return [json.loads(row) for name in stages(store, stage) for row in (store / name / file).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["false", "true"])
def test_base_reward_model_policy_samples_and_bill_of_a_whole_run_are_those_of_one_process(
    terminal: Terminal, layout: str
) -> None:
    pair = replace(terminal, home=terminal.home / "pair", store=terminal.home / "pair" / "store")
    pair.home.mkdir()
    words = ["algorithm=ppo", "algorithm.rollouts=10", "algorithm.minibatch=5", "budget.flops=1e9", "task.rounds.count=2"]
    for place, command in ((terminal, terminal.run(*words)), (pair, typed(pair, 2, *words, f"task.model.shard={layout}"))):
        done = place(command)
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(done.stdout.splitlines()) == 1
    made, known = ([name for name in stages(place.store) if not name.startswith("preflight")] for place in (pair, terminal))
    assert made == known  # what fits into memory is another question
    for stage, file in (("sft", ""), ("reward", ""), ("train", "policy")):
        [name] = stages(terminal.store, stage)
        here, there = (
            safetensors.torch.load_file(s / name / file / name_of(s / name / file)) for s in (terminal.store, pair.store)
        )
        apart(list(here.values()), [there[key] for key in here])
    drawn = [[row["token_ids"] for row in rows(place.store, "samples", "samples.jsonl")] for place in (terminal, pair)]
    assert drawn[0] == drawn[1]
    one, two = (json.loads(next(place.home.glob("results/nano/*.json")).read_text()) for place in (terminal, pair))
    assert one["spent"] | {"seconds": 0} == two["spent"] | {"seconds": 0}
    assert one["parents"] == two["parents"]
    assert (one["training"]["device"], two["training"]["device"]) == ("cpu", "2 x cpu")
    assert two["training"].get("sharded", False) == (layout == "true")
    assert (pair.store / stages(pair.store, "sft")[0] / "config.json").read_text() == (
        terminal.store / stages(terminal.store, "sft")[0] / "config.json"
    ).read_text()


def name_of(folder: Path) -> str:
    """The file of a model's or an adapter's weights."""
    return next(file.name for file in folder.glob("*.safetensors"))


@pytest.mark.slow
def test_what_several_processes_cannot_do_is_one_line(terminal: Terminal) -> None:
    def line(*words: str, count: int = 2, **environment: str) -> str:
        place = replace(terminal, env=terminal.env | environment)
        done = place(typed(place, count, *words))
        assert done.returncode
        assert done.stdout == ""
        [found] = set(said(done.stderr))  # what is typed wrong each of them says, as they have not met
        return str(found)

    assert "trl_dpo has a training loop of its own, which runs in one process" in line("algorithm=trl_dpo")
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        assert f"{name}=true has no effect" in line("algorithm=dpo", **{name: "true"})
    assert "dqo" in line("algorithm=dqo")
    assert "best_of_n trains nothing" in line("algorithm=best_of_n", "task.model.shard=true")
    assert "2 processes share steps of 1 rows; start at most 1" in line(
        "algorithm=dpo", "algorithm.batch_size=1", "budget.flops=1e9"
    )


@pytest.mark.parametrize(
    ("name", "words", "count", "line"),
    [
        ("dpo", [], 1, "a single process has nobody to hold weights with; start it by torchrun"),
        ("trl_dpo", [], 2, "trl_dpo has a training loop of its own, whose weights are whole; leave it out"),
        ("best_of_n", [], 2, "best_of_n trains nothing; leave it out"),
        ("ppo", ["task.model.sampler=transformers"], 2, "reads weights that are whole; set task.model.sampler=own"),
    ],
)
def test_weights_are_held_together_only_where_that_can_be(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str], count: int, line: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    task = task_named("nano", [f"task.model.name={tiny_model}", *words])
    with pytest.raises(UserError, match=line):
        check_shards(name, registry.default_algorithm(name), task)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_shards("ppo", registry.default_algorithm("ppo"), task_named("nano", [f"task.model.name={tiny_model}"]))
    with pytest.raises(UserError, match="Linear has no layers that can be cut"):
        layers_of(torch.nn.Linear(2, 2))


def test_a_model_that_fits_only_in_parts_is_refused_whole(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (
        task_named("nano", [f"task.model.name={tiny_model}", f"task.model.shard={on}"]) for on in ("false", "true")
    )
    takes = footprint.training_footprint(whole, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")  # in each a quarter of policy, reference and Adam's two numbers, and one whole model
    monkeypatch.setattr(devices, "memory", lambda: 0.6 * takes["weights"] + takes["one row"])
    footprint.check_memory(parts, 0)
    with pytest.raises(UserError, match=r"task\.model\.shard=true in several processes"):
        footprint.check_memory(whole, 0)


def test_a_sweep_shares_no_run_out(terminal: Terminal) -> None:
    terminal.env["WORLD_SIZE"] = "2"
    assert "a sweep shares no run out" in complaint(terminal(terminal.run("-m", "algorithm=dpo,kto")))


@pytest.mark.slow
def test_processes_with_other_settings_are_refused_at_the_start_and_the_first_says_so(terminal: Terminal) -> None:
    terminal.env.update({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())})
    words = [["algorithm=dpo", f"algorithm.lr={rate}"] for rate in ("1e-4", "2e-4")]
    both = [replace(terminal, env=terminal.env | {"RANK": str(rank)}) for rank in (0, 1)]
    running = [place.start(place.run(*each)) for place, each in zip(both, words, strict=True)]
    outcomes = [(*process.communicate(), process.returncode) for process in running]
    assert [status for *_, status in outcomes] == [2, 2]
    assert "process 1 of this run differs from process 0 in algorithm: " in outcomes[0][1]
    assert outcomes[1][:2] == ("", "")
    assert not terminal.store.exists()


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "layout"), [(0, "false"), (1, "false"), (1, "true")])
def test_when_one_process_is_killed_the_others_end_in_a_line_and_the_same_command_goes_on(
    furnished: Terminal, killed: int, layout: str
) -> None:
    words = ["algorithm=dpo", "algorithm.batch_size=7", "budget.flops=2e9"]
    running = furnished.start(typed(furnished, 2, *words, f"task.model.shard={layout}"))
    wait_for(lambda: bool(list(furnished.store.glob(".work-train-*/checkpoint/*.pt"))), running)
    ranks = {process.environ().get("RANK"): process for process in psutil.Process(running.pid).children()}
    ranks[str(killed)].send_signal(signal.SIGKILL)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode
    assert len(said(stderr)) == 1, stderr
    assert "run the same command" in said(stderr)[0]
    assert not stages(furnished.store, "train")
    done = furnished(furnished.run(*words))  # in one process
    assert done.returncode == 0, done.stderr
    [train] = stages(furnished.store, "train")
    log = [json.loads(row) for row in (furnished.store / train / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, len(log) + 1))


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is there, while a process runs."""
    while not ready():
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            raise AssertionError(process.communicate()[1])
