"""PPO of TRL 1.12 beside ours: the same base, reference, reward model, prompts and compute.

    python scripts/benchmarks/trl_ppo.py [--budget small] [--seeds 2] [--rates 3e-5 1e-4 3e-4 1e-3] [task.KEY=VALUE ...]

Three arms: ours by its defaults; TRL's trainer with the same values wherever a setting means the same; TRL's trainer by its
own defaults. Each gets the learning rate with the greatest gain on validation prompts that fails no gate, of a seed that is
not compared, and one rate more where the best lies at an end; it is then scored on test prompts, TRL's by `isoalign score`. A
gap is given where no test card fails a gate. TRL's arms have ours' rollouts an iteration, and as many iterations as the budget
covers, by the prices of trl_ppo_bill.py. What differs beside the settings: TRL has a value model of its own, which starts from
the reward model; it takes log-probabilities from decoding; its losses are means over all tokens of a minibatch; it has no
warm-up in steps, and clips neither rewards nor gradients. Writes
results/findings/trl_ppo.json. The command needs a package index for TRL 1.12 and about half an hour of CPU time.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from trl_ppo_bill import TRL_EPOCHS, Purse
from work import ROOT, git, measured, old_trl, processor

from isoalign import stats
from isoalign.baselines.ppo import PPO
from isoalign.config.task import TaskConfig
from isoalign.core import runtime
from isoalign.core.jsonl import write_rows
from isoalign.core.lazy import torch
from isoalign.core.records import Budget, Card, Estimate
from isoalign.core.store import Store
from isoalign.data import assets
from isoalign.evaluation import samples
from isoalign.evaluation.card import read_cards
from isoalign.evaluation.metrics.metric import UNBOUNDED
from isoalign.models import loading
from isoalign.models.reward import HeadReward
from isoalign.report.board.ranking import pooled_estimates
from isoalign.runs.overrides import task_named
from isoalign.stages.rounds import FeedbackRounds
from isoalign.stages.shared import SharedStages
from isoalign.tools.tuning.space import SEED, ends, further
from isoalign.training.meter import Meter
from isoalign.training.purchases import pay_reward_model
from isoalign.training.session import Session

TRL = "1.12.0"
TASK, SPLITS = "nano", ("validation", "test")
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
GAIN, LEVEL, READ = "toxicity_reduction", "toxicity_mean", ("toxicity_reduction", "kl", "proxy_reward")
FEWER = ("task.training.snapshots=[]", "task.training.kl_snapshots=[]", "task.evaluation.curve_draws=1")  # no curve is read


def trl_settings(ppo: PPO, task: TaskConfig, equal: bool) -> dict[str, Any]:
    """Fields of TRL's PPOConfig but for learning rate, seed and episodes; its own defaults unless ``equal``, on as many
    rollouts an iteration."""
    settings: dict[str, Any] = {"per_device_train_batch_size": ppo.rollouts, "response_length": task.model.new_tokens}
    if equal:
        first, second = task.training.betas
        settings |= {
            "num_ppo_epochs": ppo.epochs, "num_mini_batches": ppo.rollouts // ppo.minibatch, "kl_coef": ppo.kl,
            "gamma": ppo.gamma, "lam": ppo.gae_lambda, "cliprange": ppo.clip, "cliprange_value": ppo.value_clip,
            "vf_coef": ppo.value_weight, "temperature": 1.0, "adam_beta1": first, "adam_beta2": second,
            "weight_decay": task.training.weight_decay,
        }  # fmt: skip
    return settings


def start_cost(shared: SharedStages, folder: Path) -> int:
    """FLOPs of the reward model of the annotator's verdicts, as a method is charged for it."""
    base, meter = shared.base_model(), Meter(Budget(1e18))
    session = Session(base, base, FeedbackRounds(shared, folder), meter, shared.task.model.new_tokens, 0)
    pay_reward_model(session, shared.reward("annotator"), "annotator")
    return meter.flops


def export(shared: SharedStages, folder: Path) -> None:
    """What TRL's side reads, in files that need none of our code. Raises SystemExit for a reward that it can't read."""
    task = shared.task
    if task.bases > 1 or task.model.lora or task.model.bf16 or task.model.eos != "masked" or task.rounds.count > 1:
        raise SystemExit("TRL's side has one base, all its weights in fp32, one round of feedback, and answers that never end")
    base, reward, prompts = shared.base_model(), shared.reward("annotator"), shared.prompts()
    if not isinstance(reward, HeadReward) or reward.translate is not None:
        raise SystemExit("TRL's trainer takes a reward model with a scalar head and the policy's tokenizer alone")
    for name, model in (("base", base.inner), ("reward", reward.model)):
        model.save_pretrained(folder / name)
        base.tokenizer.save_pretrained(folder / name)
    scale = (reward.record["mean"], reward.record["deviation"]) if reward.normalise else (0.0, 1.0)
    rows = [tokens[mask].tolist() for tokens, mask in zip(prompts.tokens, prompts.mask, strict=True)]
    work = {"prompts": rows, "banned": base.banned.tolist(), "mean": scale[0], "deviation": scale[1]}
    (folder / "work.json").write_text(json.dumps(work))


