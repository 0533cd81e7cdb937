"""A probe of a language model before it is used: what isoalign computes must be what the model's own forward says.

Two rows of different length are read without padding, one by one, by the model's own forward. They are the measure of the
padded batch, of decoding with a cache, of log-probabilities, KL and entropy, and of the formula for FLOPs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.memory import machine_failure
from isoalign.models.decoding import Decoder
from isoalign.models.kl import compare, exact_kl
from isoalign.models.language import LanguageModel
from isoalign.models.passes import entropy, token_logp
from isoalign.models.tokens import left_padded

LENGTHS = (9, 5)  # of the two prompts
STEPS = 4  # tokens of each answer
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}  # nats per token, on average over the vocabulary
SHARE, ROUNDING = 0.02, 1e-5  # in float32: of what other words before a token change of it; nats that are never a fault


def probe(model: LanguageModel, name: str) -> dict[str, float]:
    """The largest difference of each kind in nats. Raises UserError, which names the model and what differs."""
    architecture = type(model.inner).__name__
    try:
        differences, limit = _differences(model), _limit(model)
    except UserError as error:
        raise UserError(f"the model {name!r} ({architecture}) can't be run: {error}") from error
    except Exception as error:
        reason = f"the model {name!r} ({architecture}) can't be run: {unforeseen(error)}"
        raise machine_failure(error) or UserError(reason) from error
    wrong = [f"{kind} by {value:.2g}" for kind, value in differences.items() if not value <= limit]
    if wrong:
        raise UserError(
            f"the model {name!r} ({architecture}) can't be run exactly: from its own forward on rows without padding differ "
            f"{', '.join(wrong)} nats a token; choose another model"
        )
    return differences


@torch.no_grad()
def _limit(model: LanguageModel) -> float:
    """The largest difference that is no fault, in nats. Where the words before a token hardly change it, as with untrained
    weights, a wrong reading of them changes as little."""
    if model.dtype != torch.float32:
        return TOLERANCE[model.dtype]
    rows = _rows(model)
    others = [torch.cat([other[-3:], row[3:]]) for row, other in zip(rows, reversed(rows), strict=True)]
    own, changed = (torch.stack([_own(model, row) for row in each]) for each in (rows, others))
    return min(TOLERANCE[model.dtype], max(ROUNDING, SHARE * _largest(own, list(changed))))


@torch.no_grad()
def _differences(model: LanguageModel) -> dict[str, float]:
    rows = _rows(model)
    own = [_own(model, row) for row in rows]
    if not all(torch.isfinite(logits).all() for logits in own):
        raise UserError("its logits are not finite: its weights are broken, or its dtype is too small")
    rollouts = _padded(model, rows)
    outputs, compared, answers = model(rollouts), compare(model, model, rollouts), [row[-STEPS:] for row in rows]
    logp = [token_logp(*pair) for pair in zip(own, answers, strict=True)]
    return {
        "a padded batch": _largest(outputs.logits, own),
        "decoding with a cache": _largest(_decoded(model, rows), own),
        "log-probabilities": max(_furthest(values, logp) for values in (outputs.logp, compared.logp, compared.base_logp)),
        "entropy": max(_furthest(values, list(map(entropy, own))) for values in (outputs.entropy, compared.entropy)),
        "KL": max(
            compared.kl.max().item(),
            *(exact_kl(mine[:STEPS], true).mean().item() for mine, true in zip(outputs.logits, own, strict=True)),
        ),
    }


def _own(model: LanguageModel, row: Tensor) -> Tensor:
    """Logits of the answer's tokens by the model's own forward on the row alone [STEPS, V]."""
    return model.ban(model.inner(input_ids=row.unsqueeze(0)).logits[0, -STEPS - 1 : -1].float())


def _rows(model: LanguageModel) -> list[Tensor]:
    """Two rows of tokens that the model may write, the same ones every time."""
    allowed = torch.ones(model.vocabulary, dtype=torch.bool)
    allowed[model.banned.cpu()] = False
    tokens = allowed.nonzero().flatten()
    generator = torch.Generator().manual_seed(0)
    chosen = [torch.randint(len(tokens), (length + STEPS,), generator=generator) for length in LENGTHS]
    return [tokens[places].to(model.device) for places in chosen]


def _padded(model: LanguageModel, rows: list[Tensor]) -> Rollouts:
    """Both rows as one batch with padding on both sides."""
    prompts, answers = _prompts(model, rows), torch.stack([row[-STEPS:] for row in rows])
    tokens = torch.cat([prompts.tokens, answers], 1)
    mask = torch.cat([prompts.mask, torch.ones_like(answers, dtype=torch.bool)], 1)
    tokens, mask = pad(tokens, (2, 3), value=int(model.tokenizer.pad_token_id)), pad(mask, (2, 3), value=False)
    return Rollouts(tokens, mask, 2 + prompts.tokens.shape[1])


def _prompts(model: LanguageModel, rows: list[Tensor]) -> Prompts:
    return left_padded([row[:-STEPS].tolist() for row in rows], int(model.tokenizer.pad_token_id)).to(model.device)


def _decoded(model: LanguageModel, rows: list[Tensor]) -> Tensor:
    """Logits of each token of the answers by decoding with a cache, each prompt read once for two answers [2, T, V]."""
    decoder = Decoder(model.body, model.predict_now(), _prompts(model, rows), 2, STEPS)
    logits = []
    for step in range(STEPS):
        logits.append(decoder.logits[::2])
        tokens = torch.stack([row[len(row) - STEPS + step] for row in rows]).repeat_interleave(2)
        decoder.append(tokens)
        if step + 1 < STEPS:
            decoder.advance()
    return torch.stack(logits, 1)


def _largest(logits: Tensor, own: list[Tensor]) -> float:
    """The largest mean difference of log-probabilities over the vocabulary, at any position."""
    mine = [row[:STEPS].log_softmax(-1) for row in logits]
    return max((a - b.log_softmax(-1)).abs().mean(-1).max().item() for a, b in zip(mine, own, strict=True))


def _furthest(values: Tensor, own: list[Tensor]) -> float:
    return max((row[:STEPS] - true).abs().mean().item() for row, true in zip(values, own, strict=True))
