"""TRL's own trainers as algorithms: their loops, collators and losses, on the lab's weights, data and purse.

A trainer is left as it is, but for what the harness owns: the weights, the reference, the batches (token ids in the lab's
order), AdamW, the learning rate, clipping, the log, and the end, which is the meter's. Banned tokens are a bias of the head
here, so that TRL's losses and transformers' ``generate`` give them probability 0 as LanguageModel does.

What TRL runs is billed, from the shapes that it runs. Its collators pad, so padding is paid; its head is applied to prompts
and padding too, and (``trl.trainer.utils.add_fused_lm_head``) a second time in the backward pass; a prompt is read once for
each of its draws. On a GPU its kernels leave out positions without a loss; the bill stays that of a CPU, for bills are the
same on any machine. The next step is priced by the last one of its kind, and not begun where the purse does not cover it;
should it then turn out dearer (a batch with a longer row), the pass that can't be paid is not begun.

A trainer holds state that no checkpoint of ours does: a run that was killed starts again from nothing, to the same end.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoalign.core.batches import Labels, Pairs, Prompts, Rollouts
from isoalign.core.errors import UserError
from isoalign.core.progress import Progress
from isoalign.data.preferences import rollouts
from isoalign.models.language import NEVER, LanguageModel, completion_lengths, prompt_lengths
from isoalign.training.lab import Lab, session_of
from isoalign.training.meter import Meter
from isoalign.training.session import Session
from isoalign.training.trainer import Trainer

# Changed whenever a figure would change. It began as a digest of this file, which published cards have in their keys.
VERSION = "10d721953396189079e27882ab4a88d742737c826e683ff092225a762608062d"
FOREVER = 10**9  # optimizer steps
NO_LOSS = -100  # a label that PyTorch's losses leave out
Rows = list[dict[str, Any]]


def identity() -> list[str]:
    """What a training by one of these loops depends on beside its algorithm's source: TRL's version and this one's."""
    return [importlib.metadata.version("trl"), VERSION]


def train(
    lab: Lab,
    name: str,
    gather: Callable[[], Rows],
    *,
    reward: Callable[[Rollouts], Tensor] | None = None,
    repeats: int = 1,
    **settings: Any,
) -> None:
    """Let TRL's trainer ``name`` (a class of ``trl``, or of one of its modules) train the policy until the meter ends it.

    ``gather`` gives the rows of the next batch, in the columns of the trainer's collator; a batch is handed out ``repeats``
    times in a row. ``reward`` scores what an online trainer samples. ``settings``: fields of the trainer's configuration.

    Raises BudgetSpent where the next step, or the next pass, is not covered.
    """
    session = session_of(lab)
    policy, reference = session.policy, session.reference
    run: Trainer = session.trainer
    module, _, kind = f"trl.{name}".rpartition(".")
    trainer_class = getattr(importlib.import_module(module), kind)
    config_class = getattr(importlib.import_module(module), kind.removesuffix("Trainer") + "Config")
    run.loop = f"trl {importlib.metadata.version('trl')} {kind}"
    with ExitStack() as stack:
        stack.enter_context(run.guard.harness_code())
        stack.enter_context(_random_state())
        stack.enter_context(_lent(policy, reference))
        arguments = config_class(
            output_dir=stack.enter_context(tempfile.TemporaryDirectory()), max_steps=FOREVER, seed=session.seed,
            bf16=policy.autocast, use_cpu=policy.device.type == "cpu", max_grad_norm=run.config.clip,
            gradient_checkpointing=False, disable_dropout=True, remove_unused_columns=False, dataloader_pin_memory=False,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, **settings,
        )  # fmt: skip
        harness = _Harness(run, gather, repeats)
        trainer = _held(trainer_class, harness)(
            model=policy.model, args=arguments, processing_class=policy.tokenizer,
            optimizers=(harness.optimizer, torch.optim.lr_scheduler.LambdaLR(harness.optimizer, lambda _: 1.0)),
            **_parts(lab, session, trainer_class, reward),
        )  # fmt: skip
        _give_reference(trainer, policy, reference)
        if reward is not None and not hasattr(trainer_class, "_tokenize_prompts"):
            trainer.processing_class = _Tokens(policy.tokenizer)
        _bill(policy, session.meter, harness.before_gradients)
        if reference is not policy:
            _bill(reference, session.meter)
        stack.callback(harness.bar.close)
        trainer.train()


# -- rows, as TRL's collators want them --------------------------------------------------------------------------------


