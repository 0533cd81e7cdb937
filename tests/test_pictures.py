"""The picture of a board: what its title says, what stands on a line, and whether all eyes can read it, by light and dark."""

import dataclasses
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from isoalign.cli.commands import invoke
from isoalign.core.records import Card
from isoalign.evaluation.card import write_card
from isoalign.report.board.sections import Section
from isoalign.report.charts import frontier, looks
from isoalign.report.charts.curves import curves_chart
from isoalign.report.charts.finding import compared_at, finding
from isoalign.report.charts.forest import MOST, lines_of
from isoalign.report.charts.looks import DARK, FAINT, HUES, INK, PAPER, SHAPES
from isoalign.report.pages.paper import latex
from isoalign.training.provenance import FAMILIES
from test_beyond_drift import board
from test_curves import realistic, section_of

SVG = "{http://www.w3.org/2000/svg}"


def texts(section: Section) -> list[str]:
    """The texts of the picture, as text."""
    chart = frontier.frontier_chart("nano", section)
    assert chart is not None
    return ["".join(text.itertext()) for text in ET.fromstring(chart).iter(f"{SVG}text")]


def renamed(cards: list[Card], names: dict[str, str]) -> list[Card]:
    """Copies of the cards of some algorithms under other names."""
    return [dataclasses.replace(card, algorithm=names[card.algorithm]) for card in cards if card.algorithm in names]


def many(count: int) -> list[Card]:
    """A board with copies of DPO under other names."""
    cards = realistic(1)
    return [*cards, *(one for i in range(count) for one in renamed(cards, {"dpo": f"a_rather_long_name_of_a_method_{i:02d}"}))]


# the title


def test_the_title_says_what_ranks_say() -> None:
    three = section_of(realistic())
    assert compared_at(three) == 4
    ranks = {name: at.rank for name, at in three.equal_kl[4].items() if at.rank}
    best = [name for name, rank in ranks.items() if rank[0] == 1]
    assert 1 < len(best) < 4, "or the sentence below is another"
    assert finding(three, 4).startswith(f"At 4 nats of KL, {len(best)} of 4 methods may be the best; not ")
    others = [name for name in ("dpo", "kto", "ppo", "rlaif") if name not in best]
    assert finding(three, 4).rpartition("not ")[2].split(", ") == others
    assert finding(three, None).startswith("At the end of the budget")
    assert finding(three, 4) in " ".join(texts(three))


def test_one_method_under_several_names_is_the_best_of_none() -> None:
    cards = realistic()
    twins = renamed(cards, {"dpo": "ipo"}) + renamed(cards, {"dpo": "cdpo"})
    section = section_of([*twins, *(card for card in cards if card.algorithm in ("dpo", "sft"))])
    assert finding(section, compared_at(section)) == "At 4 nats of KL, no two of 3 methods are told apart"


def test_of_one_seed_the_title_says_that_nothing_is_told_apart() -> None:
    section = section_of(realistic(1))
    assert finding(section, compared_at(section)) == "At 4 nats of KL: one seed of each of 4 methods tells none from another"


def test_without_curves_the_picture_is_of_the_end_of_the_budget() -> None:
    section = section_of([dataclasses.replace(card, curve=[]) for card in realistic()])
    assert compared_at(section) is None
    assert any("at the end of the budget" in text for text in texts(section))


def test_the_picture_says_what_is_drift_or_that_it_was_not_measured() -> None:
    (with_control,) = board(0.38, 0.4, 0.42).sections
    assert with_control.drift.sentence(with_control.rows) == "1 of 2 rows gain more than drift at their KL"
    assert any("drift alone" in text for text in texts(with_control))
    assert not any("drift_rloo" in text for text in texts(with_control)), "draws of the control are a band"
    without = texts(section_of(realistic()))
    assert any("what of it is drift: not measured" in text for text in without)
    assert not any("drift alone" in text for text in without)


# lines and marks


def test_a_twin_of_trl_stands_hollow_on_the_line_of_its_method() -> None:
    cards = realistic()
    section = section_of(cards + renamed(cards, {"kto": "trl_kto", "ppo": "trl_alone"}))
    lines = {line.rows[0][0].name: [row.name for row, _ in line.rows] for line in lines_of(section, 4)}
    assert lines["kto"] == ["kto", "trl_kto"]
    assert lines["trl_alone"] == ["trl_alone"]
    assert "trl_kto" not in lines
    assert "sft" not in lines


def test_lines_are_ordered_by_gain_and_those_that_are_not_measured_come_last() -> None:
    section = section_of(realistic())
    gains = [line.gain for line in lines_of(section, 4)]
    known = [gain for gain in gains if gain is not None]
    assert known == sorted(known, reverse=True)
    assert gains[len(known) :] == [None], "the control did not get to 4 nats"
    assert any(text == "not measured at 4 nats:" for text in texts(section))


def figure_of(monkeypatch: pytest.MonkeyPatch, section: Section) -> Any:
    made: list[Any] = []

    def keep(draw: Callable[[Any], None], size: tuple[float, float], kind: str = "svg") -> bytes:
        return picture(lambda figure: (draw(figure), made.append(figure))[0], size, kind)

    picture = looks.picture
    monkeypatch.setattr(frontier, "picture", keep)
    frontier.frontier_chart("nano", section)
    made[0].draw_without_rendering()
    return made[0]


