"""What a report takes by its number of runs: CPU time to write it, its size, and the time until a browser shows it.

    python scripts/benchmarks/pages.py [--rows 29 168] [--repeats 3] [--browser /usr/bin/chromium]

The cards are those of boards.py, three seeds a row. "Open" is from the start of the navigation until the first chart is drawn,
in headless Chromium, by the wall and as CPU time of its processes; the latter counts on a busy machine. Needs `playwright`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from boards import PUBLISHED, make_cards
from playwright.sync_api import sync_playwright

from isoalign.core.display import grid
from isoalign.evaluation.card import read_cards
from isoalign.report.site.write import write_report

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=(29, 168), help="rows of made-up cards")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    table = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            make_cards(read_cards(PUBLISHED), folder / "cards", rows)
            cards, start = read_cards(folder / "cards"), time.process_time()
            page = write_report({"nano": cards}, folder / "report")
            written, size = time.process_time() - start, page.stat().st_size / 1e6
            whole = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file()) / 1e6
            opened = [opening(page, arguments.browser) for _ in range(arguments.repeats)]
            wall, busy = (statistics.median(column) for column in zip(*opened, strict=True))
            figures = [f"{written:.1f}", f"{size:.2f}", f"{whole:.1f}", f"{wall:.2f}", f"{busy:.2f}"]
            table.append([str(rows), str(len(cards)), *figures])
    print(grid(["rows", "runs", "write (CPU s)", "page (MB)", "folder (MB)", "open (s)", "open (CPU s)"], table))


def opening(page: Path, browser: str) -> tuple[float, float]:
    """Seconds until the first chart is drawn: by the wall, and of all processes of the browser."""
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(profile, executable_path=browser, args=FLAGS)
        tab = context.new_page()
        before, start = busy_seconds(), time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector(".plot[data-drawn]", timeout=120_000)
        wall, busy = time.perf_counter() - start, busy_seconds() - before
        context.close()
    return wall, busy


def busy_seconds() -> float:
    """CPU seconds of the browsers that this process has started."""
    children = psutil.Process().children(recursive=True)
    times = [child.cpu_times() for child in children if "chrom" in child.name()]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
