"""A report in a real browser, from disk: it sorts, filters, tells and keeps links, without errors, requests or the outside.

Needs Chromium (Debian: apt install chromium) and `playwright`, which drives it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoalign.evaluation.card import read_cards, sealed, write_card
from isoalign.report.site.write import write_report

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed: apt install chromium", allow_module_level=True)
driver = pytest.importorskip("playwright.sync_api", reason="no playwright is installed: pip install playwright")

PUBLISHED = Path(__file__).parents[1] / "results" / "published"
EVIL = '<img src=x onerror="hacked=1"></script><script>hacked=1</script>\u202e'
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first page of a report of three tasks, typed as a user types it; a method of one has a name that means mischief."""
    folder = tmp_path_factory.mktemp("report")
    for task in ("nano", "nano_rule", "smol"):
        shutil.copytree(PUBLISHED / task, folder / "cards" / task)
    card = next(card for card in read_cards(PUBLISHED / "smol") if card.algorithm == "dpo")
    config = card.config | {"algorithm": card.config["algorithm"] | {"beta": 0.7}}
    evil = dataclasses.replace(card, algorithm=EVIL, config=config, key="e" * 16, notes=card.notes | {"tuning": EVIL})
    write_card(sealed(dataclasses.replace(evil, seals={})), folder / "cards" / "smol")
    command = [sys.executable, "-m", "isoalign", "report", "--results", folder / "cards", "-o", folder / "out"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.stdout.strip() == str(folder / "out" / "index.html")
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with driver.sync_playwright() as started:
        profile = tmp_path_factory.mktemp("profile")
        context = started.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=FLAGS)
        yield context
        context.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """A tab with the report, which must end without an error, and with no request for anything outside its folder."""
    tab = browser.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("request", lambda request: asked.append(request.url))
    tab.set_viewport_size({"width": 1400, "height": 900})
    tab.goto(report.as_uri())
    yield tab
    assert tab.evaluate("globalThis.hacked") is None
    tab.close()
    assert said == []
    assert [url for url in asked if not url.startswith((report.parent.as_uri(), "data:"))] == []


def drawn(page: Any, chart: str) -> Any:
    """The plot of a chart, scrolled to and drawn."""
    plot = page.locator(f"#{chart} .plot")
    plot.scroll_into_view_if_needed()
    page.wait_for_selector(f"#{chart} .plot[data-drawn]")
    return plot


def names(page: Any, section: str) -> list[str]:
    return page.locator(f"#{section} .rows > tbody > tr:not([hidden]) > th").all_inner_texts()  # type: ignore[no-any-return]


def values(page: Any, section: str, column: int) -> list[float]:
    script = "cells => cells.map((cell) => Number(cell.dataset.v)).filter((value) => !Number.isNaN(value))"
    cells = f"#{section} .rows > tbody > tr > td:nth-child({column})[data-v]"
    return page.eval_on_selector_all(cells, script)  # type: ignore[no-any-return]


def test_all_charts_are_drawn_when_they_are_scrolled_to_and_not_before(page: Any) -> None:
    plots = page.locator(".plot")
    count = plots.count()
    assert count == 3 * 7
    page.wait_for_selector(".plot[data-drawn]")
    assert page.locator(".plot[data-drawn]").count() < count / 2
    for place in range(count):
        plots.nth(place).scroll_into_view_if_needed()
        driver.expect(page.locator(".plot").nth(place)).to_have_attribute("data-drawn", "yes")
    assert page.locator(".plot svg").count() == count


def test_a_heading_sorts_by_pointer_and_by_keyboard_alone(page: Any) -> None:
    first = names(page, "nano-1")
    heading = page.locator("#nano-1 .rows thead th", has_text="Toxicity ↓").first
    button, column = heading.locator("button"), heading.evaluate("cell => cell.cellIndex") + 1
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert values(page, "nano-1", column) == sorted(values(page, "nano-1", column))
    button.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert values(page, "nano-1", column) == sorted(values(page, "nano-1", column), reverse=True)
    assert page.locator("th[aria-sort]").count() == 1
    assert sorted(names(page, "nano-1")) == sorted(first)
    page.locator("#nano-1 .rows thead th", has_text="Method").locator("button").click()
    assert names(page, "nano-1") == sorted(first)


def test_the_keyboard_alone_reaches_the_first_heading_that_sorts(page: Any) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('sort')"):
            break
    page.keyboard.press("Enter")
    assert page.locator("#nano-1 th[aria-sort=ascending]").inner_text().startswith("Method")


