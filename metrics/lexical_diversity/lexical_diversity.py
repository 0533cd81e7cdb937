"""``evaluate.load("metrics/lexical_diversity")``: distinct-n, EAD and self-BLEU, by prompt and across prompts."""

from isoalign.evaluation import evaluate_modules


class LexicalDiversity(evaluate_modules.MODULES["LexicalDiversity"]):
    """The module of isoalign under its own name."""
