"""The frame of every page of a report: head, navigation, theme, and a policy that lets nothing in from outside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from isoalign.core.display import clean
from isoalign.core.json_output import plain
from isoalign.core.records import Card
from isoalign.evaluation.card import file_name
from isoalign.report.charts.looks import DARK, FAINT, GRID, HUES, INK, OTHERS, PAPER
from isoalign.report.site.names import folder_name

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file: data:; "
    "base-uri 'none'; form-action 'none'"
)
TINTS = (
    ("#1565d8", "#6ea8ff"), ("#7d8590", "#8b949e"), ("#c2410c", "#e8791f"), ("#0f8a7e", "#3fc9b8"), ("#7b1fa2", "#b880ff"),
    ("#a67f00", "#e3c04a"), ("#d1417d", "#ff7eb6"), ("#4a3500", "#c9b48a"), ("#4f6b12", "#a8d468"), ("#222222", "#e6edf3"),
)  # fmt: skip
"""Colours of the roles of a bill, in the light and in the dark."""
SETS = 12  # of columns, that a table may show or not
NAVIGATION = (("index.html", "Results"),)
"""Pages that each page links to, by path and title."""


@cache
def environment() -> jinja2.Environment:
    """The templates, in which every text is escaped."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["clean"] = clean
    return found


def render(template: str, **values: Any) -> Markup:
    """A template of `templates/`, filled."""
    return Markup(environment().get_template(template).render(**values))


def document(title: str, body: Markup, *, depth: int = 0, scripts: Sequence[Markup] = ()) -> str:
    """A page as HTML.

    ``depth``: how many folders the page lies below the report's, so that links are relative. ``scripts``: elements for the end
    of the body, of files in the report (``<script src=...>``) or of data (`inline_data`); the policy runs no inline script.
    """
    root = "../" * depth
    return render(
        "document.html", title=clean(title), body=body, root=root, scripts=scripts, policy=POLICY, navigation=NAVIGATION
    )


def script(path: str, depth: int = 0) -> Markup:
    """An element that loads a script of the report."""
    return Markup('<script src="{}{}"></script>').format("../" * depth, path)


def inline_data(identifier: str, data: Any) -> Markup:
    """Data for a script, as JSON that can't end its element."""
    text = json.dumps(plain(data), allow_nan=False, separators=(",", ":"))
    return Markup('<script type="application/json" id="{}">{}</script>').format(identifier, Markup(_escaped(text)))


def assigned_data(name: str, data: Any) -> str:
    """A script that assigns data to a global name: what a page can load from a disk, where it can't fetch."""
    return f"globalThis.{name}={_escaped(json.dumps(plain(data), allow_nan=False, separators=(',', ':')))};\n"


def _escaped(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\x7f", "\\u007f")


def run_path(card: Card) -> str:
    """Where the page of a run lies in the report."""
    return f"runs/{folder_name(card.task)}/{file_name(card).removesuffix('.json')}.html"


def stylesheet() -> str:
    """The style of all pages, with the colours of the charts as variables, in the light and in the dark."""
    colours = {"paper": PAPER, "ink": INK, "faint": FAINT, "grid": GRID, "others": OTHERS}
    colours |= {f"hue-{name}": colour for name, colour in HUES.items()} | {"hue-other": INK}
    light = " ".join(f"--{name}: {colour};" for name, colour in colours.items())
    dark = " ".join(f"--{name}: {DARK[colour]};" for name, colour in colours.items())
    light += "".join(f" --role-{i}: {colour};" for i, (colour, _) in enumerate(TINTS))
    dark += "".join(f" --role-{i}: {colour};" for i, (_, colour) in enumerate(TINTS))
    rules = f":root {{ color-scheme: light; {light} }}\n:root[data-theme=dark] {{ color-scheme: dark; {dark} }}\n"
    rules += f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ color-scheme: dark; {dark} }} }}\n"
    rules += "".join(
        f".hue-{name} {{ color: var(--hue-{name}); }} .fill-{name} {{ fill: var(--hue-{name}); }}\n"
        for name in [*HUES, "other"]
    )
    rules += "".join(f"[data-sets]:not([data-sets~='{i}']) .set-{i} {{ display: none; }}\n" for i in range(SETS))
    return rules + "".join(file.read_text(encoding="utf-8") for file in sorted(HERE.glob("assets/*.css")))
