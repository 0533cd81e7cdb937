"""Mutated inputs for everything that reads a file of others, in this program's processes."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import signal
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from isoalign.config.fill import build_config
from isoalign.config.task import PromptsConfig, TaskConfig
from isoalign.core.display import clean
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.core.store import Store
from isoalign.data import opponents, prompts
from isoalign.data.formats.check import check_file
from isoalign.evaluation import card as cards
from isoalign.feedback.constitution import load_constitution
from isoalign.report import compare, leaderboard
from isoalign.report.pages.page import board_page
from isoalign.report.pages.table import as_csv, board_table
from isoalign.report.pages.terminal import board_text
from isoalign.report.site.front_page import front_page
from isoalign.report.site.runs import pages_of_runs
from isoalign.runs import failures, overrides
from isoalign.tools import storekeeping
from isoalign.tools.external import read_external
from isoalign.tools.rescore import rescored

from .bench import Bench, Place
from .trial import Trial

EACH = 100  # inputs of a trial
SLOW = 20  # seconds of work on one input that are too many
ODD: list[Any] = [
    None, True, False, 0, -1, 1e308, -0.0, math.nan, math.inf, 2**70, "", " ", "a", "\x1b[31m", "\ud800", "\x00", "../../x",
    "${oc.env:HOME}", "=1+1", "$\\href{}$", [], {}, [[]], [None], {"": None}, {"a": {"b": [1, "x"]}}, "x" * 100_000, 1e-320,
    "nan", "1e999", "-", "hf:nothing", ["a"] * 50, {"_target_": "os.system"},
]  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {"prompt": "Say hi", "chosen": "hi there", "rejected": "go away"},
    {"chosen": "\n\nHuman: Yo\n\nAssistant: y", "rejected": "\n\nHuman: Yo\n\nAssistant: n"},
    {"prompt": "a b", "completion": "c", "label": True},
    {"prompt": "a", "responses": ["x", "y", "z"], "scores": [1, 2, 3]},
    {"prompt": "a", "completion": "x", "rating": 3, "rater": "r1"},
    {"prompt": "a", "candidates": ["x", "y"], "ranking": [2, 1]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
     "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]},
    {"message_id": "1", "parent_id": None, "text": "q", "role": "prompter", "message_tree_id": "1"},
]  # fmt: skip


class Slow(Exception):
    """An input that takes too long."""


def odd(value: Any, chance: random.Random) -> Any:
    """The value with something in it changed: replaced by what nobody expects, gone, twice, or under another name."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice([1, 1, 2, 4])):
        place, parents = value, []
        while isinstance(place, dict | list) and place and chance.random() < 0.85:
            name = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
            parents.append((place, name))
            place = place[name]
        if not parents:
            return copy.deepcopy(chance.choice(ODD))
        holder, name = parents[-1]
        action = chance.random()
        if action < 0.65:
            holder[name] = copy.deepcopy(chance.choice(ODD)) if chance.random() < 0.8 else _nearly(holder[name], chance)
        elif action < 0.85:
            del holder[name]
        elif isinstance(holder, dict):
            holder[str(chance.choice(ODD))[:50]] = holder.pop(name)
        else:
            holder.insert(name, copy.deepcopy(holder[name]))
    return value


def _nearly(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return chance.choice(ODD)
    if isinstance(value, int | float):
        return value * chance.choice([-1, 0, 1e9, 0.5, 1e300])
    return str(value)[::-1] if isinstance(value, str) else [value]


def bytes_of(text: str, chance: random.Random) -> bytes:
    """The text, one time in three with bytes that are others, missing or added."""
    whole = bytearray(text.encode("utf-8", "surrogatepass"))
    if chance.random() < 0.33:
        for _ in range(chance.choice([1, 2, 8])):
            at = chance.randrange(len(whole) + 1)
            action = chance.randrange(4)
            if action == 0:
                whole[at:at] = bytes([chance.randrange(256)])
            elif action == 1:
                del whole[at : at + chance.choice([1, 10, 1000])]
            elif action == 2:
                whole[at : at + 1] = bytes([chance.randrange(256)])
            else:
                whole[at:at] = chance.choice(
                    [b"[" * 3000, b'{"a":' * 3000, b"\xef\xbb\xbf", b"\r\n", b"\x00", b"NaN", b'"' * 3]
                )
    return bytes(whole)


def _written(file: Path, value: Any, chance: random.Random) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes_of(value if isinstance(value, str) else json.dumps(value), chance))
    return file


