"""Charts of a report: a Vega-Lite specification, drawn when it is scrolled to, with its table as text."""

from __future__ import annotations

import importlib.util
from typing import Any

from markupsafe import Markup

from isoalign.core.errors import UserError
from isoalign.core.lazy import vl_convert
from isoalign.report.site.document import inline_data, render

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
SIZES = {"type": "fit-x", "contains": "padding"}


def chart(identifier: str, title: str, spec: dict[str, Any], table: Markup, note: str = "") -> Markup:
    """A chart as a figure.

    ``spec``: Vega-Lite without schema and sizes that the page sets (its width). Colours are the page's variables
    (``var(--hue-pairs)``), so that they follow its theme. What a mark says when it is pointed at or reached by the keyboard is
    its ``description`` channel. ``title`` says what is seen. ``table``: what it shows, as a table.
    """
    data = inline_data(f"{identifier}-spec", {"$schema": SCHEMA, "width": "container", "autosize": SIZES} | spec)
    return render("chart.html", identifier=identifier, title=title, data=data, table=table, note=note)


def library() -> str:
    """The JavaScript that draws: Vega, Vega-Lite and Vega-Embed. Raises UserError without the package that carries them."""
    if importlib.util.find_spec("vl_convert") is None:
        raise UserError("the charts of a report need a package that is not here; install it: pip install 'isoalign[report]'")
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle
