"""One side of steps.py: TRL's trainers on the work in a folder, without any code of ours.

    python steps_trl.py FOLDER NAME default|fastest

Prints the CPU time after each step, which is ``updates`` of the optimizer's, that of precomputing the reference, and how many
steps an epoch and an iteration (``each``) have.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers

TRAINERS = {
    "dpo": ("trl", "DPO"), "kto": ("trl", "KTO"), "rloo": ("trl", "RLOO"), "grpo": ("trl", "GRPO"), "sft": ("trl", "SFT"),
    "reward": ("trl", "Reward"), "orpo": ("trl.experimental.orpo", "ORPO"), "simpo": ("trl.experimental.cpo", "CPO"),
    "ppo": ("trl.experimental.ppo", "PPO"),
}  # fmt: skip
PRECOMPUTED = ("dpo", "kto")
ROLLOUTS = 64


class Rows(datasets.Dataset):
    """Rows of token ids, which a trainer need not tokenize; it may only add columns."""

    def map(self, *arguments: Any, **named: Any) -> Any:
        return super().map(*arguments, **named) if "cache_file_name" in named else self

    def filter(self, *_: Any, **__: Any) -> Any:
        return self


class Marks(transformers.TrainerCallback):
    """The CPU time when training begins and after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times.append(time.process_time())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.process_time())


