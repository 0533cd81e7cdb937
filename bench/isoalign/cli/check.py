"""`isoalign check`: the conformance suite."""

import click

from isoalign.core import progress


@click.command()
@click.argument("name", metavar="ALGORITHM")
@click.argument("checks", nargs=-1, metavar="[CHECK]...")
@click.option("--device", default="cpu", show_default=True, help="Where the models are: as device= of a run.")
def check(name: str, checks: tuple[str, ...], device: str) -> int:
    """Test an algorithm on what every algorithm must do.

    ALGORITHM may be a plug-in's. It is tried on a tiny model, in seconds. Without CHECK, all checks are run; each
    prints a line with its name. The exit status is 1 if one fails.
    """
    from isoalign.core import devices  # loads torch where a device is looked for
    from isoalign.tools.conformance import examine  # loads torch, which the help does without
    from isoalign.training.registry import default_algorithm

    progress.set_run(name, 0)
    found = []
    for finding in examine(name, default_algorithm(name), checks, devices.use(device)):
        print(finding.line(), flush=True)
        found.append(finding)
    failed = sum(finding.passed is False for finding in found)
    whole = f"{name} conforms" if not checks else f"{name}: {len(found)} checks, none failed"
    print(f"{name}: {failed} failed" if failed else whole)
    return 1 if failed else 0
