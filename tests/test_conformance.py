"""Every registered algorithm, whatever it does, runs within its budget, repeats itself and leaves alone what isn't its own."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from isoalign.config.training import TrainConfig
from isoalign.core.batches import Batch, Pairs, Rollouts, Step
from isoalign.core.errors import UserError
from isoalign.core.records import Budget
from isoalign.tools.conformance import checks, examine
from isoalign.tools.conformance.algorithm_under_test import AlgorithmUnderTest, CheckFailed, NotApplicable
from isoalign.tools.conformance.checks import CHECKS
from isoalign.training import registry, trl
from isoalign.training.lab import Lab, session_of
from isoalign.training.meter import BudgetSpent
from isoalign.training.process_state import preserved
from workbench import FAST, Bench, algorithms, loops, quick, same, small, weights

ALL = pytest.mark.parametrize(
    ("name", "algorithm"), quick(algorithms() + loops(), *FAST, "sft_chosen", "best_of_n", "gkd", "drift_rloo", "dapo", "rft")
)
FLOPS = Budget(6e7)  # a few steps of the tiny model
OF_ONE_RUN = ("budget", "isolated", "metered", "pure")
OF_MORE = ("deterministic", "finite")  # of "resumes" test_resume has more
ON_THE_TOY = ("learns", "zero_reward", "large_kl_coefficient", "closed_form")


@pytest.fixture(scope="module")
def tested(tiny_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], AlgorithmUnderTest]:
    """An algorithm under test, whose runs all tests of it share."""

    @functools.cache
    def under_test(algorithm: Any) -> AlgorithmUnderTest:
        mode = {"mode": algorithm.mode} if hasattr(algorithm, "mode") else {}
        whole = dataclasses.replace(type(algorithm)(), **mode)
        return AlgorithmUnderTest(type(algorithm).__name__, whole, tiny_bench, tmp_path_factory.mktemp("tested"))

    return under_test


def conforms(tested: AlgorithmUnderTest, checks: tuple[str, ...]) -> None:
    """All checks hold. None of rows applies to a loop of one's own, and all on the toy to what declares its optimum."""
    declared = getattr(tested.algorithm, "closed_form", False)
    for check in checks:
        exempt = contextlib.suppress if check in ON_THE_TOY and not declared else pytest.raises
        free = (check in ON_THE_TOY and not declared) or (check == "pure" and tested.has_own_loop)
        with exempt(NotApplicable) if free else contextlib.nullcontext():
            CHECKS[check](tested)


class InAllWeights(AlgorithmUnderTest):
    """Trained in all its weights alone."""

    def variants(self) -> dict[str, Bench]:
        return {"all weights": self.bench}


@ALL
def test_every_algorithm_keeps_to_its_budget_leaves_alone_what_is_not_its_own_and_has_a_loss_of_rows(
    tested: Callable[[Any], AlgorithmUnderTest], name: str, algorithm: Any
) -> None:
    conforms(InAllWeights(**vars(tested(algorithm))), OF_ONE_RUN)


IN_VARIANTS = quick(algorithms() + loops(), "dpo", "kto", "ppo_critic", "rlaif-canonical")


@pytest.mark.parametrize(("name", "algorithm"), IN_VARIANTS)
def test_every_algorithm_does_so_on_an_adapter_and_with_an_open_end_too(
    tested: Callable[[Any], AlgorithmUnderTest], name: str, algorithm: Any
) -> None:
    conforms(tested(algorithm), ("budget", "isolated"))


@pytest.mark.parametrize(("name", "algorithm"), quick(algorithms() + loops(), "dpo", "ppo"))
def test_every_algorithm_repeats_itself_and_stays_finite(
    tested: Callable[[Any], AlgorithmUnderTest], name: str, algorithm: Any
) -> None:
    conforms(tested(algorithm), OF_MORE)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "algorithm"), [*algorithms(), *(each for each in loops() if each.id == "trl_dpo")])
def test_every_algorithm_does_on_the_toy_as_it_declares(
    tested: Callable[[Any], AlgorithmUnderTest], name: str, algorithm: Any
) -> None:
    conforms(tested(algorithm), ON_THE_TOY)


