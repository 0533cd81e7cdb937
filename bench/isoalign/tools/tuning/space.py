"""Search spaces: what a method declares, the points that are tried, and where its space is widened.

The space of a method is ``conf/sweep/<name>.yaml``, choices in Hydra's grammar, so `isoalign run -m +sweep=<name>` walks all
of it; a scrambled Halton sequence picks as many points as every other method gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from isoalign.config.search_path import folders, options
from isoalign.core.errors import UserError
from isoalign.core.lazy import scipy
from isoalign.tools.tuning.trials import Settings, Trial, largest_gain

SEED = 100  # of the points, and of the trials' training, in the first study; no seed of a published card
RATE = "algorithm.lr"


def space(algorithm: str) -> dict[str, list[str]]:
    """Key to the values it may take, as they are typed.

    Raises UserError if none is declared, or if one is not a choice(...).
    """
    file = next((f for folder in folders() if (f := folder / "sweep" / f"{algorithm}.yaml").exists()), None)
    if file is None:
        raise UserError(
            f"{algorithm} declares no search space; write sweep/{algorithm}.yaml in conf/, or in its package's conf. "
            f"Declared: {', '.join(options('sweep'))}"
        )
    found: dict[str, list[str]] = {}
    for key, values in _leaves(OmegaConf.to_container(OmegaConf.load(file))).items():
        override = OverridesParser.create().parse_override(f"{key}={values}")
        if not override.is_choice_sweep():
            raise UserError(f"{file}: {key} must be choice(...), not {values}")
        found[key] = list(override.sweep_string_iterator())
    return found


def _leaves(node: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(node, dict):
        return {prefix: str(node)}
    inner = [_leaves(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()]
    return {key: value for part in inner for key, value in part.items()}


def points(space: Mapping[str, Sequence[str]], count: int, seed: int = SEED) -> list[Settings]:
    """The first ``count`` distinct points of a scrambled Halton sequence over the choices; all of a smaller space."""
    whole = math.prod(map(len, space.values()))
    found: dict[tuple[str, ...], None] = {}
    sequence = scipy.stats.qmc.Halton(len(space), seed=seed)
    while len(found) < min(count, whole):
        (place,) = sequence.random(1)
        found[tuple(values[int(share * len(values))] for share, values in zip(place, space.values(), strict=True))] = None
    return [dict(zip(space, point, strict=True)) for point in found]


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
    found = {}
    for key, end in wanted.items():
        known = sorted(_numbers(space[key]))
        last, before = (known[0], known[1]) if end == 0 else (known[-1], known[-2])
        if before and last:
            value = last * last / before
            text = f"{round(value)}" if all(map(str.isdigit, space[key])) else f"{float(f'{value:.1g}')}"
            found[key] = [text] if float(text) != last and float(text) else []
    return {key: values for key, values in found.items() if values}


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
    accepts: Callable[[Settings], bool] = lambda at: True,
) -> list[Settings]:
    """Points for ``count`` further trials: with a value of `widened` where there is one that the method ``accepts``, else
    further ones of the space."""
    best, tried = largest_gain(trials), [trial.settings for trial in trials]
    about = best.settings if best else {key: values[0] for key, values in space.items()}
    new = {
        key: kept
        for key, values in widened(space, trials).items()
        if (kept := [v for v in values if accepts(about | {key: v})])
    }
    larger = {key: [*values, *new.get(key, [])] for key, values in space.items()}
    every = points(larger, math.prod(map(len, larger.values())), seed) if new else points(space, len(tried) + count, seed)
    fresh = [at for at in every if at not in tried]
    return [at for at in fresh if not new or any(at[key] in values for key, values in new.items())][:count]


def accepted(algorithm: str, at: Settings) -> bool:
    """Whether a method takes settings of its own: some have a least value, as the two draws of a pair."""
    from isoalign.training import registry  # loads torch, which the help does without

    own = [f"{key.removeprefix('algorithm.')}={value}" for key, value in at.items() if key.startswith("algorithm.")]
    settings = {str(key): value for key, value in OmegaConf.from_dotlist(own).items()}
    try:
        with registry.sandboxed(algorithm):
            registry.with_checked_settings(registry.algorithm(algorithm)(**settings))
    except UserError:
        return False
    return True
