"""`capture`: run a model over data once and keep its activations in a store."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError

import probekit
from probekit.activations.plan import Plan, make_plan
from probekit.activations.progress import Bar, Estimate, readable_size
from probekit.activations.store import (
    DTYPES,
    ActivationStore,
    File,
    Manifest,
    fault_of,
    read_manifest,
    write_manifest,
    write_tensors,
)
from probekit.activations.stream import computing_dtype, names_of_sites, run_batch, stream_of, warn_of_cut
from probekit.data import Dataset, as_dataset
from probekit.engine import Engine, check_engine, mapped

if TYPE_CHECKING:
    from probekit.models import Model

INDEX = "index.safetensors"


def capture(
    model: Model,
    data: Dataset | Sequence[str] | Sequence[np.ndarray],
    sites: Sequence[str] | str | None = None,
    *,
    out: str | Path | None = None,
    pool: str = "all",
    every: int = 1,
    rows: np.ndarray | None = None,
    dtype: str = "float32",
    compute_dtype: str | None = None,
    token_budget: int = 8192,
    engine: Engine = "local",
    progress: bool = True,
) -> ActivationStore:
    """Run the model over the data and store its activations.

    Sequences are batched by length under a token budget, so that little of what is computed is padding (the share is
    in the manifest). Two shards are held, one that is filled while the other is checksummed and written; of all the
    data only the tokens and an index of 32 bytes a row are. Every file is written whole or not at all; a capture that
    was killed goes on where it stopped when called again with the same arguments, and the folder ends byte for byte
    the same as if it had not been.

    Args:
        model: From `load_model`.
        data: A `Dataset`, texts, or token arrays.
        sites: Names of sites; the model's `stream_sites` if left out.
        out: Folder of the store, made if it is not there. Left out, a temporary one is used and removed when the
            store is no longer referred to.
        pool: What becomes a row: `all` tokens, the `last` token of a sequence, the `mean` over its tokens, or the mean
            over a `span` of the data set (`span:NAME` if it has several). Special tokens that the tokenizer puts around a
            text do not enter its mean (the first of them often has activations unlike all others); for `all` and `last`
            they are tokens like others. Padding never is one.
        every: With `pool="all"`, keep only the k-th, 2k-th, ... token of each sequence.
        rows: Mask that keeps only some tokens (of the concatenated sequences) or some sequences. Sequences of which
            nothing is kept are not run.
        dtype: What is stored: `float32`, `float16` or `bfloat16`.
        compute_dtype: `bfloat16` runs the model's matrix products in it (autocast). Left out, the model runs as it
            was loaded.
        token_budget: The most positions (padding included) of a batch.
        engine: `"local"`: this process. `"ray"`, or `probekit.engine.Ray(...)`: the workers of a Ray cluster, a shard at a time, each
            with the model loaded from where it was loaded here; `out` must be a folder that all machines see. A worker or machine
            that is lost costs its shard. The folder ends byte for byte the same (on the same kind of processor and threads).
        progress: Whether to say beforehand what time, memory and disk it will take, and to draw a bar (on stderr).

    Raises:
        KeyError: unknown site; names the near ones.
        ImportError, ConnectionError: `engine="ray"` without Ray, or without a cluster.
        ValueError: arguments that do not fit the data; a model that workers cannot load (see `Origin`); a folder that holds another capture; activations that are not
            finite, or overflow `dtype` (names site and sequence).
        OSError: too little disk, found beforehand or on the way. What was written stays intact and is taken up again
            by the next call.
    """
    check_engine(engine)
    dataset = as_dataset(data)
    names = names_of_sites(sites, stream_of(model))
    widths = {name: int(model.site(name).width) for name in names}
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    computing = computing_dtype(compute_dtype)
    row_bytes = sum(widths.values()) * DTYPES[dtype].itemsize
    plan = make_plan(model, dataset, pool, every, rows, token_budget, row_bytes, sum(widths.values()) * 4)
    warn_of_cut(plan, model)
    computed, padding = plan.totals()
    wanted = Manifest(
        model=model.name,
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=_tokenizer_fingerprint(model.tokenizer) if dataset.texts is not None else "",
        data=dataset.name,
        data_fingerprint=dataset.fingerprint(),
        token_fingerprint=plan.token_fingerprint(),
        data_facts=json.loads(json.dumps(dict(dataset.facts), default=str)),
        sites=widths,
        sequences=len(dataset),
        cut=plan.cut,
        rows=plan.rows,
        pool=pool,
        every=every,
        selection="" if rows is None else hashlib.sha256(np.packbits(rows).tobytes()).hexdigest()[:16],
        dtype=dtype,
        compute_dtype=compute_dtype or "",
        token_budget=token_budget,
        padding=padding / computed,
        versions={"probekit": probekit.__version__, **{p: version(p) for p in ("torch", "transformers")}},
    )
    path = Path(tempfile.mkdtemp(prefix="probekit-")) if out is None else Path(out)
    try:
        manifest = _resumed(path, wanted)
        shards = _left_to_do(path, manifest, plan)
        if shards:
            _write_shards(model, plan, shards, path, manifest, computing, row_bytes, engine, progress)
    except BaseException:
        if out is None:
            shutil.rmtree(path, ignore_errors=True)
        raise
    store = ActivationStore(path, manifest)
    store.verified = True  # written, or compared with their checksums, just now
    if out is None:
        store.remove_when_unused()
    return store


def _resumed(path: Path, wanted: Manifest) -> Manifest:
    """The manifest to go on with: the folder's own if it is of the same capture, a new one if the folder is empty."""
    found = read_manifest(path)
    if found is None:
        others = [p.name for p in path.iterdir() if not p.name.endswith(".tmp")] if path.is_dir() else []
        if path.exists() and not path.is_dir():
            raise ValueError(f"out={str(path)!r} is a file; give a folder")
        if any(name != INDEX for name in others):
            some = ", ".join(sorted(others)[:3])
            raise ValueError(f"out={str(path)!r} holds other files ({some}); give a new folder")
        return wanted
    differences = found.differences(wanted)
    if differences == ["versions"] and found.complete:
        return found
    if differences:
        ours, theirs = wanted.model_dump(mode="json"), found.model_dump(mode="json")
        shown = "; ".join(f"{d}: {theirs[d]} there, {ours[d]} now" for d in differences)
        raise ValueError(
            f"{path} holds another capture ({shown[:600]}); give another folder, or delete this one if it is not needed"
        )
    return found


