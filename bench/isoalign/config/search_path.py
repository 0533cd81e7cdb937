"""Hydra's search path: conf/ and the configuration packages of plug-ins."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from isoalign.core import plugins
from isoalign.core.places import CONF


class PluginPath(SearchPathPlugin):
    """Adds the configuration packages of plug-ins after conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for every configuration it composes."""
        for package in plugins.configurations():
            search_path.append("isoalign-plugin", f"pkg://{package}")


def folders() -> list[Path]:
    """All configuration folders, the project's own first."""
    return [CONF, *plugins.configurations().values()]


def options(group: str) -> list[str]:
    """The choices of a configuration group."""
    names = {file.stem for folder in folders() for file in (folder / group).glob("*.yaml")}
    return sorted(names | (set(plugins.entry_points("algorithms")) if group == "algorithm" else set()))


@cache
def prepare() -> None:
    """Register the plug-ins with Hydra, once, before it composes anything."""
    Plugins.instance().register(PluginPath)
