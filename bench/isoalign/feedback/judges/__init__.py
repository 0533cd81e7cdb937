"""AI judges with a common interface: which of two answers is better, asked in both orders (verdicts.py).

``classifier`` compares scores of the two answers; ``lm`` is any causal language model, read by the log-probability of its
verdict; ``server`` is any OpenAI-compatible chat-completions server. A judge of another package is named by its entry point
(core/plugins.py).
"""

from __future__ import annotations

from pathlib import Path

from isoalign.config.feedback import KINDS, JudgeConfig
from isoalign.core import plugins
from isoalign.core.records import Question
from isoalign.feedback.judges.classifier import load_classifier
from isoalign.feedback.judges.identity import judge_identity
from isoalign.feedback.judges.lm import load_lm
from isoalign.feedback.judges.server import ServerJudge
from isoalign.feedback.judges.verdicts import Judge, Verdict

__all__ = ["Judge", "JudgeConfig", "Question", "Verdict", "judge_identity", "load_judge"]


def load_judge(config: JudgeConfig, cache: Path, annotators: Path | None = None, quiet: bool = False) -> Judge:
    """Load the judge. ``cache``: folder for a server's answers; ``annotators``: folder of the fitted classifier; ``quiet``:
    without a progress bar. Raises UserError if it can't be loaded."""
    if config.kind == "server":
        return ServerJudge(config, cache, quiet=quiet)
    if config.kind == "lm":
        return load_lm(config, quiet)
    if config.kind not in KINDS:
        judge: Judge = plugins.load("judges", config.kind).load(config, cache)
        return judge
    assert annotators is not None, "the classifier judge needs the folder of the annotators' stage"
    return load_classifier(config, annotators)
