"""A run that was killed goes on by the same command and ends as if nothing had happened."""

import dataclasses
import hashlib
import json
import pickle
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from isoalign.config.training import TrainConfig
from isoalign.core.batches import Rollouts, Step
from isoalign.core.records import Budget
from isoalign.tools.conformance.checks import DiesAtStep, Killed
from isoalign.training import registry
from isoalign.training.checkpoint import load_checkpoint
from isoalign.training.lab import Lab, session_of
from isoalign.training.trainer import Trainer
from workbench import FAST, Bench, Terminal, algorithms, quick, same, small, weights

FLOPS = Budget(3e8)  # ten steps and more of every method
OFTEN = TrainConfig(
    warmup=2, checkpoint_seconds=0, snapshots=(0.1, 0.4, 0.7), kl_snapshots=(0.01, 0.1)
)  # a checkpoint after every iteration


def outcome(trainer: Trainer) -> tuple[Any, ...]:
    spent = trainer.meter.spent() | {"seconds": 0}
    return (
        spent,
        trainer.log,
        trainer.lab.state,
        trainer.skipped,
        trainer.session.started_at,
        trainer.snapshots,
        kept(trainer.work),
    )


def kept(work: Path) -> dict[str, bytes]:
    """The policies along the budget, by their place."""
    files = sorted((work / "snapshots").rglob("*.safetensors"))
    return {file.relative_to(work).as_posix(): file.read_bytes() for file in files}


ON_ADAPTERS = [pytest.param(*each.values, 4, id=f"{each.id}-4", marks=each.marks) for each in algorithms() if each.id in FAST]


@pytest.mark.parametrize(
    ("name", "algorithm", "lora"),
    quick([pytest.param(*each.values, 0, id=each.id) for each in algorithms()] + ON_ADAPTERS, "dpo", "ppo"),
)
def test_a_run_killed_twice_ends_with_the_weights_the_bill_and_the_log_of_one_that_was_not(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any, lora: int
) -> None:
    bench = tiny_bench.replace(lora=lora)
    whole = bench.trainer(algorithm, FLOPS, tmp_path / "whole", config=OFTEN)
    (tmp_path / "whole").mkdir()
    whole.run(name)
    assert len(whole.log) > 10
    assert [place["steps"] for place in whole.snapshots] == [int(name.split("/")[1]) for name in sorted(
        kept(whole.work), key=lambda name: int(name.split("/")[1]))]  # fmt: skip
    start = whole.session.started_at
    reached = [(place["fraction"] - start) / (1 - start) for place in whole.snapshots]
    assert all(any(share <= taken < share + 0.2 for taken in reached) for share in OFTEN.snapshots)

    work = tmp_path / "killed"
    work.mkdir()
    for steps in (6, 4):
        with pytest.raises(Killed):
            bench.trainer(DiesAtStep(algorithm, steps), FLOPS, work, config=OFTEN).run(name)
    last = bench.trainer(algorithm, FLOPS, work, config=OFTEN)
    taken: list[int] = []
    log_step = last.log_step
    last.log_step = lambda *row: (taken.append(1), log_step(*row))  # type: ignore[assignment, method-assign, func-returns-value]
    last.run(name)
    assert len(taken) < len(whole.log)  # it did go on, and not from the start
    assert same(weights(last), weights(whole))
    assert outcome(last) == outcome(whole)
    assert {k: [c.position, c.seed] for k, c in last.session.cursors.items()} == {
        k: [c.position, c.seed] for k, c in whole.session.cursors.items()
    }
    assert torch.equal(last.lab.generator.get_state(), whole.lab.generator.get_state())


def killed(bench: Bench, algorithm: Any, folder: Path, *kills: int) -> Trainer:
    """The trainer of a run of nine steps that was killed after some numbers of steps and resumed."""
    work, budget = folder / str(len(kills)), Budget(1e15, steps=9)
    work.mkdir()
    for steps in kills:
        with pytest.raises(Killed):
            bench.trainer(DiesAtStep(algorithm, steps), budget, work, config=OFTEN).run("killed")
    trainer = bench.trainer(algorithm, budget, work, config=OFTEN)
    trainer.run("killed")
    return trainer


