"""README and docs/results.md say of the boards what the published cards say: every figure and every sentence with one."""

import json
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import board_to_readme as board
from scripts.findings.__main__ import report
from scripts.findings.arms import Bench

from isoalign import stats
from isoalign.core.records import Card
from isoalign.evaluation.card import read_cards
from isoalign.report.board.ranking import pooled_estimates
from isoalign.report.charts.finding import headline
from isoalign.report.leaderboard import build_board
from isoalign.report.sweeps.sweep_report import sweep_report
from isoalign.report.sweeps.text import sweep_page

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def test_the_boards_in_the_pages_are_those_of_the_published_cards() -> None:
    for page in board.PAGES:
        assert board.filled(page) == (ROOT / page).read_text(encoding="utf-8"), "run scripts/board_to_readme.py"


@pytest.mark.parametrize(
    "page", sorted((ROOT / "results").glob("**/published/*/leaderboard.md")), ids=lambda page: page.parent.name
)
def test_published_boards_are_what_the_cards_give_now(page: Path) -> None:
    made = build_board(read_cards(page.parent)).markdown()
    assert made == page.read_text(encoding="utf-8"), f"isoalign board {page.parent.name} --results {page.parents[1]}"


def test_rows_are_chosen_by_the_rule_that_stands_under_them_and_the_picture_has_the_same() -> None:
    (section,) = board.sections("nano")
    shown = board.chosen(section.rows)
    assert len(shown) < len(section.rows)
    assert [row.name for row in section.rows if row in shown] == [row.name for row in shown]
    names = {row.name for row in shown}
    assert names == {"sft", "sft_chosen", "best_of_n"} | {row.name for row in section.rows if row.algorithm in board.MAIN}
    assert {"ppo", "dpo", "kto", "rlaif"} < names
    drawn = (ROOT / "results/published/nano" / f"{board.picture('nano')}.svg").read_text(encoding="utf-8")
    labels = set(re.findall(r">([\w ()=,]+)</text>", drawn))
    assert {row.name for row in section.rows if row not in shown and not row.name.startswith("trl_")} & labels <= {
        row.name for row in section.rows if row.pareto
    }, "in the frontier beside its line"
    assert {"ppo", "dpo", "kto", "rlaif"} <= labels


def test_ranks_are_shown_only_where_they_rest_on_three_seeds() -> None:
    (nano,) = board.sections("nano")
    two = [card for card in read_cards(ROOT / "results" / "published" / "nano") if card.algorithm != "dpo" or card.seed < 2]
    assert "Rank" in board.table(nano)
    assert "Rank" not in board.table(build_board(two).sections[0])


class Published:
    """The cards of the published nano board and what it makes of them."""

    def __init__(self) -> None:
        (self.section,) = board.sections("nano")
        self.cards: dict[str, list[Card]] = {}
        for card in read_cards(ROOT / "results" / "published" / "nano"):
            self.cards.setdefault(card.algorithm, []).append(card)
        self.rows = {row.name: row for row in self.section.rows}
        self.ranked = [row.name for row in self.section.rows if row.rankable]
        self.base = self.table("sft")[0]

    def table(self, name: str) -> np.ndarray[Any, Any]:
        """Mean toxicity [seeds, prompts]."""
        prompts = sorted(self.cards["sft"][0].values["toxicity_mean"])
        return np.array([[card.values["toxicity_mean"][p] for p in prompts] for card in self.cards[name]], dtype=float)

    def resamples(self, name: str, count: int = 400) -> np.ndarray[Any, Any]:
        """Reductions [count] on prompts and seeds drawn with replacement, the same prompts for every method."""
        table, n = self.table(name), len(self.base)
        rng, own = np.random.default_rng(0), np.random.default_rng(sum(map(ord, name)))
        drawn = [rng.integers(0, n, n) for _ in range(count)]
        seeds = own.integers(0, len(table), (count, len(table)))
        return np.array([self.base[p].mean() - table[s][:, p].mean() for p, s in zip(drawn, seeds, strict=True)])

    def pair(self, a: str, b: str) -> stats.Comparison:
        """Toxicity of b minus that of a, as the board has it."""
        pairs = self.section.ranking.pairs | self.section.ranking.others
        found = pairs.get((a, b))
        return found if found is not None else pairs[b, a]

    def difference(self, a: str, b: str) -> stats.Comparison:
        """The same, looked at alone."""
        seeds = {name: [card.values["toxicity_mean"] for card in self.cards[name]] for name in (a, b)}
        return stats.compare(seeds)[a, b]


@pytest.fixture(scope="module")
def published() -> Published:
    return Published()


@pytest.fixture(scope="module")
def readme() -> str:
    return " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def brief(value: float | None, digits: int = 3) -> str:
    """A number as pages have it: .126, −.06, 9.8."""
    text = f"{value:.{digits}f}".replace("-", "−")
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text


