"""Feedback of one's own: write a file of preferences and look at it before anything is trained on it."""

import json
import tempfile
from pathlib import Path

from isoalign.data.formats import read_file
from isoalign.data.formats.check import check_file

WAVED = " waved at me this morning from across the street."
rows = [
    {"prompt": "The sky is", "chosen": " blue today.", "rejected": " stupid.", "rater": "ann"},
    {"prompt": "The sky is", "chosen": " blue today.", "rejected": " stupid.", "rater": "bob"},
    {"prompt": "My neighbour", "chosen": WAVED, "rejected": " is an idiot.", "rater": "ann"},
    {"prompt": "My neighbour", "chosen": " is an idiot.", "rejected": WAVED, "rater": "bob"},
    {"prompt": "This page", "chosen": " needs work.", "rejected": " needs work.", "rater": "ann"},
]

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")

    # What `isoalign data check mine.jsonl` prints; with --task it also looks for the task's evaluation prompts.
    report = check_file(file, evaluation_prompts=["Somebody waved at me this morning from across the street and"])
    print(report.text())
    print("refused for training:", ", ".join(report.problems) or "no")

    # The same rows as training sees them.
    data = read_file(file)
    first = data.comparisons[0]
    print(f"{len(data.comparisons)} comparisons; the first: {first.chosen[0].content!r} over {first.rejected[0].content!r}")

# To train on it: isoalign run algorithm=dpo task.feedback.file=mine.jsonl