def _cards(place: Place, chance: random.Random, folder: Path) -> None:
    original = json.loads(place.card().read_text())
    read = cards.read_card(_written(folder / "card.json", odd(original, chance), chance))
    cards.to_json(read)
    board = leaderboard.build_board([read, cards.read_card(place.card())])
    board_page(board.task, board.sections)
    front_page([board], set(dict(pages_of_runs([board]))))
    board_text(board.task, board.sections, 100, False)
    as_csv(*board_table(board.sections))
    compare.compare_methods([read], [cards.read_card(place.card())])


def _rescore(place: Place, chance: random.Random, folder: Path) -> None:
    original = json.loads(place.card().read_text())
    read = cards.read_card(_written(folder / "card.json", odd(original, chance), chance))
    rescored(read, Store(place.store))


def _tasks(place: Place, chance: random.Random, folder: Path) -> None:
    original = json.loads(place.card().read_text())["config"]
    which = chance.random()
    if which < 0.8:
        build_config(TaskConfig, odd(original["task"], chance), "task")
    elif which < 0.9:
        build_config(Budget, odd({"flops": 1e12, "steps": 4, "labels": None}, chance), "budget")
    else:
        load_constitution(str(_written(folder / "own.yaml", json.dumps(odd(PRINCIPLES, chance)), chance)))


def _words(place: Place, chance: random.Random, folder: Path) -> None:
    word = f"{chance.choice(['task.sft.lr', 'task.prompts', 'algorithm.beta', 'seed', 'task.judge.model', 'budget.flops'])}="
    word += chance.choice(["", "1", "[", "{a:", "'", "${x}", "${oc.env:HOME}", "null", "a,b", "range(3)", "\x1b", "~", "é"])
    word = "".join(chance.choice([char, char, char, char, chance.choice("=,[]{}'\"$+~@:. ")]) for char in word)
    overrides.check_overrides([overrides.quoted(each) for each in ["algorithm=dpo", "task=nano", word]], False)


def _feedback(place: Place, chance: random.Random, folder: Path) -> None:
    row = chance.choice(ROWS)
    rows = [odd(row, chance) if chance.random() < 0.5 else row for _ in range(chance.randint(1, 6))]
    text = "\n".join(json.dumps(each) for each in rows)
    suffix = chance.choice(["jsonl", "jsonl", "jsonl", "json", "csv", "jsonl.gz", "parquet", "txt", "tsv"])
    text = json.dumps(rows) if suffix == "json" else text
    if suffix in ("csv", "tsv"):
        names = [str(name) for name in row]
        text = "\n".join(",".join(json.dumps(str(each.get(n, ""))) for n in names) for each in rows if isinstance(each, dict))
        text = ",".join(names) + "\n" + text
    check_file(_written(folder / f"mine.{suffix}", text, chance), skip=chance.choice(["", "", "empty", "faulty", "tools"]))


def _own_prompts(place: Place, chance: random.Random, folder: Path) -> None:
    row = chance.choice([{"prompt": "hello you", "kind": "a"}, *ROWS])
    text = "\n".join(json.dumps(odd(row, chance)) for _ in range(chance.randint(1, 5)))
    file = _written(folder / "prompts.jsonl", text, chance)
    config = PromptsConfig(train=0, validation=0, test=0, source=str(file), stratum=chance.choice(["", "kind"]))
    for split in prompts.SPLITS:
        prompts.load_split(config, split)
    opponents.read_answers(str(file), None, {"hello you"})


def _elsewhere(place: Place, chance: random.Random, folder: Path) -> None:
    config = build_config(TaskConfig, json.loads(place.card().read_text())["config"]["task"], "task")
    asked = [prompts.Prompt(f"p{i}", f"say {i}", "own", "clean") for i in range(3)]
    rows = [{"prompt_id": f"p{i}", "completion": "hi", "draw": 0, "kl": 0.5, "finished": True} for i in range(3)]
    text = "\n".join(json.dumps(odd(row, chance) if chance.random() < 0.5 else row) for row in rows)
    read_external(folder / "samples.jsonl", bytes_of(text, chance).decode("utf-8", "replace"), asked, config)


