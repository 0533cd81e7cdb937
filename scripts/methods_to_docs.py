"""Writes docs/methods.md, the index of papers, from what every algorithm says of itself."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import yaml

from isoalign.config.search_path import options
from isoalign.core import plugins
from isoalign.tools.tuning.space import space
from isoalign.training import registry
from isoalign.training.provenance import FAMILIES, Paper

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
TASKS = [file.name for file in sorted((ROOT / "results" / "published").iterdir())]
HEAD = """# Methods

One row for each method, by what it learns from. `python scripts/methods_to_docs.py` writes this page from the classes in
`baselines/`; a method of which something is missing fails a test. The paper's values are those that it recommends or reports;
where there is none, it names none or we found none. Default settings on `nano` and `smol` are tuned, equally many trials for
each method that has tuned settings; see [tuning](runs.md#tuning) and [what tuning does not do](limits.md#tuning). Where
implementations differ, in sums or means over tokens, deviations, clamps, what is added to a denominator, or the penalty for
answers without an end, the text says what the paper has and what is done here. Shares of the budget, as a setting's, are of
what is left at the first optimizer step; rewards "in deviations" are in those of the first 64 verdicts' answers.

A method is one file, or a yaml of settings over another one's class. TRL's own trainers, `trl_*`, run under the same base,
data, meter and budget: from the same start on the same pairs, TRL's DPO and KTO end with our weights to 1e-5
(`tests/test_trl.py`); what differs is the bill. A method of your own: [extending](extending.md#an-algorithm).

Every method logs `step`, `flops_spent`, `lr`, `loss` (the mean over the step's rows) and `grad_norm` (before clipping) at each
step, besides what stands under its name below; where rewards lack a score, lie at an end of a classifier's scale or are all
one, `unscored` and `saturated`, the shares of them, and `equal_rewards`, 1.
"""


def paper(name: str) -> Paper:
    """The provenance of a method."""
    return registry.algorithm(name).paper  # type: ignore[attr-defined, no-any-return]


def home(name: str) -> str:
    """Where a method stands: its file, or its yaml and the file whose class it takes."""
    file = f"baselines/{registry.algorithm(name).__module__.rpartition('.')[2]}.py"
    return f"`conf/algorithm/{name}.yaml` over `{file}`" if name in plugins.rows() else f"`{file}`"


def tuned(task: str, name: str) -> dict[str, Any]:
    """What tuning chose on a task; empty if it was not tuned there."""
    file = ROOT / "conf" / "tuned" / f"{task}_{name}.yaml"
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["algorithm"]) if file.exists() else {}


def fields(name: str) -> list[str]:
    """The table of a method's fields."""
    axes = {key.removeprefix("algorithm."): values for key, values in space(name).items()} if name in options("sweep") else {}
    chosen = {task: found for task in TASKS if (found := tuned(task, name))}
    rows = [["field", "default", "paper", "tuned over", *chosen], ["---"] * (4 + len(chosen))]
    for each in dataclasses.fields(registry.algorithm(name)):
        values = [settings.get(each.name, "") for settings in chosen.values()]
        said = paper(name).values.get(each.name, "")
        rows.append([f"`{each.name}`", str(each.default), said, ", ".join(axes.get(each.name, [])), *map(str, values)])
    return [f"| {' | '.join(row)} |" for row in rows] if len(rows) > 2 else []


def meaning(name: str) -> str:
    """What a method does, its conventions and its fields, as its class says it; a row has those of its class."""
    if name in plugins.rows():
        base = registry.algorithm(name).__module__.rpartition(".")[2]
        return f"Its fields are those of [`{base}`](#{base})."
    return inspect.cleandoc(registry.algorithm(name).__doc__ or "").replace("``", "`")


def entry(name: str) -> str:
    """The section of a method."""
    told = paper(name)
    file, _, against = told.parity.partition(": ")
    lines = [f"### `{name}`", f"{told.cited()}, {told.equation}. {home(name)}; the loss: `tests/{file}`, {against}."]
    cards = {task: len(list((ROOT / "results" / "published" / task).glob(f"{name}-s*.json"))) for task in TASKS}
    if any(cards.values()):
        seen = (f"[{n} on {task}](../results/published/{task}/leaderboard.md)" for task, n in cards.items() if n)
        lines[1] += f" Published cards: {', '.join(seen)}."
    lines.append(meaning(name))
    if table := fields(name):
        lines.append("\n".join(table))
    if told.logs:
        lines.append("\n".join(f"- `{scalar}`: {meaning}" for scalar, meaning in told.logs.items()))
    return "\n\n".join(lines)


def page() -> str:
    """The page as it is now."""
    names = registry.algorithm_names()
    index, sections = ["| method | learns from | paper |", "| --- | --- | --- |"], []
    for family, meaning in FAMILIES.items():
        members = [name for name in names if paper(name).family == family]
        index += [f"| [`{name}`](#{name}) | {paper(name).learns_from} | {paper(name).cited()} |" for name in members]
        if members:
            sections += [f"## {family.capitalize()}: {meaning}", *map(entry, members)]
    return "\n".join([HEAD, *index]) + "\n\n" + "\n\n".join(sections) + "\n"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
