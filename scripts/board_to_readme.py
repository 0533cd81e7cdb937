"""Insert the published leaderboards into README.md, between <!-- board:TASK --> and <!-- /board:TASK -->.

Inserts the ranking of each board and its basis, with a link to the full board. Run it after `isoalign publish`.
"""

import re
from pathlib import Path

from isoalign.evaluation.card import read_all
from isoalign.report.leaderboard import build
from isoalign.report.pages.page import excerpt

README = Path("README.md")
PUBLISHED = Path("results/published")


def board_excerpt(task: str) -> str:
    page = PUBLISHED / task / "leaderboard.md"
    if not page.exists():
        return f"*The board of {task} is not published yet.*"
    parts = [part for section in build(read_all(page.parent)).sections for part in excerpt(section)]
    charts = "the curves along the budget, every pair compared, diversity, KL, the bill and every seed"
    return "\n\n".join([*parts, f"All metrics, {charts}: [{page}]({page})."])


def main() -> None:
    text = README.read_text()
    section = re.compile(r"(<!-- board:(\w+) -->).*?(<!-- /board:\2 -->)", re.DOTALL)
    README.write_text(section.sub(lambda place: f"{place[1]}\n\n{board_excerpt(place[2])}\n\n{place[3]}", text))


if __name__ == "__main__":
    main()