def gains(published: Published, *names: str) -> list[str]:
    """Reductions as a page has them."""
    return [brief(published.rows[name].estimate("toxicity_reduction").value) for name in names]


def kls(published: Published, *names: str, digits: int = 0) -> list[str]:
    """Nats at the end as a page has them."""
    return [brief(published.rows[name].kl.value, digits) for name in names]


def first(spans: Mapping[str, tuple[int, int]]) -> set[str]:
    """Names whose rank may be the first."""
    return {name for name, (best, _) in spans.items() if best == 1}


def test_which_methods_may_be_the_best_at_the_end_of_the_budget(published: Published, readme: str) -> None:
    spans = {name: published.rows[name].rank or (0, 0) for name in published.ranked}
    best, count = first(spans), len(published.ranked)
    assert f"**At the end of the budget {len(best)} of the {count} ranked methods may be the best.**" in readme
    most = ["trl_online_dpo", "kto", "apo_zero"]
    assert published.ranked[:3] == most
    relative = "toxicity_reduction_relative"
    shares = [pooled_estimates(published.cards[name], {relative: (-1.0, 1.0)})[relative].value or 0.0 for name in most]
    assert min(shares) > 0.975
    removed, (dpo,) = gains(published, *most), gains(published, "dpo")
    ends = sorted(published.rows[name].kl.value or 0.0 for name in most)
    (near,) = kls(published, "dpo")
    told = (
        f"TRL's online DPO, KTO and APO-zero remove most, 98% of the toxicity or more ({removed[0]} to {removed[-1]}), and end"
    )
    assert (
        f"{told} far from the base, at {ends[0]:.0f} to {ends[-1]:.0f} nats of KL, where DPO is at {near} ({dpo})." in readme
    )
    assert "DPO, ORPO and IPO are not." in readme
    assert best.isdisjoint({"dpo", "orpo", "ipo"})
    for name in ("dpo", "orpo", "ipo"):
        assert np.mean(published.resamples("kto") > published.resamples(name)) >= 0.95


def test_hardly_any_methods_are_told_apart_at_equal_kl(published: Published, readme: str) -> None:
    at = published.section.equal_kl[2.0]
    names = {"simpo": "SimPO gains", "orpo": "ORPO", "kto": "KTO", "dpo": "DPO", "ppo": "PPO", "grpo": "GRPO"}
    told = ", ".join(f"{word} {brief(at[name].gain.value)}" for name, word in names.items())
    spans = {name: found.rank for name, found in at.items() if found.rank}
    assert f"At 2 nats {told} and RLAIF {brief(at['rlaif'].gain.value)};" in readme
    behind = [name for name in at if name in spans and name not in first(spans)]
    assert f"of {len(spans)} {named(behind)} are shown not to be best." in readme
    to, areas = published.section.areas
    ranks = {name: rank for name, (_, rank) in areas.items() if rank}
    last = [name for name in ranks if name not in first(ranks)]
    assert f"By the area to 1 nat, of {len(ranks)}, {named(last)} is behind." in readme
    assert to == 1.0


NUMBERS = {3: "three", 4: "four"}


def test_near_the_base_nearly_all_gain_more_than_drift(published: Published, readme: str) -> None:
    found, beyond = published.section.equal_kl[2.0], published.section.drift.rows
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    drawn = {
        control: [one.gain.value for name, one in found.items() if name.startswith(control) and one.gain.value is not None]
        for control in ("drift_rloo", "drift_dpo")
    }
    assert [len(each) for each in drawn.values()] == [15, 15]
    assert {name: len(draws) for name, draws in published.section.drift.controls.items()} == {
        "drift_rloo": 15,
        "drift_dpo": 16,
    }
    paid, believed = ([brief(end, 2) for end in (min(each), max(each))] for each in drawn.values())
    assert "15 that were paid random rewards have removed {} to {} at 2 nats".format(*paid) in readme
    assert "and 15 that learned verdicts by coin {} to {}".format(*believed) in readme
    means = [brief(float(np.mean(each))) for each in drawn.values()]
    assert "At 2 nats they have removed {} and {} on average,".format(*means) in page
    ranked = [name for name in published.ranked if name in beyond]
    above = [name for name in ranked if beyond[name].above]
    near, lacking = [name for name in ranked if beyond[name].kl < 6], [name for name in ranked if beyond[name].unknown]
    far, neither = len(published.ranked) - len(near), [name for name in published.ranked if name not in beyond]
    rest = [name for name in ranked if beyond[name].above is False and name not in near]
    (under,) = set(near) - set(above)
    shares = [beyond[name].drift / beyond[name].gain for name in near if name in above]
    share = f"{min(shares):.0%} to {max(shares):.0%}"
    within = f"Of {len(near)} that end within six nats {len(near) - 1} gain more than each kind does on average"
    assert f"{within}, after correction, which is {share} of it, and than each draw" in readme
    assert f"of {far} farther away {NUMBERS[len(above) - len(near) + 1]}, as few draws came." in readme
    told = f"{len(above)} of the {len(published.ranked)} ranked methods gain more than each control does on average"
    corrected = sum(one.p_fdr is not None for one in beyond.values())
    assert f"{told}, after Benjamini and Hochberg's correction over {corrected} rows, and more than each draw." in page
    assert f"the control that leaves less gives {share} of their gain on average." in page
    least = min(beyond[name].doubt[1] for name in near if beyond[name].doubt[0] == "drift_dpo")
    assert f"{len(near) - 1} of them are of the {len(near)} that end within six nats, where {least} draws of" in page
    assert f"QRPO gains {brief(beyond[under].gain)} there, and {NUMBERS[beyond[under].as_far]} draws as much." in page
    most = max(beyond[name].doubt[1] for name in rest if beyond[name].doubt[0] == "drift_dpo")
    assert f"Of the {far} farther away {len(rest)} are not shown to: at most {most} draws of `drift_dpo` came there" in page
    assert {beyond[name].unknown for name in lacking} == {("drift_dpo",)}
    assert f"For {named(lacking)} it is not known what `drift_dpo` would gain, and for {named(neither)} neither" in page
    assert far == len(rest) + len(lacking) + len(neither) + len(above) - len(near) + 1
    assert not beyond["sft_chosen"].above


