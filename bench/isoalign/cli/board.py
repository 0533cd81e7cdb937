"""`isoalign board`: leaderboards, across tasks and along a setting."""

from pathlib import Path
from typing import Any

import click

from isoalign.cli import options
from isoalign.core import remote
from isoalign.core.complaint import one_line, say
from isoalign.core.errors import UserError, unknown
from isoalign.core.files import save
from isoalign.core.json_output import to_json
from isoalign.core.records import Card
from isoalign.evaluation import card as cards_on_disk
from isoalign.evaluation import tracks
from isoalign.report import as_data, cross_task, leaderboard
from isoalign.report.board.rows import CONTROL, DRIFT, REFERENCE, of_methods, part_of
from isoalign.report.sweeps import files, sweep_report, text
from isoalign.runs import failures


@click.command()
@click.argument("task", required=False)
@options.results
@click.option("--across", is_flag=True, help="One table over all tasks: interquartile means and P(A beats B).")
@click.option("--along", metavar="KEY", help="How scores and ranks move along a swept setting, e.g. task.feedback.noise.")
@click.option("--paper", is_flag=True, help="Also write the charts as PDF, and a table in LaTeX and in Markdown.")
@click.option(
    "--track",
    type=click.Choice([tracks.TUNED, tracks.DEFAULT]),
    help="Methods of one track alone; printed, not written.",
)
@click.option("--methods", metavar="A,B,...", help="These methods alone, ranked among themselves; printed, not written.")
@options.as_json
def board(
    task: str | None,
    results: Path,
    across: bool,
    along: str | None,
    paper: bool,
    track: str | None,
    methods: str | None,
    as_json: bool,
) -> None:
    """Build and print the leaderboard of a task from its cards.

    Without TASK, of every task that has cards. The board is written beside the cards as leaderboard.md and leaderboard.csv,
    with its charts.
    """
    part = {"--track": track, "--methods": methods}
    for option in (option for option, value in part.items() if value is not None and (across or along or paper)):
        raise click.UsageError(f"{option} cannot be combined with --across, --along or --paper")
    if across and along:
        raise click.UsageError("--across and --along cannot be combined")
    if paper and (across or along):
        raise click.UsageError("--paper is for the board of a task, without --across and --along")
    folders = [results / task] if task else sorted(path for path in results.glob("*") if path.is_dir())
    cards = {folder: read for folder in folders if (read := cards_on_disk.read_cards(folder))}
    for folder, read in cards.items():
        if bare := sum(not card.seals for card in read):
            named = remote.named(folder)
            say(f"{bare} of {len(read)} cards in {named} have no seals, as those of older versions; no change of them shows")
    if not cards:
        where = results / (task or "")
        raise UserError(f"no cards in {where}; make some with `isoalign run` (or name another folder with --results)")
    if track:
        cards = {folder: of_track for folder, read in cards.items() if (of_track := _of_track(read, track))}
        if not cards:
            raise UserError(f"no card of the track {track}; see docs/rules.md, and `isoalign tune` or tuned=default")
    if methods is not None:
        cards = _of_methods(cards, [name.strip() for name in methods.split(",")])
    if along:
        _print_along(cards, along, as_json)
    elif across:
        _print_across({folder.name: read for folder, read in cards.items()}, results, as_json)
    else:
        found = []
        for folder, read in cards.items():
            with leaderboard.naming_its_card(read):
                made = leaderboard.build_board(read, folder.name)
                written = leaderboard.write_paper(made, folder) if paper else []
                written += [] if track or methods else [leaderboard.write_board(made, folder)]
                found.append(_shown(made, folder, written, as_json))
        if as_json:
            print(to_json({"boards": found}))


def _of_track(cards: list[Card], track: str) -> list[Card]:
    """The cards of a track, with the reference and the controls for drift, whatever theirs is; empty without a method."""
    found = [card for card in cards if tracks.track(card) in ("", track) or card.algorithm in DRIFT]
    return found if any(tracks.track(card) and card.algorithm not in DRIFT for card in found) else []


def _of_methods(cards: dict[Path, list[Card]], names: list[str]) -> dict[Path, list[Card]]:
    """The cards of some methods in each folder that has any, with its reference and controls. Raises UserError for a name of
    no method there."""
    known = sorted({card.algorithm for read in cards.values() for card in read if part_of(card) not in (REFERENCE, CONTROL)})
    for name in names:
        if name not in known:
            raise UserError(unknown("method", name, known))
    found = {}
    for folder, read in cards.items():
        there = {card.algorithm for card in read}.intersection(known)
        if part := there.intersection(names):
            found[folder] = of_methods(read, part)
            say(f"{len(part)} of {len(there)} methods in {remote.named(folder)}; ranks are among these")
    return found


def _shown(made: leaderboard.Board, folder: Path, written: list[Path], as_json: bool) -> dict[str, Any]:
    """Print a board, unless ``as_json``, with what failed and the files that were written; return it as data."""
    failed = failures.read_failures(folder)
    pages = [remote.named(path) for path in written]
    if as_json:
        return as_data.board_data(made) | {"failed": failed, "page": pages[-1] if pages else None}
    leaderboard.print_board(made)
    for one in failed:
        print(one_line(f"failed: {one.algorithm} seed {one.seed}: {one.reason}"))
    if failed:
        print(f"(until the same command succeeds, or its file in {remote.named(folder / 'failed')} is deleted)")
    print(*pages, sep="\n", end="\n" if pages else "")
    return {}


def _print_across(cards: dict[str, list[Card]], results: Path, as_json: bool) -> None:
    found = cross_task.cross_task(cards)
    save(results / "across.md", found.markdown())
    page = remote.named(results / "across.md")
    print(to_json(as_data.cross_task_data(found) | {"page": page}) if as_json else f"{found.terminal()}\n{page}")


def _print_along(cards: dict[Path, list[Card]], key: str, as_json: bool) -> None:
    if len(cards) > 1:
        raise UserError(f"--along reports on one task: isoalign board TASK --along {key}")
    ((folder, read),) = cards.items()
    report = sweep_report.sweep_report(read, key)
    page = remote.named(files.write_sweep_report(report, folder))
    print(to_json(as_data.sweep_data(report) | {"page": page}) if as_json else f"{text.sweep_text(report)}\n{page}")
