"""Text from outside (cards, servers, models) is inert and bounded where it is shown, in linear time."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from isoalign.core.complaint import MOST, complain, one_line
from isoalign.core.redaction import redact_text
from isoalign.report.charts.looks import dress, picture
from isoalign.report.pages.table import as_csv

HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07", "a\rb", "a\nisoalign: all is well", "\u202eevil\u202c", "\x9b31m", "\ud800", "a\x00b",
    "\u2028next",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_of_complaint_is_one_printable_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"the card says {text}")
    told = capsys.readouterr().err
    assert told.endswith("\n")
    assert told.count("\n") == 1
    assert told[:-1].isprintable()


def test_a_line_of_complaint_is_bounded() -> None:
    assert len(one_line("x" * 10**7)) == MOST + 3
    assert one_line("x" * MOST) == "x" * MOST
    assert one_line("two  words\n") == "two words"


REPEATED = ["x", "a=", "key=", "a ", 'a="', "--token ", "://a:", "hf_", "key: 3 ", "a.-", "key='", "key=\"'"]


@pytest.mark.parametrize("text", REPEATED)
def test_redaction_of_a_very_long_text_ends(text: str) -> None:
    """One that is quadratic takes minutes for it."""
    once = redact_text(text * 100_000)
    assert redact_text(once) == once


def test_redaction_of_a_long_chain_is_no_recursion() -> None:
    assert redact_text("a=" * 10_000 + "api_key=hidden") == "a=" * 10_000 + "api_key=[redacted]"


@pytest.mark.parametrize("name", ["$\\href{}$", "$x^$", "a $ b", "$\\frac{1}{$", "<script>", "&amp;", "\x1b[2J"])
def test_a_name_is_no_formula_or_markup_on_a_chart(name: str) -> None:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        dress(axes, name, name)
        axes.set_xlabel(name)
        axes.plot([0, 1], label=name)
        axes.legend()

    shown = picture(draw, (4.0, 3.0)).decode()
    assert "<script>" not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("text", ["=1+2", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", " =1", "|x", "%x"])
def test_a_cell_of_a_table_is_no_formula(text: str) -> None:
    written = as_csv(["name", text], [[text, -0.5]])
    assert [cell.startswith("'") for cell in next(csv.reader([written.splitlines()[1]]))] == [True, False]
    assert next(csv.reader([written.splitlines()[0]]))[1].startswith("'")
