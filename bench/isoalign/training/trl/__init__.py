"""TRL's trainers as algorithms: their loops, collators and losses, on the lab's weights, data and budget.

The harness replaces only what it controls: the weights, the reference, the batches (token ids in the lab's order), AdamW, the
learning rate, clipping, the log, and the end of the run, which the meter decides. Banned tokens are a bias of the output head,
so that TRL's losses and transformers' ``generate`` give them probability 0, as LanguageModel does.

TRL is charged for the shapes that it runs. Its collators pad, so padding is charged; it applies the head to prompts and
padding too, and (``trl.trainer.utils.add_fused_lm_head``) a second time in the backward pass; it reads a prompt once per
sample. On a GPU its kernels skip positions without a loss; the charge is still that of a CPU, because bills are the same on
every machine. The next step is priced by the last one of its kind and begins only if the budget covers that price. If it turns
out to cost more (a batch with a longer row), the first pass that is not covered does not begin.

Checkpoints are the harness's, between batches: there a trainer holds nothing that decides a figure but the state of the
process's random generators, which a checkpoint has. On another device a killed run starts over, as these generators differ.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import inspect
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from isoalign.core import stopping
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.core.lazy import datasets, trl
from isoalign.core.randomness import own_random_state
from isoalign.data.preferences import rollouts
from isoalign.models.language import LanguageModel
from isoalign.training.lab import Lab, session_of
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer
from isoalign.training.trl.harness import Harness, TokenIds, with_harness
from isoalign.training.trl.models import lent, pay_passes
from isoalign.training.trl.planned import PlannedLoop
from isoalign.training.trl.rows import Rows, contexts, preferences, unpaired, whole_answers

__all__ = ["contexts", "loop_versions", "preferences", "train", "unpaired", "whole_answers"]

VERSION = 3  # raised whenever a figure would change
ROUNDS_VERSION = 1  # their answers are sampled for nothing, as in our loop
FOREVER = 10**9  # optimizer steps


def loop_versions(rounds: bool) -> list[str | int]:
    """What training in a TRL loop depends on besides the algorithm's code: the versions of TRL and of this package, and with
    feedback ``rounds`` that of what they cost."""
    return [importlib.metadata.version("trl"), VERSION, *([ROUNDS_VERSION] if rounds else [])]


def train(
    lab: Lab,
    name: str,
    gather: Callable[[], Rows],
    *,
    reward: Callable[[Rollouts], Tensor] | None = None,
    repeats: int = 1,
    **settings: Any,
) -> None:
    """Train the policy with TRL's trainer ``name`` (a class of ``trl``, or of one of its modules) until the budget is spent.

    ``gather`` returns the rows of the next batch, in the columns of the trainer's collator. Each batch is used ``repeats``
    times in a row. ``reward`` scores the samples of an online trainer. ``settings``: fields of the trainer's configuration.

    Raises BudgetSpent if the budget does not cover the next step, or the next pass.
    """
    session = session_of(lab)
    if session.plan_loop is not None:
        session.plan_loop(PlannedLoop(lab, name, gather, reward, repeats, settings))
        return
    policy, moving = session.policy, bool(settings.get("sync_ref_model"))
    if moving and policy.model is not policy.inner:
        raise UserError("TRL's trainers move no reference of an adapter; set task.model.lora=0, or use lab.anchor")
    run: Trainer = session.trainer
    module, _, kind = f"trl.{name}".rpartition(".")
    trainer_class = getattr(importlib.import_module(module), kind)
    config_class = getattr(importlib.import_module(module), kind.removesuffix("Trainer") + "Config")
    run.loop = f"trl {importlib.metadata.version('trl')} {kind}"
    with ExitStack() as stack:
        stack.enter_context(run.guard.harness_code())
        stack.enter_context(own_random_state())
        reference = _copied(session.reference) if moving else session.reference
        stack.enter_context(lent(policy, reference))
        arguments = config_class(
            output_dir=stack.enter_context(tempfile.TemporaryDirectory()), max_steps=FOREVER, seed=session.seed,
            bf16=policy.autocast, use_cpu=policy.device.type == "cpu", max_grad_norm=run.config.clip,
            gradient_checkpointing=False, disable_dropout=True, remove_unused_columns=False, dataloader_pin_memory=False,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, **_balance(config_class),
            **settings,
        )  # fmt: skip
        harness = Harness(run, gather, repeats, list(reference.inner.parameters()) if moving else [])
        trainer = with_harness(trainer_class, harness)(
            model=policy.model, args=arguments, processing_class=policy.tokenizer,
            optimizers=(harness.optimizer, torch.optim.lr_scheduler.LambdaLR(harness.optimizer, lambda _: 1.0)),
            **_parts(lab, session, reference, trainer_class, reward),
        )  # fmt: skip
        _give_reference(trainer, policy, reference)
        if reward is not None and not hasattr(trainer_class, "_tokenize_prompts"):
            trainer.processing_class = TokenIds(policy.tokenizer)
        pay_passes(policy, session.meter, harness.before_gradients)
        if reference is not policy:
            pay_passes(reference, session.meter)
        stack.callback(harness.bar.close)
        with stopping.finishing():
            trainer.train()


def _balance(config_class: Any) -> dict[str, float]:
    """Without a term of the loss that balances the experts of a mixture: no method of ours has one."""
    return {"router_aux_loss_coef": 0.0} if "router_aux_loss_coef" in inspect.signature(config_class).parameters else {}


def _copied(reference: LanguageModel) -> LanguageModel:
    """A reference that the trainer may move: the lab's stays what it is, as KL and evaluation are from it."""
    inner = copy.deepcopy(reference.inner)
    return LanguageModel(inner, reference.tokenizer, reference.ends, reference.precision, reference.rows)


