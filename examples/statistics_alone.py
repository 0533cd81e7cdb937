"""The statistics alone, for scores of one's own: paired comparison over seeds and prompts, Holm, ranks, intervals."""

import numpy as np

from isoalign import stats

# Scores of three methods on the same 200 prompts, three training seeds each; lower is better. B is better than A by .03,
# C is A under another name.
rng = np.random.default_rng(0)
prompts = [f"p{number}" for number in range(200)]
difficulty = rng.beta(1, 6, len(prompts))


def seeds(shift: float) -> list[dict[str, float]]:
    """Prompt to score, one mapping for each seed: the prompt's difficulty, the method, the seed, the draw."""
    runs = [difficulty + shift + rng.normal(0, 0.003) + rng.normal(0, 0.05, len(prompts)) for _ in range(3)]
    return [dict(zip(prompts, run.tolist(), strict=True)) for run in runs]


methods = {"A": seeds(0.0), "B": seeds(-0.03), "C": seeds(0.0)}

for name, runs in methods.items():
    mean = stats.hierarchical(runs)
    print(f"{name}: {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]")

# Paired: what makes a prompt hard cancels, so differences are known far better than means.
found = stats.compare(methods)
for (first, second), difference in found.items():
    verdict = "told apart" if difference.resolved else "not told apart"
    print(f"{first} - {second}: {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]  "
          f"p {difference.p:.4f}, after Holm's correction {difference.p_holm:.4f}: {verdict}")  # fmt: skip
print(f"smallest difference that could be resolved: {stats.resolvable(found.values()):.3f}")


def better(one: str, other: str) -> bool:
    """Whether one is shown to be lower than the other."""
    pair, sign = ((one, other), 1) if (one, other) in found else ((other, one), -1)
    return found[pair].resolved and sign * (found[pair].value or 0) < 0


for name, (low, high) in stats.ranks(list(methods), better).items():
    print(f"rank of {name}: {low} to {high}")

print("Holm on p-values from anywhere:", stats.holm([0.01, 0.04, 0.03]))