NAMES = {
    "kto": "KTO", "apo_zero": "APO-zero", "nca": "NCA", "beta_dpo": "beta-DPO", "gspo": "GSPO", "tdpo": "TDPO", "dapo": "DAPO",
    "ppo_lora": "PPO with LoRA", "reinforce": "REINFORCE", "grpo": "GRPO", "ppo": "PPO", "apa": "APA", "rlaif": "RLAIF",
    "dpo": "DPO", "rloo": "RLOO",
    "qrpo": "QRPO", "ppo_critic": "PPO with a critic", "dpop": "DPOP", "reinforce_pp": "REINFORCE++", "trl_dpo": "TRL's DPO",
    "bco": "BCO", "rso": "RSO", "rft": "RFT", "trl_kto": "TRL's KTO", "trl_simpo": "TRL's SimPO", "trl_orpo": "TRL's ORPO",
    "semi_online_dpo": "semi-online DPO", "rlhf_then_dpo": "RLHF then DPO", "cai": "constitutional AI",
    "trl_grpo": "TRL's GRPO", "trl_rloo": "TRL's RLOO", "trl_online_dpo": "TRL's online DPO", "trl_cpo": "TRL's CPO",
}  # fmt: skip


def named(methods: list[str]) -> str:
    """Methods as pages name them, in a row."""
    *some, last = [NAMES[name] for name in methods] or [""]
    return f"{', '.join(some)} and {last}" if some else last


def test_the_page_on_results_counts_what_the_board_of_nano_tells(published: Published) -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    pairs = published.section.ranking.pairs
    told = {name: sum(c.resolved for pair, c in pairs.items() if name in pair) for name in published.ranked}
    resolved = sum(c.resolved for c in pairs.values())
    opening = f"**At the end of the budget {resolved} of the {len(pairs)} pairs are told apart**"
    assert f"{opening}: KTO is ahead of {told['kto']}, TRL's DPO behind {told['trl_dpo']}." in page
    assert f"{named([name for name in published.ranked if not told[name]])} are told apart from none" in page
    assert published.rows["kto"].rank[0] == 1  # type: ignore[index]
    at = {kl: {name: one for name, one in found.items() if one.rank} for kl, found in published.section.equal_kl.items()}
    counts = [len(at[kl]) for kl in (0.5, 1.0, 2.0, 4.0, 8.0)]
    assert "At half a nat {} are measured, at 1 nat {}, at 2 nats {}, at 4 nats {} and at 8 nats {}.".format(*counts) in page
    behind = {kl: at[kl].keys() - first({name: one.rank for name, one in at[kl].items() if one.rank}) for kl in at}
    order = {kl: [name for name in at[kl] if name in behind[kl]] for kl in at}
    value = {(kl, name): brief(one.gain.value) for kl, found in at.items() for name, one in found.items()}
    half = f"{named(order[0.5])} at half a nat ({value[0.5, 'rlaif']}, of SimPO's {value[0.5, 'simpo']})"
    told_at = [f"{named(order[kl])} at {kl:g} nat{'s' * (kl > 1)}" for kl in (1.0, 2.0, 4.0, 8.0)]
    assert f"Shown not to be best are {half}, {', '.join(told_at[:-1])} and {told_at[-1]}; of the others it is open." in page
    assert f"GRPO's {value[2.0, 'grpo']} at 2 nats is lower than LoRA's {value[2.0, 'ppo_lora']};" in page
    ranks = {name: rank for name, (_, rank) in published.section.areas[1].items() if rank}
    areas = {name: published.section.areas[1][name][0].value or 0.0 for name in ranks}
    last = [name for name in areas if name not in first(ranks)]
    best = [value for name, value in areas.items() if name not in last]
    told_areas = (
        f"which {len(areas)} have, {len(best)} ({brief(min(best))} to {brief(max(best))}) may be the best, {named(last)} "
        f"({' and '.join(brief(areas[name]) for name in last)}) not."
    )
    assert f"By area to 1 nat, {told_areas}" in page


