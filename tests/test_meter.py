"""The meter: its formulas against PyTorch's own counter, and what a budget means.

The counter sees every product that the kernels run, the formulas those of the architecture alone: rotary positions and
the scores that attention's backward pass computes again (a fifth of it) are left out, and normalisation and optimizer
count for neither. So the model here is wide enough (128) and its rows are short enough for these to stay small: bills
are .14-.30% under the count, .22-.57% with LoRA; at the shape of the nano task .18-.39%. Rows are all of one length,
because padding is free by design.
"""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from isoalign.baselines.dpo import DPO
from isoalign.baselines.ppo import PPO
from isoalign.baselines.rlaif import RLAIF
from isoalign.baselines.rloo import RLOO
from isoalign.config.task import ModelConfig, RewardConfig
from isoalign.core.batches import Step
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.data.preferences import MAX_VOTES
from isoalign.models.flop_counter import MISSING
from isoalign.models.flops import Shape, shape_of
from isoalign.stages import reward
from isoalign.training import meter
from isoalign.training.lab import Lab, session_of
from isoalign.training.meter import BudgetSpent, Meter
from workbench import FAST, Bench, Size, algorithms, make_bench, make_feedback, quick


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    counter = FlopCounterMode(display=False, custom_mapping=MISSING)
    with counter:
        yield counter.get_total_flops


@pytest.fixture(scope="module")
def even_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Four layers of width 128; prompts of 8 tokens, answers of 8."""
    size = Size(width=128, layers=4, vocabulary=512, feed_forward=352)
    return make_bench(tmp_path_factory.mktemp("even"), size, [8] * 12, [8] * 12, new_tokens=8)


def executed(meter: Meter, bench: Bench) -> int:
    """The part of a bill that was worked off in the run itself: neither feedback's sampling, nor the training of the
    reward model, nor the judge's n-grams, which are no products of matrices."""
    total = sum(flops for (role, _), flops in meter.items.items() if role not in ("feedback", "judge"))
    paid_training = ("reward", "backward") in meter.items
    return total - sum(bench.source.rewards["annotator"].record["flops"].values()) * paid_training


# -- against the oracle ------------------------------------------------------------------------------------------------


COUNTED = quick([pytest.param(*each.values, 0, id=each.id) for each in algorithms()], *FAST)
ON_ADAPTERS = [pytest.param(*each.values, 8, id=f"{each.id}-8") for each in algorithms() if each.id in FAST]


@pytest.mark.usefixtures("nothing_saved")
@pytest.mark.parametrize(("name", "algorithm", "lora"), COUNTED + quick(ON_ADAPTERS, "dpo-8", "ppo-8", "online_dpo-8"))
def test_the_bill_of_a_run_is_within_one_percent_of_what_was_counted(
    even_bench: Bench, tmp_path: Path, name: str, algorithm: Any, lora: int
) -> None:
    bench = even_bench.replace(lora=lora)
    trainer = bench.trainer(algorithm, Budget(1e15, steps=2), tmp_path)
    with counting() as counted:
        trainer.run(name)
    assert trainer.meter.steps == 2
    assert executed(trainer.meter, bench) == pytest.approx(counted(), rel=0.01)


@pytest.mark.usefixtures("nothing_saved")
def test_every_pass_is_within_one_percent_of_what_was_counted(even_bench: Bench) -> None:
    for lora in (0, 8):
        lab = even_bench.replace(lora=lora).lab()
        rollouts = lab.pairs(6).chosen
        passes: dict[str, Callable[[], Any]] = {
            "sample": lambda lab=lab: lab.generate(lab.prompts(4), draws=3),
            "reference": lambda lab=lab, rollouts=rollouts: lab.reference(rollouts),
            "policy": lambda lab=lab, rollouts=rollouts: lab.policy(rollouts).logp.sum().backward(),
        }
        for name, work in passes.items():
            before = session_of(lab).meter.flops
            with counting() as counted:
                work()
            assert session_of(lab).meter.flops - before == pytest.approx(counted(), rel=0.01), (name, lora)


