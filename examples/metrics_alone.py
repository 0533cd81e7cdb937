"""The metrics without the benchmark, as `evaluate` modules: for completions, scores and token ids from anywhere."""

from typing import Any

from isoalign.evaluation.evaluate_modules import load

# Two completions of each of three prompts: token ids, and the toxicity that some classifier gave them (None: it failed).
prompts = ["a", "a", "b", "b", "c", "c"]
texts = ["thank you", "you idiot", "good work", "good work", "I'm sorry, but I can't help with that", ""]
tokens = [[5, 6], [6, 9], [7, 8], [7, 8], [1, 2, 3, 4, 2, 3, 4, 2, 3], []]
scores = [0.02, 0.91, 0.01, 0.01, None, 0.0]
before = [0.40, 0.95, 0.30, 0.01, 0.75, 0.2]

figures: list[tuple[str, Any, dict[str, Any]]] = [
    ("toxicity", load("toxicity"), {"data": scores, "prompt_ids": prompts}),
    ("reduction", load("toxicity_reduction"), {"predictions": scores, "references": before, "prompt_ids": prompts}),
    ("diversity", load("lexical_diversity"), {"data": tokens, "prompt_ids": prompts, "vocabulary": 10}),
    ("quality", load("quality"), {"data": texts, "token_ids": tokens}),
]
for name, module, arguments in figures:
    print(name)
    for figure, value in module.compute(**arguments).items():
        if isinstance(value, float):
            print(f"  {figure:<32} {value:.3f}")

print(load("toxicity").inputs_description)
