"""Reward models: heads on any base, classifiers, ensembles, and what is done to a reward before it is one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, BertForSequenceClassification

from architectures import build
from isoalign.config.task import ModelConfig, RewardConfig, SFTConfig, ShapingConfig, TaskConfig
from isoalign.config.training import TrainConfig
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.data.preferences import Feedback, rollouts
from isoalign.models import loading
from isoalign.models.classifiers import WordClassifier
from isoalign.models.flops import shape_of
from isoalign.models.reward import ClassifierReward, HeadReward, Retokenizer, Shaped, load_reward_model
from isoalign.models.scalar_head import load_scalar_head
from isoalign.stages import reward, sft
from workbench import COMMAND, Bench, Size, Terminal, complaint, make_feedback, write_model, write_reward


class Fixed:
    """A reward model that says what it is told, for arithmetic by hand."""

    def __init__(self, *rewards: float) -> None:
        self.rewards = torch.tensor(rewards)

    def __call__(self, _: Rollouts) -> torch.Tensor:
        return self.rewards

    def flops(self, rollouts: Rollouts) -> int:
        return 7 * len(rollouts)

    def training_bill(self) -> list[tuple[str, str, int]]:
        return [("feedback", "sample", 100), ("reward", "forward", 20), ("reward", "backward", 40)]

    def seconds(self) -> float:
        return 1.5

    def verdicts(self) -> dict[str, list[int]]:
        return {"simulated": [3, 1]}


TWO = rollouts([[0, 5], [0]], [[6, 7, 8], [9]], pad=1)  # three tokens, and one


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ShapingConfig(members=2), [2.0, 0.0]),
        (ShapingConfig(members=2, combine="worst"), [1.0, -4.0]),
        (ShapingConfig(members=2, combine="uncertainty", uncertainty=0.5), [2.0 - 0.5 * 1.0, 0.0 - 0.5 * 16.0]),
        (ShapingConfig(members=2, length_penalty=0.5), [2.0 - 1.5, -0.5]),
        (ShapingConfig(members=2, combine="worst", clip=1.5), [1.0, -1.5]),
    ],
)
def test_members_are_combined_as_their_paper_says(config: ShapingConfig, expected: list[float]) -> None:
    shaped = Shaped([Fixed(1.0, 4.0), Fixed(3.0, -4.0)], config)
    assert shaped(TWO).tolist() == expected


def test_an_ensemble_pays_for_its_verdicts_once_and_for_every_training_and_pass() -> None:
    shaped = Shaped([Fixed(0.0, 0.0), Fixed(0.0, 0.0)], ShapingConfig(members=2))
    bill = shaped.training_bill()
    assert sum(flops for role, _, flops in bill if role == "feedback") == 100
    assert sum(flops for role, _, flops in bill if role == "reward") == 120
    assert (shaped.flops(TWO), shaped.seconds(), shaped.verdicts()) == (28, 3.0, {"simulated": [3, 1]})


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"members": 0}, "task.shaping.members"), ({"combine": "best"}, "task.shaping.combine"),
        ({"clip": -1.0}, "task.shaping.clip"),
    ],
)  # fmt: skip
def test_a_shaping_that_makes_no_sense_is_named(bad: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ShapingConfig(**bad)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"hard": 1.5}, "task.reward.hard"), ({"golden": -1}, "task.reward.golden"),
        ({"classifier": "tox_block"}, "task.reward.classifier must be annotator or hf:"),
        ({"classifier": "annotator", "base": "nano"}, "set one"),
    ],
)  # fmt: skip
def test_a_reward_model_that_makes_no_sense_is_named(bad: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RewardConfig(pairs=1, lr=1.0, **bad)


# -- which verdicts are read ----------------------------------------------------------------------------------------------


def with_gaps(gaps: list[float]) -> Feedback:
    feedback = make_feedback("simulated", [3] * len(gaps), [2] * len(gaps))
    return replace(feedback, rows=[{"pair_id": str(i), "gap": gap} for i, gap in enumerate(gaps)])


def test_hard_verdicts_are_those_whose_answers_differ_least() -> None:
    feedback = with_gaps([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4])
    config = RewardConfig(pairs=4, lr=1.0)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(5)).tolist()
    assert reward.chosen_verdicts(feedback, config, 5) == order[:4]
    assert sorted(reward.chosen_verdicts(feedback, replace(config, hard=1.0), 5)) == [1, 3, 5, 7]
    half = reward.chosen_verdicts(feedback, replace(config, hard=0.5), 5)
    rest = [i for i in order if i not in (1, 3)][:2]
    assert sorted(half) == sorted([1, 3, *rest])
    assert half == [i for i in order if i in half]  # read in the shuffle's order, not the hard ones first


def test_without_scores_the_nearest_are_those_that_share_most_tokens() -> None:
    feedback = make_feedback("simulated", [3] * 3, [2] * 3)
    answers = ([[1, 2], [1, 2], [1, 2]], [[3, 4], [1, 2], [1, 4]])
    feedback = replace(feedback, chosen=answers[0], rejected=answers[1])
    assert reward.chosen_verdicts(feedback, RewardConfig(pairs=1, lr=1.0, hard=1.0), 0) == [1]


def test_of_too_few_verdicts_all_are_read_and_of_golden_ones_there_must_be_enough() -> None:
    feedback = with_gaps([0.5] * 3)
    assert sorted(reward.chosen_verdicts(feedback, RewardConfig(pairs=4, lr=1.0), 0)) == [0, 1, 2]
    with pytest.raises(UserError, match=r"task\.reward\.golden is 4, but the validation split has only 3 pairs"):
        reward.golden_verdicts(feedback, 4, 0)


# -- training -------------------------------------------------------------------------------------------------------------


def test_members_read_the_same_verdicts_and_learn_other_heads(tiny_bench: Bench, tmp_path: Path) -> None:
    feedback, config = tiny_bench.source.verdicts["annotator"], RewardConfig(pairs=6, lr=1e-3, batch_size=3)
    model = ModelConfig(str(tiny_bench.model))
    records, heads = [], []
    for member in (0, 1):
        folder = tmp_path / str(member)
        folder.mkdir()
        reward.make_reward_model(folder, tiny_bench.model, feedback, None, model, config, 0, member)
        records.append(json.loads((folder / "record.json").read_text()))
        heads.append(HeadReward(folder, model).model.score.weight)
    assert records[0]["verdicts"] == records[1]["verdicts"]
    assert records[0]["flops"] == records[1]["flops"]
    assert not torch.allclose(heads[0], heads[1], atol=1e-2)


def test_the_best_look_at_the_golden_set_is_kept_and_patience_ends_the_training(tiny_bench: Bench, tmp_path: Path) -> None:
    """A learning rate that wrecks the model: accuracy moves, so the end need not be the best."""
    feedback = tiny_bench.source.verdicts["annotator"]
    config = RewardConfig(pairs=8, lr=0.2, batch_size=1, epochs=20, golden=5, patience=2)
    reward.make_reward_model(tmp_path, tiny_bench.model, feedback, feedback, ModelConfig(str(tiny_bench.model)), config, 1)
    record = json.loads((tmp_path / "record.json").read_text())
    best = max(record["golden_accuracy"])
    last_gain = max(
        i for i, accuracy in enumerate(record["golden_accuracy"]) if accuracy > max(record["golden_accuracy"][:i], default=-1)
    )
    assert len(record["golden_accuracy"]) == min(reward.EVALUATIONS, last_gain + 1 + 2)
    kept = HeadReward(tmp_path, ModelConfig(str(tiny_bench.model)))
    pairs = feedback.pairs(torch.tensor(record["golden"]), kept.pad)
    assert (kept(pairs.chosen) > kept(pairs.rejected)).float().mean().item() == pytest.approx(best)
    assert not [file for file in tmp_path.iterdir() if "checkpoint" in file.name or "trainer" in file.name]


def test_training_that_ends_early_is_billed_by_the_rows_that_it_read(tiny_bench: Bench, tmp_path: Path) -> None:
    feedback, seed = tiny_bench.source.verdicts["annotator"], 5
    config = RewardConfig(pairs=8, lr=1e-12, batch_size=7, epochs=5, golden=4, patience=2)  # so accuracy never changes
    model = ModelConfig(str(tiny_bench.model))
    reward.make_reward_model(tmp_path, tiny_bench.model, feedback, feedback, model, config, seed)
    record = json.loads((tmp_path / "record.json").read_text())
    assert len(record["golden_accuracy"]) == 3  # after steps of 7, 1 and 7 pairs: 15 of 40 in 3 of 10 steps
    generator = torch.Generator().manual_seed(seed)
    order = [*torch.randperm(8, generator=generator).tolist(), *torch.randperm(8, generator=generator).tolist()[:7]]
    read = [record["verdicts"][place] for place in order]
    lengths = [len(feedback.prompts[i]) + len(side[i]) for i in read for side in (feedback.chosen, feedback.rejected)]
    shape = shape_of(load_reward_model(model.name, tmp_path)[0].requires_grad_(True), None)
    assert record["flops"]["backward"] == shape.backward(lengths, [0] * 30)


def test_a_golden_verdict_is_read_as_it_was_before_noise_flipped_it(tiny_bench: Bench) -> None:
    feedback = replace(tiny_bench.source.verdicts["annotator"])
    flipped = replace(feedback, rows=[row | {"clean": i != 0} for i, row in enumerate(feedback.rows)])
    rows = reward.token_rows(flipped, [0, 1], None, clean=True)
    assert rows[0][:2] == (feedback.prompts[0], feedback.rejected[0])
    assert rows[1][:2] == (feedback.prompts[1], feedback.chosen[1])
    assert reward.token_rows(flipped, [0], None)[0][1] == feedback.chosen[0]


def test_a_head_on_another_base_reads_the_same_texts_with_its_own_tokenizer(tiny_bench: Bench, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", Size(width=48, vocabulary=300, seed=3))
    feedback, config = tiny_bench.source.verdicts["annotator"], RewardConfig(pairs=4, lr=1e-3, batch_size=2, base=str(other))
    (tmp_path / "work").mkdir()
    model = ModelConfig(str(tiny_bench.model))
    reward.make_reward_model(tmp_path / "work", tiny_bench.model, feedback, None, model, config, 0)
    rewarder = HeadReward(tmp_path / "work", model, str(other))
    pairs = feedback.pairs(torch.tensor(json.loads((tmp_path / "work" / "record.json").read_text())["verdicts"]), 1)
    said = torch.cat([rewarder(pairs.chosen), rewarder(pairs.rejected)])
    assert said.mean().item() == pytest.approx(0, abs=1e-5)
    assert said.std().item() == pytest.approx(1, abs=1e-5)
    own, theirs = loading.load_tokenizer(str(tiny_bench.model)), loading.load_tokenizer(str(other))
    translate = Retokenizer(own, theirs)
    text = "you are a lovely page"
    assert theirs.decode(translate.prompt(own(text)["input_ids"]), skip_special_tokens=True) == text
    assert translate.prompt(own(text)["input_ids"])[0] == theirs.bos_token_id
    assert translate.answer([]) == [theirs.eos_token_id]
    assert translate.answer([*own(text, add_special_tokens=False)["input_ids"], own.eos_token_id])[-1] == theirs.eos_token_id


def test_a_classifiers_reward_is_its_logit_of_not_toxic_whitened(tiny_bench: Bench, tmp_path: Path) -> None:
    from isoalign.data.comments import Comment
    from isoalign.tools.conformance.workbench import KIND, RUDE

    annotator = WordClassifier.fit([Comment(f"{text} {n}", text in RUDE) for n in range(4) for text in KIND + RUDE])
    own = loading.load_tokenizer(str(tiny_bench.model))
    ids = [own(text, add_special_tokens=False)["input_ids"] for text in KIND + RUDE]
    feedback = replace(
        make_feedback("simulated", [3] * 4, [2] * 4), chosen=ids[:4], rejected=ids[4:], prompts=[[0, 5]] * 4
    )  # fmt: skip
    model = ModelConfig(str(tiny_bench.model))
    reward.make_classifier_reward(tmp_path, feedback, model, lambda folder: ClassifierReward(folder, model, annotator))
    batch = rollouts([[0, 5]] * 8, ids, int(own.pad_token_id))
    logits = [-math.log(p / (1 - p)) for p in annotator(KIND + RUDE)]
    mean = sum(logits) / 8
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logits) / 7)
    rewarder = ClassifierReward(tmp_path, model, annotator)
    assert rewarder(batch).tolist() == pytest.approx([(x - mean) / deviation for x in logits], rel=1e-4)
    raw = ClassifierReward(tmp_path, model, annotator, normalise=False)
    assert raw(batch).tolist() == pytest.approx(logits, rel=1e-4)
    assert rewarder.flops(batch) == annotator.flops(KIND + RUDE)
    assert rewarder.training_bill() == [("reward", "forward", annotator.flops(KIND + RUDE)), ("reward", "backward", 0)]
    assert rewarder.verdicts() == {}


def test_rewards_that_are_not_normalised_keep_their_scale(tiny_bench: Bench, tmp_path: Path) -> None:
    folder, config = write_reward(tmp_path, tiny_bench.model, 4), ModelConfig(str(tiny_bench.model))
    whiten, raw = HeadReward(folder, config), HeadReward(folder, config, normalise=False)
    torch.testing.assert_close(raw(TWO), whiten(TWO) * 2.0 + 0.1)


# -- a scalar head on any architecture --------------------------------------------------------------------------------------

ENDED = [torch.tensor(ids) for ids in ([3, 9, 41, 5, 2], [3, 8, 7, 6, 5, 4, 50, 60, 2], [3, 44, 2])]  # each ends in eos, 2


def padded(rows: list[torch.Tensor], side: str, pad: int) -> dict[str, torch.Tensor]:
    """Rows in a batch of 11 columns."""
    ids, mask = torch.full((len(rows), 11), pad), torch.zeros(len(rows), 11, dtype=torch.long)
    for place, row in enumerate(rows):
        columns = slice(11 - len(row), 11) if side == "left" else slice(0, len(row))
        ids[place, columns], mask[place, columns] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def by_hand(model: Any, head: torch.Tensor, rows: list[torch.Tensor]) -> list[float]:
    """The head applied to the last state of each row, without a batch and without padding."""
    return [float(model.base_model(input_ids=row[None])[0][0, -1] @ head[0]) for row in rows]


@pytest.mark.parametrize(
    "name",
    ["llama", "gpt2", "gpt_neox", "opt:projected", "bloom", "granite", "cohere", "gemma2", "xglm", "olmoe", "mamba", "lfm2",
     "recurrent_gemma", "falcon_h1"],
)  # fmt: skip
@torch.no_grad()
def test_a_reward_is_read_at_the_last_token_whatever_the_architecture_and_the_padding(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.save_pretrained(tmp_path / "base")
    reward = load_scalar_head(str(tmp_path / "base")).eval()
    reward.score.weight.normal_()
    assert reward.score.weight.shape == (1, model.get_output_embeddings().weight.shape[1])
    expected = by_hand(model, reward.score.weight, ENDED)
    for side in ("left", "right"):
        for pad in (0, 2):
            found = reward(**padded(ENDED, side, pad)).logits
            assert found.shape == (3, 1)
            assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    reward.save_pretrained(tmp_path / "head")
    again = load_scalar_head(str(tmp_path / "head")).eval()
    assert torch.equal(again(**padded(ENDED, "left", 2)).logits, reward(**padded(ENDED, "left", 2)).logits)


@torch.no_grad()
def test_where_transformers_has_a_class_the_head_is_the_same(tiny_bench: Bench, tmp_path: Path) -> None:
    """Same first head, same names of weights, and the same rewards where no padding is an end."""
    torch.manual_seed(5)
    theirs = AutoModelForSequenceClassification.from_pretrained(tiny_bench.model, num_labels=1, dtype=torch.float32).eval()
    torch.manual_seed(5)
    ours = load_scalar_head(str(tiny_bench.model)).eval()
    assert type(ours).__name__ == type(theirs).__name__
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    rows = [row[:-1] for row in ENDED]
    batch = padded(rows, "right", 1)
    torch.testing.assert_close(ours(**batch).logits, theirs(**batch).logits)


def test_an_encoder_keeps_its_own_classifier(tmp_path: Path) -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(tmp_path)
    assert isinstance(load_scalar_head(str(tmp_path)), BertForSequenceClassification)


def write_ending(folder: Path, name: str) -> Path:
    """A model of an architecture with the tiny tokenizer, whose padding token is its end token."""
    write_model(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<|endoftext|>"}))
    build(name, vocab_size=320, eos_token_id=0, pad_token_id=0, bos_token_id=0).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["llama", "granite"])
def test_the_loss_of_training_is_that_of_rows_without_padding(name: str, tmp_path: Path) -> None:
    model, tokenizer = load_reward_model(str(folder := write_ending(tmp_path / "base", name)), folder)
    model.requires_grad_(True).score.weight.data.normal_()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    chosen, rejected = [[0, 5, 9, 7, 0], [0, 5, 9, 0]], [[0, 5, 9, 8, 8, 8, 8], [0, 5, 9, 30, 0]]
    rows = [(up[:2], up[2:], down[2:]) for up, down in zip(chosen, rejected, strict=True)]
    losses = reward.BradleyTerry(model, 0, "float32")(reward.paired(rows, [0, 1], 0))
    up, down = ([by_hand(model, model.score.weight, [torch.tensor(ids)])[0] for ids in side] for side in (chosen, rejected))
    expected = [math.log1p(math.exp(b - a)) for a, b in zip(up, down, strict=True)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("name", "lora"), [("llama", 0), ("granite", 2), ("olmoe", 0), ("mamba", 0)])
def test_a_reward_model_of_any_architecture_is_trained_saved_and_scores_ends(name: str, lora: int, tmp_path: Path) -> None:
    folder, work = write_ending(tmp_path / "base", name), tmp_path / "work"
    work.mkdir()
    feedback = make_feedback("simulated", [3, 5, 4, 6], [2, 4, 3, 5])
    feedback = replace(feedback, chosen=[[*ids, 0] for ids in feedback.chosen])
    config = ModelConfig(str(folder), lora=lora)
    reward.make_reward_model(work, folder, feedback, None, config, RewardConfig(pairs=4, lr=1e-3, batch_size=2), 0)
    rewarder = HeadReward(work, config)
    assert rewarder.pad == 0
    found = rewarder(rollouts(feedback.prompts, feedback.chosen, 0)).tolist()
    whole = [torch.tensor(p + a) for p, a in zip(feedback.prompts, feedback.chosen, strict=True)]
    raw = by_hand(rewarder.model, rewarder.model.score.weight, whole)
    record = rewarder.record
    assert found == pytest.approx([(value - record["mean"]) / record["deviation"] for value in raw], abs=1e-3)


def test_a_base_that_can_not_have_a_head_is_one_line(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(UserError, match=r"cannot load the reward model") as caught:
        load_reward_model(str(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


# -- by the command ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_ensemble_on_another_base_trains_a_policy_and_is_on_its_bill(furnished: Terminal, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", Size(width=48, vocabulary=300, seed=3))
    words = [f"task.reward.base={other}", "task.reward.golden=4", "task.reward.hard=0.5", "task.shaping.members=2",
             "task.shaping.combine=worst", "task.shaping.length_penalty=0.1", "task.shaping.clip=2"]  # fmt: skip
    done = furnished(furnished.run("algorithm=ppo", "algorithm.rollouts=8", "algorithm.minibatch=8", "budget.steps=2", *words))
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1])
    card = json.loads(path.read_text())
    assert {"reward_annotator", "reward_annotator_2"} <= card["parents"].keys()
    assert card["spent"]["labels"] == {"golden": 4, "simulated": 16}
    assert card["metrics"]["rm_accuracy"]["value"] is not None
    verified = furnished([COMMAND, "verify", str(path), "--store", str(furnished.store)])
    assert verified.returncode == 0, verified.stdout
    log = (furnished.store / f"train-{card['parents']['train']}" / "log.jsonl").read_text().splitlines()
    rewards = [row["reward"] for line in log if "reward" in (row := json.loads(line))]
    assert rewards
    assert all(abs(reward) <= 2 for reward in rewards)


def test_an_evaluation_scorer_can_not_be_the_reward(furnished: Terminal, tmp_path: Path) -> None:
    name = "hf:somewhere"
    words = [f"task.reward.classifier={name}", f"task.evaluation.second_scorer={name}"]
    line = complaint(furnished(furnished.run("algorithm=ppo", "budget.steps=2", *words)))
    assert f"task.reward.classifier {name} is an evaluation scorer" in line


def test_a_reward_model_trained_in_small_parts_is_the_same(tiny_bench: Bench, tmp_path: Path) -> None:
    feedback, config = tiny_bench.source.verdicts["annotator"], RewardConfig(pairs=8, lr=1e-3, batch_size=4)
    model, found = ModelConfig(str(tiny_bench.model)), []
    for training in (None, TrainConfig(micro_batch=4, gradient_checkpointing=True)):
        folder = tmp_path / str(training is None)
        folder.mkdir()
        reward.make_reward_model(folder, tiny_bench.model, feedback, None, model, config, 0, 0, training)
        found.append((json.loads((folder / "record.json").read_text()), HeadReward(folder, model).model.state_dict()))
    (whole, weights), (parts, others) = found
    assert whole["flops"] == parts["flops"]
    assert whole["mean"] == pytest.approx(parts["mean"], abs=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], atol=1e-5, rtol=1e-4)


def test_an_sft_base_trained_in_small_parts_is_the_same(tiny_bench: Bench, tmp_path: Path, cache: Path) -> None:
    weights = []
    for training in (TrainConfig(), TrainConfig(micro_batch=3, gradient_checkpointing=True)):
        folder = tmp_path / str(training.micro_batch)
        folder.mkdir()
        model = ModelConfig(str(tiny_bench.model), eos="open", new_tokens=8)
        task = TaskConfig("tiny", model, SFTConfig(2, 1e-3, batch_size=6), RewardConfig(4, 1e-3), training=training)
        sft.make_sft(folder, task)
        weights.append(loading.load_model(str(tiny_bench.model), folder)[0].state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-5, rtol=1e-4)
