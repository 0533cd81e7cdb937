"""What a metric may see of one run, checked once so that no metric has to check it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from isoalign.core.errors import UserError
from isoalign.core.objective import TOXICITY, Objective
from isoalign.core.records import Contest, ReverseKL, Rewards, Sample, ScoredPair

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class ScoredSamples:
    """Saved samples of one run with the scores that other models gave them. Lists are aligned with ``samples`` or ``pairs``.

    ``scores``: scorer to scores, the main one's within the bounds of the ``objective``, None where the scorer failed;
    ``pair_scores``: scorer to the scores of (chosen, rejected); ``rewards``: of the reward model that the method trained on,
    or the annotator's; ``embeddings`` [n_samples, d], unit norm; ``reverse``: KL of the base's own samples; ``vocabulary``:
    size of the task's vocabulary (EAD needs it); ``base``: the SFT row's scored samples on the same prompts and draws, for
    gains (None on that row); ``known_reward``: the rewards are the main scorer's scores, up to shift, scale and sign;
    ``contests``: a judge's verdicts on some of the samples, for the win rate.

    Raises UserError that names the sample, pair or scorer at fault.
    """

    samples: list[Sample]
    main_scorer: str
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    second_scorer: str | None = None
    pairs: list[ScoredPair] = field(default_factory=list)
    pair_scores: dict[str, list[tuple[float | None, float | None]]] = field(default_factory=dict)
    rewards: Rewards | None = None
    reverse: list[ReverseKL] = field(default_factory=list)
    embeddings: NDArray[np.floating] | None = None
    vocabulary: int | None = None
    base: ScoredSamples | None = None
    objective: Objective = TOXICITY
    known_reward: bool = False
    contests: list[Contest] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_samples(self.samples)
        _check_pairs(self.pairs)
        self._check_scores()
        self._check_rewards()
        _check_reverse(self.reverse)
        self._check_embeddings()
        _check_contests(self.contests, self.samples)
        if self.vocabulary is not None and self.vocabulary < 1:
            raise UserError(f"vocabulary must be 1 or more, not {self.vocabulary}")
        if self.base is not None:
            self._check_base(self.base)

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """Prompt to the indices of its samples, by draw; prompts sorted."""
        order = sorted(range(len(self.samples)), key=lambda i: (self.samples[i].prompt_id, self.samples[i].draw))
        return by_prompt(order, [self.samples[i].prompt_id for i in order])

    @property
    def draws(self) -> int:
        """Draws per prompt."""
        return len(next(iter(self.rows.values())))

    def subset(self, prompts: Collection[str], draws: int) -> ScoredSamples:
        """The same run on some prompts and their first ``draws`` draws, with the same subset of its base; all pairs stay,
        contests do not."""
        kept = sorted(i for prompt in prompts for i in self.rows[prompt][:draws])
        return replace(
            self,
            samples=[self.samples[i] for i in kept],
            scores={name: [scores[i] for i in kept] for name, scores in self.scores.items()},
            rewards=self.rewards and replace(self.rewards, samples=[self.rewards.samples[i] for i in kept]),
            embeddings=None if self.embeddings is None else self.embeddings[kept],
            reverse=[row for row in self.reverse if row.prompt_id in set(prompts)],
            base=self.base and self.base.subset(prompts, draws),
            contests=[],
        )

    def scorers(self) -> dict[str, str]:
        """Suffix of a metric's name to the scorer that it is measured by."""
        return {"": self.main_scorer} | ({"_second": self.second_scorer} if self.second_scorer else {})

    def strata(self) -> dict[str, list[str]]:
        """Suffix of a metric's name to its prompts: by stratum and by source, each that of the prompt's first draw."""
        prompts = {prompt: self.samples[rows[0]] for prompt, rows in self.rows.items()}
        strata = by_prompt(prompts, [f"/{first.stratum}" if first.stratum else "" for first in prompts.values()])
        sources = by_prompt(prompts, [f"/source:{first.source}" if first.source else "" for first in prompts.values()])
        return {name: members for name, members in sorted((strata | sources).items()) if name}

    def losses(self, scores: Sequence[float | None]) -> list[float | None]:
        """Scores with the sign by which less is better."""
        return [None if score is None else self.objective.loss(score) for score in scores]

    def grid(self, values: Sequence[Item]) -> dict[str, list[Item]]:
        """Values aligned with ``samples``, as prompt to values by draw."""
        if len(values) != len(self.samples):
            raise UserError(f"{len(values)} values for {len(self.samples)} samples")
        return {prompt: [values[i] for i in rows] for prompt, rows in self.rows.items()}

    def _check_scores(self) -> None:
        for scorer in filter(None, [self.main_scorer, self.second_scorer]):
            if scorer not in self.scores:
                raise UserError(f"no scores by {scorer}; scorers: {', '.join(sorted(self.scores)) or 'none'}")
        for scorer, scores in self.scores.items():
            if len(scores) != len(self.samples):
                raise UserError(f"{scorer} gave {len(scores)} scores for {len(self.samples)} samples")
            low, high = self._bounds(scorer)
            for sample, score in zip(self.samples, scores, strict=True):
                if score is not None and not (low <= score <= high and math.isfinite(score)):
                    within = _within(low, high)
                    raise UserError(f"{_name(sample)}: {scorer} gave {score}, which is not {within}")

    def _bounds(self, scorer: str) -> tuple[float, float]:
        """The least and the greatest score: the objective's, but where the second scorer of another one has its own scale."""
        own = self.objective.is_toxicity or scorer == self.main_scorer
        return (self.objective.low, self.objective.high) if own else (-math.inf, math.inf)

    def _check_rewards(self) -> None:
        for scorer, scores in self.pair_scores.items():
            if len(scores) != len(self.pairs):
                raise UserError(f"{scorer} scored {len(scores)} pairs of {len(self.pairs)}")
            for pair, both in zip(self.pairs, scores, strict=True):
                check_column(f"pair {pair.pair_id}: {scorer}", both, *self._bounds(scorer))
        if self.rewards is None:
            return
        if len(self.rewards.samples) != len(self.samples) or len(self.rewards.pairs) != len(self.pairs):
            raise UserError(f"rewards of the {self.rewards.by}'s reward model are of other samples or pairs")
        for sample, reward in zip(self.samples, self.rewards.samples, strict=True):
            _check_finite(_name(sample), "reward", reward)
        for pair, rewards in zip(self.pairs, self.rewards.pairs, strict=True):
            for reward in rewards:
                _check_finite(f"pair {pair.pair_id}", "reward", reward)
        for number, rewards in enumerate(self.rewards.validation):
            for reward in rewards:
                _check_finite(f"validation pair {number}", "reward", reward)

    def _check_embeddings(self) -> None:
        e = self.embeddings
        if e is None:
            return
        if e.ndim != 2 or len(e) != len(self.samples):
            raise UserError(f"embeddings of shape {e.shape} for {len(self.samples)} samples")
        if not np.allclose(np.einsum("nd,nd->n", e, e), 1, atol=1e-2):
            raise UserError("embeddings are not of unit norm")

    def _check_base(self, base: ScoredSamples) -> None:
        ours, theirs = ({(s.prompt_id, s.draw) for s in run.samples} for run in (self, base))
        if odd := sorted(ours ^ theirs):
            raise UserError(
                f"the base has other prompts or draws: {len(odd)} differ, for example prompt {odd[0][0]} draw {odd[0][1]}"
            )
        if (base.main_scorer, base.second_scorer) != (self.main_scorer, self.second_scorer):
            raise UserError("the base was scored by other scorers; scores of different scorers cannot be compared")
        if base.objective != self.objective:
            raise UserError("the base was scored for another objective; it can't be compared")


