"""The card of a reward model: as a Markdown page, as text for a terminal, and its reliability chart."""

from __future__ import annotations

from typing import Any

from isoalign.core.display import clean, count, escape, grid, scientific
from isoalign.core.records import Estimate
from isoalign.evaluation.reward_model_card import Group, RewardCard
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import metric
from isoalign.report.charts.looks import PALETTE, picture
from isoalign.report.charts.reliability import draw_bins

NOISY, CLEAN = "rm_accuracy", "rm_accuracy_clean"


def description(card: RewardCard) -> str:
    """What kind of reward model it is, and which verdicts it was trained on."""
    reward, shaping, model = (card.settings[name] for name in ("reward", "shaping", "model"))
    kind = f"a scalar head on {reward['base'] or 'the SFT base, ' + model['name']}"
    if reward["classifier"]:
        kind = f'the "not toxic" logit of {reward["classifier"]}'
    if reward.get("model"):
        kind = f"the reward model {reward['model']}, trained elsewhere, whose training is not billed"
    if shaping["members"] > 1:
        kind = f"{shaping['members']} models combined by {shaping['combine']}, each {kind}"
    read = ", ".join(f"{count(n)} {source}" for source, n in card.bill["verdicts"].items())
    return f"{kind}; verdicts read: {read or 'none'}"


def _spent_on(card: RewardCard) -> str:
    return "for mean and deviation" if card.settings["reward"].get("model") else "for training"


def accuracy_ceiling(card: RewardCard) -> str:
    """The largest possible accuracy on noisy verdicts."""
    if card.unflipped is None:
        return "How often these verdicts are wrong is unknown, and so is the ceiling of the accuracy on them."
    here = cell(card.unflipped)
    if card.ceiling is None:
        return f"The ceiling is the share of these verdicts that noise left unchanged: {here}."
    return f"The ceiling on noisy verdicts is 1 − noise = {card.ceiling:.3f}; noise left {here} of these unchanged."


# -- the page ------------------------------------------------------------------------------------------------------------


def reward_page(card: RewardCard, chart_file: str) -> str:
    """The card as a Markdown page; ``chart_file``: the name of the chart beside it."""
    warnings = "\n".join(f"- **{escape(line)}**" for line in card.warnings) or "None."
    parts = [
        f"# Reward model: {escape(card.task)}, by the {escape(card.by)}'s verdicts",
        f"This is {escape(description(card))}. Key {escape(card.key)}, made by:",
        f"    {clean(card.command)}",  # a block of code, in which nothing is markup
        "## Warnings", warnings,
        "## Accuracy on held-out verdicts", _held_out(card), accuracy_ceiling(card), VERDICTS, _table(card, HEALTH),
        "## Calibration", *_calibration(card, chart_file),
    ]  # fmt: skip
    parts += ["## Members of the ensemble", _members(card)] if card.members else []
    parts += ["## Pairs that people scored", _human(card), cut_phrase(card), *map(escape, card.notes)]
    return "\n\n".join([*parts, "## Bill", *_bill(card), "## Behind this card", _behind(card)]) + "\n"


def _held_out(card: RewardCard) -> str:
    rows = [
        [escape(name), cell(group[NOISY].estimate), cell(group[CLEAN].estimate), *_sizes(group[NOISY])]
        for name, group in card.groups.items()
    ]
    return grid(["Prompts", "Noisy verdicts", "Clean verdicts", "Pairs", "Prompts"], rows)


def _sizes(group: Group) -> list[str]:
    return [count(group.estimate.n), count(group.clusters)]


VERDICTS = """\
Held-out verdicts are the annotator's, whatever verdicts the model was trained on. For a source with few prompts read the
numbers of pairs and prompts first: equal bounds mean that its prompts did not differ, not that the value is exact."""
HEALTH = (
    ("rm_agreement", "Agreement with the evaluation scorer on the same pairs"),
    ("rm_accuracy_on_policy", "On-policy: pairs of draws of the SFT base with different scores"),
    ("rm_saturated", "Share of held-out pairs with a probability within .01 of 0 or 1"),
    ("proxy_reward", "Mean reward of the SFT base's samples"),
    ("reward_spread", "Standard deviation of those rewards"),
)
CALIBRATION = (
    ("rm_temperature", "Temperature, fitted on validation pairs"),
    ("rm_brier", "Brier score"),
    ("rm_nll", "Negative log-likelihood, nats"),
    ("rm_ece", "Expected calibration error"),
)


def _table(card: RewardCard, wanted: tuple[tuple[str, str], ...]) -> str:
    rows = [[title, *_row(card.metrics.get(name), name)] for name, title in wanted]
    return grid(["Metric", "Value [95%]", "Pairs or prompts"], rows)


def _row(estimate: Estimate | None, name: str) -> list[str]:
    return [cell(estimate, metric(name).digits), count(estimate.n if estimate else None)]


