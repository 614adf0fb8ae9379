"""`Activations`: what probes read, wherever it was captured; `ArrayActivations`: the same for plain arrays."""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

_BATCH_ROWS = 16_384
_unlike = itertools.count()  # keeps rows of different arrays apart that come without prefixes


@runtime_checkable
class Activations(Protocol):
    """Rows of activations at one or more sites, and where each row comes from.

    `ActivationStore` and `ArrayActivations` are such; anything with these attributes is.

    Attributes:
        sites: Names of the sites.
        sequence: `[row]` int64, index of the sequence in the data set.
        position: `[row]` int32, position of the row's last token in its sequence.
        token: `[row]` int32, id of that token (-1 where not known).
        prefix: `[row]` uint64, hash of all tokens the row could see; equal prefixes mean equal activations.
        item: `[row]` int64, index of that token among the concatenated sequences: the row of a token-level label set.
    """

    @property
    def sites(self) -> tuple[str, ...]: ...
    @property
    def sequence(self) -> np.ndarray: ...
    @property
    def position(self) -> np.ndarray: ...
    @property
    def token(self) -> np.ndarray: ...
    @property
    def prefix(self) -> np.ndarray: ...
    @property
    def item(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def width(self, site: str) -> int: ...
    def read(self, site: str, rows: np.ndarray | slice | None = None) -> np.ndarray: ...
    def batches(self, site: str) -> Iterator[tuple[slice, np.ndarray]]: ...


class ArrayActivations:
    """Activations that another tool captured (TransformerLens, nnsight, a vLLM plugin, plain arrays).

    Args:
        arrays: By site, `[row, width]`: numpy arrays or torch tensors of any float dtype; not copied.
        sequence: `[row]` integers, which sequence a row comes from. Left out, every row is a sequence of its own.
        position: `[row]` integers, position in the sequence; 0 if left out.
        token: `[row]` token ids; -1 if left out.
        prefix: `[row]` hash of the tokens each row could see (`probekit.activations.prefix_hashes`). Left out, no two
            rows, of these arrays or others, are taken to have the same prefix, so a sweep cannot drop test rows whose
            prefix occurs in training.
        item: `[row]` index into the label sets; the row number if left out.

    Raises:
        TypeError: an array is not of a float dtype.
        ValueError: an array is not `[row, width]`; lengths differ; NaN or infinite values (names site and row).
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        sequence: Any = None,
        position: Any = None,
        token: Any = None,
        prefix: Any = None,
        item: Any = None,
    ) -> None:
        if not isinstance(arrays, Mapping) or not arrays:
            raise ValueError("arrays must be a dict {site name: array of shape [row, width]} with at least one site")
        self._arrays = {str(site): _check_array(str(site), array) for site, array in arrays.items()}
        lengths = {site: len(array) for site, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the sites have different numbers of rows: {lengths}")
        self._rows = next(iter(lengths.values()))
        every = np.arange(self._rows)
        self.sequence = self._index("sequence", sequence, every, np.int64)
        self.position = self._index("position", position, np.zeros(self._rows), np.int32)
        self.token = self._index("token", token, np.full(self._rows, -1), np.int32)
        self.prefix = self._index("prefix", prefix, every + (next(_unlike) << 40), np.uint64)
        self.item = self._index("item", item, every, np.int64)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self._arrays)

    def __len__(self) -> int:
        return self._rows

    def width(self, site: str) -> int:
        """Number of dimensions at `site`."""
        return int(self._array(site).shape[1])

    def read(self, site: str, rows: np.ndarray | slice | None = None) -> np.ndarray:
        """`[row, width]` float32: all rows of a site, or those of `rows` (indices, mask or slice) in that order."""
        array = self._array(site)
        return _as_float32(array if rows is None else array[rows])

    def batches(self, site: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Row ranges and their `[row, width]` float32 activations, in order."""
        for start in range(0, self._rows, _BATCH_ROWS):
            part = slice(start, min(start + _BATCH_ROWS, self._rows))
            yield part, self.read(site, part)

    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) of sites and values."""
        digest = hashlib.sha256()
        for site in self.sites:
            digest.update(f"{site} {self._rows} {self.width(site)} ".encode())
            for _, values in self.batches(site):
                digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    def _array(self, site: str) -> Any:
        if site not in self._arrays:
            raise KeyError(unknown_site(site, self.sites))
        return self._arrays[site]

    def _index(self, name: str, values: Any, default: np.ndarray, dtype: type) -> np.ndarray:
        if values is None:
            return default.astype(dtype)
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        if array.shape != (self._rows,):
            raise ValueError(f"{name} must be one value a row, [{self._rows}]; got shape {array.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"{name} must be integers, got {array.dtype}")
        return array.astype(dtype)


def unknown_site(site: object, sites: tuple[str, ...]) -> str:
    """The message for a site that these activations do not have: the near names, and how many there are."""
    near = difflib.get_close_matches(str(site), sites, n=3, cutoff=0.4)
    return f"no activations at site {site!r}; near it: {', '.join(near or sites[:3])} ({len(sites)} sites in all)"


def _check_array(site: str, array: Any) -> Any:
    if hasattr(array, "detach"):
        array = array.detach()
        floating = array.is_floating_point()
    else:
        array = np.asarray(array)
        floating = np.issubdtype(array.dtype, np.floating)
    if not floating:
        raise TypeError(f"site {site!r}: activations must be floating-point, got {array.dtype}")
    if array.ndim != 2:
        hint = ""
        if array.ndim == 3:
            hint = "; flatten [sequence, position, width] to rows, leave out padding, and pass sequence= and position="
        elif array.ndim == 1:
            hint = "; one number a row is array[:, None], one row is array[None, :]"
        raise ValueError(f"site {site!r}: activations must be [row, width], got shape {tuple(array.shape)}{hint}")
    if not array.shape[0] or not array.shape[1]:
        raise ValueError(f"site {site!r}: no activations, shape {tuple(array.shape)}")
    for start in range(0, len(array), _BATCH_ROWS):
        finite = np.isfinite(_as_float32(array[start : start + _BATCH_ROWS])).all(axis=1)
        if not finite.all():
            raise ValueError(f"site {site!r}: NaN or infinite activations in row {start + int(np.argmin(finite))}")
    return array


def _as_float32(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):
        array = array.float().cpu().numpy()
    return np.asarray(array, dtype=np.float32)
