"""`isoalign new`: working starts for extensions."""

from pathlib import Path

import click

from isoalign.cli.options import PATH
from isoalign.tools import scaffold


@click.group()
def new() -> None:
    """Write the files of a new algorithm that works from the start."""


@new.command()
@click.argument("name")
@click.option("--package", type=PATH, metavar="FOLDER", help="Make or extend a package there.  [default: this checkout]")
def algorithm(name: str, package: Path | None) -> None:
    """Write the file, yaml, search space and test of an algorithm.

    The start is DPO under the new name; replace it by your method.
    """
    for path in scaffold.write_algorithm(name, package):
        print(path)
    first = f"pip install -e {package} && " if package else ""
    print(f"next: {first}isoalign check {name}")
