"""`Dataset` and `LabelSet`: sequences, what is known about them, and which of them belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Kind = Literal["binary", "multiclass", "continuous"]
Level = Literal["sequence", "token"]


@dataclass(frozen=True)
class LabelSet:
    """Named targets aligned to the sequences, or to the tokens, of a `Dataset`.

    A label set holds one or more *targets* of the same kind (64 squares of a board are 64 targets), so that probes
    for all of them are solved in one pass.

    Attributes:
        name: What the label set is called (`"tile"`).
        values: `[item, target]`. Classes are `int16` indices into `classes`, -1 where the label is not defined;
            continuous values are `float32`, NaN where not defined. An item is a sequence, or a token of the
            concatenated sequences (sequence 0's tokens, then sequence 1's, ...), as `level` says.
        kind: `binary` (two classes), `multiclass`, or `continuous`.
        level: What a row of `values` belongs to.
        classes: Names of the classes in index order; empty for a continuous label set.
        targets: Name of each column of `values`.
    """

    name: str
    values: np.ndarray
    kind: Kind
    level: Level
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim != 2:
            raise ValueError(f"label set {self.name!r}: values must be [item] or [item, target], got shape {values.shape}")
        if self.kind == "continuous":
            values = values.astype(np.float32)
            if np.isinf(values).any():
                raise ValueError(f"label set {self.name!r}: infinite values at items {np.unique(np.nonzero(np.isinf(values))[0])[:5].tolist()}")
        else:
            if not np.issubdtype(values.dtype, np.integer):
                raise TypeError(
                    f"label set {self.name!r} is {self.kind}, so its values must be integer class indices "
                    f"(got dtype {values.dtype}); LabelSet.from_values turns strings and numbers into classes"
                )
            if len(self.classes) < 2 or (self.kind == "binary" and len(self.classes) != 2):
                raise ValueError(f"label set {self.name!r} is {self.kind} but names {len(self.classes)} classes: {self.classes}")
            if values.size and (values.min() < -1 or values.max() >= len(self.classes)):
                raise ValueError(
                    f"label set {self.name!r}: class indices must lie in -1..{len(self.classes) - 1}, "
                    f"found {values.min()}..{values.max()}"
                )
            values = values.astype(np.int16)
        targets = self.targets or ((self.name,) if values.shape[1] == 1 else tuple(f"{self.name}[{i}]" for i in range(values.shape[1])))
        if len(targets) != values.shape[1]:
            raise ValueError(f"label set {self.name!r}: {values.shape[1]} columns of values but {len(targets)} target names")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "targets", tuple(targets))
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))

    def __len__(self) -> int:
        return len(self.values)

    def defined(self) -> np.ndarray:
        """`[item, target]` bool: where the label has a value."""
        return ~np.isnan(self.values) if self.kind == "continuous" else self.values >= 0

    def rows(self, index: np.ndarray) -> LabelSet:
        """The same label set for some of its items only."""
        return replace(self, values=self.values[index])


@dataclass(frozen=True)
class Dataset:
    """Sequences (texts or token ids), the group each belongs to, and their label sets.

    Attributes:
        name: For titles and manifests.
        texts: One string a sequence, or None when the data is already tokens.
        tokens: One 1-D integer array of token ids a sequence, or None when the data is text.
        groups: `[sequence]` integers: sequences of one group are never split between train and test. Each sequence
            is its own group when none are given.
        labels: Label sets by name; a value may be a function of no arguments, called (once) when first asked for.
        surface: Optional `[item, feature]` of what can be seen without the model, for the surface baseline of token
            data; a function is called when first asked for. Text data uses word and character n-grams instead.
        spans: Optional `[sequence, 2]` character range (text) or token range (tokens) for span pooling.
        split: Optional `[sequence]` of `"train"`, `"test"` or `"ood"` where the data comes with its own split.
        facts: What produced the data (seeds, file hashes), copied into manifests.
    """

    name: str
    texts: tuple[str, ...] | None = None
    tokens: tuple[np.ndarray, ...] | None = None
    groups: np.ndarray | None = None
    labels: Mapping[str, LabelSet | Callable[[], LabelSet]] = field(default_factory=dict)
    surface: np.ndarray | Callable[[], np.ndarray] | None = None
    spans: np.ndarray | None = None
    split: np.ndarray | None = None
    facts: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.texts is None) == (self.tokens is None):
            raise ValueError("a Dataset holds either texts or tokens: give exactly one of them")
        if self.texts is not None:
            if isinstance(self.texts, str):
                raise TypeError("texts must be a sequence of strings, not one string: wrap it in a list")
            for i, text in enumerate(self.texts):
                if not isinstance(text, str):
                    raise TypeError(f"texts[{i}] is {type(text).__name__}, not a string")
                if not text.strip():
                    raise ValueError(f"texts[{i}] is empty: there is no token to read; remove it or fill it in")
            object.__setattr__(self, "texts", tuple(self.texts))
        if self.tokens is not None:
            tokens = tuple(np.ascontiguousarray(t, dtype=np.int32) for t in self.tokens)
            for i, sequence in enumerate(tokens):
                if sequence.ndim != 1 or len(sequence) == 0:
                    raise ValueError(f"tokens[{i}] must be a non-empty 1-D array of token ids, got shape {sequence.shape}")
            object.__setattr__(self, "tokens", tokens)
        if len(self) == 0:
            raise ValueError(f"dataset {self.name!r} has no sequences")
        groups = np.arange(len(self)) if self.groups is None else np.unique(np.asarray(self.groups), return_inverse=True)[1]
        for what, array in (("groups", groups), ("spans", self.spans), ("split", self.split)):
            if array is not None and len(array) != len(self):
                raise ValueError(f"{what} has {len(array)} entries for {len(self)} sequences")
        object.__setattr__(self, "groups", groups.astype(np.int64))

    def __len__(self) -> int:
        return len(self.texts if self.texts is not None else self.tokens)  # type: ignore[arg-type]

    def label_set(self, name: str) -> LabelSet:
        """The label set called `name`, computed now if it was given as a function.

        Raises:
            KeyError: no such label set; names the ones there are.
        """
        if name not in self.labels:
            raise KeyError(f"dataset {self.name!r} has no label set {name!r}; it has: {', '.join(self.labels) or 'none'}")
        value = self.labels[name]
        if callable(value):
            value = value()
            self.labels[name] = value  # type: ignore[index]
        return value

    def surface_features(self) -> np.ndarray | None:
        """`[item, feature]` float32 of what can be seen without the model, or None."""
        value = self.surface() if callable(self.surface) else self.surface
        if value is not None and value is not self.surface:
            object.__setattr__(self, "surface", value)
        return value

    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) of the sequences in order; labels do not enter it."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(len(chunk).to_bytes(8, "little"))
            digest.update(chunk)
        return digest.hexdigest()[:16]

    def _chunks(self) -> Iterator[bytes]:
        if self.texts is not None:
            yield from (text.encode() for text in self.texts)
        else:
            yield from (sequence.tobytes() for sequence in self.tokens or ())


def as_dataset(data: Dataset | Sequence[str] | Sequence[np.ndarray], name: str = "data") -> Dataset:
    """Wrap a list of texts or of token arrays; a `Dataset` passes through."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        raise TypeError("data is one string; give a list of texts, or read a file with probekit.data.read_csv")
    items = list(data)
    if items and isinstance(items[0], str):
        return Dataset(name, texts=tuple(items))
    return Dataset(name, tokens=tuple(np.asarray(item) for item in items))
