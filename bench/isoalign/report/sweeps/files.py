"""The sweep report on disk: a page and its chart."""

from pathlib import Path

from isoalign.core.files import save
from isoalign.report.sweeps.chart import sweep_chart
from isoalign.report.sweeps.sweep_report import SweepReport, file_stem
from isoalign.report.sweeps.text import sweep_page


def write_sweep_report(report: SweepReport, folder: Path) -> Path:
    """Write the page and its chart into a folder; returns the path of the page."""
    name = file_stem(report.sweep.key)
    save(folder / f"{name}.svg", sweep_chart(report))
    save(folder / f"{name}.md", sweep_page(report))
    return folder / f"{name}.md"