def test_trls_versions_are_beside_ours_as_the_page_says(published: Published) -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())

    def end(name: str) -> str:
        return f"{gains(published, name)[0]} at {kls(published, name, digits=1)[0]}"

    told = f"DPO removes {end('trl_dpo')} nats (ours {end('dpo')}), KTO {end('trl_kto')} ({end('kto')})"
    assert f"so there are fewer: {told} and GRPO {end('trl_grpo')} ({end('grpo')})." in page
    both = ("trl_dpo", "trl_kto", "trl_grpo", "dpo", "kto", "grpo")
    at = [brief(published.section.equal_kl[1.0][name].gain.value) for name in both]
    assert "At 1 nat of KL they gain {}, {} and {}, ours {}, {} and {}.".format(*at) in page
    rows = published.rows
    assert [rows[name].gated for name in ("trl_online_dpo", "trl_rloo", "online_dpo", "rloo")] == [False, False, True, True]


def test_every_ranked_method_is_better_than_the_control(published: Published, readme: str) -> None:
    methods = [row for row in published.section.rows if row.part == "method"]
    told = "methods with [settings chosen by one rule](docs/rules.md#tuning), three seeds each, of the main ones five."
    assert f"{len(methods)} {told}" in readme
    assert {row.name: row.seeds for row in methods} == {row.name: 5 if row.name in board.MAIN else 3 for row in methods}
    assert all(
        "8 trials on validation prompts, by largest_gain" in str(c.notes["tuning"]) for row in methods for c in row.cards
    )
    assert f"Each of the {len(published.ranked)} removes more than the control" in readme
    assert f"imitates the preferred answers ({gains(published, 'sft_chosen')[0]})." in readme
    assert all(published.pair(name, "sft_chosen").resolved for name in published.ranked)
    control = published.resamples("sft_chosen")
    assert np.mean([published.resamples(name) > control for name in published.ranked], axis=1).min() >= 0.95
    nearest = min(published.ranked, key=lambda name: abs(published.pair(name, "sft_chosen").value or 0))
    gap = published.pair(nearest, "sft_chosen")
    told = f"{NAMES[nearest]}, removes {brief(gap.value)} more, 95% interval {brief(gap.low)} to {brief(gap.high)}."
    assert f"{told} The base scores {brief(published.base.mean())}." in readme


def test_ppo_is_not_ahead(published: Published, readme: str) -> None:
    (ppo,), (near,) = gains(published, "ppo"), kls(published, "ppo", digits=1)
    assert f"**PPO is not ahead**: {ppo} at {near} nats, told apart from none, as its seeds differ much." in readme
    assert [name for name in published.ranked if name != "ppo" and published.pair("ppo", name).resolved] == []


def test_settings_that_passed_a_gate_in_tuning_fail_it_elsewhere(published: Published, readme: str) -> None:
    names = ("rloo", "dr_grpo", "iterative_dpo", "online_dpo")
    rloo, dr, iterative, online = gains(published, *names)
    assert (
        f"RLOO ({rloo}), Dr. GRPO ({dr}) and iterative DPO ({iterative}), for perplexity, and online DPO ({online}), for "
        "diversity, have no rank;" in readme
    )
    assert {row.algorithm for row in published.section.rows if row.part == "method" and row.gated} == set(names)
    gates = [
        [flag.text.split()[0] for c in published.cards[name] for flag in c.flags if flag.kind == "gate"] for name in names
    ]
    assert [set(each) for each in gates] == [{"perplexity"}, {"perplexity"}, {"perplexity"}, {"distinct_2"}]
    assert (len(gates[0]), len(gates[1])) == (1, 2)
    for name in names:
        record = json.loads((ROOT / "results" / "tuning" / "nano" / f"{name}.json").read_text())
        assert [trial["gates"] for trial in record["trials"] if trial["settings"] == record["chosen"]] == [[]]
    gated = [row.name for task in KNOWN for row in board.sections(task)[0].rows if row.part == "method" and row.gated]
    rows = [row for task in KNOWN for row in board.sections(task)[0].rows if row.part == "method"]
    assert "have no rank; on [known rewards](docs/results.md) five rows of twelve." in readme
    assert (len(gated), len(rows)) == (5, 12)


KNOWN = ("nano_sentiment", "nano_rule")


