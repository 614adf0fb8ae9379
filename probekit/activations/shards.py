"""Filling the shards of a capture and writing them: one after another here, or by workers that each take a shard."""

from __future__ import annotations

import errno
import functools
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from probekit.activations.plan import Plan
from probekit.activations.progress import Bar, Estimate, readable_size
from probekit.activations.store import DTYPES, File, Manifest, write_manifest, write_tensors
from probekit.activations.stream import run_batch
from probekit.engine import Engine, mapped, require_seen
from probekit.files import remove_unfinished

INDEX = "index.safetensors"
_SPACES = 2  # shards in memory: one is filled while the other is written


def write_index(path: Path, manifest: Manifest, plan: Plan) -> None:
    """Write what is known of every row before the model runs."""
    # PyTorch cannot store every unsigned type everywhere; the bits of the hash are kept as int64.
    arrays = {name: torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array)
              for name, array in plan.index.items()}  # fmt: skip
    manifest.index = write_tensors(path, INDEX, arrays)
    write_manifest(path, manifest)


def write_shards(
    model: Any,
    plan: Plan,
    shards: list[int],
    path: Path,
    manifest: Manifest,
    computing: torch.dtype | None,
    row_bytes: int,
    engine: Engine,
    progress: bool,
) -> None:
    """Make the shards of these numbers, and note each in the manifest as soon as it is written.

    Raises:
        OSError: too little disk, found beforehand or on the way; a folder that workers do not see.
        ValueError: activations that are not finite, or overflow the stored dtype.
    """
    sites = manifest.sites
    left_rows = sum(plan.shards[n][1] - plan.shards[n][0] for n in shards)
    disk = left_rows * row_bytes + plan.rows * 32
    path.mkdir(parents=True, exist_ok=True)
    _require_disk(path, disk)
    total = sum(plan.padded_tokens(batch) for n in shards for batch in plan.batches[n])
    most = max(plan.padded_tokens(batch) for n in shards for batch in plan.batches[n])
    memory = min(_SPACES, len(shards)) * _largest(plan, shards) * row_bytes + most * max(sites.values()) * 4
    places = f"{len(sites)} site{'s' * (len(sites) > 1)}"
    bar = Bar(progress, total, f"{left_rows:,} rows at {places} of {manifest.model}")
    bar.announce(Estimate(memory, disk), path)
    try:
        remove_unfinished(path)
        if manifest.index is None:
            write_index(path, manifest, plan)
        if engine == "local":
            _shards_here(model, plan, shards, path, manifest, computing, bar, total)
        else:
            _shards_elsewhere(model, plan, shards, path, manifest, computing, engine, bar)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: {len(manifest.shards)} of {len(plan.shards)} shards are written to {path} and "
                f"intact. Make room and call capture again with the same arguments; it goes on from there",
            ) from error
        raise
    finally:
        bar.close()


def _shards_here(
    model: Any,
    plan: Plan,
    shards: list[int],
    path: Path,
    manifest: Manifest,
    computing: torch.dtype | None,
    bar: Bar,
    total: int,
) -> None:
    """One shard after another; the model goes on while a shard is checksummed and written."""
    rows, dtype = _largest(plan, shards), manifest.dtype
    buffers = [_empty(rows, manifest.sites, dtype) for _ in range(min(_SPACES, len(shards)))]
    began = time.perf_counter()

    def passed(tokens: int) -> None:
        nonlocal began
        now = time.perf_counter()
        bar.time((now - began) / tokens * total)
        bar.advance(tokens)
        began = time.perf_counter()

    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for turn, number in enumerate(shards):
            start, stop = plan.shards[number]
            shard = {site: values[: stop - start] for site, values in buffers[turn % len(buffers)].items()}
            began = time.perf_counter()
            _fill(model, plan, number, shard, computing, passed)
            if written is not None:
                written.result()
            written = writer.submit(_write_shard, path, manifest, number, shard, start, stop)
        if written is not None:
            written.result()


