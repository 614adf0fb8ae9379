"""Where labels go beside the points of a figure, so that they lie on no other label, point or line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SIZES = ((270, 300), (440, 340))
"""Pixels of the area between the axes, on a telephone and on a wide page: a label must fit in both."""
LETTER, LINE = 7, 15  # pixels of a letter and of a line
_TOO_MUCH = 3.0  # a label that covers this much is left out

# Text position as plotly names it: how far the text's middle lies from the point, in halves of its own size.
_SIDES = {
    "top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0), "top right": (1, 1),
    "top left": (-1, 1), "bottom right": (1, -1), "bottom left": (-1, -1),
}  # fmt: skip

Point = tuple[float, float]
"""Shares of the width and height of the area between the axes, from the lower left."""


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point.

    Attributes:
        at: The point.
        words: The text.
        radius: Of the point's marker, in pixels.
    """

    at: Point
    words: str
    radius: float


def side_of_each(
    labels: Sequence[Label],
    *,
    marks: Sequence[Point] = (),
    faint: Sequence[Point] = (),
    lines: Sequence[tuple[Point, Point]] = (),
) -> list[str]:
    """The text position of each label, those given first first; empty for one that finds no room.

    Args:
        labels: The points are among the marks.
        marks: Points that no label may cover.
        faint: Points that it would better not cover.
        lines: Ends of lines that it would better not cross.
    """
    placed: list[tuple[Label, str]] = []
    out = []
    for label in labels:
        costs = {side: sum(_cost(label, side, placed, marks, faint, lines, size) for size in SIZES) for side in _SIDES}
        best = min(costs, key=lambda side: costs[side])
        out.append(best if costs[best] < _TOO_MUCH else "")
        if out[-1]:
            placed.append((label, best))
    return out


def _cost(
    label: Label,
    side: str,
    placed: Sequence[tuple[Label, str]],
    marks: Sequence[Point],
    faint: Sequence[Point],
    lines: Sequence[tuple[Point, Point]],
    size: tuple[int, int],
) -> float:
    """How much a label there would cover, on a figure of this size."""
    left, low, right, high = _box(label, side, size)
    if left < 0 or low < 0 or right > size[0] or high > size[1]:
        return _TOO_MUCH
    cost = 0.0
    for other, where in placed:
        a, b, c, d = _box(other, where, size)
        if left < c and a < right and low < d and b < high:
            cost += _TOO_MUCH

    def within(point: Point, slack: float) -> bool:
        x, y = point[0] * size[0], point[1] * size[1]
        return left - slack < x < right + slack and low - slack < y < high + slack

    cost += _TOO_MUCH * sum(within(point, 4) for point in marks if point != label.at)
    cost += min(0.2 * sum(within(point, 2) for point in faint), 1)
    for (x0, y0), (x1, y1) in lines:
        steps = (i / 40 for i in range(41))
        cost += 0.6 * any(within((x0 + (x1 - x0) * t, y0 + (y1 - y0) * t), 1) for t in steps)
    return cost


def _box(label: Label, side: str, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, lower, right and upper end of a label, in pixels."""
    across, up = _SIDES[side]
    wide, tall = LETTER * len(label.words), LINE
    away = label.radius / 0.8 + 1  # as plotly leaves
    x = label.at[0] * size[0] + across * (wide / 2 + away)
    y = label.at[1] * size[1] + up * (tall / 2 + away)
    return x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2
