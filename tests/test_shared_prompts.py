"""Completions of one prompt are read after one reading of it, and get the states of a pass over whole rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicLayer

from architectures import CONFIGS, SIZES, build
from isoalign.core.batches import Prompts, Rollouts
from isoalign.evaluation.samples import score_rollouts
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.kl import compare, exact_kl
from isoalign.models.passes import Body, find_body
from isoalign.models.reward import head_rewards
from isoalign.models.scalar_head import scalar_head_class
from isoalign.models.shared_prompts import differentiates, read_ends, read_states
from test_passes import language_model

PROMPTS, ANSWERS = (7, 3, 7, 3, 5, 7, 3), (4, 2, 0, 5, 1, 5, 3)  # tokens of each row's prompt and answer
WIDTH = 9


def rollouts() -> Rollouts:
    """Three prompts, of which two are asked three times, in mixed order, with padding on both sides."""
    generator = torch.Generator().manual_seed(3)
    said = {length: torch.randint(6, 97, (length,), generator=generator) for length in sorted(set(PROMPTS))}
    tokens, mask = torch.full((len(PROMPTS), WIDTH + 6), 5), torch.zeros(len(PROMPTS), WIDTH + 6, dtype=torch.bool)
    for row, (length, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        tokens[row, WIDTH - length : WIDTH] = said[length]
        tokens[row, WIDTH : WIDTH + answer] = torch.randint(6, 97, (answer,), generator=generator)
        mask[row, WIDTH - length : WIDTH + answer] = True
    return Rollouts(tokens, mask, WIDTH)


def tokens_read(body: Body, batch: Rollouts) -> list[tuple[int, ...]]:
    """The shapes of what the body reads to give the states of a batch."""
    shapes: list[tuple[int, ...]] = []

    def note(_: Any, __: Any, named: dict[str, Any]) -> None:
        shapes.append(tuple(named["input_ids"].shape))

    hook = body.module.register_forward_pre_hook(note, with_kwargs=True)
    read_states(body, batch)
    hook.remove()
    return shapes


def test_answers_that_are_all_empty_have_no_states() -> None:
    batch = rollouts()
    empty = Rollouts(batch.tokens[:, :WIDTH], batch.mask[:, :WIDTH], WIDTH)
    model = language_model(build("llama").requires_grad_(True))
    assert model.shares_prompts
    assert model(empty).logp.shape == (len(PROMPTS), 0)
    assert [outputs.logp.shape for outputs in model.read_together([empty, batch])] == [(7, 0), (7, 6)]


def test_dropout_draws_what_it_draws_for_whole_rows_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = language_model(build("gpt2", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1).train().requires_grad_(True))
    torch.manual_seed(1)
    drawn, after = model(rollouts()).hidden, torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, model.body.read(rollouts()))
    assert torch.equal(after, torch.rand(1))


def last_state(body: Body, batch: Rollouts, row: int) -> Tensor:
    """The state of a row's last token, by a pass over its own tokens."""
    tokens = batch.tokens[row][batch.mask[row]].unsqueeze(0)
    return body(tokens, torch.ones_like(tokens).bool())[0, -1]


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_states_are_those_of_whole_rows_for_every_architecture(name: str) -> None:
    body, batch = find_body(build(name)), rollouts()
    real = batch.completion_mask
    torch.testing.assert_close(read_states(body, batch)[real], body.read(batch)[real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom", "mamba", "falcon_h1"])
@pytest.mark.parametrize("rows", [64, 4])
@torch.no_grad()
def test_states_of_sampling_are_those_of_reading_the_samples(name: str, rows: int) -> None:
    model = language_model(build(name), rows=rows)
    model.end_ids = torch.arange(6, 30)  # a quarter of all tokens, so that completions end at different places
    prompts = Prompts(rollouts().tokens[:3, :WIDTH], rollouts().mask[:3, :WIDTH], torch.arange(3))
    sampled = model.sample(prompts, torch.rand(12, 6, generator=torch.Generator().manual_seed(1)))
    real = sampled.rollouts.completion_mask
    assert len(set(real.sum(1).tolist())) > 2
    torch.testing.assert_close(sampled.states[real], model.body.read(sampled.rollouts)[real], atol=5e-5, rtol=1e-4)


def test_samples_are_measured_by_the_states_that_drew_them_and_a_base_never_differs_from_itself() -> None:
    policy, base = language_model(build("llama")), language_model(build("llama", spread=2.0))
    prompts = Prompts(rollouts().tokens[:3, :WIDTH], rollouts().mask[:3, :WIDTH], torch.arange(3))
    sampled = policy.sample(prompts, torch.rand(6, 6, generator=torch.Generator().manual_seed(1)))
    read = score_rollouts(sampled.rollouts, policy, base)
    for mine, plain in zip(score_rollouts(sampled.rollouts, policy, base, sampled.states), read, strict=True):
        assert mine == pytest.approx(plain, abs=5e-5)
    other = score_rollouts(sampled.rollouts, policy, base, sampled.states + 1)  # they are what is used
    assert other[0] != pytest.approx(read[0], abs=1e-2)
    logp, base_logp, kl, _ = score_rollouts(sampled.rollouts, base, base, sampled.states)
    assert (logp, set(kl)) == (base_logp, {0.0})


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "qwen3_moe"])
@torch.no_grad()
def test_ends_are_those_of_each_row_alone_and_of_the_prompt_where_the_answer_is_empty(name: str) -> None:
    body, batch = find_body(build(name)), rollouts()
    ends = read_ends(body, batch)
    assert ends is not None
    alone = torch.stack([last_state(body, batch, row) for row in range(len(batch))])
    torch.testing.assert_close(ends, alone, atol=2e-5, rtol=1e-4)