@ALL
def test_a_budget_too_small_for_one_step_is_a_user_error(tiny_bench: Bench, tmp_path: Path, name: str, algorithm: Any) -> None:
    trainer = tiny_bench.trainer(algorithm, Budget(5000), tmp_path)
    before = weights(trainer)
    with pytest.raises(UserError, match="too small for one step"):
        trainer.run(name)
    assert trainer.meter.flops <= 5000
    assert trainer.meter.steps == 0
    assert same(before, weights(trainer))


def test_the_sft_base_does_not_train() -> None:
    assert dataclasses.fields(registry.algorithm("sft")) == ()
    assert not hasattr(registry.algorithm("sft"), "iteration")


# -- and each check finds what it is for -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Honest:
    """Likelihood of the chosen answers, which the broken ones below depart from in one thing each."""

    batch_size: int = 4
    lr: float = 1e-3

    def iteration(self, lab: Lab) -> Iterator[Step]:
        yield Step(lab.pairs(self.batch_size).chosen, self.loss)

    def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
        return -lab.policy(rows).logp.sum(1)


class Dice(Honest):
    def iteration(self, lab: Lab) -> Iterator[Step]:
        weight = torch.rand(())
        yield Step(lab.pairs(self.batch_size).chosen, lambda lab, rows: weight * self.loss(lab, rows))


class Frail(Honest):
    """Fails on answers of one token."""

    def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
        return super().loss(lab, rows) / (rows.completion_mask.sum(1) - 1)


class Remembers(Honest):
    """Keeps a number between calls, and not in lab.state."""

    def iteration(self, lab: Lab) -> Iterator[Step]:
        object.__setattr__(self, "seen", getattr(self, "seen", 0) + 1)
        yield from super().iteration(lab)

    def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
        return super().loss(lab, rows) / self.seen  # type: ignore[attr-defined]


class Reseeds(Honest):
    def iteration(self, lab: Lab) -> Iterator[Step]:
        np.random.seed(0)
        yield from super().iteration(lab)


class Smuggles(Honest):
    def iteration(self, lab: Lab) -> Iterator[Step]:
        with torch.random.fork_rng():
            nn.Linear(3, 3)(torch.zeros(1, 3))
        yield from super().iteration(lab)


class Couples(Honest):
    def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
        losses = super().loss(lab, rows)
        return losses * losses.detach().mean()


class Lazy(Honest):
    """Asks for more than there can be after two steps."""

    def iteration(self, lab: Lab) -> Iterator[Step]:
        if lab.progress < 0.05:
            yield from super().iteration(lab)
        else:
            lab.generate(lab.prompts(4), draws=10**5)


class Backwards(Honest):
    def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
        return -super().loss(lab, rows)


class Runaway(Honest):
    """Pushes to the chosen answers at any price, and says that it has one."""

    kl_price = "price"
    closed_form = True


BROKEN = {
    "budget": (Lazy, "it ended with"),
    "deterministic": (Dice, "two runs with one seed differ in their weights and log"),
    "finite": (Frail, "no finite loss and gradient"),
    "resumes": (Remembers, "a resumed run differs in its weights"),
    "isolated": (Reseeds, "it changes numpy's random state"),
    "learns": (Backwards, "is a sign flipped"),
    "metered": (Smuggles, r"it ran Linear \(12 parameters\) outside the lab"),
    "pure": (Couples, "in micro-batches its loss is"),
}


@pytest.mark.parametrize("check", [pytest.param(each, marks=pytest.mark.slow if each == "learns" else ()) for each in BROKEN])
def test_a_check_finds_the_algorithm_that_breaks_its_demand(tiny_bench: Bench, tmp_path: Path, check: str) -> None:
    cls, words = BROKEN[check]
    with pytest.raises(CheckFailed, match=words):
        CHECKS[check](AlgorithmUnderTest("broken", dataclasses.dataclass(frozen=True)(cls)(), tiny_bench, tmp_path))


