"""Configuration dataclasses filled from yaml, Hydra nodes or the JSON of cards."""

import json
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError


def build(schema: type, settings: Any, where: str) -> Any:
    """A frozen ``schema`` object from plain settings or a Hydra node.

    Raises UserError naming ``where`` and the key that is unknown, ill-typed or out of range.
    """
    try:
        node = OmegaConf.structured(schema)
        _thaw(node, schema)
        return OmegaConf.to_object(OmegaConf.merge(node, settings))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = getattr(error, "full_key", None)
        place = f"{where}.{key}" if key else where
        raise UserError(f"{place}: {str(error).splitlines()[0]}") from error


@cache
def whole(task: str) -> Any:
    """A task's settings, as JSON, with the defaults of those that came after they were written down; as they are where
    this version does not know some of them."""
    told = json.loads(task)
    try:
        return json.loads(json.dumps(asdict(build(TaskConfig, told, "task"))))
    except UserError:
        return told


def _thaw(node: Any, schema: type) -> None:
    """A frozen dataclass makes its node read-only, and those inside it; values from yaml could not be merged in."""
    OmegaConf.set_readonly(node, False)
    kinds = get_type_hints(schema)
    for field in fields(schema):
        kind = kinds[field.name]
        if isinstance(kind, type) and is_dataclass(kind):
            if OmegaConf.is_missing(node, field.name):
                node[field.name] = OmegaConf.structured(kind)
            _thaw(node[field.name], kind)
