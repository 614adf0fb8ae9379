"""`Dataset`: sequences, what is known about them, and which of them belong together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from probekit.data.labels import Kind, LabelSet, Level

__all__ = ["Dataset", "Kind", "LabelSet", "Level", "as_dataset"]

_SURROGATE = re.compile("[\\ud800-\\udfff]")
SPLITS = ("train", "valid", "test", "ood")


@dataclass(frozen=True)
class Dataset:
    """Sequences (texts or token ids), the group each belongs to, and their label sets.

    Attributes:
        name: For titles and manifests.
        texts: One string a sequence, or None when the data is already tokens.
        tokens: One 1-D integer array of token ids a sequence, or None when the data is text.
        groups: `[sequence]` integers: sequences of one group are never split between train and test. Each sequence
            is its own group when none are given. Groups that share an identical sequence are joined into one, so that
            a text that occurs twice can never be in train and in test.
        labels: Label sets by name; a value may be a function of no arguments, called (once) when first asked for.
        surface: Optional `[item, feature]` of what can be seen without the model, for the surface baseline of token
            data; a function is called when first asked for. Text data uses word and character n-grams instead.
        spans: Optional ranges by name, each `[sequence, 2]`: start and end (exclusive) in characters (text) or
            tokens (tokens), for span pooling. A single array is taken as the span named `"span"`.
        split: Optional `[sequence]` of `"train"`, `"valid"`, `"test"` or `"ood"` where the data comes with its own
            split.
        facts: What produced the data (seeds, file hashes), copied into manifests.
        group_names: Optional `[sequence]` value of the column that the groups are from, None where it has none: by these a test set of
            another file is kept apart from training, where groups have other numbers.
    """

    name: str
    texts: tuple[str, ...] | None = None
    tokens: tuple[np.ndarray, ...] | None = None
    groups: np.ndarray | None = None
    labels: Mapping[str, LabelSet | Callable[[], LabelSet]] = field(default_factory=dict)
    surface: np.ndarray | Callable[[], np.ndarray] | None = None
    spans: Mapping[str, np.ndarray] | np.ndarray | None = None
    split: np.ndarray | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    group_names: tuple[str | None, ...] | None = None

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
                if _SURROGATE.search(text):
                    raise ValueError(
                        f"texts[{i}] holds half of a character (a lone surrogate): it was cut or decoded wrongly"
                    )
            object.__setattr__(self, "texts", tuple(self.texts))
        if self.tokens is not None:
            for i, ids in enumerate(self.tokens):
                if len(ids) and (kind := np.asarray(ids).dtype).kind not in "iu":
                    raise TypeError(f"tokens[{i}] holds {kind}, not whole numbers: token ids are integers")
                if len(ids) and not 0 <= int(np.min(ids)) <= int(np.max(ids)) < 2**31:
                    raise ValueError(
                        f"tokens[{i}] holds {int(np.min(ids))} to {int(np.max(ids))}: no token has such an id"
                    )
            tokens = tuple(np.ascontiguousarray(t, dtype=np.int32) for t in self.tokens)
            for i, sequence in enumerate(tokens):
                if sequence.ndim != 1 or len(sequence) == 0:
                    raise ValueError(f"tokens[{i}] must be a non-empty 1-D array of ids, got shape {sequence.shape}")
            object.__setattr__(self, "tokens", tokens)
        if len(self) == 0:
            raise ValueError(f"dataset {self.name!r} has no sequences")
        groups = np.arange(len(self)) if self.groups is None else as_groups(self.groups)
        spans = {} if self.spans is None else self.spans
        spans = {"span": spans} if not isinstance(spans, Mapping) else spans
        spans = {str(name): np.asarray(array, dtype=np.int64) for name, array in spans.items()}
        split = None if self.split is None else np.asarray(self.split).astype(str)
        named = None if self.group_names is None else np.array(self.group_names, dtype=object)
        for what, array in (
            ("groups", groups),
            ("group_names", named),
            ("split", split),
            *((f"span {n!r}", a) for n, a in spans.items()),
        ):
            if array is not None and len(array) != len(self):
                raise ValueError(f"{what} has {len(array)} entries for {len(self)} sequences")
        for name, array in spans.items():
            self._check_span(name, array)
        if split is not None and not np.isin(split, SPLITS).all():
            strange = sorted(set(split.tolist()) - set(SPLITS))
            raise ValueError(f"split has values {strange[:5]}; allowed are {', '.join(SPLITS)}")
        labels = dict(self.labels)
        for value in labels.values():
            if isinstance(value, LabelSet):
                self._check_length(value)
        object.__setattr__(self, "groups", _join_groups(groups, self.first_occurrence()))
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "split", split)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.texts if self.texts is not None else self.tokens)  # type: ignore[arg-type]

    def take(self, which: np.ndarray | Sequence[int]) -> Dataset:
        """Some of the sequences, with all that belongs to them.

        Args:
            which: Positions, in the order wanted, or a mask `[sequence]` of bools.

        Raises:
            ValueError: none is left; a mask of another length; labels of the tokens of *texts*, which only a model's tokenizer knows.
            IndexError: there is no such sequence.
        """
        chosen = np.asarray(which)
        if chosen.dtype == bool and chosen.shape != (len(self),):
            raise ValueError(
                f"a mask of {len(self)} sequences has that many entries, this one has shape {chosen.shape}"
            )
        kept = np.arange(len(self))[chosen if len(chosen) else np.array([], int)]
        if not len(kept):
            raise ValueError(f"no sequence of dataset {self.name!r} is left")
        items = kept
        if self.tokens is not None:
            ends = np.cumsum([0, *map(len, self.tokens)])
            items = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in kept])

        def labels_of(name: str) -> LabelSet:
            labels = self.label_set(name)
            if labels.level == "token" and self.tokens is None:
                raise ValueError(
                    f"label set {name!r} labels tokens of texts, which only a model's tokenizer can tell apart"
                )
            return replace(labels, values=labels.values[items if labels.level == "token" else kept])

        def surface_of() -> np.ndarray:
            features = np.asarray(self.surface_features())
            rows: np.ndarray = features[kept if len(features) == len(self) else items]
            return rows

        return replace(
            self,
            texts=None if self.texts is None else tuple(self.texts[i] for i in kept),
            tokens=None if self.tokens is None else tuple(self.tokens[i] for i in kept),
            groups=np.asarray(self.groups)[kept],
            labels={name: partial(labels_of, name) for name in self.labels},
            surface=None if self.surface is None else surface_of,
            spans={name: span[kept] for name, span in dict(self.spans or {}).items()},  # type: ignore[arg-type]
            split=None if self.split is None else self.split[kept],
            group_names=None if self.group_names is None else tuple(self.group_names[i] for i in kept),
        )

    def label_set(self, name: str) -> LabelSet:
        """The label set called `name`, computed now if it was given as a function.

        Raises:
            KeyError: no such label set; names the ones there are.
        """
        if name not in self.labels:
            known = ", ".join(self.labels) or "none"
            raise KeyError(f"dataset {self.name!r} has no label set {name!r}; it has: {known}")
        value = self.labels[name]
        if callable(value):
            value = value()
            self._check_length(value)
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

    def first_occurrence(self) -> np.ndarray:
        """`[sequence]` index of the first sequence identical to each one (its own index where it is the first)."""
        seen: dict[bytes, int] = {}
        return np.array([seen.setdefault(chunk, i) for i, chunk in enumerate(self._chunks())], dtype=np.int64)

    def _check_length(self, labels: LabelSet) -> None:
        if labels.level == "sequence":
            expected = len(self)
        elif self.tokens is not None:
            expected = sum(len(sequence) for sequence in self.tokens)
        else:
            return  # tokens of a text are known only once a model's tokenizer has seen it
        if len(labels) != expected:
            raise ValueError(
                f"label set {labels.name!r} has {len(labels)} items, but dataset {self.name!r} has {expected} "
                f"{labels.level}s"
            )

    def _check_span(self, name: str, span: np.ndarray) -> None:
        sequences: Sequence[str] | Sequence[np.ndarray] = self.texts or self.tokens or ()
        lengths = np.array([len(sequence) for sequence in sequences])
        if span.shape != (len(self), 2):
            raise ValueError(f"span {name!r} must be [sequence, 2] (start, end), got shape {span.shape}")
        bad = np.flatnonzero((span[:, 0] < 0) | (span[:, 1] <= span[:, 0]) | (span[:, 1] > lengths))
        if len(bad):
            i = int(bad[0])
            raise ValueError(
                f"span {name!r} of sequence {i} is {span[i].tolist()}, but the sequence has {lengths[i]} "
                f"{'characters' if self.texts is not None else 'tokens'} (start < end <= length is needed)"
            )

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
    items: list[Any] = list(data)
    if items and isinstance(items[0], str):
        return Dataset(name, texts=tuple(items))
    return Dataset(name, tokens=tuple(np.asarray(item) for item in items))


def as_groups(groups: object) -> np.ndarray:
    """Any values as integers 0, 1, ... by equality; what has no value (None, NaN) is a group of its own."""
    array = np.asarray(groups)
    if array.ndim != 1:
        raise ValueError(f"groups must be [sequence], got shape {array.shape}")
    empty = np.array([value is None or value != value for value in array.tolist()], bool)
    numbers = np.unique(array.astype(str) if array.dtype == object else array, return_inverse=True)[1].astype(np.int64)
    numbers[empty] = numbers.max(initial=0) + 1 + np.arange(empty.sum())
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def _join_groups(groups: np.ndarray, first: np.ndarray) -> np.ndarray:
    """`[sequence]` groups, joined where sequences of two of them are identical; numbered 0, 1, ... without holes."""
    parent = np.arange(groups.max() + 1)

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for i in np.flatnonzero(groups != groups[first]):
        one, other = root(groups[i]), root(groups[first[i]])
        parent[max(one, other)] = min(one, other)
    roots = np.array([root(group) for group in range(len(parent))])
    return np.unique(roots[groups], return_inverse=True)[1].astype(np.int64)
