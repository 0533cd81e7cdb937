"""What the board's picture shows, in a sentence that follows from ranks and intervals."""

from __future__ import annotations

from isoalign.core.display import clean
from isoalign.core.records import Estimate
from isoalign.report.board.rows import METHOD, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.looks import shorten

NAMED = 3  # methods in a sentence


def in_nats(kl: float) -> str:
    """A KL in words."""
    return f"{kl:g} nat{'s' * (kl != 1)}"


def compared_at(section: Section) -> float | None:
    """The KL of the grid at which most ranked rows are measured, the largest of several; None with fewer than two."""
    counts = {kl: len(_ranked(section, kl)) for kl in section.equal_kl}
    most = max(counts.values(), default=0)
    return max(kl for kl, count in counts.items() if count == most) if most > 1 else None


def gain_of(section: Section, row: Row, at: float | None) -> Estimate:
    """A row's gain at a KL, or at the end of its budget; missing where it is not measured."""
    if at is None:
        return row.estimate(row.objective.gain)
    found = section.equal_kl[at].get(row.name)
    return found.gain if found else Estimate(None, None, None, 0)


def headline(section: Section) -> str:
    """The finding at the KL of `compared_at`, and what ranks by the area under the curves say, where that is measured."""
    told, (to, areas) = finding(section, compared_at(section)), section.areas
    spans = {row.name: span for row in section.rows if (span := areas.get(row.name, (None, None))[1])}
    if len(spans) < 2 or all(row.clusters == 1 for row in section.rows if row.name in spans):
        return told
    best = [name for name, (first, _) in spans.items() if first == 1]
    measured = f"of the {len(spans)} measured"
    may = f"{len(best) if len(best) < len(spans) else 'any'} {measured} may be the best"
    verdict = f"{shorten(clean(best[0]), 30)} is the best {measured}" if len(best) == 1 else may
    return f"{told}. By the area under the curve to {in_nats(to)}, {verdict}"


def finding(section: Section, at: float | None) -> str:
    """What ranks say of the methods at a KL, or at the end of the budget: which may be the best, jointly at 95%."""
    where = "At the end of the budget" if at is None else f"At {in_nats(at)} of KL"
    ranked, spans = _ranked(section, at), _spans(section, at)
    if len(ranked) < 2:
        return f"{where}: {len(ranked) or 'no'} method{'s' * (len(ranked) != 1)} to compare"
    if all(row.clusters == 1 for row in ranked):
        unit = "seed" if all(row.seeds == 1 for row in ranked) else "base"
        return f"{where}: one {unit} of each of {len(ranked)} methods tells none from another"
    best = [row.name for row in ranked if spans[row.name][0] == 1]
    if all(spans[row.name] == (1, len(ranked)) for row in ranked):
        return f"{where}, no two of {len(ranked)} methods are told apart"
    if len(best) == 1:
        return f"{where}, {shorten(clean(best[0]), 30)} is the {section.objective.superlative} of {len(ranked)} methods"
    behind = [row.name for row in ranked if row.name not in best]
    if not behind:
        return f"{where}, any of {len(ranked)} methods may be the best"
    last = [shorten(clean(name), 24) for name in behind[-NAMED:]]
    named = ", ".join(last) if len(behind) <= NAMED else f"{len(behind)} are not, as {', '.join(last)}"
    told = f"not {named}" if len(behind) <= NAMED else named
    return f"{where}, {len(best)} of {len(ranked)} methods may be the best; {told}"


def unmeasured_sentence(section: Section, at: float | None) -> str:
    """How many methods are not in the comparison."""
    missing = sum(row.rankable for row in section.rows) - len(_ranked(section, at))
    return f"{missing} methods not measured there" if missing > 1 else "one method not measured there" if missing else ""


def _spans(section: Section, at: float | None) -> dict[str, tuple[int, int]]:
    if at is None:
        return {row.name: row.rank for row in section.rows if row.rank}
    return {name: found.rank for name, found in section.equal_kl[at].items() if found.rank}


def _ranked(section: Section, at: float | None) -> list[Row]:
    """The methods that have a rank there, best first."""
    spans = _spans(section, at)
    rows = [row for row in section.rows if row.part == METHOD and row.name in spans]
    return sorted(rows, key=lambda row: (-(gain_of(section, row, at).value or 0.0), row.name))
