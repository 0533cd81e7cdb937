"""Checks what a pull request adds to the published boards: `python scripts/check_submission.py CHECKOUT [BASE]`.

CHECKOUT is a git checkout of the pull request merged, BASE what it is merged into (by default its first parent, HEAD^1). The
code and the tasks are those of the isoalign that runs this, not of the pull request: nothing of CHECKOUT is executed. A
pull request may add cards and nothing else; each is checked as `isoalign submit` checks it, without the store of its run,
against the results of BASE and the other cards that the pull request adds and that can be read.
The exit status is 1 if anything is wrong, with a line for each file.
"""

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from isoalign.core import outside_json
from isoalign.core.complaint import one_line
from isoalign.core.errors import UserError
from isoalign.core.remote import PACK
from isoalign.evaluation.card import file_name, read_unchanged
from isoalign.tools.submission.checks import Checked, check
from isoalign.tools.submission.prepare import agreement

CARDS = ("results/published/", "results/elsewhere/")
PLAIN = "100644"  # git's mode of a file that is neither a program nor a link
LARGEST = 4_000_000  # bytes; cards have about 120,000
MOST = 5_000_000  # values by prompt of a card once its columns are unpacked; cards have about 50,000


def git(checkout: Path, *words: str) -> bytes:
    """What a git command prints. Raises UserError with the first line of its complaint."""
    done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise UserError(f"git {words[0]} fails in {checkout}: {said}")
    return done.stdout


def changes(checkout: Path, base: str) -> list[tuple[str, str, str]]:
    """What differs between a base and HEAD: git's letter, the mode, the path below the repository. No renames."""
    out = git(checkout, "diff", "--raw", "-z", "--no-renames", "--no-ext-diff", base, "HEAD", "--")
    fields = out.decode("utf-8", "surrogateescape").split("\0")[:-1]
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


def unpacked(data: Any) -> int:
    """How many values by prompt the JSON of a card stands for: columns times prompts, which may be named by a list before."""
    lists, count = list[int](), 0
    points = data.get("curve") if isinstance(data, dict) and isinstance(data.get("curve"), list) else []
    for holder in (data, *(points or [])):
        groups = holder.get("values") if isinstance(holder, dict) else None
        for group in groups if isinstance(groups, list) else []:
            prompts, columns = (group.get("prompts"), group.get("columns")) if isinstance(group, dict) else (None, None)
            if isinstance(prompts, list):
                lists.append(len(prompts))
            length = len(prompts) if isinstance(prompts, list) else max(lists, default=0)
            count += length * len(columns) if isinstance(columns, dict) else 0
    return count


def look(checkout: Path, path: str) -> bytes:
    """A file that was added, if it is small enough to be read as a card, and none that has values in a pack."""
    file = checkout / path
    if (size := file.stat().st_size) > LARGEST:
        raise UserError(f"{path} has {size:,} bytes; a card has at most {LARGEST:,}")
    content = file.read_bytes()
    try:
        data = outside_json.decode(content.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not a card: not JSON ({error})") from error
    if isinstance(data, dict) and data.get("values") == PACK:
        raise UserError(f"{path} was rounded for publishing, which can't be checked again; submit the run's own card")
    if (count := unpacked(data)) > MOST:
        raise UserError(f"{path} stands for {count:,} values by prompt; a card has at most {MOST:,}")
    return content


def gather(checkout: Path, base: str, paths: list[str], folder: Path) -> dict[str, str]:
    """Put the results of BASE into a folder, and what the pull request adds of cards that can be read; why others can't be."""
    with tarfile.open(fileobj=io.BytesIO(git(checkout, "archive", "--format=tar", base, "--", "results"))) as archive:
        archive.extractall(folder, filter="data")
    wrong: dict[str, str] = {}
    probe = folder / "added.json"
    for path in paths:
        try:
            probe.write_bytes(look(checkout, path))
            card = read_unchanged(probe)
            if Path(path).parent.name != card.task or Path(path).name != file_name(card):
                raise UserError(f"is not at the place of its card, {card.task}/{file_name(card)}")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            probe.replace(folder / path)
        except UserError as error:
            wrong[path] = str(error).removeprefix(str(probe)).replace(str(probe), path)
        except OSError as error:
            wrong[path] = f"cannot be read: {error.strerror}"
    return wrong


def check_card(folder: Path, path: str, added: set[str]) -> Checked:
    """One of the cards that were added, checked. Raises UserError for the first thing that is wrong with it."""
    file = folder / path
    checked = check(file, folder / "results")
    if (place := f"results/{checked.place.as_posix()}") != path:
        raise UserError(f"{path}: its place is {place}")
    if checked.original and f"results/published/{checked.card.task}/{file.name}" in added:
        raise UserError(f"{path}: reproduces a card of the same pull request; who reproduces a card is somebody else")
    if file.read_bytes() != checked.text.encode():
        raise UserError(f"{path}: its text is not as isoalign writes it; add the file that `isoalign submit` wrote")
    return checked


def main(checkout: Path, base: str) -> int:
    """Print a line for each change; the exit status."""
    status, found = 0, changes(checkout, base)
    reasons = {path: wrong_change(letter, mode, path) for letter, mode, path in found}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        reasons |= gather(checkout, base, [path for path, reason in reasons.items() if not reason], folder)
        for path, reason in reasons.items():
            more = ""
            if not reason:
                try:
                    checked = check_card(folder, path, set(reasons))
                    flags = len([flag for flag in checked.card.flags if flag.kind == "gate"])
                    more = f"; failed gates: {flags}" + (f"; {agreement(o, checked.card)}" if (o := checked.original) else "")
                except UserError as error:
                    reason = str(error)
            for start in (f"{folder}/", f"{checkout}/"):
                reason = reason.replace(start, "")
            reason = reason.removeprefix(path).lstrip(": ")
            status |= bool(reason)
            print(one_line(f"{path}: {reason}" if reason else f"{path}: ok, reported and not reproduced{more}"))
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "HEAD^1"))
    except (UserError, IndexError) as failure:
        sys.exit(one_line(str(failure) if isinstance(failure, UserError) else "name the checkout of the pull request"))
