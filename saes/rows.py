"""Rows of activations in a shuffled order that is a function of the seed alone, read a bounded piece at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from probekit.data import Dataset, as_dataset
from probekit.models.batching import padded, unless_full

if TYPE_CHECKING:
    from probekit.activations import Activations
    from probekit.models import Model

BLOCK_ROWS = 512
"""Rows of a store that are read together."""
BLOCK_TOKENS = 2048
"""Positions that a model computes together."""
BUFFER_BYTES = 256 * 2**20
"""Activations that are shuffled together, all sites."""


class Blocks(Protocol):
    """A set of rows cut into pieces that can be read in any order.

    Attributes:
        sites: Names of the sites.
        widths: Their widths.
        counts: `[block]` rows of each piece.
        facts: What identifies the rows, for manifests; nothing for arrays, which have none.
        sequences: How many there are, those held out too.
    """

    sites: tuple[str, ...]
    widths: dict[str, int]
    counts: np.ndarray
    facts: dict[str, Any]
    sequences: int

    def read(self, block: int) -> dict[str, Tensor]:
        """`[row, width]` float32 by site."""


class StoredBlocks:
    """Runs of consecutive rows of activations that are already there.

    Args:
        activations: A store, or arrays.
        sites: Which of its sites.
        kept: `[row]` mask of the rows to use.
    """

    def __init__(self, activations: Activations, sites: Sequence[str], kept: np.ndarray) -> None:
        self._activations, self.sites, self._kept = activations, tuple(sites), kept
        self.widths = {site: activations.width(site) for site in self.sites}
        starts = np.arange(0, len(kept), BLOCK_ROWS)
        counts = np.add.reduceat(kept.astype(np.int64), starts) if len(kept) else np.empty(0, np.int64)
        self.sequences = int(activations.sequence.max()) + 1
        self._starts, self.counts = starts[counts > 0], counts[counts > 0]
        manifest = getattr(activations, "manifest", None)
        names = ("model", "model_fingerprint", "data", "data_fingerprint", "pool", "every")
        self.facts = {name: getattr(manifest, name) for name in names} if manifest is not None else {}

    def read(self, block: int) -> dict[str, Tensor]:
        start = int(self._starts[block])
        rows = slice(start, min(start + BLOCK_ROWS, len(self._kept)))
        kept = self._kept[rows]
        return {site: torch.from_numpy(self._activations.read(site, rows)[kept]) for site in self.sites}


class ModelBlocks:
    """Sequences that a model reads when they are asked for; nothing is stored.

    Args:
        model: From `load_model`.
        data: What it reads.
        sites: Which of its sites.
        kept: `[sequence]` mask of the sequences to use.
    """

    def __init__(self, model: Model, data: Dataset, sites: Sequence[str], kept: np.ndarray) -> None:
        self._model, self.sites = model, tuple(sites)
        self.widths = {site: int(model.site(site).width) for site in self.sites}
        self._tokens = [np.asarray(t)[: model.context] for t in token_ids(model, data)]
        self.sequences = len(kept)
        lengths = np.array([len(t) for t in self._tokens])
        used = np.flatnonzero(kept)
        used = used[np.argsort(lengths[used], kind="stable")]  # near lengths together, so that little is padding
        cuts, filled = [0], 0
        for place, length in enumerate(lengths[used]):
            if filled + length > BLOCK_TOKENS and filled:
                cuts.append(place)
                filled = 0
            filled += length
        self._sequences = np.split(used, cuts[1:])
        self.counts = np.array([lengths[s].sum() for s in self._sequences])
        self.facts = {
            "model": model.name,
            "model_fingerprint": model.fingerprint,
            "data": data.name,
            "data_fingerprint": data.fingerprint(),
            "pool": "all",
            "every": 1,
        }

    def read(self, block: int) -> dict[str, Tensor]:
        chosen = [self._tokens[i] for i in self._sequences[block]]
        tokens, mask = padded(chosen)
        read = self._model.run(tokens, unless_full(mask), list(self.sites))
        return {site: values.float().cpu()[mask] for site, values in read.items()}


def token_ids(model: Model, data: Dataset) -> list[np.ndarray]:
    """Each sequence's token ids: the data's own, not cut to the model's context, or those of its texts."""
    return list(data.tokens) if data.tokens is not None else model.tokenize(data.texts or ())[0]


def held_out_sequences(count: int, share: float) -> np.ndarray:
    """`[sequence]` mask of those no SAE is trained on: the same for every seed, so that SAEs can be compared on them."""
    if not 0 <= share < 1:
        raise ValueError(f"held_out must be a share from 0 to below 1, got {share}")
    mask = np.zeros(count, bool)
    mask[np.random.default_rng(0x5AE).permutation(count)[: round(share * count)]] = True
    return mask