def answer(shared: SharedStages, policy: Path, folder: Path) -> Path:
    """A policy's completions of the evaluated prompts with their KL, drawn as those of our runs, in a file."""
    task, config = shared.task, shared.task.evaluation
    model, tokenizer = loading.load_model(task.model.name, policy)
    made = shared.language_model(model, tokenizer, config.precision)
    chosen = shared.chosen_prompts(config.split)
    folder.mkdir(parents=True)
    samples.make_samples(folder, made, shared.evaluated_base(), task.model, chosen, config.draws, config.seed)
    file = folder / "answers.jsonl"
    columns = ("prompt_id", "draw", "completion", "kl", "finished")
    write_rows(file, ({name: getattr(row, name) for name in columns} for row in samples.read_samples(folder)))
    return file


@dataclass
class Comparison:
    """The arms, their cards and what they spent. ``words``: settings of the task as typed."""

    folder: Path
    store: Path
    task: TaskConfig
    words: list[str]
    purse: Purse
    trl: str

    def ours(self, rate: float, seed: int, split: str) -> Card:
        """The card of a run of ours."""
        results = self.folder / f"ours-{rate}-{seed}-{split}"
        words = [f"task={TASK}", "algorithm=ppo", "tuned=default", f"algorithm.lr={rate}", f"seed={seed}", "threads=1"]
        words += [f"budget.flops={self.purse.flops}", f"results={results}", f"store={self.store}", "tracking=off"]
        isoalign("run", *words, *self.words, f"task.evaluation.split={split}")
        return only_card(results)

    def theirs(self, equal: bool, rate: float, seed: int, split: str) -> Card:
        """The card of a policy that TRL trained."""
        name = f"trl_{'equal' if equal else 'default'}"
        place = self.folder / f"{name}-{rate}-{seed}"
        if not place.exists():
            self.train(place, equal, rate, seed)
        results = place / split
        shared = SharedStages(replace(self.task, evaluation=replace(self.task.evaluation, split=split)), Store(self.store))
        file = answer(shared, place / "policy", place / f"answers-{split}")
        words = ["--samples", str(file), "--task", TASK, "--name", name, "--results", str(results), "--store", str(self.store)]
        isoalign("score", *words, *self.words, f"task.evaluation.split={split}")
        return replace(only_card(results), seed=seed)  # of which the card knows nothing

    def train(self, place: Path, equal: bool, rate: float, seed: int) -> None:
        """Train with TRL in a process of its own, and note which share of the budget its prompts cost. Raises SystemExit where
        it fails."""
        ppo = PPO()
        epochs = ppo.epochs if equal else TRL_EPOCHS
        iterations = self.purse.iterations(ppo.rollouts, epochs)
        settings = trl_settings(ppo, self.task, equal)
        settings |= {"learning_rate": rate, "seed": seed, "total_episodes": iterations * ppo.rollouts}
        print(f"{place.name}: {iterations} iterations", file=sys.stderr)
        place.mkdir()
        (place / "settings.json").write_text(json.dumps(settings))
        script, places = "trl_ppo_side.py", (self.folder, place / "settings.json", place / "policy")
        found = measured(script, *map(str, places), path=self.trl)
        if isinstance(found, str):
            raise SystemExit(f"TRL {TRL}: {found}")
        read = found.pop("prompts")[: iterations * ppo.rollouts]
        spent = self.purse.bill(read, epochs)
        record = {"settings": settings, "iterations": iterations, "share of the budget": spent / self.purse.flops} | found
        (place / "record.json").write_text(json.dumps(record))

    def records(self, equal: bool, rate: float, seeds: int) -> list[dict[str, Any]]:
        """What TRL's side told of its trainings."""
        name = f"trl_{'equal' if equal else 'default'}"
        return [json.loads((self.folder / f"{name}-{rate}-{seed}" / "record.json").read_text()) for seed in range(seeds)]

    def report(self, rates: Sequence[float], seeds: int) -> dict[str, Any]:
        """The arms, and ours minus each of TRL's, paired by prompt, over seeds and prompts."""
        arms: dict[str, Any] = {}
        cards: dict[str, list[Card]] = {}
        made = {
            "ours": self.ours,
            "TRL, equal settings": lambda *words: self.theirs(True, *words),
            "TRL, its defaults": lambda *words: self.theirs(False, *words),
        }
        for name, card in made.items():
            tried = {rate: card(rate, SEED, SPLITS[0]) for rate in rates}
            rate = best(tried)
            if (more := beyond(rate, rates)) is not None:
                tried[more] = card(more, SEED, SPLITS[0])
                rate = best(tried)
            cards[name] = [card(rate, seed, SPLITS[1]) for seed in range(seeds)]
            metrics = {
                metric: [asdict(each.metrics[metric]) for each in cards[name]] for metric in (GAIN, "kl", "proxy_reward")
            }
            arms[name] = {
                "validation": {each: value(one.metrics[GAIN]) for each, one in tried.items()},
                "validation gates": {each: gates(one) for each, one in tried.items() if gates(one)},
                "learning rate": rate,
                "by seed": metrics,
                "gates": list(map(gates, cards[name])),
                GAIN: asdict(pooled_estimates(cards[name], {GAIN: UNBOUNDED})[GAIN]),
            }
            if name == "ours":
                arms[name] |= {"spent": [each.spent["flops"] / self.purse.flops for each in cards[name]]}
            else:
                arms[name] |= {"trainings": self.records("equal" in name, rate, seeds)}
        for name in list(arms)[1:]:
            gated = any(map(gates, (*cards["ours"], *cards[name])))
            arms[f"ours minus {name}"] = "a card fails a gate" if gated else asdict(gap(cards["ours"], cards[name]))
        return arms


