"""`Plan`: which rows a capture will make of a data set, and in which batches the model will run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.activations.prefix import prefix_hashes
from probekit.data import Dataset

POOLS = ("all", "last", "mean", "span")
SHARD_BYTES = 128 * 2**20
"""Activations of a shard, all sites together. Two wait in memory, and are lost when a capture is killed."""
BATCH_BYTES = 256 * 2**20
"""The most activations of a batch, all sites together, that a device may hold at once."""
BATCH_OVERHEAD = 32
"""What a further batch costs, in tokens: below this much padding, splitting a batch does not pay."""
_TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Plan:
    """Rows and batches of a capture. Everything in it follows from the data and the arguments, never from timing.

    Attributes:
        tokens: One int32 array a sequence, cut to the context.
        cut: How many sequences were longer than the context.
        pool: How rows are made of tokens.
        index: By name (`sequence`, `position`, `token`, `item`, `prefix`) one number a row, in data set order.
        spans: `[sequence, 2]` token range that is averaged (mean and span pooling).
        first_row: `[sequence + 1]`: sequence i makes the rows `first_row[i]` to `first_row[i + 1]`.
        shards: Row ranges.
        batches: For each shard, batches of sequence numbers; every batch is padded to its longest sequence.
    """

    tokens: list[np.ndarray]
    cut: int
    pool: str
    index: dict[str, np.ndarray]
    spans: np.ndarray
    first_row: np.ndarray
    shards: list[tuple[int, int]]
    batches: list[list[np.ndarray]]

    @property
    def rows(self) -> int:
        return len(self.index["sequence"])

    def rows_of(self, batch: np.ndarray) -> np.ndarray:
        """Numbers of the rows that a batch of sequences makes, in the order of the batch."""
        return np.concatenate([np.arange(self.first_row[i], self.first_row[i + 1]) for i in batch])

    def padded_tokens(self, batch: np.ndarray) -> int:
        """Positions the model computes for a batch, padding included."""
        return len(batch) * max(len(self.tokens[i]) for i in batch)

    def shard(self, number: int) -> Plan:
        """The plan of one shard alone: its sequences are counted from 0, and so are its rows; the index keeps the numbers."""
        start, stop = self.shards[number]
        members = np.unique(np.concatenate(self.batches[number]))
        return Plan(
            tokens=[self.tokens[i] for i in members],
            cut=0,
            pool=self.pool,
            index={name: values[start:stop] for name, values in self.index.items()},
            spans=self.spans[members],
            first_row=np.append(self.first_row[members], stop) - start,
            shards=[(0, stop - start)],
            batches=[[np.searchsorted(members, batch) for batch in self.batches[number]]],
        )

    def totals(self) -> tuple[int, int]:
        """Positions the model will compute over all batches, and how many of them are padding."""
        computed = sum(self.padded_tokens(batch) for shard in self.batches for batch in shard)
        real = sum(len(self.tokens[i]) for shard in self.batches for batch in shard for i in batch)
        return computed, computed - real

    def token_fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) of the token ids as the model sees them, and of the ranges that are averaged."""
        digest = hashlib.sha256()
        for sequence in self.tokens:
            digest.update(len(sequence).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(sequence, dtype=np.int32).tobytes())
        if self.pool in ("mean", "span"):
            digest.update(np.ascontiguousarray(self.spans, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]


def make_plan(
    model: Any,
    data: Dataset,
    pool: str,
    every: int,
    rows: np.ndarray | None,
    token_budget: int,
    row_bytes: int,
    token_bytes: int,
) -> Plan:
    """Tokenise, decide the rows, and lay out shards and batches.

    Args:
        model: A `Model`.
        data: The sequences.
        pool: `all`, `last`, `mean`, `span` or `span:NAME`.
        every: With `pool="all"`, keep the k-th, 2k-th, ... token of each sequence.
        rows: Mask over tokens or sequences, or None.
        token_budget: The most positions of a batch.
        row_bytes: Stored bytes of a row, all sites together.
        token_bytes: Bytes of one position while the model runs, all sites together.
    """
    pool, _, span_name = pool.partition(":")
    if pool not in POOLS or (span_name and pool != "span"):
        raise ValueError(f"pool must be all, last, mean, span or span:NAME, got {pool!r}")
    if every < 1 or (every > 1 and pool != "all"):
        raise ValueError(f"every must be at least 1, and goes with pool='all'; got every={every}, pool={pool!r}")
    if token_budget < 1:
        raise ValueError(f"token_budget must be positive, got {token_budget}")
    tokens, full_lengths, cut = _tokenize(model, data)
    lengths = np.array([len(t) for t in tokens])
    starts = np.cumsum(full_lengths) - full_lengths
    spans = np.stack([np.zeros_like(lengths), lengths], axis=1)
    if pool == "span":
        spans = _token_spans(model, data, span_name, tokens)
    elif pool == "mean" and data.texts is not None:
        spans = _own_tokens(model, data.texts[0], tokens)
    sequence_kept, token_kept = _selection(rows, full_lengths)
    if pool == "all":
        position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        sequence = np.repeat(np.arange(len(tokens)), lengths)
        kept = ((position + 1) % every == 0) & sequence_kept[sequence]
        if token_kept is not None:
            kept &= token_kept[starts[sequence] + position]
        sequence, position = sequence[kept], position[kept]
    else:
        sequence = np.flatnonzero(sequence_kept)
        position = spans[sequence, 1] - 1
    if not len(sequence):
        raise ValueError(f"no row is left to capture (pool={pool!r}, every={every}, and the rows mask)")
    here = (np.cumsum(lengths) - lengths)[sequence] + position
    flat = np.concatenate(tokens)
    index = {
        "sequence": sequence.astype(np.int64),
        "position": position.astype(np.int32),
        "token": flat[here].astype(np.int32),
        "item": (starts[sequence] + position).astype(np.int64),
        "prefix": prefix_hashes(flat, lengths)[here],
    }
    first_row = np.searchsorted(sequence, np.arange(len(tokens) + 1))
    shards, batches = [], []
    budget = min(token_budget, max(1, BATCH_BYTES // token_bytes))
    for members in _shards(np.diff(first_row) * row_bytes):
        shards.append((int(first_row[members[0]]), int(first_row[members[-1] + 1])))
        batches.append(_batches(members, lengths[members], budget))
    return Plan(tokens, cut, pool, index, spans, first_row, shards, batches)


def _tokenize(model: Any, data: Dataset) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Token ids cut to the context; the length of each sequence as label sets count it; how many were cut."""
    if data.texts is not None:
        tokens: list[np.ndarray] = []
        cut = 0
        for start in range(0, len(data), _TEXTS_AT_ONCE):
            some, shortened = model.tokenize(data.texts[start : start + _TEXTS_AT_ONCE])
            tokens += some
            cut += shortened
        return tokens, np.array([len(t) for t in tokens]), cut
    assert data.tokens is not None
    full = np.array([len(t) for t in data.tokens])
    if model.context is None:
        return list(data.tokens), full, 0
    return [t[: model.context] for t in data.tokens], full, int((full > model.context).sum())


def _selection(rows: np.ndarray | None, full_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The mask over sequences, and the mask over tokens if that is what was given."""
    everything = np.ones(len(full_lengths), dtype=bool)
    if rows is None:
        return everything, None
    mask = np.asarray(rows)
    if mask.dtype != bool or mask.ndim != 1:
        raise ValueError(f"rows must be a 1-D mask of booleans, got {mask.dtype} of shape {mask.shape}")
    if len(mask) == len(full_lengths):
        return mask, None
    if len(mask) != full_lengths.sum():
        raise ValueError(
            f"rows has {len(mask)} entries; it must have one a sequence ({len(full_lengths)}) or one a token "
            f"({full_lengths.sum()})"
        )
    return everything, mask


def _own_tokens(model: Any, text: str, tokens: list[np.ndarray]) -> np.ndarray:
    """`[sequence, 2]` range of each text's own tokens, without the special ones that the tokenizer puts around every text.

    Which those are is seen at one `text`. Special tokens that a text itself spells out are its own.
    """
    encoded = model.tokenizer(text, return_special_tokens_mask=True, truncation=False, verbose=False)
    own = np.flatnonzero(np.asarray(encoded["special_tokens_mask"]) == 0)
    ids = np.asarray(encoded["input_ids"])
    before, after = (ids[: own[0]], ids[own[-1] + 1 :]) if len(own) else (ids[:0], ids[:0])
    spans = np.zeros((len(tokens), 2), dtype=np.int64)
    for span, sequence in zip(spans, tokens, strict=True):
        start = len(before) if np.array_equal(sequence[: len(before)], before) else 0
        stop = len(sequence)
        if len(after) and np.array_equal(sequence[-len(after) :], after):  # a text that was cut has lost them
            stop -= len(after)
        span[:] = (start, stop) if start < stop else (0, len(sequence))
    return spans


def _token_spans(model: Any, data: Dataset, name: str, tokens: list[np.ndarray]) -> np.ndarray:
    """`[sequence, 2]` token range of a span that is given in tokens (token data) or characters (text)."""
    known: Mapping[str, np.ndarray] = data.spans  # type: ignore[assignment]
    if not name and len(known) == 1:
        name = next(iter(known))
    if name not in known:
        have = ", ".join(known) or "none"
        raise ValueError(f"pool='span:NAME' needs a span of the data set; {name or 'no name'!r} given, it has: {have}")
    spans = known[name]
    if data.texts is not None:
        spans = np.concatenate(
            [
                _to_tokens(model, data.texts[start : start + _TEXTS_AT_ONCE], spans, tokens, start)
                for start in range(0, len(data), _TEXTS_AT_ONCE)
            ]
        )
    for i, (start, stop) in enumerate(spans):
        if stop > len(tokens[i]) or stop <= start:
            why = "holds no token" if stop <= start else f"ends after the {len(tokens[i])} tokens the model can read"
            raise ValueError(f"span {name!r} of sequence {i} {why}")
    return spans


def _to_tokens(
    model: Any, texts: tuple[str, ...], spans: np.ndarray, tokens: list[np.ndarray], start: int
) -> np.ndarray:
    """Token ranges that overlap the character ranges, through the tokenizer's own offsets."""
    if not getattr(model.tokenizer, "is_fast", False):
        raise ValueError("span pooling of text needs a fast tokenizer (one that gives offsets); give spans of tokens")
    encoded = model.tokenizer(list(texts), return_offsets_mapping=True, truncation=False, verbose=False)
    ranges = np.zeros((len(texts), 2), dtype=np.int64)
    for i, (ids, offsets) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
        seen = tokens[start + i]
        if not np.array_equal(ids[: len(seen)], seen):
            raise ValueError(f"sequence {start + i}: the tokenizer gave other tokens when asked for offsets")
        first, last = spans[start + i]
        inside = np.array([a < last and b > first and b > a for a, b in offsets])
        hit = np.flatnonzero(inside)
        if len(hit):
            ranges[i] = hit[0], hit[-1] + 1
    return ranges


def _shards(sequence_bytes: np.ndarray) -> list[np.ndarray]:
    """Runs of sequences, in order, of about `SHARD_BYTES`; a sequence is never divided, one without rows left out."""
    members = np.flatnonzero(sequence_bytes)
    before = np.cumsum(sequence_bytes[members]) - sequence_bytes[members]
    shards: list[np.ndarray] = []
    start = 0
    while start < len(members):
        stop = int(np.searchsorted(before, before[start] + SHARD_BYTES))
        shards.append(members[start : max(stop, start + 1)])
        start = max(stop, start + 1)
    return shards


def _batches(members: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut the sequences, sorted by length, into the batches that cost least.

    A batch costs its sequences times its longest one, plus `BATCH_OVERHEAD`, and may hold `budget` positions (a
    longer sequence is a batch by itself). The cheapest cut is found exactly, by dynamic programming over the sorted
    order.
    """
    order = np.argsort(lengths, kind="stable")
    sizes = lengths[order]
    cost = np.zeros(len(sizes) + 1)
    cut = np.zeros(len(sizes) + 1, dtype=np.int64)
    for stop in range(1, len(sizes) + 1):
        longest = sizes[stop - 1]
        start = max(0, stop - max(1, budget // longest))
        candidates = cost[start:stop] + np.arange(stop - start, 0, -1) * longest
        best = int(np.argmin(candidates))
        cost[stop], cut[stop] = candidates[best] + BATCH_OVERHEAD, start + best
    batches = []
    stop = len(sizes)
    while stop:
        batches.append(members[order[cut[stop] : stop]])
        stop = int(cut[stop])
    return batches  # longest first: the first batch shows what memory is needed
