"""Secrets are kept out of what is written: cards, logs, error lines."""

import re
from typing import Any

REDACTED = "[redacted]"


# A count ("max_new_tokens: 20", "key: 3") is no secret, nor is what stands for one ("KEY=VALUE"); a password may be a number.
_SECRET_TEXT = re.compile(r"(?:key|token|secret|passw(?:or)?d|passphrase|credential)s?$", re.IGNORECASE)
_SECRET_ALWAYS = re.compile(r"(?:secret|passw(?:or)?d|passphrase|api_?key)s?$", re.IGNORECASE)
_NUMBER = re.compile(r"[-+.\deE_]+|true|false|null|none|value\W?", re.IGNORECASE)


# name=value, "name: value" and --name value, the value bare or in quotes. Nothing is tried twice, so the time is linear.
_NAME = re.compile(r"(?<![\w.\-])(?P<name>[\w.\-]++)(?P<between>\s*+[=:]\s*+|(?<=\w)\s++)")
_VALUE = re.compile(r"""\"[^"]*+\"|'[^']*+'|[^\s,'"{}\[\]]++""")


# Secrets that are known by their own form, and user:password@ in an address.
_KNOWN = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|wandb_v1_)[\w\-]{16,}|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)")


def _secret(name: str, value: Any) -> bool:
    if _SECRET_ALWAYS.search(name):
        return True
    if isinstance(value, list | tuple):
        return any(_secret(name, item) for item in value)
    named = _SECRET_TEXT.search(name) and isinstance(value, str)
    return bool(named and not _NUMBER.fullmatch(value.strip("'\"")))


def redact(value: Any) -> Any:
    """JSON with every secret in it replaced by ``[redacted]``."""
    if isinstance(value, dict):
        return {
            name: REDACTED if _secret(str(name), item) and not isinstance(item, dict) else redact(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str) -> str:
    """A text with every secret in it replaced by ``[redacted]``."""
    found = _KNOWN.sub(REDACTED, _without_assigned(text))
    return found if found == text else redact_text(found)  # seals hold for what is redacted again


def _without_assigned(text: str) -> str:
    """A text without the values that are given to the names of secrets."""
    parts, at = [], 0
    while match := _NAME.search(text, at):
        name, between = match.group("name", "between")
        parts.append(text[at : match.end()])
        at = match.end()
        # "--token abc" gives a value; "the token abc" does not
        given = name.startswith("-") or between.strip()
        if given and _secret(name, "?") and (value := _VALUE.match(text, at)) and _secret(name, value[0]):
            parts.append(REDACTED)
            at = value.end()
    return "".join([*parts, text[at:]])
