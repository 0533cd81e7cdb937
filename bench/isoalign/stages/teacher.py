"""The teacher of a task, a language model that methods distil: what it must be to read and write the policy's tokens."""

from __future__ import annotations

from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.models import loading
from isoalign.stages.preflight import check_length


def require_teacher(task: TaskConfig) -> str:
    """The name of the teacher. Raises UserError if the task has none."""
    if not task.teacher:
        raise UserError(
            "it learns from a teacher, and the task has none: set task.teacher to a language model with the tokenizer of "
            f"task.model.name={task.model.name}, a folder or hub name; `isoalign export` makes one of a trained policy"
        )
    return task.teacher


def check_teacher(task: TaskConfig) -> None:
    """Raises UserError unless the teacher has the tokens of the task's model, as many logits, and reads prompts and answers of
    the task's length. Loads tokenizers and configurations, no weights."""
    name, student = require_teacher(task), task.model.name
    configs = [loading.load_config(each) for each in (student, name)]
    own, other = (loading.load_tokenizer(each).get_vocab() for each in (student, name))
    if own != other:
        words = sorted(word for word in own.keys() | other.keys() if own.get(word) != other.get(word))
        raise UserError(
            f"task.teacher={name} has another vocabulary than task.model.name={student}: {len(words)} tokens differ, "
            f"{words[0]!r} among them; a teacher needs the policy's tokenizer"
        )
    logits = [config.get_text_config().vocab_size for config in configs]
    if logits[0] != logits[1]:
        raise UserError(
            f"task.teacher={name} has {logits[1]} logits, and task.model.name={student} has {logits[0]}; a teacher needs as "
            "many"
        )
    check_length(name, configs[1], task.model)
