"""`SparseFeatures`: what an SAE's features do at every row of a store, compressed, made once and read by every later step."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import safe_open
from scipy import sparse

from probekit.activations.store import File, fault_of, write_tensors
from probekit.engine import Engine, check_engine, mapped, require_seen
from probekit.files import remove_unfinished, write_whole
from probekit.progress import stepping
from saes.loading import check_fits, fingerprint, fingerprint_rows, site_of

if TYPE_CHECKING:
    from probekit.activations import Activations

MANIFEST = "features.json"
INDEX = "index.safetensors"
CHUNK = 4096
"""Rows encoded at a time: `CHUNK x width` numbers are held densely."""
SHARD_ROWS = 65_536
_DECIDES = ("model_fingerprint", "data_fingerprint", "pool", "every", "selection", "dtype")
"""What a store's manifest says of its rows, beside their tokens."""
_INDICES = ("sequence", "position", "token", "item", "prefix")


class Manifest(BaseModel):
    """What a folder of features was made of, and its files."""

    format: int = 1
    sae: str
    site: str
    width: int
    rows: int
    source: dict[str, Any]
    index: File | None = None
    shards: list[File] = []
    nonzeros: int = 0


@dataclass(frozen=True)
class SparseFeatures:
    """Feature activations of rows, non-zeros only.

    Attributes:
        path: Folder.
        manifest: What it was made of.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> SparseFeatures:
        """Read a folder that `encode` finished; every file is compared with its checksum.

        Raises:
            FileNotFoundError: none there.
            ValueError: not finished, or a file that is missing or damaged (names each).
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if manifest is None:
            raise FileNotFoundError(f"no features in {path}: {MANIFEST} is missing")
        done = sum(shard.stop - shard.start for shard in manifest.shards)
        if manifest.index is None or done < manifest.rows:
            raise ValueError(f"{path} holds {done:,} of {manifest.rows:,} rows: call saes.encode again to go on")
        files = [manifest.index, *manifest.shards]
        wrong = [f"{file.name} is {fault}" for file in files if (fault := fault_of(path, file))]
        if wrong:
            raise ValueError(f"{path}: {'; '.join(wrong)}. Call saes.encode again, which makes faulty files anew")
        return cls(path, manifest)

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def width(self) -> int:
        """Number of features."""
        return self.manifest.width

    @cached_property
    def _index(self) -> dict[str, np.ndarray]:
        assert self.manifest.index is not None
        found = _tensors(self.path / self.manifest.index.name)
        return {name: found[name].view(np.uint64) if name == "prefix" else found[name] for name in _INDICES}

    @property
    def sequence(self) -> np.ndarray:
        """`[row]` int64, index of the sequence in the data set."""
        return self._index["sequence"]

    @property
    def position(self) -> np.ndarray:
        """`[row]` int32, position in the sequence."""
        return self._index["position"]

    @property
    def token(self) -> np.ndarray:
        """`[row]` int32, id of the token."""
        return self._index["token"]

    @property
    def item(self) -> np.ndarray:
        """`[row]` int64, row of a token-level label set."""
        return self._index["item"]

    @property
    def prefix(self) -> np.ndarray:
        """`[row]` uint64, hash of the tokens the row could see."""
        return self._index["prefix"]

    def shards(self) -> Iterator[tuple[slice, sparse.csr_array]]:
        """Row ranges and their `[row, feature]` float32 activations, in order."""
        for shard in self.manifest.shards:
            part = _tensors(self.path / shard.name)
            shape = (shard.stop - shard.start, self.width)
            yield (
                slice(shard.start, shard.stop),
                sparse.csr_array((part["values"], part["indices"], part["starts"]), shape=shape),
            )

    @cached_property
    def matrix(self) -> sparse.csc_array:
        """`[row, feature]` float32, by columns; takes eight bytes a non-zero of memory."""
        return sparse.csc_array(sparse.vstack([part for _, part in self.shards()], format="csr"))


def encode(
    sae: Any,
    activations: Activations,
    *,
    site: str | None = None,
    out: str | Path | None = None,
    engine: Engine = "local",
    progress: bool = True,
) -> SparseFeatures:
    """Encode all rows of a store. A killed run goes on where it stopped when called again with the same arguments.

    Args:
        sae: A `sae_lens.SAE`.
        activations: A store, or arrays.
        site: What the SAE reads; left out, its configuration says.
        out: Folder. Left out, a temporary one, removed when the features are no longer referred to.
        engine: As in `capture`: `"ray"` encodes shards by the workers of a cluster, which must see the folders of the store and of
            the features; the files are the same byte for byte.
        progress: Whether to draw a bar (on stderr).

    Raises:
        KeyError: the activations lack the site.
        ImportError, ConnectionError: `engine="ray"` without Ray, or without a cluster.
        ValueError: an SAE of another width or model; features of another SAE or of other rows in the folder; activations
            that are not finite; negative features (an architecture whose features are no activations).
    """
    check_engine(engine)
    site = site_of(sae, site)
    check_fits(sae, activations, site)
    wanted = Manifest(
        sae=fingerprint(sae),
        site=site,
        width=int(sae.cfg.d_sae),
        rows=len(activations),
        source=_source(activations, site),
    )
    if out is not None:
        return _encode_into(Path(out), sae, activations, wanted, engine, progress)
    path = Path(tempfile.mkdtemp(prefix="probekit-features-"))
    try:
        features = _encode_into(path, sae, activations, wanted, engine, progress)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    weakref.finalize(features, shutil.rmtree, str(path), True)
    return features


