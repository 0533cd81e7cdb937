"""The pack beside published cards: of all who publish at once, repaired by publishing again, one line where damaged."""

import lzma
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoalign.core.errors import UserError
from isoalign.core.records import Card, Estimate
from isoalign.evaluation import card, packs
from isoalign.report import publish as publishing
from isoalign.report.publish import publish, write_published
from isoalign.tools import verify


def make(algorithm: str) -> Card:
    metrics = {"toxicity_reduction": Estimate(0.1, 0.09, 0.11, 128)}
    values: Any = {"kl": {"a": len(algorithm) / 3, "b": 2 / 3}}
    budget, spent, parents = {"flops": 1e12}, {"flops": 9e11}, {"sft": "aaaa"}
    one = Card("0123456789ab", "nano", algorithm, {}, 0, budget, spent, metrics, parents, {}, "isoalign run")  # type: ignore[arg-type]
    return card.sealed(replace(one, values=values))


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three cards, two of which are published."""
    paths = [card.write_card(make(name), tmp_path / "local") for name in ("dpo", "ppo-x", "sft")]
    publish(paths[:2], tmp_path)
    return paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "published" / "nano"


def lines_of(pack: Path) -> list[str]:
    return lzma.decompress(pack.read_bytes()).decode().splitlines()


def test_two_who_publish_at_once_keep_one_anothers_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = publishing.save

    def slowly(path: Path, text: str | bytes) -> None:  # cards, which come after the pack
        time.sleep(0.1)
        save(path, text)

    monkeypatch.setattr(publishing, "save", slowly)
    cards = [card.published(make(name)) for name in ("dpo", "ppo-x", "sft")]
    others = [threading.Thread(target=write_published, args=({folder / card.file_name(c): c},)) for c in cards]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert card.read_cards(folder) == cards


@pytest.mark.parametrize(("old", "new"), [('"seed": 0', '"seed": 7'), ('"algorithm": "ppo', '"algorithm": "ppo2')])
def test_a_card_whose_name_was_changed_within_it_is_told_apart_from_a_lost_line(
    three: list[Path], folder: Path, old: str, new: str
) -> None:
    file = min(folder.glob("ppo*.json"))
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=rf"{file.name} was changed since it was written: its algorithm, seed and key"):
        card.read_cards(folder)


def test_what_a_pack_has_lost_comes_back_by_publishing_again(three: list[Path], folder: Path, tmp_path: Path) -> None:
    pack = folder / packs.PACK
    whole = pack.read_bytes()
    pack.write_bytes(lzma.compress(lines_of(pack)[0].encode() + b"\n"))
    with pytest.raises(UserError, match="publish the card again, at once with any others"):
        card.read_cards(folder)
    publish([three[1]], tmp_path)
    assert pack.read_bytes() == whole
    pack.write_bytes(lzma.compress(lzma.decompress(whole).replace(b"0.6667", b"0.6668")))
    publish(three[:2], tmp_path)
    assert pack.read_bytes() == whole, "values that were changed are those of the card again"
    for content in (b"garbage", None):
        pack.write_bytes(content) if content else pack.unlink()
        with pytest.raises(UserError, match=r"1 more cards can't be read: ppo-x-s0-01234567.json"):
            publish([three[2]], tmp_path)
        publish(three[:2], tmp_path)
        assert pack.read_bytes() == whole, "of all cards at once no old pack is needed"


def test_a_card_of_other_settings_is_not_replaced_when_its_values_are_lost(
    three: list[Path], folder: Path, tmp_path: Path
) -> None:
    (folder / packs.PACK).unlink()
    other = card.write_card(card.sealed(replace(make("dpo"), notes={"else": 1})), tmp_path / "other")
    with pytest.raises(UserError, match="holds another card; remove it first"):
        publish([other, three[1]], tmp_path)


START = b'{"card": "dpo-s0-01234567.json", '


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"garbage" * 9, "not supported"),
        (lzma.compress(START + b'"values":[{"pro\n'), "Unterminated"),
        (lzma.compress(START + b'"values":' + b"[" * 100_000), "nested too deeply"),
        (lzma.compress(START + b'"values":' + b"[" * 60 + b"]" * 60 + b"}"), "nested too deeply"),
        (lzma.compress(b'{"card":' + b"[" * 100_000 + b", 1}"), "nested too deeply"),
        (lzma.compress(b"[1]\n"), "is of no card"),
        (lzma.compress(b'{"card":["x"], "values":[]}'), "is of no card"),
        (lzma.compress(b"\xff\xfe"), "decode"),
        (lzma.compress(START + b"}")[:-8], "cut short"),
        (lzma.compress(START + b"}") + b"more", "more follows"),
        (lzma.compress(bytes(3_000_000)), "unfolds to more than 2,000,000 bytes"),
    ],
)
def test_a_damaged_pack_is_one_line(
    three: list[Path], folder: Path, tmp_path: Path, content: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "LARGEST", 2_000_000)
    (folder / packs.PACK).write_bytes(content)
    for act in (lambda: card.read_card(folder / three[0].name), lambda: publish([three[2]], tmp_path)):
        with pytest.raises(UserError, match=told) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert packs.PACK in str(caught.value)
    assert not (folder / three[2].name).exists()


def test_a_damaged_pack_beside_cards_without_packed_values_is_one_line(folder: Path, tmp_path: Path) -> None:
    card.write_card(make("dpo"), folder)
    (folder / packs.PACK).write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"cannot read .*values\.jsonl\.xz, which has the values by prompt of the cards"):
        publish([card.write_card(make("sft"), tmp_path / "local")], tmp_path)


def test_a_pack_that_could_not_be_read_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "LARGEST", 10)
    with pytest.raises(UserError, match="of which 10 are the most"):
        packs.write(folder, {"a": "x" * 20}, set())


def test_metrics_are_finer_than_their_interval() -> None:
    exact = {"a": Estimate(1500.07712345, 1500.0281, 1500.1249, 9), "b": Estimate(0.123456789, 0.1, 0.2, 9)}
    short = packs.rounded(replace(make("dpo"), metrics=exact)).metrics
    assert (short["a"].value, short["a"].low) == (1500.07712, 1500.0281)
    assert short["b"].value == 0.123457


def test_rounding_is_allowed_for_and_nothing_beyond_it() -> None:
    rng = np.random.default_rng(0)
    numbers = [*(10.0 ** rng.uniform(-7, 4, 300)).tolist(), 0.123450, 0.0000150, 0.99995, 9.9995, -0.00014995]
    column = dict(zip(map(str, range(len(numbers))), numbers, strict=True))
    one = replace(make("dpo"), values={"kl": dict(column)}, metrics={k: Estimate(v, -v, None, 9) for k, v in column.items()})
    short = packs.rounded(one)
    for key, number in column.items():
        for place, after in (
            (f"values.kl.{key}", short.values["kl"][key]),
            (f"metrics.{key}.value", short.metrics[key].value),
        ):
            slack = packs.shift(place, number, packs.DIGITS)
            digits = packs.FIGURES if place.startswith("metrics") else packs.DIGITS
            assert slack <= max(0.55 * 10.0 ** (1 - digits) * abs(number), 1e-5 * place.startswith("values"))
            assert after is not None
            for moved, told in ((after, 0), (after + 2.1 * slack + 1e-8, 1), (after - 2.1 * slack - 1e-8, 1)):
                assert len(verify._differences(moved, number, place, digits=packs.DIGITS)) == told, (place, number, moved)
    for place in ("curve[3].values.kl.x", "curve[0].metrics.kl.low"):
        assert packs.shift(place, 0.5, packs.DIGITS) > 0
    for place, value in (("curve[3].flops", 1e12), ("data.values.x", 0.5), ("metrics.kl.n", 256), ("values.kl.x", None)):
        assert packs.shift(place, value, packs.DIGITS) == 0
