"""Put the published leaderboards into README.md and docs/results.md, between <!-- board:TASK --> and <!-- /board:TASK -->, and
what their pictures show into the words that stand for these.

Of a long board ten rows, by a rule that looks at no figure but the order; no ranks where they would rest on fewer than three
seeds. Run it after `isoalign publish`.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from isoalign.core.display import grid, scientific
from isoalign.core.records import Estimate
from isoalign.evaluation.card import read_cards
from isoalign.report.board.rows import METHOD, Row
from isoalign.report.board.sections import Section
from isoalign.report.charts.finding import compared_at, finding
from isoalign.report.leaderboard import build_board

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md")
PUBLISHED = Path("results/published")

MOST = 10  # rows
SEEDS = 3  # the fewest that a rank may rest on
BENCH = ("ppo", "dpo", "kto", "rlaif")  # what `make bench` trains, beside base and control
RULE = (
    "Ten of {count} rows: base, control, what has no rank, the four methods that `make bench` trains, and of the others the "
    "first, the middle and the last."
)


def chosen(rows: Sequence[Row]) -> list[Row]:
    """The rows that are shown, in the board's order."""
    if len(rows) <= MOST:
        return list(rows)
    named = [row for row in rows if row.part != METHOD or row.gated or row.name in BENCH]
    others = [row for row in rows if row not in named]
    free = min(MOST - len(named), len(others))
    picked = [others[round(place * (len(others) - 1) / max(free - 1, 1))] for place in range(free)]
    return [row for row in rows if row in [*named, *picked]]


def table(section: Section) -> str:
    """Reduction with its interval, KL, diversity and fluency; and the rank, where it rests on seeds enough."""
    rows = chosen(section.rows)
    ranked = all(row.seeds >= SEEDS for row in section.rows if row.part == METHOD)
    titles = ["Rank"] * ranked + ["Method", "Reduction ↑", "KL, nats", "Distinct-2 ↑", "Perplexity"]
    cells = [
        [row.place] * ranked
        + [row.name if row.part == METHOD else f"*{row.name}*", reduction(row.estimate("toxicity_reduction"))]
        + [plain(row.kl, 2), plain(row.estimate("distinct_2"), 3), plain(row.estimate("perplexity"), 1)]
        for row in rows
    ]
    return grid(titles, cells, left=range(1 + ranked))


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
        said = [RULE.format(count=len(section.rows))] if len(section.rows) > MOST else []
        parts += [table(section), " ".join([f"{scientific(section.budget.get('flops'))} FLOP a run, {counts}.", *said])]
    link = "../" * len(home.parts) + (folder / "leaderboard.md").as_posix()
    return "\n\n".join([*parts, f"All rows and figures: [{folder.as_posix()}/leaderboard.md]({link})."])


def alt(task: str) -> str:
    """What the picture of a task's first board shows, in the words of its title."""
    section = sections(task)[0]
    return finding(section, compared_at(section))


def filled(page: str) -> str:
    """A page with its boards, and what stands for its pictures, as they are now."""
    marked = re.compile(r"(<!-- board:(\w+) -->).*?(<!-- /board:\2 -->)", re.DOTALL)
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"!\[[^]]*\](\([^)]*published/(\w+)/frontier.svg\))", lambda place: f"![{alt(place[2])}]{place[1]}", text)
    return marked.sub(lambda place: f"{place[1]}\n\n{excerpt(place[2], Path(page).parent)}\n\n{place[3]}", text)


def main() -> None:
    for page in PAGES:
        (ROOT / page).write_text(filled(page), encoding="utf-8")


if __name__ == "__main__":
    main()
