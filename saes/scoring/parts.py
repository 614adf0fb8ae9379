"""The rows of train, valid and test that features are put to work on."""

from __future__ import annotations

import numpy as np

from probekit.data import Split, drop_seen_prefixes


def draw_parts(split: Split, prefix: np.ndarray, most: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`train`, `valid` and `test` rows of a split, ascending, drawn at random where there are too many.

    Rows of test whose whole prefix also occurs in the other parts are dropped: the model computes the same there.

    Args:
        split: Of the rows.
        prefix: `[row]` uint64 hash of the tokens each could see.
        most: Rows of train at most; of valid a quarter, of test half as many.
        rng: Draws.
    """
    before = prefix[np.concatenate([split.train, split.valid])]
    test = split.test[drop_seen_prefixes(before, prefix[split.test])]
    limits = {"train": (split.train, most), "valid": (split.valid, most // 4), "test": (test, most // 2)}
    return {
        name: np.sort(rng.choice(rows, min(len(rows), limit), replace=False)) for name, (rows, limit) in limits.items()
    }