def by_prompt(values: Iterable[Item], prompt_ids: Sequence[str]) -> dict[str, list[Item]]:
    """Values grouped by prompt, in the order given."""
    grid: defaultdict[str, list[Item]] = defaultdict(list)
    for prompt, value in zip(prompt_ids, values, strict=True):
        grid[prompt].append(value)
    return dict(grid)


def subset(grid: Mapping[str, Sequence[Item]], prompts: Sequence[str]) -> dict[str, Sequence[Item]]:
    """The rows of some prompts."""
    return {prompt: grid[prompt] for prompt in prompts}


def check_column(name: str, values: Sequence[float | None], low: float = -math.inf, high: float = math.inf) -> None:
    """Raise UserError for a value that is not finite or not in [low, high], with its index; a missing value is None."""
    for index, value in enumerate(values):
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise UserError(
                f"{name}: value {index} is {value}, which is not {_within(low, high)}; a missing value must be None"
            )


def _within(low: float, high: float) -> str:
    """What a value must be, in words."""
    if math.isinf(low) and math.isinf(high):
        return "finite"
    return f"{'finite and ' * math.isinf(high - low)}in [{low:g}, {high:g}]"


def _check_samples(samples: Sequence[Sample]) -> None:
    if not samples:
        raise UserError("no samples")
    count = Counter((s.prompt_id, s.draw) for s in samples)
    if len(count) < len(samples):
        (prompt, draw), times = count.most_common(1)[0]
        raise UserError(f"prompt {prompt} draw {draw} occurs {times} times")
    draws = {prompt: sorted(d) for prompt, d in by_prompt((s.draw for s in samples), _prompts(samples)).items()}
    first = samples[0].prompt_id
    for prompt, own in draws.items():
        if own != draws[first]:
            raise UserError(f"unequal draws: prompt {first} has {_listed(draws[first])}, prompt {prompt} has {_listed(own)}")
    for sample in samples:
        for name in ("logp", "base_logp", "kl", "entropy"):
            _check_finite(_name(sample), name, getattr(sample, name))