def test_a_module_that_sleeps_through_a_resume_wakes_up_with_what_it_had_learnt(tiny_bench: Bench, tmp_path: Path) -> None:
    class Seldom:
        """Trains a module of its own in the first iteration and every fourth after it."""

        lr = 1e-2

        def iteration(self, lab: Lab) -> Iterator[Step]:
            turn = lab.state["turn"] = lab.state.get("turn", -1) + 1
            yield Step(lab.pairs(4).chosen, self.with_module if turn % 4 == 0 else self.plain)

        def plain(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            return -lab.policy(rollouts).logp.sum(1)

        def with_module(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            head = lab.module("head", lambda width: nn.Linear(width, 1))
            return head(lab.policy(rollouts).hidden)[:, 0, 0] ** 2

    runs = [killed(tiny_bench, Seldom(), tmp_path, *steps) for steps in ((), (2, 1))]
    assert same(weights(runs[0]), weights(runs[1]))
    assert outcome(runs[0]) == outcome(runs[1])


def test_a_target_network_that_a_method_moves_itself_and_the_models_that_it_ran_are_there_after_a_resume(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    class Slow:
        """Draws the policy's hidden states to those of a target that follows a head; runs a model of its own at first."""

        lr = 1e-2

        def iteration(self, lab: Lab) -> Iterator[Step]:
            if "begun" not in lab.state:
                lab.state["begun"] = True
                nn.Linear(3, 3)(torch.ones(1, 3))
            parts = lab.module("parts", lambda width: nn.ModuleDict({n: nn.Linear(width, 1) for n in ("head", "target")}))
            parts["target"].requires_grad_(False)
            for own, target in zip(parts["head"].parameters(), parts["target"].parameters(), strict=True):
                target.data.lerp_(own.data, 0.3)
            yield Step(lab.pairs(4).chosen, self.loss)

        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            parts = lab.module("parts", lambda width: nn.Identity())
            hidden = lab.policy(rollouts).hidden
            return (parts["head"](hidden) - parts["target"](hidden) + 0.1)[:, 0, 0] ** 2

    runs = [killed(tiny_bench, Slow(), tmp_path, *steps) for steps in ((), (3, 2))]
    assert same(weights(runs[0]), weights(runs[1]))
    assert outcome(runs[0]) == outcome(runs[1])
    assert runs[0].guard.models.keys() == runs[1].guard.models.keys() == {"Linear"}


def test_modules_of_one_architecture_start_apart_and_alike_in_whatever_order_a_resumed_run_makes_them(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    class Random:
        """Draws hidden states to two frozen heads, of which no checkpoint holds the weights; the order follows the turn."""

        lr = 1e-2

        def iteration(self, lab: Lab) -> Iterator[Step]:
            turn = lab.state["turn"] = lab.state.get("turn", -1) + 1
            for name in ("first", "second") if turn % 2 == 0 else ("second", "first"):
                lab.module(name, lambda width: nn.Linear(width, 1).requires_grad_(False))
            yield Step(lab.pairs(4).chosen, self.loss)

        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            hidden = lab.policy(rollouts).hidden
            first, second = (lab.module(name, nn.Identity)(hidden)[:, 0, 0] for name in ("first", "second"))
            return (first - 1) ** 2 + (second + 1) ** 2

    runs = [killed(tiny_bench, Random(), tmp_path, *steps) for steps in ((), (4, 3))]  # it goes on at turns 3 and 5
    made = [[run.session.modules[name].weight for name in ("first", "second")] for run in runs]
    assert not torch.equal(*made[0])
    assert same(made[0], made[1])  # type: ignore[arg-type]
    assert outcome(runs[0]) == outcome(runs[1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(nn.Linear(tiny_bench.language_model().width, 1).weight, made[0][0])


def test_what_is_logged_after_the_last_step_of_an_iteration_is_in_the_log_after_a_resume(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    class Late:
        """Looks at what its step did."""

        lr = 1e-2

        def iteration(self, lab: Lab) -> Iterator[Step]:
            rows = lab.pairs(4).chosen
            yield Step(rows, self.loss)
            with torch.no_grad():
                lab.log(kl=lab.log_ratio(rows).mean())
            session_of(lab).reward_ends.add(0.5)  # as where all answers got one reward

        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            return -lab.policy(rollouts).logp.sum(1)

    runs = [killed(tiny_bench, Late(), tmp_path, *steps) for steps in ((), (3, 2))]
    assert all("kl" in row and "equal_rewards" in row for row in runs[0].log[1:])
    assert outcome(runs[0]) == outcome(runs[1])
    numbers = runs[0].session.numbers()
    del numbers["logged"], numbers["reward_ends"]  # as checkpoints were once
    (lab := tiny_bench.lab()).log(kl=1.0)
    session_of(lab).restore(numbers)
    assert session_of(lab).take_logged() == {}


def test_a_checkpoint_holds_tensors_and_json_only_and_appears_whole(tiny_bench: Bench, tmp_path: Path) -> None:
    for name, algorithm in (param.values for param in algorithms() if param.id in FAST):
        work = tmp_path / name
        work.mkdir(exist_ok=True)
        trainer = tiny_bench.trainer(algorithm, Budget(1e15, steps=5), work, config=OFTEN)
        trainer.run(name)
        kept = sorted((work / "checkpoint").iterdir())
        numbers = [int(file.name.partition("-")[0]) for file in kept]
        assert numbers == list(range(1, 5))[numbers[-1] - len(numbers) : numbers[-1]]  # the newest, and the one before it
        assert len(kept) <= 2
        for file in kept:
            torch.load(file, weights_only=True)


def test_a_checkpoint_from_before_they_had_parts_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    torch.save({"w": torch.ones(2), "numbers": json.dumps({"n": 1})}, folder / "new")
    digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()[:16]
    (folder / "new").rename(folder / f"000007-{digest}.pt")
    loaded = load_checkpoint(tmp_path)
    assert loaded
    assert torch.equal(loaded[0]["w"], torch.ones(2))
    assert loaded[1] == {"n": 1}


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "pickle", "named pickle"])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_is_told_and_the_run_goes_on_from_the_one_before_it(
    tiny_bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str, both: bool
) -> None:
    name, algorithm = "dpo", small("dpo")  # an iteration is a step
    budget, runs = Budget(1e15, steps=6), []
    for work in (tmp_path / "whole", tmp_path / "harmed"):
        work.mkdir()
        if work.name == "harmed":
            with pytest.raises(Killed):
                tiny_bench.trainer(DiesAtStep(algorithm, 4), budget, work, config=OFTEN).run(name)
            files = sorted((work / "checkpoint").iterdir())
            for file in files if both else files[1:]:
                damage(file, harm)
        runs.append(tiny_bench.trainer(algorithm, budget, work, config=OFTEN))
        runs[-1].run(name)
    told = [line for line in capsys.readouterr().err.splitlines() if "is damaged; training goes on from" in line]
    assert len(told) == (2 if both else 1)
    assert str(files[-1].parent) in told[0]
    assert not (tmp_path / "ran").exists()
    assert same(weights(runs[0]), weights(runs[1]))
    assert outcome(runs[0]) == outcome(runs[1])


class Evil:
    """A pickle that leaves a trace where it is run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def damage(file: Path, harm: str) -> None:
    whole = file.read_bytes()
    middle = len(whole) // 2
    evil = pickle.dumps(Evil(file.parents[2] / "ran"))
    file.write_bytes({
        "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "truncate": whole[:middle], "empty": b"",
        "pickle": evil, "named pickle": evil,
    }[harm])  # fmt: skip
    if harm == "named pickle":
        file.rename(file.with_name(f"{file.name.partition('-')[0]}-{hashlib.sha256(evil).hexdigest()[:16]}.pt"))


def test_checkpoints_come_no_oftener_than_asked(tiny_bench: Bench, tmp_path: Path) -> None:
    config = TrainConfig(checkpoint_seconds=1e6)
    name, algorithm = algorithms()[0].values
    tiny_bench.trainer(algorithm, Budget(1e15, steps=4), tmp_path, config=config).run(name)
    assert not (tmp_path / "checkpoint").exists()


SIZES = ["algorithm.batch_size=8", "algorithm.rollouts=8", "algorithm.minibatch=8"]


def fields(name: str) -> set[str]:
    return {f"algorithm.{field.name}" for field in dataclasses.fields(registry.algorithm(name))}


def test_a_run_stopped_by_the_keyboard_says_one_line_and_leaves_no_card(furnished: Terminal) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the workers of a test run ignore it
    running = furnished.start(furnished.run("algorithm=dpo"))
    signal.signal(signal.SIGINT, before)
    while running.poll() is None and not list(furnished.store.glob(".work-train-*")):
        pass
    running.send_signal(signal.SIGINT)
    said, told = running.communicate()
    assert running.returncode == 130, told
    assert told.splitlines()[-1] == "isoalign: stopped; run the same command to resume"
    assert "Traceback" not in told
    assert not said
    assert not list(furnished.home.glob("results/**/*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "kto", "ppo", "rlaif", "reinforce", "trl_dpo", "trl_grpo"])
def test_the_command_killed_and_typed_again_gives_the_card_of_a_run_that_was_not(furnished: Terminal, name: str) -> None:
    sizes = [word for word in SIZES if word.partition("=")[0] in fields(name)]
    words = [f"algorithm={name}", "budget.flops=6e9", *sizes]
    other = replace(furnished, home=furnished.home / "other", store=furnished.home / "other" / "store")
    shutil.copytree(furnished.store, other.store)

    running = furnished.start(furnished.run(*words))
    deadline = time.monotonic() + 300
    while not list(furnished.store.glob(".work-train-*/checkpoint/*.pt")):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert not list(furnished.store.glob("train-*"))

    cards = []
    for terminal in (furnished, other):
        done = terminal(terminal.run(*words))
        assert done.returncode == 0, done.stderr
        card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
        assert card["spent"].pop("seconds") > 0
        assert card["contents"].keys() == card["parents"].keys()  # digests of all files, but not of times
        assert card.pop("seals")
        cards.append(card)
        assert not list(terminal.store.glob(".work-*"))
        (trained,) = terminal.store.glob("train-*")
        assert not (trained / "checkpoint").exists()
    assert cards[0]["spent"]["flops"] > 0.9 * 6e9
    assert cards[0] == cards[1]
