"""`isoalign run`: the Hydra application, from a configuration to the path of a card."""

from __future__ import annotations

import math
import os
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from isoalign.config.fill import build_config
from isoalign.config.task import OWN, TaskConfig
from isoalign.core import devices, progress, runtime, stopping, world
from isoalign.core.complaint import complain, one_line
from isoalign.core.errors import MachineFailed, TrainingFailed, UserError, interrupt_of, unforeseen, unknown
from isoalign.core.files import check_writable
from isoalign.core.memory import machine_failure
from isoalign.core.objective import objective_of
from isoalign.core.peak_memory import GIB
from isoalign.core.places import code_digest
from isoalign.core.records import Budget, Card
from isoalign.core.store import Store, digest
from isoalign.data import assets
from isoalign.evaluation import card as cards
from isoalign.evaluation import metrics, samples
from isoalign.report import trackers, trackio_runs
from isoalign.report.trackio_runs import TrackioRun
from isoalign.runs import failures, status, tuned
from isoalign.runs.card import make_card, packages
from isoalign.runs.needs import check_needs, check_shards
from isoalign.runs.pipeline import Run
from isoalign.stages.shared import SharedStages
from isoalign.training import registry

FAILURES = "ISOALIGN_FAILURES"  # a file to which the jobs of a sweep add a line when they fail
SWEEP = "ISOALIGN_SWEEP"  # the process that was typed


@hydra.main(version_base="1.3", config_path="pkg://isoalign.conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """One run; the last line printed is the path of its card. Returns the gain, for sweepers that search."""
    try:
        path = execute(config)
        if path is None:
            return None
        status.end(status.DONE, str(path))
        print(path, flush=True)
        card = cards.read_card(path)
        found = card.metrics.get(objective_of(card).gain)
        return found.value if found else None
    except KeyboardInterrupt as interrupt:
        status.end(status.STOPPED, stopping.LINE)
        if os.environ.get(SWEEP, mine := str(os.getpid())) != mine:  # a process of a sweep, which would take the next run
            stopping.end_now(getattr(interrupt, "number", signal.SIGINT))
        raise
    except Exception as error:
        if stopped := interrupt_of(error):
            status.end(status.STOPPED, stopping.LINE)
            raise stopped from None
        if os.environ.get("ISOALIGN_DEBUG") and not isinstance(error, UserError):
            raise
        _fail(config, machine_failure(error) or error)
    finally:
        status.end(status.FAILED)
        world.leave()
    return None


def execute(config: DictConfig) -> Path | None:
    """Run a configuration and write its card and its W&B run; the card's path. None in a process that only helps another."""
    stopping.install()  # in each process of a sweep
    stopping.stop_here()  # asked for at the end of the run before
    runtime.quiet()
    runtime.threads(int(config.threads))
    _go_to(Path(HydraConfig.get().runtime.cwd))
    _meet(config)
    name = str(config.algorithm.get("name", ""))
    if isinstance(config.seed, bool) or not isinstance(config.seed, int):
        raise UserError(f"seed must be a whole number, not {config.seed!r}")
    task: TaskConfig = build_config(TaskConfig, _plain(config.task), "task").on_base(config.seed)
    budget: Budget = build_config(Budget, _plain(config.budget), "budget")
    for limit, value in asdict(budget).items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"budget.{limit} must be positive and finite, not {value:g}")
    if (tracking := str(config.tracking)) not in (known := [*trackers.MODES, trackio_runs.MODE]):
        raise UserError(unknown("tracking", tracking, known))
    if tracking == trackio_runs.MODE:
        trackio_runs.check_installed()
    settings, how = tuned.settings_and_tuning(config, task.model)
    with registry.sandboxed(name):
        algorithm = registry.with_checked_settings(build_config(registry.algorithm(name), settings, "algorithm"))
    if task.model.shard:
        check_shards(name, algorithm, task)
    if world.size() > 1 and hasattr(algorithm, "train"):
        raise UserError(f"{name} has a training loop of its own, which runs in one process; start it without torchrun")
    if (engine := task.model.sampler) != OWN and hasattr(algorithm, "train"):
        raise UserError(f"{name} samples in a training loop of its own; set task.model.sampler=own, not {engine}")
    if world.size() > 1 and engine == "vllm":
        raise UserError("task.model.sampler=vllm runs in one process; start it without torchrun, or set it to own")
    progress.set_run(f"{name} seed {config.seed}", _line())
    metrics.versions(task.objective)  # a metric that cannot be loaded is reported before the training, not after it
    folder = _writable(Path(str(config.results)) / task.name)
    store = Path(str(config.store)) if config.store else assets.cache_dir() / "store"
    shared = SharedStages(task, Store(store if store.is_dir() else _writable(store)))  # a whole one may be read-only
    check_needs(algorithm, shared)
    run, rank = Run(name, algorithm, budget, int(config.seed), shared, how), world.rank()
    if not rank:
        about = {"task": task.name, "algorithm": name, "seed": str(config.seed), "device": devices.count_label()}
        status.begin(Path(str(config.results)), _command(), **about)
    key, typed = _mirror_key(run), {"algorithm": run.settings, "task": asdict(task)}
    mirror: trackers.Mirror | TrackioRun
    if tracking == trackio_runs.MODE and not rank:
        label = f"{task.name}-{name}"
        mirror = TrackioRun(f"{label}-s{run.seed}-{key[:8]}", label, folder.parent / trackio_runs.MODE, typed)
    else:
        mirror = trackers.Mirror(key, task.name, name, run.seed, folder / "wandb", "off" if rank else tracking, typed)
    try:
        return _publish(replace(run, follow=mirror.log), folder, mirror)
    finally:
        mirror.stop()


