"""Passes of models of any architecture: what isoalign computes is what the model's own forward says, in whatever parts."""

import copy
import gc
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

from architectures import CONFIGS, build
from isoalign.core import memory
from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.models import language, passes
from isoalign.models.cache_room import make_room
from isoalign.models.checkpointing import checkpoint_layers
from isoalign.models.critic import Critic
from isoalign.models.kl import compare
from isoalign.models.language import LanguageModel
from isoalign.models.precision import SHORT, cast_frozen_weights, in_precision
from isoalign.models.probe import probe
from isoalign.runs.training import Training
from workbench import Bench

REFUSED = {"recurrent_gemma", "rwkv", "minimax"}
ALL = [name for name in CONFIGS if name not in REFUSED]


@dataclass
class Tokens:
    """As much of a tokenizer as a pass needs. The padding token has an embedding that is not 0."""

    all_special_ids: tuple[int, ...] = (0, 1, 2)
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 5
    chat_template: None = None
    added_tokens_decoder: dict[int, Any] = field(default_factory=dict)

    def get_vocab(self) -> dict[str, int]:
        return {str(token): token for token in range(97)}


def language_model(model: Any, **more: Any) -> LanguageModel:
    return LanguageModel(model, Tokens(), ends=True, **more)


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(6, 97, (length,), generator=generator) for length in (11, 7, 9)]


def padded(rows: list[Tensor], answers: tuple[int, ...] = (4, 2, 3)) -> Rollouts:
    """The rows as prompts and answers of these lengths, with padding left and right, and columns that no row uses."""
    before, after = 12, 6
    tokens = torch.full((len(rows), before + after), 5)
    mask = torch.zeros(len(rows), before + after, dtype=torch.bool)
    for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        columns = slice(before - len(row) + answer, before + answer)
        tokens[place, columns], mask[place, columns] = row, True
    return Rollouts(tokens, mask, before)


def own_logp(model: LanguageModel, row: Tensor, answer: int) -> Tensor:
    """Log-probabilities of the next token at the answer's places by the model's own forward on the row alone [T, V]."""
    logits = model.inner(input_ids=row.unsqueeze(0)).logits[0].float()
    logits[:, model.banned] = -torch.inf
    return logits.log_softmax(-1)[-answer - 1 : -1]


