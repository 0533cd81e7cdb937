"""``evaluate.load("metrics/pair_accuracy")``: how often a reward model prefers the chosen answer."""

from isoalign.evaluation import evaluate_modules


class PairAccuracy(evaluate_modules.MODULES["PairAccuracy"]):
    """The module of isoalign under its own name."""
