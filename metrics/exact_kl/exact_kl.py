"""``evaluate.load("metrics/exact_kl")``: KL(policy || base) of each completion in nats, its mean over prompts and by token."""

from isoalign.evaluation import evaluate_modules


class ExactKL(evaluate_modules.MODULES["ExactKL"]):
    """The module of isoalign under its own name."""
