"""How feedback comes about: a panel of simulated annotators, an AI judge, a constitution."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from isoalign.core import plugins
from isoalign.core.store import later

CONSENSUS = ("vote", "bradley_terry", "elo")  # from several verdicts to one, see feedback/consensus.py


@dataclass(frozen=True)
class PanelConfig:
    """Who rates, and how well; the defaults are one careful annotator, who always finds the better answer.

    ``annotators``: their number. ``temperature``: of each annotator, in logits, handed out in turn. Biases in logits at
    temperature 1, negative for the opposite leaning: ``length`` for each word by which an answer is longer; ``position`` for
    the answer that is shown first, a coin for each annotator and item; ``expectation`` for the answer that the annotators
    were led to expect to be better, one coin an item, so that no vote cures it. ``coverage``: share of the items that each
    annotator rates; ``topic``: a annotator picks them with weight exp(``topic``) on items of the favoured topic and 1 on
    others. ``consensus``: vote, bradley_terry or elo. ``golden``: items of known verdict by which annotators are weighted; 0
    is equal weights.

    A word, not a deviation of the lengths at hand, is the unit of ``length``: else a verdict hung on which other items there
    are. Sizes that were seen in the field: non-blinded assessors shift odds ratios by a factor of 0.64, ``expectation`` =
    0.45 (Hrobjartsson et al. 2012, on Rosenthal's expectancy effect, 1976); AlpacaFarm's simulated annotators turn one verdict
    in four (Dubois et al. 2023); leanings to length and to the first place are those of Dubois et al. 2024, "Length-
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
        object.__setattr__(self, "temperature", tuple(self.temperature))  # from yaml it is a list, which equals no tuple
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
            raise ValueError(
                "task.panel.topic has no effect on annotators who rate everything; set task.panel.coverage below 1"
            )
        if self.consensus not in CONSENSUS:
            raise ValueError(f"task.panel.consensus must be one of {', '.join(CONSENSUS)}, not {self.consensus!r}")
        if self.golden < 0:
            raise ValueError(f"task.panel.golden must be 0 or more, not {self.golden}")


KINDS = ("classifier", "lm", "server")


@dataclass(frozen=True)
class JudgeConfig:
    """The AI judge.

    ``model``: of an ``lm`` a folder, a hub name, nano or smollm2; of a ``server`` what the server calls it. ``thought``:
    tokens of chain of thought before the verdict, 0 for none. ``template``: continuation (or empty), reply, or a text file.

    Of a server: ``base_url`` such as http://localhost:8000/v1; ``key_env``: the environment variable that holds the key;
    ``timeout`` seconds a request; ``retries`` after the first try; ``token_limit``: read and written tokens in all, at
    which the run stops; 0 is no limit, as in ``requests_per_minute``. Temperature is always 0.
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

    def __post_init__(self) -> None:
        known = [*KINDS, *plugins.entry_points("judges")]
        if self.kind not in known:
            raise ValueError(f"task.judge.kind must be one of {', '.join(known)}, not {self.kind!r}")
        for name in ("thought", "requests_per_minute", "token_limit", "retries"):
            if getattr(self, name) < 0:
                raise ValueError(f"task.judge.{name} must be 0 or more, not {getattr(self, name)}")
        if self.concurrency < 1:
            raise ValueError(f"task.judge.concurrency must be 1 or more, not {self.concurrency}")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"task.judge.timeout must be seconds, more than 0, not {self.timeout}")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):  # not shown: it may be the key itself
            raise ValueError("task.judge.key_env must be the name of an environment variable, never the key itself")
        if self.kind in ("lm", "server") and not self.model:
            raise ValueError(f"task.judge.model must name the model of the {self.kind} judge")
        if self.kind == "server":
            _check_address(self.base_url)


def _check_address(url: str) -> None:
    """Raises ValueError for what is no plain address. One with a password in it is not shown, and would land on the card."""
    example = "such as http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if "@" in url or parts.query or parts.fragment:
        raise ValueError(
            f"task.judge.base_url must be a plain address {example}, without user name, password or anything after a ? or #; "
            "a key belongs into the environment variable that task.judge.key_env names"
        )
    if not usable:
        raise ValueError(f"task.judge.base_url must be the server's address {example}, not {url!r}")


@dataclass(frozen=True)
class ConstitutionConfig:
    """The principles, and the critic that revises by them.

    ``file``: a yaml's path, or the name of one that ships (kindness); empty is none. It is also what a judge that is asked
    (``task.judge.kind`` lm or server) compares by; the classifier can't read a principle and judges as it does without.
    ``kind``: of the critic, ``lm`` or ``server``; a server is the one of ``task.judge``, with all its settings. ``model``: a
    model's name as in ``task.judge.model``; empty is the task's own SFT base, or of a server the judge's model. ``tokens``:
    at most so many of a critique, and of a revision. ``prompts``: at most so many answers are revised, 0 is all.
    """

    file: str = later("")
    kind: str = later("lm")
    model: str = later("")
    tokens: int = later(48)
    prompts: int = later(0)

    def __post_init__(self) -> None:
        if self.kind not in ("lm", "server"):
            raise ValueError(f"task.constitution.kind must be lm or server, not {self.kind!r}")
        if self.tokens < 1 or self.prompts < 0:
            raise ValueError("task.constitution.tokens must be 1 or more and task.constitution.prompts 0 or more")
