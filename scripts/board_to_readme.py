"""Put the published leaderboards into README.md and docs/results.md, between <!-- board:TASK --> and <!-- /board:TASK -->, and
what their pictures show into the words that stand for these.

Of a long board the rows of the main methods, which scripts/results.sh names before anything is run, in table and picture
(main.svg beside the whole one); ranks and what the title says are those of all. Some groups of methods have pictures of their
own, with the ranks of `isoalign board --methods`. No ranks where they would rest on fewer than three seeds. Run it after
`isoalign publish`.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from isoalign.core.display import grid, scientific
from isoalign.core.files import save
from isoalign.core.records import Estimate
from isoalign.evaluation.card import read_cards
from isoalign.report.board.rows import DRIFT, METHOD, REFERENCE, Row, of_methods
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
SCRIPT = (ROOT / "scripts/results.sh").read_text(encoding="utf-8")


def named(group: str) -> tuple[str, ...]:
    """The methods of a group in scripts/results.sh."""
    return tuple(re.findall(rf"^{group}=([\w,]+)", SCRIPT, re.MULTILINE)[0].split(","))


MAIN = named("main")
GROUPS = {  # nano's, each with a picture of its name
    "pairs": ("dpo", "ipo", "simpo", "orpo", *named("pairs")),
    "reward": ("ppo", "ppo_lora", "rloo", "grpo", *named("reward")),
}
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


@cache
def group(name: str) -> Section:
    """The board of one of `GROUPS`."""
    cards = read_cards(ROOT / PUBLISHED / "nano")
    return build_board(of_methods(cards, GROUPS[name])).sections[0]


def alt(task: str, file: str) -> str:
    """What a picture shows, in the words of its title, if that may tell methods apart."""
    section = group(file) if file in GROUPS else sections(task)[0]
    return headline(section) if has_ranks(section) else "Gains at equal KL, and along the runs"


def picture(task: str) -> str:
    """The picture of a board that pages show: of a long one that of the rows in its table."""
    rows = sections(task)[0].rows
    return "frontier" if len(chosen(rows)) == len(rows) else "main"


PICTURE = re.compile(rf"!\[[^]]*\](\([^)]*published/(\w+)/)(frontier|main|{'|'.join(GROUPS)})\.svg\)")


def shown(place: re.Match[str]) -> str:
    """A picture in a page, as it is now."""
    file = place[3] if place[3] in GROUPS else picture(place[2])
    return f"![{alt(place[2], file)}]{place[1]}{file}.svg)"


def filled(page: str) -> str:
    """A page with its boards, and what stands for its pictures, as they are now."""
    marked = re.compile(r"(<!-- board:(\w+) -->).*?(<!-- /board:\2 -->)", re.DOTALL)
    text = (ROOT / page).read_text(encoding="utf-8")
    text = PICTURE.sub(shown, text)
    return marked.sub(lambda place: f"{place[1]}\n\n{excerpt(place[2], Path(page).parent)}\n\n{place[3]}", text)


def main() -> None:
    pages = {page: filled(page) for page in PAGES}
    drawn = [(place[2], place[3]) for text in pages.values() for place in PICTURE.finditer(text)]
    for task, file in drawn:
        section = group(file) if file in GROUPS else sections(task)[0]
        only = () if file in GROUPS else [row.name for row in chosen(section.rows)]
        if file != "frontier" and (made := frontier_chart(task, section, only=only)):
            save(ROOT / PUBLISHED / task / f"{file}.svg", made)
    for page, text in pages.items():
        (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