def test_rows_that_depend_on_each_other_are_found_in_a_loss_over_a_large_constant(tiny_bench: Bench, tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Small(Couples):
        def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
            return super().loss(lab, rows) / 1e8

    with pytest.raises(CheckFailed, match="gradients differ by up to"):
        CHECKS["pure"](AlgorithmUnderTest("small", Small(), tiny_bench, tmp_path))


@pytest.mark.parametrize("check", [*OF_ONE_RUN[1:], *OF_MORE])
def test_no_check_accuses_the_honest_one(tiny_bench: Bench, tmp_path: Path, check: str) -> None:
    CHECKS[check](AlgorithmUnderTest("honest", Honest(), tiny_bench, tmp_path))


@pytest.mark.slow
def test_a_kl_coefficient_without_effect_and_a_missed_closed_form_are_found(tiny_bench: Bench, tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Priced(Runaway):
        batch_size: int = 32
        price: float = 1.0

    for check in ("large_kl_coefficient", "closed_form"):
        with pytest.raises(CheckFailed, match="nats"):
            CHECKS[check](AlgorithmUnderTest("priced", Priced(), tiny_bench, tmp_path / check))


def test_changes_of_process_wide_settings_are_found_and_restored(tiny_bench: Bench, tmp_path: Path) -> None:
    class Leaves(Honest):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
            np.seterr(all="raise")
            yield from super().iteration(lab)

    before = np.geterr(), len(torch.nn.modules.module._global_forward_hooks)
    with pytest.raises(UserError, match="it changed the hooks of all modules, numpy's error handling for the whole"):
        CHECKS["isolated"](AlgorithmUnderTest("leaves", dataclasses.dataclass(frozen=True)(Leaves)(), tiny_bench, tmp_path))
    assert (np.geterr(), len(torch.nn.modules.module._global_forward_hooks)) == before


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of TRL's that does something before it begins."""

    meddle: ClassVar[Any] = staticmethod(lambda lab: None)
    batch_size: int = 4
    lr: float = 1e-3

    def train(self, lab: Lab) -> None:
        self.meddle(lab)
        trl.train(lab, "DPOTrainer", lambda: trl.preferences(lab.pairs(self.batch_size)), beta=0.1, max_length=None)


def test_an_own_training_loop_that_changes_weights_is_stopped_even_if_the_budget_ends_it(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    def meddle(lab: Lab) -> None:
        with torch.no_grad():
            next(session_of(lab).policy.inner.parameters()).add_(0.01)

    tiny_bench.trainer(Loop(), Budget(1e15, steps=2), tmp_path / "honest").run("honest")
    bold = type("Bold", (Loop,), {"meddle": staticmethod(meddle)})
    with pytest.raises(UserError, match="it changed weights of the policy or the reference"):
        tiny_bench.trainer(bold(), Budget(1e15, steps=2), tmp_path / "bold").run("bold")


def test_backward_within_a_loss_is_found(tiny_bench: Bench, tmp_path: Path) -> None:
    class Backs(Honest):
        def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
            losses = super().loss(lab, rows)
            losses.sum().backward(retain_graph=True)
            return losses

    with pytest.raises(UserError, match=r"its own code called backward\(\)"):
        tiny_bench.trainer(dataclasses.dataclass(frozen=True)(Backs)(), Budget(1e15, steps=2), tmp_path).run("backs")


def test_who_tidies_up_with_a_call_that_is_not_covered_ends_as_others_do(tiny_bench: Bench, tmp_path: Path) -> None:
    class Tidy(Honest):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            try:
                yield from super().iteration(lab)
            finally:
                lab.generate(lab.prompts(2))

    trainer = tiny_bench.trainer(dataclasses.dataclass(frozen=True)(Tidy)(), Budget(1e15, steps=3, tokens=30), tmp_path)
    trainer.run("tidy")
    assert trainer.meter.steps == 3


def test_a_factory_may_run_and_copy_its_module_and_an_interrupted_pass_leaves_no_trace(
    tiny_bench: Bench, tmp_path: Path
) -> None:
    class Tries(Honest):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            def factory(width: int) -> torch.nn.Module:
                head = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.Linear(3, 1))
                head(torch.zeros(1, width))
                return head

            head = lab.module("head", factory)
            copy.deepcopy(head)(torch.zeros(1, 32))
            yield from super().iteration(lab)

    class Quits(Honest):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            lab.module("quits", Quitter)(torch.zeros(1))
            yield from super().iteration(lab)

    class Quitter(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            raise SystemExit

    trainer = tiny_bench.trainer(dataclasses.dataclass(frozen=True)(Tries)(), Budget(1e15, steps=2), tmp_path / "tries")
    trainer.run("tries")
    assert trainer.guard.models == {}
    assert trainer.meter.items["head", "forward"] > 0
    quits = tiny_bench.trainer(dataclasses.dataclass(frozen=True)(Quits)(), Budget(1e15, steps=2), tmp_path / "quits")
    with pytest.raises(UserError, match="its code called exit"), preserved():
        quits.run("quits")
    assert not _get_current_dispatch_mode_stack()


def test_what_never_ends_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loops(Honest):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            while True:
                lab.prompts(1)

    monkeypatch.setattr("isoalign.tools.conformance.workbench.IDLE_SECONDS", 0.5)
    settings, finding = examine("loops", dataclasses.dataclass(frozen=True)(Loops)())
    assert settings.check == "settings"
    assert finding.passed is False
    assert finding.detail == "its code made no paid call to the lab for 0.5 seconds"


def test_whatever_an_algorithm_raises_is_a_finding_and_an_unknown_check_is_not() -> None:
    class Raises(Honest):
        def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
            raise KeyError("gone")

    metered, pure = examine("raises", dataclasses.dataclass(frozen=True)(Raises)(), ["metered", "pure"])
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if 'KeyError("gone")' in text)
    where = f"at {Path(__file__).parent.name}/{Path(__file__).name}:{line}"
    assert (metered.passed, metered.detail) == (False, f"KeyError: 'gone' ({where}; set ISOALIGN_DEBUG=1 for the traceback)")
    assert (pure.passed, pure.detail) == (False, "as in metered")
    with pytest.raises(UserError, match="unknown check 'mettered'; did you mean 'metered'"):
        list(examine("honest", Honest(), ["mettered"]))


# -- algorithms that misbehave -----------------------------------------------------------------------------------------


class Faulty:
    """Likelihood of the chosen answers, gone wrong at some steps."""

    lr = 1e-3

    def __init__(self, bad: set[int], how: str = "loss") -> None:
        self.bad, self.how, self.step = bad, how, 0

    def iteration(self, lab: Lab) -> Iterator[Step]:
        self.step += 1
        yield Step(lab.pairs(4).chosen, self.loss)

    def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
        losses = -lab.policy(rollouts).logp.sum(1)
        if self.step in self.bad:
            if self.how == "loss":
                return losses * float("nan")
            return (losses - losses.detach()).sqrt()  # 0, with an infinite gradient
        return losses


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_charged_and_counted_but_skipped(tiny_bench: Bench, tmp_path: Path, how: str) -> None:
    trainer = tiny_bench.trainer(Faulty({1, 3}, how), Budget(1e15, steps=4), tmp_path)
    history = [weights(trainer)]
    log_step = trainer.log_step

    def record(*row: Any) -> None:
        history.append(weights(trainer))
        log_step(*row)

    trainer.log_step = record  # type: ignore[method-assign]
    trainer.run("faulty")
    assert [same(a, b) for a, b in itertools.pairwise(history)] == [True, False, True, False]
    assert (trainer.skipped, trainer.meter.steps) == (2, 4)
    spent = [row["flops_spent"] for row in trainer.log]
    assert all(b > a for a, b in itertools.pairwise(spent))
    assert ["loss" in row for row in trainer.log] == [False, True, False, True]
    json.dumps(trainer.log, allow_nan=False)


def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run(tiny_bench: Bench, tmp_path: Path) -> None:
    config = TrainConfig(patience=3)
    trainer = tiny_bench.trainer(Faulty(set(range(3, 100))), Budget(1e15, steps=50), tmp_path, config=config)
    with pytest.raises(UserError, match="the loss or the gradient was not finite for 3 steps in a row"):
        trainer.run("faulty")
    assert trainer.skipped == 3
    trainer = tiny_bench.trainer(Faulty({1, 2, 4, 5, 7, 8}), Budget(1e15, steps=9), tmp_path, config=config)
    trainer.run("faulty")  # never three in a row
    assert trainer.skipped == 6


def test_an_algorithm_that_spends_nothing_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    class Idle:
        lr = 1.0

        def iteration(self, lab: Lab) -> Iterator[Step]:
            yield from ()

    with pytest.raises(UserError, match="spent none of the budget"):
        tiny_bench.trainer(Idle(), FLOPS, tmp_path).run("idle")


def test_a_loss_that_is_not_one_value_a_row_is_refused(tiny_bench: Bench, tmp_path: Path) -> None:
    class Mean(Faulty):
        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            return super().loss(lab, rollouts).mean()

    with pytest.raises(UserError, match=r"a loss must return one value per row: got \(\) for 4 rows"):
        tiny_bench.trainer(Mean(set()), FLOPS, tmp_path).run("mean")


class Returns(Honest):
    def iteration(self, lab: Lab) -> Any:
        return Step(lab.pairs(4).chosen, self.loss)


class Tuples(Honest):
    def iteration(self, lab: Lab) -> Any:
        yield lab.pairs(4).chosen, self.loss


@dataclasses.dataclass(frozen=True)
class Carries(Batch):
    pairs: Pairs
    more: Any
    beta: float = 0.1
    name: str = "plain values are of all rows"
    unused: None = None


def carrying(more: Callable[[Pairs], Any]) -> type:
    """An algorithm whose batch has a field of what is made of its pairs, in a batch within it."""

    class Carrying(Honest):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            pairs = lab.pairs(4)
            yield Step(Carries(pairs, Carries(pairs, more(pairs))), self.of_pairs)

        def of_pairs(self, lab: Lab, rows: Carries) -> torch.Tensor:
            return super().loss(lab, rows.pairs.chosen)

    return Carrying


class Forgets(Honest):
    def loss(self, lab: Lab, rows: Rollouts) -> Any:
        super().loss(lab, rows)


class Detached(Honest):
    def loss(self, lab: Lab, rows: Rollouts) -> torch.Tensor:
        return super().loss(lab, rows).detach()


class Hoards(Honest):
    def iteration(self, lab: Lab) -> Iterator[Step]:
        lab.state["seen"] = {"rows": [1, 2.5, "three", None, (4, 5)]}
        yield from super().iteration(lab)


class Hides(Honest):
    def iteration(self, lab: Lab) -> Iterator[Step]:
        lab.state["seen"] = [torch.ones(2)]
        yield from super().iteration(lab)


class Numbers(Honest):
    def iteration(self, lab: Lab) -> Iterator[Step]:
        lab.state["seen"] = {3: 1.0}
        yield from super().iteration(lab)


class Counts(Honest):
    def iteration(self, lab: Lab) -> Iterator[Step]:
        self.lr = 2.0  # type: ignore[misc]
        yield from super().iteration(lab)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Returns, r"iteration\(lab\) returned a Step; it must yield"),
        (Tuples, r"iteration\(lab\) yielded a tuple; it must yield"),
        (
            carrying(lambda pairs: pairs.index.tolist()),
            r"a field more\.more of type list, .*; make it a tensor \[B\] or a Batch",
        ),
        (carrying(lambda pairs: {"index": pairs.index}), r"a field more\.more of type dict, which is not cut by rows"),
        (carrying(lambda pairs: (1.0, 2.0)), r"a field more\.more of type tuple, which is not cut by rows"),
        (carrying(lambda pairs: pairs.index.numpy()), r"a field more\.more of type ndarray, which is not cut by rows"),
        (carrying(lambda pairs: pairs.index.sum()), r"a field more\.more of type tensor without rows, which is not cut"),
        (carrying(lambda pairs: pairs.index[1:]), r"has 4 rows in pairs\.chosen\.tokens and 3 in more\.more; each row needs"),
        (Forgets, r"must return a tensor \[B\] of one value per row, not None"),
        (Detached, "the loss has no gradient: it is detached"),
        (Hoards, r"lab.state\['seen'\]\['rows'\]\[4\] holds a tuple, which a checkpoint cannot restore"),
        (Hides, r"lab.state\['seen'\]\[0\] holds a Tensor, which a checkpoint cannot restore"),
        (Numbers, r"lab.state\['seen'\] has an int as a key, which a checkpoint cannot restore"),
        (Counts, r"cannot assign to field 'lr'; .* goes into lab.state, weights into lab.module \(at .*test_conf"),
    ],
)
def test_a_broken_protocol_is_reported(cls: type, words: str) -> None:
    (finding,) = examine("wrong", dataclasses.dataclass(frozen=True)(cls)(), ["metered"])
    assert finding.passed is False
    assert re.search(words, finding.detail)