def blocks_of(source: Any, data: Any, sites: Sequence[str], held_out: float) -> Blocks:
    """The training rows of a model with data, or of activations.

    Raises:
        KeyError: unknown site.
        ValueError: no data with a model, or nothing left to train on.
    """
    if hasattr(source, "run") and hasattr(source, "stream_sites"):
        if data is None:
            raise ValueError("a model needs data to read: pass a Dataset, a list of texts, or a list of token arrays")
        dataset = as_dataset(data)
        blocks: Blocks = ModelBlocks(source, dataset, sites, ~held_out_sequences(len(dataset), held_out))
    else:
        sequence = source.sequence
        blocks = StoredBlocks(source, sites, ~held_out_sequences(int(sequence.max()) + 1, held_out)[sequence])
    if not blocks.counts.sum():
        raise ValueError("no rows are left to train on: the data is too small for the share that is held out")
    return blocks


class ShuffledRows:
    """Batches without end: blocks in a new random order each epoch, rows shuffled within a buffer of many blocks.

    Batch `i` is a function of the blocks, the seed and `i`, so a run that was interrupted goes on exactly. Rows at the end
    of a buffer that fill no batch are left out of that epoch.

    Args:
        blocks: Where rows come from.
        batch: Rows of a batch.
        seed: Of the order.
    """

    def __init__(self, blocks: Blocks, batch: int, seed: int) -> None:
        rows = int(blocks.counts.sum())
        if rows < batch:
            raise ValueError(
                f"there are {rows:,} rows to train on: give batch={rows:,} (--batch {rows}) or less, not {batch:,}"
            )
        self._blocks, self._batch, self._seed = blocks, batch, seed
        self._lengths: dict[int, dict[str, float]] = {}
        row_bytes = 4 * sum(blocks.widths.values())
        self._buffer_rows = max(batch, BUFFER_BYTES // row_bytes)

    def batches(self, start: int) -> Iterator[Mapping[str, Tensor]]:
        """`[batch, width]` float32 by site, from batch number `start` on."""
        done, epoch = 0, 0
        while True:
            for number, chosen in enumerate(self._buffers(epoch)):
                count = int(self._blocks.counts[chosen].sum()) // self._batch
                if done + count > start:
                    first = max(start - done, 0)
                    yield from self._served([self._seed, epoch, number], chosen, first, count)
                done += count
            epoch += 1

    def _buffers(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._blocks.counts))
        filled = self._blocks.counts[order].cumsum()
        buffers = max(1, int(filled[-1]) // self._buffer_rows)
        return np.split(order, np.searchsorted(filled, filled[-1] / buffers * np.arange(1, buffers)))

    def _served(self, seed: list[int], chosen: np.ndarray, first: int, count: int) -> Iterator[Mapping[str, Tensor]]:
        counts = self._blocks.counts[chosen].tolist()
        rows = {site: torch.empty(sum(counts), self._blocks.widths[site]) for site in self._blocks.sites}
        filled = 0
        for block, size in zip(chosen.tolist(), counts, strict=True):  # into place: the rows are there once, not twice
            for site, part in self._blocks.read(block).items():
                self._require_finite(site, part)
                rows[site][filled : filled + size] = part
            filled += size
        order = torch.from_numpy(np.random.default_rng([*seed, 1]).permutation(len(next(iter(rows.values())))))
        for number in range(first, count):
            place = order[number * self._batch : (number + 1) * self._batch]
            yield {site: values[place] for site, values in rows.items()}

    def mean_lengths(self, batches: int) -> dict[str, float]:
        """Mean length of the rows of each site, over the first batches; read once, whoever asks."""
        if batches not in self._lengths:
            some = list(itertools.islice(self._norms(), batches))
            self._lengths[batches] = {
                site: float(torch.stack([one[site] for one in some]).mean()) for site in self._blocks.sites
            }
        return self._lengths[batches]

    def _norms(self) -> Iterator[dict[str, Tensor]]:
        for rows in self.batches(0):
            yield {site: values.norm(dim=1).mean() for site, values in rows.items()}

    @staticmethod
    def _require_finite(site: str, rows: Tensor) -> None:
        if not bool(torch.isfinite(rows.sum(dtype=torch.float64))):
            raise ValueError(f"activations at {site} are NaN or infinite: an SAE cannot be trained on them")

    @cached_property
    def rows_an_epoch(self) -> int:
        return int(self._blocks.counts.sum())
