"""The pages about runs: one for each, and for each task its samples side by side and any two of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isoalign.core.store import Store
from isoalign.evaluation.card import to_json
from isoalign.evaluation.kept import read_kept
from isoalign.report.leaderboard import Board
from isoalign.report.site.document import run_path
from isoalign.report.site.pairs_page import pairs_pages
from isoalign.report.site.run_page import run_page
from isoalign.report.site.samples_page import SamplesPage


def pages_of_runs(boards: Sequence[Board], store: Store | None = None) -> Iterator[tuple[str, str]]:
    """Path and text of each page and of its data. Samples and training logs are of the ``store``; what it lacks is said on the
    pages."""
    for board in boards:
        samples, seen = SamplesPage(board), set()
        for number, section in enumerate(board.sections, 1):
            for row in section.rows:
                for card in row.cards:
                    path = run_path(card)
                    if path in seen:  # the base is the reference of every budget
                        continue
                    seen.add(path)
                    kept = read_kept(card, store)
                    samples.add(number, row, card, kept)
                    yield path, run_page(section, number, row, card, kept)
                    yield path.removesuffix(".html") + ".json", to_json(card)
        yield from samples.pages()
        yield from pairs_pages(board)
