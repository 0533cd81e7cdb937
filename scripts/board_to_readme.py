"""Put the published leaderboards into README.md, between <!-- board:TASK --> and <!-- /board:TASK -->.

Of each board the ranking, what it rests on and its charts, with a link to the rest. Run it after `isoalign publish`.
"""

import re
from pathlib import Path

README = Path("README.md")
PUBLISHED = Path("results/published")


def excerpt(task: str) -> str:
    page = PUBLISHED / task / "leaderboard.md"
    if not page.exists():
        return f"*No board of {task} is published yet.*"
    parts = []
    for block in page.read_text().split("\n\n"):
        if block.startswith("## Budget"):
            parts.append(f"**{block.removeprefix('## ')}**")
        elif block.startswith("- **Budget"):
            parts += [line.removeprefix("- ") for line in block.splitlines() if line.startswith("- **Ranks:")]
        elif block.startswith(("| Rank", "> **Not to be compared")):
            parts.append(block)
        elif block.startswith("!["):
            parts.append(block.replace("](", f"]({page.parent}/"))
    return "\n\n".join([*parts, f"Accuracy, diversity, the bill and every seed: [{page}]({page})."])


def main() -> None:
    text = README.read_text()
    fill = re.compile(r"(<!-- board:(\w+) -->).*?(<!-- /board:\2 -->)", re.DOTALL)
    README.write_text(fill.sub(lambda place: f"{place[1]}\n\n{excerpt(place[2])}\n\n{place[3]}", text))


if __name__ == "__main__":
    main()
