"""TRL's side of trl_ppo.py: its PPO trainer on the base, the reward model and the prompts in a folder, without code of ours.

    python trl_ppo_side.py FOLDER SETTINGS.json POLICY

FOLDER has base/, reward/ and work.json: ``prompts`` as token ids, ``banned`` tokens, ``mean`` and ``deviation`` of rewards.
Writes the trained policy, and prints its CPU seconds, the length in tokens of each prompt that it read, and what it logged.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import Tensor, nn

NEVER = -1e4  # a logit of probability 0 whose product with it is 0, as entropies need


def load_base(folder: Path, banned: list[int]) -> Any:
    """The base, which gives banned tokens no probability, as the task's policies do not."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)

    def ban(head: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor(banned, dtype=torch.long), NEVER)

    if banned:
        model.get_output_embeddings().register_forward_hook(ban)
    return model


def load_reward(folder: Path, mean: float, deviation: float, pad: int) -> Any:
    """The reward model, its rewards standardised by the last layer: TRL knows no other place."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    score = nn.Linear(model.score.in_features, 1)
    with torch.no_grad():
        score.weight.copy_(model.score.weight / deviation)
        score.bias.fill_(-mean / deviation)
    model.score, model.config.pad_token_id = score, pad
    return model.eval()


class Collator(transformers.DataCollatorWithPadding):
    """Notes the length in tokens of each prompt that a trainer takes."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        self.read: list[int] = [*getattr(self, "read", []), *(len(row["input_ids"]) for row in features)]
        batch: dict[str, Any] = super().__call__(features)
        return batch


def main() -> None:
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # which the TRL that is installed has no more

    folder, settings, policy = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    torch.set_num_threads(1)
    transformers.set_seed(settings["seed"])  # minibatches are drawn by numpy, which the trainer does not seed
    transformers.logging.set_verbosity_error()
    work = json.loads((folder / "work.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "base", padding_side="left")
    pad = int(tokenizer.pad_token_id)
    base, reference = (load_base(folder / "base", work["banned"]) for _ in range(2))
    base.config.pad_token_id = base.generation_config.pad_token_id = pad
    reward = load_reward(folder / "reward", work["mean"], work["deviation"], pad)
    collator = Collator(tokenizer)
    with tempfile.TemporaryDirectory() as temporary:
        arguments = PPOConfig(
            output_dir=temporary, bf16=False, use_cpu=True, gradient_checkpointing=False, remove_unused_columns=False,
            dataloader_pin_memory=False, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1,
            num_sample_generations=0, **settings,
        )  # fmt: skip
        trainer = PPOTrainer(
            args=arguments, processing_class=tokenizer, model=base, ref_model=reference, reward_model=reward,
            value_model=copy.deepcopy(reward), data_collator=collator,
            train_dataset=datasets.Dataset.from_list([{"input_ids": ids} for ids in work["prompts"]]),
        )  # fmt: skip
        start = time.process_time()
        trainer.train()
    base.save_pretrained(policy)
    logged = [
        {name: row[name] for name in ("objective/kl", "objective/scores", "lr") if name in row}
        for row in trainer.state.log_history
    ]
    print("\n" + json.dumps({"seconds": time.process_time() - start, "prompts": collator.read, "log": logged}))


if __name__ == "__main__":
    main()
