"""Check a command line before any work; each mistake is one line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isoalign.config.fill import build_config
from isoalign.config.search_path import folders, options, prepare
from isoalign.config.task import TaskConfig
from isoalign.core import plugins
from isoalign.core.errors import UserError, unknown
from isoalign.runs.exchanged import composed
from isoalign.training.provenance import FAMILIES

GROUPS = ("algorithm", "task", "budget")
# Flags of Hydra that take a word behind them.
TAKES_A_WORD = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn")


def listed() -> dict[str, str]:
    """Every group's choices, for the help; algorithms by what they learn from, and of rows over one of TRL's loops, how many
    there are."""
    found = {group: list(options(group)) for group in GROUPS}
    rows = [name for name in found["algorithm"] if name.startswith("trl_") and name in plugins.rows()]
    families, parts = plugins.families(), []
    for family in (*FAMILIES, ""):
        members = [name for name in found["algorithm"] if families.get(name, "") == family and name not in rows]
        parts += [f"{family or 'others'}: {', '.join(members)}"] if members else []
    texts = {f"{group}s": ", ".join(choices) for group, choices in found.items()}
    return texts | {"algorithms": "; ".join([*parts, f"{len(rows)} losses of TRL's: trl_*"])}


def check_overrides(arguments: list[str], sweep: bool) -> None:
    """Refuse unknown choices and keys, and what Hydra can't read.

    Raises UserError naming the word that is wrong and what is known.
    """
    prepare()
    for before, name in zip(["", *arguments], arguments, strict=False):
        if not name.startswith("-") and "=" not in name and before not in TAKES_A_WORD:
            raise UserError(f"{name!r} is not KEY=VALUE; see `isoalign run --help`")
    words = [a for a in arguments if "=" in a and not a.startswith("-")]
    chosen: dict[str, list[str]] = {}
    for word in words:
        key = word.partition("=")[0]
        names = _values(word, sweep)
        if key == "tuned" and (odd := [name for name in names if name not in options(key)]):
            raise UserError(unknown(key, odd[0], options(key)))
        if key in GROUPS:
            chosen[key] = names
            for name in names:
                if re.fullmatch(r"[\w-]*", name) and name not in options(key):
                    raise UserError(unknown(key, name, options(key)))
                if key == "algorithm":
                    configure(name)
    _check_keys([word.partition("=")[0] for word in words], chosen)


def quoted(word: str) -> str:
    """KEY=VALUE with quotes about a value that holds #, as hf:NAME#LABEL does: Hydra's grammar has no # outside of them."""
    key, sign, value = word.partition("=")
    return f'{key}{sign}"{value}"' if "#" in value and not set(value) & set("\"',[]{}()") else word


def task_named(name: str, settings: Sequence[str] = ()) -> TaskConfig:
    """A task of conf/, with settings as KEY=VALUE. Raises UserError if there is no such task."""
    settings = list(map(quoted, settings))
    for word in settings:
        if not word.startswith("task."):
            raise UserError(f"{word}: only settings of the task (task.KEY=VALUE) are accepted here")
    check_overrides([f"task={name}", *settings], sweep=False)
    with one_line(f"task={name}"), initialize_config_module(version_base="1.3", config_module="isoalign.conf"):
        config = compose("config", overrides=[f"task={name}", *settings])
    task: TaskConfig = build_config(TaskConfig, OmegaConf.to_container(config.task, resolve=True), "task")
    return task


@contextmanager
def one_line(word: str = "") -> Iterator[None]:
    """Inside, what Hydra or OmegaConf complains of becomes a UserError of one line, with the ``word`` that it is about."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{word}: {reason}" if word else reason) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{mark.name}, line {mark.line + 1}" if mark else getattr(error, "name", None) or word or "configuration"
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UserError(f"{where}: not valid yaml: {reason}") from error


def _values(word: str, sweep: bool) -> list[str]:
    """What a KEY=VALUE of Hydra's grammar goes over, be it ``a``, ``a,b``, ``choice(a,b)`` or ``glob(*)``."""
    with one_line(word):
        override = OverridesParser.create().parse_override(word)
        if not override.is_sweep_override():
            return [word.partition("=")[2]]
        if not sweep:
            raise UserError(f"{word}: several values make a sweep; add -m")
        value, group = override.value(), override.key_or_group
        names = value.filter(options(group)) if isinstance(value, Glob) else list(override.sweep_string_iterator())
        if not names:
            raise UserError(f"{word}: matches nothing")
        return names


def _check_keys(keys: list[str], chosen: dict[str, list[str]]) -> None:
    """Every key must be known under every choice."""
    _check_added([key.lstrip("+") for key in keys if key.startswith("+")])
    keys = [k for k in keys if not (k.startswith(("hydra", "+", "~")) or k in (*GROUPS, "tuned") or "@" in k or "/" in k)]
    for names in itertools.product(*chosen.values()):
        choices = {group: f"{group}={name}" for group, name in zip(chosen, names, strict=True)}
        with one_line(" ".join(choices.values())):
            config = composed(list(choices.values()))
        for group, name in choices.items():
            own, name = config[group].get("name", ""), name.partition("=")[2]
            if own not in ("", name):
                raise UserError(f"{group}/{name}.yaml has name: {own}; it must be name: {name}, as the file")
        known = _leaves(OmegaConf.to_container(config, resolve=False)) - {"algorithm.of"}  # a row's class is its file's
        for key in keys:
            if key not in known:
                group = key.partition(".")[0]
                siblings = sorted(name for name in known if name.partition(".")[0] == group)
                line = unknown("key", key, siblings or sorted(config))
                raise UserError(f"{choices[group]}: {line}" if group in choices else line)


def _check_added(keys: list[str]) -> None:
    """A key that is added is one of a group's, or a group: nothing reads another."""
    for key in keys:
        first, dot, _ = key.partition(".")
        if first in (*GROUPS, "hydra") or (not dot and (key in composed([]) or options(key.partition("@")[0]))):
            continue
        advice = f"settings are of algorithm, task or budget, such as algorithm.{key}"
        raise UserError(f"+{key}: nothing reads this key; {advice}")


def _leaves(node: object, prefix: str = "") -> set[str]:
    """Dotted names of every node."""
    if not isinstance(node, dict):
        return {prefix}
    names = {prefix} if prefix else set()
    for key, value in node.items():
        names |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return names


@cache
def configure(name: str) -> None:
    """Register the configuration of an algorithm without a yaml with Hydra; only of a requested one, because its code runs.

    Raises UserError if it cannot be loaded.
    """
    if name in plugins.entry_points("algorithms") and not any((f / "algorithm" / f"{name}.yaml").exists() for f in folders()):
        from isoalign.training import registry  # loads torch, which neither a help nor a look at a task needs

        node = {"name": name, **registry.default_settings(name)}
        ConfigStore.instance().store(group="algorithm", name=name, node=node, provider="isoalign-plugin")
