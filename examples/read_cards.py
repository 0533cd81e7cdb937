"""Read published result cards: what one run says, and how two methods compare prompt by prompt. No torch, no network."""

from pathlib import Path

from isoalign.evaluation.card import read_cards
from isoalign.report import leaderboard
from isoalign.report.compare import compare_methods

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "nano"

cards = read_cards(PUBLISHED)
by_method = {name: [card for card in cards if card.algorithm == name] for name in {card.algorithm for card in cards}}

# One card is one run: what was spent, what came of it, what speaks against it.
card = by_method["ppo"][0]
print(f"{card.algorithm}, seed {card.seed}, on {card.task}: made by `{card.command}`")
print(f"spent {card.spent['flops']:.3g} of {card.budget['flops']:.3g} FLOP in {card.spent['steps']} steps, of which")
for role in sorted({item["role"] for item in card.spent["items"]}):
    flops = sum(item["flops"] for item in card.spent["items"] if item["role"] == role)
    print(f"  {role:<9} {flops / card.spent['flops']:6.1%}")
for name in ("toxicity_reduction", "kl", "perplexity", "distinct_2"):
    figure = card.metrics[name]
    print(f"{name:<18} {figure.value:8.3f}  95% interval [{figure.low:.3f}, {figure.high:.3f}] over {figure.n} prompts")
print("flags:", "; ".join(map(str, card.flags)) or "none")

# Two methods, three seeds each, on the same prompts: every metric, with a verdict.
print(compare_methods(by_method["ppo"], by_method["dpo"]))

# The board of a few methods. A rank is the span of ranks that the paired comparisons leave open.
chosen = [card for name in ("kto", "dpo", "ppo", "rlaif", "sft_chosen", "sft") for card in by_method[name]]
print(leaderboard.build_board(chosen).terminal(width=100))
