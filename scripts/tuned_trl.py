"""Copy tuned settings of our methods to TRL's trainers, so that a board compares implementations, not settings.

    python scripts/tuned_trl.py nano

For each method with a counterpart, conf/tuned/<task>_<method>.yaml becomes conf/tuned/<task>_trl_<method>.yaml under TRL's
names. `trl_cpo` has no counterpart and is tuned separately.
"""

import argparse
import json
from pathlib import Path

from omegaconf import OmegaConf

from isoalign.core.files import save

NAMES = {
    "dpo": {"beta": "beta", "batch_size": "batch_size", "lr": "lr"},
    "kto": {"beta": "beta", "undesirable_weight": "undesirable_weight", "batch_size": "batch_size", "lr": "lr"},
    "orpo": {"odds_weight": "beta", "lr": "lr"},
    "simpo": {"beta": "beta", "gamma": "simpo_gamma", "lr": "lr"},
    "grpo": {"kl": "beta", "draws": "num_generations", "lr": "lr"},
    "online_dpo": {"beta": "beta", "lr": "lr"},
    "rloo": {"kl": "beta", "draws": "num_generations", "lr": "lr"},
}
TUNED = Path("conf/tuned")


def trl_settings(task: str, method: str) -> str:
    """Content of the tuned file of TRL's trainer."""
    ours = OmegaConf.load(TUNED / f"{task}_{method}.yaml")
    lines = [f"  {NAMES[method][name]}: {value}" for name, value in ours.algorithm.items()]
    head = [
        "# @package _global_",
        f"# python scripts/tuned_trl.py {task}",
        f"tuning: as {method}, {ours.tuning}",
        f"tuned_on: {json.dumps(OmegaConf.to_container(ours.tuned_on))}",
        *([f"tuned_with: {json.dumps(OmegaConf.to_container(ours.tuned_with))}"] if "tuned_with" in ours else []),
        "algorithm:",
    ]
    return "\n".join([*head, *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    task = parser.parse_args().task
    for method in NAMES:
        if (TUNED / f"{task}_{method}.yaml").exists():
            save(TUNED / f"{task}_trl_{method}.yaml", trl_settings(task, method))


if __name__ == "__main__":
    main()
