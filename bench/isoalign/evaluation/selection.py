"""Methods that do not train but select among several answers: the selection, and its bill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from isoalign.config.task import ModelConfig
from isoalign.core import world
from isoalign.core.errors import UserError
from isoalign.core.jsonl import read_rows, write_rows
from isoalign.core.progress import track
from isoalign.data.preferences import rollouts as as_rollouts
from isoalign.data.prompts import Prompt
from isoalign.evaluation import samples as sample
from isoalign.models.language import LanguageModel
from isoalign.stages.completions import completion_ids
from isoalign.stages.cutting import encode_prompts
from isoalign.training.lab import Lab
from isoalign.training.meter import BudgetSpent
from isoalign.training.session import Session

ANSWERS = "answers.jsonl"


def make_selection(
    work: Path, algorithm: Any, session: Session, base: LanguageModel, model: ModelConfig, chosen: Sequence[Prompt], draws: int
) -> None:
    """Write ``answers.jsonl``: ``draws`` answers to each evaluation prompt. Each is the best, by ``algorithm.select``, of
    ``algorithm.draws`` answers of the SFT base.

    What has to be made before the first answer, such as a reward model, is charged, and one choice, for one prompt. The
    evaluation's answers are as free as those of every method, or the largest ``draws`` that a budget covers would depend on
    how many prompts are scored. Raises UserError if the budget does not cover it.
    """
    rows: list[dict[str, Any]] = []
    lab = Lab(session)
    each = getattr(algorithm, "draws", 0)
    if not isinstance(each, int) or each < 1:
        raise UserError("a method with select() needs a field draws: int of 1 or more, the number of answers to select from")
    state = session.generator.get_state()
    try:
        session.sandboxed(algorithm.select, lab, lab.generate(encode_prompts(base.tokenizer, chosen[:1], model), each))
    except BudgetSpent as spent:
        raise UserError(f"the budget does not cover the best of {each} answers: {spent}; lower algorithm.draws") from spent
    session.generator.set_state(state)
    with session.meter.paused():
        for start in track(range(0, len(chosen), sample.ROWS), "selecting"):
            part = chosen[start : start + sample.ROWS]
            answers = lab.generate(encode_prompts(base.tokenizer, part, model), draws * each)
            ids = completion_ids(answers)
            scores = session.sandboxed(algorithm.select, lab, answers)
            if not isinstance(scores, Tensor) or scores.shape != (len(answers),) or scores.isnan().any():
                raise UserError(f"select(lab, answers) must return a score, not nan, for each of {len(answers)} answers")
            best = scores.view(-1, each).argmax(1).tolist()
            rows += [
                {"prompt_id": prompt.id, "draw": draw, "ids": ids[row * each + best[row]]}
                for place, prompt in enumerate(part)
                for draw in range(draws)
                for row in [place * draws + draw]
            ]
    if not world.rank():
        write_rows(work / ANSWERS, rows)


def make_selected_samples(
    work: Path, folder: Path, base: LanguageModel, model: ModelConfig, chosen: Sequence[Prompt], draws: int, bound: float
) -> None:
    """Write ``samples.jsonl`` of the selected answers. Their probability is unknown, so their KL is the ``bound``."""
    ids = [row["ids"] for row in read_rows(folder / ANSWERS)]
    rows = []
    for start in range(0, len(chosen), sample.ROWS):
        part = chosen[start : start + sample.ROWS]
        encoded = encode_prompts(base.tokenizer, part, model)
        prompts = [tokens[mask].tolist() for tokens, mask in zip(encoded.tokens, encoded.mask, strict=True)]
        answers = ids[start * draws : (start + len(part)) * draws]
        drawn = as_rollouts([prompt for prompt in prompts for _ in range(draws)], answers, int(base.tokenizer.pad_token_id))
        samples = sample.sample_rows(part, drawn.to(base.device), base, base, draws)
        rows += [asdict(replace(each, logp=None, kl=bound, entropy=None)) for each in samples]
    if not world.rank():
        write_rows(work / "samples.jsonl", rows)
