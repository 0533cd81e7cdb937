"""Checks what a pull request adds to the published boards: `python scripts/check_submission.py CHECKOUT [BASE]`.

CHECKOUT is a git checkout of the pull request merged, BASE what it is merged into (by default its first parent, HEAD^1). The
code and the tasks are those of the isoalign that runs this, not of the pull request: nothing of CHECKOUT is executed. A
pull request may add cards and nothing else; each is checked as `isoalign submit` checks it, without the store of its run.
The exit status is 1 if anything is wrong, with a line for each file.
"""

import subprocess
import sys
from pathlib import Path

from isoalign.core.complaint import one_line
from isoalign.core.errors import UserError
from isoalign.tools.submission.checks import Checked, check
from isoalign.tools.submission.prepare import agreement

CARDS = ("results/published/", "results/elsewhere/")
PLAIN = "100644"  # git's mode of a file that is neither a program nor a link
LARGEST = 4_000_000  # bytes; cards have about 120,000


def changes(checkout: Path, base: str) -> list[tuple[str, str, str]]:
    """What differs between a base and HEAD: git's letter, the mode, the path below the repository. No renames."""
    command = ["git", "-C", str(checkout), "diff", "--raw", "-z", "--no-renames", "--no-ext-diff", base, "HEAD", "--"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise UserError(f"cannot compare {base} with HEAD in {checkout}: {done.stderr.strip().partition(chr(10))[0]}")
    fields = done.stdout.split("\0")[:-1]
    return [(head.split()[4], head.split()[1], path) for head, path in zip(fields[::2], fields[1::2], strict=True)]


def wrong_change(letter: str, mode: str, path: str) -> str:
    """Why a pull request with results may not make a change; empty for a card that is added."""
    if not path.startswith(CARDS):
        return "is not below results/published or results/elsewhere; a pull request with results holds nothing else"
    if letter != "A":
        return "is there already; a pull request with results changes and removes nothing"
    if not path.endswith(".json"):
        return "is no card; boards and pictures are drawn when the cards are merged"
    return "" if mode == PLAIN else "is a link or a program, not a plain file"


def check_card(checkout: Path, path: str, added: set[str]) -> Checked:
    """One of the cards that were added, checked. Raises UserError for the first thing that is wrong with it."""
    file, results = checkout / path, checkout / "results"
    if file.stat().st_size > LARGEST:
        raise UserError(f"{path} has {file.stat().st_size:,} bytes; a card has at most {LARGEST:,}")
    checked = check(file, results)
    if (place := f"results/{checked.place.as_posix()}") != path:
        raise UserError(f"{path}: its place is {place}")
    if checked.original and f"results/published/{checked.card.task}/{file.name}" in added:
        raise UserError(f"{path}: reproduces a card of the same pull request; who reproduces a card is somebody else")
    if file.read_text(encoding="utf-8") != checked.text:
        raise UserError(f"{path}: its text is not as isoalign writes it; add the file that `isoalign submit` wrote")
    return checked


def main(checkout: Path, base: str) -> int:
    """Print a line for each change; the exit status."""
    status, found = 0, changes(checkout, base)
    for letter, mode, path in found:
        reason, more = wrong_change(letter, mode, path), ""
        if not reason:
            try:
                checked = check_card(checkout, path, {added for _, _, added in found})
                flags = len([flag for flag in checked.card.flags if flag.kind == "gate"])
                more = f"; failed gates: {flags}" + (f"; {agreement(o, checked.card)}" if (o := checked.original) else "")
            except UserError as error:
                reason = str(error).removeprefix(f"{checkout / path}").lstrip(": ").replace(f"{checkout}/", "")
        status |= bool(reason)
        print(one_line(f"{path}: {reason}" if reason else f"{path}: ok, reported and not reproduced{more}"))
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "HEAD^1"))
    except (UserError, IndexError) as failure:
        sys.exit(one_line(str(failure) if isinstance(failure, UserError) else "name the checkout of the pull request"))
