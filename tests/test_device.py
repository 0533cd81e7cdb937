"""Models on an accelerator: everything that runs on a CPU runs there, to the same figures. The accelerator is pretended."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoalign.training import registry
from workbench import Terminal, complaint, write_model

HERE = Path(__file__).parent
PRETEND = [sys.executable, str(HERE / "accelerator.py")]
SMALL = ["algorithm.batch_size=8", "algorithm.rollouts=8", "algorithm.minibatch=8", "algorithm.num_generations=4"]
BUDGET = "budget.flops=2e9"


def script(text: str, *words: str) -> list[str]:
    """The lines that a program prints in a process of its own, where the pretend accelerator is installed."""
    head = "from isoalign.core import runtime; runtime.quiet()\nimport accelerator, torch\naccelerator.install()\n"
    done = subprocess.run([sys.executable, "-c", head + text, *words], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


REFUSED = """
here, there = torch.ones(3, 4), torch.ones(3, 4, device="pretend")
index = torch.tensor([0, 2], device="pretend")

def answer(work):
    try:
        return str(work().sum().item())
    except (RuntimeError, TypeError) as error:
        return type(error).__name__

print(answer(lambda: there + here), answer(lambda: there.add_(here)), answer(lambda: here.add_(there)))
print(answer(lambda: torch.cat([here, there])), answer(lambda: here[index]), answer(lambda: here + there.sum()))
print(answer(lambda: there.numpy()), answer(lambda: there.pin_memory()))
print(answer(lambda: torch.rand(3, device="pretend", generator=torch.Generator())))
print(answer(lambda: there * torch.tensor(2.0)), answer(lambda: there[torch.tensor([0, 2])]), answer(lambda: there[index]))
print(answer(lambda: there.cpu() + here), answer(lambda: there.to(here) + here))
print([len(torch.arange(*ends, device="pretend")) for ends in [(3,), (1, 3), (0, 9, 2)]])
"""


def test_the_pretend_accelerator_refuses_to_mix_devices_as_cuda_does_and_nothing_else() -> None:
    lines = script(REFUSED)
    assert lines[:4] == ["RuntimeError " * 2 + "RuntimeError"] * 2 + ["TypeError RuntimeError", "RuntimeError"]
    assert lines[4:] == ["24.0 8.0 8.0", "24.0 24.0", "[3, 2, 5]"]


def on(place: Terminal, device: str, *words: str) -> dict[str, Any]:
    """The card of a run on a device, in a store of its own that begins as the place's does."""
    own = replace(place, home=place.home / device, store=place.home / device / "store")
    if place.store.exists():
        shutil.copytree(place.store, own.store)
    own.home.mkdir(exist_ok=True)
    command = own.run(*words, BUDGET, f"device={device}")
    done = own([*PRETEND, *command[1:]] if device == "pretend" else command)
    assert done.returncode == 0, done.stderr
    assert not list(own.store.glob(".work-*"))
    card: dict[str, Any] = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    return card


def assert_same(there: dict[str, Any], here: dict[str, Any]) -> None:
    """The same key, bill and metrics; the card names the device that it was trained on."""
    assert (there["training"].pop("device"), here["training"].pop("device")) == ("pretend", "cpu")
    assert there["key"] == here["key"]
    assert there["parents"] == here["parents"]
    for card in (there, here):
        card["spent"].pop("seconds")
    assert there["spent"] == here["spent"]
    assert there["training"]["dtype"] == here["training"]["dtype"] == "float32" if "dtype" in here["training"] else True
    assert there["command"] == here["command"]
    for name, found in here["metrics"].items():
        expected, digits = found["value"], 2e-2 if "accuracy" in name else 2e-3  # a pair that is nearly a tie may turn
        assert there["metrics"][name]["value"] == (expected if expected is None else pytest.approx(expected, abs=digits)), name


def sized(name: str) -> list[str]:
    settings = registry.hyperparameters(registry.algorithm(name)())
    return [word for word in SMALL if word.partition("=")[0].removeprefix("algorithm.") in settings]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["algorithm=sft"],
        ["algorithm=ppo"],
        ["algorithm=dpo", "task.model.lora=4"],
        ["algorithm=best_of_n", "algorithm.draws=2"],
        ["algorithm=cai", "task.constitution.file=kindness"],
        ["algorithm=ppo_critic", "task.shaping.members=2", "task.reward.golden=4"],
        ["algorithm=online_dpo", "task.reward.classifier=annotator"],
        ["algorithm=iterative_dpo", "task.rounds.count=2", "task.training.snapshots=[0.5]"],
        ["algorithm=trl_grpo"],
    ],
    ids=lambda words: words[0].partition("=")[2],
)
def test_every_stage_on_an_accelerator_gives_what_it_gives_on_a_cpu(terminal: Terminal, words: list[str]) -> None:
    name = words[0].partition("=")[2]
    here = on(terminal, "cpu", *words, *sized(name))
    there = on(terminal, "pretend", *words, *sized(name))
    assert_same(there, here)


@pytest.mark.slow
def test_an_accelerator_without_bf16_is_one_line_before_any_stage(terminal: Terminal) -> None:
    command = terminal.run("algorithm=kto", "task.model.bf16=true", BUDGET, "device=pretend")
    assert "the device pretend does not compute in bf16; set task.model.bf16=false" in complaint(
        terminal([*PRETEND, *command[1:]])
    )
    assert not any(terminal.store.glob("sft-*"))


@pytest.mark.slow
def test_a_judge_that_is_a_language_model_reads_on_an_accelerator(terminal: Terminal, tmp_path: Path) -> None:
    words = ["algorithm=rlaif", "algorithm.mode=canonical", "task.judge.kind=lm", f"task.judge.model={terminal.model}"]
    there, here = (on(terminal, device, *words, *sized("rlaif")) for device in ("pretend", "cpu"))
    assert_same(there, here)


