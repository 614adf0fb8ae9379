"""The boards behind rows, for features of a model of a board game: positions, what is usual on them, and the last move."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import numpy as np

from probekit.data import LabelSet
from probekit.report.boards import board_order, piece_colors, square_name
from saes.features import SparseFeatures

_MOVES = 200_000
"""Rows from which the squares of tokens are learned."""
_CHUNK = 65_536
_DRAWN_AS = {"mine": "black", "theirs": "white"}
_EMPTY = ("empty", "none")


class Boards:
    """Boards of rows, read from a label set whose targets are the squares.

    Args:
        labels: One label a token, classes such as mine, theirs and empty.
        features: Whose rows.

    Raises:
        ValueError: targets that are no squares; labels that are no classes or belong to sequences; of other data.
    """

    def __init__(self, labels: LabelSet, features: SparseFeatures) -> None:
        order = board_order(labels.targets)
        if order is None:
            raise ValueError(
                f"the targets of label set {labels.name!r} are no squares of a board (a1, tile[D3]): {labels.targets[:3]}"
            )
        if labels.kind == "continuous" or labels.level != "token":
            raise ValueError(
                f"a board is drawn from classes at every token; label set {labels.name!r} is {labels.kind}, one a "
                f"{labels.level}"
            )
        if len(features) and features.item.max() >= len(labels):
            raise ValueError(
                f"label set {labels.name!r} has {len(labels):,} values, but the features go up to token "
                f"{features.item.max():,}: they are of other data"
            )
        self.rows, self.columns, self._square = order
        self._labels, self._features = labels, features

    @property
    def squares(self) -> int:
        """Squares of the board, those without a target among them."""
        return self.rows * self.columns

    def of(self, rows: np.ndarray) -> np.ndarray:
        """`[row, square]` int16 class of each square, -1 where it is not known."""
        out = np.full((len(rows), self.squares), -1, np.int16)
        out[:, self._square] = self._labels.values[self._features.item[rows]]
        return out

    def facts(self) -> dict[str, Any]:
        """What is needed to draw: size, names of squares, classes and their colours."""
        classes = self._labels.classes
        return {
            "rows": self.rows,
            "columns": self.columns,
            "squares": [square_name(r, c) for r in range(self.rows) for c in range(self.columns)],
            "classes": list(classes),
            "colors": piece_colors([_DRAWN_AS.get(c, c) for c in classes]),
        }

    def average(self, rows: np.ndarray) -> np.ndarray:
        """`[class, square]` share of the rows that show each class, minus that of all rows; NaN where nothing is known."""
        difference: np.ndarray = self._shares(rows) - self.usual
        return difference

    @cached_property
    def usual(self) -> np.ndarray:
        """`[class, square]` share of all rows that show each class."""
        return self._shares(np.arange(len(self._features)))

    def _shares(self, rows: np.ndarray) -> np.ndarray:
        counts = np.zeros((len(self._labels.classes), self.squares))
        for start in range(0, len(rows), _CHUNK):
            boards = self.of(rows[start : start + _CHUNK])
            counts += [(boards == k).sum(0) for k in range(len(counts))]
        with np.errstate(invalid="ignore"):
            shares: np.ndarray = counts / counts.sum(0)
        return shares

    @cached_property
    def square_of_token(self) -> dict[int, int]:
        """The square that each token fills, learned from the boards before and after it; empty where there is no such rule."""
        empty = next((k for k, name in enumerate(self._labels.classes) if name in _EMPTY), None)
        features = self._features
        after = np.arange(1, min(len(features), _MOVES))
        after = after[features.item[after] == features.item[after - 1] + 1]
        after = after[features.sequence[after] == features.sequence[after - 1]]
        if empty is None or not len(after):
            return {}
        filled = (self.of(after - 1) == empty) & (self.of(after) != empty)
        single = filled.sum(1) == 1
        pairs = np.unique(np.stack([features.token[after[single]], filled[single].argmax(1)], 1), axis=0)
        tokens, count = np.unique(pairs[:, 0], return_counts=True)
        sure = set(tokens[count == 1].tolist())
        return {int(token): int(square) for token, square in pairs if int(token) in sure}

    def last_move(self, row: int) -> int:
        """The square of the row's own token, -1 where it has none."""
        return self.square_of_token.get(int(self._features.token[row]), -1)

    def of_tokens(self, values: np.ndarray) -> np.ndarray:
        """`[token]` values laid out as `[square]`, minus their mean over the squares; NaN where no token fills a square."""
        out = np.full(self.squares, np.nan)
        for token, square in self.square_of_token.items():
            out[square] = values[token]
        return out - np.nanmean(out) if self.square_of_token else out

    def named(self, text: str) -> list[int]:
        """Squares whose targets a name speaks of: `D3 is mine and E4 is empty` -> d3, e4."""
        spoken = {word.lower() for word in re.findall(r"[^\s,;()“”]+", text)}
        return [
            int(square)
            for target, square in zip(self._labels.targets, self._square, strict=True)
            if target.lower() in spoken
        ]
