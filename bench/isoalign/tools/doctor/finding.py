"""What `isoalign doctor` finds, and how it is shown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from isoalign.core.display import clean

WIDTH = 120
OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``mark``: ok, note or problem; ``found``: what is there; ``remedy``: what to do about a
    note or problem; ``fatal``: whether it makes a run impossible."""

    mark: str
    topic: str
    name: str
    found: str
    remedy: str = ""
    fatal: bool = False


def verdict(findings: Sequence[Finding]) -> str:
    """One line: whether a run will work."""
    fatal = [finding.name for finding in findings if finding.fatal]
    if fatal:
        return f"A run will not work: see {', '.join(dict.fromkeys(fatal))}."
    others = sum(finding.mark == "problem" for finding in findings)
    return f"A run will work{f', with {others} problem{chr(115) * (others > 1)} above' if others else ''}."


def table(findings: Sequence[Finding]) -> str:
    """The findings as a table of plain text, each remedy below what it is for, and the verdict."""
    wide = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            lines += [""] * bool(lines) + [finding.topic]
            topic = finding.topic
        lead = f"  {finding.mark:<8} {finding.name:<{wide}}  "
        lines += _wrap(lead, clean(finding.found), " " * len(lead))
        if finding.remedy and finding.mark != OK:
            lines += _wrap(f"{' ' * len(lead)}-> ", clean(finding.remedy), " " * (len(lead) + 3))
    return "\n".join([*lines, "", verdict(findings)])


def _wrap(lead: str, text: str, then: str) -> list[str]:
    how = {"width": WIDTH, "break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, initial_indent=lead, subsequent_indent=then, **how)  # type: ignore[arg-type]
