"""The bill of public architectures against PyTorch's counter, and what has no bill.

Models are tiny, rows long: attention takes about half of the work. It is eager here, as fused attention computes the scores
again in its backward pass, which the bill leaves out (one test is about that). What remains is .2% of padding before
convolutions, and in Jamba LoRA weights that PEFT adds and Jamba never uses (1.5%).
"""

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.integrations import moe

from architectures import CONFIGS, build
from isoalign.core.errors import UserError
from isoalign.models.flop_counter import Counter
from isoalign.models.flops import Shape, bill_error, shape_of

LENGTH = 60
RANK = 4
SIZES = {
    "qwen3": {"head_dim": 12, "num_hidden_layers": 3},
    "llama": {"num_key_value_heads": 1, "intermediate_size": 200},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 3},
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 3, "head_dim": 24},
    "gpt_oss": {"num_local_experts": 6, "num_experts_per_tok": 1},
    "deepseek_v2": {"num_hidden_layers": 3, "v_head_dim": 10},
}
NAMED = [  # each stands for a kind of layer
    "llama", "qwen3", "gemma2", "gpt2", "opt:projected", "bloom", "falcon", "mixtral", "qwen2_moe", "gpt_oss", "deepseek_v2",
    "lfm2", "mamba", "recurrent_gemma",
]  # fmt: skip
REFUSED = {
    "mamba2": "backbone.layers.0.mixer.A_log (Mamba2Mixer, 4)", "falcon_h1": "model.layers.0.mamba.A_log",
    "bamba": "model.layers.0.mamba.A_log", "qwen3_next": "model.layers.0.linear_attn.A_log",
    "minimax": "layers of linear attention",
}  # fmt: skip
EXPERTS_ADAPTED = {"mixtral", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"}  # by PEFT's all-linear
NO_LORA = {"mamba", "phimoe", "llama4_text"}  # PEFT refuses the first and fails in the others' passes
NO_BACKWARD = {"rwkv"}  # transformers' own fails
REST = [name for name in CONFIGS if name not in {*NAMED, *REFUSED}]


def tiny(name: str, lora: int = 0, **more: Any) -> Any:
    model = build(name, **{"attn_implementation": "eager", **SIZES.get(name, {}), **more})
    if lora:
        config = peft.LoraConfig(r=lora, target_modules="all-linear", task_type="CAUSAL_LM")
        return peft.get_peft_model(model, config).get_base_model()
    return model.requires_grad_(True)


def count(work: Callable[[], Any]) -> tuple[int, Any]:
    with Counter() as counter:
        result = work()
    return counter.flops, result


def count_pass(model: Any, length: int = LENGTH, backward: bool = True) -> tuple[int, int]:
    """FLOPs of a forward and a backward pass of one row."""
    forward, output = count(lambda: model(input_ids=torch.arange(3, 3 + length).unsqueeze(0)).logits.sum())
    return forward, count(output.backward)[0] if backward else 0


def shape(model: Any) -> Shape:
    return shape_of(model, model.get_output_embeddings())


def assert_bill_is_right(name: str, lora: int) -> None:
    model = tiny(name, lora)
    forward, backward = count_pass(model, backward=name not in NO_BACKWARD)
    bill, tolerance = shape(model), 0.016 if name == "jamba" and lora else 0.002
    assert bill.forward([LENGTH], [LENGTH]) == pytest.approx(forward, rel=tolerance)
    assert name in NO_BACKWARD or bill.backward([LENGTH], [LENGTH]) == pytest.approx(backward, rel=tolerance)
    assert (bill.adapter > 0) == (lora > 0)


@pytest.mark.parametrize("lora", [0, RANK])
@pytest.mark.parametrize("name", NAMED)
def test_the_bill_of_a_pass_is_what_is_counted(name: str, lora: int) -> None:
    if not (lora and name in NO_LORA | EXPERTS_ADAPTED):
        assert_bill_is_right(name, lora)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, RANK])
@pytest.mark.parametrize("name", REST)
def test_the_bill_of_a_pass_is_what_is_counted_for_all_other_architectures(name: str, lora: int) -> None:
    if not (lora and name in NO_LORA | EXPERTS_ADAPTED):
        assert_bill_is_right(name, lora)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "qwen3_moe"])
