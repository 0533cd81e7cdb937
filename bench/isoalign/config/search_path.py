"""Where Hydra finds configuration: conf/, what other packages bring, and the fields of algorithms that have no yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from isoalign.core import plugins
from isoalign.core.places import CONF


class PluginPath(SearchPathPlugin):
    """Adds the configuration packages of plug-ins behind conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for every configuration that it composes."""
        for package in plugins.configurations():
            search_path.append("isoalign-plugin", f"pkg://{package}")


def folders() -> list[Path]:
    """Every folder of yaml, the project's own first."""
    return [CONF, *plugins.configurations().values()]


def options(group: str) -> list[str]:
    """The choices of a configuration group."""
    found = {file.stem for folder in folders() for file in (folder / group).glob("*.yaml")}
    return sorted(found | (set(plugins.entry_points("algorithms")) if group == "algorithm" else set()))


@cache
def prepare() -> None:
    """Tell Hydra of plug-ins, once and before it composes anything."""
    Plugins.instance().register(PluginPath)
