"""isoalign: same base, same feedback, same compute; only the alignment method differs.

What an algorithm in baselines/ may import stands here.
"""

from bench.adapters import trl
from bench.lab import Lab
from bench.models.language import Outputs
from bench.registry import register
from bench.types import Batch, Labels, Pairs, Prompts, Rollouts, Step

__all__ = ["Batch", "Lab", "Labels", "Outputs", "Pairs", "Prompts", "Rollouts", "Step", "register", "trl"]
