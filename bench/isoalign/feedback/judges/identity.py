"""All that a judge's verdicts depend on, for keys."""

from __future__ import annotations

from typing import Any

from isoalign.config.feedback import KINDS, JudgeConfig
from isoalign.core import plugins, source
from isoalign.feedback.judges.templates import load_template
from isoalign.models import language

VERSION = 1  # raised whenever a judge's verdicts would change


def identity(config: JudgeConfig) -> dict[str, Any]:
    """What a judge's verdicts depend on, for the key of a stage, without loading it; never a key or a limit.

    Another address is another judge: the name of a model says nothing of the weights behind it. Of the classifier the
    weights are those of the stage that fitted it, whose key stands beside this.
    """
    common = {"version": VERSION, "kind": config.kind}
    if config.kind == "classifier":
        return common
    if config.kind not in KINDS:
        module = plugins.load("judges", config.kind)
        return common | dict(module.identity(config)) | {"source": source.digest([module.__name__])}
    asked = {"thought": config.thought, "template": load_template(config.template).digest}
    if config.kind == "server":
        return common | asked | {"model": config.model, "base_url": config.base_url.rstrip("/"), "temperature": 0}
    return common | asked | {"weights": language.identity(config.model)}