def _left_to_do(path: Path, manifest: Manifest, plan: Plan) -> list[int]:
    """Numbers of the shards that are not there, or not as they were written. The others are kept."""
    manifest.shards = [shard for shard in manifest.shards if not fault_of(path, shard)]
    if manifest.index is not None and fault_of(path, manifest.index):
        manifest.index = None
    done = {shard.start for shard in manifest.shards}
    left = [number for number, (start, _) in enumerate(plan.shards) if start not in done]
    if not left and manifest.index is None:
        path.mkdir(parents=True, exist_ok=True)
        _write_index(path, manifest, plan)
    return left


def _write_index(path: Path, manifest: Manifest, plan: Plan) -> None:
    # PyTorch cannot store every unsigned type everywhere; the bits of the hash are kept as int64.
    arrays = {name: torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array)
              for name, array in plan.index.items()}  # fmt: skip
    manifest.index = write_tensors(path, INDEX, arrays)
    write_manifest(path, manifest)


def _write_shards(
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
    sites = manifest.sites
    left_rows = sum(plan.shards[n][1] - plan.shards[n][0] for n in shards)
    disk = left_rows * row_bytes + plan.rows * 32
    path.mkdir(parents=True, exist_ok=True)
    _require_disk(path, disk)
    total = sum(plan.padded_tokens(batch) for n in shards for batch in plan.batches[n])
    most = max(plan.padded_tokens(batch) for n in shards for batch in plan.batches[n])
    largest = max(plan.shards[n][1] - plan.shards[n][0] for n in shards)
    spaces = min(2, len(shards))
    memory = spaces * largest * row_bytes + most * max(sites.values()) * 4
    places = f"{len(sites)} site{'s' * (len(sites) > 1)}"
    bar = Bar(progress, total, f"{left_rows:,} rows at {places} of {manifest.model}")
    bar.announce(Estimate(memory, disk), path)
    try:
        for stale in path.glob(".*.tmp"):
            stale.unlink()
        if manifest.index is None:
            _write_index(path, manifest, plan)
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
    sites = list(manifest.sites)
    buffers = [_empty(plan, shards, manifest) for _ in range(min(2, len(shards)))]
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
            _fill(model, plan, number, shard, sites, computing, passed)
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
    for _, (number, file) in mapped(make, pieces, engine, on_gpu=True):
        place = path / file.name
        if not place.is_file() or place.stat().st_size != file.bytes:
            raise OSError(f"a worker wrote {file.name}, and it is not in {path}: {_SHARED}")
        _note_shard(path, manifest, file)
        bar.advance(sum(plan.padded_tokens(batch) for batch in plan.batches[number]))
    for stale in path.glob(".*.tmp"):  # of workers that were lost
        stale.unlink(missing_ok=True)


_SHARED = "out= must be a folder that every machine of the cluster sees under the same path"


def _make_shard(
    model: Any,
    path: Path,
    sites: dict[str, int],
    dtype: str,
    computing: torch.dtype | None,
    piece: tuple[int, int, int, Plan],
) -> tuple[int, File]:
    number, start, stop, plan = piece
    if not (path / INDEX).is_file():
        raise OSError(f"{path} is not there on {platform.node()}: {_SHARED}")
    shard = {site: torch.empty((stop - start, width), dtype=DTYPES[dtype]) for site, width in sites.items()}
    _fill(model, plan, 0, shard, list(sites), computing, lambda tokens: None)
    return number, write_tensors(path, _shard_name(number), shard, start, stop)


def _empty(plan: Plan, shards: list[int], manifest: Manifest) -> dict[str, torch.Tensor]:
    """Room for the largest of the shards."""
    largest = max(plan.shards[n][1] - plan.shards[n][0] for n in shards)
    return {site: torch.empty((largest, width), dtype=DTYPES[manifest.dtype]) for site, width in manifest.sites.items()}


def _fill(
    model: Any,
    plan: Plan,
    number: int,
    shard: dict[str, torch.Tensor],
    sites: list[str],
    computing: torch.dtype | None,
    passed: Callable[[int], None],
) -> None:
    """Run the batches of a shard; its rows come to stand in `shard`. `passed` hears how many positions a batch had."""
    start, _ = plan.shards[number]
    for batch in plan.batches[number]:
        place = torch.from_numpy(plan.rows_of(batch) - start)
        keep = functools.partial(_copy_rows, plan, start, shard, place)
        run_batch(model, plan, batch, sites, computing, keep)
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
        raise ValueError(
            f"activations at {site} are not finite in sequence {plan.index['sequence'][first]}, position "
            f"{plan.index['position'][first]}{hint}"
        )


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 (first 16 hex digits) of the vocabulary and the special tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    special = [str(token) for token in getattr(tokenizer, "all_special_tokens", [])]
    return hashlib.sha256(json.dumps([vocabulary, special]).encode()).hexdigest()[:16]
