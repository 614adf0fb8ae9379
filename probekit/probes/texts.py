"""`Texts`: which rows are the tokens of which text, and sums, maxima and softmax over each text without padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Texts:
    """Which rows are the tokens of which text, with the rows brought into the order of the texts.

    In that order each text is one run of rows, so that sums and maxima over a text need no padding: memory grows
    with the rows, however long the longest text is.
    """

    order: Tensor | None  # [row] where each sorted row stood; None where they were sorted already
    of_row: Tensor  # [row] text of each sorted row
    offsets: Tensor  # [text + 1] first sorted row of each text, and the end

    @classmethod
    def of(cls, sequence: object, rows: int, device: torch.device | None = None) -> Texts:
        """From the text number of each row.

        Raises:
            TypeError: no `sequence`, or not integers.
            ValueError: another length than the rows; numbers that are not 0..n-1, each at least once.
        """
        if sequence is None:
            raise TypeError(
                "sequence= is missing: [row] integers, the number (0..n-1) of the text each row is a token of"
            )
        numbers = sequence.detach().cpu().numpy() if isinstance(sequence, Tensor) else np.asarray(sequence)
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"sequence must be integers, the number of each row's text, got dtype {numbers.dtype}")
        if numbers.shape != (rows,):
            raise ValueError(
                f"sequence must have one number a row: X has {rows} rows, sequence has shape {numbers.shape}"
            )
        low, high = int(numbers.min()), int(numbers.max())
        renumber = "; np.unique(sequence, return_inverse=True)[1] numbers the texts that are there"
        if low < 0:
            raise ValueError(f"sequence holds {low}: texts are numbered from 0{renumber}")
        if high >= rows:
            raise ValueError(f"sequence goes up to {high}, but {rows} rows are {rows} texts at most{renumber}")
        counts = np.bincount(numbers.astype(np.int64), minlength=high + 1)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            raise ValueError(f"{len(empty)} of {high + 1} texts have no row (first: {empty[:5].tolist()}){renumber}")
        sorted_already = bool((np.diff(numbers.astype(np.int64)) >= 0).all())
        order = None if sorted_already else np.argsort(numbers, kind="stable")
        offsets = np.concatenate([[0], counts.cumsum()])
        return cls(
            None if order is None else torch.from_numpy(order).to(device),
            torch.from_numpy(np.repeat(np.arange(high + 1), counts)).to(device),
            torch.from_numpy(offsets).to(device),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """`[text]` rows of each."""
        return self.offsets.diff()

    def sort(self, rows: Tensor) -> Tensor:
        """Rows in the order of the texts; tokens of a text keep theirs."""
        return rows if self.order is None else rows[self.order]

    def unsort(self, values: Tensor) -> Tensor:
        """Values of the sorted rows, in the order in which the rows came."""
        if self.order is None:
            return values
        back = torch.empty_like(values)
        back[self.order] = values
        return back

    def sums(self, values: Tensor) -> Tensor:
        """Sorted `[row, k]` -> `[text, k]`."""
        return segments(values, self.offsets, "sum")

    def means(self, values: Tensor) -> Tensor:
        """Sorted `[row, k]` -> `[text, k]`."""
        return self.sums(values) / self.lengths[:, None]


def segments(values: Tensor, offsets: Tensor, how: str) -> Tensor:
    """`"sum"` or `"max"` of each run of rows: `[row, k]` -> `[run, k]`."""
    found: Tensor = torch.segment_reduce(values.contiguous(), how, offsets=offsets, axis=0)
    return found


def softmax_over(scores: Tensor, of_row: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of `scores [row, k]` within each run of rows, `[row, k]`, and its log-partition `[run, k]`."""
    largest = segments(scores, offsets, "max")
    weights = (scores - largest[of_row]).exp_()
    total = segments(weights, offsets, "sum")
    return weights.div_(total[of_row]), total.log_() + largest
