"""JSON from outside: each name once, and bounded in depth and length."""

from __future__ import annotations

import json
import re
from typing import Any

DEEPEST = 50  # levels of lists and mappings
LONGEST = 1_000_000  # characters of a text or a name
NUMBERS = {int, float, bool, type(None)}
_HALVES = re.compile(r"\\u[dD][89a-fA-F]")  # of a character, as JSON writes those beyond 16 bits


def decode(text: str, **options: Any) -> Any:
    """The value of a JSON text; ``options``: those of json.loads.

    Raises ValueError with a reason for what is not JSON, gives a name twice, is nested too deeply, or holds a text that is too
    long or that UTF-8 can't hold.
    """
    try:
        value = json.loads(text, object_pairs_hook=mapping_once, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _HALVES.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a character (a lone surrogate)") from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for each in level:
            if type(each) is dict:
                inner += each
                inner += each.values()
            elif type(each) is list and not NUMBERS.issuperset(map(type, each)):
                inner += each
            elif type(each) is str and len(each) > LONGEST:
                raise ValueError(f"it holds a text of {len(each):,} characters, of which {LONGEST:,} are the most")
        if not inner:
            return value
        level = inner
    raise ValueError(f"it is nested too deeply: more than {DEEPEST} levels")


def mapping_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of these names and values. Raises ValueError if it has a name twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"it has {twice[:40]!r} twice")
    return found
