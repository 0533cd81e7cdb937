"""A submission: the cards as they are published, what `isoalign verify` says of them, and the text of a pull request."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isoalign.core.display import clean, escape, grid, scientific
from isoalign.core.errors import UserError
from isoalign.core.files import new_folder
from isoalign.core.manifests import MANIFEST
from isoalign.core.objective import objective_of
from isoalign.core.progress import track as with_bar
from isoalign.core.records import Card, Estimate
from isoalign.core.redaction import redact_text
from isoalign.core.store import Store
from isoalign.evaluation.kept import stage_of
from isoalign.evaluation.tracks import track
from isoalign.report.board.columns import gain_digits
from isoalign.report.pages.page import commands_block
from isoalign.tools.submission.checks import Checked, check, source_of
from isoalign.tools.submission.figures import without_numbers

BODY, VERIFIED, RESULTS = "pull_request.md", "verify.txt", "results"


def submit(paths: Sequence[Path], results: Path, store: Store, folder: Path) -> list[Checked]:
    """Check cards and write what a pull request adds, and its text, into a new folder, whole or not at all.

    ``results``: that of the repository. Raises UserError for the first thing that keeps a card from being published.
    """
    checked: dict[Path, Checked] = {}
    for path in with_bar(paths, "checking cards", least=2):
        one = check(path, results, store, [other for other in paths if other != path])
        _check_home(one, path)
        if one.place in checked:
            raise UserError(f"{path}: {one.place.name} is named twice")
        checked[one.place] = one
    body = pull_request(list(checked.values()), store)
    lines = [clean(f"{one.place.name}: ok: {line}") for one in checked.values() for line in one.report.checked]
    with new_folder(folder) as work:
        for place, one in checked.items():
            (work / RESULTS / place).parent.mkdir(parents=True, exist_ok=True)
            (work / RESULTS / place).write_text(one.text, encoding="utf-8")
        (work / VERIFIED).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (work / BODY).write_text(body, encoding="utf-8")
    return list(checked.values())


def _check_home(checked: Checked, path: Path) -> None:
    """Nothing of the submitter's home is published; the card is sealed, so nothing can be cut out of it."""
    homes = {str(home).rstrip(os.sep) for home in (Path.home(), Path.home().resolve())} - {""}
    named = re.compile(f"(?:{'|'.join(map(re.escape, sorted(homes)))})(?![\\w-]|\\.\\w)") if homes else None
    if named and (field := next((name for name, text in _texts(json.loads(checked.text)) if named.search(text)), "")):
        raise UserError(
            f"{path}: its {field!r} names your home folder; run it again with a path relative to where you type it"
        )


def _texts(value: Any, field: str = "card") -> Iterator[tuple[str, str]]:
    """Every text in a value from JSON, with the name that it stands under; names are texts too."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield field, name
            yield from _texts(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, field)


def pull_request(checked: Sequence[Checked], store: Store) -> str:
    """The text of the pull request, in which nothing of a card is Markdown or HTML."""
    rows = [_row(one, store) for one in checked]
    titles = [
        "Card",
        "Task",
        "Method",
        "Settings",
        "Seed",
        "FLOP",
        "Gain",
        "KL, nats",
        "Failed gates",
        "SHA-256 of its samples",
    ]
    parts = [
        f"Results of {len(checked)} run{'s' if len(checked) > 1 else ''}, prepared by `isoalign submit`.",
        grid(titles, rows, left=(0, 1, 2, 3, 8, 9)),
        *(line for one in checked for line in _remarks(one, store)),
        "Versions: " + "; ".join(dict.fromkeys(_versions(one.card) for one in checked)) + ".",
        "The samples, and all stages that led to them, lie in the submitter's store, which is kept, and are given on request. "
        "They contain offensive text.",
        commands_block([one.card for one in checked]),
        _verified(checked),
    ]
    return redact_text("\n\n".join(parts)) + "\n"


def _row(checked: Checked, store: Store) -> list[str]:
    card, objective = checked.card, objective_of(checked.card)
    gates = "; ".join(escape(flag.text) for flag in card.flags if flag.kind == "gate")
    return [
        f"`{checked.place.name}`", escape(card.task), escape(card.algorithm), track(card) or "–", str(card.seed),
        scientific(card.budget["flops"]), _interval(card.metrics.get(objective.gain), gain_digits(objective)),
        _interval(card.metrics.get("kl")), gates or "none", f"`{samples_digest(card, store)}`",
    ]  # fmt: skip


def _interval(estimate: Estimate | None, digits: int = 3) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return f"{estimate.value:.{digits}f}{ends}"


def samples_digest(card: Card, store: Store) -> str:
    """SHA-256 of the card's ``samples.jsonl``. Raises UserError where the store does not hold it."""
    manifest = json.loads((stage_of(card, store, "samples") / MANIFEST).read_text(encoding="utf-8"))
    return str(manifest["files"]["samples.jsonl"]["sha256"])


def _remarks(checked: Checked, store: Store) -> list[str]:
    """What a reviewer must know of a card beside its figures."""
    name, lines = f"`{checked.place.name}`", list[str]()
    if checked.package:
        code = source_of(checked, store)
        lines.append(f"{name}: the method is of another package, {escape(checked.package)}; digest of its code: `{code}`.")
    if original := checked.original:
        lines.append(f"{name} is a published run on another machine. {agreement(original, checked.card)}")
    return lines


def agreement(published: Card, again: Card) -> str:
    """Whether a run that was made again agrees with the published one: intervals of gain and KL that overlap, and the same
    failed gates."""
    gain = objective_of(published).gain
    apart = [name for name in (gain, "kl") if not _overlap(published.metrics.get(name), again.metrics.get(name))]
    gates = [{without_numbers(flag) for flag in card.flags if flag.kind == "gate"} for card in (published, again)]
    apart += ["failed gates"] if gates[0] != gates[1] else []
    figures = ", ".join(
        f"{escape(name)} {_interval(published.metrics.get(name))} published, {_interval(again.metrics.get(name))} here"
        for name in (gain, "kl")
    )
    return f"{'It disagrees in ' + ', '.join(map(escape, apart)) if apart else 'It agrees'}: {figures}."


def _overlap(one: Estimate | None, other: Estimate | None) -> bool:
    """Whether two intervals share a value; an estimate without an interval is its value, and nothing agrees with nothing."""
    (low, high), (other_low, other_high) = _ends(one), _ends(other)
    if None in (low, high, other_low, other_high):
        return (low, high) == (other_low, other_high)
    return low <= other_high and other_low <= high  # type: ignore[operator]


def _ends(estimate: Estimate | None) -> tuple[float | None, float | None]:
    if estimate is None:
        return None, None
    return (
        estimate.value if estimate.low is None else estimate.low,
        estimate.value if estimate.high is None else estimate.high,
    )


def _versions(card: Card) -> str:
    names = [name for name in card.versions if not name.startswith("metric ")]
    return ", ".join(escape(f"{name} {card.versions[name]}") for name in names)


def _verified(checked: Sequence[Checked]) -> str:
    """The lines of `isoalign verify`, folded."""
    lines = [f"- `{one.place.name}`: {escape(line)}" for one in checked for line in one.report.checked]
    return "\n".join(["<details><summary>What `isoalign verify` checked</summary>", "", *lines, "", "</details>"])
