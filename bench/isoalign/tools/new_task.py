"""The yaml of a new task over data of one's own, with lengths and budgets that suit its model and prompts."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from isoalign.config.fill import build_config
from isoalign.config.task import PromptsConfig, TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.files import save
from isoalign.core.places import CONF
from isoalign.data import formats, prompts
from isoalign.data.formats.files import iterate_rows
from isoalign.data.formats.rows import Row
from isoalign.models import loading
from isoalign.models.answer_scorers import load_answer_scorer
from isoalign.models.scorers import EMBEDDED
from isoalign.stages.sft import NONE
from isoalign.tools.scaffold import check_name

YAML = """# {name}: written by isoalign new task; every setting is in conf/task/common/defaults.yaml.
defaults:
  - common/defaults@_here_
  - _self_
name: {name}
seed: 0
{objective}budgets: {{tiny: {tiny:.1e}, small: {small:.1e}, large: {large:.1e}}}   # FLOPs of budget=NAME
model: {{name: {model}, lora: {lora}, bf16: false, eos: open, prompt_tokens: {prompt_tokens}, new_tokens: {new_tokens}}}
prompts: {{source: {prompts}, {where}, train: 0, validation: 0, test: 0{skip}}}   # 0: all
sft: {{source: {demonstrations}, steps: 50, lr: 1.0e-4, batch_size: 32{skip}}}
feedback: {{draws: 4, margin: 0.3, judge_margin: 0.3, noise: {noise}, file: {feedback}{skip}}}
reward: {{pairs: 1000, lr: 1.0e-4, batch_size: 16, epochs: 1}}
evaluation:
  {{split: test, draws: 4, seed: 1234, scorer: {scorer}, second_scorer: {second}, curve_prompts: 64, curve_draws: 2}}
training:
  {{betas: [0.9, 0.95], weight_decay: 0.0, warmup: 10, clip: 1.0, micro_batch: 16, checkpoint_seconds: 60, patience: 20,
   idle_seconds: 600, snapshots: [0.25, 0.5, 0.75]}}
