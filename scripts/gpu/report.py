"""The results of `scripts/gpu_check.py` as JSON and as a page. Imports the standard library alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(file: Path, found: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(file)


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    about = found["about"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    memory = f", {about['memory_gib']} GiB" if about["memory_gib"] else ""
    lines = [
        f"# {about['card']}", "", f"- card: {about['card']}{memory}", f"- versions: {versions}",
        f"- commit: {found['commit']}",
        f"- command: `{found['command']}`", f"- date: {found['date']}", f"- duration: {found['seconds']:.0f} s",
        f"- outcome: {'passed' if found['passed'] else 'FAILED'}", *(f"- failed: {reason}" for reason in found["failed"]),
        *(f"- not run: {reason}" for reason in found["not_run"]),
    ]  # fmt: skip
    parts = found["parts"]
    if agreement := parts.get("agreement"):
        lines += ["", *_agreement(agreement, about["device"])]
    if (throughput := parts.get("throughput")) and "sampling" in throughput:
        lines += ["", *_throughput(throughput)]
    if run := parts.get("run"):
        spent = f", {run['spent']['steps']} steps, {run['metrics']} metrics" if run["passed"] else ""
        outcome = f"{'Passed' if run['passed'] else 'FAILED'} in {run['seconds']:.0f} s{spent}."
        lines += ["", "## isoalign run", "", f"`{run['command']}`", "", outcome]
    return "\n".join(lines) + "\n"


def _agreement(found: dict[str, Any], device: str) -> list[str]:
    lines = [
        f"## {device} against CPU", "",
        "A few steps of each method on nano, on the same data. A bill must be equal to the integer, a loss within "
        f"{found['tolerance']:g} (relative above 1). TRL's online trainers draw answers by the device's own generator, so "
        "their losses are not compared.", "", "| method | bill | losses | largest difference | device, s | CPU, s |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name, row in found["methods"].items():
        if "error" in row:
            lines.append(f"| {name} | FAILED | {row['error'].replace('|', '/')} | | | |")
            continue
        losses = "not compared" if row["losses"] is None else "agree" if row["losses"] else "DIFFER"
        gap = "" if row["gap"] is None else f"{row['gap']:.1e}"
        bill = "equal" if row["bill"] else "DIFFERS"
        lines.append(f"| {name} | {bill} | {losses} | {gap} | {row['device']['seconds']} | {row['cpu']['seconds']} |")
    return lines


def _throughput(found: dict[str, Any]) -> list[str]:
    peak = found["peak_flops"]
    known = f"{peak / 1e12:.0f} TFLOP/s" if peak else "unknown"
    lines = [
        f"## A random model of {found['parameters'] / 1e9:.2f}B parameters", "",
        f"{found['precision']}, all weights trained; peak of the card in dense bf16: {known}.", "",
        "| work | s | tokens/s | TFLOP/s | of the peak | memory, GiB | estimated, GiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name in ("sampling", "training"):
        if row := found.get(name):
            share = f"{100 * row['share_of_peak']:.1f}%" if row["share_of_peak"] else "unknown"
            cells = [f"{row['seconds']:.3f}", f"{row['tokens_per_second']:,}", f"{row['flops_per_second'] / 1e12:.2f}", share]
            cells += [str(row.get(key) or "–") for key in ("peak_gib", "estimated_gib")]
            what = f"{row['rows']} rows, {row['prompt']} + {row.get('answer') or row.get('new')} tokens"
            lines.append(f"| {name}, {what} | {' | '.join(cells)} |")
    return lines