def _check_pairs(pairs: Sequence[ScoredPair]) -> None:
    count = Counter(pair.pair_id for pair in pairs)
    if len(count) < len(pairs):
        raise UserError(f"pair {count.most_common(1)[0][0]} occurs more than once")
    numbers = [f"{side}_{what}" for side in ("chosen", "rejected") for what in ("logp", "base_logp")]
    for pair in pairs:
        for name in numbers:
            _check_finite(f"pair {pair.pair_id}", name, getattr(pair, name))


def _check_reverse(reverse: Sequence[ReverseKL]) -> None:
    count = Counter((row.prompt_id, row.draw) for row in reverse)
    if len(count) < len(reverse):
        (prompt, draw), times = count.most_common(1)[0]
        raise UserError(f"reverse KL of prompt {prompt} draw {draw} occurs {times} times")
    for row in reverse:
        _check_finite(f"prompt {row.prompt_id} draw {row.draw}", "reverse KL", row.kl)


def _check_contests(contests: Sequence[Contest], samples: Sequence[Sample]) -> None:
    count = Counter((contest.prompt_id, contest.draw) for contest in contests)
    if odd := sorted(count.keys() - {(s.prompt_id, s.draw) for s in samples}):
        raise UserError(f"the win rate's verdicts are of other samples, for example prompt {odd[0][0]} draw {odd[0][1]}")
    if len(count) < len(contests):
        (prompt, draw), times = count.most_common(1)[0]
        raise UserError(f"the win rate has {times} verdicts on prompt {prompt} draw {draw}")
    for contest in contests:
        check_column(f"prompt {contest.prompt_id} draw {contest.draw}: verdict", [contest.first, contest.second], 0, 1)


def _check_finite(owner: str, name: str, value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise UserError(f"{owner}: {name} is {value}; a missing value must be None")


def _prompts(samples: Sequence[Sample]) -> list[str]:
    return [s.prompt_id for s in samples]


def _name(sample: Sample) -> str:
    return f"prompt {sample.prompt_id} draw {sample.draw}"


def _listed(draws: Sequence[int]) -> str:
    return f"{len(draws)} ({', '.join(map(str, draws[:5]))}{', ...' if len(draws) > 5 else ''})"