def _parts(
    lab: Lab, session: Session, reference: LanguageModel, trainer_class: Any, reward: Callable[[Rollouts], Tensor] | None
) -> dict[str, Any]:
    """The trainer's arguments for the reference or the reward, and a dataset, which it requires but never reads."""

    class Untouched(datasets.Dataset):
        def map(self, *_: Any, **__: Any) -> Any:
            return self  # rows are token ids already

    parts: dict[str, Any] = {"train_dataset": Untouched.from_list([{"prompt": "", "label": True}])}
    if session.policy.model is session.policy.inner and "ref_model" in inspect.signature(trainer_class).parameters:
        parts["ref_model"] = reference.inner
    if reward is not None:
        ends = set(session.policy.end_ids.tolist())

        def score(prompts: list[list[int]], completion_ids: list[list[int]], **_: Any) -> list[float]:
            rewards = reward(rollouts(prompts, [_ended(row, ends) for row in completion_ids], session.pad))
            lab.log(reward=rewards.mean())
            return rewards.tolist()

        parts["reward_funcs"] = score
    return parts


def _ended(row: list[int], ends: set[int]) -> list[int]:
    """An answer up to its first end token: some trainers hand over what they pad it with."""
    return row[: next((place for place, token in enumerate(row, 1) if token in ends), len(row))]


def _give_reference(trainer: Any, policy: LanguageModel, reference: LanguageModel) -> None:
    """Replace the trainer's own reference, a copy of the adapter or of the weights on disk, by the lab's."""
    if policy.model is not policy.inner:
        if "ref" in policy.model.peft_config:
            policy.model.delete_adapter("ref")  # without this copy, TRL turns the adapter off for the reference
        trainer.ref_model = None  # a copy of the initial policy
    elif getattr(trainer, "ref_model", None) not in (None, reference.inner):
        trl.trainer.utils.add_fused_lm_head(reference.inner)
        trainer.ref_model = trainer.accelerator.prepare_model(reference.inner, evaluation_mode=True)
