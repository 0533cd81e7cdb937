"""Two logs of another tool, paired prompt by prompt, on every metric that both have."""

from __future__ import annotations

from isoalign import stats
from isoalign.core.display import clean
from isoalign.core.errors import UserError
from isoalign.data.logs import alpaca_eval
from isoalign.data.logs.log import Log, LogRow
from isoalign.report.side_by_side import Compared, SideBySide, corrected, distinct, some, verdict, versus


def compare_logs(first: Log, second: Log, matched: bool = False) -> SideBySide:
    """Paired differences, A minus B, of means over draws, with Holm's correction over the metrics.

    Raises UserError for logs that are not of one task, one kind and one opponent, for different documents behind one id, and,
    unless ``matched``, for rows that only one of them has. How many are matched is in the footer.
    """
    for name, a, b in (("formats", first.kind, second.kind), ("tasks", first.task, second.task),
                       ("opponents or judges", first.against, second.against)):  # fmt: skip
        if a != b and ((a and b) or name != "tasks"):
            told = f"{first.file} and {second.file} are of different {name}"
            raise UserError(f"{told} ({a or 'none'} and {b or 'none'}); compare logs of one")
    both = [name for name in first.metrics if name in second.metrics]
    if not both:
        each = (f"{log.file}: {some(log.metrics)}{_skipped(log)}" for log in (first, second))
        raise UserError(f"no metric is in both; {'; '.join(each)}; score both in the same way")
    own, other = first.by_key(), second.by_key()
    keys = _matched(first, second, own, other, matched)
    comparisons = {
        name: stats.compare({"a": [_means(own, keys, name)], "b": [_means(other, keys, name)]})["a", "b"] for name in both
    }
    adjusted = corrected(comparisons)
    a, b = distinct(clean(first.name) or first.file.stem, clean(second.name) or second.file.stem)
    rows = tuple(
        Compared(
            clean(name), _sides(own, other, keys, name), c, adjusted.get(name), verdict(c, adjusted.get(name), a, b, None)
        )
        for name, c in comparisons.items()
    )
    apart = {"matched": len(keys), "only_a": len(own.keys() - other.keys()), "only_b": len(other.keys() - own.keys())}
    left = sorted(map(clean, ({*first.metrics} ^ {*second.metrics}) | {*first.skipped, *second.skipped}))
    about = {"task": first.task or second.task, "paired_on": len(keys), **apart, "metrics_left_out": left}
    return SideBySide((a, b), rows, _footer(first, second, keys, about, rows, (a, b), left), about)


def _matched(
    first: Log, second: Log, own: dict[str, list[LogRow]], other: dict[str, list[LogRow]], matched: bool
) -> list[str]:
    """The keys of both, once it is sure that the same stands behind them."""
    keys = [key for key in own if key in other]
    for key in keys:
        a, b = own[key][0], other[key][0]
        if a.identity != b.identity and None not in (a.identity, b.identity):
            what = "opponent's output" if first.kind == alpaca_eval.KIND else "document"
            raise UserError(
                f"{first.file}: row {a.number}: {clean(key)[:60]!r} has another {what} than row {b.number} of {second.file}; "
                "compare logs of the same data"
            )
    lonely = [(log, rows[0]) for log, mine, theirs in ((first, own, other), (second, other, own))
              for key, rows in mine.items() if key not in theirs]  # fmt: skip
    if lonely and not matched:
        (log, row), rest = lonely[0], len(lonely) - 1
        raise UserError(
            f"{log.file}: row {row.number}: {clean(row.key)[:60]!r} is in this log alone, as are {rest} more rows of both; "
            f"{len(keys)} match: complete the logs, or compare these with --matched"
        )
    if not keys:
        raise UserError(f"{first.file} and {second.file} have no id in common; compare logs of the same data")
    return keys


def _means(rows: dict[str, list[LogRow]], keys: list[str], name: str) -> dict[str, float | None]:
    """Key to the mean over its draws, None where no draw has a score."""
    found: dict[str, float | None] = {}
    for key in keys:
        known = [score for row in rows[key] if (score := row.scores.get(name)) is not None]
        found[key] = sum(known) / len(known) if known else None
    return found


def _unscored(rows: dict[str, list[LogRow]], keys: list[str], name: str) -> int:
    """Draws without a score of prompts that have one of others."""
    each = [[row.scores.get(name) for row in rows[key]] for key in keys]
    return sum(scores.count(None) for scores in each if scores.count(None) < len(scores))


def _sides(
    own: dict[str, list[LogRow]], other: dict[str, list[LogRow]], keys: list[str], name: str
) -> tuple[float | None, float | None]:
    """The means of both, over the keys that both have a score for."""
    a, b = _means(own, keys, name), _means(other, keys, name)
    pairs = [(x, y) for key in keys if (x := a[key]) is not None and (y := b[key]) is not None]
    return (sum(x for x, _ in pairs) / len(pairs), sum(y for _, y in pairs) / len(pairs)) if pairs else (None, None)


def _footer(
    first: Log,
    second: Log,
    keys: list[str],
    about: dict[str, object],
    rows: tuple[Compared, ...],
    names: tuple[str, str],
    left: list[str],
) -> str:
    task = f" on {clean(str(about['task']))}" if about["task"] else ""
    lines = [
        f"{versus(*names)}{task}: {len(keys)} prompts matched, {about['only_a']} in A alone, {about['only_b']} in B alone.",
        "Intervals cover the prompts, not another run of either model. A verdict that does not hold after correction for the",
        f'number of metrics ({len(rows)}) says "before correction".',
    ]
    if left:
        rows_of = "".join(f"; {log.file}{told}" for log in (first, second) if (told := _skipped(log)))
        lines.append(f"Not compared, on one side alone or not one number a row: {some(left)}{rows_of}.")
    if short := [f"{row.name} {row.difference.missing}" for row in rows if row.difference.missing]:
        lines.append(f"Prompts without a score on both sides, left out: {some(short)}.")
    own, other = first.by_key(), second.by_key()
    known = {key for key in keys if None not in (own[key][0].identity, other[key][0].identity)}
    if worded := sum(own[key][0].prompt != other[key][0].prompt for key in known):
        lines.append(f"{worded} prompts are worded differently (template or examples), though their documents are the same.")
    if unsure := [key for key in keys if key not in known]:
        worded = sum(own[key][0].prompt != other[key][0].prompt for key in unsure)
        lines.append(
            f"{len(unsure)} prompts are matched by id alone, as a log has neither documents nor their hashes; of these "
            f"{worded} are worded differently."
        )
    if uneven := sum(len(own[key]) != len(other[key]) for key in keys):
        lines.append(f"{uneven} prompts have another number of draws on each side; their means are compared.")
    for row in rows:
        lost = [_unscored(side, keys, row.name) for side in (own, other)]
        if any(lost):
            lines.append(f"{row.name}: draws without a score, {lost[0]} of A and {lost[1]} of B; means are of the others.")
    changed = sorted(
        name for name in {*first.conditions, *second.conditions} if first.conditions.get(name) != second.conditions.get(name)
    )
    if changed:
        lines.append(f"Answers were not given under the same conditions on both sides, by {some(changed)}.")
    return "\n".join(lines) + "\n"


def _skipped(log: Log) -> str:
    """Which metrics of a log are not one number a row, and where one is not."""
    where = [f"{name} in row {row}" for name, row in sorted(log.skipped.items())]
    return f" (no number: {some(where)})" if where else ""