def preferences(pairs: Pairs) -> Rows:
    """Preference pairs for DPO."""
    columns = zip(_prompts(pairs.chosen), _completions(pairs.chosen), _completions(pairs.rejected), strict=True)
    return [{"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected} for prompt, chosen, rejected in columns]


def whole_answers(pairs: Pairs) -> Rows:
    """Preference pairs for TRL's experimental trainers: each answer behind its prompt, where no loss falls."""
    rows: Rows = [{} for _ in range(len(pairs))]
    for side, answers in (("chosen", pairs.chosen), ("rejected", pairs.rejected)):
        for row, prompt, answer in zip(rows, _prompts(answers), _completions(answers), strict=True):
            row[f"{side}_input_ids"] = prompt + answer
            row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
            row[f"{side}_labels"] = [NO_LOSS] * len(prompt) + answer
    return rows


def unpaired(labels: Labels) -> Rows:
    """Single answers for KTO, each with the answer of the row before it for the estimate of KL."""
    answers = _completions(labels.rollouts)
    columns = zip(_prompts(labels.rollouts), answers, [answers[-1], *answers], labels.desirable.tolist(), strict=False)
    return [
        {"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other, "label": up}
        for prompt, answer, other, up in columns
    ]


def contexts(prompts: Prompts, draws: int) -> Rows:
    """Prompts for an online trainer, each ``draws`` times in a row."""
    ids = [tokens[mask].tolist() for tokens, mask in zip(prompts.tokens, prompts.mask, strict=True)]
    return [{"prompt": each} for each in ids for _ in range(draws)]


def _prompts(answers: Rollouts) -> list[list[int]]:
    split, lengths = answers.prompt_length, prompt_lengths(answers)
    return [row[split - length : split] for row, length in zip(answers.tokens.tolist(), lengths, strict=True)]


def _completions(answers: Rollouts) -> list[list[int]]:
    rows = zip(answers.completion.tolist(), completion_lengths(answers), strict=True)
    return [row[:length] for row, length in rows]


# -- what the harness puts in the place of a trainer's parts -----------------------------------------------------------


class _Harness:
    """What a loop of TRL's is held to: its batches, its purse, the shared optimizer and schedule, the log."""

    def __init__(self, run: Trainer, gather: Callable[[], Rows], repeats: int) -> None:
        self.run, self.gather, self.repeats = run, gather, repeats
        self.optimizer = run.optimizers["policy"]
        self.bar = Progress("training")
        self.prices = [(0, 0)] * repeats  # FLOPs and tokens of the last step at each place of a cycle
        self.rate = self.loss = self.norm = 0.0
        self.finite = True

    def batches(self, collate: Callable[[Rows], Any]) -> Iterator[Any]:
        """The batches of the whole run; feedback is paid when a batch is gathered, not before."""
        while True:
            self.run.begin_round()
            rows = self.gather()
            for _ in range(self.repeats):
                yield collate(rows)

    def before_gradients(self) -> None:
        """The pass that trains is about to be paid: here a step begins for the schedule, as one of ours does."""
        if not self.run.meter.steps:
            self.run.session.started_at = self.run.meter.fraction
        self.rate = self.run.learning_rate()

    def step(self, work: Callable[[], Tensor]) -> Tensor:
        """One step, begun only if the purse covers what the last of its kind cost; a reward model is trained but once."""
        meter, place, bought = self.run.meter, self.run.meter.steps % self.repeats, set(self.run.session.reward_models)
        flops, tokens = self.prices[place]
        meter.require(flops, tokens, steps=1)
        before = meter.flops, meter.tokens
        loss = work()
        if bought == self.run.session.reward_models:
            self.prices[place] = meter.flops - before[0], meter.tokens - before[1]
        self.loss = float(loss)
        return loss

    def clip(self) -> float:
        """The harness's clipping, just before the optimizer's step, which is not taken where a number is not finite."""
        self.norm = self.run.clip(self.run.trained)
        self.finite = math.isfinite(self.loss) and math.isfinite(self.norm)
        if self.finite:
            self.run.skipped_in_a_row = 0
            self.optimizer.param_groups[0]["lr"] = self.rate
        else:
            self.optimizer.zero_grad(set_to_none=True)
        return self.norm

    def note(self) -> None:
        """A step is over."""
        self.run.meter.steps += 1
        if not self.finite:
            self.run.skip()
        self.run.note(self.loss if self.finite else None, self.rate, self.norm if self.finite else None)
        self.run.snapshot()
        self.bar.show(self.run.meter.fraction, self.run.log[-1])


class _Tokens:
    """A tokenizer that is given token ids, where a trainer hands it prompts: they are padded, and nothing else."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: list[list[int]], return_tensors: str, padding: bool, padding_side: str, **_: Any) -> Any:
        """As the tokenizer of the text that has these ids."""
        return self.tokenizer.pad(
            {"input_ids": text}, padding=padding, padding_side=padding_side, return_tensors=return_tensors
        )


def _held(trainer_class: Any, harness: _Harness) -> Any:
    """A trainer whose every step is the harness's."""

    class Held(trainer_class):
        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[Any, ...]:
            return prompts, None, {}  # they are tokens

        def get_train_dataloader(self) -> Any:
            return harness.batches(self.data_collator)

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            return harness.step(functools.partial(super().training_step, *args, **kwargs))

        def _clip_grad_norm(self, model: Any) -> float:
            return harness.clip()

        def _maybe_log_save_evaluate(self, *_: Any, **__: Any) -> None:
            harness.note()

    return Held


def _parts(lab: Lab, session: Session, trainer_class: Any, reward: Callable[[Rollouts], Tensor] | None) -> dict[str, Any]:
    """The reference or the reward, as the trainer takes them; and a dataset, which it must be given and never reads."""
    from datasets import Dataset

    class Untouched(Dataset):
        def map(self, *_: Any, **__: Any) -> Any:
            return self  # nothing is to be tokenised

    parts: dict[str, Any] = {"train_dataset": Untouched.from_list([{"prompt": "", "label": True}])}
    if session.policy.model is session.policy.inner and "ref_model" in inspect.signature(trainer_class).parameters:
        parts["ref_model"] = session.reference.inner
    if reward is not None:

        def score(prompts: list[list[int]], completion_ids: list[list[int]], **_: Any) -> list[float]:
            rewards = reward(rollouts(prompts, completion_ids, session.pad))
            lab.log(reward=rewards.mean())
            return rewards.tolist()

        parts["reward_funcs"] = score
    return parts


def _give_reference(trainer: Any, policy: LanguageModel, reference: LanguageModel) -> None:
    """Put the lab's reference where a trainer made one of its own: a copy of the adapter, or of the weights on disk."""
    from trl.trainer.utils import add_fused_lm_head

    if policy.model is not policy.inner:
        if "ref" in policy.model.peft_config:
            policy.model.delete_adapter("ref")  # without it TRL turns the adapter off
        trainer.ref_model = None  # and without a copy of the policy as it was at the start
    elif getattr(trainer, "ref_model", None) not in (None, reference.inner):
        add_fused_lm_head(reference.inner)
        trainer.ref_model = trainer.accelerator.prepare_model(reference.inner, evaluation_mode=True)


def _bill(model: LanguageModel, meter: Meter, before_gradients: Callable[[], None] = lambda: None) -> None:
    """Make every pass of a model pay before it runs. ``before_gradients`` is called before a pass that trains."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    run, shape = model.inner.forward, model.shape
    adapters = [module for module in model.inner.modules() if isinstance(module, BaseTunerLayer)]
    trained = any(parameter.requires_grad for parameter in model.inner.parameters())
    ends = torch.tensor([model.tokenizer.eos_token_id, model.tokenizer.pad_token_id], device=model.device)

    def pay(tokens: Tensor, fused: bool, cache: Any, samples: bool) -> None:
        rows, columns = tokens.shape
        own = trained and not (adapters and adapters[0].disable_adapters)
        role = "policy" if own else "reference"
        if samples:
            past = cache.get_seq_length() if cache is not None else 0
            price = shape.decode([past] * rows, [2] * rows) if past else shape.prefill([columns] * rows)
            alive = rows - int(torch.isin(tokens[:, -1], ends).sum()) if past else rows
            meter.charge(role, "sample", price, alive)
            return
        lengths, heads = [columns] * rows, [columns - fused] * rows
        forward = shape.forward(lengths, heads, adapter=own)
        if own and torch.is_grad_enabled():
            before_gradients()
            backward = shape.backward(lengths, heads) + fused * 2 * shape.head * sum(heads)
            meter.require(forward + backward)
            meter.charge(role, "backward", backward)
        meter.charge(role, "forward", forward)

    @functools.wraps(run)
    def forward(*args: Any, **kwargs: Any) -> Any:
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        pay(tokens, kwargs.get("fused_lm_head", False), kwargs.get("past_key_values"), bool(kwargs.get("use_cache")))
        return run(*args, **kwargs)

    model.inner.forward = forward


# -- and how everything is found again ---------------------------------------------------------------------------------


@contextmanager
def _lent(policy: LanguageModel, reference: LanguageModel) -> Iterator[None]:
    """Inside, the heads themselves ban tokens; after, models are as they were, whatever was hung on them."""
    models = {id(model.inner): model for model in (policy, reference)}.values()
    for model in models:
        _ = model.shape  # seen on a pass, which nobody is to pay
        head: Any = model.head
        if head.bias is not None:
            raise UserError("TRL's trainers run here on models whose head has no bias")
        bias = torch.zeros(model.vocabulary, device=model.device).index_fill(0, model.banned, NEVER)
        del head.bias
        head.register_buffer("bias", bias, persistent=False)  # saved with no snapshot
    try:
        yield
    finally:
        for model in models:
            head = model.head
            del head.bias
            head.register_parameter("bias", None)
            for module in (model.model, model.inner):
                for name in ("forward", "_original_forward"):
                    module.__dict__.pop(name, None)
            model.model.eval()


@contextmanager
def _random_state() -> Iterator[None]:
    """Inside, every generator may be seeded; after, all are as they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
