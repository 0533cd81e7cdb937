"""Put the published leaderboards into README.md and docs/results.md, between <!-- board:TASK --> and <!-- /board:TASK -->, and
what their pictures show into the words that stand for these.

Of a long board the rows of the main methods, which scripts/results.sh names before anything is run, in table and picture
(main.svg beside the whole one); ranks and what the title says are those of all. No ranks where they would rest on fewer than
three seeds. Run it after `isoalign publish`.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from isoalign.core.display import grid, scientific
from isoalign.core.files import save
from isoalign.core.records import Estimate
from isoalign.evaluation.card import read_cards
from isoalign.report.board.rows import DRIFT, METHOD, REFERENCE, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import headline
from isoalign.report.charts.frontier import frontier_chart
from isoalign.report.leaderboard import build_board
from isoalign.report.pages.equal_kl import area_cell, area_title

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md")
PUBLISHED = Path("results/published")

MOST = 15  # rows of a board that is shown whole
SEEDS = 3  # the fewest that a rank may rest on
MAIN = re.findall(r"^main=([\w,]+)", (ROOT / "scripts/results.sh").read_text(encoding="utf-8"), re.MULTILINE)[0].split(",")
RULE = "{shown} of {count} rows: the main methods, the base, and what imitates or only chooses; ranks are among all."


def chosen(rows: Sequence[Row]) -> list[Row]:
    """The rows that are shown, in the board's order; draws of controls for drift are on the board."""
    if len(rows) <= MOST:
        return list(rows)
    return [row for row in rows if row.algorithm in MAIN or (row.part != METHOD and row.algorithm not in DRIFT)]


def table(section: Section) -> str:
    """Reduction with its interval, the area under the curve if the board has it, KL, diversity and fluency; and ranks, where
    they rest on seeds enough."""
    rows = chosen(section.rows)
    ranked = has_ranks(section)
    area = area_title(section)
    titles = ["Rank"] * ranked + ["Method", "Reduction ↑", *([area] if area else []), "KL, nats", "Distinct-2 ↑", "Perplexity"]
    cells = [
        [row.place] * ranked
        + [row.name if row.part == METHOD else f"*{row.name}*", reduction(row.estimate("toxicity_reduction"))]
        + ([area_of(section, row) if row.part != REFERENCE else "–"] if area else [])
        + [plain(row.kl, 2), plain(row.estimate("distinct_2"), 3), plain(row.estimate("perplexity"), 1)]
        for row in rows
    ]
    return grid(titles, cells, left=range(1 + ranked))


def has_ranks(section: Section) -> bool:
    """Whether all methods have seeds enough."""
    return all(row.clusters >= SEEDS for row in section.rows if row.part == METHOD)


def area_of(section: Section, row: Row) -> str:
    """The area with its interval, and its rank where ranks are shown."""
    shown = area_cell(section, row)
    return shown if has_ranks(section) else shown.partition(";")[0]


def reduction(estimate: Estimate) -> str:
    """Value and interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]".replace("-", "−")


def plain(estimate: Estimate, digits: int) -> str:
    """The value alone."""
    return "–" if estimate.value is None else f"{estimate.value:.{digits}f}"


@cache
def sections(task: str) -> tuple[Section, ...]:
    """The boards of a task's published cards."""
    cards = read_cards(ROOT / PUBLISHED / task)
    return build_board(cards).sections if cards else ()


def excerpt(task: str, home: Path) -> str:
    """A board's rows and what they are, for a page that lies in ``home``."""
    folder = PUBLISHED / task
    if not sections(task):
        return f"*No board of {task} is published yet.*"
    parts = []
    for section in sections(task):
        seeds = sorted({row.seeds for row in section.rows if row.part == METHOD})
        counts = f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seed{'s' * (seeds[-1] > 1)} a method"
        shown = len(chosen(section.rows))
        said = [RULE.format(shown=shown, count=len(section.rows))] if shown < len(section.rows) else []
        parts += [table(section), " ".join([f"{scientific(section.budget.get('flops'))} FLOP a run, {counts}.", *said])]
    link = "../" * len(home.parts) + (folder / "leaderboard.md").as_posix()
    return "\n\n".join([*parts, f"All rows and figures: [{folder.as_posix()}/leaderboard.md]({link})."])


def alt(task: str) -> str:
    """What the picture of a task's first board shows, in the words of its title, if that may tell methods apart."""
    section = sections(task)[0]
    return headline(section) if has_ranks(section) else "Gains at equal KL, and along the runs"


def picture(task: str) -> str:
    """The file of the picture that pages show: of a long board that of the rows in its table."""
    rows = sections(task)[0].rows
    return "frontier.svg" if len(chosen(rows)) == len(rows) else "main.svg"


def filled(page: str) -> str:
    """A page with its boards, and what stands for its pictures, as they are now."""
    marked = re.compile(r"(<!-- board:(\w+) -->).*?(<!-- /board:\2 -->)", re.DOTALL)
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(
        r"!\[[^]]*\](\([^)]*published/(\w+)/)(?:frontier|main)\.svg\)",
        lambda place: f"![{alt(place[2])}]{place[1]}{picture(place[2])})", text,
    )  # fmt: skip
    return marked.sub(lambda place: f"{place[1]}\n\n{excerpt(place[2], Path(page).parent)}\n\n{place[3]}", text)


def main() -> None:
    for folder in (ROOT / PUBLISHED).iterdir():
        if sections(folder.name) and picture(folder.name) == "main.svg":
            section = sections(folder.name)[0]
            names = [row.name for row in chosen(section.rows)]
            if drawn := frontier_chart(folder.name, section, only=names):
                save(folder / "main.svg", drawn)
    for page in PAGES:
        (ROOT / page).write_text(filled(page), encoding="utf-8")


if __name__ == "__main__":
    main()
