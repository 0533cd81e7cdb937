"""The simulated annotator and the AI judge: two classifiers fit on people's labels, on disjoint comments."""

from pathlib import Path

from isoalign.data import comments
from isoalign.models.classifiers import CharClassifier, WordClassifier

VERSION = 1


def make(work: Path) -> None:
    """Fit both and save them under ``annotator`` and ``judge``."""
    WordClassifier.fit(comments.load_comments("annotator")).save(work / "annotator")
    CharClassifier.fit(comments.load_comments("judge")).save(work / "judge")