def _calibration(card: RewardCard, chart_file: str) -> list[str]:
    if not card.reliability:
        return ["None: the temperature is fitted on validation pairs, which are the evaluation pairs here."]
    upper = [b for b in card.reliability if b["low"] >= 0.5]
    means = [["–" if mean is None else f"{mean:.3f}" for mean in (b["confidence"], b["right"])] for b in upper]
    rows = [[f"{b['low']:.1f} to {b['high']:.1f}", *own, count(b["count"])] for b, own in zip(upper, means, strict=True)]
    table = grid(["Confidence", "Mean confidence", "Share right", "Pairs"], rows)
    return [_table(card, CALIBRATION), f"![Share of right preferences against their probability]({chart_file})", table]


def _members(card: RewardCard) -> str:
    if card.members is None:
        return ""
    rows = [[f"Accuracy of member {i}, noisy verdicts", cell(each)] for i, each in enumerate(card.members.accuracy, 1)]
    rows += [["Standard deviation of their margins, mean over pairs", cell(card.members.disagreement)]]
    rows += [["Share of pairs on which all prefer the same answer", cell(card.members.unanimous)]]
    return grid(["On the held-out pairs", "Value [95%]"], rows)


def _human(card: RewardCard) -> str:
    human = card.human
    rows = [["all", cell(human.overall.estimate), *_sizes(human.overall)]]
    rows += [["all, each objective once", cell(human.by_objective), "", count(human.by_objective.n)]]
    rows += [[escape(name), cell(each.estimate), *_sizes(each)] for name, each in human.categories.items()]
    return grid(["Harm", "Accuracy [95% over objectives]", "Pairs", "Objectives"], rows)


def cut_phrase(card: RewardCard) -> str:
    """How much of the human-scored texts was cut for the reward model."""
    cut = card.human.cut
    return (
        f"{count(cut.answers_cut)} of {count(cut.answers)} answers and {count(cut.objectives_cut)} of {count(cut.objectives)} "
        f"objectives are cut; {count(card.human.alike)} of {count(card.human.overall.estimate.n)} pairs are equal after that."
    )


def _bill(card: RewardCard) -> list[str]:
    bill = card.bill
    rows = [[escape(item["role"]), escape(item["kind"]), scientific(item["flops"])] for item in bill["items"]]
    spent = f"{scientific(bill['flops'])} FLOP at a method's first call, {scientific(bill['training'])} of it "
    spent += f"{_spent_on(card)}; "
    verdicts = ", ".join(f"{count(n)} {escape(source)}" for source, n in bill["verdicts"].items()) or "none"
    spent += f"verdicts: {verdicts}; {bill['seconds']:.1f} s of training."
    return [spent, grid(["Role", "Kind", "FLOP"], rows, left=(0, 1))]


def _behind(card: RewardCard) -> str:
    return grid(["Stage", "Key"], [[escape(name), escape(key)] for name, key in card.parents.items()], left=(0, 1))


# -- terminal and chart ----------------------------------------------------------------------------------------------------


def reward_text(card: RewardCard) -> str:
    """The card in a few lines for a terminal."""
    overall, human, bill = card.groups.get("all", {}), card.human, card.bill
    rows = [
        ("accuracy, noisy verdicts", cell(overall[NOISY].estimate) + f"  of {count(overall[NOISY].estimate.n)} pairs"),
        ("accuracy, clean verdicts", cell(overall[CLEAN].estimate)),
    ] if overall else []  # fmt: skip
    rows += [("ceiling, noisy verdicts", "–" if card.ceiling is None else f"{card.ceiling:.3f}")]
    names = {"rm_agreement": "agreement with the scorer", "rm_accuracy_on_policy": "on-policy accuracy", "rm_ece": "ECE",
             "rm_temperature": "temperature"}  # fmt: skip
    rows += [(title, cell(card.metrics.get(name))) for name, title in names.items()]
    if card.members:
        rows += [("members' disagreement", cell(card.members.disagreement)),
                 ("members unanimous", cell(card.members.unanimous))]  # fmt: skip
    of = f"  of {count(human.overall.estimate.n)} pairs, {count(human.overall.clusters)} objectives"
    rows += [("human-scored pairs", cell(human.overall.estimate) + of)]
    rows += [("bill", f"{scientific(bill['flops'])} FLOP, {scientific(bill['training'])} of it {_spent_on(card)}")]
    lines = [f"{card.task}: the {card.by}'s reward model, {description(card)}"]
    lines += [f"  {title:<26} {value}" for title, value in rows]
    lines += [f"  warning: {line}" for line in card.warnings]
    return "\n".join(map(_one_line, lines))


def _one_line(line: str) -> str:
    """The line cleaned, with its indent."""
    return "  " * line.startswith("  ") + clean(line)


def reward_chart(card: RewardCard) -> bytes | None:
    """The reliability chart as an SVG; None without a calibration."""
    if not card.reliability:
        return None

    def draw(figure: Any) -> None:
        name = f"{clean(card.by)}'s, key {clean(card.key[:8])}"
        draw_bins(figure, "Is the reward model calibrated?", clean(card.task), [(PALETTE[0], (name, card.reliability))])

    return picture(draw, (7, 4.6))
