"""Where Hydra finds configuration: conf/, what other packages bring, and the fields of algorithms that have no yaml."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from bench import plugins, registry
from bench.errors import UserError


class PluginPath(SearchPathPlugin):
    """Adds the configuration packages of plug-ins behind conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for every configuration that it composes."""
        for package in plugins.configurations():
            search_path.append("isoalign-plugin", f"pkg://{package}")


def folders() -> list[Path]:
    """Every folder of yaml, the project's own first."""
    import conf

    return [Path(next(iter(conf.__path__))), *plugins.configurations().values()]


def options(group: str) -> list[str]:
    """The choices of a configuration group."""
    found = {file.stem for folder in folders() for file in (folder / group).glob("*.yaml")}
    return sorted(found | (set(plugins.entry_points("algorithms")) if group == "algorithm" else set()))


@cache
def prepare() -> None:
    """Tell Hydra of plug-ins, once and before it composes anything."""
    Plugins.instance().register(PluginPath)
    written = {file.stem for folder in folders() for file in (folder / "algorithm").glob("*.yaml")}
    for name in set(plugins.entry_points("algorithms")) - written:
        fields: dict[str, Any] = {}
        with suppress(UserError):  # one that can't be had says so when it is asked for, and harms no other
            fields = registry.hyperparameters(registry.algorithm(name)())
        ConfigStore.instance().store(group="algorithm", name=name, node={"name": name, **fields}, provider="isoalign-plugin")