@pytest.mark.parametrize("cards", [realistic()[:9], realistic(1), many(58)], ids=["three", "one seed", "63"])
def test_of_few_and_many_rows_every_text_is_inside_and_on_no_other(cards: list[Card], monkeypatch: pytest.MonkeyPatch) -> None:
    section = section_of(cards)
    figure = figure_of(monkeypatch, section)
    forest, steps = figure.axes
    labels = [*forest.get_yticklabels(), forest.xaxis.label, *forest.texts, steps.xaxis.label, steps.yaxis.label]
    shown = [text for text in [*labels, *figure.texts, *figure.legends[0].get_texts()] if text.get_text()]
    frames = [text.get_window_extent() for text in shown]
    for text, frame in zip(shown, frames, strict=True):
        assert frame.x0 >= 0 and frame.y0 >= 0, text  # noqa: PT018
        assert frame.x1 <= figure.bbox.x1 and frame.y1 <= figure.bbox.y1, text  # noqa: PT018
    for (a, first), (b, second) in itertools.combinations(zip(shown, frames, strict=True), 2):
        assert not first.overlaps(second), (a, b)
    assert len(forest.get_yticklabels()) <= MOST
    left_out = len([row for row in section.rows if row.name != "sft"]) - MOST
    assert ("more rows left out" in forest.get_xlabel()) == (left_out > 0)
    assert left_out <= 0 or f"{left_out} more rows left out" in forest.get_xlabel()
    assert len({text.get_text() for text in forest.get_yticklabels()}) == len(forest.get_yticklabels())
    assert min(text.get_fontsize() for text in shown) >= 8.5, "points of which the picture has 622"


# text, colours, files


def test_text_is_text_and_names_can_not_break_out() -> None:
    cards = renamed(realistic(1), {"dpo": "<script>&$x^$"}) + [card for card in realistic(1) if card.algorithm != "dpo"]
    chart = frontier.frontier_chart("nano", section_of(cards))
    assert chart is not None
    assert b"<script>" not in chart
    assert "<script>&$x^$" in texts(section_of(cards))
    assert not re.search(rb'<path id="DejaVu', chart), "letters as shapes"
    assert "Verdana" in chart.decode()


@pytest.mark.parametrize("count", [0, 6])
def test_every_colour_of_a_chart_has_one_in_the_dark(count: int) -> None:
    section = section_of(many(count))
    for draw in (frontier.frontier_chart, curves_chart):
        chart = (draw("nano", section) or b"").decode()
        style = re.search(r"<style>@media \(prefers-color-scheme: dark\).*?</style>", chart)
        assert style is not None
        used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", chart.replace(style[0], "")))
        assert used <= DARK.keys()
        assert all(f'[style*="fill: {colour}"]{{fill:{DARK[colour]} !important}}' in style[0] for colour in used)
        assert not re.search(r"<text (?![^>]*fill: )", chart), "black on black"


def linear(colour: str) -> Any:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2.1, of two colours."""
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", [INK, FAINT, *HUES.values()])
def test_every_colour_of_text_has_a_contrast_of_4_5_in_light_and_dark(colour: str) -> None:
    assert contrast(colour, PAPER) >= 4.5
    assert contrast(DARK[colour], DARK[PAPER]) >= 4.5


SEEN = {  # Machado, Oliveira and Fernandes 2009, severity 1
    "all": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def lab(rgb: Any) -> Any:
    """CIE L*a*b* of linear sRGB, white D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize("dark", [False, True])
def test_what_methods_learn_from_differs_in_colour_to_all_eyes_and_in_shape(eyes: str, dark: bool) -> None:
    assert HUES.keys() == SHAPES.keys() == FAMILIES.keys()
    assert len(set(SHAPES.values())) == len(SHAPES)
    seen = [lab(np.clip(np.array(SEEN[eyes]) @ linear(DARK[c] if dark else c), 0, 1)) for c in HUES.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15  # 2.3 is just seen


def test_latex_prints_text_as_it_is() -> None:
    assert latex("a_b 5% \\x {y} − [1] ↑") == r"a\_b 5\% \textbackslash{}x \{y\} $-$ [1] $\uparrow$"


def test_the_command_writes_charts_as_pdf_and_tables_for_a_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for card in realistic(1):
        write_card(card, tmp_path / "nano")
    assert invoke(["board", "nano", "--results", str(tmp_path), "--paper"]) == 0
    shown = capsys.readouterr().out.splitlines()
    folder = tmp_path / "nano"
    written = {Path(line).name for line in shown if line.startswith(str(folder))}
    assert {"frontier.pdf", "curves.pdf", "table.tex", "table.md"} <= written
    assert (folder / "frontier.pdf").read_bytes().startswith(b"%PDF")
    tex, page = ((folder / f"table.{kind}").read_text() for kind in ("tex", "md"))
    figures = [re.findall(r"\d\.\d+ \[", table) for table in (tex, page)]
    assert figures[0] == figures[1]
    assert len(figures[0]) > 10
    assert tex.count(r" \\") == page.count("\n|") - 1, "the same rows, and one of titles"


def test_a_title_that_takes_three_lines_is_told_without_the_area_and_never_cut() -> None:
    end = f"At 0.5 nats of KL, 12 of 38 methods may be the best; 26 are not, as {', '.join(['m' * 24] * 3)}"
    area = "By the area under the curve to 16 nats, 10 of the 30 measured may be the best"
    figure = Figure()
    for title in (f"{end}. {area}", end, f"At 2 nats of KL, dpo is the best of 4 methods. {area}"):
        frontier._titles(figure, 500, title, "")
    told = [text.get_text().replace("\n", " ") for text in figure.texts[::2]]
    assert told == [end, end, f"At 2 nats of KL, dpo is the best of 4 methods. {area}"]
    assert max(text.get_text().count("\n") for text in figure.texts) == 1