def assert_exact(model: LanguageModel) -> None:
    batch, answers = rows(), (4, 2, 3)
    outputs = model(padded(batch))
    for place, (row, answer) in enumerate(zip(batch, answers, strict=True)):
        own = own_logp(model, row, answer)
        mine = outputs.logits[place, :answer].log_softmax(-1)
        real = own.isfinite()
        assert (mine - own)[real].abs().max() < 2e-4
        expected = own.gather(-1, row[-answer:].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(outputs.logp[place, :answer], expected, atol=2e-4, rtol=0)
        assert (outputs.logp[place, answer:] == 0).all()
        entropy = -(own.exp() * own).nan_to_num(0.0).sum(-1)
        torch.testing.assert_close(outputs.entropy[place, :answer], entropy, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_padded_batches_have_the_logits_of_the_models_own_forward_on_each_row_alone(name: str) -> None:
    model = language_model(build(name))
    assert_exact(model)
    assert model(padded(rows())).hidden.shape[-1] == model.width


@pytest.mark.parametrize("limit", [2**26, 200])  # logits of few positions at a time are made once the states are there
@pytest.mark.parametrize("name", ["llama", "cohere", "qwen3_moe", "opt:projected", "modernbert-decoder"])
@torch.no_grad()
def test_an_adapter_counts_as_long_as_it_is_on(monkeypatch: pytest.MonkeyPatch, name: str, limit: int) -> None:
    monkeypatch.setattr(passes, "LOGITS", limit)
    torch.manual_seed(0)
    model = build(name)
    plain = language_model(model)(padded(rows()))
    before, spread = plain.logp, plain.entropy
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    policy = language_model(adapted.eval())
    assert_exact(policy)
    assert (policy(padded(rows())).logp - before).abs().max() > 0.1
    with policy.adapter_off():
        reference = policy(padded(rows()))
    torch.testing.assert_close(reference.logp, before, atol=1e-5, rtol=0)
    torch.testing.assert_close(reference.entropy, spread, atol=1e-5, rtol=0)
    compared = compare(policy, policy, padded(rows()))
    torch.testing.assert_close(compared.base_logp, before, atol=1e-5, rtol=0)
    assert (compared.kl.sum(1) > 0.01).all()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in ALL),
        ("llama", {"sliding_window": 6}),  # Llama ignores windows, whatever its configuration says
        ("llama", {"attention_chunk_size": 6}),
        ("llama", {"sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"]}),
    ],
)
@torch.no_grad()
def test_a_sampled_answer_is_the_one_that_decoding_each_row_alone_without_a_cache_gives(
    name: str, more: dict[str, Any]
) -> None:
    model = language_model(build(name, **more))
    uniforms = torch.rand(6, 5, generator=torch.Generator().manual_seed(1))
    batch = padded(rows()[:3])
    prompts = Prompts(batch.tokens[:, :12], batch.mask[:, :12], torch.arange(3))
    drawn = model.generate(prompts, uniforms)
    for place in range(6):
        ids = prompts.tokens[place // 2][prompts.mask[place // 2]].tolist()
        for step, token in enumerate(drawn.completion[place][drawn.completion_mask[place]].tolist()):
            logits = model.inner(input_ids=torch.tensor([ids])).logits[0, -1].double()
            logits[model.banned] = -torch.inf
            cumulative = logits.softmax(-1).cumsum(-1)
            below = cumulative[token - 1] if token else 0.0
            assert below - 1e-4 <= uniforms[place, step] <= cumulative[token] + 1e-4
            ids.append(token)
    one_by_one = language_model(model.model, rows=2).generate(prompts, uniforms)
    assert torch.equal(one_by_one.tokens, drawn.tokens)
    assert torch.equal(one_by_one.mask, drawn.mask)


@pytest.mark.parametrize("name", ALL)
def test_the_probe_passes_what_is_exact(name: str) -> None:
    differences = probe(language_model(build(name)), name)
    assert len(differences) == 5
    assert max(differences.values()) < 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "xglm", "ctrl", "bert"])
def test_the_probe_passes_untrained_models_whose_logits_are_nearly_flat(name: str) -> None:
    assert max(probe(language_model(build(name, spread=0.02)), name).values()) < 2e-6


@pytest.mark.parametrize("spread", [3.0, 0.02])
def test_the_probe_refuses_an_encoder_however_flat_its_logits_are(spread: float) -> None:
    with pytest.raises(UserError, match=r"a padded batch by .* decoding with a cache by"):
        probe(language_model(build("bert", spread, is_decoder=False)), "encoder")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("recurrent_gemma", "a padded batch by"), ("rwkv", "takes no cache"), ("minimax", "can't be run: ValueError")],
)
def test_the_probe_refuses_in_one_line_what_is_not(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        probe(language_model(build(name)), "the/name")
    assert "\n" not in str(error.value)
    assert "the/name" in str(error.value)


def plant(model: Any, kind: str) -> None:
    """Plant a fault in a model."""
    if kind == "bidirectional":
        for layer in model.model.layers:
            layer.self_attn.register_forward_pre_hook(
                lambda _, args, named: (args, named | {"attention_mask": torch.zeros(1)}), with_kwargs=True
            )
    elif kind == "nan":
        model.lm_head.weight[7] = torch.nan
    elif kind == "batch":
        model.model.norm.register_forward_hook(lambda _, __, states: states + states.mean(0))


@pytest.mark.parametrize("spread", [3.0, 0.02])
@pytest.mark.parametrize("kind", ["bidirectional", "nan", "batch"])
def test_the_probe_refuses_planted_faults(kind: str, spread: float) -> None:
    model = build("llama", spread, attn_implementation="eager")
    plant(model, kind)
    with pytest.raises(UserError, match="not finite" if kind == "nan" else "differ"):
        probe(language_model(model), "faulty")


def test_log_probabilities_entropy_kl_and_gradients_do_not_depend_on_how_positions_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, base = language_model(build("gemma2").requires_grad_(True)), language_model(build("gemma2", spread=2.0))

    def everything() -> list[Tensor]:
        policy.inner.zero_grad()
        outputs = policy(padded(rows()))
        (outputs.logp.sum() + outputs.entropy[0].sum()).backward()
        compared = compare(policy, base, padded(rows()))
        gradients = [p.grad.clone() for p in policy.inner.parameters() if p.grad is not None]
        return [outputs.logp, outputs.entropy, compared.logp, compared.base_logp, compared.kl, compared.entropy, *gradients]

    whole = everything()
    monkeypatch.setattr(passes, "LOGITS", 2 * 3 * 97)  # two positions of three rows
    for one, other in zip(whole, everything(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probabilities_of_tokens_have_the_gradients_of_autograd(dtype: torch.dtype) -> None:
    logits = (4 * torch.randn(7, 5, 997, dtype=dtype)).index_fill(-1, torch.tensor([3]), language.NEVER).requires_grad_()
    tokens, weights = torch.randint(4, 997, (7, 5)), torch.randn(7, 5, dtype=dtype)
    plain = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    logp = passes.token_logp(logits, tokens)
    torch.testing.assert_close(logp, plain, atol=0, rtol=0)
    found, expected = (torch.autograd.grad(each, logits, weights)[0] for each in (logp, plain))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    few = logits.detach().double()[:2, :2, 4:9].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda each: passes.token_logp(each, tokens[:2, :2] % 5), few)
    transformed = torch.func.grad(lambda each: (passes.token_logp(each, tokens) * weights).sum())(logits)
    torch.testing.assert_close(transformed, expected, atol=0, rtol=0)


def test_no_pass_holds_more_logits_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "LOGITS", 2 * 3 * 97)
    model = language_model(build("granite").requires_grad_(True))
    sizes: list[int] = []
    model.head.register_forward_hook(lambda _, __, logits: sizes.append(logits.numel()))
    outputs = model(padded(rows()))
    outputs.logp.sum().backward()
    with torch.no_grad():
        model(padded(rows()))
    assert len(sizes) > 6
    assert max(sizes) <= 2 * 3 * 97


@torch.no_grad()
def test_rows_are_read_in_parts_and_fewer_when_memory_runs_out() -> None:
    model = language_model(build("llama"))
    batch = padded(rows() * 3, (4, 2, 3) * 3)
    whole, sizes = model(batch).logp, []

    def short_of_memory(_: Any, arguments: Any, named: Any) -> None:
        if len(named["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no memory left")
        sizes.append(len(named["input_ids"]))

    small = language_model(model.model, rows=8)
    small.shares_prompts = False
    small.body.module.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    torch.testing.assert_close(small(batch).logp, whole, atol=1e-5, rtol=0)
    assert set(sizes) <= {1, 2}
    assert sum(sizes) == 18  # for its states and for its logits

    small.body.module.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none at all")))
    with pytest.raises(UserError, match="too little memory for one row"):
        small(batch)


def test_by_rows_keeps_the_order_and_halves_only_what_is_left() -> None:
    batch = padded(rows() * 4, (4, 2, 3) * 4)
    seen: list[int] = []

    def work(part: Rollouts) -> Tensor:
        if len(part) > 3:
            raise torch.OutOfMemoryError
        seen.append(len(part))
        return part.tokens

    assert torch.equal(torch.cat(memory.by_rows(work, batch, 8)), batch.tokens)
    assert seen == [2] * 6


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "qwen3_moe", "mamba2", "lfm2"])
def test_checkpointed_layers_keep_little_and_change_nothing(name: str) -> None:
    model = build(name).requires_grad_(True)
    other = copy.deepcopy(model)
    checkpoint_layers(other)
    kept, gradients = [], []
    for each in (model, copy.deepcopy(other)):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, to=saved: to.append(tensor.numel()) or tensor, lambda t: t
        ):  # type: ignore[misc]
            loss = language_model(each)(padded(rows())).logp.sum()
        loss.backward()
        kept.append(sum(saved))
        gradients.append([p.grad for p in each.parameters() if p.grad is not None])
    assert kept[1] < 0.5 * kept[0]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        uniforms = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
        prompts = Prompts(padded(rows()).tokens[:, :12], padded(rows()).mask[:, :12], torch.arange(3))
        drawn = [language_model(each).generate(prompts, uniforms).tokens for each in (model, other)]
    assert torch.equal(*drawn)


