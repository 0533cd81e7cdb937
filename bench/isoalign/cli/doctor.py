"""`isoalign doctor`: what this machine has, what will work, and what to do about the rest."""

from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core.json_output import to_json
from isoalign.tools.doctor import software
from isoalign.tools.doctor.finding import table


@click.command()
@click.option("--task", default="nano", show_default=True, help="Task that is to run.")
@click.option("--network", is_flag=True, help="Ask the model hub and the judge's server whether they answer.")
@options.as_json
@options.results
@options.store
@options.settings
def doctor(task: str, network: bool, as_json: bool, results: Path, store: Path | None, settings: tuple[str, ...]) -> int:
    """Say what this machine has for runs, what won't work, and what to do.

    Packages, devices, precision, assets, models, services and folders are looked at; nothing is fetched. Settings
    task.KEY=VALUE say what is to run. The exit status is 2 if a run is impossible.
    """
    try:
        from isoalign.runs.overrides import task_named  # loads hydra, which the help does without and which may be missing
        from isoalign.tools.doctor.examination import examine  # loads packages that may be missing
    except ImportError as error:
        findings = [*software.look(), software.broken(error)]
    else:
        findings = examine(task_named(task, settings), results, options.open_store(store).root, network)
    fatal = any(finding.fatal for finding in findings)
    if as_json:
        print(to_json({"works": not fatal, "findings": findings}))
    else:
        print(table(findings))
    return 2 if fatal else 0
