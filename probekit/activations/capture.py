"""`capture`: run a model over data once and keep its activations in a store."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import probekit
from probekit.activations.plan import Plan, make_plan
from probekit.activations.shards import INDEX, write_index, write_shards
from probekit.activations.store import (
    DTYPES,
    ActivationStore,
    Manifest,
    fault_of,
    read_manifest,
)
from probekit.activations.stream import computing_dtype, names_of_sites, stream_of, warn_of_cut
from probekit.data import Dataset, as_dataset
from probekit.engine import Engine, check_engine
from probekit.models.origin import hooks_on, sent

if TYPE_CHECKING:
    from probekit.models import Model


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
        compute_dtype: `bfloat16` runs the model's matrix products in it (autocast): twice as fast or more on a GPU and on processors that
            have its instructions; tens of times slower on others, which is warned of. Left out, the model runs as it
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
    elsewhere = check_engine(engine) is not None
    dataset = as_dataset(data)
    names = names_of_sites(sites, stream_of(model))
    if elsewhere:
        sent(model)  # refused now, if at all
    widths = {name: int(model.site(name).width) for name in names}
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    computing = computing_dtype(compute_dtype, model)
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
        hooks=hooks_on(model),
        versions={"probekit": probekit.__version__, **{p: version(p) for p in ("torch", "transformers")}},
    )
    path = Path(tempfile.mkdtemp(prefix="probekit-")) if out is None else Path(out)
    try:
        manifest = _resumed(path, wanted)
        shards = _left_to_do(path, manifest, plan)
        if shards:
            write_shards(model, plan, shards, path, manifest, computing, row_bytes, engine, progress)
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
    if wanted.hooks:
        raise ValueError(
            f"{path} holds a capture, and the model has hooks on it now (at {', '.join(wanted.hooks[:3])}; an edit of its activations?): "
            "whether they are those it was begun with cannot be known. Give another folder, or take them off"
        )
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
        write_index(path, manifest, plan)
    return left


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 (first 16 hex digits) of the vocabulary and the special tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    special = [str(token) for token in getattr(tokenizer, "all_special_tokens", [])]
    return hashlib.sha256(json.dumps([vocabulary, special]).encode()).hexdigest()[:16]