class Tower(nn.Module):
    """A head with a convolution, attention, and a layer that is used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.mix = nn.Linear(width, width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.last = nn.Conv1d(width, 1, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.mix(*[self.wide(self.wide(hidden).relu())] * 3)
        return self.last(mixed.transpose(1, 2)).squeeze(1)


def test_every_pass_of_an_algorithms_module_and_of_its_parts_is_charged(even_bench: Bench) -> None:
    lab = even_bench.lab()
    hidden = torch.randn(3, 5, 128, requires_grad=True)
    for part in (lambda: lab.module("tower", Tower), lambda: lab.module("tower", Tower).wide):
        part()
        before = session_of(lab).meter.flops
        with counting() as counted:
            part()(hidden).sum().backward()
        assert session_of(lab).meter.flops - before == counted()
        assert counted() >= 6 * 128 * 128 * 15
    assert {role for role, _ in session_of(lab).meter.items} == {"tower"}


class Product(nn.Module):
    """A product with a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.ones(width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.vector


def test_attention_that_is_only_read_pays_too_and_so_does_a_product_with_a_vector(even_bench: Bench) -> None:
    lab, trained, hidden = even_bench.lab(), even_bench.lab(), torch.randn(3, 5, 128)
    with torch.no_grad():
        lab.module("tower", Tower).eval()(hidden)
        trained.module("tower", Tower)(hidden)
        assert session_of(lab).meter.flops == session_of(trained).meter.flops > 0
        before = session_of(lab).meter.flops
        lab.module("vector", Product)(hidden[0])
        assert session_of(lab).meter.flops - before == 2 * 5 * 128


def test_a_copy_of_a_module_has_its_own_weights_and_is_charged_and_a_failed_pass_does_not_change_the_next_charge(
    even_bench: Bench,
) -> None:
    lab = even_bench.lab()
    head = lab.module("head", lambda width: nn.Linear(width, 1))
    target = lab.module("target", lambda _: copy.deepcopy(head))
    with torch.no_grad():
        head.weight.zero_()
        target.weight.fill_(1.0)
        assert target(torch.ones(1, 128)) - target.bias == 128
    assert sum(session_of(lab).meter.items.values()) == 2 * 128
    with pytest.raises(RuntimeError):
        head(torch.ones(1, 2))
    with torch.no_grad():
        head(torch.ones(1, 128))
    assert sum(session_of(lab).meter.items.values()) == 4 * 128


@pytest.mark.parametrize(("name", "kind", "words"), [
    ("policy", nn.Linear, "cannot take the name 'policy'"), ("critic", nn.Linear, "cannot take the name 'critic'"),
    ("memory", nn.LSTM, "the FLOPs of LSTM cannot be counted"),
])  # fmt: skip
def test_a_module_that_would_hide_on_the_bill_is_refused(even_bench: Bench, name: str, kind: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        even_bench.lab().module(name, lambda width: kind(width, 1))


def test_the_counter_without_its_missing_mappings_would_not_do(even_bench: Bench) -> None:
    rollouts = even_bench.lab().pairs(6).chosen
    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        even_bench.language_model()(rollouts)
    with torch.no_grad(), counting() as counted:
        even_bench.language_model()(rollouts)
    assert plain.get_total_flops() < counted()


@pytest.mark.usefixtures("nothing_saved")
@pytest.mark.parametrize("golden", [0, 6])
def test_the_training_of_a_reward_model_is_billed_within_one_percent(even_bench: Bench, tmp_path: Path, golden: int) -> None:
    """Looks at the golden set and the whitening included."""
    feedback = make_feedback("simulated", [8] * 12, [8] * 12, 512)
    config = RewardConfig(pairs=8, lr=1e-3, batch_size=4, epochs=2, golden=golden, patience=99)
    known = make_feedback("golden", [8] * 6, [8] * 6, 512) if golden else None
    with counting() as counted:
        reward.make_reward_model(tmp_path, even_bench.model, feedback, known, ModelConfig(str(even_bench.model)), config, 0)
    record = json.loads((tmp_path / "record.json").read_text())
    assert sum(record["flops"].values()) == pytest.approx(counted(), rel=0.01)


# -- the formulas, by hand ---------------------------------------------------------------------------------------------

SHAPE = Shape(body=1000, attention=10, head=50)
LORA = Shape(body=1000, attention=10, head=50, adapter=20, first=100)


def test_a_forward_pass_is_two_for_each_weight_and_token_four_for_each_pair_and_the_head_where_applied() -> None:
    assert SHAPE.forward([3, 1], [2, 0]) == 2 * 1000 * 4 + 4 * 10 * (9 + 1) + 2 * 50 * 2
    assert LORA.forward([3], [0]) == 2 * 1020 * 3 + 4 * 10 * 9
    assert LORA.forward([3], [0], adapter=False) == SHAPE.forward([3], [0])
    assert SHAPE.forward([], []) == 0


def test_a_backward_pass_costs_twice_the_forward() -> None:
    assert SHAPE.backward([3, 1], [2, 0]) == 2 * SHAPE.forward([3, 1], [2, 0])


def test_under_lora_frozen_weights_cost_their_input_gradient_alone_and_the_first_not_even_that() -> None:
    assert LORA.backward([3], [1]) == (2 * (1000 - 100) + 4 * 20) * 3 + 8 * 10 * 9 + 2 * 50


def test_decoding_reads_one_token_at_a_time_and_gets_the_first_from_the_prefill() -> None:
    assert SHAPE.decode([5], [1]) == SHAPE.decode([5], [0]) == 0
    # two more tokens after a context of 5: they see 6 and 7
    assert SHAPE.decode([5], [3]) == 2 * (2 * 1000 + 2 * 50) + 4 * 10 * (6 + 7)
    assert SHAPE.prefill([5]) == 2 * 1000 * 5 + 4 * 10 * 25 + 2 * 50


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=6), st.integers(0, 6))
def test_a_bill_does_not_depend_on_how_rows_were_batched(rows: list[tuple[int, int]], cut: int) -> None:
    lengths, heads = [list(column) for column in zip(*rows, strict=True)]
    for formula in (LORA.forward, LORA.backward, LORA.decode):
        assert formula(lengths, heads) == formula(lengths[:cut], heads[:cut]) + formula(lengths[cut:], heads[cut:])