BUDGETS = """
from isoalign.core import devices
from isoalign.tools.conformance import examine
from isoalign.tools.conformance.workbench import small
from isoalign.training.registry import algorithm, algorithm_names
torch.set_num_threads(1)
there = devices.use("pretend")
for name in algorithm_names():
    if hasattr(algorithm(name), "iteration"):
        found = examine(name, small(algorithm(name)()), ("budget",), there)
        print(*(f"{name}: {each.line()}" for each in found if not each.passed))
"""


@pytest.mark.slow
def test_every_algorithm_trains_and_bills_on_an_accelerator() -> None:
    lines = script(BUDGETS)
    assert len(lines) >= 20
    assert [line for line in lines if line] == []


MOVES = """
import sys
from dataclasses import replace
from pathlib import Path
from isoalign.config.training import TrainConfig
from isoalign.core.records import Budget
from isoalign.tools.conformance.checks import DiesAtStep, Killed
from isoalign.tools.conformance.workbench import small, tiny, weights
from isoalign.training import registry
torch.set_num_threads(1)
folder, often = Path(sys.argv[1]), TrainConfig(warmup=2, checkpoint_seconds=0)
here = tiny(folder / "cpu")
there = tiny(folder / "pretend", "pretend")
algorithm = small(registry.algorithm("ppo_critic")())
ends = []
for first, second in ((here, here), (there, there), (there, here), (here, there)):
    work = folder / str(len(ends))
    work.mkdir()
    try:
        first.trainer(DiesAtStep(algorithm, 5), Budget(1e15, steps=9), work, config=often).run("ppo_critic")
    except Killed:
        pass
    run = second.trainer(algorithm, Budget(1e15, steps=9), work, config=often)
    run.run("ppo_critic")
    states = [state["exp_avg"] for each in run.optimizers.values() for state in each.state.values()]
    assert {each.device.type for each in [*weights(run), *states]} == {second.device}
    ends.append(([each.cpu() for each in weights(run)], run.meter.spent() | {"seconds": 0}))
for weights, bill in ends:
    assert bill == ends[0][1]
    gaps = torch.cat([(a - b).abs().flatten() for a, b in zip(weights, ends[0][0])])
    print(float(gaps.mean()) < 1e-7 and float(gaps.max()) < 1e-3)  # Adam turns the last digit of a gradient near 0 into a step
"""


@pytest.mark.slow
def test_a_run_killed_on_one_device_goes_on_on_another(tmp_path: Path) -> None:
    assert script(MOVES, str(tmp_path)) == ["True"] * 4


CHANCE = """
import random
import numpy as np
from isoalign.core.randomness import own_random_state
draw = lambda: [torch.randn(2, device="pretend").cpu().sum().item(), torch.pretend.get_rng_state().sum().item(),
                torch.rand(1).item(), np.random.rand(), random.random()]
torch.manual_seed(3), np.random.seed(3), random.seed(3)
expected = draw()[1:]
torch.manual_seed(3), np.random.seed(3), random.seed(3)
with own_random_state():
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    other = draw()[1:]
print(draw()[1:] == expected, other != expected)
"""


def test_a_stage_made_in_the_midst_of_a_run_leaves_the_random_state_of_every_device() -> None:
    assert script(CHANCE) == ["True True"]


@pytest.mark.slow
def test_completions_made_elsewhere_are_scored_on_an_accelerator(terminal: Terminal, tmp_path: Path) -> None:
    settings = [word for word in terminal.run("x") if word.startswith("task.")]
    listed = terminal([*PRETEND, "prompts", "nano", *settings])
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    file = tmp_path / "theirs.jsonl"
    file.write_text("\n".join(json.dumps({"prompt_id": row["prompt_id"], "completion": "you are kind"})
                              for row in rows for _ in range(row["draws"])))  # fmt: skip
    done = terminal([*PRETEND, "score", "--samples", str(file), "--task", "nano", "--store", str(terminal.store),
                     "--results", str(tmp_path), *settings])  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_classifier_of_the_hub_scores_on_an_accelerator_as_on_a_cpu(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "classifier")
    text = f"""
from isoalign.core.lazy import transformers
from isoalign.models.embed import embed
from isoalign.models.scorers import load_scorer
torch.manual_seed(0)
model = transformers.AutoModelForSequenceClassification.from_pretrained(
    {str(folder)!r}, num_labels=2, id2label={{0: "fine", 1: "toxic"}})
model.save_pretrained({str(folder)!r})
texts = ["you are kind", "go away, idiot", "", "what a page " * 30]
for name in ("hf:{folder}", "tox_block", "toxic_classifier"):
    there, here = (load_scorer(name, device)(texts) for device in ("pretend", "cpu"))
    print([round(x, 4) if x is not None else x for x in there] == [round(x, 4) if x is not None else x for x in here])
print(float((embed(texts, device="pretend") - embed(texts)).abs().max()) < 1e-4)
"""
    assert script(text) == ["True"] * 4


@pytest.mark.slow
def test_a_device_with_too_little_memory_is_one_line_and_leaves_no_stage_and_no_note(terminal: Terminal) -> None:
    terminal.env["PRETEND_BYTES"] = "5000"  # the embedding alone has 41 kB
    done = terminal([*PRETEND, *terminal.run("algorithm=dpo")[1:]])
    assert "too little memory; set" in complaint(done)
    assert not list(terminal.home.glob("results/**/*.json"))
    assert not list(terminal.store.glob("[!.]*"))