def test_an_architecture_without_layers_to_checkpoint_is_refused() -> None:
    with pytest.raises(UserError, match="CTRLLMHeadModel has no layers that can be checkpointed"):
        checkpoint_layers(build("ctrl"))


@pytest.mark.parametrize("name", ["opt:projected", "cohere", "mamba2"])
def test_a_critic_is_a_copy_of_the_body_with_a_head_of_the_width_of_its_states(name: str) -> None:
    policy = language_model(build(name).requires_grad_(True))
    critic = Critic(policy)
    torch.nn.init.normal_(critic.head.weight)
    values = critic(padded(rows()))
    expected = policy(padded(rows())).hidden @ critic.head.weight[0]
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)
    assert not {id(p) for p in critic.parameters()} & {id(p) for p in policy.inner.parameters()}
    assert sum(p.numel() for p in critic.parameters()) < sum(p.numel() for p in policy.inner.parameters())


def test_frozen_weights_that_were_cast_once_give_what_autocast_gives(tiny_bench: Bench) -> None:
    base = tiny_bench.language_model()
    adapted = peft.get_peft_model(base.inner, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    policy = language_model(adapted, precision="bfloat16")
    before = policy(padded(rows())).logp
    cast_frozen_weights(adapted)
    assert torch.equal(policy(padded(rows())).logp, before)
    frozen = [p for part in base.inner.modules() if isinstance(part, torch.nn.Linear) for p in part.parameters(recurse=False)]
    assert {p.dtype for p in frozen if not p.requires_grad} == {torch.bfloat16}
    assert base.inner.get_input_embeddings().weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_small_update_by_an_adapter_is_evaluated_as_it_was_trained(dtype: str, tiny_bench: Bench, tmp_path: Path) -> None:
    """Merged into weights in bf16, most of it would be rounded away."""
    base = tiny_bench.language_model()
    base.inner.to(getattr(torch, dtype))
    adapted = peft.get_peft_model(copy.deepcopy(base.inner), peft.LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-4)
    trained, before = (language_model(model)(padded(rows())).logp for model in (adapted, base.inner))
    adapted.save_pretrained(str(tmp_path))
    shared = SimpleNamespace(
        evaluated_base=lambda: base, base_model=lambda: SimpleNamespace(inner=copy.deepcopy(base.inner)),
        get=lambda _: tmp_path, language_model=lambda model, tokenizer, precision: language_model(model),
    )  # fmt: skip
    run: Any = SimpleNamespace(shared=shared, trains=True, selects=False, train=None, _lora_rank=4, merges=dtype == "float32")
    policy, _ = Training.load_policy(run, "")
    torch.testing.assert_close(policy(padded(rows())).logp, trained, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(trained, before, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [12, 300])
@pytest.mark.parametrize("grouped", [False, True])
def test_attention_under_autocast_stays_in_fp32_over_short_texts_on_a_processor(length: int, grouped: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 1 if grouped and n else 2, length, 16, requires_grad=True) for n in range(3))
    hidden = torch.ones(2, 1, length, length, dtype=torch.bool).tril()
    attend = torch.nn.functional.scaled_dot_product_attention
    true = attend(query, key, value, hidden, scale=0.3, enable_gqa=grouped)
    with in_precision("bfloat16", torch.device("cpu")):
        found = attend(query, key, value, hidden, scale=0.3, enable_gqa=grouped)
        again = attend(query, key, value, torch.zeros(hidden.shape).masked_fill(~hidden, -1e9), scale=0.3, enable_gqa=grouped)
    if length <= SHORT:
        assert torch.equal(found, true)
        torch.testing.assert_close(again, true)
    else:
        assert found.dtype == again.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), true, atol=0.03, rtol=0)
    found.float().sum().backward()
    assert query.grad is not None
    assert attend(query, key, value).dtype == torch.float32


