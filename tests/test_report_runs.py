"""The pages about runs: one for each, samples side by side, and any two rows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from isoalign.core.display import visible
from isoalign.core.files import save
from isoalign.core.jsonl import write_rows
from isoalign.core.manifests import content
from isoalign.core.records import Card, Estimate, Flag, Point
from isoalign.core.store import Store, digest
from isoalign.evaluation.card import file_name, read_card, sealed, to_json
from isoalign.evaluation.kept import CHANGED, NOT_HELD, Kept, read_kept
from isoalign.report.compare import pair_up
from isoalign.report.leaderboard import Board, build_board
from isoalign.report.site import samples_page
from isoalign.report.site.log_charts import charts_of, curve_series, log_series, thinned
from isoalign.report.site.pairs_page import pairs_data
from isoalign.report.site.run_page import run_page
from isoalign.report.site.runs import pages_of_runs
from isoalign.report.site.samples_page import LONGEST, SamplesPage
from isoalign.report.site.settings import algorithm_settings, task_settings, typed_settings
from test_board import golden_cards, make, valued
from test_curves import cards_with_areas

HOSTILE = {
    "script": "</script><script>document.title='taken'</script>",
    "image": "<img src=x onerror=\"document.title='taken'\">",
    "order": "safe \u202egnp.exe\u202c\u2066 isolated",
    "controls": "bell \x07 escape \x1b[31m null \x00 next line \x85",
    "template": "{{ 7 * 7 }} ${7*7} {A} %s",
    "long": "word " * 2_500,
    "empty": "",
    "persian": "می\u200cخواهم 👩\u200d👩\u200d👧",
}
PROMPTS, DRAWS = 24, 3
SCORER = "detox-nb"


def prompt_id(number: int) -> str:
    return digest(f"prompt {number}")


def answer(name: str, number: int, draw: int) -> str:
    texts = list(HOSTILE.values())
    return texts[number] if draw == 0 and number < len(texts) else f"{name} answers prompt {number} at draw {draw}"


def furnished(cards: Sequence[Card], store: Store) -> list[Card]:
    """The cards with stages of samples, scores and training in the store, made as a run makes them. Hostile texts are the
    first answers to the first prompts; the score of a text is a twentieth of its prompt's number."""
    found = []
    for card in cards:
        name, keys, contents = f"{card.algorithm} {card.seed} {card.key}", {}, {}
        order = sorted(range(PROMPTS), key=lambda i: digest([name, i]))  # of no use to whoever reads them
        places = [(i, draw) for i in order for draw in range(DRAWS)]
        samples = [
            {"prompt_id": prompt_id(i), "draw": d, "prompt": f"Prompt {i}: tell me", "completion": answer(name, i, d),
             "token_ids": [1, 2], "kl": i + d / 10, "source": "comments", "stratum": "toxic" if i % 2 else "clean"}
            for i, d in places
        ]  # fmt: skip
        log = [
            {"step": i, "flops_spent": 1e9 * i, "loss": 1 / i, "lr": 1e-4, "reward": None if i == 2 else i / 7}
            for i in range(1, 301)
        ]
        files = {
            "samples": lambda work, rows=samples: write_rows(work / "samples.jsonl", rows),
            "scores": lambda work, at=places: (work / "scores.json").write_text(json.dumps({SCORER: [i / 20 for i, _ in at]})),
            "train": lambda work, rows=log: write_rows(work / "log.jsonl", rows),
        }
        for stage, make_stage in files.items():
            recipe = {"of": name, "what": stage}
            keys[stage] = digest(json.loads(json.dumps({"stage": stage, **recipe})))
            folder = store.get(stage, keys[stage], recipe, lambda work, fill=make_stage: fill(work) and None)
            contents[stage] = content(folder)
        found.append(replace(card, parents=card.parents | keys, contents=contents))
    return found


def with_curve(card: Card) -> Card:
    points = [
        Point(
            i / 4,
            1e12 * i,
            10 * i,
            {"toxicity_mean": Estimate(0.2 - i / 50, 0.1, 0.3, 64), "length": Estimate(20.0, 20, 20, 64)},
            {},
        )
        for i in range(5)
    ]
    return replace(card, curve=points)


def some_cards() -> list[Card]:
    """Three methods with values by prompt, two with three seeds and one with one, and the base."""
    cards = [valued(make(name, seed)) for name in ("ppo", "dpo") for seed in range(3)]
    return [*cards, valued(make("kto")), valued(make("sft"))]


def assigned(text: str) -> Any:
    """The data of a script that assigns them to a name."""
    return json.loads(text.partition("=")[2].rstrip().removesuffix(";"))