def test_a_shape_is_read_off_a_model_without_embeddings_and_with_the_head_apart(tiny_bench: Bench) -> None:
    model = tiny_bench.language_model()
    body = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert model.shape == Shape(body, attention=2 * 32, head=320 * 32)
    adapted = tiny_bench.replace(lora=4).session().policy.shape
    assert (adapted.body, adapted.head, adapted.attention) == (body, 320 * 32, 64)
    assert adapted.adapter == 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
    assert adapted.first == 3 * (32 * 32 + 4 * 32)  # queries, keys and values of the first layer
    assert shape_of(model.inner, None).head == 0


# -- what a budget means -----------------------------------------------------------------------------------------------


def test_what_is_not_covered_is_refused_and_not_paid() -> None:
    meter = Meter(Budget(100, tokens=10))
    meter.charge("policy", "forward", 60, tokens=4)
    for flops, tokens in ((41, 0), (1, 7)):
        with pytest.raises(BudgetSpent):
            meter.charge("policy", "forward", flops, tokens)
    assert (meter.flops, meter.tokens) == (60, 4)
    meter.charge("policy", "backward", 40, tokens=6)
    assert meter.fraction == 1.0
    assert meter.spent()["items"] == [
        {"role": "policy", "kind": "backward", "flops": 40},
        {"role": "policy", "kind": "forward", "flops": 60},
    ]


def test_a_verdict_is_paid_once_for_each_source() -> None:
    meter = Meter(Budget(1, labels=5))
    assert meter.label("simulated", [1, 2, 2]) == 2
    assert meter.label("simulated", [2, 3]) == 1
    assert meter.label("ai", [1, 2]) == 2
    assert meter.label_count == 5
    assert meter.label("ai", [1]) == 0
    with pytest.raises(BudgetSpent, match="labels"):
        meter.label("ai", [9])
    assert meter.spent()["labels"] == {"ai": 2, "simulated": 3}


@pytest.mark.parametrize(
    ("limit", "spend"),
    [
        ({"labels": 4}, lambda meter: meter.label("ai", [0])),
        ({"tokens": 4}, lambda meter: meter.charge("policy", "sample", 0, tokens=1)),
        ({"steps": 4}, lambda meter: setattr(meter, "steps", 1)),
    ],
)
def test_the_fraction_follows_the_limit_that_is_nearest_to_its_end(limit: dict[str, int], spend: Any) -> None:
    meter = Meter(Budget(1000, **limit))
    meter.charge("policy", "forward", 100)
    assert meter.fraction == 0.1
    spend(meter)
    assert meter.fraction == 0.25


