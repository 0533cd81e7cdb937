"""`isoalign tune`: equal tuning of methods."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import click

from isoalign.cli import options
from isoalign.config import search_path
from isoalign.core import plugins
from isoalign.core.complaint import say
from isoalign.core.errors import UserError
from isoalign.core.files import check_writable
from isoalign.core.progress import Progress
from isoalign.runs import overrides
from isoalign.tools.tuning import search as tuning
from isoalign.tools.tuning.space import points, space


@click.command()
@click.argument("task")
@click.argument("words", nargs=-1, metavar="[ALGORITHM|KEY=VALUE]...")
@click.option("--trials", default=8, show_default=True, help="Trials of each method.")
@click.option("--rule", default="largest_gain", show_default=True, help="Rule of choice: largest_gain or one_paired_error.")
@click.option("--studies", default=1, show_default=True, help="Whole searches of each method, with seeds of their own.")
@click.option("--workers", default=2, show_default=True, help="Trials in parallel.")
@click.option("--results", type=options.PATH, default="results/tuning", show_default=True, help="Folder of the record.")
@click.option("--conf", type=options.PATH, help="Folder for tuned/TASK_ALGORITHM.yaml.  [default: conf/ of this installation]")
@options.store
def tune(
    task: str, words: tuple[str, ...], trials: int, rule: str, studies: int, workers: int, results: Path, conf: Path | None,
    store: Path | None,
) -> int:  # fmt: skip
    """Give each method equally many trials and keep its best settings.

    Without ALGORITHM, every one that declares a search space in conf/sweep/. Trials are scored on validation prompts. Settings
    task.KEY=VALUE and budget=NAME hold for all. A third of the trials come after the others, beyond an end of the space where
    the best lies there. largest_gain chooses by the task's objective, one_paired_error the least KL within an error of that.
    Further studies repeat it: their winners go to tuned/TASK_ALGORITHM-2.yaml and so on, for tuned=TASK_ALGORITHM-2.
    """
    settings = [overrides.quoted(word) for word in words if "=" in word]
    named = [word for word in words if "=" not in word]
    wanted = named or sorted({*search_path.options("sweep")} & {*plugins.algorithms()})
    overrides.check_overrides([f"task={task}", f"algorithm={','.join(wanted)}", *settings], sweep=True)
    if odd := [word for word in settings if not word.startswith(("task.", "budget"))]:
        raise UserError(f"{odd[0]}: settings must be of the task or the budget: task.KEY=VALUE or budget=NAME")
    first = tuning.Search(task, trials, rule, workers, results, store, tuple(settings), studies=studies)
    searches = [replace(first, study=number + 1) for number in range(studies)]
    conf = conf or search_path.folders()[0]
    for search, name in product(searches, wanted):
        search.file(name, conf)  # one that can't be written is found out before the trials
    bar = _Bar(studies * sum(len(points(space(name), trials)) for name in wanted))
    check_writable(conf / "tuned", "choose another folder with --conf")
    failed, winners = 0, dict[str, list[tuning.Trial]]()
    for search in searches:
        for name, tried in search.run(wanted, bar.hear):
            try:
                winner, file, record = tuning.write(search, name, tried, conf)
            except UserError as error:  # the others' trials are not lost
                say(str(error))
                failed += 1
                continue
            winners.setdefault(name, []).append(winner)
            ends = ", ".join(tuning.at_ends(tried, winner))
            few = f"; {len(tried)} of {trials} trials: there is no more to try" if len(tried) < trials else ""
            ends = f"; at an end of what was tried: {ends}" if ends else ""
            print(f"chosen: {tuning.line(name, winner)}{ends}{few}", flush=True)
            print(f"  {file}  {record}", flush=True)
    bar.close()
    for name, chosen in winners.items():
        if studies > 1:
            print(tuning.spread(name, chosen), flush=True)
    return 1 if failed else 0


class _Bar(Progress):
    """Prints each trial as it ends, above a bar of how many are done."""

    def __init__(self, count: int) -> None:
        super().__init__("tuning")
        self.count, self.heard = count, 0

    def hear(self, name: str, trial: tuning.Trial) -> None:
        self.heard += 1
        print(tuning.line(name, trial), flush=True)
        self.show(min(1.0, self.heard / self.count), {})
