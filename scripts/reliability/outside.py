"""Hostile text in cards and files of others, and keys in every place where one might stand."""

from __future__ import annotations

import csv
import json
import random
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .bench import Bench, Ended, Place
from .trial import Trial

HOSTILE = [
    "\x1b[2J\x1b[1;31mowned", "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07", "\x9b31mred", "a\rb", "ok\nisoalign: done",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[here](javascript:alert(1))", "![x](http://evil.example/p.png)",
    "=HYPERLINK(\"http://evil.example\")", "@SUM(1)", "+cmd|' /C calc'!A0", "-2+3", "$\\href{http://evil.example}{x}$",
    "| a | b |\n| --- | --- |", "\u202egnp.exe", "`rm -rf`", "</svg><script>x</script>", "\ud800half", "x" * 50_000,
    "`` ` ``",
    "\n```\n<script>alert(1)</script>", "&#60;script&#62;", 
    "$(touch ran)", "'; touch ran; '", "\u2028next", "%s %d {0}", "\t=1+1", "a\x00b",
]  # fmt: skip
LIVE = re.compile(
    r"<(?:script|img|iframe|a|svg:script)\b[^>]*>|(?<![\\!])!?\[[^\]\\]*\]\((?:javascript|http://evil)", re.IGNORECASE
)
CODE = re.compile(r"\A---\n.*?^---$|^```.*?^```$|(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL | re.MULTILINE)  # shown as it is
KEYED = {"HF_TOKEN": "hf_", "OPENAI_API_KEY": "sk-", "WANDB_API_KEY": "", "MY_PASSWORD": "pw-"}


def text(bench: Bench, chance: random.Random, number: int) -> Trial:
    """A card with hostile words in a place of its text, or files of prompts, demonstrations and feedback made of them; the
    commands that show them print no command of a terminal, and write no live markup, formula or link."""
    name, said = ("dpo", "ppo", "cai")[number % 3], HOSTILE[number % len(HOSTILE)]
    place = bench.place("hostile", bench.reference(name)[0], results=True)
    trial = Trial({"cards" if number % 4 else "files of feedback": 1})
    if number % 4:
        file = place.card()
        card = json.loads(file.read_text())
        where = _planted(card, said, chance)
        file.write_text(json.dumps(card))
        (file.parent / "second.json").write_text(json.dumps(json.loads(_plain(bench, name))))
        typed = chance.sample(COMMANDS, 2)
    else:
        where = "rows"
        rows = [{"prompt": f"{said} {i}", "chosen": f"{said} good {i}", "rejected": f"bad {said} {i}"} for i in range(3)]
        (place.home / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        typed = [["data", "mine.jsonl"], ["task", "nano", "task.feedback.file=mine.jsonl", "task.prompts.source=mine.jsonl"]]
    for words in typed:
        ended = bench.do(place, *(word.format(card=place.results / "nano" / "second.json", store=place.store,
                                              results=place.results, first=_first(place)) for word in words))  # fmt: skip
        found = [*ended.wrong(0, 1, 2), *_shown(ended), *_written(place)]
        trial.wrong += [f"{said[:30]!r} at {where}, {words[0]}: {line}" for line in found]
    if any(place.home.rglob("ran")):
        trial.wrong.append(f"{said!r} was run")
    return trial


COMMANDS = [
    ["board", "--results", "{results}"], ["verify", "{first}", "--store", "{store}"], 
    ["board", "--across", "--results", "{results}"],
    ["compare", "{first}", "{card}", "--results", "{results}"], ["rescore", "--all", "{first}", "--store", "{store}"],
    ["export", "{first}", "exported", "--store", "{store}"], ["publish", "{first}", "{card}", "--results", "{results}"],
    ["board", "--along", "algorithm.beta", "--results", "{results}"],
]  # fmt: skip


def _first(place: Place) -> Path:
    return next(path for path in sorted(place.results.glob("nano/*.json")) if path.name != "second.json")


def _plain(bench: Bench, name: str) -> str:
    """The card of the same method with another seed, so that there is something beside it."""
    card = json.loads(bench.reference(name)[0].card().read_text())
    return json.dumps(card | {"seed": 1, "seals": {}, "key": "0" * 16})


def _planted(card: dict[str, Any], said: str, chance: random.Random) -> str:
    """Put the words in the place of, or behind, a text of the card, or in that of a name; where."""
    if chance.random() < 0.5:  # the texts that are always shown
        name = chance.choice(["algorithm", "task", "command", "key", "versions", "flags", "notes", "parents"])
        value = card.get(name)
        if name == "flags":
            card[name] = [{"kind": "warning", "text": said}]
        elif isinstance(value, dict):
            card[name] = {**value, said: said}
        else:
            card[name] = said
        return name
    places: list[tuple[Any, Any, str]] = []

    def walk(value: Any, where: str) -> None:
        each = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, item in each:
            places.extend([(value, name, f"{where}.{name}")] if isinstance(item, str) else [])
            walk(item, f"{where}.{name}")

    walk({name: value for name, value in card.items() if name != "values"}, "card")
    holder, name, where = chance.choice(places)
    holder[name] = said if chance.random() < 0.7 else f"{holder[name]} {said}"
    return where


def _shown(ended: Ended) -> Iterator[str]:
    """Characters that a terminal would obey, and complaints that are no one line."""
    shown = re.sub(r"\r?[^\n]*%\|[^\n]*", "", ended.err)  # progress bars are isoalign's own
    for stream, written in (("stdout", ended.out), ("stderr", shown)):
        bad = {char for char in written if unicodedata.category(char).startswith("C") and char not in "\n"}
        if bad:
            yield f"{stream} has {sorted(map(hex, map(ord, bad)))}"
    lines = [line for line in ended.err.splitlines() if line.startswith("isoalign: ")]
    if len(lines) > 1 and ended.status == 2:
        yield f"{len(lines)} lines of complaint"


def _written(place: Place) -> Iterator[str]:
    """Live markup, formulas and control characters in what was written for readers."""
    for file in place.home.rglob("*"):
        if file.suffix not in (".md", ".csv", ".svg", ".html") or not file.is_file() or "store" in file.parts:
            continue
        whole = file.read_bytes().decode("utf-8", "replace")
        if bad := {char for char in whole if unicodedata.category(char) in ("Cc", "Cf") and char not in "\n\r\t"}:
            yield f"{file.name} has {sorted(map(hex, map(ord, bad)))}"
        if file.suffix == ".csv":
            cells = [cell for row in csv.reader(whole.splitlines()) for cell in row]
            live = [cell for cell in cells if cell.strip()[:1] in tuple("=+-@") and not _number(cell)]
            yield from (f"{file.name} has the formula {cell[:60]!r}" for cell in live)
        else:
            inert = re.sub(CODE, "", whole) if file.suffix == ".md" else whole
            yield from (f"{file.name} has {found[0][:60]!r}" for found in LIVE.finditer(inert) if not _ours(found[0]))


def _ours(markup: str) -> bool:
    return markup.startswith("<a ") and "evil" not in markup and "alert" not in markup


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def secrets(bench: Bench, chance: random.Random, number: int) -> Trial:
    """Keys in the environment, in words of the command line, in addresses and in the text of a card; none is in what is
    printed or in any file that is written, whether the command comes through or not."""
    kind = ("environment", "settings", "addresses", "names", "cards", "failures")[number % 6]
    key = "".join(chance.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(32))
    place = bench.place("secret", bench.base)
    words, environment = bench.words(place, "dpo"), {}
    if kind == "environment":
        environment = {name: f"{prefix}{key}" for name, prefix in KEYED.items()}
    elif kind == "settings":
        words.append(
            chance.choice([f"task.judge.api_key={key}", f"+api_key={key}", f"task.judge.key_env={key}-", f"+token={key}"])
        )
    elif kind == "addresses":
        where = chance.choice(["task.judge.base_url", "task.evaluation.win_rate.judge.base_url"])
        url = chance.choice([f"http://me:{key}@localhost:1/v1", f"http://localhost:1/v1?api_key={key}", f"http://h/#{key}"])
        words += [f"{where}={url}", f"{where.replace('base_url', 'kind')}=server", f"{where.replace('base_url', 'model')}=m"]
    elif kind == "names":
        words.append(chance.choice([f"task.model.name=hf_{key}", f"task.prompts.source=https://u:{key}@h/x.jsonl",
                                    f"task.sft.source=hf:me/hf_{key}", f"task.judge.model=sk-{key}"]))  # fmt: skip
    elif kind == "failures":
        words += ["algorithm.lr=1e30", f"task.judge.model=sk-{key}"]
    ended = bench.start(place, words, environment=environment).end()
    trial = Trial({kind: 1})
    trial.wrong += ended.wrong(0, 2)
    planted = None  # a card that somebody else has put a key into; it is refused, and stays
    if kind == "cards" and not ended.status:
        planted = place.card()
        card = json.loads(place.card().read_text())
        card["command"] += f" --api_key {key}"
        card["config"]["note"] = f"password={key}"
        planted.write_text(json.dumps(card))
        for typed in (["rescore", "--all", str(place.card()), "--store", str(place.store)], ["board", "--results", "results"],
                      ["verify", str(place.card()), "--store", str(place.store)]):  # fmt: skip
            ended = bench.do(place, *typed)
            trial.wrong += [f"{typed[0]} says the key"] if key in ended.out + ended.err else []
    trial.wrong += ["the key is printed"] if key in ended.out + ended.err else []
    files = [file for file in place.home.rglob("*") if file.is_file() and file != planted]
    held = [file for file in files if key.encode() in file.read_bytes()]
    trial.wrong += [f"{file.relative_to(place.home)} has the key" for file in held]
    trial.wrong = [f"{kind}: {line}" for line in trial.wrong]
    return trial
