"""One run: train -> samples -> scores -> metrics and curve, each a stage of the store.

A property gives a stage whose recipe is known without training. A method needs the record of training, and trains first if
needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isoalign import stats
from isoalign.core.objective import objective_recipe
from isoalign.core.records import Budget
from isoalign.data.preferences import Feedback
from isoalign.data.prompts import Prompt
from isoalign.evaluation import annotator_agreement, curve, judge_check, metric_values, metrics, samples, scores, selection
from isoalign.evaluation.win_rate import WIN_RATE, read_contests
from isoalign.models.precision import precision_recipe
from isoalign.models.reward import Rewarder
from isoalign.runs import win_rate
from isoalign.runs.training import BASE, ROUNDS, Training
from isoalign.stages import pairs
from isoalign.stages.rounds import FeedbackRounds
from isoalign.stages.shared import SharedStages
from isoalign.stages.stage import Stage
from isoalign.training import registry


@dataclass(frozen=True)
class RewardSource:
    """A reward model. ``by``: whose verdicts it is trained on; ``key``: its entry in recipes; ``load``: loads it."""

    by: str
    key: Any
    load: Callable[[], Rewarder]

    @classmethod
    def shared(cls, shared: SharedStages, by: str) -> RewardSource:
        """The reward model of a task, or its ensemble, which all methods share."""
        first, *others = [stage.key for stage in shared.reward_models(by).values()]
        return cls(by, [first, *others] if others else first, lambda: shared.reward(by))


@dataclass(frozen=True)
class Run(Training):
    """A method on a task under a budget with a seed. ``tuning``: how its settings were tuned."""

    tuning: str = ""

    @property
    def base(self) -> Run:
        """The run of the SFT base."""
        return base_run(self.shared, self.budget, self.seed)

    # -- samples --------------------------------------------------------------------------------------------------

    @property
    def samples(self) -> Stage:
        """Evaluation completions, and the policy's log-probabilities of the held-out pairs and of the base's completions."""
        config, shared = self.task.evaluation, self.shared
        held_out, base = self.held_out, self.base.samples if self.trains else None
        recipe = self._sampling | {"pairs": held_out.key, "base": base.key if base else None, "draws": config.draws}

        def make(work: Path) -> None:
            policy, reference = self.load_policy()
            of_base = samples.read_samples(shared.get(base)) if base and not self.selects else []
            if self.selects:
                folder, bound = shared.get(self.train), self.read_record()["kl_bound"]
                selection.make_selected_samples(
                    work, folder, reference, self.task.model, self.evaluation_prompts(), config.draws, bound
                )
            else:
                chosen = self.evaluation_prompts()
                samples.make_samples(work, policy, reference, self.task.model, chosen, config.draws, config.seed)
            firsts = [s for s in of_base if s.draw == 0]
            feedback = Feedback.read(shared.get(held_out))
            known = samples.read_pairs(shared.get(base)) if base else []
            samples.make_pairs_and_reverse_kl(
                work, policy, reference, self.task.model, feedback, firsts, self.evaluation_prompts(), known
            )

        return Stage("samples", recipe, make, together=True)

    def snapshot(self, steps: int) -> Stage:
        """Completions of the policy after some steps, for a subset of the prompts and samples of the full evaluation."""
        config = self.task.evaluation
        recipe = self._sampling | {"steps": steps, "curve_prompts": config.curve_prompts, "draws": config.curve_draws}

        def make(work: Path) -> None:
            policy, reference = self.load_policy(f"snapshots/{steps}")
            samples.make_samples(
                work, policy, reference, self.task.model, self.curve_prompts(), config.curve_draws, config.seed
            )

        return Stage("samples", recipe, make, together=True)

    @property
    def _sampling(self) -> dict[str, Any]:
        adapted = self.trains and self._lora_rank and not self.merges
        return {
            "version": samples.VERSION, "policy": self.train.key if self.trains else self.shared.sft.key,
            "sft": self.shared.sft.key, "seed": self.task.evaluation.seed, **({"merged": False} if adapted else {}),
        } | self.prompt_recipe | precision_recipe(self.task.evaluation.precision)  # fmt: skip

    @property
    def held_out(self) -> Stage:
        """The annotator's pairs of the evaluated split."""
        return self.shared.pairs("annotator", self.task.evaluation.split)

    def curve_prompts(self) -> list[Prompt]:
        """The prompts of the curve, evenly spaced in the list, so that every stratum keeps its share."""
        prompts = self.evaluation_prompts()
        count = min(self.task.evaluation.curve_prompts, len(prompts))
        return [prompts[index * len(prompts) // count] for index in range(count)]

    # -- scores ---------------------------------------------------------------------------------------------------

    def scores(self, drawn: Stage, source: RewardSource | None = None) -> Stage:
        """Scores of samples by scorers, sentence encoder and reward model. ``source``: the reward model, by default this
        run's; to compare the samples with another run or card, give that one's. What the scores of the SFT base's samples
        hold already, of the held-out pairs or with another reward model of the texts, is not computed again."""
        config, shared, held_out = self.task.evaluation, self.shared, self.held_out
        source, optimised = source or self.reward_source(), not source and bool(self.reward_rounds())
        # a temperature must not be fitted on the pairs that evaluate it
        validation = shared.pairs("annotator", "validation") if config.split != "validation" else None
        recipe = {
            "version": scores.VERSION, "samples": drawn.key, "scorers": [config.scorer, config.second_scorer],
            "assets": scores.model_digests(config), "reward": source.key,
            "optimised": optimised, "held_out": held_out.key, "validation": validation.key if validation else None,
        }  # fmt: skip
        contests = self.contests(drawn) if config.scorer == WIN_RATE else None
        recipe |= self.shaping_recipe | objective_recipe(self.task.objective) | _contests_recipe(contests)
        recipe |= {"embeddings": False} if "steps" in drawn.recipe else {}  # a curve shows nothing of them

        def make(work: Path) -> None:
            other = source.key != self.reward_source().key and shared.has(self.scores(drawn))
            same_texts = shared.get(self.scores(drawn)) if other else None
            paired = self.trains and drawn.key == self.samples.key
            same_pairs = shared.get(self.base.scores(self.base.samples, source)) if paired else None
            held_out_pairs = Feedback.read(shared.get(held_out))
            validation_pairs = Feedback.read(shared.get(validation)) if validation else None
            known = self.task.known_reward and source.by == "annotator"
            rewarder = scores.Rewarder(source.by, optimised, source.load(), held_out_pairs, validation_pairs, known)
            base, model, chosen = shared.evaluated_base(), self.task.model, self.evaluation_prompts()
            judged, objective = read_contests(shared.get(contests)) if contests else [], self.task.objective
            scores.make_scores(
                work, shared.get(drawn), config, base, model, rewarder, objective, chosen, judged, shared.asked,
                same_texts, same_pairs, recipe.get("embeddings", True))  # fmt: skip

        return Stage("scores", recipe, make)

    def contests(self, drawn: Stage) -> Stage | None:
        """Verdicts on samples against the SFT base's, or given, answers; None if the task measures no win rate."""
        return win_rate.contests_of(self.shared, drawn, self.base.samples)

    def reward_rounds(self) -> dict[str, int]:
        """The last feedback round whose reward model the method used, by ``annotator`` and ``judge``."""
        used = [name.partition("@") for name in self.read_record().get("reward", [])]
        return {by: max(int(n or 0) for other, _, n in used if other == by) for by, _, _ in used}

    def rewarded_by(self) -> str:
        """Whose reward model scores the samples: the one that the method trained on, or the annotator's."""
        return next(iter(self.reward_rounds()), "annotator")

    def reward_source(self) -> RewardSource:
        """The reward model of the last feedback round that the method trained on, or the annotator's."""
        by = self.rewarded_by()
        number = self.reward_rounds().get(by, 0)
        if not number:
            return RewardSource.shared(self.shared, by)

        def load() -> Rewarder:
            rounds = FeedbackRounds(self.shared, self.shared.get(self.train) / ROUNDS)
            rounds.round = number
            return rounds.reward(by)

        return RewardSource(by, {"train": self.train.key, "round": number}, load)

    def own_scores(self) -> Stage:
        """The scores of this run's samples."""
        return self.scores(self.samples)

    def base_scores(self) -> Stage:
        """The scores of the SFT base's samples, by the method's reward model, or the method's curve would not start at 0."""
        return self.base.scores(self.base.samples, self.reward_source())

    def snapshot_scores(self) -> list[tuple[dict[str, Any], Stage]]:
        """The position of each snapshot in the budget, and the scores of its samples."""
        return [(place, self.scores(self.snapshot(place["steps"]))) for place in self.read_record()["snapshots"]]

    # -- metrics --------------------------------------------------------------------------------------------------

    def metrics(self) -> Stage:
        """Metrics of the samples, compared with the SFT base's."""
        own, base, contests = self.own_scores(), self.base_scores() if self.trains else None, self.contests(self.samples)
        recipe = {
            "version": metric_values.VERSION, "scores": own.key, "base": base.key if base else None,
            "metrics": metrics.versions(self.task.objective, bool(contests)), "statistics": stats.VERSION,
        } | _contests_recipe(contests) | metric_values.digits_recipe(self.task.objective)  # fmt: skip

        def make(work: Path) -> None:
            scored = scores.read_scored_samples(self.shared.get(own), self.shared.get(base) if base else None)
            judged = read_contests(self.shared.get(contests)) if contests else []
            metric_values.make_metrics(work, replace(scored, contests=judged))

        return Stage("metrics", recipe, make)

    def curve(self) -> Stage:
        """Metrics of the SFT base, the snapshots and the trained policy, on the same prompts and samples."""
        stages = [stage for _, stage in self.snapshot_scores()]
        end, base = self.own_scores(), self.base_scores()
        config = self.task.evaluation
        recipe = {
            "version": curve.VERSION, "snapshots": [stage.key for stage in stages], "end": end.key, "base": base.key,
            "metrics": metrics.versions(self.task.objective), "statistics": stats.VERSION,
            "curve_prompts": config.curve_prompts, "curve_draws": config.curve_draws,
        } | metric_values.digits_recipe(self.task.objective)  # fmt: skip

        def make(work: Path) -> None:
            folders = [self.shared.get(stage) for stage in (*stages, end)]
            chosen = [prompt.id for prompt in self.curve_prompts()]
            places = curve.read_places(self.read_record())
            curve.make_curve(work, places, folders, self.shared.get(base), chosen, config.curve_draws)

        return Stage("curve", recipe, make)

    # -- checks of annotator and judge ----------------------------------------------------------------------------

    @property
    def agreement(self) -> Stage:
        """Rank correlation of judge and annotator with the evaluation scorers, on the SFT base's samples."""
        shared, base = self.shared, self.base
        samples, scores = base.samples, base.own_scores()
        known = self.task.known_reward  # the annotator is the scorer, and a judge that is no scorer knows something else
        sources = [by for by in pairs.SOURCES if not known or (by == "judge" and self.task.scored_by(by))]
        if self.task.feedback.file and not shared.unpaired_stage:  # people judged, and nothing is simulated
            sources = [by for by in sources if by != "annotator"]
        recipe = {"version": annotator_agreement.VERSION, "annotators": shared.annotators.key, "scores": scores.key}
        own = {by: found for by in sources if (found := shared.scorer_recipe(by))}
        recipe |= {"annotators": own} if known else {"opinions": own} if own else {}

        def make(work: Path) -> None:
            opinions = {by: shared.opinion(by) for by in sources}
            annotator_agreement.make_agreement(
                work, shared.get(samples), shared.get(scores), opinions, self.evaluation_prompts()
            )

        return Stage("agreement", recipe, make)

    def judge_check(self) -> Stage | None:
        """How often a comparing judge agrees, on held-out pairs, with the annotator's verdicts, the same before noise, and the
        evaluation scorers; None unless the method learned from such a judge."""
        if not self.task.judge.compares or self.rewarded_by() != "judge":
            return None
        shared, held_out, base_scores = self.shared, self.held_out, self.base_scores()
        recipe = {"version": 2, "judge": shared.judge_identity, "held_out": held_out.key, "scores": base_scores.key}

        def make(work: Path) -> None:
            judge, pair_scores = shared.comparing_judge(), shared.get(base_scores) / "pair_scores.json"
            assert judge is not None
            pairs = Feedback.read(shared.get(held_out))
            by_scorer, objective = json.loads(pair_scores.read_text()), self.task.objective
            report = judge_check.check_judge(judge, pairs, shared.prompt_texts(pairs.prompts), by_scorer, objective)
            (work / "judge.json").write_text(json.dumps(report, indent=1))

        return Stage("judge", recipe, make)

    # -- all stages -----------------------------------------------------------------------------------------------

    def parents(self) -> dict[str, Stage]:
        """Every stage that the card depends on, by name."""
        shared = self.shared
        stages = {"sft": shared.sft, "agreement": self.agreement}
        stages |= {"annotators": shared.annotators} if not self.task.known_reward else {}
        stages |= {"unpaired": shared.unpaired_stage} if shared.unpaired_stage else {}
        stages |= {"completions": shared.completions("train")} if not self.task.feedback.file else {}
        stages |= {"revisions": shared.revisions_stage} if self.uses("revisions") else {}
        stages |= {"pairs": shared.pairs("annotator"), "held_out": self.held_out}
        stages |= shared.reward_models(self.rewarded_by())
        if self.trains:
            stages |= {"train": self.train, "base_samples": self.base.samples, "base_scores": self.base_scores()}
            stages |= {f"scores@{place['steps']}": stage for place, stage in self.snapshot_scores()}
        check = self.judge_check()
        stages |= {"judge": check} if check else {}
        stages |= {WIN_RATE: contests} if (contests := self.contests(self.samples)) else {}
        return stages | {"samples": self.samples, "scores": self.own_scores()}


def _contests_recipe(contests: Stage | None) -> dict[str, str]:
    """The contests as an entry of recipes; none without them."""
    return {WIN_RATE: contests.key} if contests else {}


def base_run(shared: SharedStages, budget: Budget | None = None, seed: int = 0) -> Run:
    """The run of the SFT base, which needs no budget."""
    return Run(BASE, registry.algorithm(BASE)(), budget or Budget(flops=float("inf")), seed, shared)
