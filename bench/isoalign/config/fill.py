"""Fill configuration dataclasses from yaml, Hydra nodes or the JSON of cards."""

import json
import re
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError

KINDS = {"float": "a number", "int": "a whole number", "str": "a text", "bool": "true or false"}
NO_NULL = re.compile(r"Incompatible value 'None' for field of type '(\w+)'")


def build_config(schema: type, settings: Any, where: str) -> Any:
    """A frozen ``schema`` object from plain settings or a Hydra node.

    Raises UserError naming ``where`` and the key that is unknown, of the wrong type or out of range.
    """
    try:
        node = OmegaConf.structured(schema)
        _make_writable(node, schema)
        return OmegaConf.to_object(OmegaConf.merge(node, settings))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = getattr(error, "full_key", None)
        place, said = f"{where}.{key}" if key else where, str(error).splitlines()[0]
        said = f"must be {KINDS.get(match[1], match[1])}, not null" if (match := NO_NULL.fullmatch(said)) else said
        raise UserError(f"{place}: {said}") from error


@cache
def with_defaults(task: str) -> Any:
    """A task's settings, given as JSON, with the defaults of settings added since; unchanged if this version doesn't know some
    of them."""
    settings = json.loads(task)
    try:
        return json.loads(json.dumps(asdict(build_config(TaskConfig, settings, "task"))))
    except UserError:
        return settings


def _make_writable(node: Any, schema: type) -> None:
    """Make a node and its children writable: those of frozen dataclasses are read-only, so yaml values can't be merged."""
    OmegaConf.set_readonly(node, False)
    kinds = get_type_hints(schema)
    for field in fields(schema):
        kind = kinds[field.name]
        if isinstance(kind, type) and is_dataclass(kind):
            if OmegaConf.is_missing(node, field.name):
                node[field.name] = OmegaConf.structured(kind)
            _make_writable(node[field.name], kind)
