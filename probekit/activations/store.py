"""`ActivationStore`: captured activations in a folder of safetensors shards with a JSON manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from probekit.activations.source import unknown_site
from probekit.data import as_dataset
from probekit.engine import require_seen
from probekit.files import write_whole

MANIFEST = "manifest.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class File(BaseModel):
    """A file of the store: its name, size in bytes and SHA-256; for a shard also its first and (exclusive) last row."""

    model_config = ConfigDict(extra="forbid")
    name: str
    bytes: int
    sha256: str
    start: int = 0
    stop: int = 0


class Manifest(BaseModel):
    """Everything that decides what the store holds, and the files that are written so far."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1] = 1
    model: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    data: str
    data_fingerprint: str
    token_fingerprint: str
    data_facts: dict[str, Any]
    sites: dict[str, int]
    sequences: int
    cut: int
    rows: int
    pool: str
    every: int
    selection: str
    dtype: str
    compute_dtype: str
    token_budget: int
    padding: float
    hooks: list[str] = []  # modules that had somebody's hooks on them, such as an edit's
    versions: dict[str, str]
    index: File | None = None
    shards: list[File] = []

    @property
    def complete(self) -> bool:
        """Whether every row is written."""
        return sum(shard.stop - shard.start for shard in self.shards) == self.rows

    def differences(self, other: Manifest) -> list[str]:
        """Names of what the two disagree in: all that decides the rows.

        What the data set is called and which files it came from (they hold labels too) are for the record only: the
        fingerprints say whether the model sees the same.
        """
        for_the_record = {"index", "shards", "data", "data_facts"}
        ours, theirs = (m.model_dump(mode="json", exclude=for_the_record) for m in (self, other))
        return [key for key in ours if ours[key] != theirs[key]]


