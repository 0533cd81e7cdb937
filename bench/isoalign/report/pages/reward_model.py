"""A reward model's card as a page, as lines for a terminal, and its reliability as an SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isoalign.core.display import clean, count, escape, grid, scientific
from isoalign.core.records import Estimate
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import COLUMNS, Column
from isoalign.report.charts.frontier import picture
from isoalign.report.charts.reliability import draw_bins

if TYPE_CHECKING:
    from isoalign.evaluation.reward_model_card import Group, RewardCard

_ANY = Column("", "")
_BLUE = "#0072B2"
NOISY, CLEAN = "rm_accuracy", "rm_accuracy_clean"


def described(card: RewardCard) -> str:
    """What kind of reward model it is."""
    reward, shaping, model = (card.settings[name] for name in ("reward", "shaping", "model"))
    kind = f"a scalar head on {reward['base'] or 'the SFT base, ' + model['name']}"
    if reward["classifier"]:
        kind = f'the "not toxic" logit of {reward["classifier"]}'
    if shaping["members"] > 1:
        kind = f"{shaping['members']} models combined by {shaping['combine']}, each {kind}"
    read = ", ".join(f"{count(n)} {source}" for source, n in card.bill["verdicts"].items())
    return f"{kind}; verdicts read: {read or 'none'}"


def cap(card: RewardCard) -> str:
    """The most that an accuracy on noisy verdicts can be."""
    if card.unflipped is None:
        return "How often these verdicts are wrong isn't known, so neither is the ceiling of an accuracy on them."
    here = cell(card.unflipped, _ANY)
    if card.ceiling is None:
        return f"Whoever knows the truth agrees with {here} of these verdicts: that is the ceiling."
    return f"The ceiling on noisy verdicts is 1 − noise = {card.ceiling:.3f}; of these, noise left {here} as they were."


# -- the page ------------------------------------------------------------------------------------------------------------


def markdown(card: RewardCard, chart_file: str) -> str:
    """The card as a Markdown page; ``chart_file`` lies beside it."""
    warned = "\n".join(f"- **{escape(line)}**" for line in card.warnings) or "None of the rules of thumb was broken."
    parts = [
        f"# Reward model: {escape(card.task)}, by the {escape(card.by)}'s verdicts",
        f"This is {escape(described(card))}. Key {escape(card.key)}, made by:",
        f"    {clean(card.command)}",  # a block of code: nothing in it is markup
        "## Warnings", warned,
        "## Accuracy on held-out verdicts", _held_out(card), cap(card), VERDICTS, _table(card, FIGURES),
        "## Calibration", *_calibration(card, chart_file),
    ]  # fmt: skip
    parts += ["## Members of the ensemble", _members(card)] if card.members else []
    parts += ["## Pairs that people scored", _human(card), seen(card), *map(escape, card.notes)]
    return "\n\n".join([*parts, "## Bill", *_bill(card), "## Behind this card", _behind(card)]) + "\n"


def _held_out(card: RewardCard) -> str:
    rows = [
        [escape(name), cell(found[NOISY].estimate, _ANY), cell(found[CLEAN].estimate, _ANY), *_sizes(found[NOISY])]
        for name, found in card.groups.items()
    ]
    return grid(["Prompts", "Noisy verdicts", "Clean verdicts", "Pairs", "Prompts"], rows)


def _sizes(group: Group) -> list[str]:
    return [count(group.estimate.n), count(group.clusters)]


VERDICTS = """\
Held-out verdicts are the annotator's, whoever taught the model. Of a source with few prompts read the numbers of pairs and
prompts first: equal bounds say that its prompts did not differ, not that the figure is exact."""
FIGURES = (
    ("rm_agreement", "Agreement with the evaluation scorer on the same pairs"),
    ("rm_accuracy_on_policy", "On-policy: draws of the SFT base that the scorer tells apart"),
    ("rm_saturated", "Share of held-out pairs on which it is all but sure (within .01)"),
    ("proxy_reward", "Mean reward of the SFT base's samples"),
    ("reward_spread", "Standard deviation of those rewards"),
)
SURENESS = (
    ("rm_temperature", "Temperature, fitted on validation pairs"),
    ("rm_brier", "Brier score"),
    ("rm_nll", "Negative log-likelihood, nats"),
    ("rm_ece", "Expected calibration error"),
)


def _table(card: RewardCard, wanted: tuple[tuple[str, str], ...]) -> str:
    rows = [[title, *_row(card.metrics.get(name), name)] for name, title in wanted]
    return grid(["Figure", "Value [95%]", "Pairs or prompts"], rows)


def _row(estimate: Estimate | None, name: str) -> list[str]:
    return [cell(estimate, COLUMNS.get(name, _ANY)), count(estimate.n if estimate else None)]


def _calibration(card: RewardCard, chart_file: str) -> list[str]:
    if not card.reliability:
        return ["There is none: a temperature is fitted on validation pairs, which are the ones judged here."]
    upper = [b for b in card.reliability if b["low"] >= 0.5]
    rows = [
        [f"{b['low']:.1f} to {b['high']:.1f}", *("–" if b[of] is None else f"{b[of]:.3f}" for of in ("confidence", "right")),
         count(b["count"])]
        for b in upper
    ]  # fmt: skip
    table = grid(["Confidence", "Mean of it", "Share right", "Pairs"], rows)
    return [_table(card, SURENESS), f"![How often it was right against how sure it was]({chart_file})", table]


def _members(card: RewardCard) -> str:
    if card.members is None:
        return ""
    rows = [[f"Accuracy of member {i}, noisy verdicts", cell(each, _ANY)] for i, each in enumerate(card.members.accuracy, 1)]
    rows += [["Standard deviation of their margins, mean over pairs", cell(card.members.disagreement, _ANY)]]
    rows += [["Share of pairs on which all prefer the same answer", cell(card.members.unanimous, _ANY)]]
    return grid(["On the held-out pairs", "Value [95%]"], rows)


def _human(card: RewardCard) -> str:
    found = card.human
    rows = [["all", cell(found.overall.estimate, _ANY), *_sizes(found.overall)]]
    rows += [["all, each objective once", cell(found.by_objective, _ANY), "", count(found.by_objective.n)]]
    rows += [[escape(name), cell(each.estimate, _ANY), *_sizes(each)] for name, each in found.categories.items()]
    return grid(["Harm", "Accuracy [95% over objectives]", "Pairs", "Objectives"], rows)


def seen(card: RewardCard) -> str:
    """How much of the human-scored texts the reward model saw."""
    cut = card.human.cut
    return (
        f"{count(cut.answers_cut)} of {count(cut.answers)} answers and {count(cut.objectives_cut)} of {count(cut.objectives)} "
        f"objectives are cut; {count(card.human.alike)} of {count(card.human.overall.estimate.n)} pairs read alike after that."
    )


def _bill(card: RewardCard) -> list[str]:
    bill = card.bill
    rows = [[escape(item["role"]), escape(item["kind"]), scientific(item["flops"])] for item in bill["items"]]
    told = f"{scientific(bill['flops'])} FLOP at a method's first call, {scientific(bill['training'])} of it for training; "
    verdicts = ", ".join(f"{count(n)} {escape(source)}" for source, n in bill["verdicts"].items()) or "none"
    told += f"verdicts: {verdicts}; {bill['seconds']:.1f} s of training."
    return [told, grid(["Role", "Kind", "FLOP"], rows, left=(0, 1))]


def _behind(card: RewardCard) -> str:
    return grid(["Stage", "Key"], [[escape(name), escape(key)] for name, key in card.parents.items()], left=(0, 1))


# -- terminal and chart ----------------------------------------------------------------------------------------------------


def terminal(card: RewardCard) -> str:
    """The card in a few lines."""
    overall, human, bill = card.groups.get("all", {}), card.human, card.bill
    rows = [
        ("accuracy, noisy verdicts", cell(overall[NOISY].estimate, _ANY) + f"  of {count(overall[NOISY].estimate.n)} pairs"),
        ("accuracy, clean verdicts", cell(overall[CLEAN].estimate, _ANY)),
    ] if overall else []  # fmt: skip
    rows += [("ceiling, noisy verdicts", "–" if card.ceiling is None else f"{card.ceiling:.3f}")]
    names = {"rm_agreement": "agreement with the scorer", "rm_accuracy_on_policy": "on-policy accuracy", "rm_ece": "ECE",
             "rm_temperature": "temperature"}  # fmt: skip
    rows += [(title, cell(card.metrics.get(name), _ANY)) for name, title in names.items()]
    if card.members:
        rows += [("members' disagreement", cell(card.members.disagreement, _ANY)),
                 ("members unanimous", cell(card.members.unanimous, _ANY))]  # fmt: skip
    of = f"  of {count(human.overall.estimate.n)} pairs, {count(human.overall.clusters)} objectives"
    rows += [("human-scored pairs", cell(human.overall.estimate, _ANY) + of)]
    rows += [("bill", f"{scientific(bill['flops'])} FLOP, {scientific(bill['training'])} of it training")]
    lines = [f"{card.task}: the {card.by}'s reward model, {described(card)}"]
    lines += [f"  {title:<26} {value}" for title, value in rows]
    lines += [f"  warning: {line}" for line in card.warnings]
    return "\n".join(map(_one_line, lines))


def _one_line(line: str) -> str:
    """Cleaned, its indent kept."""
    return "  " * line.startswith("  ") + clean(line)


def chart(card: RewardCard) -> bytes | None:
    """Its reliability as an SVG; None without a calibration."""
    if not card.reliability:
        return None

    def draw(figure: Any) -> None:
        name = f"{clean(card.by)}'s, key {clean(card.key[:8])}"
        draw_bins(figure, "Is the reward model as sure as it is right?", clean(card.task), [(_BLUE, (name, card.reliability))])

    return picture(draw, (7, 4.6))
