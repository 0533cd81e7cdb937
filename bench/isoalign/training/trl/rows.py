"""Batches as rows of token ids, in the columns that TRL's collators expect."""

from __future__ import annotations

from typing import Any

from isoalign.core.batches import Labels, Pairs, Prompts, Rollouts, completion_lengths, prompt_lengths

NO_LOSS = -100  # the label that PyTorch's losses ignore
Rows = list[dict[str, Any]]


def preferences(pairs: Pairs) -> Rows:
    """Preference pairs for DPO."""
    columns = zip(_prompt_ids(pairs.chosen), _completion_ids(pairs.chosen), _completion_ids(pairs.rejected), strict=True)
    return [{"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected} for prompt, chosen, rejected in columns]


def whole_answers(pairs: Pairs) -> Rows:
    """Preference pairs for TRL's experimental trainers: prompt and answer in one sequence, with no loss on the prompt."""
    rows: Rows = [{} for _ in range(len(pairs))]
    for side, answers in (("chosen", pairs.chosen), ("rejected", pairs.rejected)):
        for row, prompt, answer in zip(rows, _prompt_ids(answers), _completion_ids(answers), strict=True):
            row[f"{side}_input_ids"] = prompt + answer
            row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
            row[f"{side}_labels"] = [NO_LOSS] * len(prompt) + answer
    return rows


def unpaired(labels: Labels) -> Rows:
    """Single answers for KTO, each with the answer of the previous row for the estimate of KL."""
    answers = _completion_ids(labels.rollouts)
    columns = zip(_prompt_ids(labels.rollouts), answers, [answers[-1], *answers], labels.desirable.tolist(), strict=False)
    return [
        {"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other, "label": up}
        for prompt, answer, other, up in columns
    ]


def contexts(prompts: Prompts, draws: int) -> Rows:
    """Prompts for an online trainer, each repeated ``draws`` times in a row."""
    ids = [tokens[mask].tolist() for tokens, mask in zip(prompts.tokens, prompts.mask, strict=True)]
    return [{"prompt": each} for each in ids for _ in range(draws)]


def _prompt_ids(answers: Rollouts) -> list[list[int]]:
    split, lengths = answers.prompt_length, prompt_lengths(answers)
    return [row[split - length : split] for row, length in zip(answers.tokens.tolist(), lengths, strict=True)]


def _completion_ids(answers: Rollouts) -> list[list[int]]:
    rows = zip(answers.completion.tolist(), completion_lengths(answers), strict=True)
    return [row[:length] for row, length in rows]
