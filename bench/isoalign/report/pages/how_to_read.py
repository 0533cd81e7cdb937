"""How a board's page is read, in words."""

from isoalign.core.objective import Objective
from isoalign.stats.comparisons import MANY
from isoalign.stats.equal_kl import GRID

_HOW_TO_READ = """\
- Values are means over seeds, with 95% intervals. With one seed the interval is the card's, that of the gain a paired
  difference's: it covers the prompts, not the training. With more, prompts are resampled, the same ones for all seeds,
  and the spread of the seeds is added by Student's t. For metrics that are not means over prompts, the variance of the
  prompts (averaged over seeds, not divided by their number, since all seeds answer the same prompts) and that of the
  seeds (with t) are added.
{gain}
- Above drift: the gain at the end of the run's curves minus that of a control for drift at the same KL, with the share of
  the gain that the control reaches too. A control was trained without a preference; each draw of its random rewards or
  verdicts counts as a seed does. Of several controls it is the one that leaves least. *Not measured*: fewer than two draws
  of a control passed that KL, or more than a tenth of those that did are lost between two snapshots. A row is above drift if
  it gains more than each control on average, after Benjamini and Hochberg's correction over all rows, and than each draw
  that is known there. One that is not shown to be has a note; where a control is *unknown* nothing is said.
- Area: the mean gain over √KL along the run's curves, from {start:g} nats to the KL of the grid that nine in ten methods
  reach, with first and last rank by it: what a KL buys on the way, wherever the budget ends. *Not measured*: on a part of
  the way.
- Methods are compared in pairs, prompt by prompt. Holm's correction keeps the chance of any false difference on the board
  at about 5%; with 10,000 resamples no p is below .0002 before it, and of more than 25 pairs there are 400 resamples for each.
  p allows for the few seeds of a method that lie close together by chance. A rank is a span, from 1 + the number of methods
  that are shown to be better to the number of methods minus those shown to be worse; together the spans contain all true
  ranks with about 95%. One seed says nothing of its method: none of its pairs is decided. The smallest resolvable
  difference is found with a power of 80% at the strictest step of Holm's correction, mean over the pairs.
- If a method has no values by prompt (older cards), a method is shown to be better if the intervals of {gain_noun} do not
  overlap.
- The reference, the control, completions from outside isoalign (unmetered: not held to a budget) and methods that train
  nothing and pay for every answer instead (inference) have no rank; nor has a row that failed a gate or was scored by an
  outdated metric. The last two are listed last.
- Pareto: in which share of resamples, of prompts and seeds, no other row has both {better} and less exact KL.
- ↑ higher is better, ↓ lower is better. Rows of different budgets, bases, prompts or scorers never share a table."""


_MANY = f"""\
- Of more than {MANY} pairs, intervals and p are what 400 resamples for each would show on average (a saddlepoint
  approximation)."""


def how_to_read(objective: Objective, many: bool = False) -> str:
    """What the page's tables mean; ``many``: with so many pairs that p is not counted."""
    gain = "- Reduction is mean toxicity of the SFT base minus that of the method, paired on the same prompts."
    gain += " Rows are sorted by it."
    if not objective.is_toxicity:
        gain = (
            f"- {objective.gain_heading} is how far the mean moved from the SFT base's in the direction that is better\n"
            f"  ({objective.direction}), paired on the same prompts. Rows are sorted by it."
        )
    told = _HOW_TO_READ.format(gain=gain, gain_noun=objective.gain_noun, better=objective.better, start=GRID[0])
    return f"{told}\n{_MANY}" if many else told
