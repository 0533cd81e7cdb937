"""`isoalign plan`: what a task will cost, before anything is launched."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from isoalign.cli import options
from isoalign.core.errors import UserError, unknown
from isoalign.core.json_output import to_json
from isoalign.tools.plan import accelerators


class Finite(click.FloatRange):
    """A finite number in a range: no range excludes nan."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that a text says."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POSITIVE = Finite(min=0, min_open=True)
SHARE = Finite(min=0, max=1, min_open=True)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="TASK... [task.KEY=VALUE]...")
@click.option("--method", "methods", multiple=True, help="Only this one; repeatable.  [default: all]")
@click.option("--budget", "budgets", multiple=True, help="A budget of the task by name, or FLOPs.  [default: all of the task]")
@click.option("--accelerator", default="h100", show_default=True, help="What the runs take.")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Number of them for a run.")
@click.option(
    "--shards", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that hold weights together."
)
@click.option("--price", type=Finite(min=0), help="US dollars an hour.  [default: listed]")
@click.option("--mfu", type=SHARE, default=0.35, show_default=True, help="Share of the peak that passes reach.")
@click.option("--sampling-mfu", type=SHARE, default=0.03, show_default=True, help="Share of the peak that sampling reaches.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each method.")
@click.option("--mean-answer", type=POSITIVE, help="Tokens of an answer that may end.  [default: of the store, or the most]")
@click.option("--verdicts", type=SHARE, default=0.2, show_default=True, help="Share of the pairs of answers with a verdict.")
@options.as_json
@options.store
def plan(
    words: tuple[str, ...], methods: tuple[str, ...], budgets: tuple[str, ...], accelerator: str, devices: int, shards: int,
    price: float | None, mfu: float, sampling_mfu: float, seeds: int, mean_answer: float | None, verdicts: float,
    as_json: bool, store: Path | None,
) -> None:  # fmt: skip
    """Say what runs of tasks will cost, before anything is launched.

    FLOPs of every stage and method, optimizer steps, answers and labels that each budget buys, memory, hours, dollars, the
    store, the smallest difference that seeds and prompts resolve, and what to change where a run does not fit. No weights are
    loaded: the config.json of a model is enough.
    """
    from isoalign.runs.overrides import task_named  # loads hydra, which the help does without
    from isoalign.tools.plan import text  # loads torch, too
    from isoalign.tools.plan.plan import Assumed, TaskPlan  # as well

    names, settings = ([word for word in words if ("=" in word) is typed] for typed in (False, True))
    if not names:
        raise UserError("name a task, as `isoalign plan nano`")
    chosen = accelerators.accelerator(accelerator)
    assumed = Assumed(mfu, sampling_mfu, devices, seeds, mean_answer, verdicts, shards)
    if price is not None:
        chosen = replace(chosen, price=price, source="--price")
    found = []
    for name in names:
        task = task_named(name, settings)
        planned = TaskPlan(task, options.open_store(store), assumed)
        rows = list(planned.methods(methods, _limits(budgets, task.budgets)))
        if as_json:
            found.append(text.as_json(planned, rows, chosen, assumed))
        else:
            for part in text.paragraphs(planned, rows, chosen, assumed):
                print(part, end="\n\n")
    if as_json:
        print(to_json(found))


def _limits(budgets: tuple[str, ...], known: dict[str, float]) -> dict[str, float]:
    """FLOPs by the name of each budget. Raises UserError for what is neither a name nor a number."""
    limits = {}
    for budget in budgets:
        try:
            limits[budget] = known[budget] if budget in known else float(budget)
        except ValueError as error:
            raise UserError(f"--budget: {unknown('budget', budget, list(known))}, or a number of FLOPs") from error
        if not 0 < limits[budget] < float("inf"):
            raise UserError(f"--budget {budget} must be positive and finite")
    return limits or known
