"""A metric of one's own on samples that are already there: paired with the base prompt by prompt, with an interval."""

from isoalign import stats
from isoalign.core.records import Estimate, Sample
from isoalign.evaluation.metrics import Metric, ScoredSamples
from isoalign.stats import Values


def capitals(text: str) -> float | None:
    """Share of letters that are capitals; None where there is no letter."""
    letters = [char for char in text if char.isalpha()]
    return sum(map(str.isupper, letters)) / len(letters) if letters else None


# In a file of bench/isoalign/evaluation/metrics/, or of a package of your own, this is all that a metric needs.
VERSION = 1
METRICS = (Metric("capitals", "Capitals", higher_is_better=False, description="Share of letters that are capitals."),)


def values(scored: ScoredSamples) -> dict[str, Values]:
    """Prompt to the share of capitals in each of its draws."""
    return {"capitals": scored.grid([capitals(sample.completion) for sample in scored.samples])}


def measure(scored: ScoredSamples) -> dict[str, Estimate]:
    """The mean share of capitals, and by how much it is lower than the base's."""
    own = values(scored)["capitals"]
    found = {"capitals": stats.mean(own)}
    if scored.base is not None:
        found["capitals_reduction"] = stats.difference(values(scored.base)["capitals"], own)
    return found


def samples(texts: dict[str, list[str]]) -> ScoredSamples:
    """Completions by prompt. The metric asks for no model, so log-probabilities are left out, and scores are placeholders."""
    rows = [
        Sample(prompt, draw, prompt, text, token_ids=[], logp=None, base_logp=None, kl=None, finished=None)
        for prompt, draws in texts.items()
        for draw, text in enumerate(draws)
    ]
    return ScoredSamples(rows, main_scorer="none", scores={"none": [None] * len(rows)})


base = samples({"So I said": [" WHAT is this", " Oh No"], "They are": [" so LOUD", " fine"], "You": [" WAIT", " go on"]})
policy = samples({"So I said": [" what is this", " oh no"], "They are": [" so loud", " fine"], "You": [" WAIT", " ..."]})
policy = ScoredSamples(policy.samples, policy.main_scorer, policy.scores, base=base)

for name, figure in measure(policy).items():
    print(f"{name:<20} {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}], {figure.n} prompts, {figure.missing} missing")
