"""Print the device and the versions as JSON; exits with 2 where there is no CUDA device."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata

import torch

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    about = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    if sys.argv[1] == "cpu":
        print(json.dumps({"device": "cpu", "card": "cpu", "memory_gib": None, "versions": about}))
        return
    if not torch.cuda.is_available():
        raise SystemExit(2)
    card = torch.cuda.get_device_properties(0)
    about |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    memory = round(card.total_memory / 2**30, 1)
    print(json.dumps({"device": "cuda", "card": card.name, "memory_gib": memory, "versions": about}))


if __name__ == "__main__":
    main()
