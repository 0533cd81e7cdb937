"""A report's first page: equal figures to `isoalign board --json`, what is not measured in words, names that do nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
from markupsafe import Markup

from isoalign.cli.commands import invoke
from isoalign.core.records import Card
from isoalign.evaluation.card import read_cards, write_card
from isoalign.report import as_data
from isoalign.report.charts.looks import DARK, FAINT, GRID, HUES, INK, PAPER
from isoalign.report.leaderboard import Board, build_board
from isoalign.report.site.board_table import board_table
from isoalign.report.site.document import TINTS, assigned_data, document, inline_data, run_path
from isoalign.report.site.front_page import front_page
from isoalign.report.site.names import folder_name
from isoalign.report.site.reward_models import noise_ceiling
from isoalign.report.site.write import MARKER, write_report
from test_beyond_drift import board as board_with_drift
from test_board import golden_cards, make
from test_curves import cards_with_areas
from test_pictures import contrast

PUBLISHED = Path(__file__).parents[1] / "results" / "published"


class Page(HTMLParser):
    """The elements of a page by tag, with their attributes, and the text of tables' cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[tuple[str, str | None]]] = []
        self.title: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "path", "circle"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append(("", dict(attrs).get("data-v")))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        inside = next((tag for tag in reversed(self.open) if tag in ("td", "th", "h2", "table", "small", "script")), "")
        if inside in ("td", "th") and self.rows and self.rows[-1]:
            text, value = self.rows[-1][-1]
            self.rows[-1][-1] = text + data.strip(), value
        self.title += [data.strip()] if inside == "h2" else []

    def tags(self, name: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.found if tag == name)


@pytest.fixture(scope="module")
def smol() -> Board:
    """Published runs of one seed each, with curves and a reward model."""
    return build_board([card for card in read_cards(PUBLISHED / "smol") if card.seed == 0], "smol")


@pytest.fixture(scope="module")
def first(smol: Board) -> str:
    return front_page([smol], set())


def data_of(page: str) -> dict[str, dict[str, object]]:
    """The specifications of a page's charts by the end of their names."""
    found = re.findall(r'<script type="application/json" id="[\w-]*?-(\w+)-spec">(.*?)</script>', page)
    return {name: json.loads(text) for name, text in found}


def test_figures_are_those_of_board_json(smol: Board, first: str) -> None:
    (section,) = as_data.board_data(smol)["sections"]
    lines = {cells[0][0]: cells for cells in Page(first).rows if len(cells) > 20}
    titles = [text for text, _ in lines.pop("Method")]
    columns = {"Reduction ↑": "toxicity_reduction", "KL, nats": "kl", "Perplexity": "perplexity", "Distinct-2 ↑": "distinct_2"}
    assert set(lines) == {row["name"] for row in section["rows"]}
    checked = 0
    for row in section["rows"]:
        for title, name in columns.items():
            text, value = lines[row["name"]][titles.index(title)]
            estimate = row["metrics"].get(name)
            if estimate is None or estimate.value is None:
                assert (text, value) == ("–", None)
                continue
            assert float(value or "nan") == estimate.value
            assert float(text.partition("[")[0].replace("−", "-")) == pytest.approx(estimate.value, abs=0.06)
            checked += 1
        rank = "–".join(map(str, dict.fromkeys(row["rank"]))) if row["rank"] else row["part"]
        assert lines[row["name"]][titles.index("Rank")][0] == rank
    assert checked > 20


def test_the_picture_comes_first_and_its_title_is_its_answer(first: str) -> None:
    assert Page(first).title == ["At 1 nat of KL: one seed of each of 5 methods tells none from another"]
    assert first.index("-forest") < first.index("-frontier") < first.index('class="rows"') < first.index("-curves")


def test_every_chart_has_a_table_and_every_mark_a_description(first: str) -> None:
    specs = data_of(first)
    assert set(specs) == {"forest", "frontier", "curves", "reward", "bill", "diversity", "reliability"}
    for name, spec in specs.items():
        channels = json.dumps(spec)
        assert '"description"' in channels, name
        assert "http" not in channels.replace("https://vega.github.io/schema", ""), name
    assert first.count("<summary>As a table</summary>") == len(specs)
    assert all(attributes.get("scope") for attributes in Page(first).tags("th"))


