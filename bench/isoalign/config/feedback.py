"""Configuration of feedback: a panel of simulated annotators, an AI judge, a constitution."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from isoalign.core import plugins
from isoalign.core.store import added_later

CONSENSUS = ("vote", "bradley_terry", "elo")  # rules of feedback/consensus.py


@dataclass(frozen=True)
class PanelConfig:
    """A panel of simulated annotators; the default is a single one who always finds the better answer.

    ``annotators``: their number. ``temperature``: of each annotator, in logits, assigned in turn. Biases in logits at
    temperature 1, negative for the opposite direction: ``length`` per word by which an answer is longer; ``position`` for the
    answer shown first, a coin per annotator and item; ``expectation`` for the answer that the annotators expect to be better,
    one coin per item, so that voting does not remove it. ``coverage``: share of the items that each annotator rates;
    ``topic``: items are drawn with weight exp(``topic``) for the favoured topic and 1 for others. ``consensus``: vote,
    bradley_terry or elo. ``golden``: items of known verdict by which annotators are weighted; 0 for equal weights.

    The unit of ``length`` is a word, not a standard deviation of lengths, so that verdicts don't depend on other items.
    Published sizes: non-blinded assessors shift odds ratios by a factor of 0.64, ``expectation`` =
    0.45 (Hrobjartsson et al. 2012, on Rosenthal's expectancy effect, 1976); AlpacaFarm's simulated annotators flip one verdict
    in four (Dubois et al. 2023); biases for length and for the first position are those of Dubois et al. 2024, "Length-
    controlled AlpacaEval", and Wang et al. 2023, "Large language models are not fair evaluators".
    """

    annotators: int = 1
    temperature: tuple[float, ...] = (0.0,)
    length: float = 0.0
    position: float = 0.0
    expectation: float = 0.0
    topic: float = 0.0
    coverage: float = 1.0
    consensus: str = "vote"
    golden: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", tuple(self.temperature))  # yaml gives a list, which never equals a tuple
        if self.annotators < 1:
            raise ValueError(f"task.panel.annotators must be 1 or more, not {self.annotators}")
        if not self.temperature or not all(0 <= t < math.inf for t in self.temperature):
            raise ValueError(f"task.panel.temperature must be one or more numbers of 0 or more, not {list(self.temperature)}")
        for name in ("length", "position", "expectation", "topic"):
            if not math.isfinite(value := getattr(self, name)):
                raise ValueError(f"task.panel.{name} must be a finite number, not {value}")
        if not 0 < self.coverage <= 1:
            raise ValueError(f"task.panel.coverage must lie in (0, 1], not {self.coverage}")
        if self.topic and self.coverage == 1:
            raise ValueError("task.panel.topic has no effect if annotators rate all items; set task.panel.coverage below 1")
        if self.consensus not in CONSENSUS:
            raise ValueError(f"task.panel.consensus must be one of {', '.join(CONSENSUS)}, not {self.consensus!r}")
        if self.golden < 0:
            raise ValueError(f"task.panel.golden must be 0 or more, not {self.golden}")


KINDS = ("classifier", "lm", "server", "scorer")


@dataclass(frozen=True)
class JudgeConfig:
    """The AI judge.

    ``model``: for ``lm`` a folder, a hub name, nano or smollm2; for ``server`` the server's name of it; for ``scorer`` a
    scorer's name, as in ``task.evaluation.scorer``, but not one of the evaluation's. ``thought``:
    tokens of chain of thought before the verdict, 0 for none. ``template``: continuation (or empty), reply, or a text file.
    ``criterion``: what is better, as a sentence, for ``lm`` and ``server``; empty for their own question, on toxicity.

    For a server: ``base_url`` such as http://localhost:8000/v1; ``key_env``: the environment variable with the key;
    ``timeout``: seconds per request; ``retries`` after the first try; ``token_limit``: tokens read and written in total, at
    which the run stops; 0 for no limit, as in ``requests_per_minute``. Temperature is always 0.
    """

    kind: str = "classifier"
    model: str = ""
    base_url: str = ""
    thought: int = 0
    template: str = ""
    concurrency: int = 4
    requests_per_minute: int = 0
    token_limit: int = 0
    timeout: float = 60.0
    retries: int = 4
    key_env: str = "OPENAI_API_KEY"
    criterion: str = added_later("")

    PLACE: ClassVar[str] = "task.judge"
    KINDS: ClassVar[tuple[str, ...]] = KINDS

    def __post_init__(self) -> None:
        known = [*filter(None, self.KINDS), *plugins.entry_points("judges")]
        if self.kind not in (*self.KINDS, *known):
            raise ValueError(f"{self.PLACE}.kind must be one of {', '.join(known)}, not {self.kind!r}")
        for name in ("thought", "requests_per_minute", "token_limit", "retries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{self.PLACE}.{name} must be 0 or more, not {getattr(self, name)}")
        if self.concurrency < 1:
            raise ValueError(f"{self.PLACE}.concurrency must be 1 or more, not {self.concurrency}")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"{self.PLACE}.timeout must be a number of seconds above 0, not {self.timeout}")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):  # not shown, as it may be the key itself
            raise ValueError(f"{self.PLACE}.key_env must be the name of an environment variable, never the key itself")
        if self.kind in ("lm", "server", "scorer") and not self.model:
            what = (
                "the scorer, as in task.evaluation.scorer" if self.kind == "scorer" else f"the model of the {self.kind} judge"
            )
            raise ValueError(f"{self.PLACE}.model must name {what}")
        if self.criterion and self.kind not in ("lm", "server"):
            other = f"not for {self.kind or 'none'}; {self.PLACE}.criterion= leaves it out"
            raise ValueError(f"{self.PLACE}.criterion is for a judge of kind lm or server, {other}")
        if self.kind == "server":
            _check_address(self.base_url, self.PLACE)

    @property
    def compares(self) -> bool:
        """Whether it reads two answers and compares them; else it scores single ones."""
        return self.kind not in ("classifier", "scorer")


def _check_address(url: str, place: str) -> None:
    """Raise ValueError unless the address is plain. One with a password is rejected, as it would be saved on cards, and not
    shown."""
    example = "such as http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if "@" in url or parts.query or parts.fragment:
        raise ValueError(
            f"{place}.base_url must be a plain address {example}, without user name, password or anything after a ? or #; "
            f"put the key in the environment variable that {place}.key_env names"
        )
    if not usable:
        raise ValueError(f"{place}.base_url must be the server's address {example}, not {url!r}")


@dataclass(frozen=True)
class ConstitutionConfig:
    """The principles, and the critic that revises answers by them.

    ``file``: path of a yaml file, or name of a shipped one (kindness); empty for none. A judge of kind lm or server also
    compares by these principles; the classifier can't read them and judges as without. ``kind``: of the critic, ``lm`` or
    ``server``; a server is that of ``task.judge``, with all its settings. ``model``: as in ``task.judge.model``; empty for
    the task's SFT base, or, with a server, for the judge's model. ``tokens``: maximum length of a critique and of a revision.
    ``prompts``: maximum number of answers revised, 0 for all.
    """

    file: str = added_later("")
    kind: str = added_later("lm")
    model: str = added_later("")
    tokens: int = added_later(48)
    prompts: int = added_later(0)

    def __post_init__(self) -> None:
        if self.kind not in ("lm", "server"):
            raise ValueError(f"task.constitution.kind must be lm or server, not {self.kind!r}")
        if self.tokens < 1 or self.prompts < 0:
            raise ValueError("task.constitution.tokens must be 1 or more and task.constitution.prompts 0 or more")