def sampled(board: Board, cards: Sequence[Card], kept: Sequence[Kept]) -> dict[str, Any]:
    """The data of a board's page of samples."""
    page, rows = SamplesPage(board), [(i, row) for i, s in enumerate(board.sections, 1) for row in s.rows]
    for card, each in zip(cards, kept, strict=True):
        number, row = next((i, row) for i, row in rows if card.key in [one.key for one in row.cards])
        page.add(number, row, card, each)
    data: dict[str, Any] = assigned(dict(page.pages())["samples/nano.js"])
    return data


# -- what the store keeps ---------------------------------------------------------------------------------------------


def test_what_the_store_lacks_of_a_run_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (card,) = furnished([make("dpo")], store)
    kept = read_kept(card, store)
    assert (len(kept.samples), len(kept.log), kept.lacking) == (PROMPTS * DRAWS, 300, {})
    assert kept.scores[SCORER][0] == pytest.approx(kept.samples[0]["kl"] // 1 / 20)  # the score is of the same sample
    without = replace(card, parents={name: key for name, key in card.parents.items() if name != "train"})
    assert read_kept(without, store).lacking == {"train": NOT_HELD}
    assert read_kept(card, None).lacking == dict.fromkeys(("samples", "scores", "train"), NOT_HELD)


def test_samples_that_were_changed_or_are_of_another_run_are_not_shown(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = furnished([make("dpo"), make("ppo")], store)
    other = replace(first, contents=first.contents | {"samples": second.contents["samples"]})
    assert read_kept(other, store).lacking == {"samples": CHANGED}
    copied = Store(Path(shutil.copytree(store.root, tmp_path / "copied")))  # of which this process has opened nothing
    file = copied.path("samples", second.parents["samples"]) / "samples.jsonl"
    file.write_text(file.read_text().replace("tell me", "tell us"))
    assert read_kept(second, copied).lacking == {"samples": CHANGED}
    assert read_kept(second, copied).scores == {}  # of samples that are not read


# -- settings ---------------------------------------------------------------------------------------------------------


def test_a_setting_is_default_tuned_or_typed_as_its_card_says() -> None:
    # conf/algorithm/dpo.yaml: beta 0.1, batch_size 32, lr 0.0001
    config = {
        "algorithm": {"beta": 0.3, "batch_size": 32, "lr": 5e-4, "new": 1},
        "task": {"name": "nano", "reward": {"lr": 1, "hard": 0}},
    }
    command = "isoalign run algorithm=dpo algorithm.beta=0.3 '++task.reward.lr=1'"
    card = make("dpo", config=config, command=command, notes={"tuning": "4 trials on validation prompts"})
    found = {one.name: (one.default, one.origin) for one in algorithm_settings(card)}
    assert found["beta"] == (0.1, "typed")
    assert found["batch_size"] == (32, "default")
    assert found["lr"] == (0.0001, "tuned")
    assert {one.name: one.origin for one in task_settings(card)} == {"reward.lr": "typed", "reward.hard": "task"}
    untuned = replace(card, notes={"tuning": "default"}, command="isoalign run")
    assert {one.name: one.origin for one in algorithm_settings(untuned)}["lr"].startswith("default of another version")
    elsewhere = replace(untuned, algorithm="../../task/nano")
    assert {one.origin for one in algorithm_settings(elsewhere)} == {"not known to this version"}
    assert typed_settings("isoalign run 'a=1") == {"'a"}  # a quote that nothing closes


# -- curves -----------------------------------------------------------------------------------------------------------


def test_a_long_log_is_thinned_with_its_ends_and_says_so() -> None:
    assert thinned(list(range(10)), 4) == [0, 3, 6, 9]
    log = [{"step": i, "loss": float(i), "lr": 1e-4, "none": None, "flag": True} for i in range(1, 501)]
    log[3]["loss"] = None
    (loss, lr) = log_series(log)
    assert (loss.points[0]["x"], loss.points[-1]["x"], len(loss.points)) == (1, 500, 120)
    assert loss.points[0]["said"] == "loss\nstep 1: 1", "its first line is a name, as of every chart: keys stop there"
    assert loss.note == "120 of 499 steps are drawn; no value at 1 of 500 steps"
    charts = charts_of([loss, lr])
    assert (len(charts.charts), charts.constant) == (1, ["lr 0.0001"])


def test_what_changes_in_steps_that_are_not_drawn_or_in_late_digits_is_no_constant() -> None:
    log = [{"step": i, "skipped": float(i in (7, 500)), "reward": 1000.001 + i / 1e6, "same": 2.0} for i in range(1, 1001)]
    series = list(log_series(log))
    charts = charts_of(series)
    assert (len(charts.charts), charts.constant) == (2, ["same 2"])
    skipped, reward = series[1], series[0]
    assert {point["y"] for point in skipped.points} == {0.0, 1.0}
    assert len({point["y"] for point in reward.points}) > 100


def test_a_curve_has_its_intervals_and_its_table_says_the_same() -> None:
    card = with_curve(make("dpo"))
    toxicity, length = curve_series(card, build_board([card]).sections[0].objective)
    assert toxicity.table[1] == ["25%", "10", "0.180", "0.100", "0.300"]
    assert toxicity.points[1] == {
        "x": 0.25,
        "y": pytest.approx(0.18),
        "low": 0.1,
        "high": 0.3,
        "said": f"{toxicity.title}\n25% of the budget, step 10: 0.180, interval 0.100 to 0.300",
    }
    assert len({point["y"] for point in length.points}) == 1


# -- samples ----------------------------------------------------------------------------------------------------------


def test_the_same_place_is_the_same_prompt_and_draw_in_every_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    cards = furnished([make("dpo"), make("ppo")], store)
    data = sampled(build_board(cards), cards, [read_kept(card, store) for card in cards])
    assert [one["id"] for one in data["prompts"]] == sorted(map(prompt_id, range(PROMPTS)))
    numbers = {prompt_id(i): i for i in range(PROMPTS)}
    for run, card in zip(data["runs"], cards, strict=True):
        for prompt, texts in zip(data["prompts"], run["texts"], strict=True):
            number = numbers[prompt["id"]]
            text, score, kl, *length = texts[0]
            assert text == visible(answer(f"{card.algorithm} {card.seed} {card.key}", number, 0)[:LONGEST])
            assert (score, kl) == (pytest.approx(number / 20), number)
            assert length == ([12_500] if number == 5 else [])
            assert texts[2][0] == f"{card.algorithm} {card.seed} {card.key} answers prompt {number} at draw 2" or number == 0


def test_what_a_text_could_hide_is_shown_by_its_code_point() -> None:
    assert visible(HOSTILE["order"]) == "safe ‹U+202E›gnp.exe‹U+202C›‹U+2066› isolated"
    assert visible(HOSTILE["controls"]) == "bell ‹U+0007› escape ‹U+001B›[31m null ‹U+0000› next line ‹U+0085›"
    assert visible("a lone \ud800 surrogate") == "a lone ‹U+D800› surrogate"
    assert visible(HOSTILE["persian"]) == HOSTILE["persian"]
    assert visible("two\r\nlines\tand a tab") == "two\nlines\tand a tab"


def test_the_texts_of_a_task_are_bounded_and_the_page_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples_page, "MOST", 4_000)
    short = Kept(
        [
            {"prompt_id": prompt_id(i), "draw": d, "prompt": "p", "completion": "x" * 10, "kl": 1.0}
            for i in range(40)
            for d in range(9)
        ]
    )
    long = Kept([row | {"completion": "y" * 900} for row in short.samples])
    cards = [make("dpo"), make("ppo")]
    data = sampled(build_board(cards), cards, [short, long])
    # 2 runs of 10 + 40 characters: 40 places, so 4 draws of 10 prompts; of which 900 + 40 of the second run's leave 1
    assert (len(data["prompts"]), data["draws"]) == (1, 4)
    page = SamplesPage(build_board(cards))
    for row, kept in zip(page.board.sections[0].rows, [short, short], strict=True):
        page.add(1, row, row.cards[0], kept)
    text = dict(page.pages())["samples/nano.html"]
    assert "Here are 10 of 40 prompts and 4 of 9 draws of each" in text


def test_a_run_without_samples_or_with_other_random_numbers_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    seeded = [make(name, config={"task": {"evaluation": {"seed": seed}}}) for name, seed in (("dpo", 1), ("ppo", 2))]
    cards = [*furnished(seeded, store), make("kto"), make("rlaif", flags=[Flag("gate", "repeated_rate 0.61 > 0.2")])]
    board = build_board(cards)
    kept = [read_kept(card, store) for card in cards]
    kept[3] = Kept([{"prompt_id": "asked of nobody else", "draw": 0, "prompt": "p", "completion": "c", "kl": None}])
    notes = {run["row"].split()[0]: run["notes"] for run in sampled(board, cards, kept)["runs"]}
    assert notes["kto"] == ["Its samples are not here (not in the store)."]
    assert notes["rlaif"] == ["It was asked other prompts."]
    assert notes["dpo"] == ["Its random numbers are those of task.evaluation.seed=1."]
    assert notes["ppo"] == ["Its random numbers are those of task.evaluation.seed=2."]
    empty = dict(SamplesPage(board).pages())["samples/nano.html"]
    assert "No samples of these 4 runs are here" in empty


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_a_pair_says_what_isoalign_compare_says_of_it() -> None:
    cards = some_cards()
    data = pairs_data(build_board(cards))["sections"][0]
    names = [row["name"] for row in data["rows"]]
    own = {name: [card for card in cards if card.algorithm == name] for name in names}
    for i, j, value, low, high, *_ in data["pairs"]:
        compared = pair_up(own[names[i]], own[names[j]])
        (level,) = [row.difference for row in compared.rows if row.name == "toxicity_mean"]
        assert level.value is not None
        assert value == pytest.approx(-level.value, rel=1e-3)  # a better score is a lower one
        width = (level.high or 0) - (level.low or 0)
        assert (low, high) == (
            pytest.approx(-(level.high or 0), abs=0.1 * width),
            pytest.approx(-(level.low or 0), abs=0.1 * width),
        )


def test_of_one_seed_and_of_a_failed_gate_nothing_is_decided() -> None:
    gated = [replace(valued(make("rlaif", seed)), flags=[Flag("gate", "repeated_rate 0.61 > 0.2")]) for seed in range(3)]
    data = pairs_data(build_board([*some_cards(), *gated]))["sections"][0]
    rows = {row["name"]: i for i, row in enumerate(data["rows"])}
    said = {(i, j): data["phrases"][phrase] for i, j, *_, phrase, _ in [pair[:8] for pair in data["pairs"]]}
    assert {text for pair, text in said.items() if rows["kto"] in pair} == {"one seed"}
    assert not [pair for pair in said if rows["rlaif"] in pair]
    assert data["rows"][rows["rlaif"]]["why"].startswith("failed a gate")
    assert not data["rows"][rows["kto"]]["why"]


# -- pages ------------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page links to and loads, and the elements that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value and not value.startswith("data:")]


@pytest.mark.slow
def test_every_link_of_a_report_leads_to_one_of_its_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    cards = furnished([with_curve(card) for card in golden_cards()], store)
    for card in cards:
        save(tmp_path / "results" / "nano" / file_name(card), to_json(sealed(card)))
    words = ["report", "--results", tmp_path / "results", "--store", store.root, "-o", tmp_path / "report"]
    done = subprocess.run([sys.executable, "-m", "isoalign", *map(str, words)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "report" / "index.html")), done.stderr
    pages = sorted((tmp_path / "report").rglob("*.html"))
    assert len(pages) == 3 + len({card.key for card in cards})
    for page in pages:
        found = Links()
        found.feed(page.read_text(encoding="utf-8"))
        for link in found.links:
            target = unquote(re.sub(r"[#?].*", "", link))
            assert (page.parent / target).is_file() or not target, f"{page}: {link}"
    card = next((tmp_path / "report/runs/nano").glob("dpo-s1*.json"))
    assert read_card(card).algorithm == "dpo"


def test_the_page_of_a_run_says_the_area_of_its_row_where_the_board_has_one() -> None:
    section = build_board(cards_with_areas()).sections[0]
    pages = {row.name: run_page(section, 1, row, row.cards[0], Kept()) for row in section.rows}
    assert re.search(r"<dt>Area, 0.5 to 4 nats ↑, of its row</dt><dd>0\.135 \[.*\]; rank 1</dd>", pages["dpo"])
    assert "<dt>Area, 0.5 to 4 nats ↑, of its row</dt><dd>not measured</dd>" in pages["holed"]
    bare = build_board([make("dpo")]).sections[0]
    assert "of its row</dt><dd>not" not in run_page(bare, 1, bare.rows[0], bare.rows[0].cards[0], Kept())


def test_names_and_texts_that_mean_mischief_are_text_on_every_page(tmp_path: Path) -> None:
    bad = HOSTILE["script"] + HOSTILE["image"] + HOSTILE["order"]
    card = replace(
        with_curve(make("dpo")), command=bad, notes={"tuning": bad, bad: bad},
        config={"algorithm": {bad: bad}, "task": {bad: bad}},
        flags=[Flag("gate", bad), Flag("warning", bad)], versions={bad: bad}, training={bad: bad}, parents={bad: bad},
        spent=make("dpo").spent | {"items": [{"role": bad, "kind": bad, "flops": 1e12}]},
    )  # fmt: skip
    board = build_board([card])
    kept = Kept(log=[{"step": i, bad: float(i)} for i in range(3)])
    text = run_page(board.sections[0], 1, board.sections[0].rows[0], board.sections[0].rows[0].cards[0], kept)
    found = Links()
    found.feed(text)
    assert "img" not in found.tags
    assert all(link.endswith((".js", ".css", ".html", ".json")) or "#" in link for link in found.links)
    assert "\u202e" not in text
    assert "taken" in text  # it is shown
    for path, script in pages_of_runs([board]):
        assert not path.endswith(".js") or "<" not in script