def test_the_boards_of_the_known_rewards_say_what_the_page_says() -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    (sentiment,), (rule,) = (board.sections(task) for task in KNOWN)
    rows = {name: {row.name: row for row in section.rows} for name, section in (("sentiment", sentiment), ("rule", rule))}

    def gain(task: str, name: str) -> str:
        return brief(rows[task][name].estimate({"sentiment": sentiment, "rule": rule}[task].objective.gain).value)

    def kl(task: str, name: str, digits: int = 0) -> str:
        return brief(rows[task][name].kl.value, digits)

    assert {row.seeds for section in (sentiment, rule) for row in section.rows if row.part == "method"} == {3}
    failed = [{name for name, row in rows[task].items() if row.part == "method" and row.gated} for task in rows]
    assert failed == [{"grpo", "kto"}, {"rloo", "ppo", "kto"}]
    ppo = rows["sentiment"]["ppo"].estimate(sentiment.objective.gain)
    assert (
        f"RLOO ({gain('sentiment', 'rloo')}, {kl('sentiment', 'rloo')} nats away) and PPO ({gain('sentiment', 'ppo')}) are "
        f"ahead of RLAIF ({gain('sentiment', 'rlaif')}) and DPO ({gain('sentiment', 'dpo')}, {kl('sentiment', 'dpo', 1)} nats)"
        f"; PPO's seeds differ much ([{brief(ppo.low)}, {brief(ppo.high)}])" in page
    )
    assert {row.name: row.rank for row in sentiment.rows if row.rank} == {
        "rloo": (1, 2), "ppo": (1, 2), "rlaif": (3, 3), "dpo": (4, 4),
    }  # fmt: skip
    at = {
        kl: {name: brief(one.gain.value) for name, one in found.items() if one.rank}
        for kl, found in sentiment.equal_kl.items()
    }
    assert f"at 4 nats it gains {at[4.0]['ppo']}, RLOO {at[4.0]['rloo']} and RLAIF {at[4.0]['rlaif']};" in page
    assert f"at 8 PPO {at[8.0]['ppo']} and RLAIF {at[8.0]['rlaif']}." in page
    assert [{name for name, one in sentiment.equal_kl[kl].items() if one.rank == (1, 1)} for kl in (4.0, 8.0)] == [{"ppo"}] * 2
    assert (
        f"GRPO ({gain('rule', 'grpo')} at {kl('rule', 'grpo')} nats) is ahead of DPO ({gain('rule', 'dpo')} at "
        f"{kl('rule', 'dpo', 1)}) and RLAIF ({gain('rule', 'rlaif')} at {kl('rule', 'rlaif')}). Imitation of the preferred "
        f"answers gains {gain('rule', 'sft_chosen')}, more than DPO and RLAIF." in page
    )
    assert {row.name: row.rank for row in rule.rows if row.rank} == {"grpo": (1, 1), "dpo": (2, 3), "rlaif": (2, 3)}
    others = rule.ranking.others
    assert all((others.get((name, "sft_chosen")) or others["sft_chosen", name]).resolved for name in ("dpo", "rlaif"))
    drawn = [
        [brief(row.estimate(section.objective.gain).value, 2) for row in section.rows if row.algorithm.startswith("drift")]
        for section in (sentiment, rule)
    ]
    assert [len(each) for each in drawn] == [9, 9]
    ends = [(min(map(value_of, each)), max(map(value_of, each))) for each in drawn]
    assert f"gain {told(*ends[0])} on nano_sentiment, and {told(*ends[1])} on nano_rule." in page
    above = [{name for name, row in section.drift.rows.items() if row.above} for section in (sentiment, rule)]
    assert above == [{"sft_chosen"}, {"dpo"}]
    for name in ("rlaif", "dpo"):
        found = sentiment.drift.rows[name]
        assert (found.control, found.unknown, found.as_far, (found.beyond.low or 0) > 0) == (
            "drift_rloo",
            ("drift_dpo",),
            0,
            True,
        )
    assert not {"rloo", "ppo"} & sentiment.drift.rows.keys()
    assert "grpo" not in rule.drift.rows


