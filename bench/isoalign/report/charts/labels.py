"""Names beside points, where they cover neither each other nor what is drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoalign.report.charts.looks import FAINT

DISTANCES = (12, 18, 26, 38, 54, 74, 100)  # pixels from a point to the near edge of its name
Box = tuple[float, float, float, float]  # pixels: left, bottom, right, top


@dataclass(frozen=True)
class Label:
    """A name in its colour, to be written beside a point in data coordinates."""

    text: str
    colour: str
    at: tuple[float, float]


def place_labels(figure: Any, axes: Any, labels: Iterable[Label], boxes: Sequence[Box], size: float = 10) -> None:
    """Write each name beside its point, clear of other names and of ``boxes`` [pixels], with a line if that is far away.

    The figure must be laid out. Offsets are in points: an SVG has 72 per inch, whatever the pixels here.
    """
    names: list[Box] = []
    point = 72 / figure.dpi
    for label in labels:
        at = {"xy": label.at, "textcoords": "offset points"}
        text = axes.annotate(label.text, xytext=(0, 0), color=label.colour, fontsize=size, zorder=6, **at)
        extent = text.get_window_extent()
        x, y = axes.transData.transform(label.at)
        spot = _best_spot((x, y), (extent.width, extent.height), boxes, names, axes.get_window_extent().extents)
        names.append(spot)
        text.set_position(((spot[0] + 2 - x) * point, (spot[1] + 2 - y) * point))
        # The nearest point of the name's box; a line is drawn from it if the name is too far from its point.
        near = (min(max(x, spot[0]), spot[2]), min(max(y, spot[1]), spot[3]))
        if math.dist((x, y), near) > 22:
            line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 6}
            axes.annotate("", xytext=((near[0] - x) * point, (near[1] - y) * point), arrowprops=line, zorder=5, **at)


def boxes_along(axes: Any, x: Sequence[float], y: Sequence[float]) -> list[Box]:
    """Small boxes on the canvas along a line, for names to avoid."""
    corners = [(float(a), float(b)) for a, b in axes.transData.transform(list(zip(x, y, strict=True)))]
    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        steps = max(1, round(math.dist((x0, y0), (x1, y1)) / 10))
        for i in range(steps + 1):
            left, bottom = x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps
            boxes.append((left - 3, bottom - 3, left + 3, bottom + 3))
    return boxes


def _best_spot(
    point: tuple[float, float],
    size: tuple[float, float],
    boxes: Sequence[Box],
    names: Sequence[Box],
    frame: Box,
) -> Box:
    """The spot around a point with the least overlap, the nearest of equal ones."""
    angles = math.pi * np.arange(1, 17) / 8
    distances = np.repeat(DISTANCES, len(angles))
    across, up = np.tile(np.cos(angles), len(DISTANCES)), np.tile(np.sin(angles), len(DISTANCES))
    left = point[0] + across * (distances + size[0] / 2) - size[0] / 2
    bottom = point[1] + up * (distances + size[1] / 2) - size[1] / 2
    spots = np.stack([left - 2, bottom - 2, left + size[0] + 2, bottom + size[1] + 2], 1)
    outside = size[0] * size[1] - _overlap(spots, [frame])
    covered = 40 * _overlap(spots, names) + _overlap(spots, boxes)
    best = spots[np.argmin(40 * outside + 4 * covered + distances)].tolist()
    return best[0], best[1], best[2], best[3]


def _overlap(spots: Any, boxes: Sequence[Box]) -> Any:
    """The area that each spot [spots, 4] shares with boxes, summed over these."""
    sides = np.array(boxes, dtype=float).reshape(-1, 4).T
    low, high = np.maximum(spots[:, :2, None], sides[:2]), np.minimum(spots[:, 2:, None], sides[2:])
    return np.maximum(high - low, 0).prod(1).sum(1)
