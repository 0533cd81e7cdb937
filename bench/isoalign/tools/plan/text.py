"""A plan as text for a terminal, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from isoalign.core.display import count, grid, scientific
from isoalign.core.peak_memory import GIB
from isoalign.report.board.rows import PARTS
from isoalign.runs.flags import MAX_FIRST_STEP_SHARE
from isoalign.tools.plan.accelerators import Accelerator
from isoalign.tools.plan.plan import Assumed, MethodPlan, TaskPlan, hours

TB = 1e12


def paragraphs(plan: TaskPlan, methods: Sequence[MethodPlan], accelerator: Accelerator, assumed: Assumed) -> Iterator[str]:
    """The plan of a task: what all methods share, each method, what it comes to, what is assumed and what to change."""
    task, devices = plan.task, assumed.devices
    where = f"{devices} {accelerator.name}" if devices > 1 else accelerator.name
    weights = f"LoRA of rank {task.model.lora}" if task.model.lora else "all weights are trained"
    yield f"{task.name}: base {task.model.name}, {weights}; on {where}"
    yield grid(
        ["made for all methods", "sampling", "forward", "backward", "time"],
        [[name, *_by_kind(items), duration(hours(items, accelerator, assumed))] for name, items in plan.stages().items()],
    )
    budgets = {each.budget: each.limit for each in methods}
    by_method = [[each for each in methods if each.method == name] for name in dict.fromkeys(each.method for each in methods)]
    titles = ["steps", "answers", "labels", "time", "$"]
    yield "budgets: " + ", ".join(f"{name} {scientific(limit)} FLOPs" for name, limit in budgets.items())
    yield grid(
        ["method", "before a step", "GiB a device", *(f"{title}: {' / '.join(budgets)}" for title in titles)],
        [_row(rows, accelerator, assumed) for rows in by_method],
    )
    yield from _totals(plan, methods, accelerator, assumed)
    yield "\n".join(["assumed:", *(f"- {note}" for note in assumptions(plan, accelerator, assumed))])
    if changes := list(advice(methods, accelerator, assumed)):
        yield "\n".join(["what to change:", *(f"- {line}" for line in changes)])


def _by_kind(items: dict[tuple[str, str], int]) -> list[str]:
    sums = [sum(flops for (_, own), flops in items.items() if own == kind) for kind in ("sample", "forward", "backward")]
    return [scientific(each) if each else "–" for each in sums]


def _row(rows: Sequence[MethodPlan], accelerator: Accelerator, assumed: Assumed) -> list[str]:
    """A method under each budget."""
    run = next((each for each in rows if not each.problem), None)
    start = scientific(run.start) if run else "–"
    memory = f"{run.footprint.on(assumed.shards) / GIB:.2f}" if run and run.footprint else "–"
    cells: list[Callable[[MethodPlan], str]] = [
        lambda each: count(each.steps),
        lambda each: count(each.answers),
        lambda each: count(each.labels),
        lambda each: duration(each.hours(accelerator, assumed)),
        lambda each: _dollars(each.hours(accelerator, assumed), accelerator, assumed),
    ]
    return [rows[0].method, start, memory, *(" / ".join("–" if e.problem else cell(e) for e in rows) for cell in cells)]


def duration(hours: float) -> str:
    """Hours in a unit that suits them."""
    for size, unit in ((24.0, "days"), (1.0, "h"), (1 / 60, "min")):
        if hours >= 2 * size or (unit == "h" and hours >= 1):
            return f"{hours / size:.1f} {unit}"
    return f"{3600 * hours:.2g} s"


def _dollars(time: float, accelerator: Accelerator, assumed: Assumed) -> str:
    return "–" if accelerator.price is None else f"{time * assumed.devices * accelerator.price:,.2f}"


def _totals(plan: TaskPlan, methods: Sequence[MethodPlan], accelerator: Accelerator, assumed: Assumed) -> Iterator[str]:
    """What a board of the methods comes to under each budget, its store, and what it can tell apart."""
    shared = [hours(items, accelerator, assumed) for items in plan.stages().values()]
    for budget in dict.fromkeys(each.budget for each in methods):
        runs = [each for each in methods if each.budget == budget and not each.problem]
        number = len(runs) * assumed.seeds
        own = assumed.seeds * sum(each.hours(accelerator, assumed) for each in runs) + number * shared[-1]
        time = own + min(plan.task.bases, assumed.seeds) * sum(shared[:-1])
        money = "" if accelerator.price is None else f", ${_dollars(time, accelerator, assumed)}"
        told = f"store {_bytes(plan.store_bytes(number))}; smallest resolvable difference {_resolvable(plan, _ranked(runs))}"
        yield (
            f"{budget}: {number} runs ({len(runs)} methods, {assumed.seeds} seeds) with their evaluation {duration(time)}"
            f"{money}; {told}"
        )


def _ranked(runs: Sequence[MethodPlan]) -> int:
    """How many of the runs a board ranks: no controls, and nothing that trains nothing."""
    return sum(each.steps > 0 and each.method not in PARTS for each in runs)


def _resolvable(plan: TaskPlan, methods: int) -> str:
    found = plan.resolvable(methods)
    return f"{found:.3f}" if found is not None else "not known"


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < TB else f"{size / TB:,.1f} TB"


def assumptions(plan: TaskPlan, accelerator: Accelerator, assumed: Assumed) -> Iterator[str]:
    """Everything that a plan takes for granted, a sentence each."""
    yield (
        f"passes reach {assumed.mfu:.0%} of {accelerator.name}'s {accelerator.peak / TB:g} TFLOP/s, sampling "
        f"{assumed.sampling_mfu:.0%} (--mfu, --sampling-mfu); loading, scorers and servers take time on top"
    )
    if accelerator.price is not None:
        yield f"${accelerator.price:g} an hour and device: {accelerator.source}"
    yield "time and price of a run are of its whole bill, of the verdicts and reward models too that runs share and make once"
    if (bases := min(plan.task.bases, assumed.seeds)) > 1:
        yield f"what runs share is made for each of {bases} bases; the store is counted for one"
    if assumed.devices > 1:
        yield "work is spread evenly"
    if assumed.shards > 1:
        yield (
            f"memory is that of task.model.shard=true in {assumed.shards} processes, by formula: policy, reference, gradients "
            "and optimizer are cut, one model is gathered at a time"
        )
    elif assumed.devices > 1:
        yield "each device holds weights, gradients and optimizer whole (--shards, task.model.shard=true)"
    yield "memory is without buffers of kernels and libraries; TRL's own loops are not measured"
    yield "seeds and prompts spread as on nano's board"
    yield from plan.notes
    yield from plan.source.notes


def advice(methods: Sequence[MethodPlan], accelerator: Accelerator, assumed: Assumed) -> Iterator[str]:
    """What to change where a method has no run or little of one, or takes more memory than a device has."""
    for each in methods:
        if each.problem and each.least is not None:
            yield f"{each.method}: {each.problem}; a step takes budget.flops={scientific(each.least)} or more"
        elif each.problem:
            yield f"{each.method}: {each.problem}"
    late = [each for each in methods if not each.problem and each.start > MAX_FIRST_STEP_SHARE * each.flops]
    for budget in dict.fromkeys(each.budget for each in late):
        of_budget = [each for each in late if each.budget == budget]
        enough = scientific(2 * max(each.start for each in of_budget))
        names = ", ".join(each.method for each in of_budget)
        yield (
            f"{names}: over {MAX_FIRST_STEP_SHARE:.0%} of {budget} are spent before the first step, as on a reward model; "
            f"budget.flops={enough} leave half for training"
        )
    for each in {each.method: each for each in methods}.values():
        needed = each.footprint.on(assumed.shards) if each.footprint else 0
        if needed > accelerator.memory:
            yield (
                f"{each.method}: {needed / GIB:.1f} GiB do not fit into {accelerator.name}'s {accelerator.memory / GIB:.1f}; "
                "lower task.training.micro_batch, or set task.training.gradient_checkpointing=true, task.model.shard=true in "
                "several processes (--shards), task.model.lora=16 (then task.model.dtype=bfloat16 as well)"
            )


def as_json(plan: TaskPlan, methods: Sequence[MethodPlan], accelerator: Accelerator, assumed: Assumed) -> dict[str, Any]:
    """The plan in plain types; bytes, FLOPs, hours and dollars."""
    runs = [each for each in methods if not each.problem]
    ranked = len({each.method for each in runs if _ranked([each])})
    stages = plan.stages()
    return {
        "task": plan.task.name, "base": plan.task.model.name, "assumed": asdict(assumed),
        "accelerator": {name: value for name, value in asdict(accelerator).items() if value != math.inf},
        "shared": [
            {"stage": name, "items": _items(items), "hours": hours(items, accelerator, assumed)}
            for name, items in stages.items()
        ],
        "methods": [_method(each, accelerator, assumed) for each in methods],
        "store": plan.store_bytes(len(runs) * assumed.seeds), "resolvable": plan.resolvable(ranked),
        "notes": list(assumptions(plan, accelerator, assumed)), "advice": list(advice(methods, accelerator, assumed)),
    }  # fmt: skip


def _items(items: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"role": role, "kind": kind, "flops": flops} for (role, kind), flops in sorted(items.items())]


def _method(each: MethodPlan, accelerator: Accelerator, assumed: Assumed) -> dict[str, Any]:
    plain = {name: value for name, value in vars(each).items() if name not in ("items", "footprint")}
    plain |= {"flops": each.flops, "items": _items(each.items), "hours": each.hours(accelerator, assumed)}
    memory = asdict(each.footprint) | {"device": each.footprint.on(assumed.shards)} if each.footprint else None
    return plain | {"memory": memory}
