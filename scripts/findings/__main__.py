"""Judge claims of the literature on the nano task, at equal compute.

    .venv/bin/python -m scripts.findings            # runs what the store lacks, three seeds, two one-thread workers
    .venv/bin/python -m scripts.findings --judge    # only judges existing cards

Writes cards to results/findings/ARM/TASK/ and the verdicts to results/findings/README.md; methods that the published board of
nano has are read from there. Claims and rules (scripts/findings/claims.py) were fixed before the runs.
"""

from __future__ import annotations

import argparse

from .arms import FOLDER, RUNS, Bench, run
from .claims import FINDINGS

WORDS = {True: "holds", False: "**does not hold**", None: "**not shown**"}


def report(bench: Bench) -> str:
    """The outcomes as a Markdown page."""
    lines = ["# Known findings", "", "Claims of the literature on the nano task, three seeds or more, made and judged by "
             "`python -m scripts.findings`, whose rules were written before its runs. Intervals are 95%, over seeds and "
             "prompts. A claim that is not shown may still be true: of larger models, other rewards, or more seeds.",
             ""]  # fmt: skip
    for finding in FINDINGS:
        outcome = finding.judge(bench)
        rule = " ".join((finding.judge.__doc__ or "").split())
        lines += [f"## {finding.name}: {WORDS[outcome.holds]}", "", f"- **Claim:** {finding.claim} ({finding.source}).",
                  f"- **Judged by:** {rule}", f"- **Seen:** {outcome.figures}.", ""]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Run, judge and write the report."""
    parser = argparse.ArgumentParser(
        "python -m scripts.findings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judge", action="store_true", help="only judge existing cards")
    if not parser.parse_args().judge:
        run(list(RUNS))
    text = report(Bench())
    (FOLDER / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