def test_rows_are_filtered_by_text_and_what_they_learn_from_and_boards_by_task(page: Any) -> None:
    everything = len(names(page, "nano-1"))
    page.fill("#find", "TRL_")
    assert all(name.startswith("trl_") for name in names(page, "nano-1"))
    assert 0 < len(names(page, "nano-1")) < everything
    assert page.locator("#smol-1 .none").is_visible()
    page.select_option("#feedback", "unpaired")
    assert names(page, "nano-1") == ["trl_kto"]
    assert page.locator("#count").inner_text() == f"1 of {everything + 8 + 7} rows"
    page.get_by_role("button", name="Clear").click()
    driver.expect(page.locator(".rows > tbody > tr[hidden]")).to_have_count(0)
    page.select_option("#seeds", "3")
    assert "kto" in names(page, "nano-1")
    assert names(page, "smol-1") == []
    page.select_option("#seeds", "")
    page.select_option("#task", "smol")
    assert page.locator(".section:visible").count() == 1


def test_a_link_leads_to_the_same_rows_in_the_same_order(page: Any, browser: Any) -> None:
    page.fill("#find", "dpo")
    page.select_option("#highlight", "kto")
    page.locator("#nano-1 .rows thead th", has_text="KL, nats").first.locator("button").click()
    shown, link = names(page, "nano-1"), page.url
    assert "#" in link
    other = browser.new_page()
    other.goto(link)
    assert names(other, "nano-1") == shown
    assert other.input_value("#find") == "dpo"
    assert other.locator("#nano-1 th[aria-sort=ascending]").inner_text().startswith("KL")
    drawn(other, "nano-1-curves")
    assert other.locator("#nano-1-curves .chosen").count() > 3
    other.close()


def test_a_kept_order_of_a_task_with_a_dot_in_its_name_is_found_again(browser: Any, tmp_path: Path) -> None:
    cards = [dataclasses.replace(card, task="smol.v2") for card in read_cards(PUBLISHED / "smol")]
    folder = write_report({"smol.v2": cards}, tmp_path / "out").parent
    tab, other = browser.new_page(), browser.new_page()
    tab.goto((folder / "index.html").as_uri())
    tab.locator(".rows thead th", has_text="KL, nats").first.locator("button").click()
    shown = tab.locator(".rows > tbody > tr > th").all_inner_texts()
    other.goto(tab.url)
    assert other.locator("th[aria-sort=ascending]").inner_text().startswith("KL")
    assert other.locator(".rows > tbody > tr > th").all_inner_texts() == shown
    tab.close()
    other.close()


def test_a_mark_tells_its_row_and_interval_to_a_pointer_and_to_keys(page: Any) -> None:
    plot, tip = drawn(page, "nano-1-forest"), page.locator(".tip")
    assert tip.is_hidden()
    plot.locator("path[aria-label^='cdpo']").last.hover()
    assert tip.inner_text().splitlines()[0] == "cdpo"
    assert "reduction at 2 nats: 0.125 [0.093, 0.166]" in tip.inner_text()
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    plot.focus()
    told = []
    for _ in range(40):
        page.keyboard.press("ArrowRight")
        told.append(tip.inner_text().splitlines()[0])
    assert {"kto", "trl_kto", "rloo"} <= set(told)
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_the_matrix_is_walked_by_keys(page: Any) -> None:
    page.locator("#nano-1 .grid [tabindex='0']").focus()
    tip = page.locator(".tip")
    assert tip.inner_text().startswith("kto and rloo\n")
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("kto and online_dpo\n")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")  # over the diagonal
    assert tip.inner_text().startswith("trl_kto and online_dpo\n")


def test_names_and_notes_do_nothing(page: Any) -> None:
    assert page.locator("img").count() == 0
    assert any("onerror" in name for name in names(page, "smol-1"))
    assert not any("\u202e" in name for name in names(page, "smol-1"))
    for chart in ("forest", "frontier", "curves", "reward", "bill", "diversity", "reliability"):
        drawn(page, f"smol-1-{chart}")
    evil = next(text for text in page.locator("#highlight option").all_inner_texts() if "img" in text)
    page.select_option("#highlight", label=evil)
    page.reload()
    assert page.locator("img").count() == 0


def test_the_theme_follows_the_system_until_it_is_chosen(page: Any) -> None:
    def paper() -> str:
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")  # type: ignore[no-any-return]

    page.emulate_media(color_scheme="light")
    assert paper() == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert paper() == "rgb(13, 17, 23)"
    page.get_by_role("button", name="Light theme").click()
    page.reload()
    assert paper() == "rgb(255, 255, 255)"
    page.evaluate("localStorage.clear()")


@pytest.mark.parametrize("width", [390, 830, 1400])
def test_no_page_is_wider_than_its_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.reload()
    drawn(page, "nano-1-bill")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_more_columns_are_shown_when_asked_for(page: Any) -> None:
    heading = page.locator("#nano-1 .rows thead th", has_text="Distinct-2").first
    assert heading.is_hidden()
    page.locator("#nano-1").get_by_role("button", name="Diversity").click()
    assert heading.is_visible()
