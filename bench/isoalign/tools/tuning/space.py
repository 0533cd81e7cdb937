"""Search spaces: what a method declares, the points that are tried, and where its space is widened.

The space of a method is ``conf/sweep/<name>.yaml``, choices in Hydra's grammar, so `isoalign run -m +sweep=<name>` walks all
of it; a scrambled Halton sequence picks as many points as every other method gets.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from isoalign.config.search_path import folders, options
from isoalign.core.errors import UserError
from isoalign.core.lazy import scipy
from isoalign.tools.tuning.trials import Settings, Trial, largest_gain

SEED = 100  # of the points, and of the trials' training, in the first study; no seed of a published card
RATE = "algorithm.lr"
DRAWS = 2**16  # of points, distinct or not, at most


def space(algorithm: str) -> dict[str, list[str]]:
    """Key to the values it may take, as they are typed, each once.

    Raises UserError if none is declared, or if one is not a choice(...) or of no setting of the algorithm.
    """
    file = next((f for folder in folders() if (f := folder / "sweep" / f"{algorithm}.yaml").exists()), None)
    if file is None:
        raise UserError(
            f"{algorithm} declares no search space; write sweep/{algorithm}.yaml in conf/, or in its package's conf. "
            f"Declared: {', '.join(options('sweep'))}"
        )
    found: dict[str, list[str]] = {}
    for key, values in _leaves(OmegaConf.to_container(OmegaConf.load(file))).items():
        if not key.startswith("algorithm."):
            raise UserError(f"{file}: {key} is no setting of an algorithm, algorithm.KEY, which alone are tuned")
        override = OverridesParser.create().parse_override(f"{key}={values}")
        if not override.is_choice_sweep():
            raise UserError(f"{file}: {key} must be choice(...), not {values}")
        typed = list(override.sweep_string_iterator())
        known = _numbers(typed) or typed
        found[key] = [value for i, value in enumerate(typed) if known[i] not in known[:i]]
    return found


def _leaves(node: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(node, dict):
        return {prefix: str(node)}
    inner = [_leaves(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()]
    return {key: value for part in inner for key, value in part.items()}


def points(space: Mapping[str, Sequence[str]], count: int, seed: int = SEED) -> list[Settings]:
    """The first ``count`` distinct points of a scrambled Halton sequence over the choices; all of a smaller space."""
    return list(islice(_distinct(space, seed), count))


def _distinct(space: Mapping[str, Sequence[str]], seed: int) -> Iterator[Settings]:
    """The points of a space in the order of the sequence, each once, until all were there or `DRAWS` were drawn."""
    whole = math.prod(map(len, space.values()))
    found: set[tuple[str, ...]] = set()
    sequence = scipy.stats.qmc.Halton(len(space), seed=seed)
    for _ in range(DRAWS):
        if len(found) == whole:
            return
        (place,) = sequence.random(1)
        point = tuple(values[int(share * len(values))] for share, values in zip(place, space.values(), strict=True))
        if point not in found:
            found.add(point)
            yield dict(zip(space, point, strict=True))


def ends(space: Mapping[str, Sequence[str]], settings: Settings) -> dict[str, int]:
    """The keys whose value is the least (0) or largest (-1) number of its choices."""
    numbers = {key: sorted(known) for key, values in space.items() if len(known := _numbers(values)) > 1}
    return {key: end for key, known in numbers.items() for end in (0, -1) if float(settings[key]) == known[end]}


def widened(space: Mapping[str, Sequence[str]], trials: Sequence[Trial]) -> dict[str, list[str]]:
    """New values by key, one beyond each end of the space at which the trial with the largest gain lies, in the ratio of the
    two last ones; where under half of the trials can be chosen, a lower learning rate as well."""
    usable = [trial for trial in trials if trial.usable]
    best = largest_gain(usable)
    wanted = ends(space, best.settings) if best else {}
    if 2 * len(usable) < len(trials) and len(_numbers(space.get(RATE, ()))) > 1:
        wanted[RATE] = 0
    found = {key: further(space[key], end) for key, end in wanted.items()}
    return {key: [value] for key, value in found.items() if value}


def further(values: Sequence[str], end: int) -> str:
    """The value one beyond the least (0) or largest (-1) of numbers, in the ratio of the two last ones; empty for none."""
    known = sorted(_numbers(values))
    last, before = (known[0], known[1]) if end == 0 else (known[-1], known[-2])
    if not before or not last:
        return ""
    value = last * last / before
    text = f"{round(value)}" if all(map(str.isdigit, values)) else f"{float(f'{value:.1g}')}"
    is_beyond = float(text) < last if end == 0 else float(text) > last
    return text if is_beyond and float(text) else ""


def _numbers(values: Sequence[str]) -> list[float]:
    """The values as numbers; none if one is no number."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return []


def beyond(
    space: Mapping[str, Sequence[str]],
    trials: Sequence[Trial],
    count: int,
    seed: int = SEED,
    refused: Collection[tuple[str, str]] = (),
) -> list[Settings]:
    """Points for ``count`` further trials: with a value of `widened` where there is one that is not ``refused``, else further
    ones of the space."""
    tried = [trial.settings for trial in trials]
    new = {key: values for key, values in widened(space, trials).items() if all((key, one) not in refused for one in values)}
    larger = {key: [*values, *new.get(key, [])] for key, values in space.items()}
    fresh = (at for at in _distinct(larger, seed) if at not in tried)
    return list(islice((at for at in fresh if not new or any(at[key] in values for key, values in new.items())), count))


def refused_beyond(algorithm: str, space: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    """The keys and values one beyond the ends of a space that the method does not take: some have a least value, as the two
    draws of a pair. It runs the method's code, guarded, so no other thread of this process may work meanwhile."""
    from isoalign.training import registry  # loads torch, which the help does without

    known, found = {key: values[0] for key, values in space.items() if key.startswith("algorithm.")}, set()
    for key in known:
        numbers = len(_numbers(space[key])) > 1
        for value in filter(None, (further(space[key], end) for end in (0, -1) if numbers)):
            own = [f"{name.removeprefix('algorithm.')}={text}" for name, text in (known | {key: value}).items()]
            settings = {str(name): one for name, one in OmegaConf.from_dotlist(own).items()}
            try:
                with registry.sandboxed(algorithm):
                    registry.with_checked_settings(registry.algorithm(algorithm)(**settings))
            except UserError:
                found.add((key, value))
    return found