def test_what_statistics_refuse_is_said_and_has_no_number(first: str, smol: Board) -> None:
    layers = cast(list[dict[str, Any]], data_of(first)["forest"]["layer"])
    points = [point for layer in layers for point in layer.get("data", {"values": []})["values"]]
    marks = {point["name"]: point for point in points if "name" in point}  # the others are of the band of drift
    refused = [name for name, found in smol.sections[0].equal_kl[1.0].items() if found.gain.value is None]
    assert refused == ["sft_chosen"]
    for name in refused:
        assert marks[name]["gain"] is None
        assert "at 1 nat: not measured" in marks[name]["says"]
    assert "one seed says nothing of its method" in first
    assert 'class="better"' not in first, "one seed decides nothing"


def test_drift_is_a_band_and_a_column() -> None:
    page = front_page([board_with_drift(0.38, 0.4, 0.42)], set())
    assert "drift_rloo, a control for drift" in json.dumps(data_of(page)["forest"])
    assert "Above drift ↑" in page
    assert "drift alone, with its 95% interval" in page
    assert "3 draws of drift ended farther away." in page, "the axis ends where methods do"
    assert "not shown to be above drift: at" in page, "the flag, at its row"


def test_the_area_stands_after_the_gain_with_its_rank_and_sorts_by_its_value() -> None:
    board = build_board(cards_with_areas())
    page = front_page([board], set())
    lines = {cells[0][0]: cells for cells in Page(page).rows if len(cells) > 10}
    titles = [text for text, _ in lines.pop("Method")]
    place = titles.index("Area, 0.5 to 4 nats ↑")
    assert titles[place - 1] == "Reduction ↑"
    (section,) = as_data.board_data(board)["sections"]
    values = {row["name"]: row["area"] for row in section["rows"]}
    assert {name: float(lines[name][place][1] or "nan") for name in ("dpo", "kto", "ppo")} == {
        name: values[name]["value"] for name in ("dpo", "kto", "ppo")
    }
    assert re.search(r">0\.135<small>\[[^<]*\]; rank 1</small>", page)
    assert lines["holed"][place] == ("not measured", None)
    assert len({len(cells) for cells in lines.values()} | {len(titles)}) == 1
    assert "Area, " not in front_page([build_board(golden_cards())], set())


def test_a_board_of_many_pairs_says_how_they_were_compared() -> None:
    section = build_board(golden_cards()).sections[0]
    several = dict.fromkeys(itertools.combinations(map(str, range(30)), 2), next(iter(section.ranking.pairs.values())))
    large = dataclasses.replace(section, ranking=dataclasses.replace(section.ranking, others=several))
    assert "saddlepoint" not in board_table(section, "few", set())
    assert "Of more than 400 pairs" in board_table(large, "many", set())
    assert "saddlepoint" in board_table(large, "many", set())


def test_cells_of_the_matrix_have_attributes_apart(first: str) -> None:
    assert '"tabindex=' not in first
    assert re.search(r'<span role="img" aria-label="[^"]*" tabindex="0">', first)


def test_gates_and_ranks_are_explained_at_the_cell() -> None:
    page = front_page([build_board(golden_cards())], set())
    assert "failed a quality gate: shown, not ranked" in page
    assert "<b>Gate, keeps it out of the ranks:</b> repeated_rate 0.61 &gt; 0.2" in page
    assert "made outside isoalign and held to no budget: it has no rank" in page
    assert "outdated: scored by an older version" in page
    assert page.count('<section class="section"') == 2


@pytest.mark.parametrize("cards", [[make("sft")], [make("dpo")], [make("dpo"), make("sft")]], ids=["base", "method", "both"])
def test_a_board_with_hardly_anything_has_a_page(cards: list[Card]) -> None:
    assert "method to compare" in front_page([build_board(cards)], set()) or len(cards) == 1


EVIL = '</script><img src=x onerror="hacked=1">'


def test_names_do_nothing() -> None:
    card = dataclasses.replace(make("dpo"), algorithm=EVIL, notes={"tuning": EVIL}, task=EVIL)
    page = front_page([build_board([card])], set())
    assert not list(Page(page).tags("img"))
    assert "<img" not in page
    assert page.count("</script>") == page.count("<script")
    assert folder_name(EVIL).isascii()
    assert re.fullmatch(r"runs/task-\w+/[\w.-]+\.html", run_path(card))


