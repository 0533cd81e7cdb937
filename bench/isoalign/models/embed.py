"""Sentence embeddings with all-MiniLM-L6-v2, as sentence-transformers computes them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from isoalign.core.lazy import transformers
from isoalign.core.memory import by_rows
from isoalign.data import assets

WIDTH = 384
MAX_TOKENS = 256  # as in training


@cache
def _load_minilm(device: str) -> tuple[Any, Any]:
    folder = assets.asset_path("minilm")
    model: Any = transformers.BertModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return model.eval().to(device), transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def embed(texts: Sequence[str], batch_size: int = 64, device: str = "cpu") -> Tensor:
    """Unit-norm embeddings [len(texts), WIDTH] float32 on the CPU; the dot product of two is their cosine.

    Mean of the last hidden states over real tokens, of at most MAX_TOKENS tokens. Batches hold texts of similar numbers of
    tokens.
    """
    result = torch.zeros(len(texts), WIDTH)
    if not texts:
        return result
    _, tokenizer = _load_minilm(device)
    ids = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: (len(ids[i]), texts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        result[rows] = torch.cat(by_rows(lambda part: _embed_batch(part, device), [ids[i] for i in rows], batch_size))
    return result


@torch.inference_mode()
def _embed_batch(ids: list[list[int]], device: str) -> Tensor:
    model, tokenizer = _load_minilm(device)
    batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(device)
    states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1).cpu()