def _shards_elsewhere(
    model: Any,
    plan: Plan,
    shards: list[int],
    path: Path,
    manifest: Manifest,
    computing: torch.dtype | None,
    engine: Engine,
    bar: Bar,
) -> None:
    """Each shard by a worker that loads the model once; here is only noted what is there."""
    make = functools.partial(_make_shard, model, path.resolve(), dict(manifest.sites), manifest.dtype, computing)
    pieces = ((number, *plan.shards[number], plan.shard(number)) for number in shards)
    for _, (number, file) in mapped(make, pieces, engine, on_gpu=model.origin.on_gpu):
        require_seen(path / file.name)
        _note_shard(path, manifest, file)
        bar.advance(sum(plan.padded_tokens(batch) for batch in plan.batches[number]))
    remove_unfinished(path)


def _make_shard(
    model: Any,
    path: Path,
    sites: dict[str, int],
    dtype: str,
    computing: torch.dtype | None,
    piece: tuple[int, int, int, Plan],
) -> tuple[int, File]:
    number, start, stop, plan = piece
    require_seen(path / INDEX)
    shard = _empty(stop - start, sites, dtype)
    _fill(model, plan, 0, shard, computing, lambda tokens: None)
    return number, write_tensors(path, _shard_name(number), shard, start, stop)


def _largest(plan: Plan, shards: list[int]) -> int:
    """Rows of the largest of these shards."""
    return max(plan.shards[n][1] - plan.shards[n][0] for n in shards)


def _empty(rows: int, sites: Mapping[str, int], dtype: str) -> dict[str, torch.Tensor]:
    return {site: torch.empty((rows, width), dtype=DTYPES[dtype]) for site, width in sites.items()}


def _fill(
    model: Any,
    plan: Plan,
    number: int,
    shard: dict[str, torch.Tensor],
    computing: torch.dtype | None,
    passed: Callable[[int], None],
) -> None:
    """Run the batches of a shard; its rows come to stand in `shard`. `passed` hears how many positions a batch had."""
    start, _ = plan.shards[number]
    for batch in plan.batches[number]:
        place = torch.from_numpy(plan.rows_of(batch) - start)
        keep = functools.partial(_copy_rows, plan, start, shard, place)
        run_batch(model, plan, batch, list(shard), computing, keep)
        passed(plan.padded_tokens(batch))


def _copy_rows(
    plan: Plan, start: int, shard: dict[str, torch.Tensor], place: torch.Tensor, site: str, values: torch.Tensor
) -> None:
    values = values.to(shard[site].dtype).cpu()
    if not torch.isfinite(values.sum(dtype=torch.float32)):  # a sum costs little while the values are in the cache
        _require_finite(values, plan, site, start + place.numpy())
    shard[site].index_copy_(0, place, values)


def _write_shard(
    path: Path, manifest: Manifest, number: int, shard: dict[str, torch.Tensor], start: int, stop: int
) -> None:
    _note_shard(path, manifest, write_tensors(path, _shard_name(number), shard, start, stop))


def _note_shard(path: Path, manifest: Manifest, file: File) -> None:
    manifest.shards = sorted([*manifest.shards, file], key=_start)
    write_manifest(path, manifest)


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _start(file: File) -> int:
    return file.start


class NotFinite(ValueError):
    """Activations that are NaN or infinite, or too large for what is to be stored."""

    def __init__(self, site: str, sequence: int, position: int, hint: str) -> None:
        super().__init__(site, sequence, position, hint)
        self.sequence = sequence

    def __str__(self) -> str:
        site, sequence, position, hint = self.args
        return f"activations at {site} are not finite in sequence {sequence}, position {position}{hint}"


def _require_disk(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path).free
    if free < needed * 1.01 + 2**20:
        raise OSError(
            errno.ENOSPC,
            f"this capture needs {readable_size(needed)} of disk, and {readable_size(free)} are free in {path}. Store "
            f"less (dtype='float16', fewer sites, every=, pool=, rows=) or give another folder with out=",
        )


def _require_finite(values: torch.Tensor, plan: Plan, site: str, rows: np.ndarray) -> None:
    finite = torch.isfinite(values).all(dim=1).numpy()
    if not finite.all():
        first = rows[~finite].min()
        hint = "; float16 ends at 65,504: store float32 or bfloat16" if values.dtype == torch.float16 else ""
        raise NotFinite(site, int(plan.index["sequence"][first]), int(plan.index["position"][first]), hint)