def keep_memory() -> None:
    """Our setting of glibc's allocator."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 30)
    libc.mallopt(-1, (1 << 31) - 1)


def table(name: str, rows: dict[str, Any]) -> Rows:
    """The rows in the columns of a trainer's collator."""
    prompts, chosen, rejected = rows["prompts"], rows["chosen"], rows["rejected"]
    triples = list(zip(prompts, chosen, rejected, strict=True))
    if name == "dpo":
        columns = [{"prompt": "", "prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in triples]
    elif name == "kto":
        answers = [(p, side, up) for p, c, r in triples for side, up in ((c, True), (r, False))]
        size = 2 * rows["batch"]
        columns = [
            {"prompt": "", "prompt_ids": p, "completion_ids": a, "label": up,
             "KL_completion_ids": answers[i - 1 if i % size else i + size - 1][1]}
            for i, (p, a, up) in enumerate(answers)
        ]  # fmt: skip
    elif name in ("orpo", "simpo"):
        columns = [{"prompt": ""} | whole("chosen", p, c) | whole("rejected", p, r) for p, c, r in triples]
    elif name == "sft":
        columns = [{"input_ids": p + c, "labels": [-100] * len(p) + c} for p, c, _ in triples]
    elif name == "reward":
        columns = [{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in triples]
    elif name == "ppo":
        columns = [{"input_ids": p} for p in prompts]
    else:
        columns = [{"prompt": p} for p in prompts]
    made: Rows = Rows.from_list(columns)
    return made


def whole(side: str, prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    ids = prompt + answer
    labels = [-100] * len(prompt) + answer
    return {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids), f"{side}_labels": labels}


def settings(name: str, work: dict[str, Any], fastest: bool) -> dict[str, Any]:
    """Fields of a trainer's configuration, those of our methods' defaults."""
    batch, answer = work["batch"], work["answer"]
    each = {
        "dpo": {"beta": 0.1, "max_length": None},
        "kto": {"beta": 0.1, "max_length": None, "per_device_train_batch_size": 2 * batch},
        "orpo": {"beta": 0.1},
        "simpo": {"beta": 2.0, "cpo_alpha": 0.0, "loss_type": "simpo", "simpo_gamma": 1.0},
        "rloo": {"beta": 0.05, "num_generations": 4, "steps_per_generation": 1, "per_device_train_batch_size": ROLLOUTS},
        "grpo": {"beta": 0.04, "num_generations": 8, "steps_per_generation": 2, "num_iterations": 2, "loss_type": "grpo"}
        | {"per_device_train_batch_size": ROLLOUTS // 2},
        "ppo": {"response_length": answer, "num_ppo_epochs": 2, "num_mini_batches": 2, "num_sample_generations": 0}
        | {"total_episodes": ROLLOUTS * work["iterations"], "per_device_train_batch_size": ROLLOUTS},
    }.get(name, {})
    if name in ("rloo", "grpo"):
        each |= {"max_completion_length": answer, "generation_kwargs": {"min_new_tokens": answer}}
        each |= {"max_steps": work["iterations"] * (4 if name == "grpo" else 1)}
    elif name != "ppo":
        each |= {"max_steps": work["epochs"] * work["pairs"] // batch}
    if name in PRECOMPUTED and fastest:
        each |= {"precompute_ref_log_probs": True}
    return {"per_device_train_batch_size": batch, "disable_dropout": True} | each


def parts(name: str, folder: Path, pad: int) -> dict[str, Any]:
    """Models of a trainer besides the policy."""

    def head() -> Any:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1)
        model.config.pad_token_id = pad
        return model.eval()

    if name in ("rloo", "grpo"):
        scorer = head()

        def score(prompts: list[list[int]], completion_ids: list[list[int]], **_: Any) -> list[float]:
            tokens = torch.tensor([p + c for p, c in zip(prompts, completion_ids, strict=True)])
            with torch.no_grad():
                rewards: list[float] = scorer(input_ids=tokens).logits.squeeze(-1).tolist()
            return rewards

        return {"reward_funcs": score}
    return {"reward_model": head(), "value_model": head()} if name == "ppo" else {}


def main() -> None:
    folder, name, fastest = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "fastest"
    if fastest:
        keep_memory()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    told = json.loads((folder / "work.json").read_text())
    work, rows = told["work"], told["rows"] | {"batch": told["work"]["batch"]}
    module, kind = TRAINERS[name]
    trainer_class = getattr(importlib.import_module(module), f"{kind}Trainer")
    config_class = getattr(importlib.import_module(module), f"{kind}Config")
    precomputing = 0.0

    class Measured(trainer_class):  # type: ignore[misc, valid-type]
        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[Any, ...]:
            return prompts, None, {}  # token ids already

        def _precompute_ref_logps(self, *arguments: Any) -> Any:
            nonlocal precomputing
            start = time.process_time()
            found = super()._precompute_ref_logps(*arguments)
            precomputing += time.process_time() - start
            return found

    load = transformers.AutoModelForSequenceClassification if name == "reward" else transformers.AutoModelForCausalLM
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    model = load.from_pretrained(folder / "model", **({"num_labels": 1} if name == "reward" else {}))
    model.config.pad_token_id = tokenizer.pad_token_id
    if work["lora"]:
        rank = work["lora"]
        model = peft.get_peft_model(
            model, peft.LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        )
    marks, tokens = Marks(), torch.tensor(rows["prompts"][:8])
    (model(input_ids=tokens)).logits.sum().backward()  # what is slow only once is no part of the precomputation
    model.zero_grad()
    with tempfile.TemporaryDirectory() as temporary:
        fields = settings(name, work, fastest)
        named = {field: value for field, value in fields.items() if field in config_class.__dataclass_fields__}
        arguments = config_class(
            output_dir=temporary, bf16=False, use_cpu=True, gradient_checkpointing=False, remove_unused_columns=False,
            dataloader_pin_memory=False, save_strategy="no", report_to="none", disable_tqdm=True, learning_rate=1e-4, **named,
        )  # fmt: skip
        given = parts(name, folder, tokenizer.pad_token_id)
        if name == "ppo":
            given["ref_model"] = load.from_pretrained(folder / "model")
        trainer = Measured(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=table(name, rows),
            callbacks=[marks],
            **given,
        )
        trainer.train()
    online = name in ("rloo", "grpo", "ppo")
    found = {
        "marks": marks.times, "precomputing": precomputing, "epoch": 0 if online else work["pairs"] // work["batch"],
        "each": 4 if name == "grpo" else 1, "updates": 4 if name == "ppo" else 1,
    }  # fmt: skip
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
