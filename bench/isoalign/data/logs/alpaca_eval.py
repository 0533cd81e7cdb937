"""Files of AlpacaEval: a model's outputs, and annotations, in which a judge prefers one of two outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isoalign.core.errors import UserError
from isoalign.data.logs.log import Log, LogRow, mapping_of, number_of, refuse, text_of

KIND = "AlpacaEval file"
DRAW = 0.0  # as older files write a tie


def claims(first: Any) -> bool:
    """Whether a file that begins with this value is such a file."""
    return isinstance(first, dict) and "instruction" in first and ("output" in first or "output_2" in first)


def read(file: Path, values: Sequence[Any]) -> Log:
    """The log, by instruction. Raises UserError that names the row.

    Of annotations ``win_rate`` is the judge's preference for output 2, from 0 to 1, and ``discrete_win_rate`` whether it is
    preferred, a tie a half. ``length`` is that of the output in characters.
    """
    rows, generators, others = [], set(), set()
    for number, value in enumerate(values, start=1):
        row = mapping_of(file, number, value)
        name = "output_2" if "output_2" in row else "output"
        instruction, output = text_of(file, number, "instruction", row), text_of(file, number, name, row)
        scores: dict[str, float | None] = {"length": float(len(output))}
        identity = ""
        if name == "output_2":
            preference = number_of(file, number, "preference", row.get("preference"))
            preference = 1.5 if preference == DRAW else preference
            if preference is not None and not 1 <= preference <= 2:
                refuse(file, number, f"preference must be from 1 (output_1) to 2 (output_2), not {preference:g}")
            scores["win_rate"] = None if preference is None else preference - 1
            scores["discrete_win_rate"] = None if preference is None else (preference > 1.5) + 0.5 * (preference == 1.5)
            identity = text_of(file, number, "output_1", row)
            others.add(f"{row.get('generator_1', '')} by {row.get('annotator', '')}")
        generators.add(str(row.get("generator_2", "") if name == "output_2" else row.get("generator", "")))
        rows.append(LogRow(number, instruction, 0, instruction, identity, scores, (output,)))
    for what, found in (("models", generators), ("pairs of opponent and annotator", others)):
        if len(found) > 1:
            raise UserError(f"{file}: it holds {len(found)} {what}: {', '.join(sorted(found))[:120]}; keep one in a file")
    return Log(file, KIND, "", generators.pop() if generators else "", tuple(rows), against=others.pop() if others else "")