def test_a_batch_within_a_batch_and_plain_values_are_taken() -> None:
    (finding,) = examine("right", dataclasses.dataclass(frozen=True)(carrying(lambda pairs: pairs.index))(), ["metered"])
    assert finding.passed, finding.detail


def test_a_setting_without_a_type_and_a_method_without_a_learning_rate_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"beta = 0.1 has no type annotation, so it is not a setting; write beta: float = 0.1"):
        registry.register(type("Untyped", (), {"beta": 0.1, "__module__": "mine"}))
    monkeypatch.setitem(
        registry._registered, "isoalign.baselines.dpo", registry.register(type("Still", (), {"iteration": None}))
    )
    with pytest.raises(UserError, match="Still has no learning rate; give it a field: lr: float = 1e-4"):
        registry.algorithm("dpo")


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("name: dpo\nbeta: 0.1\nbatch_size: 16\nlr: 0.0001\n", "batch_size is 16 in the file and 32 in the class"),
        ("name: dpo\nbeta: 0.1\nlr: 0.0001\n", "batch_size is missing"),
        ("name: dpo\nbeta: 0.1\nbatch_size: 32\nlr: 0.0001\ngamma: 1\n", "'gamma' is not a field"),
        ("name: other\nbeta: 0.1\nbatch_size: 32\nlr: 0.0001\n", "name must be dpo"),
    ],
)
def test_a_yaml_that_departs_from_its_class_is_found(
    tiny_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, yaml: str, words: str
) -> None:
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "dpo.yaml").write_text(yaml)
    monkeypatch.setattr(checks, "folders", lambda: [tmp_path])
    with pytest.raises(CheckFailed, match=rf"dpo.yaml: .*{words}"):
        CHECKS["settings"](AlgorithmUnderTest("dpo", registry.algorithm("dpo")(), tiny_bench, tmp_path))