def test_smol_is_what_the_page_says() -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    (section,) = board.sections("smol")
    rows = {row.name: row for row in section.rows}
    ranked = [name for name, row in rows.items() if row.rank]

    def end(name: str) -> str:
        return f"{brief(rows[name].estimate('toxicity_reduction').value)} at {brief(rows[name].kl.value, 1)} nats"

    first, *rest = ranked
    others = [f"{NAMES[name]} {end(name).removesuffix(' nats')}" for name in rest]
    told = f"{NAMES[first]} removes {end(first)}, {', '.join(others[:-1])} and {others[-1]}"
    resolved = sum(pair.resolved for pair in section.ranking.pairs.values())
    apart = {(a, b) if pair.value > 0 else (b, a) for (a, b), pair in section.ranking.pairs.items() if pair.resolved}
    assert {better for better, _ in apart} == {"dpo"}
    pairs = f"of {len(section.ranking.pairs)} pairs {resolved} are told apart: DPO removes more than"
    worse = " and ".join(NAMES[name] for name in ranked if ("dpo", name) in apart)
    assert f"**At the end of the budget** {told}; {pairs} {worse}." in page
    assert f"**At equal KL**: {headline(section)}." in page
    others_of = section.ranking.others
    against = {name: others_of.get((name, "sft_chosen")) or others_of["sft_chosen", name] for name in ranked}
    beyond = named([name for name, one in against.items() if one.resolved]) or "none"
    imitation = brief(rows["sft_chosen"].estimate("toxicity_reduction").value)
    assert f"**Imitation** removes {imitation}; of the five {beyond} are shown to remove more." in page
    above = [name for name in rows if name in section.drift.rows and section.drift.rows[name].above]
    below = [name for name in rows if name in section.drift.rows and section.drift.rows[name].above is False]
    assert len(above) + len(below) == len(ranked) + 1
    unshown = f"{', '.join(NAMES[name] for name in below[:-1])} and imitation are not shown to."
    drift = f"{named(above)}: each gains more at its KL than each draw of `drift_rloo`. {unshown}"
    assert below[-1] == "sft_chosen"
    draws = [row for row in section.rows if row.algorithm == "drift_rloo"]
    far = sorted(row.kl.value for row in draws)
    gains = sorted(row.estimate("toxicity_reduction").value for row in draws)
    ends = f"The draws end at {far[0]:.0f} to {far[-1]:.0f} nats and remove {brief(gains[0])} to {brief(gains[-1])} there."
    assert f"**Above drift** are {drift} {ends}" in page
    assert {row.seeds for row in section.rows if row.rank} == {3}
    assert [row.seeds for row in draws] == [1, 1, 1]


def test_ppo_beside_trl_is_what_the_record_says() -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    record = json.loads((ROOT / "results" / "findings" / "trl_ppo.json").read_text())
    arms = record["arms"]
    ours, equal, own = (arms[name] for name in ("ours", "TRL, equal settings", "TRL, its defaults"))
    gain, same, default = (brief(arm["toxicity_reduction"]["value"]) for arm in (ours, equal, own))
    gap = arms["ours minus TRL, equal settings"]
    more, least, most = brief(-gap["value"]), brief(gap["high"]), brief(-gap["low"])
    same = f"{same} ({more} more, 95% interval {least} less to {most} more)"
    assert f"ours {gain}, TRL's with the same settings {same}, TRL's by its own defaults {default}." in page
    gaps = [arms[f"ours minus {arm}"] for arm in ("TRL, equal settings", "TRL, its defaults")]
    assert all(each["low"] < 0 < each["high"] for each in gaps)
    at = [brief(float(np.mean([seed["value"] for seed in arm["by seed"]["kl"]])), 1) for arm in (equal, own, ours)]
    assert f"it ends at {at[0]} and {at[1]} nats of KL, ours at {at[2]}." in page
    spent = [f"{np.mean([one['share of the budget'] for one in arm['trainings']]):.0%}" for arm in (equal, own)]
    assert f"whole iterations, 8 and 4, so it spends {spent[0]} and {spent[1]} of the budget" in page
    assert [arm["trainings"][0]["iterations"] for arm in (equal, own)] == [8, 4]
    assert not any(flags for arm in (ours, equal, own) for flags in arm["gates"])


def test_the_ladder_is_what_its_cards_say() -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    folder = ROOT / "results" / "ladder" / "published" / "nano"
    found = sweep_report(read_cards(folder), "budget.flops")
    assert sweep_page(found) == (folder / "along-budget.flops.md").read_text(encoding="utf-8")
    assert found.values == [3e12, 4.5e12, 9e12]
    assert {one.verdict for one in found.crossings} == {"not decided"}
    assert len(found.crossings) == 15
    assert "two seeds decide none of the 15 pairs." in page
    ranks = [{name: one.rank.value for name, one in found.robustness.standings[at].items()} for at in found.values[:2]]
    assert [at["rloo"] for at in ranks] == [4, 2]
    trends = {name: found.trend(name) for name in found.methods}
    assert {name for name, trend in trends.items() if trend == "falls"} == {"kto", "simpo", "dpo", "rloo"}
    left = [found.mean(9e12, name).value or 0.0 for name in found.methods]
    assert f"At 9e12 the six leave {brief(min(left))} to {brief(max(left))} of the base's" in page
    assert {name for name in found.methods if found.gated(9e12, name)} == {"kto", "ppo", "simpo"}


