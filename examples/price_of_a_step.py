"""What a step costs before anything is trained: FLOPs by formula, for DPO and for PPO, on a model of any size."""

from transformers import LlamaConfig, LlamaForCausalLM

from isoalign.models.flops import shape_of

PROMPT, ANSWER = 24, 20  # tokens of the longest prompt and answer of the nano task

config = LlamaConfig(
    vocab_size=4096, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=688,
    tie_word_embeddings=True,
)  # fmt: skip
model = LlamaForCausalLM(config)
shape = shape_of(model, model.get_output_embeddings())
print(f"{sum(p.numel() for p in model.parameters()):,} weights, {shape.body:,} of them multiplied for each token")


def passes(rows: int) -> int:
    """A forward pass over so many prompts with answers; the head is applied where an answer's token is predicted."""
    return shape.forward([PROMPT + ANSWER - 1] * rows, [ANSWER] * rows)


def backward(rows: int) -> int:
    """The backward pass that follows."""
    return shape.backward([PROMPT + ANSWER - 1] * rows, [ANSWER] * rows)


pairs = 32
dpo = {
    "policy forward and backward": passes(2 * pairs) + backward(2 * pairs),
    "reference": passes(2 * pairs),
}
rollouts, epochs = 64, 2
ppo = {
    "sampling": shape.prefill([PROMPT] * rollouts) + shape.decode([PROMPT] * rollouts, [ANSWER] * rollouts),
    "policy before, forward and backward": passes(rollouts) + epochs * (passes(rollouts) + backward(rollouts)),
    "reference": passes(rollouts),
    "reward model": shape.forward([PROMPT + ANSWER] * rollouts, [0] * rollouts),
}
for name, bill in ("a step of DPO", dpo), ("a round of PPO", ppo):
    print(f"{name}: {sum(bill.values()):.3g} FLOP")
    for item, flops in bill.items():
        print(f"  {item:<36} {flops:.2g}")
print(f"a round of PPO costs {sum(ppo.values()) / sum(dpo.values()):.2f} steps of DPO, without training its reward model")
