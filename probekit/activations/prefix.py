"""One number for everything a causal model has seen up to a position."""

from __future__ import annotations

import numpy as np

_STEPS = tuple(np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def prefix_hashes(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`[token]` uint64: a hash of all token ids of the sequence up to and including each token.

    Every (position, token id) pair gets a pseudo-random 64-bit number, and a prefix is their sum modulo 2^64 (Zobrist
    hashing, 1970), so all prefixes of all sequences are one cumulative sum. Two different prefixes among n collide
    with probability about n^2 / 2^65.

    Args:
        tokens: `[token]` ids of the concatenated sequences.
        lengths: `[sequence]` number of tokens of each.
    """
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(tokens)) - np.repeat(starts, lengths)
    pair = (position.astype(np.uint64) << np.uint64(32)) | tokens.astype(np.uint32).astype(np.uint64)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mix(pair), dtype=np.uint64)])
    return _mix(total[1:] - np.repeat(total[starts], lengths))


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele, Lea & Flood 2014): a bijection of 64-bit numbers that scatters them."""
    first, second, third = _STEPS
    x = x + first
    x = (x ^ (x >> np.uint64(30))) * second
    x = (x ^ (x >> np.uint64(27))) * third
    scattered: np.ndarray = x ^ (x >> np.uint64(31))
    return scattered
