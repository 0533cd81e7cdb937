"""The report along a setting on disk: a page and its chart."""

from pathlib import Path

from isoalign.core.files import save
from isoalign.report.sweeps.chart import chart
from isoalign.report.sweeps.sweep_report import Along, file_of
from isoalign.report.sweeps.text import markdown


def write(report: Along, folder: Path) -> Path:
    """Write the page and its chart into a folder; returns the path of the page."""
    name = file_of(report.sweep.key)
    save(folder / f"{name}.svg", chart(report))
    save(folder / f"{name}.md", markdown(report))
    return folder / f"{name}.md"
