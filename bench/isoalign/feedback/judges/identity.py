"""All that a judge's verdicts depend on, for the keys of stages."""

from __future__ import annotations

from typing import Any

from isoalign.config.feedback import KINDS, JudgeConfig
from isoalign.core import plugins, source
from isoalign.feedback.judges.templates import load_template
from isoalign.models import loading

VERSION = 1  # raise it when the verdicts of a judge change
READS = 2  # the same of those that read questions


def judge_identity(config: JudgeConfig) -> dict[str, Any]:
    """All that a judge's verdicts depend on, for the key of a stage, without loading it; API keys and limits never count.

    Another address is another judge: a server's model name does not identify its weights. The weights of the classifier
    are covered by the key of the stage that fitted it.
    """
    common: dict[str, Any] = {"version": VERSION, "kind": config.kind}
    if config.kind == "classifier":
        return common
    common |= {"reads": READS}
    if config.kind not in KINDS:
        module = plugins.load("judges", config.kind)
        return common | dict(module.identity(config)) | {"source": source.source_digest([module.__name__])}
    prompting = {"thought": config.thought, "template": load_template(config.template, config.criterion).digest}
    if config.kind == "server":
        return common | prompting | {"model": config.model, "base_url": config.base_url.rstrip("/"), "temperature": 0}
    return common | prompting | {"weights": loading.weights_identity(config.model)}


def judge_model(config: JudgeConfig) -> Any:
    """The model behind a judge, whatever it is asked: two judges of one model are not independent."""
    if config.kind == "lm":
        return "lm", loading.weights_identity(config.model)
    if config.kind == "server":
        return "server", config.model, config.base_url.rstrip("/")
    return (config.kind,) if config.kind == "classifier" else (config.kind, config.model)
