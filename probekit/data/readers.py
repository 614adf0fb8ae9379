"""Reading labelled text: CSV, TSV and JSON lines (plain or .zst), and Hugging Face datasets."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probekit.data.cells import is_missing, typed, warn_of_words
from probekit.data.dataset import SPLITS, Dataset
from probekit.data.labels import Kind, LabelSet, Missing
from probekit.data.parsing import Columns, find_files, parse

Kinds = Kind | Mapping[str, Kind] | None

_SPLIT_WORDS = {word: word for word in SPLITS} | {"validation": "valid", "val": "valid", "dev": "valid"}
_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no"}


def read_csv(
    path: str | Path | Sequence[str | Path],
    text: str,
    label: str | Sequence[str],
    group: str | None = None,
    split: str | None = None,
    *,
    span: str | Sequence[str] = (),
    kind: Kinds = None,
    missing: Missing = "refuse",
    columns: Sequence[str] | None = None,
    name: str | None = None,
    like: Dataset | None = None,
) -> Dataset:
    """Read texts and labels from `.csv`, `.tsv` or `.jsonl` files, each also with `.zst` appended. UTF-8, with or
    without a byte-order mark.

    A column's values become numbers if every one of them is a number, booleans if every one is true or false (a cell that
    is empty, or says `nan` or, in such a column, `NA`, `None` or `null`, has no value), and stay strings otherwise;
    `LabelSet.from_values` then tells binary, multiclass and continuous apart and says why in `LabelSet.reason`.

    Args:
        path: A file, a glob pattern, or several of them, read in sorted order as one data set.
        text: Column of the texts that the model reads.
        label: Column or columns of labels; each becomes a label set of its name.
        group: Column whose rows of equal value are never split between train and test. A row without a value is a group
            of its own.
        split: Column of `train`, `valid`, `test` or `ood` (also `dev`, `validation`), or of true / false, where true
            means test.
        span: Column or columns holding a piece of the row's text (a name in a sentence): its first occurrence becomes
            the span of that name, for `capture(..., pool="span:NAME")`.
        kind: What the labels are, where the rules would tell otherwise: `"continuous"` for ratings of 1 to 5 that are
            meant as numbers, `"multiclass"` for more than 20 whole numbers that are meant as classes. One for all
            columns, or `{column: kind}`.
        missing: `"refuse"` raises on a row without a label (empty or NaN) and names the rows; `"undefined"` keeps the
            row, left out of training and scores for that label.
        columns: Column names of a `.csv` or `.tsv` file that has no header line.
        name: Name of the data set; the file's name unless given.
        like: The data set of training, for a test set of its own: labels keep the kind and classes they have there, and
            may be of one class only.

    Returns:
        A `Dataset`; `facts["files"]` holds name and SHA-256 of each file, `facts["duplicates"]` the number of rows
        whose text occurred before, `facts["ungrouped"]` the number without a group (warnings tell of both too).

    Raises:
        FileNotFoundError: no such file, or a pattern that matches nothing.
        KeyError: a column that is not there; names the near ones and all there are.
        ValueError: an empty text (its row), a missing label (its rows), a malformed line (its number), text that is
            not UTF-8.
    """
    files = find_files(path)
    table: Columns = {}
    places: list[str] = []
    facts = []
    for file in files:
        data = file.read_bytes()
        facts.append({"name": file.name, "sha256": hashlib.sha256(data).hexdigest()})
        part, lines = parse(file, data, columns)
        if table and set(part) != set(table):
            raise ValueError(
                f"{file.name} has the columns {', '.join(part)}, but {files[0].name} has {', '.join(table)}"
            )
        for key, values in part.items():
            table.setdefault(key, []).extend(values)
        prefix = f"{file.name} " if len(files) > 1 else ""
        places += [f"{prefix}line {line}" for line in lines]
    where = name or (files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more")
    return _build(where, table, places, text, label, group, split, span, kind, missing, {"files": facts}, like)


def from_hf(
    dataset: Any,
    text: str,
    label: str | Sequence[str],
    group: str | None = None,
    split: str | None = None,
    *,
    span: str | Sequence[str] = (),
    kind: Kinds = None,
    missing: Missing = "refuse",
    name: str | None = None,
    like: Dataset | None = None,
) -> Dataset:
    """Texts and labels from a Hugging Face `datasets.Dataset`, or from a `DatasetDict` with its splits respected.

    Arguments, result and errors are those of `read_csv`. A `ClassLabel` column keeps its class names.
    """
    table: Columns = {}
    parts = dict(dataset.items()) if isinstance(dataset, Mapping) else {"": dataset}
    if not all(hasattr(part, "column_names") for part in parts.values()):
        raise TypeError(f"from_hf reads a datasets.Dataset or DatasetDict, got {type(dataset).__name__}")
    for part_name, part in parts.items():
        for key in part.column_names:
            values = list(part[key])
            names = getattr(part.features[key], "names", None)
            if names is not None:  # ClassLabel: -1 stands for no label
                values = [names[v] if v is not None and v >= 0 else None for v in values]
            table.setdefault(key, []).extend(values)
        if part_name and split is None:
            table.setdefault("(split)", []).extend([part_name] * len(part))
    if "(split)" in table:
        split = "(split)"
    facts = {"hf_fingerprint": [getattr(part, "_fingerprint", "") for part in parts.values()]}
    places = [f"row {i}" for i in range(len(next(iter(table.values()), [])))]
    return _build(name or "hf-dataset", table, places, text, label, group, split, span, kind, missing, facts, like)


def _build(
    name: str,
    table: Columns,
    places: list[str],
    text: str,
    label: str | Sequence[str],
    group: str | None,
    split: str | None,
    span: str | Sequence[str],
    kind: Kinds,
    missing: Missing,
    facts: dict[str, Any],
    like: Dataset | None,
) -> Dataset:
    labels = [label] if isinstance(label, str) else list(label)
    spans = [span] if isinstance(span, str) else list(span)
    twice = sorted({column for column in labels if labels.count(column) > 1 or column == text})
    if twice:
        what = "the text itself" if twice[0] == text else "given twice"
        raise ValueError(f"{name}: label column {twice[0]!r} is {what}")
    kinds: Mapping[str, Kind] = (
        kind if isinstance(kind, Mapping) else {} if kind is None else dict.fromkeys(labels, kind)
    )
    strange = [column for column in kinds if column not in labels]
    if strange:
        raise ValueError(
            f"kind names {strange[0]!r}, which is no label column; those are: {', '.join(labels) or 'none'}"
        )
    for column in (text, *labels, *spans, *filter(None, (group, split))):
        if column not in table:
            near = difflib.get_close_matches(column, table, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise KeyError(f"{name} has no column {column!r}; {hint}its columns are: {', '.join(table)}")
    texts = table[text]
    for place, value in zip(places, texts, strict=True):
        if not isinstance(value, str):
            raise ValueError(f"{name} {place}: column {text!r} holds {value!r}, not a text")
        if not value.strip():
            raise ValueError(f"{name} {place}: the text (column {text!r}) is empty; fill it in or remove the row")
    sets = {}
    for column in labels:
        trained = None if like is None else like.label_set(column)
        values = typed(table[column], () if trained is None else trained.classes)
        warn_of_words(name, column, values, () if trained is None else trained.classes)
        lacking = [place for place, value in zip(places, values, strict=True) if value is None]
        if lacking and missing == "refuse":
            raise ValueError(
                f"{name}: column {column!r} has no value in {len(lacking)} of {len(values)} rows "
                f"({', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}); fill them in, remove the rows, or "
                f"pass missing='undefined' (--missing undefined) to leave them out of training and scores for this label"
            )
        try:
            sets[column] = LabelSet.from_values(column, values, kind=kinds.get(column), missing=missing, like=trained)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    facts["columns"] = {"text": text, "label": labels, "group": group, "split": split, "span": spans}
    facts["read as"] = {"kind": dict(kinds), "missing": missing}
    dataset = Dataset(
        name,
        texts=tuple(texts),
        groups=None if group is None else _groups(name, places, table[group], group, facts),
        labels=sets,
        spans={column: _locate(name, places, texts, table[column], column) for column in spans} or None,
        split=None if split is None else _splits(name, places, table[split], split),
        facts=facts,
        group_names=None if group is None else tuple(None if is_missing(v) else str(v) for v in table[group]),
    )
    first = dataset.first_occurrence()
    repeats = np.flatnonzero(first != np.arange(len(first)))
    facts["duplicates"] = len(repeats)
    if len(repeats):
        differ = [n for n, s in sets.items() if (s.values[repeats] != s.values[first[repeats]]).any()]
        warnings.warn(
            f"{name}: {len(repeats)} rows repeat the text of an earlier row (first {places[repeats[0]]} repeats "
            f"{places[first[repeats[0]]]}); they are kept, and always in the same part of a split"
            + (f"; some carry another value of {', '.join(differ)}" if differ else ""),
            stacklevel=3,
        )
    return dataset


def _groups(name: str, places: list[str], values: list[Any], column: str, facts: dict[str, Any]) -> np.ndarray:
    """`[sequence]` group numbers by equality; a cell without a value is a group of its own."""
    lacking = [place for place, value in zip(places, values, strict=True) if is_missing(value)]
    facts["ungrouped"] = len(lacking)
    if lacking:
        warnings.warn(
            f"{name}: column {column!r} has no value in {len(lacking)} of {len(values)} rows ({', '.join(lacking[:5])}"
            f"{', ...' if len(lacking) > 5 else ''}); each of them is a group of its own",
            stacklevel=4,
        )
    number: dict[object, int] = {}
    keys = [i if is_missing(value) else str(value) for i, value in enumerate(values)]
    return np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)


def _splits(name: str, places: list[str], values: Iterable[Any], column: str) -> np.ndarray:
    words = [str(v).strip().lower() for v in values]
    if set(words) <= _TRUE | _FALSE:
        return np.array(["test" if w in _TRUE else "train" for w in words])
    for place, word in zip(places, words, strict=True):
        if word not in _SPLIT_WORDS:
            raise ValueError(
                f"{name} {place}: column {column!r} says {word!r}; a split column holds {', '.join(SPLITS)}, or true "
                f"for test and false for train"
            )
    return np.array([_SPLIT_WORDS[word] for word in words])


def _locate(name: str, places: list[str], texts: list[str], pieces: list[Any], column: str) -> np.ndarray:
    """`[sequence, 2]` character range of the first occurrence of each piece in its text."""
    ranges = np.zeros((len(texts), 2), dtype=np.int64)
    for i, (text, piece) in enumerate(zip(texts, pieces, strict=True)):
        piece = str(piece).strip()
        start = text.find(piece) if piece else -1
        if start < 0:
            start = text.lower().find(piece.lower()) if piece else -1
        if start < 0:
            raise ValueError(
                f"{name} {places[i]}: {piece!r} (column {column!r}) does not occur in the text {text[:80]!r}"
            )
        ranges[i] = start, start + len(piece)
    return ranges