@pytest.mark.parametrize("name", registry.algorithm_names())
def test_the_yaml_of_every_algorithm_is_its_class(tiny_bench: Bench, tmp_path: Path, name: str) -> None:
    CHECKS["settings"](AlgorithmUnderTest(name, registry.algorithm(name)(), tiny_bench, tmp_path))


def test_kl_price_must_name_a_field(tiny_bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="kl_price names 'price', which is not a field"):
        CHECKS["settings"](AlgorithmUnderTest("runaway", dataclasses.dataclass(frozen=True)(Runaway)(), tiny_bench, tmp_path))


def test_an_algorithm_cannot_swallow_the_end_of_its_budget(tiny_bench: Bench, tmp_path: Path) -> None:
    class Deaf(Faulty):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            with contextlib.suppress(BudgetSpent):
                yield from super().iteration(lab)

    trainer = tiny_bench.trainer(Deaf(set()), Budget(1e15, steps=2), tmp_path)
    trainer.run("deaf")
    assert trainer.meter.steps == 2


# -- what the harness alone decides ------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_then_decays_to_zero_with_the_budget(tiny_bench: Bench, tmp_path: Path) -> None:
    config = TrainConfig(warmup=4)
    trainer = tiny_bench.trainer(small("dpo", lr=0.5), Budget(1e15, steps=20), tmp_path, config=config)
    trainer.run("dpo")
    rates = [row["lr"] for row in trainer.log]
    hoped = [0.5 * min(1, (step + 1) / 4) * (1 - step / 20) for step in range(20)]
    assert rates == pytest.approx(hoped)


