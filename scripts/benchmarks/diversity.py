"""How long the diversity metrics take, and how much memory, at 10,000, 30,000 and 100,000 completions.

Completions of made-up words: 8 draws a prompt, 10 to 30 tokens (20 on average) with Zipf's frequencies over 4,096,
embeddings of 384 numbers. Each size runs in a process of its own, so that peaks do not mix.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace

SIZES = (10_000, 30_000, 100_000)
DRAWS, VOCABULARY, WIDTH = 8, 4096, 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="completions")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return
    print("| completions | values (s) | measure (s) | memory before (GB) | peak (GB) |\n| ---: | ---: | ---: | ---: | ---: |")
    for size in arguments.sizes:
        command = [sys.executable, __file__, "--one", str(size)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        times = f"{found['values']:.1f} | {found['measure']:.1f}"
        print(f"| {size:,} | {times} | {found['before']:.2f} | {found['peak']:.2f} |", flush=True)


def one(size: int) -> dict[str, float]:
    """Seconds of ``values`` and of ``measure`` (which holds the former), and peak memory before and after."""
    import numpy as np

    from isoalign.core.records import Sample
    from isoalign.evaluation.metrics import ScoredSamples, diversity

    rng = np.random.default_rng(0)
    samples = []
    for place, length in enumerate(rng.integers(10, 31, size)):
        ids = (rng.zipf(1.3, length) % VOCABULARY).tolist()
        text, entropy = " ".join(map(str, ids)), 3.0 * len(ids)
        prompt = f"p{place // DRAWS:06d}"
        samples.append(Sample(prompt, place % DRAWS, "", text, ids, None, None, None, False, entropy=entropy))
    unit = rng.standard_normal((size, WIDTH), dtype=np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    scored = ScoredSamples(samples, "none", {"none": [0.0] * size}, embeddings=unit, vocabulary=VOCABULARY)
    scored = replace(scored, base=scored)  # metrics are computed beside the SFT row, which here is the same run
    found = {"before": peak()}
    for name in ("values", "measure"):
        start = time.perf_counter()
        getattr(diversity, name)(scored)
        found[name] = time.perf_counter() - start
    return found | {"peak": peak()}


def peak() -> float:
    """Peak resident memory of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    main()
