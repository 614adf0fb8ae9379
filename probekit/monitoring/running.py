"""Scores of tokens pooled as they come, and alarms on what they make so far.

One piece of code for whole texts and for texts that are still being written, so that both say the same.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Pool = Literal["last", "mean", "max"]
POOLS: tuple[str, ...] = get_args(Pool)


class Running:
    """The pooled score so far of some sequences that grow side by side.

    Args:
        pool: `last`: the newest token's own score; `mean`, `max`: over the tokens so far.
        sequences: How many.
        warm_up: Tokens that come before one may raise an alarm.
    """

    def __init__(self, pool: str, sequences: int, warm_up: int = 0) -> None:
        self.pool = pool
        self.warm_up = warm_up
        self.count = np.zeros(sequences, dtype=np.int64)
        self.value = np.full(sequences, -np.inf if pool == "max" else 0.0)  # of `mean`: the sum

    def add(self, scores: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take up new tokens.

        Args:
            scores: `[sequence, new]` of each new token.
            counted: `[sequence, new]` bool: padding, special tokens and what is not watched do not count.

        Returns:
            `[sequence, new]` float64 pooled score up to each token, NaN before the first that counts; and bool, whether the
            token counts and enough stood before it to raise an alarm.
        """
        if not scores.shape[1]:
            return np.zeros(scores.shape), np.zeros(scores.shape, dtype=bool)
        count: np.ndarray = self.count[:, None] + counted.cumsum(1)
        if self.pool == "mean":
            kept = self.value[:, None] + np.where(counted, scores, 0.0).cumsum(1)
            so_far = kept / np.maximum(count, 1)
        elif self.pool == "max":
            highest = np.maximum.accumulate(np.where(counted, scores, -np.inf), axis=1)
            so_far = kept = np.maximum(highest, self.value[:, None])
        else:
            newest = np.maximum.accumulate(np.where(counted, np.arange(scores.shape[1]), -1), axis=1)
            own = np.take_along_axis(np.asarray(scores, np.float64), np.maximum(newest, 0), 1)
            so_far = kept = np.where(newest < 0, self.value[:, None], own)
        self.count, self.value = count[:, -1], kept[:, -1]
        return np.where(count > 0, so_far, np.nan), counted & (count > self.warm_up)


class Alarms:
    """Goes off where the score has been over the threshold at `patience` tokens in a row."""

    def __init__(self, threshold: float, sequences: int, patience: int = 1) -> None:
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise ValueError(f"patience is a number of tokens in a row, 1 or more; got {patience!r}")
        self.threshold = threshold
        self.patience = patience
        self.streak = np.zeros(sequences, dtype=np.int64)

    def add(self, so_far: np.ndarray, ready: np.ndarray) -> np.ndarray:
        """`[sequence, new]` bool, from what `Running.add` returns. Tokens that do not count leave the row of tokens unbroken."""
        over: np.ndarray = ready & (so_far > self.threshold)
        if self.patience == 1:
            return over
        alarm: np.ndarray = np.zeros_like(over)
        for t in range(over.shape[1]):
            self.streak = np.where(over[:, t], self.streak + 1, np.where(ready[:, t], 0, self.streak))
            alarm[:, t] = over[:, t] & (self.streak >= self.patience)
        return alarm


def peak(so_far: np.ndarray, ready: np.ndarray) -> float:
    """The highest score of a whole text at which an alarm could have gone off; -inf for a text too short for one."""
    return float(np.max(np.where(ready, so_far, -np.inf), initial=-np.inf))