"""


@dataclass(frozen=True)
class NewTask:
    """What a new task is over. ``source``: of prompts, in ``column`` or a format of feedback; ``demonstrations``: or ``none``;
    ``feedback``: of people, or empty; ``scorer`` and ``second_scorer``: of the objective; ``known_reward``: whether the first
    is annotator and reward as well; ``skip``: rows to leave out, ``empty``, ``tools`` or ``faulty``."""

    name: str
    model: str
    source: str
    column: str = "prompt"
    demonstrations: str = NONE
    feedback: str = ""
    lora: int = 0
    scorer: str = "tox_block"
    second_scorer: str = "toxic_classifier"
    known_reward: bool = False
    skip: str = ""
    higher_is_better: bool | None = None

    def write(self, folder: Path) -> Path:
        """Write the yaml into ``folder``; its path.

        Raises UserError, with nothing written, for a name that is taken or cannot be one, for prompts that cannot be read, and
        for settings that are none of a task.
        """
        check_name(self.name, "a task", "my_task")
        if self.scorer == self.second_scorer:
            raise UserError(f"the second scorer must be another one than {self.scorer}; name one with --second-scorer")
        if (file := folder / f"{self.name}.yaml").exists():
            raise UserError(f"{file} already exists; remove it, or choose another name")
        tokenizer, weights = loading.load_tokenizer(self.model), loading.count_parameters(self.model)
        format = _prompt_format(self.source, self.column)
        asked = prompts.read_own(
            self.source, PromptsConfig(source=self.source, column=self.column, format=format, skip=self.skip)
        )
        lengths = sorted(len(tokenizer(prompt.text)["input_ids"]) for prompt in asked)
        prompt_tokens = lengths[min(len(lengths) - 1, len(lengths) * 98 // 100)] + 8
        new_tokens = _answer_tokens(tokenizer, self.demonstrations, self.feedback, self.skip)
        # nano's budgets for its size and the tokens of a row
        small = 4.5e12 * weights / 4.2e6 * (prompt_tokens + new_tokens) / 44 / (3 if self.lora else 1)
        text = YAML.format(
            name=self.name, model=_place(self.model, loading.EMBEDDED), lora=self.lora, prompts=_place(self.source),
            where=f"format: {format}" if format else f"column: {_quoted(self.column)}",
            demonstrations=_place(self.demonstrations, (NONE,)), feedback=_place(self.feedback), prompt_tokens=prompt_tokens,
            new_tokens=new_tokens, tiny=small / 2, small=small, large=2 * small, scorer=_quoted(self.scorer),
            second=_quoted(self.second_scorer), objective=self._objective(), noise=0.0 if self.known_reward else 0.05,
            skip=f", skip: {self.skip}" if self.skip else "",
        )  # fmt: skip
        _check_settings(text)
        save(file, text)
        return file

    def _objective(self) -> str:
        """The lines of the objective; none for toxicity. Raises UserError for a scorer that there is not."""
        known = "known_reward: true\n" if self.known_reward else ""
        scorer = None if self.scorer in EMBEDDED else load_answer_scorer(self.scorer)
        if self.second_scorer not in EMBEDDED and not self.second_scorer.startswith(("hf:", "reward:")):
            load_answer_scorer(self.second_scorer)  # it is found; a model need not lie on this machine
        given, says = self.higher_is_better, False if scorer is None else scorer.higher_is_better
        if given is not None and says is not None:
            raise UserError(f"{self.scorer} says itself which way its numbers go; leave out --higher-is-better")
        if scorer is None:
            return known
        better = given if says is None else says
        if better is None:
            raise UserError(f"{self.scorer} does not say whether more is better; add --higher-is-better or --lower-is-better")
        name = (self.scorer.partition(":")[2] or self.scorer).rpartition("/")[2].partition("@")[0].replace("#", "_")
        settings = {
            "name": _quoted(name), "higher_is_better": str(better).lower(),
            "bounds": f"[{', '.join(map(_number, scorer.bounds))}]",
            "threshold": 0.5 if scorer.bounds == (0.0, 1.0) else "null",
        }  # fmt: skip
        return f"{known}objective: {{{', '.join(f'{key}: {value}' for key, value in settings.items())}}}\n"


def _number(end: float | None) -> str:
    return "null" if end is None else str(float(end))


def _quoted(text: str) -> str:
    """A text in yaml."""
    return json.dumps(text, ensure_ascii=False)


def _place(text: str, names: Collection[str] = ()) -> str:
    """In yaml, the absolute path of a file or folder, as runs start elsewhere; another text, or one of the ``names``, as it
    is."""
    return _quoted(str(Path(text).resolve()) if text and text not in names and Path(text).exists() else text)


def _check_settings(text: str) -> None:
    """Raise UserError for the yaml of a task that has a setting out of range."""
    settings: Any = yaml.safe_load(text)
    del settings["defaults"]
    build_config(TaskConfig, OmegaConf.merge(OmegaConf.load(CONF / "task" / "common" / "defaults.yaml"), settings), "task")


def _prompt_format(source: str, column: str) -> str:
    """The format by which the prompts of feedback or demonstrations are read; empty for a file with a column of prompts."""
    first = next((row for row in iterate_rows(source) if isinstance(row, Row)), None)
    if first is None or first.has(column.partition(".")[0]):
        return ""
    try:
        return formats.open_file(source).format
    except UserError:  # reading the column says what is wrong
        return ""


def _answer_tokens(tokenizer: object, demonstrations: str, feedback: str, skip: str) -> int:
    """Tokens that nineteen of twenty known answers have at most."""
    answers: list[str] = []
    if demonstrations not in ("", NONE):
        shown = formats.read_file(demonstrations, skip=skip).demonstrations
        answers += ["".join(turn.content for turn in each.completion) for each in shown]
    if feedback:
        data = formats.read_file(feedback, skip=skip)
        answers += ["".join(turn.content for turn in each.chosen) for each in data.comparisons]
        answers += ["".join(turn.content for turn in each.completion) for each in data.unpaired]
    lengths = sorted(len(tokenizer(answer)["input_ids"]) for answer in answers)  # type: ignore[operator]
    return lengths[len(lengths) * 95 // 100] + 1 if lengths else 64
