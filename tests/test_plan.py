"""Plans against bills: of published runs, and of runs that are made here."""

import dataclasses
import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from isoalign.cli.commands import invoke
from isoalign.config.training import TrainConfig
from isoalign.core.peak_memory import PeakMemory
from isoalign.core.records import Budget
from isoalign.core.store import Store
from isoalign.evaluation import card as cards
from isoalign.models import loading
from isoalign.models.language import LanguageModel
from isoalign.runs import tuned
from isoalign.runs.overrides import task_named
from isoalign.tools.plan import memory, run
from isoalign.tools.plan.accelerators import ACCELERATORS, Accelerator
from isoalign.tools.plan.memory import Footprint, Memory
from isoalign.tools.plan.models import PlannedModel, language_model
from isoalign.tools.plan.plan import Assumed, MethodPlan, TaskPlan
from isoalign.tools.plan.run import PlannedRun
from isoalign.training import registry
from isoalign.training.meter import Meter
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer
from test_processes import TORCHRUN
from workbench import FAST, Bench, algorithms, loops, quick

PUBLISHED = Path(__file__).parents[1] / "results" / "published"
PAIRS = {"nano": 1078 / 4800, "smol": 1101 / 8400}  # with a verdict, of all pairs of answers: what the runs found
OVERLAP = 0.06  # of labels: a plan does not know how many answers are in several pairs, where a run walks over all
LEFT_OUT = ("sft-", "best_of_n-")  # the latter's published cards still pay for all answers of the evaluation
CARDS = sorted(f for task in PAIRS for f in (PUBLISHED / task).glob("*-s0-*.json") if not f.name.startswith(LEFT_OUT))
NAMED = [pytest.param(file, id=f"{file.parent.name}-{file.name.partition('-s0')[0]}") for file in CARDS]
QUICK = [f"nano-{name}" for name in ("dpo", "kto", "ppo", "rlaif", "online_dpo", "trl_dpo", "dice")]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskPlan]:
    """Plans of the two embedded tasks, without a store."""
    store = Store(tmp_path_factory.mktemp("store"))
    constitution = ["task.constitution.file=kindness"]
    return {name: TaskPlan(task_named(name, constitution), store, Assumed(verdicts=share)) for name, share in PAIRS.items()}


def planned(plan: TaskPlan, algorithm: Any, budget: Budget) -> PlannedRun:
    lora = int(getattr(algorithm, "lora", 0) or plan.lora)
    made = PlannedRun(algorithm, budget, plan.model(lora), plan.model(lora if lora else 0), plan.source)
    made.run()
    return made


