"""Put the published leaderboards into README.md, between <!-- board:TASK --> and <!-- /board:TASK -->.

Of each board the ranking and what it rests on, with a link to the rest. Run it after `isoalign publish`.
"""

import re
from pathlib import Path

from isoalign.evaluation.card import read_all
from isoalign.report.leaderboard import build
from isoalign.report.pages.page import excerpt as of_section

README = Path("README.md")
PUBLISHED = Path("results/published")


def excerpt(task: str) -> str:
    page = PUBLISHED / task / "leaderboard.md"
    if not page.exists():
        return f"*No board of {task} is published yet.*"
    parts = [part for section in build(read_all(page.parent)).sections for part in of_section(section)]
    charts = "the curves along the budget, every pair compared, diversity, drift, the bill and every seed"
    return "\n\n".join([*parts, f"All figures, {charts}: [{page}]({page})."])


def main() -> None:
    text = README.read_text()
    fill = re.compile(r"(<!-- board:(\w+) -->).*?(<!-- /board:\2 -->)", re.DOTALL)
    README.write_text(fill.sub(lambda place: f"{place[1]}\n\n{excerpt(place[2])}\n\n{place[3]}", text))


if __name__ == "__main__":
    main()
