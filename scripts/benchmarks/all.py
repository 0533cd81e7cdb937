"""All benchmarks, or some parts by name, and their tables in docs/performance.md.

    python scripts/benchmarks/all.py [steps sampling evaluation boards start bf16 ...] [--jobs 2]

Each part is a script beside this one; what it prints goes between its marks on the page, under the processor's name, the date
and the commit, in place of what was measured on this processor before. Tables of other processors stay.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from datetime import date

from work import HERE, ROOT, git, processor

PAGE = ROOT / "docs" / "performance.md"
PARTS = {
    "steps": "steps.py --jobs {jobs}",
    "prompts": "prompts.py",
    "sampling": "sampling.py",
    "evaluation": "runs.py evaluation --rounds 1",
    "boards": "boards.py",
    "pages": "pages.py",
    "start": "runs.py start",
    "bf16": "bf16.py",
}


def replaced(page: str, part: str, text: str, processor: str) -> str:
    """The page with a part's text between its marks, in place of its processor's. Raises ValueError without marks."""
    marks = re.compile(rf"(<!-- {part} -->\n)(.*?)(<!-- end of {part} -->\n)", re.DOTALL)
    if (found := marks.search(page)) is None:
        raise ValueError(f"{PAGE} has no marks of {part}")
    told = [block.strip() for block in re.split(r"^(?=`python )", found[2], flags=re.MULTILINE) if block.strip()]
    own = next((place for place, block in enumerate(told) if processor in block.partition("\n")[0]), len(told))
    told[own : own + 1] = [text.strip()]
    return page[: found.end(1)] + "\n\n".join(told) + "\n" + page[found.start(3) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="part", help="by default " + ", ".join(PARTS))
    parser.add_argument("--jobs", type=int, default=2, help="processes that measure training steps at a time")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"no part is called {', '.join(unknown)}; parts are {', '.join(PARTS)}")
    for part in arguments.parts:
        script, *words = shlex.split(PARTS[part].format(jobs=arguments.jobs))
        print(f"{part} ...", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, str(HERE / script), *words], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{part} failed; its tables stay as they were", file=sys.stderr)
            continue
        print(done.stdout, flush=True)
        day, commit = f"{date.today():%d %B %Y}".lstrip("0"), git("rev-parse", "--short", "HEAD")
        command = f"python scripts/benchmarks/{' '.join([script, *words])}"
        told = f"`{command}`, {processor()}, {day}, {commit}:\n\n{done.stdout.strip()}"
        PAGE.write_text(replaced(PAGE.read_text(), part, told, processor()))


if __name__ == "__main__":
    main()
