"""Text identity: what counts as the same text, and which split it belongs to."""

import hashlib
import unicodedata


def repeats(question: str, answer: str) -> bool:
    """Whether an answer begins with its question, of three words or more."""
    asked = squeeze(question)
    return asked.count(" ") > 1 and squeeze(answer).startswith(asked)


def squeeze(text: str) -> str:
    """The text with every run of white space made one blank."""
    return " ".join(text.split())


def normalise(text: str) -> str:
    """The form under which two texts count as the same: NFKC, case-folded, white space squeezed."""
    return squeeze(unicodedata.normalize("NFKC", text).casefold())


def text_fingerprint(text: str, salt: str = "") -> str:
    """Sixteen hex digits of the SHA-256 of the normalised text."""
    return hashlib.sha256(f"{salt}\0{normalise(text)}".encode()).hexdigest()[:16]


def unit_hash(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on the normalised text alone, uniform over texts: splits are cut from it."""
    return int(text_fingerprint(text, salt), 16) / 2**64


def opening(text: str, words: int) -> str:
    """The first ``words`` blank-separated words of a text."""
    return " ".join(text.split()[:words])