def test_what_is_paid_before_the_first_step_does_not_shorten_the_schedule(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = tiny_bench.trainer(small("ppo", lr=0.5), FLOPS, tmp_path, config=TrainConfig(warmup=0))
    trainer.run("ppo")
    assert trainer.session.started_at > 0
    assert trainer.log[0]["lr"] == 0.5
    assert trainer.log[-1]["lr"] < 0.25


def test_gradients_are_clipped_in_the_policy_and_in_each_module_apart(tiny_bench: Bench, tmp_path: Path) -> None:
    trainer = tiny_bench.trainer(small("ppo"), Budget(1e15, steps=1), tmp_path, config=TrainConfig(clip=1e-3))
    norms, clip = {}, trainer.clip

    def watch(parameters: list[nn.Parameter]) -> float:
        found = clip(parameters)
        norms[len(parameters)] = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in parameters if p.grad is not None))
        return found

    trainer.clip = watch  # type: ignore[method-assign]
    trainer.run("ppo")
    assert len(norms) == 2
    assert all(norm <= 1.001e-3 for norm in norms.values())


def test_scalars_of_one_step_are_averaged_and_belong_to_that_step(tiny_bench: Bench, tmp_path: Path) -> None:
    class Talks(Faulty):
        def iteration(self, lab: Lab) -> Iterator[Step]:
            lab.log(seen=10.0 * self.step)
            yield from super().iteration(lab)

        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            lab.log(rows=float(len(rollouts)))
            return super().loss(lab, rollouts)

    config = TrainConfig(micro_batch=3)
    trainer = tiny_bench.trainer(Talks(set()), Budget(1e15, steps=2), tmp_path, config=config)
    trainer.run("talks")
    assert [row["seen"] for row in trainer.log] == [0.0, 10.0]
    assert [row["rows"] for row in trainer.log] == [2.5, 2.5]  # 3 rows log 3, and the fourth logs 1


