"""What is wrong with a command line, said in one line before Hydra starts."""

from __future__ import annotations

import re
from pathlib import Path

from bench.errors import UserError
from bench.registry import unknown

GROUPS = ("algorithm", "task", "budget")
TAKES_A_WORD = (
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--package",
    "-p",
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
)  # of Hydra's flags


def options(group: str) -> list[str]:
    """The choices of a configuration group: its yaml files."""
    import conf

    return sorted(file.stem for file in (Path(next(iter(conf.__path__))) / group).glob("*.yaml"))


def listed() -> dict[str, str]:
    """Every group's choices, for the help."""
    return {f"{group}s": ", ".join(options(group)) for group in GROUPS}


def check(arguments: list[str], sweep: bool) -> None:
    """Refuse unknown choices and keys.

    Raises UserError naming the word that is wrong and what is known.
    """
    words = [a for a in arguments if "=" in a and not a.startswith("-")]
    chosen: dict[str, list[str]] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in GROUPS:
            chosen[key] = value.split(",") if sweep else [value]
            for name in chosen[key]:
                if re.fullmatch(r"[\w-]*", name) and name not in options(key):
                    raise UserError(unknown(key, name, options(key)))
        if not sweep and "," in value and not key.startswith("hydra") and not re.search(r"[\[({'\"]", value):
            raise UserError(f"{word}: several values make a sweep; add -m")
    for before, name in zip(["", *arguments], arguments, strict=False):
        if not name.startswith("-") and "=" not in name and before not in TAKES_A_WORD:
            raise UserError(f"{name!r} is no KEY=VALUE; see `isoalign run --help`")
    first = [f"{group}={names[0]}" for group, names in chosen.items()]
    _check_keys([w.partition("=")[0] for w in words], first)


def _check_keys(keys: list[str], choices: list[str]) -> None:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module(version_base="1.3", config_module="conf"):
        config = compose("config", overrides=choices)
    known = _leaves(OmegaConf.to_container(config, resolve=False))
    for key in keys:
        if key.startswith(("hydra", "+", "~")) or key in GROUPS or "@" in key or "/" in key:
            continue
        if key not in known:
            siblings = sorted(name for name in known if name.partition(".")[0] == key.partition(".")[0])
            raise UserError(unknown("key", key, siblings or sorted(config)))


def _leaves(node: object, prefix: str = "") -> set[str]:
    """Dotted names of every node."""
    if not isinstance(node, dict):
        return {prefix}
    names = {prefix} if prefix else set()
    for key, value in node.items():
        names |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return names
