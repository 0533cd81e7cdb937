"""Text from outside (cards, servers, models) is inert and bounded where it is shown, in linear time."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoalign.cli.commands import invoke
from isoalign.core import outside_json
from isoalign.core.complaint import MOST, complain, one_line
from isoalign.core.redaction import redact_text
from isoalign.evaluation.card import read_card, to_json
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


def test_a_line_of_complaint_has_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    complain("task.judge.base_url=http://me:pa55@h/v1?api_key=hidden and hf_abcdefghijklmnopqrst")
    assert capsys.readouterr().err == (
        "isoalign: task.judge.base_url=http://[redacted]@h/v1?api_key=[redacted] and [redacted]\n"
    )


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


NOT_JSON = {
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep enough for what comes after": ('{"a":' * 300 + "1" + "}" * 300, "nested too deeply: more than 50 levels"),
    "long": (json.dumps(["x" * 10**7]), "a text of 10,000,000 characters"),
    "a long name": (json.dumps({"x" * 2 * 10**6: 1}), "a text of 2,000,000 characters"),
    "twice": ('{"a": {"b": 1, "b": 2}}', "has 'b' twice"),
    "half a character": ('{"a": "\\ud800"}', "half a character"),
    "a huge number": ("9" * 5000, "Exceeds the limit"),
    "cut off": ('{"a": [1, 2', "Expecting"),
}


@pytest.mark.parametrize("kind", NOT_JSON)
def test_json_from_outside_is_bounded_and_unambiguous(kind: str) -> None:
    text, reason = NOT_JSON[kind]
    with pytest.raises(ValueError, match=reason):
        outside_json.decode(text)


def test_json_from_outside_is_what_json_says() -> None:
    value = {"a": [1, 2.5, None, True, "\u00e9\U0001f600", {"b": []}], "c": {}, "d": [[[1]]]}
    assert outside_json.decode(json.dumps(value)) == value
    level: Any = 1
    for _ in range(outside_json.DEEPEST):
        level = [level]
    assert outside_json.decode(json.dumps(level)) == level


CARD = to_json(read_card(next((Path(__file__).parents[1] / "results" / "published" / "nano").glob("dpo-s0-*.json"))))
BROKEN: dict[str, Callable[[str], str | bytes]] = {
    **{kind: lambda card, text=text: text for kind, (text, _) in NOT_JSON.items()},  # type: ignore[misc]
    "empty": lambda card: "",
    "not UTF-8": lambda card: card.encode() + b"\xff",
    "a pickle": lambda card: pickle.dumps({"format": 3}),
    "nothing in it": lambda card: "null",
    "half of it": lambda card: card[: len(card) // 2],
    "NaN": lambda card: card.replace('"seed": 0', '"seed": NaN'),
    "infinity": lambda card: card.replace('"seed": 0', '"seed": 1e999'),
    "deep inside": lambda card: card.replace('"seed": 0', f'"seed": 0, "notes": {"[" * 400 + "]" * 400}'),
    "a long name of a method": lambda card: card.replace('"algorithm": "dpo"', f'"algorithm": "{"x" * 5000}"', 1),
    "a folder": lambda card: b"",
}
COMMANDS = [
    ["board", "nano"], ["board", "--across"], ["compare", "CARD", "CARD"], ["publish", "CARD"], ["export", "CARD", "TO"],
    ["rescore", "CARD", "--all"], ["verify", "CARD"], ["store", "prune", "--unnamed"],
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_file_that_is_no_card_is_one_line_for_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    places = {"board": ["results"], "compare": ["results"], "publish": ["results"], "store": ["results", "store"]}
    for kind, spoil in BROKEN.items():
        folder = tmp_path / kind / "nano"
        path = folder / "c.json"
        folder.mkdir(parents=True)
        if kind == "a folder":
            path.mkdir()
        else:
            spoilt = spoil(CARD)
            path.write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
        typed = [{"CARD": str(path), "TO": str(folder / "to")}.get(word, word) for word in words]
        for place in places.get(words[0], ["store"]):
            typed += [f"--{place}", str(tmp_path / kind)]
        assert invoke(typed) == (1 if words[0] == "verify" else 2), kind
        said = capsys.readouterr()
        assert said.err.count("\n") == 1, (kind, said.err)
        assert said.err.startswith("isoalign: "), kind
        assert "ISOALIGN_DEBUG" not in said.err, (kind, said.err)
        assert "c.json" in said.err, (kind, said.err)
        assert not said.out, kind