def test_a_pass_that_the_harness_makes_for_a_round_of_feedback_costs_nothing() -> None:
    meter = Meter(Budget(100))
    with meter.paused():
        meter.charge("policy", "forward", 1000, tokens=5)
        assert meter.label("human", [1, 2]) == 0
        meter.ask({"passes": 2, "tokens": 7})
    assert (meter.flops, meter.tokens, meter.label_count) == (0, 0, 0)
    assert not meter.asked
    meter.charge("policy", "forward", 10)
    assert meter.flops == 10


def test_the_clock_stops_while_shared_stages_are_made_and_continues_after_a_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    meter = Meter(Budget(1, seconds=20))
    now[0] += 5
    with meter.paused():
        now[0] += 1000
    assert meter.seconds == 5
    meter.add_seconds(3)
    state = meter.state()
    now[0] += 7777
    resumed = Meter(Budget(1, seconds=20))
    resumed.restore(state)
    now[0] += 2
    assert resumed.seconds == 10
    assert resumed.fraction == 0.5
    now[0] += 10
    with pytest.raises(BudgetSpent, match="seconds"):
        resumed.require()


def test_a_quote_sums_charges_without_charging() -> None:
    meter = Meter(Budget(10))
    with meter.quote() as price:
        meter.charge("policy", "forward", 99)
        assert meter.quoting
    assert price == {("policy", "forward"): 99}
    assert meter.flops == 0
    assert not meter.quoting


QUOTED = [(*each.values, lora) for each in algorithms() for lora in (0, 4) if not lora or each.id in FAST]


@pytest.mark.parametrize(("name", "algorithm", "lora"), QUOTED)
def test_the_quote_of_a_step_is_what_it_then_costs(tiny_bench: Bench, name: str, algorithm: Any, lora: int) -> None:
    lab = tiny_bench.replace(lora=lora).lab()
    steps = list(algorithm.iteration(lab))
    for step in steps:
        with session_of(lab).meter.quote() as price:
            step.loss(lab, step.batch)
        before = session_of(lab).meter.items.copy()
        for start in range(0, len(step.batch), 3):
            step.loss(lab, step.batch[slice(start, start + 3)])
        assert session_of(lab).meter.items - before == price


def test_a_limit_of_steps_pays_for_nothing_that_no_step_uses(tiny_bench: Bench, tmp_path: Path) -> None:
    for steps in (1, 3):
        dpo = tiny_bench.trainer(DPO(batch_size=3), Budget(1e15, steps=steps), tmp_path / f"dpo{steps}")
        dpo.run("dpo")
        assert (dpo.meter.steps, dpo.meter.label_count) == (steps, 3 * steps)
        rloo = tiny_bench.trainer(RLOO(rollouts=4, draws=2), Budget(1e15, steps=steps), tmp_path / f"rloo{steps}")
        rloo.run("rloo")
        assert (rloo.meter.steps, rloo.session.cursors["prompts"].position) == (steps, 2 * steps)
    many = tiny_bench.trainer(PPO(rollouts=8, minibatch=4, epochs=2), Budget(1e15, steps=3), tmp_path / "ppo")
    many.run("ppo")
    assert (many.meter.steps, many.session.cursors["prompts"].position) == (3, 8), "within an iteration"


def test_a_step_that_the_purse_does_not_cover_is_not_begun(tiny_bench: Bench, tmp_path: Path) -> None:
    free = tiny_bench.trainer(DPO(batch_size=4), Budget(1e15, steps=3), tmp_path)
    free.run("dpo")
    full = free.log[-1]["flops_spent"]
    exact = tiny_bench.trainer(DPO(batch_size=4), Budget(full), tmp_path)
    exact.run("dpo")
    assert (exact.meter.flops, exact.meter.steps) == (full, 3)
    short = tiny_bench.trainer(DPO(batch_size=4), Budget(full - 1), tmp_path)
    short.run("dpo")
    assert short.meter.steps == 2
    assert len(short.log) == 2
    verdicts = short.meter.items[
        "feedback", "sample"
    ]  # those of the third batch were read, and paid, before its price was known
    assert short.meter.flops - verdicts == free.log[1]["flops_spent"] - 8 * 10