class ActivationStore:
    """Activations on disk. `capture` writes one; `ActivationStore.open` opens it again.

    Rows are in data set order: with one row a sequence (`last`, `mean`, `span`), row i is sequence i unless `rows`
    left some out. Nothing is read into memory before it is asked for, and then one shard at a time.

    Attributes:
        path: The folder.
        manifest: A `Manifest`: fingerprints, pooling, dtype, sites, versions, how many sequences were cut, the share
            of padding, and the files with their checksums.
        sites, sequence, position, token, prefix, item: As in `Activations`. With `mean` and `span`, position, token,
            prefix and item are those of the last token that enters the mean.
        verified: Whether this program has written the files or compared them with their checksums.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.verified = False
        self._index: dict[str, np.ndarray] | None = None

    @classmethod
    def open(cls, path: str | Path) -> ActivationStore:
        """Open a store.

        Raises:
            FileNotFoundError: no such folder, or no manifest in it.
            ValueError: the manifest is not one, or the capture was never finished.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest is None:
            raise FileNotFoundError(f"{path} is not an activation store: it has no {MANIFEST}")
        if not manifest.complete:
            done = sum(shard.stop - shard.start for shard in manifest.shards)
            raise ValueError(
                f"the capture into {path} stopped after {done} of {manifest.rows} rows; call capture with the same "
                f"arguments and out={str(path)!r} to finish it"
            )
        return cls(path, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path.resolve(),)

    def __repr__(self) -> str:
        m = self.manifest
        return f"ActivationStore({str(self.path)!r}: {m.rows} rows at {len(m.sites)} sites of {m.model}, {m.dtype})"

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.manifest.sites)

    @property
    def sequence(self) -> np.ndarray:
        return self._indices()["sequence"]

    @property
    def position(self) -> np.ndarray:
        return self._indices()["position"]

    @property
    def token(self) -> np.ndarray:
        return self._indices()["token"]

    @property
    def prefix(self) -> np.ndarray:
        return self._indices()["prefix"].view(np.uint64)

    @property
    def item(self) -> np.ndarray:
        return self._indices()["item"]

    def width(self, site: str) -> int:
        """Number of dimensions at `site`."""
        if site not in self.manifest.sites:
            raise KeyError(unknown_site(site, self.sites))
        return self.manifest.sites[site]

    def read(self, site: str, rows: np.ndarray | slice | None = None) -> np.ndarray:
        """`[row, width]` float32: all rows of a site, or those of `rows` (indices, mask or slice) in that order.

        Raises:
            KeyError: no such site; names the near ones.
            IndexError: a row outside the store.
            FileNotFoundError, ValueError: a shard is missing or damaged; names it.
        """
        width = self.width(site)
        if rows is None or isinstance(rows, slice):
            wanted = np.arange(*(rows or slice(None)).indices(len(self)))
        else:
            wanted = np.arange(len(self))[rows]
        result = np.empty((len(wanted), width), dtype=np.float32)
        ascending = len(wanted) < 2 or bool((np.diff(wanted) >= 0).all())
        order = None if ascending else np.argsort(wanted, kind="stable")
        in_order = wanted if order is None else wanted[order]
        for shard in self.manifest.shards:
            first, last = np.searchsorted(in_order, [shard.start, shard.stop])
            if first == last:
                continue
            needed = in_order[first:last] - shard.start
            low, high = int(needed[0]), int(needed[-1]) + 1
            part = self._read_shard(shard, site, low, high)
            if len(needed) != high - low or (np.diff(needed) != 1).any():
                part = part[needed - low]
            result[slice(first, last) if order is None else order[first:last]] = part
        return result

    def batches(self, site: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Row ranges and their `[row, width]` float32 activations, a shard at a time, in order."""
        self.width(site)
        for shard in self.manifest.shards:
            yield slice(shard.start, shard.stop), self._read_shard(shard, site, 0, shard.stop - shard.start)

    def verify(self) -> None:
        """Compare every file with its checksum; `verified` says afterwards that this was done.

        Raises:
            ValueError: names each file that is missing or damaged.
        """
        files = [self.manifest.index, *self.manifest.shards]
        wrong = [f"{file.name} is {fault}" for file in files if file and (fault := fault_of(self.path, file))]
        if wrong:
            raise ValueError(
                f"activation store {self.path}: {'; '.join(wrong)}. Call capture with the same arguments and "
                f"out={str(self.path)!r}: it makes the faulty shards again and keeps the others"
            )
        self.verified = True

    def check(self, model: Any = None, data: Any = None) -> None:
        """Refuse a store that was captured from another model or other data.

        Raises:
            ValueError: says which of the two differs, and what the store was captured from.
        """
        m = self.manifest
        if model is not None and model.fingerprint != m.model_fingerprint:
            raise ValueError(
                f"{self.path} was captured from model {m.model!r} (fingerprint {m.model_fingerprint}), not from "
                f"{model.name!r} (fingerprint {model.fingerprint})"
            )
        if data is not None:
            dataset = as_dataset(data)
            if dataset.fingerprint() != m.data_fingerprint:
                raise ValueError(
                    f"{self.path} was captured from data {m.data!r} ({m.sequences} sequences, fingerprint "
                    f"{m.data_fingerprint}), not from {dataset.name!r} ({len(dataset)} sequences, fingerprint "
                    f"{dataset.fingerprint()})"
                )

    def remove_when_unused(self) -> None:
        """Delete the folder when this object is garbage-collected or the program ends."""
        self._finalizer = weakref.finalize(self, shutil.rmtree, str(self.path), True)

    def _indices(self) -> dict[str, np.ndarray]:
        if self._index is None:
            if self.manifest.index is None:
                raise ValueError(f"activation store {self.path}: {MANIFEST} names no index; capture it again")
            with self._opened(self.manifest.index) as file:
                self._index = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        return self._index

    def _read_shard(self, shard: File, site: str, low: int, high: int) -> np.ndarray:
        with self._opened(shard) as file:
            array: np.ndarray = file.get_slice(site)[low:high].float().numpy()
        return array

    def _opened(self, file: File) -> Any:
        try:
            if (self.path / file.name).stat().st_size == file.bytes:
                return safe_open(self.path / file.name, "pt")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"activation store {self.path}: {file.name} is missing") from error
        except SafetensorError as error:
            raise ValueError(f"activation store {self.path}: {file.name} is damaged ({error})") from error
        raise ValueError(f"activation store {self.path}: {file.name} is damaged (its size is not what was written)")


def _reopened(path: Path) -> ActivationStore:
    """The store in another process."""
    require_seen(path / MANIFEST)
    return ActivationStore.open(path)


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a folder, or None where there is none.

    Raises:
        ValueError: there is one, but it cannot be read.
    """
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise ValueError(f"{path / MANIFEST} is not the manifest of an activation store ({what})") from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write or replace the manifest in one step."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=False) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    _replace(path / MANIFEST, write)


def write_tensors(path: Path, name: str, tensors: Mapping[str, torch.Tensor], start: int = 0, stop: int = 0) -> File:
    """Write a safetensors file in one step: it is there whole, or not at all."""

    def write(temporary: Path) -> None:
        save_file(dict(tensors), temporary)

    digest, size = _replace(path / name, write)
    return File(name=name, bytes=size, sha256=digest, start=start, stop=stop)


def fault_of(path: Path, file: File) -> str:
    """`"missing"`, `"damaged"`, or nothing when the file is as it was written."""
    try:
        digest, size = _digest(path / file.name)
    except FileNotFoundError:
        return "missing"
    return "" if (digest, size) == (file.sha256, file.bytes) else "damaged"


def _digest(file: Path) -> tuple[str, int]:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), os.fstat(stream.fileno()).st_size


def _replace(target: Path, write: Any) -> tuple[str, int]:
    """Digest and size of what `write` put there, whole."""
    found: list[tuple[str, int]] = []

    def written(temporary: Path) -> None:
        write(temporary)
        found.append(_digest(temporary))

    write_whole(target, written)
    return found[0]