def _encode_into(
    path: Path, sae: Any, activations: Activations, wanted: Manifest, engine: Engine, progress: bool
) -> SparseFeatures:
    site, manifest = wanted.site, _resumed(path, wanted)
    path.mkdir(parents=True, exist_ok=True)
    if manifest.index is None:
        arrays = {
            name: torch.from_numpy(np.ascontiguousarray(_signed(getattr(activations, name)))) for name in _INDICES
        }
        manifest.index = write_tensors(path, INDEX, arrays)
        _write_manifest(path, manifest)
    done = {shard.start for shard in manifest.shards}
    starts = range(0, len(activations), SHARD_ROWS)
    left = [
        (i, start, min(start + SHARD_ROWS, len(activations))) for i, start in enumerate(starts) if start not in done
    ]
    encode_shard = functools.partial(_encode_shard, path.resolve(), sae, activations, site)
    with stepping(f"encode {site}", len(left), progress) as advance:
        for _, (shard, nonzeros) in mapped(encode_shard, left, engine, on_gpu=torch.device(sae.device).type == "cuda"):
            require_seen(path / shard.name)
            manifest.shards = sorted([*manifest.shards, shard], key=lambda file: file.start)
            manifest.nonzeros += nonzeros
            _write_manifest(path, manifest)
            advance(None, 1)
    remove_unfinished(path)
    return SparseFeatures(path, manifest)


def _encode_shard(
    path: Path, sae: Any, activations: Activations, site: str, piece: tuple[int, int, int]
) -> tuple[File, int]:
    """Write the features of some rows: the file, and how many are not zero."""
    number, start, stop = piece
    require_seen(path / INDEX)
    part = _encoded(sae, activations, site, start, stop)
    tensors = {
        "values": part.data,
        "indices": part.indices.astype(np.int32),
        "starts": part.indptr.astype(np.int64),
    }
    name = f"features-{number:05d}.safetensors"
    return write_tensors(path, name, {k: torch.from_numpy(v) for k, v in tensors.items()}, start, stop), part.nnz


def _source(activations: Activations, site: str) -> dict[str, Any]:
    """What identifies the rows: what a store's manifest says, or the contents of arrays."""
    manifest = getattr(activations, "manifest", None)
    if manifest is None:
        return {"tokens": "", "content": fingerprint_rows(activations, site)}
    return {"tokens": manifest.token_fingerprint} | {name: getattr(manifest, name) for name in _DECIDES}


@torch.no_grad()  # type: ignore[untyped-decorator]
def _encoded(sae: Any, activations: Activations, site: str, start: int, stop: int) -> sparse.csr_array:
    parts = []
    for low in range(start, stop, CHUNK):
        high = min(low + CHUNK, stop)
        fired = sae.encode(torch.from_numpy(activations.read(site, slice(low, high))).to(sae.device, sae.dtype))
        dense = (fired.to_dense() if fired.is_sparse else fired).float().cpu().numpy()
        if not np.isfinite(dense.sum(dtype=np.float64)):
            row = low + int(np.argmin(np.isfinite(dense).all(1)))
            raise ValueError(f"the SAE's features are NaN or infinite at row {row} of {site}")
        if dense.min(initial=0) < 0:
            raise ValueError("the SAE has negative features: an architecture without a ReLU, TopK or threshold")
        parts.append(sparse.csr_array(dense))
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def _signed(values: np.ndarray) -> np.ndarray:
    return values.view(np.int64) if values.dtype == np.uint64 else values


def _tensors(file: Path) -> dict[str, np.ndarray]:
    with safe_open(file, "numpy") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _resumed(path: Path, wanted: Manifest) -> Manifest:
    found = _read_manifest(path)
    if found is None:
        strange = [p.name for p in path.iterdir() if not p.name.endswith(".tmp")] if path.is_dir() else []
        if path.is_file() or any(name != INDEX for name in strange):
            raise ValueError(f"{path} holds something else ({', '.join(strange[:3])}): give a new folder")
        return wanted
    ours, theirs = (
        {**m.source, "sae": m.sae, "site": m.site, "width": m.width, "rows": m.rows} for m in (wanted, found)
    )
    differences = [
        f"{key}: {theirs.get(key)} there, {value} now"
        for key, value in ours.items()
        if theirs.get(key) != value and (key in theirs or key == "content")  # older folders say less of a store
    ]
    if differences:
        raise ValueError(f"{path} holds other features ({'; '.join(differences)}): give another folder")
    found.shards = [shard for shard in found.shards if not fault_of(path, shard)]
    if found.index is not None and fault_of(path, found.index):
        found.index = None
    found.nonzeros = sum(len(_tensors(path / shard.name)["values"]) for shard in found.shards)
    return found


def _read_manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json((path / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise ValueError(f"{path / MANIFEST} is not a manifest of features ({error.errors()[0]['msg']})") from error


def _write_manifest(path: Path, manifest: Manifest) -> None:
    write_whole(path / MANIFEST, json.dumps(manifest.model_dump(), indent=1))