def test_each_prompt_is_read_once_and_whole_rows_where_none_repeats() -> None:
    body, batch = find_body(build("llama")), rollouts()
    assert tokens_read(body, batch) == [(3, 7), (7, 4)]  # three prompts of at most 7, then answers of 5 but their last column
    assert tokens_read(body, batch[torch.tensor([0, 1, 4])]) == [(3, 7 + 4 - 1)]  # a prompt of 7 and an answer of 4, as before


@torch.no_grad()
def test_log_probabilities_kl_and_entropy_are_those_of_whole_rows() -> None:
    policy, base = language_model(build("llama")), language_model(build("llama", spread=2.0))
    batch, mask = rollouts(), rollouts().completion_mask
    compared = compare(policy, base, batch)
    ours, theirs = policy(batch), base(batch)  # the plain path: no row shares its prompt
    for mine, plain in [
        (compared.logp, ours.logp), (compared.base_logp, theirs.logp), (compared.entropy, ours.entropy * mask),
        (compared.kl, exact_kl(ours.logits, theirs.logits) * mask),
    ]:  # fmt: skip
        torch.testing.assert_close(mine, plain, atol=2e-5, rtol=1e-4)
    assert compared.kl.sum() > 1


@torch.no_grad()
def test_a_batch_of_empty_completions_has_no_divergence() -> None:
    policy, batch = language_model(build("llama")), rollouts()
    empty = Rollouts(batch.tokens, batch.mask & (torch.arange(batch.mask.shape[1]) < WIDTH), WIDTH)
    assert all(not column.any() for column in vars(compare(policy, policy, empty)).values())


@torch.no_grad()
def test_rewards_of_answers_that_share_a_prompt_are_those_of_each_row_alone() -> None:
    model = scalar_head_class(build("llama").config)(build("llama").config).eval()
    batch = rollouts()
    alone = torch.cat([head_rewards(model, batch[row : row + 1], 5, "float32") for row in range(len(batch))])
    torch.testing.assert_close(head_rewards(model, batch, 5, "float32"), alone, atol=1e-6, rtol=1e-4)
    assert alone.std() > 1e-4


def gradients(body: Body, states: Tensor) -> dict[str, Tensor]:
    """Those of a fixed sum of states, by the name of a weight."""
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    named = {name: weight for name, weight in body.module.named_parameters() if weight.requires_grad}
    found = torch.autograd.grad((states * weights).sum(), list(named.values()), allow_unused=True)
    return {name: each for name, each in zip(named, found, strict=True) if each is not None}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_whole_rows_wherever_a_prompt_is_read_once(name: str) -> None:
    model = build(name).requires_grad_(True)
    body, batch = find_body(model), rollouts()
    real = batch.completion_mask.unsqueeze(-1)
    if not differentiates(body, model.get_input_embeddings()):
        return
    plain = gradients(body, body.read(batch) * real)
    shared = gradients(body, read_states(body, batch) * real)
    assert len(plain) > 10
    assert shared.keys() == plain.keys()
    for weight, gradient in plain.items():
        torch.testing.assert_close(shared[weight], gradient, atol=2e-4 * float(gradient.abs().max() + 1e-3), rtol=1e-3)


@pytest.mark.filterwarnings("error")
def test_every_cache_of_keys_and_values_has_gradients() -> None:
    models = {name: build(name).requires_grad_(True) for name in CONFIGS}
    found = {name for name, model in models.items() if differentiates(find_body(model), model.get_input_embeddings())}
    assert set(CONFIGS) - found == {
        "cohere2", "exaone4", "gemma2", "gemma3_text", "gpt_oss", "llama4_text", "mistral", "olmo3",  # windows
        "bamba", "falcon_h1", "jamba", "lfm2", "mamba", "mamba2", "minimax", "qwen3_next", "recurrent_gemma", "rwkv",
    }  # fmt: skip