def test_data_can_not_end_its_element() -> None:
    for text in (inline_data("x", [EVIL]), assigned_data("x", [EVIL])):
        assert text.count("<") in (0, 2)
        assert "\\u003cimg" in text
    assert json.loads(inline_data("x", {"a": [EVIL, float("nan")]}).split(">", 1)[1].rpartition("<")[0]) == {"a": [EVIL, None]}


def test_a_page_lets_nothing_in_from_outside_and_its_links_are_relative() -> None:
    page = Page(document("A", Markup("<p>B</p>"), depth=2))
    policy = next(one["content"] or "" for one in page.tags("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    places = [one.get("src") or one.get("href") or "" for tag in ("script", "link", "a") for one in page.tags(tag)]
    assert all(place.startswith(("../../", "#", "data:,")) for place in places), places


def mixed(a: str, b: str) -> str:
    """The colour half-way."""
    return "#" + "".join(f"{(int(a[i : i + 2], 16) + int(b[i : i + 2], 16)) // 2:02x}" for i in (1, 3, 5))


@pytest.mark.parametrize("text", [INK, FAINT, *HUES.values()])
def test_text_of_a_row_that_is_pointed_at_has_a_contrast_of_4_5(text: str) -> None:
    assert contrast(text, mixed(GRID, PAPER)) >= 4.5
    assert contrast(DARK[text], mixed(DARK[GRID], DARK[PAPER])) >= 4.5


@pytest.mark.parametrize("paper", [HUES["pairs"], HUES["reward"], INK])
def test_text_on_cells_of_the_matrix_and_in_what_marks_say_has_a_contrast_of_4_5(paper: str) -> None:
    assert contrast(PAPER, paper) >= 4.5
    assert contrast(DARK[PAPER], DARK[paper]) >= 4.5


@pytest.mark.parametrize(("light", "dark"), TINTS)
def test_bars_have_a_contrast_of_3(light: str, dark: str) -> None:
    assert contrast(light, PAPER) >= 3
    assert contrast(dark, DARK[PAPER]) >= 3


def test_the_noise_ceiling_is_one_minus_the_noise_where_it_is_known(smol: Board, first: str) -> None:
    section = smol.sections[0]
    noise = section.rows[0].cards[0].config["task"]["feedback"]["noise"]
    assert noise_ceiling(section) == 1 - noise
    assert f"noise lets a perfect one reach {1 - noise:.1%}" in first
    row = section.rows[0]
    biased = dataclasses.replace(row.cards[0], config={"task": row.cards[0].config["task"] | {"panel": {"annotators": 3}}})
    assert noise_ceiling(dataclasses.replace(section, rows=(dataclasses.replace(row, cards=(biased,)),))) is None


def test_a_report_is_written_whole_over_an_older_one_and_over_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("isoalign.report.site.write.library", lambda: "")  # a second of packing
    write_card(make("sft"), tmp_path / "cards" / "nano")
    words = ["report", "nano", "--results", str(tmp_path / "cards"), "-o", str(tmp_path / "out")]
    assert invoke(words) == 0
    (tmp_path / "out" / "stale.html").touch()
    assert invoke(words) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARKER, "assets", "index.html", "pairs", "runs", "samples"}
    (tmp_path / "out" / MARKER).unlink()
    capsys.readouterr()
    assert invoke(words) == 2
    assert "exists already; name a folder that is new or empty" in capsys.readouterr().err
    assert invoke([*words[:1], "smol", *words[2:]]) == 2
    assert f"no cards in {tmp_path / 'cards' / 'smol'}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cards", "out"], "nothing half-written"


def test_what_fails_on_the_way_leaves_the_older_report_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoalign.report.site.write.library", lambda: "")
    page = write_report({"nano": [make("sft")]}, tmp_path / "out")
    before = page.read_bytes()
    monkeypatch.setattr("isoalign.report.site.write.stylesheet", lambda: "\ud800")  # which no file can hold
    with pytest.raises(UnicodeEncodeError):
        write_report({"nano": [make("sft"), make("dpo")]}, tmp_path / "out")
    assert page.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_the_library_of_the_charts_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_card(make("sft"), tmp_path / "nano")
    assert invoke(["report", "--results", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "pip install 'isoalign[report]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_write_report_gives_the_first_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoalign.report.site.write.library", lambda: "")
    assert write_report({"nano": [make("sft")]}, tmp_path / "a" / "b") == tmp_path / "a" / "b" / "index.html"
