"""Pre-train the nano task's base model: a small Llama on the `pretrain` rows of the labelled comments.

    OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 python scripts/pretrain_nano.py --steps 3600

Writes model, tokenizer and a record (data, seed, steps, loss, time) to bench/isoalign/models/nano/, which is committed. Rows
of the other roles (SFT, annotator, judge, prompts) are never read, so later stages use unseen data.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from isoalign.core.text import unit_hash
from isoalign.data import comments

END, PAD = "<|endoftext|>", "<|pad|>"
VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN = 4096, 256, 4, 4, 688
MAX_CHARACTERS = 1500  # of one comment; longer ones are mostly repetitive vandalism
HOME = Path(__file__).parents[1] / "bench" / "isoalign" / "models" / "nano"


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; every text starts with the end token, which marks the start of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(f"{END} $A", special_tokens=[(END, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PAD, padding_side="left", model_max_length=512
    )


def pack(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All texts in one row of ids, each after the end token."""
    return torch.tensor([i for ids in tokenizer(texts)["input_ids"] for i in ids], dtype=torch.int32)


def batches(tokenizer: PreTrainedTokenizerFast, texts: list[str], rows: int, length: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches [rows, length + 1]; the comments are packed in a new order each epoch."""
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer(texts)["input_ids"]
    while True:
        order = torch.randperm(len(ids), generator=generator).tolist()
        stream = torch.tensor([token for i in order for token in ids[i]], dtype=torch.int32)
        pieces = stream[: len(stream) // (length + 1) * (length + 1)].view(-1, length + 1)
        pieces = pieces[torch.randperm(len(pieces), generator=generator)]
        for start in range(0, len(pieces) - rows + 1, rows):
            yield pieces[start : start + rows].long()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: linear warm-up over 2% of the steps, then cosine decay to a twentieth."""
    warm = max(1, steps // 50)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HOME)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    rows = [comment.text[:MAX_CHARACTERS] for comment in comments.load_comments("pretrain")]
    validation = [text for text in rows if unit_hash(text, "pretrain-validation") < 0.01]
    training = [text for text in rows if unit_hash(text, "pretrain-validation") >= 0.01]
    tokenizer = make_tokenizer(training)
    held_out = pack(tokenizer, validation)
    held_out = held_out[: len(held_out) // (options.length + 1) * (options.length + 1)].view(-1, options.length + 1).long()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=HIDDEN, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # the fastest at 128 tokens on a CPU
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() < 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=options.lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            losses = [loss_of(model, part).item() * len(part) for part in held_out.split(64)]
        model.train()
        return sum(losses) / len(held_out)

    started, curve, running = time.time(), [], 0.0
    data = batches(tokenizer, training, options.rows, options.length, options.seed)
    bar = tqdm(range(options.steps), mininterval=5)
    for step in bar:
        for part in next(data).split(16):  # small parts keep the logits in the CPU cache
            loss = loss_of(model, part) * len(part) / options.rows
            loss.backward()
            running += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, options.steps, options.lr)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 500 == 0 or step + 1 == options.steps:
            since = (step % 500) + 1
            curve.append({"step": step + 1, "train": round(running / since, 4), "validation": round(validate(), 4)})
            running = 0.0
            bar.set_postfix(curve[-1])

    model.set_attn_implementation("sdpa")
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    record = {
        "command": " ".join(["python", *sys.argv]), "data": "labelled comments, role pretrain (isoalign.data.comments)",
        "comments": len(training), "tokens_an_epoch": len(pack(tokenizer, training)),
        "tokens_seen": options.steps * options.rows * options.length,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": options.seed, "steps": options.steps, "lr": options.lr,
        "seconds": round(time.time() - started), "threads": options.threads,
        "torch": torch.__version__, "machine": platform.machine(), "loss": curve,
    }  # fmt: skip
    (options.out / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