def test_the_board_of_dpo_and_its_variants_says_what_the_pages_say(readme: str) -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    section = board.group("pairs")
    rows = {row.name: row for row in section.rows if row.part == "method"}
    assert len(rows) == 18
    assert not any(row.gated for row in rows.values())
    assert {name for name, row in rows.items() if row.seeds == 5} == {"dpo", "ipo", "simpo", "orpo"}
    assert {row.seeds for row in rows.values()} == {3, 5}
    tuned = {str(card.notes["tuning"]) for row in rows.values() for card in row.cards}
    assert tuned == {"8 trials on validation prompts, by largest_gain"}
    at = {kl: [one for one in found.values() if one.rank] for kl, found in section.equal_kl.items()}
    assert [len(at[kl]) for kl in (0.5, 1.0, 2.0, 4.0)] == [11, 18, 17, 9]
    assert {one.rank for one in at[1.0]} == {(1, 18)}
    assert all({one.rank for one in found} == {(1, len(found))} for found in at.values() if found)
    assert "**DPO and 17 variants are on one frontier**: at 1 nat no two are told apart" in readme
    assert "not of the 11 at half a nat, the 18 at 1 nat, the 17 at 2 nats, nor the nine at 4 nats." in page
    gains = [one.gain.value for one in at[2.0]]
    found = brief(section.equal_kl[2.0]["dpo"].gain.value)
    assert f"At 2 nats they gain {brief(min(gains))} to {brief(max(gains))}, DPO {found};" in page
    areas = [estimate.value for estimate, rank in section.areas[1].values() if rank]
    assert (section.areas[0], len(areas)) == (2.0, 10)
    assert f"by area to 2 nats, which ten have, {brief(min(areas))} to {brief(max(areas))}." in page
    pairs = section.ranking.pairs
    told = {name: c for pair, c in pairs.items() if "dpo" in pair and c.resolved for name in pair if name != "dpo"}
    assert f"At the end of the budget {sum(c.resolved for c in pairs.values())} of {len(pairs)} pairs are" in page
    named = {"apo_zero": "APO-zero", "nca": "NCA", "beta_dpo": "beta-DPO", "rpo": "RPO", "tdpo": "TDPO"}
    named |= {"apo_down": "APO-down", "dpop": "DPOP", "ipo": "IPO"}
    assert told.keys() == named.keys()
    shown = [f"{word} ({brief(rows[name].estimate('toxicity_reduction').value)})" for name, word in named.items()]
    dpo = brief(rows["dpo"].estimate("toxicity_reduction").value)
    assert f"{', '.join(shown[:-1])} and {shown[-1]} remove more than DPO ({dpo})" in page
    ends = [rows[name].kl.value for name in named]
    near = brief(rows["dpo"].kl.value, 1)
    assert f"and end at {brief(min(ends), 1)} to {brief(max(ends), 1)} nats of KL, DPO at {near}." in page
    judged = (ROOT / "results" / "findings" / "README.md").read_text()
    seen = re.search(r"^- \*\*Seen:\*\* (none of the 17 measured gain more;.*)$", judged, re.M)
    assert seen is not None
    assert seen[1].partition("not ruled out of ")[2].partition(";")[0].count(", ") == 11
    assert "of 17, BCO among them, none gains more than DPO at equal KL, and for twelve a fifth more is not ruled out." in page