def bill_of(items: Sequence[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter({(item["role"], item["kind"]): item["flops"] for item in items})


@pytest.mark.parametrize("file", quick(NAMED, *QUICK))
def test_a_plan_is_the_bill_of_the_published_run_within_two_percent(plans: dict[str, TaskPlan], file: Path) -> None:
    card = cards.read_card(file)
    algorithm = registry.algorithm(card.algorithm)(**card.config["algorithm"])
    made, real = planned(plans[card.task], algorithm, Budget(card.budget["flops"] or 0)), bill_of(card.spent["items"])
    assert made.meter.items.keys() == real.keys()
    spent = real.total()
    step = (spent - made.session.started_at * card.budget["flops"]) / max(1, card.spent["steps"])  # type: ignore[operator]
    # where a step is a large part of the budget, one more or less fits into it
    assert abs(made.meter.flops - spent) <= max(0.02 * spent, 1.05 * step * bool(card.spent["steps"]))
    assert made.meter.flops <= card.budget["flops"]  # type: ignore[operator]
    for item, flops in real.items():
        assert abs(made.meter.items[item] - flops) <= 0.02 * spent, item
    assert made.meter.steps == pytest.approx(card.spent["steps"], rel=0.03, abs=1)
    off = OVERLAP if (card.task, card.algorithm) == ("smol", "kto") else 0.0
    assert made.meter.label_count == pytest.approx(sum(card.spent["labels"].values()), rel=off)


def source_of(bench: Bench) -> Any:
    """The bench's source, with the task that a planned run asks it for."""
    task = task_named("nano")
    bench.source.task = dataclasses.replace(task, model=dataclasses.replace(task.model, new_tokens=bench.new_tokens))  # type: ignore[attr-defined]
    return bench.source


BY_VALUES = {
    "beta_dpo",
    "dapo",
}  # leave out pairs, or draw prompts again, by the values that they see, of which a plan has none


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        *quick([each for each in algorithms() if each.id not in BY_VALUES], *FAST),
        *quick(loops()),
    ],
)
def test_a_plan_of_known_lengths_is_the_bill_of_a_run_to_the_last_flop(
    tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any
) -> None:
    trainer = tiny_bench.trainer(algorithm, Budget(1e15, steps=3), tmp_path, config=TrainConfig(warmup=2))
    trainer.run("a run")
    lora = getattr(algorithm, "lora", 0)
    real = trainer.session
    tokenizer = real.policy.tokenizer
    models = [PlannedModel(each.model, tokenizer, False, tiny_bench.new_tokens, [5]) for each in (real.policy, real.reference)]
    made = PlannedRun(algorithm, Budget(1e15, steps=3), models[0], models[1], source_of(tiny_bench))
    made.run()
    ends = {"judge"}  # reads texts, which are planned
    assert {k: v for k, v in made.meter.items.items() if k[0] not in ends} == {
        k: v for k, v in real.meter.items.items() if k[0] not in ends
    }
    assert (made.meter.steps, made.meter.label_count) == (real.meter.steps, real.meter.label_count)
    assert lora >= 0


def test_a_plan_has_the_settings_of_a_method_s_yaml_and_of_its_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = task_named("nano").model
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "dpo.yaml").write_text("name: dpo\nbeta: 0.5\nbatch_size: 256\nlr: 1e-4\n")
    monkeypatch.setattr(tuned, "folders", lambda: [tmp_path])
    assert tuned.settings_on("nano", "dpo", model) == {"beta": 0.5, "batch_size": 256, "lr": 1e-4}
    (tmp_path / "tuned").mkdir()
    text = f"tuned_on: {json.dumps(tuned.base_of(model))}\nalgorithm: {{lr: 3e-05}}\n"
    (tmp_path / "tuned" / "nano_dpo.yaml").write_text(text)
    assert tuned.settings_on("nano", "dpo", model) == {"beta": 0.5, "batch_size": 256, "lr": 3e-5}
    assert tuned.settings_on("nano", "dpo", replace(model, lora=4))["lr"] == 1e-4


def test_leaps_cost_what_walking_does(plans: dict[str, TaskPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plans["nano"]
    for name in ("kto", "online_dpo", "rlhf_then_dpo"):  # pays verdicts, asks a judge, changes its ways midway
        algorithm = registry.default_algorithm(name)
        leapt = planned(plan, algorithm, Budget(9e12))
        with monkeypatch.context() as patch:
            patch.setattr(run, "LEAST", 10**9)
            walked = planned(plan, algorithm, Budget(9e12))
        assert leapt.meter.label_count == walked.meter.label_count
        assert leapt.meter.steps == pytest.approx(walked.meter.steps, rel=0.02, abs=1)
        for item, flops in walked.meter.items.items():
            assert abs(leapt.meter.items[item] - flops) <= 0.01 * walked.meter.flops, (name, item)


@pytest.mark.slow
def test_a_deep_model_is_measured_on_few_layers_and_takes_what_the_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"num_hidden_layers": 12}))
    task, tokenizer = task_named("smol", [f"task.model.name={tmp_path}"]), loading.load_tokenizer("smollm2")
    few = Memory(task, tokenizer).of(8, 4, 16)
    monkeypatch.setattr(memory, "FEW", (50, 100))
    assert Memory(task, tokenizer).of(8, 4, 16) == few


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 49152,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param("dpo", marks=pytest.mark.slow), "ppo"])
def test_the_memory_of_a_plan_is_what_a_run_takes_within_fifteen_percent(
    plans: dict[str, TaskPlan], tmp_path: Path, name: str
) -> None:
    plan = plans["nano"]
    [row] = plan.methods([name], {"tiny": 3e12})
    assert row.footprint is not None
    with PeakMemory() as measured:  # every tensor of a true run, weights and optimizer included
        models = []
        for trained in (True, False):
            model, tokenizer = loading.load_model("nano")
            models.append(LanguageModel(model.requires_grad_(trained), tokenizer, False, rows=plan.task.training.rows))
        held = sum(p.numel() * p.element_size() for each in models for p in each.inner.parameters()) - measured.current
        plan.source.round = 0
        session = Session(*models, plan.source, Meter(Budget(1e15, steps=2)), plan.task.model.new_tokens, 0)
        Trainer(registry.default_algorithm(name), session, plan.task.training, tmp_path).run("a run")
    taken = measured.peak + max(0, held)  # weights that are mapped from their file are made by no operation
    assert row.footprint.on(1) - row.footprint.beside == pytest.approx(taken, rel=0.15)


