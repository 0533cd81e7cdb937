"""AI judges behind one small interface: which of two answers is better, asked in both orders (verdicts.py).

``classifier`` reads the two answers, ``lm`` is any causal language model judged by the log-probability of its verdict,
``server`` any OpenAI-compatible chat-completions server. A judge of another package is a kind of its own, by the name of its
entry point (core/plugins.py).
"""

from __future__ import annotations

from pathlib import Path

from isoalign.config.feedback import KINDS, JudgeConfig
from isoalign.core import plugins
from isoalign.core.records import Question
from isoalign.feedback.judges.identity import identity
from isoalign.feedback.judges.verdicts import Judge, Verdict

__all__ = ["Judge", "JudgeConfig", "Question", "Verdict", "identity", "load"]


def load(config: JudgeConfig, cache: Path, annotators: Path | None = None, quiet: bool = False) -> Judge:
    """The judge, ready to be asked. ``cache``: folder for a server's answers; ``annotators``: that of the fitted classifier;
    ``quiet``: without a progress bar. Raises UserError where it can't be had."""
    if config.kind == "server":
        from isoalign.feedback.judges.server import ServerJudge

        return ServerJudge(config, cache, quiet=quiet)
    if config.kind == "lm":
        from isoalign.feedback.judges.lm import load_lm

        return load_lm(config, quiet)
    if config.kind not in KINDS:
        judge: Judge = plugins.load("judges", config.kind).load(config, cache)
        return judge
    from isoalign.feedback.judges.classifier import load_classifier

    assert annotators is not None, "a stage fits the classifier; load it from there"
    return load_classifier(config, annotators)
