"""The pages about runs in a browser: what keys, pointers, screen readers and addresses do there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoalign.core.display import visible
from isoalign.core.store import Store
from isoalign.report.site.names import run_id
from isoalign.report.site.samples_page import LONGEST
from isoalign.report.site.write import write_report
from test_board import golden_cards, make, valued
from test_report_browser import CHROMIUM, FLAGS, driver  # skips these tests too where there is no browser
from test_report_runs import DRAWS, HOSTILE, PROMPTS, answer, furnished, prompt_id, with_curve

pytestmark = pytest.mark.slow
EVIL = HOSTILE["image"]
expect = driver.expect  # wait_for_function is refused by the policy of the pages once it has to wait
WIDTHS = (390, 830, 1400)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of a report, and the identifier of the first run of each algorithm."""
    home = tmp_path_factory.mktemp("report")
    store = Store(home / "store")
    evil = [replace(valued(make("ppo", seed)), algorithm=EVIL, key=f"abcdef0{seed}") for seed in (0, 1)]
    once = replace(valued(make("kto")), algorithm="once", key="0123456789")
    cards = furnished([with_curve(card) for card in [*golden_cards(), *evil, once]], store)
    bare = replace(valued(make("rlaif", 7)), algorithm="bare", key="9876543210")
    write_report({"nano": [*cards, bare]}, home / "pages", store)
    return home / "pages", {card.algorithm: run_id(card) for card in reversed([*cards, bare])}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page; at its end nothing was asked of another place than the disk, and nothing went wrong."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    opened, said = context.new_page(), []
    opened.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
    opened.on("console", lambda line: said.append(line.text) if line.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    yield opened
    assert said == []
    assert opened.title() != "taken"
    context.close()


def visit(page: Any, folder: Path, place: str) -> None:
    page.goto("about:blank")  # a change of the hash alone loads nothing
    page.goto(f"{folder.as_uri()}/{place}")


def words(page: Any) -> Any:
    return page.locator("#answers .words")


def test_an_address_shows_its_prompt_draw_and_runs_and_follows_what_is_chosen(page: Any, report: Any) -> None:
    folder, ids = report
    dpo, kto = ids["dpo"], ids["kto"]
    visit(page, folder, f"samples/nano.html#prompt={prompt_id(9)}&draw=1&runs={dpo},{kto}")
    assert words(page).count() == 2
    assert words(page).first.inner_text().endswith("answers prompt 9 at draw 1")
    page.get_by_label("Next draw").click()
    assert f"prompt={prompt_id(9)}&draw=2&" in page.url
    assert words(page).last.inner_text().endswith("answers prompt 9 at draw 2")
    page.locator("#prompt").select_option("0")
    assert f"prompt={min(map(prompt_id, range(PROMPTS)))}" in page.url
    page.evaluate(f"location.hash = '#prompt={prompt_id(9)}&draw=1'")
    expect(page.locator("#draw")).to_have_value("1")
    assert words(page).last.inner_text().endswith("answers prompt 9 at draw 1")
    visit(page, folder, "samples/nano.html#prompt=unknown&runs=nobody&draw=-3")
    assert "names what is not in this report" in page.locator("#status").inner_text()
    assert f"draw 1 of {DRAWS}" in page.locator("#status").inner_text()
    visit(page, folder, f"samples/nano.html#runs={ids['bare']}")
    assert "Its samples are not here (not in the store)." in page.locator("#answers").inner_text()


def test_a_text_is_blurred_for_eyes_and_screen_readers_until_it_is_asked_for(page: Any, report: Any) -> None:
    folder, ids = report
    visit(page, folder, f"samples/nano.html#prompt={prompt_id(9)}&draw=1&runs={ids['dpo']},{ids['kto']}")
    main = page.locator("main")
    assert "answers prompt 9" not in main.aria_snapshot()
    assert "tell me" not in main.aria_snapshot()
    assert all("blur" in words(page).nth(i).evaluate("e => getComputedStyle(e).filter") for i in range(2))
    show = page.get_by_role("button", name="Show the text of dpo (beta=0.1), seed 0")
    show.focus()
    page.keyboard.press("Enter")
    assert main.aria_snapshot().count("answers prompt 9") == 1
    assert page.evaluate("document.activeElement.textContent") == "Blur"  # the focus stays where it was
    page.keyboard.press("Space")
    assert "answers prompt 9" not in main.aria_snapshot()
    page.get_by_label("Blurred").select_option("none")
    assert main.aria_snapshot().count("answers prompt 9") == 2
    page.get_by_label("Next prompt").click()
    assert page.locator(".blurred").count() == 0
    page.get_by_label("Blurred").select_option("scored")  # a score is a twentieth of the prompt's number: 10 is the first
    for number, blurred in ((9, 0), (10, 2)):
        page.evaluate(f"location.hash = '#prompt={prompt_id(number)}&draw=1'")
        expect(page.locator("#answers")).to_contain_text(f"prompt {number} ")
        assert page.locator("#answers .blurred").count() == blurred
        assert page.locator("#prompt-text .blurred").count() == 1  # which nobody scored


def test_runs_are_chosen_by_keyboard_and_filtered_by_name(page: Any, report: Any) -> None:
    folder, ids = report
    visit(page, folder, f"samples/nano.html#runs={ids['dpo']},{ids['kto']}")
    page.locator("#chosen summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("onc")
    assert page.locator("#runs label:visible").all_inner_texts() == [" once, seed 0 (4.50e12 FLOP)"]
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("#answers h3").count() == 3
    assert page.url.endswith(f"{ids['dpo']}%2C{ids['kto']}%2C{ids['once']}")


def test_texts_and_names_that_mean_mischief_are_shown_as_they_are(page: Any, report: Any) -> None:
    folder, ids = report
    visit(page, folder, f"samples/nano.html#runs={ids[EVIL]},{ids['dpo']}")
    assert EVIL in page.locator("#answers h3").first.inner_text()
    page.get_by_label("Blurred").select_option("none")
    for number, text in enumerate(HOSTILE.values()):
        page.evaluate(f"location.hash = '#prompt={prompt_id(number)}&draw=0'")
        assert answer("", number, 0) == text
        expect(page.locator("#prompt-text")).to_contain_text(f"Prompt {number}:")
        shown = words(page).first.text_content()
        assert shown == (visible(text[:LONGEST]) or "(an empty text)")
    assert page.locator("main img, main script, #answers b").count() == 0
    visit(page, folder, f"runs/nano/{ids[EVIL]}.html")
    assert EVIL in page.locator("h1").inner_text()
    visit(page, folder, "pairs/nano.html")
    page.locator("#a").select_option(label=EVIL)
    assert EVIL in page.locator("#verdict").inner_text()
    assert page.locator("main img").count() == 0
    page.reload()
    assert page.locator("#name-a").inner_text() == f"A: {EVIL}"


def test_a_pair_is_turned_by_a_swap_and_refused_in_words(page: Any, report: Any) -> None:
    folder, _ = report
    visit(page, folder, "pairs/nano.html#a=dpo (beta=0.1)&b=ppo")
    assert page.locator("#verdict").inner_text() == "dpo (beta=0.1) is less toxic"
    first = page.locator("#numbers").inner_text()
    assert first.startswith("+0.0")
    page.get_by_role("button", name="Swap").click()
    assert page.locator("#verdict").inner_text() == "dpo (beta=0.1) is less toxic"
    value = first.partition(",")[0].removeprefix("+")
    assert page.locator("#numbers").inner_text().startswith(f"−{value},")
    assert page.url.endswith("a=ppo&b=dpo+%28beta%3D0.1%29") or "a=ppo" in page.url
    page.locator("#b").select_option(label="once")
    assert "One seed decides nothing" in page.locator("#meaning").inner_text()
    assert "One seed: once." in page.locator("#meaning").inner_text()
    page.locator("#b").select_option(label="ppo")
    assert page.locator("#verdict").inner_text() == "A and B are the same row"
    gated = page.locator("#b option").all_inner_texts()
    page.locator("#b").select_option(label=next(name for name in gated if name.startswith("collapse")))
    assert page.locator("#verdict").inner_text() == "Not compared"
    assert "failed a gate" in page.locator("#meaning").inner_text()
    assert not page.locator("#interval").is_visible()
    visit(page, folder, "pairs/nano.html#a=nobody&b=ppo")
    assert "names a row that this board does not have" in page.locator("#meaning").inner_text()


def test_the_page_of_a_run_draws_its_curves_and_copies_its_command(page: Any, report: Any) -> None:
    folder, ids = report
    visit(page, folder, f"runs/nano/{ids['dpo']}.html")
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator("svg").first.wait_for()
    assert page.locator(".plot").count() == 3  # toxicity; loss and reward: length and learning rate do not change
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".command code").inner_text()
    page.get_by_role("link", name="Its samples beside those of others").click()
    page.wait_for_url("**/samples/nano.html*")
    assert page.locator("#answers h3").first.inner_text() == "dpo (beta=0.1), seed 0 (4.50e12 FLOP)"
    page.go_back()
    page.get_by_role("link", name="Against another method").click()
    page.get_by_role("columnheader", name="A: dpo (beta=0.1)").wait_for()


def test_keys_walk_the_points_of_a_run_s_charts(page: Any, report: Any) -> None:
    folder, ids = report
    visit(page, folder, f"runs/nano/{ids['dpo']}.html")
    tip = page.locator(".tip")
    told = []
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        expect(plot).to_have_attribute("data-drawn", "yes")
        plot.focus()
        page.keyboard.press("ArrowRight")
        told.append(tip.inner_text())
        page.keyboard.press("ArrowRight")
        assert tip.inner_text() != told[-1]
        page.keyboard.press("Escape")
        assert tip.is_hidden()
    assert told[0].splitlines()[1:] == ["0% of the budget, step 0: 0.200, interval 0.100 to 0.300"]
    assert told[1:] == ["loss\nstep 1: 1", "reward\nstep 1: 0.1429"]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(page: Any, report: Any, width: int) -> None:
    folder, ids = report
    page.set_viewport_size({"width": width, "height": 900})
    longest = prompt_id(list(HOSTILE).index("long"))
    for place in (f"samples/nano.html#prompt={longest}", "pairs/nano.html", f"runs/nano/{ids[EVIL]}.html"):
        visit(page, folder, place)
        if place.startswith("samples"):
            page.get_by_label("Blurred").select_option("none")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