@pytest.mark.slow
def test_the_memory_of_weights_that_processes_hold_together_is_what_each_takes_within_fifteen_percent(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    # two passes a loss with all weights, with an adapter, and a method whose peak is the comparison of two whole models
    here, cases = Path(__file__).parent, ["dpo:0:4", "dpo:8:4", "ppo:0:4"]
    command = [*TORCHRUN, "2", str(here / "shard_memory.py"), str(tmp_path / "out.json"), *cases]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=environment | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    for case, processes in json.loads((tmp_path / "out.json").read_text()).items():
        for each in processes:
            print(case, each)
            assert each["planned"] == pytest.approx(each["taken"], rel=0.15), case


def test_hours_are_those_of_the_peak_and_the_shares_that_are_assumed() -> None:
    # 3.6e18 FLOPs of passes at half of 1e15 a second are 2 h, 3.6e16 of sampling at a hundredth 1 h; on two devices half of it
    row = MethodPlan("a", "b", 1e19, {("policy", "forward"): 36 * 10**17, ("policy", "sample"): 36 * 10**15})
    assumed = Assumed(mfu=0.5, sampling_mfu=0.01, devices=2)
    assert row.hours(Accelerator("x", 1e15, 8e10, None, ""), assumed) == pytest.approx(1.5)


def test_shards_share_weights_and_gradients_and_gather_layers_in_a_step_or_models_that_are_read() -> None:
    footprint = Footprint(weights=800, gradients=100, beside=60, step=40, reading=10, gathered=110, whole=200)
    assert [footprint.on(shards) for shards in (1, 2, 9)] == [1000, 400 + 60 + 210, 89 + 60 + 210]
    assert dataclasses.replace(footprint, gathered=200).on(2) == 400 + 60 + 50 + 200 + 40


def test_more_seeds_and_prompts_resolve_less(plans: dict[str, TaskPlan]) -> None:
    plan = plans["nano"]
    three = plan.resolvable(10)
    plan.assumed = dataclasses.replace(plan.assumed, seeds=12)
    twelve = plan.resolvable(10)
    plan.assumed = dataclasses.replace(plan.assumed, seeds=3)
    assert three is not None
    assert twelve is not None
    assert 0 < twelve < three < 0.1


def test_every_accelerator_says_where_its_figures_are_from() -> None:
    for each in ACCELERATORS.values():
        assert "20" in each.source
        assert each.peak > 0


# -- the command ----------------------------------------------------------------------------------------------------------


def test_config_json_is_enough_and_what_is_not_at_hand_is_assumed_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    words = [f"task.model.name={tmp_path}", f"task.reward.base={tmp_path}", "task.prompts.train=64", "task.reward.pairs=64"]
    asked = ["plan", "tulu3", *words, "--method", "ppo", "--method", "rlaif", "--budget", "1e13", "--devices", "8", "--json"]
    assert invoke([*asked, "--store", str(tmp_path / "store")]) == 0
    [found] = json.loads(capsys.readouterr().out)
    ppo, rlaif = found["methods"]
    assert ppo["steps"] > 0
    assert 0 < ppo["flops"] <= 1e13
    assert ppo["memory"]["device"] > 0
    assert "Qwen3-1.7B-Base" in rlaif["problem"]
    assert any(rlaif["problem"] in line for line in found["advice"])
    notes = " ".join(found["notes"])
    assert "512 tokens, the most that the task allows: an upper bound" in notes
    assert "prompts have 512 tokens each" in notes
    assert found["resolvable"] is None  # its objective has no bounds
    assert not (tmp_path / "store").exists()  # a plan writes nothing


def test_what_a_plan_says_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = ["plan", "nano", "--method", "best_of_n", "--budget", "1e12", "--budget", "1e30", "--store", str(tmp_path)]
    assert invoke(tasks) == 0
    text = capsys.readouterr().out
    assert "a step takes budget.flops=" in text
    assert "best_of_n: the budget does not cover the best of" in text
    assert "smallest resolvable difference" in text


def test_a_plan_says_which_methods_spend_most_of_a_budget_before_they_learn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [word for name in ("dpo", "rloo", "ppo") for word in ("--method", name)]
    assert invoke(["plan", "nano", *methods, "--budget", "tiny", "--json", "--store", str(tmp_path)]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    (advice,) = plan["advice"]
    assert advice.startswith("rloo, ppo: over 67% of tiny are spent before the first step")
    enough = advice.partition("budget.flops=")[2].split()[0]
    assert invoke(["plan", "nano", *methods, "--budget", enough, "--json", "--store", str(tmp_path)]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["advice"] == []
    assert all(each["start"] <= 0.51 * each["flops"] for each in plan["methods"])


@pytest.mark.slow
def test_a_plan_makes_what_runs_share_for_each_base_and_ranks_no_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(*words: str) -> dict[str, Any]:
        asked = ["plan", "nano", *words, "--accelerator", "cpu", "--seeds", "4", "--json", "--store", str(tmp_path)]
        assert invoke(asked) == 0
        (plan,) = json.loads(capsys.readouterr().out)
        return plan

    methods = [word for name in ("dpo", "kto", "sft_chosen", "best_of_n") for word in ("--method", name)]
    alone, beside = found("--method", "dpo", "--method", "kto", "--budget", "small"), found(*methods, "--budget", "small")
    assert alone["resolvable"] == beside["resolvable"]
    assert found(*methods[:4], "--budget", "small", "--budget", "tiny")["store"] > alone["store"]
    assert not any("for each of" in note for note in alone["notes"])
    assert "made for each of 3 bases" in " ".join(found("task.bases=3", *methods[:4], "--budget", "small")["notes"])


def test_a_method_that_is_named_twice_is_planned_once(plans: dict[str, TaskPlan]) -> None:
    (plan,) = plans["nano"].methods(["dpo", "dpo"], {"small": 4.5e12})
    assert plan.method == "dpo"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nanoo"], "unknown task 'nanoo'; did you mean 'nano'"),
        (["nano", "--accelerator", "h1000"], "unknown accelerator 'h1000'; did you mean 'h100'"),
        (["nano", "--budget", "smal"], "unknown budget 'smal'; did you mean 'small'"),
        (["nano", "--method", "dpoo"], "unknown algorithm 'dpoo'; did you mean 'dpo'"),
        (["nano", "--mean-answer", "0"], "--mean-answer"),
        (["tulu3"], "config.json"),
        (["task.seed=1"], "name a task"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plan", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.strip().splitlines()
    assert said in line


def test_a_model_of_the_meta_device_has_no_weights() -> None:
    model = language_model("nano")
    assert all(parameter.device == torch.device("meta") for parameter in model.parameters())