def test_the_bill_of_decoding_is_what_is_counted_step_by_step(name: str) -> None:
    model = tiny(name)
    with torch.no_grad():
        cache = model(input_ids=torch.arange(3, 23).unsqueeze(0), use_cache=True).past_key_values
        steps = [torch.tensor([[token]]) for token in range(30, 37)]
        counted = sum(count(lambda step=step: model(input_ids=step, past_key_values=cache))[0] for step in steps)
    assert shape(model).decode([20], [8]) == pytest.approx(counted, rel=0.001)


def test_fused_attention_computes_its_scores_once_more_than_the_bill_has() -> None:
    model = tiny("llama", attn_implementation="sdpa")
    forward, backward = count_pass(model)
    bill = shape(model)
    assert bill.forward([LENGTH], [LENGTH]) == forward
    assert backward - bill.backward([LENGTH], [LENGTH]) == 2 * bill.attention * LENGTH**2


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_experts_cost_their_share_of_weights_for_each_token() -> None:
    # width 32: queries and output 32 x 32, keys and values 32 x 16; 3 of 5 experts of 3 x 32 x 48; a router of 5 x 32
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * (3 * 32 * 48) + 5 * 32
    assert shape(tiny("mixtral")) == Shape(2 * layer, attention=2 * 32, head=97 * 32)


def test_attention_with_heads_of_two_sizes_costs_their_mean() -> None:
    # 3 layers of 4 heads; queries and keys of 4 + 4, values of 10
    assert shape(tiny("deepseek_v2")).attention == 3 * 4 * (8 + 10) // 2


def test_layers_without_attention_cost_none() -> None:
    assert shape(tiny("mamba")).attention == 0
    assert shape(tiny("lfm2")).attention == 32  # one of two layers
    assert shape(tiny("recurrent_gemma")).attention == 4 * 8  # one of three


def test_a_selective_scan_costs_a_product_with_its_state() -> None:
    # inner width 48 (intermediate_size), rank of the step 2, state 8, kernel 4
    layer = 32 * 2 * 48 + 48 * 4 + 48 * (2 + 2 * 8) + 2 * 48 + 48 * 8 + 48 * 32
    assert shape(tiny("mamba")).body == 2 * layer


def test_embeddings_biases_and_norms_are_free() -> None:
    plain, biased = tiny("llama", intermediate_size=48, num_key_value_heads=2), tiny("llama:biased")
    assert shape(plain) == shape(biased)


def test_lora_on_experts_costs_two_thin_products_for_each_token_and_expert() -> None:
    """PEFT multiplies out the update of all experts in every pass instead, and that of the router."""
    plain, model = shape(tiny("mixtral")), tiny("mixtral", RANK)
    bill = shape(model)
    attention = RANK * (2 * (32 + 32) + 2 * (32 + 16))
    # PEFT gives the fused gate and up projection twice the rank
    ranks = {
        name: each.shape[0] // 5
        for name, each in model.named_parameters()
        if "layers.0.mlp.experts" in name and "lora_A" in name
    }
    wide, narrow = max(ranks.values()), min(ranks.values())
    experts, router = wide * (32 + 96) + narrow * (48 + 32), RANK * (32 + 5)
    assert (bill.body, bill.adapter) == (plain.body, 2 * (attention + 3 * experts + router))
    executed = count_pass(model)[0] - count_pass(model, 20)[0]  # the updates cancel
    billed = bill.forward([LENGTH], [LENGTH]) - bill.forward([20], [20])
    assert billed - executed == 2 * 2 * (3 * experts + router) * (LENGTH - 20)


def test_a_convolution_by_groups_costs_one_forward_pass_for_each_gradient() -> None:
    layer, rows = nn.Conv1d(6, 6, 3, groups=6), torch.randn(1, 6, 12, requires_grad=True)
    forward, out = count(lambda: layer(rows).sum())
    backward, _ = count(out.backward)
    assert (forward, backward) == (2 * 10 * 6 * 3, 2 * forward)