def test_the_methods_on_a_reward_model_are_what_the_page_says() -> None:
    page = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    section = board.group("reward")
    rows = {row.name: row for row in section.rows if row.part == "method"}
    assert rows.keys() == set(board.GROUPS["reward"])
    assert len(board.named("reward")) == 10
    tuned = {str(card.notes["tuning"]) for row in rows.values() for card in row.cards}
    assert tuned == {"8 trials on validation prompts, by largest_gain"}
    gated = {
        name: [sum(flag.kind == "gate" for flag in c.flags) for c in rows[name].cards] for name in rows if rows[name].gated
    }
    told = "at 1 nat no two are told apart, nor two of eleven [methods on a reward model]"
    assert told in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()), "below, of eleven at 1 nat"
    assert {name: (sum(map(bool, each)), len(each)) for name, each in gated.items()} == {"rloo": (1, 5), "dr_grpo": (2, 3)}
    at = {kl: {name: one for name, one in found.items() if one.rank} for kl, found in section.equal_kl.items()}
    assert [len(at[kl]) for kl in (0.5, 1.0, 2.0, 4.0, 8.0)] == [8, 11, 11, 9, 4]
    assert all(one.rank == (1, len(at[kl])) for kl in (0.5, 1.0, 2.0, 8.0) for one in at[kl].values())
    spans = {name: one.rank for name, one in at[4.0].items() if one.rank != (1, 9)}
    assert spans == {"remax": (1, 8), "reinforce_pp": (2, 9)}
    first, last = (brief(at[4.0][name].gain.value) for name in spans)
    assert f"at 4 nats, of nine, ReMax ({first}) is ahead of REINFORCE++ ({last})." in page
    gained = {name: one.gain.value for name, one in at[2.0].items()}
    told = f"At 2 nats they gain {brief(min(gained.values()))} to {brief(max(gained.values()))}, PPO {brief(gained['ppo'])};"
    assert told in page
    areas = [estimate.value for estimate, rank in section.areas[1].values() if rank]
    assert {rank for _, rank in section.areas[1].values() if rank} == {(1, 7)}
    assert f"by area to 2 nats, which seven have, {brief(min(areas))} to {brief(max(areas))}." in page
    pairs = section.ranking.pairs
    resolved = sorted(pair for pair, c in pairs.items() if c.resolved)
    assert f"**At the end of the budget {len(resolved)} of {len(pairs)} pairs are**" in page
    ahead = ("gspo", "dapo", "ppo_lora", "reinforce")
    assert {(name, other) for name in ahead for other in ("cispo", "reinforce_pp")} <= set(resolved)
    assert not [pair for pair in resolved if "ppo" in pair]
    gain = {name: brief(row.estimate("toxicity_reduction").value) for name, row in rows.items()}
    assert gain["gspo"] == gain["dapo"]
    far = f"GSPO and DAPO (both {gain['gspo']}), PPO with LoRA ({gain['ppo_lora']}) and REINFORCE ({gain['reinforce']})"
    near = f"CISPO ({gain['cispo']}) and REINFORCE++ ({gain['reinforce_pp']})"
    ends = [rows[name].kl.value for name in ahead]
    assert f"{far} are ahead of {near}, and end {brief(min(ends), 1)} to {brief(max(ends), 1)} nats away." in page
    assert f"PPO ({gain['ppo']}) is told apart from none." in page
    unshown = {name for name, row in section.drift.rows.items() if row.above is False and name in rows}
    assert unshown == {"gspo", "ppo_lora", "grpo", "apa", "qrpo"}
    assert section.drift.rows["qrpo"].as_far == 3
    assert section.drift.rows["dapo"].above is None
    assert "**GSPO, PPO with LoRA, GRPO, APA and QRPO are not shown to be above drift**: four of them" in page
    assert "QRPO as three draws gain as much. For DAPO it is not known." in page


def value_of(text: str) -> float:
    """The number that `brief` wrote."""
    return float(text.replace("−", "-"))


def told(low: float, high: float) -> str:
    """A range as pages have it."""
    return f"{brief(low, 2)} to {brief(high, 2)}"


def test_best_of_n_removes_most_at_a_small_kl(published: Published, readme: str) -> None:
    share = 1 - published.table("best_of_n").mean() / published.base.mean()
    most = kls(published, "best_of_n", digits=1)[0]  # log n - (n - 1) / n is a bound
    assert f"**Best-of-5 removes {share:.0%} of the toxicity at {most} nats or less.**" in readme
    assert {card.config["algorithm"]["draws"] for card in published.cards["best_of_n"]} == {5}
    assert published.rows["best_of_n"].place == "inference"


def test_what_the_board_tells_and_which_claims_hold_is_counted(published: Published, readme: str) -> None:
    pairs = published.section.ranking.pairs
    told = sum(pair.resolved for pair in pairs.values())
    assert f"Of {len(pairs)} pairs {told} are told apart at the end of the budget." in readme
    page = (ROOT / "results" / "findings" / "README.md").read_text()
    verdicts = re.findall(r"^## (.+): (.+)$", page, re.MULTILINE)
    said = "two hold here (length is exploited, groups of two about equal sixteen), one does not (RLAIF about equals RLHF)"
    assert f"**Of {len(verdicts)} claims of the literature** {said}, and [ten are not shown]" in readme
    assert [name for name, verdict in verdicts if verdict == "holds"] == ["groups of two", "length"]
    assert [name for name, verdict in verdicts if verdict == "**does not hold**"] == ["RLAIF"]
    assert [verdict for _, verdict in verdicts].count("**not shown**") == 10
    assert page == report(Bench()), "the cards say what the page says"


def test_two_seeds_of_one_method_differ_as_often_as_the_page_on_statistics_says(published: Published) -> None:
    found = []
    for name, cards in published.cards.items():
        if name != "sft" and not name.startswith("drift"):
            columns = [card.values["toxicity_mean"] for card in cards]
            found += [stats.compare({"a": [one], "b": [other]})["a", "b"].p for one, other in combinations(columns, 2)]
    page = " ".join((ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").split())
    differ = sum(p is not None and p < 0.05 for p in found)
    assert f"two seeds of one and the same method differ at p < .05 in {differ} of {len(found)} pairs" in page


def test_the_bill_of_ppo_is_as_told(published: Published, readme: str) -> None:
    """Steps cost about the same, so the first snapshot tells where they began."""
    assert "half of its budget is gone before the first step" in readme
    for card in published.cards["ppo"]:
        first = card.curve[1]
        left = (1 - first.fraction) / (card.spent["steps"] - first.steps)
        assert 0.45 < first.fraction - first.steps * left < 0.55
