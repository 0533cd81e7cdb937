"""The labelled comments (Jigsaw and Davidson), divided into disjoint roles by a hash of the normalised text."""

import csv
from dataclasses import dataclass

from isoalign.core.errors import UserError
from isoalign.core.text import normalise, squeeze, unit_hash
from isoalign.data import assets

# Upper end of each role's share of the unit interval. Equal texts have one role, whatever their label.
ROLES = {"pretrain": 0.60, "sft": 0.70, "annotator": 0.82, "judge": 0.92, "prompts": 1.0}


@dataclass(frozen=True)
class Comment:
    """One comment: its text with white space squeezed, and whether people labelled it offensive."""

    text: str
    offensive: bool


def role(text: str) -> str:
    """The role of a comment, one of ROLES."""
    place = unit_hash(text, "comments")
    return next(name for name, upper in ROLES.items() if place < upper)


def load_comments(wanted: str) -> list[Comment]:
    """All comments of one role in file order, without duplicates.

    Raises UserError naming the row if the file is malformed.
    """
    file = assets.asset_path("comments") / "clean_data.csv"
    chosen: list[Comment] = []
    seen: set[str] = set()
    with file.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            label, text = row.get("is_offensive"), row.get("text")
            if label not in ("0", "1") or text is None:
                raise UserError(f"{file}: row {number}: expected is_offensive (0 or 1) and text, not {label!r}")
            if text.strip() and role(text) == wanted and (key := normalise(text)) not in seen:
                seen.add(key)
                chosen.append(Comment(squeeze(text), label == "1"))
    return chosen
