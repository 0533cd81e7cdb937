"""`isoalign submit`: what a pull request with results needs."""

import shlex
from pathlib import Path

import click

from isoalign.cli import options
from isoalign.core.display import clean


@click.command()
@click.argument("cards", nargs=-1, required=True, type=options.PATH, metavar="CARD...")
@click.option(
    "-o", "--output", "folder", type=options.PATH, default="submission", show_default=True,
    help="Folder to write to; it must be new or empty.",
)  # fmt: skip
@click.option(
    "--results", type=options.PATH, default="results", show_default=True, help="The repository's folder that has published/."
)
@options.store
def submit(cards: tuple[Path, ...], folder: Path, results: Path, store: Path | None) -> None:
    """Check cards and prepare a pull request for the published boards.

    Each card and all that led to it is verified, and compared with this version's tasks and code and with what is published.
    Nothing is sent anywhere: the last lines are the commands to type. docs/submitting.md says who may submit what.
    """
    from isoalign.tools.submission import prepare  # loads torch, which the help does without

    done = prepare.submit(cards, results, options.open_store(store), folder)
    names = [f"{one.card.task} {one.card.algorithm} seed {one.card.seed}" for one in done]
    title = clean(names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more")
    branch = f"results-{done[0].card.key[:8]}"
    files = [(Path("results") / one.place).as_posix() for one in done]
    print(f"{folder} holds what to add. In an up-to-date clone of the repository, type:\n")
    print(f"  git switch -c {branch}")
    print(f"  cp -r {shlex.quote(str(folder / 'results'))} .")
    print(f"  git add {' '.join(map(shlex.quote, files))}")
    print(f"  git commit -m {shlex.quote(f'Results: {title}')}")
    print(f"  git push -u origin {branch}")
    print(f"  gh pr create --title {shlex.quote(f'Results: {title}')} --body-file {shlex.quote(str(folder / prepare.BODY))}\n")
    print("Keep the store: somebody who doubts the results will ask for the samples.")