def test_a_cache_that_is_detached_or_written_by_recomputed_layers_has_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    assert differentiates(find_body(model), model.get_input_embeddings())
    recomputed = build("llama")
    checkpoint_layers(recomputed)
    assert not differentiates(find_body(recomputed), recomputed.get_input_embeddings())
    update = DynamicLayer.update

    def detach(layer: Any, keys: Tensor, values: Tensor, *more: Any, **named: Any) -> Any:
        return update(layer, keys.detach() if keys.shape[2] > 3 else keys, values, *more, **named)

    monkeypatch.setattr(DynamicLayer, "update", detach)  # the keys of the prompt alone
    assert not differentiates(find_body(model), model.get_input_embeddings())


def test_a_pass_with_gradients_reads_prompts_once_and_has_the_outputs_of_whole_rows() -> None:
    model, batch = language_model(build("llama").requires_grad_(True)), rollouts()
    shared = model(batch)
    model.shares_prompts = False
    plain = model(batch)
    for name in ("logp", "entropy"):
        torch.testing.assert_close(getattr(shared, name), getattr(plain, name), atol=2e-5, rtol=1e-4)
    assert shared.logp.requires_grad


def test_parts_that_are_read_together_have_the_outputs_of_each_alone() -> None:
    model, batch = language_model(build("llama")), rollouts()
    wider = Rollouts(batch.tokens.repeat(2, 1), batch.mask.repeat(2, 1), WIDTH)
    for mine, part in zip(model.read_together([wider, batch[:3]]), (wider, batch[:3]), strict=True):
        torch.testing.assert_close(mine.logp, model(part).logp, atol=2e-5, rtol=1e-4)
        assert mine.hidden.shape == model(part).hidden.shape


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 8},
        {"rope_type": "dynamic", "factor": 4.0},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_keys_that_are_turned_by_the_length_of_a_pass_are_those_of_whole_rows(rope: dict[str, Any]) -> None:
    kind, rope = ("phi3" if "short_factor" in rope else "llama"), {"rope_theta": 1e4} | rope
    config = AutoConfig.for_model(kind, **SIZES | {"rope_parameters": rope, "max_position_embeddings": 8})
    config.original_max_position_embeddings = 8
    model = AutoModelForCausalLM.from_config(config).eval()
    body, batch = find_body(model), rollouts()  # prompts of at most 7 tokens, texts of more than 8
    assert not differentiates(body, model.get_input_embeddings())
    real = batch.completion_mask
    torch.testing.assert_close(read_states(body, batch)[real], body.read(batch)[real])
    assert read_ends(body, batch) is None


def test_the_trial_of_a_cache_reads_no_token_that_a_model_may_lack_and_none_that_is_zero() -> None:
    deep = build("llama", num_hidden_layers=24, pad_token_id=0)
    deep.get_input_embeddings().weight.data[:4] = 0
    assert differentiates(find_body(deep), deep.get_input_embeddings())
    settings = {**SIZES, "vocab_size": 3, "ffn_dim": 48, "word_embed_proj_dim": 32}
    few, short = (
        AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **settings | {"max_position_embeddings": longest}))
        for longest in (64, 5)
    )
    assert differentiates(find_body(few.eval()), few.get_input_embeddings())
    assert not differentiates(find_body(short.eval()), short.get_input_embeddings())


def test_rewards_of_rows_that_fit_without_their_padding_are_read_whole() -> None:
    config = AutoConfig.for_model("gpt2", **SIZES | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 12})
    model = scalar_head_class(config)(config).eval()
    tokens, mask = torch.full((2, 18), 7), torch.zeros(2, 18, dtype=torch.bool)
    mask[0, :11], mask[1, 8:18] = True, True  # prompts of 9 and 1 tokens, answers of 2 and 9
    rows = Rollouts(tokens, mask, 9)
    assert head_rewards(model, rows, 5, "float32", share=True).shape == (2,)


@torch.no_grad()
def test_a_row_without_a_prompt_and_windows_of_attention_are_read_whole() -> None:
    batch = rollouts()
    mask = batch.mask.clone()
    mask[4, :WIDTH] = False
    assert read_ends(find_body(build("llama")), replace(batch, mask=mask)) is None
    assert read_ends(find_body(build("mistral")), batch) is None  # keeps the last 6 tokens
    assert read_ends(find_body(build("mamba")), batch) is None


@torch.no_grad()
def test_prompts_that_differ_only_in_padding_are_not_taken_for_one_another() -> None:
    batch = rollouts()
    tokens, mask = batch.tokens.repeat(2, 1), batch.mask.repeat(2, 1)
    mask[7:, 2] = True  # the same token, which is now real: another prompt
    mask[7:, 3:WIDTH] = True
    whole = Rollouts(tokens, mask, WIDTH)
    body = find_body(build("llama"))
    real = whole.completion_mask
    torch.testing.assert_close(read_states(body, whole)[real], body.read(whole)[real], atol=2e-5, rtol=1e-4)