def test_a_loss_may_gather_logits_at_tokens(tiny_bench: Bench, tmp_path: Path) -> None:
    class Gatherer:
        lr = 1e-3

        def iteration(self, lab: Lab) -> Iterator[Step]:
            yield Step(lab.pairs(4).chosen, self.loss)

        def loss(self, lab: Lab, rollouts: Rollouts) -> torch.Tensor:
            tokens = rollouts.completion.unsqueeze(-1)
            return -lab.policy(rollouts).logits.gather(-1, tokens).squeeze(-1).sum(1)

    trainer = tiny_bench.trainer(Gatherer(), Budget(1e15, steps=2), tmp_path)
    trainer.run("gatherer")
    assert trainer.meter.steps == 2


@pytest.mark.parametrize("what", ["prompts", "pairs", "labels", "revisions"])
@pytest.mark.parametrize("count", [0, -3])
def test_a_batch_size_below_one_is_refused(tiny_bench: Bench, what: str, count: int) -> None:
    with pytest.raises(UserError, match=f"^{count} {what} requested,"):
        getattr(tiny_bench.lab(), what)(count)


def test_the_judge_prefers_by_the_odds_of_acceptability(tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tiny_bench.lab()
    monkeypatch.setattr(lab, "judge_score", torch.tensor)
    # odds of 9, 3 and 1 against 1, 1 and 1: they win 9 of 10, 3 of 4, 1 of 2
    first: Any = [0.9, 0.75, 0.5, 1.0]
    second: Any = [0.5, 0.5, 0.5, 0.0]
    *some, certain = lab.judge(first, second).tolist()
    assert some == pytest.approx([0.9, 0.75, 0.5])
    assert 0.99 < certain < 1, "no verdict is quite certain"