def test_experts_are_counted_alike_where_a_gpu_has_no_grouped_product(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("mixtral")
    expected = count_pass(model)
    monkeypatch.setattr(moe, "_can_use_grouped_mm", lambda *_: False)
    assert count_pass(model) == expected


def test_a_scalar_head_is_part_of_the_body() -> None:
    model = tiny("mixtral")
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    scalar = AutoModelForSequenceClassification.from_config(config)
    assert shape_of(scalar, None) == Shape(shape(model).body + 32, shape(model).attention, head=0)


# -- what has no bill --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "what"), REFUSED.items())
def test_an_architecture_without_a_rule_is_refused_in_a_line_that_says_what_is_not_covered(name: str, what: str) -> None:
    model = build(name)
    with pytest.raises(UserError) as caught:
        shape_of(model, model.get_output_embeddings())
    line = str(caught.value)
    assert line.startswith(f"the FLOPs of {type(model).__name__} cannot be counted: no rule covers its ")
    assert what in line
    assert "\n" not in line


class Mixing(nn.Module):
    """A table that no rule covers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(32, 32))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * self.table.mean(0)


def test_a_matrix_of_an_unknown_module_is_refused_and_a_vector_is_not() -> None:
    model = tiny("llama")
    model.model.norm = Mixing()
    with pytest.raises(UserError, match=r"LlamaForCausalLM .* parameter model\.norm\.table \(Mixing, 32x32\)"):
        shape(model)
    model.model.norm.table = nn.Parameter(torch.ones(1, 32))
    assert shape(model) == shape(tiny("llama"))


def test_a_model_whose_pass_fails_is_refused() -> None:
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj = nn.Linear(33, 200)
    with pytest.raises(UserError, match=r"the FLOPs of LlamaForCausalLM cannot be counted: its pass cannot be run .*33"):
        shape(model)


# -- the comparison at load --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "opt:projected", "mixtral", "deepseek_v2", "lfm2", "recurrent_gemma"])
def test_a_right_bill_agrees_with_the_model(name: str) -> None:
    model = tiny(name)
    assert abs(bill_error(model, shape(model))) < 0.003


def test_a_layer_that_is_used_twice_or_never_shows_in_the_comparison() -> None:
    model = tiny("llama", use_cache=False)
    model.model.layers[1] = model.model.layers[0]
    assert bill_error(model, shape(model)) < -0.3
    model = tiny("llama")
    model.unused = nn.Linear(100, 100)
    assert bill_error(model, shape(model)) > 0.1


def test_weights_of_a_layer_that_is_used_twice_are_put_back() -> None:
    model = tiny("llama", use_cache=False, tie_word_embeddings=True)
    model.model.layers[1] = model.model.layers[0]
    shape(model)
    assert {each.device.type for each in model.state_dict().values()} == {"cpu"}
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_bill_leaves_no_trace_on_the_model_and_is_not_counted_itself() -> None:
    model = tiny("gpt2", resid_pdrop=0.5).train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    weights, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    counted, _ = count(lambda: shape(model))
    assert counted == 0
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())


def test_the_bill_is_the_same_in_every_precision_and_for_every_kernel_of_attention() -> None:
    shapes = {shape(tiny("mixtral", attn_implementation=kind).to(dtype))
              for kind in ("eager", "sdpa") for dtype in (torch.float32, torch.bfloat16)}  # fmt: skip
    assert len(shapes) == 1


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_counts_and_bills_are_the_same_in_every_mode(context: Callable[[], Any]) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    layers: list[Callable[[torch.Tensor], Any]] = [
        nn.Linear(8, 8), nn.Conv1d(5, 5, 3), lambda x: x @ x.transpose(1, 2), lambda x: attention(x, x, x, need_weights=False),
    ]  # fmt: skip
    rows = torch.randn(2, 5, 8)
    expected = [count(lambda layer=layer: layer(rows))[0] for layer in layers]
    with context():
        assert [count(lambda layer=layer: layer(rows))[0] for layer in layers] == expected
        within = build("qwen3", num_hidden_layers=4)  # of sizes that no other test has
        shape = shape_of(within, within.get_output_embeddings())
    assert all(expected)
    assert shape.attention == 4 * 4 * 16
