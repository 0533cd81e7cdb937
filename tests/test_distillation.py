"""The teacher of a task: what it may be, what its passes cost, and the methods that distil it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from isoalign.baselines.gkd import GKD, divergence
from isoalign.baselines.opd import OPD
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.runs.overrides import task_named
from isoalign.stages.teacher import check_teacher
from isoalign.training.lab import session_of
from workbench import Bench, Size, Terminal, complaint, finished, nudge, stages, write_model


@torch.no_grad()
def test_the_teacher_may_write_what_the_policy_may_and_is_paid_by_its_own_shape(tiny_bench: Bench) -> None:
    lab = tiny_bench.replace(ends=True, words=(40, 41, 42, 0)).lab()
    session = session_of(lab)
    answers = lab.generate(lab.prompts(6), 2, by="teacher")
    assert set(answers.completion[answers.completion_mask].tolist()) <= {40, 41, 42, 0}
    outputs = lab.teacher(answers)
    torch.testing.assert_close(outputs.logits.softmax(-1)[..., [40, 41, 42, 0]].sum(-1), torch.ones(outputs.logp.shape))
    assert set(session.meter.items) == {("teacher", "sample"), ("teacher", "forward")}
    before = session.meter.flops
    lab.reference(answers)
    assert session.meter.flops - before == session.meter.items["teacher", "forward"]  # they are of one shape here
    assert (lab.reference(answers).logp - outputs.logp).abs().max() > 0.1


# -- GKD ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_gkd_has_the_loss_and_gradient_of_trls_divergence(beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 4, 9, generator=generator).requires_grad_()
    teacher, mask = torch.randn(3, 4, 9, generator=generator), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    answers = Rollouts(torch.zeros(3, 5, dtype=torch.long), torch.cat([torch.ones(3, 1).bool(), mask], 1), 1)
    lab: Any = SimpleNamespace(
        policy=lambda _: SimpleNamespace(logits=logits), teacher=lambda _: SimpleNamespace(logits=teacher),
        log=lambda **_: None,
    )  # fmt: skip
    ours = GKD(beta=beta).loss(lab, answers)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    theirs = torch.zeros(3)
    for row in range(3):  # TRL's mean is over all tokens of the batch, ours over those of a row: a row at a time they agree
        labels = torch.where(mask[row], 1, -100).unsqueeze(0)
        theirs[row] = GKDTrainer.generalized_jsd_loss(logits[row : row + 1], teacher[row : row + 1], labels, beta=beta)
    (wanted,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_banned_tokens_count_for_nothing_and_a_student_at_the_teacher_rests(beta: float) -> None:
    logits = torch.tensor([[[0.3, -1e9, 1.0]]], requires_grad=True)
    loss = divergence(logits.log_softmax(-1), logits.detach().log_softmax(-1), beta)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().max() < 1e-6


def test_by_its_share_gkd_learns_from_the_students_answers_or_from_the_teachers(tiny_bench: Bench) -> None:
    for share, role in ((1.0, "policy"), (0.0, "teacher")):
        lab = nudge(tiny_bench.lab())
        next(GKD(on_policy=share, batch_size=3).iteration(lab))
        assert set(session_of(lab).meter.items) == {(role, "sample")}


# -- OPD ---------------------------------------------------------------------------------------------------------------


def test_opds_gradient_is_that_of_the_reverse_kl_of_the_next_token_by_counting_all_tokens() -> None:
    """For answers of one token: the mean over the policy's own distribution of -A grad log pi is the gradient of
    KL(policy || teacher)."""
    logits = torch.tensor([0.2, -1.0, 0.7], requires_grad=True)
    teacher = torch.tensor([1.0, 0.0, -0.5]).log_softmax(0)
    kl = (logits.softmax(0) * (logits.log_softmax(0) - teacher)).sum()
    (wanted,) = torch.autograd.grad(kl, logits)
    answers = Rollouts(torch.tensor([[0, token] for token in range(3)]), torch.ones(3, 2).bool(), 1)

    def policy(rollouts: Rollouts) -> Any:
        return SimpleNamespace(logp=logits.log_softmax(0)[rollouts.completion])

    lab: Any = SimpleNamespace(
        policy=policy, teacher=lambda rollouts: SimpleNamespace(logp=teacher[rollouts.completion]), log=lambda **_: None,
        prompts=lambda _: None, generate=lambda _: answers,
    )  # fmt: skip
    opd = OPD(rollouts=3)
    (step,) = opd.iteration(lab)
    losses: Tensor = opd.loss(lab, step.batch)  # type: ignore[arg-type]
    (found,) = torch.autograd.grad((logits.detach().softmax(0) * losses).sum(), logits)
    torch.testing.assert_close(found, wanted)


# -- what a teacher may be ---------------------------------------------------------------------------------------------


def task(model: Path, teacher: Path | str, *words: str) -> Any:
    return task_named("nano", [f"task.model.name={model}", f"task.teacher={teacher}", *words])


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Teachers that are none: of another vocabulary, of more logits, of too few positions."""
    home = tmp_path_factory.mktemp("teachers")
    write_model(home / "words", Size(vocabulary=300))
    for name, key, value in (("logits", "vocab_size", 400), ("short", "max_position_embeddings", 8)):
        shutil.copytree(tiny_model, home / name)
        config = json.loads((home / name / "config.json").read_text())
        (home / name / "config.json").write_text(json.dumps(config | {key: value}))
    return home


def test_a_teacher_that_reads_no_tokens_of_the_policys_is_one_line(tiny_model: Path, others: Path) -> None:
    check_teacher(task(tiny_model, tiny_model))
    for name, words in (
        ("words", "has another vocabulary than task.model.name="), ("logits", "has 400 logits, and task.model.name="),
        ("short", "reads at most 8 tokens"), ("nowhere", "nowhere"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            check_teacher(task(tiny_model, others / name))
    with pytest.raises(UserError, match=r"the task has none: set task\.teacher"):
        check_teacher(task(tiny_model, ""))


@pytest.mark.slow
def test_the_card_names_the_teacher_and_says_that_its_training_is_in_no_bill(furnished: Terminal) -> None:
    before = stages(furnished.store, "sft")
    words = ["algorithm=gkd", "algorithm.batch_size=4", "algorithm.on_policy=0.5", "budget.steps=3"]
    done = furnished(furnished.run(*words, f"task.teacher={furnished.model}"))
    assert done.returncode == 0, done.stderr
    card = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert stages(furnished.store, "sft") == before  # a teacher makes no other base
    assert card["notes"]["teacher"]["model"] == str(furnished.model)
    told = [flag["text"] for flag in card["notes"]["flags"]]
    assert f"it learned from the teacher {furnished.model}, whose own training is in no bill" in told
    spent = {(item["role"], item["kind"]) for item in card["spent"]["items"]}
    assert ("teacher", "forward") in spent
    assert ("reference", "forward") not in spent


@pytest.mark.slow
def test_a_method_without_its_teacher_is_one_line_before_anything_is_made(terminal: Terminal, others: Path) -> None:
    for words, line in (
        (["algorithm=gkd"], "gkd seed 0: it learns from a teacher, and the task has none: set task.teacher"),
        (["algorithm=opd", f"task.teacher={others / 'words'}"], "has another vocabulary than task.model.name"),
    ):
        assert line in complaint(terminal(terminal.run(*words)))
    assert not finished(terminal.store)
