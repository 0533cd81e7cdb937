"""PPO of TRL 1.12 beside ours: the same base, reference, reward model, prompts and compute.

    python scripts/benchmarks/trl_ppo.py [--budget small] [--seeds 2] [--rates 1e-4 3e-4 1e-3] [task.KEY=VALUE ...]

Three arms: ours by its defaults; TRL's trainer with the same values wherever a setting means the same; TRL's trainer by its
own defaults. Each gets the learning rate with the greatest gain on validation prompts (seed 0), and is then scored on test
prompts, TRL's by `isoalign score`. TRL's arms have ours' rollouts an iteration, and as many iterations as the budget covers:
the reward model at its price, and each pass by our rules, which charge the head where it is needed (TRL applies it to prompts
too), and neither an answer's last token, which predicts nothing, nor padding. What differs beside the settings: TRL has a
value model of its own, which starts from the reward model; it takes log-probabilities from decoding; its losses are means over
all tokens of a minibatch; it has no warm-up in steps, and clips neither rewards nor gradients. Writes
results/findings/trl_ppo.json. The command needs a package index for TRL 1.12 and about 15 CPU minutes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

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
from isoalign.models import loading
from isoalign.models.flops import Shape
from isoalign.models.reward import HeadReward
from isoalign.report.board.ranking import pooled_estimate
from isoalign.runs.overrides import task_named
from isoalign.stages.rounds import FeedbackRounds
from isoalign.stages.shared import SharedStages
from isoalign.training.meter import Meter
from isoalign.training.purchases import pay_reward_model
from isoalign.training.session import Session

TRL = "1.12.0"
TASK, SPLITS = "nano", ("validation", "test")
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


TRL_EPOCHS = 4  # by default


def price(policy: Shape, reward: Shape, prompt: int, answer: int, epochs: int) -> dict[str, int]:
    """FLOPs of one rollout in TRL's trainer by pass. ``prompt``, ``answer``: tokens, the last of which only the reward model
    need read; the value model is of the reward model's shape."""
    read, head = [prompt + answer - 1], [answer]
    policy_read, value_read = policy.forward(read, head), reward.forward(read, [0])
    update = policy_read + policy.backward(read, head) + value_read + reward.backward(read, [0])
    return {
        "sample": policy.prefill([prompt]) + policy.decode([prompt], [answer]), "reference": policy_read,
        "reward": reward.forward([prompt + answer], [0]), "value": value_read, "updates": epochs * update,
    }  # fmt: skip


@dataclass(frozen=True)
class Purse:
    """What a budget covers. ``start``: FLOPs of the reward model and its verdicts; ``prompts``: the length of each training
    prompt in tokens."""

    flops: float
    start: int
    policy: Shape
    reward: Shape
    prompts: Sequence[int]
    answer: int

    def bill(self, prompts: Sequence[int], epochs: int) -> int:
        """FLOPs of a run that answered the prompts of these lengths."""
        return self.start + sum(
            sum(price(self.policy, self.reward, prompt, self.answer, epochs).values()) for prompt in prompts
        )

    def iterations(self, rollouts: int, epochs: int) -> int:
        """The number of iterations that the budget covers at the mean length. Raises SystemExit for none."""
        each = (self.bill(self.prompts, epochs) - self.start) / len(self.prompts) * rollouts
        if (found := int((self.flops - self.start) / each)) < 1:
            raise SystemExit(f"a budget of {self.flops:.3g} FLOPs covers no iteration: {self.start + each:.3g} are needed")
        return found


def start_cost(shared: SharedStages, folder: Path) -> int:
    """FLOPs of the reward model of the annotator's verdicts, as a method is charged for it."""
    base, meter = shared.base_model(), Meter(Budget(1e18))
    session = Session(base, base, FeedbackRounds(shared, folder), meter, shared.task.model.new_tokens, 0)
    pay_reward_model(session, shared.reward("annotator"), "annotator")
    return meter.flops


def export(shared: SharedStages, folder: Path) -> None:
    """What TRL's side reads, in files that need none of our code. Raises SystemExit for a reward that it can't read."""
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
            tried = {rate: value(card(rate, 0, SPLITS[0]).metrics[GAIN]) for rate in rates}
            rate = max(tried, key=lambda each: tried[each])
            cards[name] = [card(rate, seed, SPLITS[1]) for seed in range(seeds)]
            metrics = {
                metric: [asdict(each.metrics[metric]) for each in cards[name]] for metric in (GAIN, "kl", "proxy_reward")
            }
            arms[name] = {
                "validation": tried,
                "learning rate": rate,
                "by seed": metrics,
                GAIN: asdict(pooled_estimate(cards[name], GAIN)),
            }
            if name == "ours":
                arms[name] |= {"spent": [each.spent["flops"] / self.purse.flops for each in cards[name]]}
            else:
                arms[name] |= {"trainings": self.records("equal" in name, rate, seeds)}
        for name in list(arms)[1:]:
            arms[f"ours minus {name}"] = asdict(gap(cards["ours"], cards[name]))
        return arms


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
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3], help="learning rates to choose from")
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