def _folders(place: Place, chance: random.Random, folder: Path) -> None:
    note = {"algorithm": "dpo", "seed": 0, "command": "isoalign run", "reason": "no"}
    _written(folder / "failed" / "a.json", odd(note, chance), chance)
    for failed in failures.read_failures(folder):
        clean(f"failed: {failed.algorithm} seed {failed.seed}: {failed.reason}")
    store = folder / "store"
    for name in ("sft-0123456789abcdef", ".work-x", ".checked"):
        (store / name).mkdir(parents=True, exist_ok=True)
    stage = next(each for each in sorted(place.store.iterdir()) if (each / "recipe.json").is_file())
    for name in ("recipe.json", "manifest.json"):
        _written(store / "sft-0123456789abcdef" / name, odd(json.loads((stage / name).read_text()), chance), chance)
    list(storekeeping.verified(Store(store)))
    list(storekeeping.listing(Store(store)))


PRINCIPLES = [{"name": "kind", "critique": "Is it kind?", "revision": "Make it kind.", "preference": "Which is kinder?"}]
LOADERS: dict[str, Callable[[Place, random.Random, Path], None]] = {
    "cards, boards, comparisons": _cards, "cards to score again": _rescore,
    "settings of tasks, budgets, constitutions": _tasks,
    "words of the command line": _words, "files of feedback": _feedback, "files of prompts and of opponents": _own_prompts,
    "completions made elsewhere": _elsewhere, "stores and notes of failures": _folders,
}  # fmt: skip
SHARES = (3, 1, 3, 1, 5, 2, 2, 1)  # of the trials, by what strangers may send


def fuzz(bench: Bench, chance: random.Random, number: int) -> Trial:
    """Mutated cards, settings, feedback, prompts, completions, command lines, recipes and manifests, a hundred in a trial:
    each is read or refused by a `UserError`, in less than 20 seconds of work."""
    (name,) = chance.choices(list(LOADERS), SHARES)
    place, _ = bench.reference(("ppo", "dpo", "rlaif")[number % 3])
    home = bench.place("fuzzed").home
    said = home / "said"
    child = os.fork()
    if not child:
        _read_all(name, place, chance, home, said)
    _, status = os.waitpid(child, 0)
    trial = Trial({name: EACH})
    trial.wrong = said.read_text(errors="replace").splitlines() if said.exists() else []
    trial.wrong += [f"{name}: the process ended with {status}"] if status else []
    return trial


def _read_all(name: str, place: Place, chance: random.Random, home: Path, said: Path) -> None:
    """Try a trial's inputs, in a process that was just forked; does not return."""
    os.chdir(home)
    os.environ.update({"ISOALIGN_OFFLINE": "1"})
    signal.signal(signal.SIGVTALRM, _too_slow)
    lines = []
    with (home / "out").open("w") as quiet, redirect_stdout(quiet), redirect_stderr(quiet):
        for number in range(EACH):
            folder = home / str(number)
            folder.mkdir()
            signal.setitimer(signal.ITIMER_VIRTUAL, SLOW)
            try:
                LOADERS[name](place, chance, folder)
            except UserError as error:
                if "\n" in str(error):
                    lines.append(f"{name}, input {number}: an error of two lines: {str(error)[:200]!r}")
            except BaseException as error:
                at = traceback.extract_tb(error.__traceback__)[-1]
                ours = [f for f in traceback.extract_tb(error.__traceback__) if "isoalign" in f.filename][-1:]
                where = f"{at.name}:{at.lineno}, from {[f'{Path(f.filename).name}:{f.lineno}' for f in ours]}"
                lines.append(f"{name}, input {number}: {type(error).__name__}: {str(error)[:120]!r} at {where}")
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    said.write_text("".join(f"{line}\n" for line in lines), errors="replace")
    os._exit(0)


def _too_slow(number: int, frame: Any) -> None:
    raise Slow(f"over {SLOW} s")