def test_logits_that_were_not_kept_are_refused_once_the_head_has_changed(
    tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rollouts = tiny_bench.language_model(), tiny_bench.source.feedback("annotator").pairs(torch.arange(4), 1).chosen
    kept, before = model(rollouts), model(rollouts).entropy
    monkeypatch.setattr(passes, "LOGITS", 1000)
    late = model(rollouts)
    torch.testing.assert_close(late.entropy, before)
    later = model(rollouts)
    with torch.no_grad():
        model.head.weight.mul_(1.5)  # as an optimizer does
    torch.testing.assert_close(kept.entropy, before)
    with pytest.raises(UserError, match="read after an optimizer step"):
        _ = later.entropy


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_answers_are_the_same_whether_or_not_finished_rows_leave(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model(build(name))
    model.end_ids = torch.arange(6, 97, 3)  # a third of the tokens ends an answer, so that rows leave at most steps
    uniforms = torch.rand(12, 6, generator=torch.Generator().manual_seed(2))
    batch = padded(rows())
    prompts = Prompts(batch.tokens[:, :12], batch.mask[:, :12], torch.arange(3))
    drawn = {}
    for share in (0.0, 0.99):
        monkeypatch.setattr(language, "CROWDED", share)
        drawn[share] = model.generate(prompts, uniforms)
    assert torch.equal(drawn[0.0].tokens, drawn[0.99].tokens)
    assert torch.equal(drawn[0.0].mask, drawn[0.99].mask)
    lengths = drawn[0.0].completion_mask.sum(1)
    assert lengths.min() < lengths.max()
    assert (drawn[0.0].completion[~drawn[0.0].completion_mask] == 5).all()  # the padding token


@pytest.mark.parametrize("window", [0, 3, 9])
@torch.no_grad()
def test_a_layer_with_room_holds_and_returns_what_transformers_own_does(window: int) -> None:
    generator, kinds = torch.Generator().manual_seed(0), transformers.cache_utils

    def layer() -> Any:
        return kinds.DynamicSlidingWindowLayer(sliding_window=window) if window else kinds.DynamicLayer()

    own, roomy = layer(), layer()
    make_room(SimpleNamespace(layers=[roomy]), 4)
    changes = {0: torch.tensor([0, 0, 1, 1, 1]), 3: torch.tensor([4, 0, 2]), 6: torch.tensor([1])}
    size = 2
    for step, count in enumerate((7, 1, 1, 1, 1, 2, 1, 5, 1)):  # more than there is room for
        new = [torch.randn(size, 3, count, width, generator=generator) for width in (4, 6)]
        kept = [tensor.clone() for tensor in new]
        for mine, other in zip(roomy.update(*new), own.update(*kept), strict=True):
            torch.testing.assert_close(mine, other, atol=0, rtol=0)
        if step in changes:
            size = len(changes[step])
            for each in (own, roomy):
                each.reorder_cache(changes[step])
        assert torch.equal(own.keys, roomy.keys)
        assert torch.equal(own.values, roomy.values)
        assert own.get_seq_length() == roomy.get_seq_length()
        assert own.get_mask_sizes(1) == roomy.get_mask_sizes(1)


def test_a_layer_with_room_is_gone_with_its_last_name_before_python_looks_for_circles() -> None:
    layer = transformers.cache_utils.DynamicLayer()
    make_room(SimpleNamespace(layers=[layer]), 4)
    layer.update(torch.ones(2, 3, 7, 4), torch.ones(2, 3, 7, 4))
    kept = weakref.ref(layer)
    gc.disable()
    try:
        del layer
        assert kept() is None
    finally:
        gc.enable()


def test_small_models_are_sampled_in_more_rows_at_a_time_and_large_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = language_model(build("llama"), rows=2), []
    own = model._decode

    def counted(prompts: Any, uniforms: Any, *more: Any) -> Any:
        sizes.append(len(uniforms))
        return own(prompts, uniforms, *more)

    monkeypatch.setattr(model, "_decode", counted)
    batch = padded(rows())
    prompts = Prompts(batch.tokens[:, :12], batch.mask[:, :12], torch.arange(3))
    uniforms = torch.rand(24, 3, generator=torch.Generator().manual_seed(2))
    expected = model.generate(prompts, uniforms)
    assert sizes == [8, 8, 8]
    monkeypatch.setattr(language, "CACHED", 1)
    sizes.clear()
    assert torch.equal(model.generate(prompts, uniforms).tokens, expected.tokens)
    assert set(sizes) == {2}