def gates(card: Card) -> list[str]:
    """The gates that a card fails."""
    return [flag.text for flag in card.flags if flag.kind == "gate"]


def best(tried: Mapping[float, Card]) -> float:
    """The learning rate of the largest gain among those that fail no gate, or of all where each does."""
    usable = [rate for rate, card in tried.items() if not gates(card)] or list(tried)
    return max(usable, key=lambda rate: value(tried[rate].metrics[GAIN]))


def beyond(rate: float, rates: Sequence[float]) -> float | None:
    """The rate beyond the end at which one lies, as `isoalign tune` goes on; None for one that lies at no end."""
    values = [f"{each:g}" for each in rates]
    found = [further(values, end) for end in ends({"lr": values}, {"lr": f"{rate:g}"}).values()]
    return float(found[0]) if found and found[0] else None


def gap(ours: Sequence[Card], theirs: Sequence[Card]) -> Estimate:
    """Our gain minus theirs, paired by prompt, with an interval over seeds and prompts."""
    return stats.hierarchical(*([card.values[LEVEL] for card in cards] for cards in (theirs, ours)))


def value(estimate: Estimate) -> float:
    """The value of an estimate; minus infinity where there is none."""
    return float("-inf") if estimate.value is None else estimate.value


def only_card(folder: Path) -> Card:
    """The one card of the task under a folder of results."""
    [card] = read_cards(folder / TASK)
    return card


def isoalign(*words: str) -> None:
    """Type a command. Raises SystemExit with its last line where it fails."""
    done = subprocess.run([str(Path(sys.executable).parent / "isoalign"), *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit((done.stderr.strip().splitlines() or [f"isoalign {words[0]} failed"])[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="small", help="of the task by name, or FLOPs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "findings" / "trl_ppo.json")
    parser.add_argument("settings", nargs="*", metavar="task.KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error("--seeds must be 1 or more")
    began = time.monotonic()
    runtime.quiet()
    torch.set_num_threads(1)
    words = [*FEWER, *arguments.settings]
    task = task_named(TASK, words)
    if arguments.budget not in task.budgets and not arguments.budget.replace(".", "").replace("e", "").isdigit():
        parser.error(f"--budget must be one of {', '.join(task.budgets)} or a number of FLOPs, not {arguments.budget}")
    flops = float(task.budgets.get(arguments.budget, arguments.budget))
    store = assets.cache_dir() / "store"
    with tempfile.TemporaryDirectory() as temporary, old_trl(TRL) as trl:
        folder, shared = Path(temporary), SharedStages(task, Store(store))
        export(shared, folder)
        lengths = shared.prompts().mask.sum(1).tolist()
        shapes = (shared.base_model().shape, shared.reward("annotator").shape)  # type: ignore[attr-defined]
        purse = Purse(flops, start_cost(shared, folder / "rounds"), *shapes, lengths, task.model.new_tokens)
        arms = Comparison(folder, store, task, words, purse, trl).report(arguments.rates, arguments.seeds)
    found = {
        "command": shlex.join(["python", "scripts/benchmarks/trl_ppo.py", *sys.argv[1:]]), "commit": git("rev-parse", "HEAD"),
        "date": f"{date.today()}", "processor": processor(), "trl": TRL, "torch": torch.__version__, "budget": flops,
        "reward model": purse.start / flops, "seconds": round(time.monotonic() - began), "arms": arms,
    }  # fmt: skip
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