def _mirror_key(run: Run) -> str:
    """The id of a run in W&B or trackio, which is known before it is trained."""
    return digest({"train": run.train.key if run.trains else run.shared.sft.key, "task": run.task, "seed": run.seed})


def _go_to(folder: Path) -> None:
    """Work where the command was typed: launchers start jobs elsewhere, and paths may be relative."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"this machine, {socket.gethostname()}, has no folder {folder}, where the sweep was started ({error.strerror}); "
            "start it in a folder that all machines share"
        ) from error


def _meet(config: DictConfig) -> None:
    """Choose the device, and meet the other processes of the run, if a launcher has started several."""
    devices.use(str(config.device), several=True)
    if world.launched() == 1:
        world.check_launcher()
        return
    task = {f"task.{name}": str(value) for name, value in _plain(config.task).items()}
    settings = {name: str(value) for name, value in _plain(config).items() if name not in ("task", "device", "threads")}
    device = {"device": devices.label(), "memory": f"{devices.memory() / GIB:.0f} GiB"}
    world.join(devices.device(), packages() | {"code": code_digest()} | device | settings | task)


def _publish(run: Run, folder: Path, mirror: trackers.Mirror | TrackioRun) -> Path | None:
    """Make the card, and return its path; None in a process that only helps."""
    run.shared.get(run.preflight)
    if world.size() > 1:  # what all make together, before what the first one makes alone
        snapshots = [run.snapshot(place["steps"]) for place in run.read_record().get("snapshots", ())]
        for stage in (*run.shared.reward_models(run.rewarded_by()).values(), run.base.samples, run.samples, *snapshots):
            run.shared.get(stage)
    world.done()
    if world.rank():
        return None
    card = make_card(run, _command())
    path = cards.write_card(card, folder)
    failures.clear_failure(card.algorithm, card.seed, _command(), folder)
    if not (marker := mirror.folder / f".{card.key}").exists():
        with trackers.harmless():  # what is read of the store, too
            _mirror(run, card, marker, mirror)
    return path


def _mirror(run: Run, card: Card, marker: Path, mirror: trackers.Mirror | TrackioRun) -> None:
    """Have W&B, or trackio, hold all of a run, once."""
    if mirror.mode != "off":
        mirror.log(run.read_log())  # where it was in the store
        if mirror.finish(card, samples.read_samples(run.shared.get(run.samples))):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


def _plain(node: Any) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def _writable(folder: Path) -> Path:
    """The folder, made if needed; refused in one line before any work if nothing can be written there."""
    check_writable(folder, "choose another folder (store=..., results=...)")
    return folder


def _line() -> int:
    """The line on the screen for this run's bars: sweeps run two or more at a time."""
    hydra_config = HydraConfig.get()
    return int(hydra_config.job.num) % 2 if hydra_config.mode == RunMode.MULTIRUN else 0


def _command() -> str:
    return status.command_of(OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))  # type: ignore[arg-type]


def _fail(config: DictConfig, error: Exception) -> None:
    """Print one line on stderr, and write a note beside the cards if the method's own training failed.

    A single run exits with 2, a trial that the machine ended with `failures.MACHINE`; in a sweep the other runs go on.
    """
    line = str(error) if isinstance(error, UserError) else unforeseen(error)
    name, line, results = str(config.algorithm.get("name", "?")), one_line(line), Path(str(config.results))
    status.end(status.FAILED, line)
    if not world.rank():
        status.refuse(results, _command(), line)
    if isinstance(error, TrainingFailed) and not world.rank():
        with suppress(UserError):  # where nothing can be written the line must do
            folder = results / str(config.task.name)
            failures.note_failure(failures.Failure(name, int(config.seed), _command(), line), folder)
    complain(f"{name} seed {config.seed}: {line}")
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        raise SystemExit(failures.MACHINE if isinstance(error, MachineFailed) and os.environ.get(failures.TRIAL) else 2)
    if os.path.exists(file := os.environ.get(FAILURES, "")):  # on the machine where the sweep was typed
        with open(file, "a") as stream:
            stream.write(f"{name} seed {config.seed}\n")
