"""The made-up cards that boards are timed with are cards of a board of so many rows, and differ as methods do."""

import sys
from pathlib import Path

import pytest

from isoalign.evaluation.card import read_cards
from isoalign.report.leaderboard import build_board

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts" / "benchmarks"))

import boards  # noqa: E402


@pytest.mark.slow
def test_made_up_cards_make_a_board_of_so_many_rows(tmp_path: Path) -> None:
    published = [card for card in read_cards(boards.PUBLISHED) if card.algorithm in ("sft", "sft_chosen", "dpo", "ppo", "kto")]
    boards.make_cards(published, tmp_path, 14)
    (section,) = build_board(read_cards(tmp_path)).sections
    assert len({row.name for row in section.rows}) == len(section.rows) == 14
    assert all(row.seeds == boards.SEEDS for row in section.rows if row.part == "method")
    assert len(section.ranking.pairs) == 12 * 11 // 2
    assert 0 < sum(c.resolved for c in section.ranking.pairs.values()) < len(section.ranking.pairs)
    for row in section.rows:
        for card in row.cards:
            values = card.values["toxicity_mean"].values()
            assert abs(sum(values) / len(values) - card.metrics["toxicity_mean"].value) < 1e-4  # digits of published cards
