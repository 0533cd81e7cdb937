"""One run: train -> samples -> scores -> metrics and curve, each a stage of the store.

A property names a stage that is known without training. What is a method rests on the record of training, and trains first
where that is not done.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoalign import stats
from isoalign.core.records import Budget
from isoalign.data.preferences import Feedback
from isoalign.data.prompts import Prompt
from isoalign.evaluation import annotator_agreement, curve, judge_check, metric_values, metrics, samples, scores, selection
from isoalign.models.reward import Rewarder
from isoalign.runs.training import BASE, ROUNDS, Training
from isoalign.stages.rounds import FeedbackRounds
from isoalign.stages.shared import SharedStages
from isoalign.stages.stage import Stage
from isoalign.training import registry


@dataclass(frozen=True)
class RewardSource:
    """Whose verdicts a reward model learned, what a recipe says of it, and how to load it."""

    by: str
    key: Any
    load: Callable[[], Rewarder]

    @classmethod
    def shared(cls, shared: SharedStages, by: str) -> RewardSource:
        """That of a task, or its ensemble, which all methods share."""
        first, *others = [stage.key for stage in shared.reward_models(by).values()]
        return cls(by, [first, *others] if others else first, lambda: shared.reward(by))


@dataclass(frozen=True)
class Run(Training):
    """A method on a task under a budget with a seed. ``tuning``: how its settings were found."""

    tuning: str = ""

    @property
    def base(self) -> Run:
        """The row of the SFT base."""
        return base_run(self.shared, self.budget, self.seed)

    # -- samples --------------------------------------------------------------------------------------------------

    @property
    def samples(self) -> Stage:
        """Evaluation completions, and the held-out pairs and the base's own completions as the policy sees them."""
        config, shared = self.task.evaluation, self.shared
        held_out, base = self.held_out, self.base.samples if self.trains else None
        recipe = self._sampling | {"pairs": held_out.key, "base": base.key if base else None, "draws": config.draws}

        def make(work: Path) -> None:
            policy, reference = self.load_policy()
            of_base = samples.read_samples(shared.get(base)) if base and not self.selects else []
            if self.selects:
                folder, bound = shared.get(self.train), self.read_record()["kl_bound"]
                selection.samples(work, folder, reference, self.task.model, self.evaluation_prompts(), config.draws, bound)
            else:
                chosen = self.evaluation_prompts()
                samples.make(work, policy, reference, self.task.model, chosen, config.draws, config.seed)
            firsts = [s for s in of_base if s.draw == 0]
            feedback = Feedback.read(shared.get(held_out))
            samples.pairs_and_reverse(work, policy, reference, self.task.model, feedback, firsts)

        return Stage("samples", recipe, make)

    def snapshot(self, steps: int) -> Stage:
        """Completions of the policy as it was after some steps: fewer prompts and draws, those of the full samples."""
        config = self.task.evaluation
        recipe = self._sampling | {"steps": steps, "curve_prompts": config.curve_prompts, "draws": config.curve_draws}

        def make(work: Path) -> None:
            policy, reference = self.load_policy(f"snapshots/{steps}")
            samples.make(work, policy, reference, self.task.model, self.curve_prompts(), config.curve_draws, config.seed)

        return Stage("samples", recipe, make)

    @property
    def _sampling(self) -> dict[str, Any]:
        return {
            "version": samples.VERSION, "policy": self.train.key if self.trains else self.shared.sft.key,
            "sft": self.shared.sft.key, "seed": self.task.evaluation.seed,
        } | self.prompt_recipe  # fmt: skip

    @property
    def held_out(self) -> Stage:
        """The annotator's verdicts of the evaluated split."""
        return self.shared.pairs("annotator", self.task.evaluation.split)

    def curve_prompts(self) -> list[Prompt]:
        """Evenly spaced in the list of prompts, so that every stratum keeps its share."""
        every = self.evaluation_prompts()
        count = min(self.task.evaluation.curve_prompts, len(every))
        return [every[place * len(every) // count] for place in range(count)]

    # -- scores ---------------------------------------------------------------------------------------------------

    def scores(self, drawn: Stage, source: RewardSource | None = None) -> Stage:
        """What scorers, sentence encoder and reward model say of some samples. ``source``: a reward model that is not this
        run's, but that of the run, or the card, that these samples are compared for."""
        config, shared, held_out = self.task.evaluation, self.shared, self.held_out
        source, optimised = source or self.reward_source(), not source and bool(self.reward_rounds())
        # no temperature is fitted on the pairs that it is judged on
        validation = shared.pairs("annotator", "validation") if config.split != "validation" else None
        recipe = {
            "version": scores.VERSION, "samples": drawn.key, "scorers": [config.scorer, config.second_scorer],
            "assets": scores.assets_of(config), "reward": source.key,
            "optimised": optimised, "held_out": held_out.key, "validation": validation.key if validation else None,
        }  # fmt: skip
        recipe |= self.shaping_recipe

        def make(work: Path) -> None:
            judged = Feedback.read(shared.get(held_out))
            fitted = Feedback.read(shared.get(validation)) if validation else None
            rewarder = scores.Rewarder(source.by, optimised, source.load(), judged, fitted)
            scores.make(work, shared.get(drawn), config, shared.base_model(), self.task.model, rewarder)

        return Stage("scores", recipe, make)

    def reward_rounds(self) -> dict[str, int]:
        """By whose verdicts it learned, the last feedback round whose reward model the method asked."""
        asked = [name.partition("@") for name in self.read_record().get("reward", [])]
        return {by: max(int(n or 0) for other, _, n in asked if other == by) for by, _, _ in asked}

    def rewarded_by(self) -> str:
        """Whose reward model looks at the samples: that which the method trained on, or the annotator's."""
        return next(iter(self.reward_rounds()), "annotator")

    def reward_source(self) -> RewardSource:
        """The reward model that the method trained on, of its last feedback round; or the annotator's."""
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
        """Of this run's samples."""
        return self.scores(self.samples)

    def base_scores(self) -> Stage:
        """Of the SFT row's samples, by the same reward model as the method's own, or its curve would not start at 0."""
        return self.base.scores(self.base.samples, self.reward_source())

    def snapshot_scores(self) -> list[tuple[dict[str, Any], Stage]]:
        """Where along the budget the policy was kept, and the scores of its samples there."""
        return [(place, self.scores(self.snapshot(place["steps"]))) for place in self.read_record()["snapshots"]]

    # -- metrics --------------------------------------------------------------------------------------------------

    def metrics(self) -> Stage:
        """Metrics of the samples, against the SFT row's."""
        own, base = self.own_scores(), self.base_scores() if self.trains else None
        recipe = {
            "version": metric_values.VERSION, "scores": own.key, "base": base.key if base else None,
            "metrics": metrics.versions(), "statistics": stats.VERSION,
        }  # fmt: skip

        def make(work: Path) -> None:
            metric_values.make(work, scores.evidence(self.shared.get(own), self.shared.get(base) if base else None))

        return Stage("metrics", recipe, make)

    def curve(self) -> Stage:
        """Metrics of the snapshots, between the SFT base and the trained policy on the same prompts and draws."""
        stages = [stage for _, stage in self.snapshot_scores()]
        end, base = self.own_scores(), self.base_scores()
        config = self.task.evaluation
        recipe = {
            "version": curve.VERSION, "snapshots": [stage.key for stage in stages], "end": end.key, "base": base.key,
            "metrics": metrics.versions(), "statistics": stats.VERSION,
            "curve_prompts": config.curve_prompts, "curve_draws": config.curve_draws,
        }  # fmt: skip

        def make(work: Path) -> None:
            folders = [self.shared.get(stage) for stage in (*stages, end)]
            chosen = [prompt.id for prompt in self.curve_prompts()]
            places = curve.places(self.read_record())
            curve.make(work, places, folders, self.shared.get(base), chosen, config.curve_draws)

        return Stage("curve", recipe, make)

    # -- checks of annotator and judge ----------------------------------------------------------------------------

    @property
    def agreement(self) -> Stage:
        """Rank correlation of judge and annotator with the evaluation scorers, on the SFT row's samples."""
        shared, base = self.shared, self.base
        drawn, read = base.samples, base.own_scores()
        recipe = {"version": annotator_agreement.VERSION, "annotators": shared.annotators.key, "scores": read.key}

        def make(work: Path) -> None:
            annotator_agreement.make(work, shared.get(drawn), shared.get(read), shared.get(shared.annotators))

        return Stage("agreement", recipe, make)

    def judge_check(self) -> Stage | None:
        """What a judge that compares says of held-out pairs, if the method learned from one: how often it agrees with the
        annotator, with what the annotator would have said without noise, and with the evaluation scorers."""
        if self.task.judge.kind == "classifier" or self.rewarded_by() != "judge":
            return None
        shared, held_out, read = self.shared, self.held_out, self.base_scores()
        recipe = {"version": 1, "judge": shared.judge_identity, "held_out": held_out.key, "scores": read.key}

        def make(work: Path) -> None:
            judge, pair_scores = shared.comparing_judge(), shared.get(read) / "pair_scores.json"
            assert judge is not None
            pairs = Feedback.read(shared.get(held_out))
            found = judge_check.check(judge, pairs, shared.base_model(), json.loads(pair_scores.read_text()))
            (work / "judge.json").write_text(json.dumps(found, indent=1))

        return Stage("judge", recipe, make)

    # -- all of it ------------------------------------------------------------------------------------------------

    def parents(self) -> dict[str, Stage]:
        """Every stage behind the card."""
        shared = self.shared
        stages = {"sft": shared.sft, "annotators": shared.annotators, "agreement": self.agreement}
        stages |= {"unpaired": shared.unpaired_stage} if shared.unpaired_stage else {}
        stages |= {"completions": shared.completions("train")} if not self.task.feedback.file else {}
        stages |= {"revisions": shared.revisions_stage} if self.may("revisions") else {}
        stages |= {"pairs": shared.pairs("annotator"), "held_out": self.held_out}
        stages |= shared.reward_models(self.rewarded_by())
        if self.trains:
            stages |= {"train": self.train, "base_samples": self.base.samples, "base_scores": self.base_scores()}
            stages |= {f"scores@{place['steps']}": stage for place, stage in self.snapshot_scores()}
        check = self.judge_check()
        stages |= {"judge": check} if check else {}
        return stages | {"samples": self.samples, "scores": self.own_scores()}


def base_run(shared: SharedStages, budget: Budget | None = None, seed: int = 0) -> Run:
    """The row of the SFT base, which needs no budget."""
    return Run(BASE, registry.algorithm(BASE)(), budget or Budget(flops=float("inf")), seed, shared)