@pytest.mark.parametrize(
    "limit", [{"steps": 3}, {"labels": 9}, {"tokens": 70}, {"seconds": 1e-9}], ids=lambda limit: next(iter(limit))
)
def test_a_secondary_limit_ends_a_run_that_has_flops_left(tiny_bench: Bench, tmp_path: Path, limit: dict[str, Any]) -> None:
    algorithm: Any = PPO(rollouts=6, draws=2, minibatch=6, epochs=1) if "tokens" in limit else DPO(batch_size=4)
    trainer = tiny_bench.trainer(algorithm, Budget(1e15, **limit), tmp_path)
    if "seconds" in limit:
        with pytest.raises(UserError, match=r"too small for one step of dpo: .* raise budget\.seconds$"):
            trainer.run("dpo")
        return
    trainer.run("x")
    meter = trainer.meter
    assert 0 < meter.steps <= 3
    spent = {"steps": meter.steps, "labels": meter.label_count, "tokens": meter.tokens}
    assert all(spent[name] <= most for name, most in limit.items())


def test_the_clock_ends_a_run_between_steps_and_never_within_one(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Slow(DPO):
        def loss(self, lab: Lab, pairs: Any) -> torch.Tensor:
            now[0] += 0 if session_of(lab).meter.quoting else 4
            return super().loss(lab, pairs)

    trainer = tiny_bench.trainer(Slow(batch_size=4), Budget(1e15, seconds=10), tmp_path)
    trainer.run("slow")
    # begun at 0, 4 and 8 s; the third ends at 12
    assert (trainer.meter.steps, len(trainer.log), trainer.meter.seconds) == (3, 3, 12)
    assert trainer.log[-1]["flops_spent"] == trainer.meter.flops


def test_every_verdict_of_the_feedback_is_paid_with_its_share_once_in_many_epochs(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = tiny_bench.trainer(DPO(batch_size=4), Budget(1e15, steps=9), tmp_path)
    trainer.run("dpo")
    size = len(tiny_bench.source.feedback("annotator"))
    assert trainer.meter.spent()["labels"] == {"simulated": size}
    assert trainer.meter.items["feedback", "sample"] == 10 * size


def test_every_vote_on_a_verdict_is_a_label_whoever_gave_it(tiny_bench: Bench) -> None:
    """Votes without a name are of one annotator, as those of somebody who was asked twice; numbers may be large."""
    feedback = make_feedback("human", [3, 4], [2, 2])
    rows = [{"annotators": [MAX_VOTES, 3]}, {"annotators": [0, 0, 0]}]
    source = replace(tiny_bench.source, verdicts={"annotator": replace(feedback, rows=rows)})
    lab = tiny_bench.replace(source=source).lab()
    lab.pairs(2)
    assert session_of(lab).meter.spent()["labels"] == {"human": 5}
    assert source.verdicts["annotator"].label_count == 5


def test_a_reward_model_is_paid_with_all_its_verdicts_at_its_first_use_and_never_again(tiny_bench: Bench) -> None:
    lab = tiny_bench.lab()
    rollouts = lab.generate(lab.prompts(3))
    lab.reward(rollouts)
    first = dict(session_of(lab).meter.items)
    each = tiny_bench.source.rewards["annotator"].flops(rollouts)
    assert first["reward", "forward"] == 1000 + each
    assert first["reward", "backward"] == 2000
    assert first["feedback", "sample"] == 3 * 10
    assert session_of(lab).meter.spent()["labels"] == {"simulated": 3}
    lab.reward(rollouts)
    assert session_of(lab).meter.items["reward", "forward"] == 1000 + 2 * each
    assert session_of(lab).meter.items["reward", "backward"] == 2000


def test_where_all_answers_get_one_reward_the_log_says_so(tiny_bench: Bench) -> None:
    lab = tiny_bench.lab()
    rollouts = lab.generate(lab.prompts(3))
    same = rollouts[torch.tensor([0, 0, 0])]
    assert len(set(lab.reward(rollouts).tolist())) > 1
    assert session_of(lab).take_logged() == {}
    for batches, told in (([same], True), ([same, same], True), ([same[:1]], False), ([same, rollouts], False)):
        for batch in batches:
            lab.reward(batch)
        assert session_of(lab).take_logged() == ({"equal_rewards": 1.0} if told else {})


def test_people_and_ai_are_counted_apart(tiny_bench: Bench) -> None:
    lab = tiny_bench.lab()
    rollouts = lab.generate(lab.prompts(3))
    lab.judge_score(rollouts)
    lab.judge_score(rollouts)
    lab.pairs(2)
    lab.pairs(2, labelled_by="judge")
    assert session_of(lab).meter.spent()["labels"] == {"ai": 2, "ai_scores": 6, "simulated": 2}
    assert session_of(lab).meter.items["judge", "forward"] > 0


def test_finding_a_shared_stage_made_costs_what_making_it_does(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow source takes its time; no figure on the bill may show it."""
    clock = [0.0]
    monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    @dataclass
    class SlowSource:
        source: Any

        def __getattr__(self, name: str) -> Any:
            found = getattr(self.source, name)

            def slowly(*arguments: Any) -> Any:
                clock[0] += 60
                return found(*arguments)

            return slowly if callable(found) else found

    bills = []
    for source in (tiny_bench.source, SlowSource(tiny_bench.source)):
        trainer = tiny_bench.replace(source=source).trainer(RLAIF(rollouts=4, minibatch=4), Budget(1e15, steps=8), tmp_path)
        trainer.run("rlaif")
        bills.append(trainer.meter.spent())
    miss, hit = bills[1], bills[0]
    assert clock[0] > 60
    assert miss["seconds"] == hit["seconds"] == 0
    assert hit == miss


@pytest.mark.parametrize("gather", ["prompts", "pairs", "labels", "reward", "judge_score", "generate"])
def test_a_loss_that_reads_data_is_refused_because_its_cost_cannot_be_quoted(
    tiny_bench: Bench, tmp_path: Path, gather: str
) -> None:
    class Sneaky:
        lr = 1e-3

        def iteration(self, lab: Lab) -> Iterator[Step]:
            yield Step(lab.pairs(4).chosen, self.loss)

        def loss(self, lab: Lab, rollouts: Any) -> torch.Tensor:
            if gather == "generate":
                lab.generate(tiny_bench.source.prompts())
            else:
                getattr(lab, gather)(rollouts if gather in ("reward", "judge_score") else 2)
            return -lab.policy(rollouts).logp.sum(1)

    trainer = tiny_bench.trainer(Sneaky(), Budget(1e15, steps=2), tmp_path)
    with pytest.raises(UserError, match="loss"):
        trainer.run("sneaky")


class Averages(nn.Module):
    """Two ways to keep a mean: a BatchNorm writes into its buffers, and the other one is replaced."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(width), nn.Linear(width, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1
        values: torch.Tensor = self.head(self.norm(hidden.flatten(0, 1)))
        return values.view(hidden.shape[:2])


@pytest.mark.parametrize("made_in", ["iteration", "loss"])
def test_the_buffers_of_a_module_do_not_see_the_zeros_of_a_quote(tiny_bench: Bench, tmp_path: Path, made_in: str) -> None:
    class Normed:
        lr = 1e-3

        def iteration(self, lab: Lab) -> Iterator[Step]:
            if made_in == "iteration":
                lab.module("v", Averages)
            yield Step(lab.pairs(4).chosen, self.loss)

        def loss(self, lab: Lab, rollouts: Any) -> torch.Tensor:
            values: torch.Tensor = lab.module("v", Averages)(lab.policy(rollouts).hidden)
            return (values - 1).square().sum(1)

    trainer = tiny_bench.trainer(Normed(), Budget(1e15, steps=3), tmp_path)
    trainer.run("normed")
    made: Any = trainer.session.modules["v"]
    assert int(made.norm.num_batches_tracked) == int(made.seen) == 3


def test_a_restored_meter_continues_counting() -> None:
    meter = Meter(Budget(100, labels=10))
    meter.charge("policy", "forward", 30, tokens=2)
    meter.label("ai", [4, 5])
    meter.steps = 3
    other = Meter(Budget(100, labels=10))
    other.restore(json.loads(json.dumps(meter.state())))
    assert other.spent() | {"seconds": 0} == meter.spent() | {"seconds": 0}
    assert other.label("ai", [5, 6]) == 1
