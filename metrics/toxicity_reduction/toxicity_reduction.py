"""``evaluate.load("metrics/toxicity_reduction")``: mean score of references minus that of predictions."""

from isoalign.evaluation import evaluate_modules


class ToxicityReduction(evaluate_modules.MODULES["ToxicityReduction"]):
    """The module of isoalign under its own name."""
