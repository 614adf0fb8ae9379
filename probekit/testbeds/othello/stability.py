"""Which discs can never be turned again.

Two rules: the game's own notion by conditions that are sound (`stable_discs`), and the one of the paper this testbed
follows, which looks at occupied squares only (`paper_stable`).
"""

from __future__ import annotations

import numpy as np

from probekit.testbeds.othello.engine import Bits

_ALL = 0xFFFFFFFFFFFFFFFF
_NOT_A, _NOT_H = np.uint64(0xFEFEFEFEFEFEFEFE), np.uint64(0x7F7F7F7F7F7F7F7F)
_EDGE = 0xFF818181818181FF
_CORNERS = (1 << 0) | (1 << 7) | (1 << 56) | (1 << 63)


def _step(sets: Bits, columns: int, rows: int) -> Bits:
    """Move every square of the sets by at most one column and one row; what leaves the board is lost."""
    if columns == 1:
        sets = (sets & _NOT_H) << np.uint64(1)
    elif columns == -1:
        sets = (sets & _NOT_A) >> np.uint64(1)
    if rows == 1:
        sets = sets << np.uint64(8)
    elif rows == -1:
        sets = sets >> np.uint64(8)
    return sets


_AXES = ((1, 0), (0, 1), (1, 1), (1, -1))


def _lines() -> list[list[int]]:
    """For each axis the sets of squares that make up its lines."""
    axes = []
    for columns, rows in _AXES:
        lines: dict[int, int] = {}
        for square in range(64):
            column, row = square % 8, square // 8
            while 0 <= column - columns < 8 and 0 <= row - rows < 8:
                column, row = column - columns, row - rows
            first = 8 * row + column
            lines[first] = lines.get(first, 0) | 1 << square
        axes.append(sorted(lines.values()))
    return axes


_LINES = [np.array(lines, np.uint64) for lines in _lines()]
_BORDER = [
    np.uint64(
        sum(
            1 << s
            for s in range(64)
            if not (0 <= s % 8 + c < 8 and 0 <= s // 8 + r < 8 and 0 <= s % 8 - c < 8 and 0 <= s // 8 - r < 8)
        )
    )
    for c, r in _AXES
]  # squares that have a neighbour on at most one side along the axis, where no disc can be enclosed


def stable_discs(one: Bits, other: Bits) -> Bits:
    """Discs that no sequence of moves, legal or not, can turn, by sound conditions.

    A disc is called stable when along each of the four lines through it at least one of these holds: the line
    is full; a neighbour on the line is off the board; a neighbour on the line is a stable disc of its own colour. The
    rule is applied until nothing changes. Each condition makes it impossible to enclose the disc along that line, so a
    disc called stable is stable; some stable discs are missed (deciding all of them needs search).

    Args:
        one: `[...]` uint64 discs of one colour.
        other: `[...]` uint64 discs of the other colour.

    Returns:
        `[...]` uint64, subset of `one | other`.
    """
    one, other = np.asarray(one, np.uint64), np.asarray(other, np.uint64)
    filled = one | other
    safe_axes = []
    for lines, border in zip(_LINES, _BORDER, strict=True):
        safe = np.full(filled.shape, border)
        for line in lines:
            safe |= np.where((filled & line) == line, line, np.uint64(0))
        safe_axes.append(safe)
    stable = np.zeros(filled.shape, np.uint64)
    while True:
        before = stable
        grown = stable
        for colour in (one, other):
            anchors = stable & colour
            new = colour
            for (columns, rows), safe in zip(_AXES, safe_axes, strict=True):
                new = new & (safe | _step(anchors, columns, rows) | _step(anchors, -columns, -rows))
            grown = grown | new
        stable = grown
        if np.array_equal(stable, before):
            return stable


def paper_stable(filled: Bits) -> Bits:
    """The tile-stability rule of the seed paper, which ignores colour.

    Squares are visited once, row by row from A1. An occupied corner is stable; an occupied edge square is stable when
    one of its two neighbours along the edge has been called stable; an occupied inner square is stable when
    all eight neighbours have been called stable. One scan, so what is called stable later in the scan does not reach
    back.

    Source: "How GPT learns layer by layer" (arXiv 2501.07108), the rule of its tile-stability analysis.

    Args:
        filled: `[...]` uint64 occupied squares.

    Returns:
        `[...]` uint64, subset of `filled`.
    """
    filled = np.asarray(filled, np.uint64)
    stable = np.zeros(filled.shape, np.uint64)
    for square in range(64):
        bit = np.uint64(1 << square)
        column, row = square % 8, square // 8
        around = [
            (column + c, row + r)
            for c in (-1, 0, 1)
            for r in (-1, 0, 1)
            if (c or r) and 0 <= column + c < 8 and 0 <= row + r < 8
        ]
        if bit & np.uint64(_CORNERS):
            holds = np.ones(filled.shape, bool)
        elif bit & np.uint64(_EDGE):
            along = [(c, r) for c, r in around if (c == column if column in (0, 7) else r == row)]
            mask = np.uint64(sum(1 << (8 * r + c) for c, r in along))
            holds = (stable & mask) != 0
        else:
            mask = np.uint64(sum(1 << (8 * r + c) for c, r in around))
            holds = (stable & mask) == mask
        stable |= np.where(holds, filled & bit, np.uint64(0))
    return stable
