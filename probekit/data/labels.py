"""`LabelSet`: named targets of one kind, and how raw label values are told apart into kinds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Kind = Literal["binary", "multiclass", "continuous"]
Level = Literal["sequence", "token"]
Missing = Literal["refuse", "undefined"]

MOST_NUMERIC_CLASSES = 20
"""Whole numbers with more distinct values than this are measurements, not classes."""


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
        reason: Why the kind is what it is, for output ("whole numbers, 3 different values").
    """

    name: str
    values: np.ndarray
    kind: Kind
    level: Level
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        where = f"label set {self.name!r}"
        if self.kind not in ("binary", "multiclass", "continuous"):
            raise ValueError(f"{where}: kind must be binary, multiclass or continuous, got {self.kind!r}")
        if self.level not in ("sequence", "token"):
            raise ValueError(f"{where}: level must be sequence or token, got {self.level!r}")
        values = np.asarray(self.values)
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim != 2:
            raise ValueError(f"{where}: values must be [item] or [item, target], got shape {values.shape}")
        if self.kind == "continuous":
            values = values.astype(np.float32)
            if np.isinf(values).any():
                items = np.unique(np.nonzero(np.isinf(values))[0])[:5].tolist()
                raise ValueError(f"{where}: infinite values at items {items}")
        else:
            if not np.issubdtype(values.dtype, np.integer):
                raise TypeError(
                    f"{where} is {self.kind}, so its values must be integer class indices "
                    f"(got dtype {values.dtype}); LabelSet.from_values turns strings and numbers into classes"
                )
            if len(self.classes) < 2 or (self.kind == "binary" and len(self.classes) != 2):
                raise ValueError(f"{where} is {self.kind} but names {len(self.classes)} classes: {self.classes}")
            if values.size and (values.min() < -1 or values.max() >= len(self.classes)):
                raise ValueError(
                    f"{where}: class indices must lie in -1..{len(self.classes) - 1}, "
                    f"found {values.min()}..{values.max()}"
                )
            values = values.astype(np.int16)
        columns = values.shape[1]
        targets = self.targets or ((self.name,) if columns == 1 else tuple(f"{self.name}[{i}]" for i in range(columns)))
        if len(targets) != columns:
            raise ValueError(f"{where}: {columns} columns of values but {len(targets)} target names")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "targets", tuple(targets))
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))

    @classmethod
    def from_values(
        cls,
        name: str,
        values: Iterable[Any],
        level: Level = "sequence",
        kind: Kind | None = None,
        *,
        missing: Missing = "refuse",
        targets: Sequence[str] = (),
        like: LabelSet | None = None,
    ) -> LabelSet:
        """Make a label set of raw values: strings, booleans, integers or floats.

        The kind is told apart by these rules, in order, and the rule that decided is written to `reason`:

        1. two different values of any type: binary;
        2. strings: multiclass, one class a string (strings are never parsed as numbers here, and never prompts);
        3. whole numbers (integers, or floats without a fraction) with at most 20 different values: multiclass;
        4. any other numbers: continuous.

        Classes are in sorted order: False before True, numbers ascending, strings alphabetical. In a binary label set
        the second class is the positive one.

        Args:
            name: Name of the label set.
            values: `[item]` or `[item, target]`; all targets share one set of classes.
            level: Whether an item is a sequence or a token.
            kind: Overrides the rules: `"continuous"` for numbers, `"binary"` or `"multiclass"` for classes.
            missing: What to do with None, NaN and empty strings: refuse them, or keep them as not defined.
            targets: Names of the columns.
            like: The label set of training, for the labels of a test set of its own: its kind and its classes hold, and
                a test set may show some of them only.

        Raises:
            ValueError: missing values (with their items) unless allowed; one class or one value only; fewer than two
                examples a class on average (an id column, or free text); consecutive unique whole numbers (row
                numbers); values that do not fit the kind asked for; values that are no class of `like`.
        """
        where = f"label {name!r}"
        if isinstance(values, str):
            raise TypeError(f"{where}: values is one string, {values[:40]!r}; give one value an item")
        raw = _as_array(values, where)
        columns = raw[:, None] if raw.ndim == 1 else raw
        absent = _absent(columns)
        if absent.any() and missing == "refuse":
            items = np.flatnonzero(absent.any(axis=1))
            raise ValueError(
                f"{where}: {len(items)} of {len(columns)} items have no value (items {_some(items)}); remove them, "
                f"fill them in, or pass missing='undefined' to leave them out of training and scores for this label"
            )
        present = columns[~absent]
        if not len(present):
            raise ValueError(f"{where}: no item has a value")
        form, distinct, index = _distinct(present, where)
        if like is not None:
            return cls(
                name, _in_terms_of(like, columns, absent, form, distinct, index, where), like.kind, level, like.classes,
                tuple(targets), like.reason,
            )  # fmt: skip
        kind, reason = _decide(form, distinct, kind, where)
        if kind == "continuous":
            _refuse_row_numbers(form, distinct, present, reason, where)
            if (
                form == "whole numbers"
                and "asked" not in reason
                and len(present) >= 20
                and len(distinct) >= 0.95 * len(present)
            ):
                warnings.warn(
                    f"{where}: {len(distinct)} different whole numbers in {len(present)} examples ({_some(distinct, 3)}, ...) are taken "
                    "as amounts, to be read by regression; if they are ids, leave the column out (kind='continuous', --kind "
                    "COLUMN=continuous, says that they are meant)",
                    stacklevel=3,
                )
            numbers = np.full(columns.shape, np.nan, dtype=np.float32)
            numbers[~absent] = present.astype(np.float64)
            return cls(name, numbers, kind, level, (), tuple(targets), reason)
        if len(distinct) > max(2, len(present) // 2):
            raise ValueError(
                f"{where}: {len(distinct)} different values in {len(present)} examples ({_some(distinct, 3)}): this "
                f"looks like an id or free text, or there are too few examples; a class needs two on average"
            )
        if len(distinct) > np.iinfo(np.int16).max:
            raise ValueError(f"{where}: {len(distinct)} classes; at most {np.iinfo(np.int16).max} are supported")
        indices = np.full(columns.shape, -1, dtype=np.int16)
        indices[~absent] = index
        return cls(name, indices, kind, level, tuple(_class_name(v) for v in distinct), tuple(targets), reason)

    def __len__(self) -> int:
        return len(self.values)

    def defined(self) -> np.ndarray:
        """`[item, target]` bool: where the label has a value."""
        defined: np.ndarray = ~np.isnan(self.values) if self.kind == "continuous" else self.values >= 0
        return defined

    def rows(self, index: np.ndarray) -> LabelSet:
        """The same label set for some of its items only."""
        return replace(self, values=self.values[index])


Form = Literal["booleans", "strings", "whole numbers", "numbers"]


def _as_array(values: Iterable[Any], where: str) -> np.ndarray:
    """`values` as a 1-D or 2-D object or numeric array, never silently cast from mixed types to strings."""
    if hasattr(values, "detach"):
        values = np.asarray(values.detach().cpu())
    if not isinstance(values, np.ndarray):
        values = list(values)
        nested = [isinstance(value, list | tuple | np.ndarray) for value in values]
        if any(nested):
            _refuse_ragged(values, where)
        values = np.array(values, dtype=None if any(nested) else object)
    if values.ndim not in (1, 2) or values.dtype.kind not in "biufUOS":
        raise ValueError(f"{where}: values must be [item] or [item, target], got {values.shape} of {values.dtype}")
    array: np.ndarray = values.astype(object) if values.dtype.kind in "US" else values
    return array


def _refuse_ragged(values: list[Any], where: str) -> None:
    lengths = [len(value) if isinstance(value, list | tuple | np.ndarray) else -1 for value in values]
    for item, length in enumerate(lengths):
        if length != lengths[0]:
            one, other = (f"{n} values" if n >= 0 else "a single value" for n in (lengths[0], length))
            raise ValueError(
                f"{where}: item 0 has {one}, item {item} has {other}; every item needs one value a target. Labels of "
                "tokens are given as one flat list over all sequences, in their order"
            )


def _absent(values: np.ndarray) -> np.ndarray:
    """Where a value is None, NaN, or a string of nothing but spaces."""
    if values.dtype.kind in "biu":
        return np.zeros(values.shape, dtype=bool)
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.array([_is_absent(v) for v in values.ravel()], dtype=bool).reshape(values.shape)


def _is_absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _distinct(present: np.ndarray, where: str) -> tuple[Form, np.ndarray, np.ndarray]:
    """What the values are, the different ones in sorted order, and for each value its index among them."""
    if present.dtype == object:
        types = {type(v) for v in present}
        if all(issubclass(t, str) for t in types):
            present = present.astype(str)
        elif all(issubclass(t, bool | np.bool_) for t in types):
            present = present.astype(bool)
        elif all(issubclass(t, int | float | np.integer | np.floating) and t is not bool for t in types):
            present = present.astype(np.float64)
        else:
            names = ", ".join(sorted(t.__name__ for t in types))
            raise ValueError(f"{where}: values are of several types ({names}); give all strings or all numbers")
    kind = present.dtype.kind
    if kind == "f" and np.isinf(present).any():
        raise ValueError(f"{where}: infinite values among its numbers (first at value {np.argmax(np.isinf(present))})")
    distinct, index = np.unique(present, return_inverse=True)
    if kind == "U":
        return "strings", distinct, index
    if kind == "b":
        return "booleans", distinct, index
    whole = kind in "iu" or bool((distinct == np.floor(distinct)).all())
    return ("whole numbers" if whole else "numbers"), distinct, index


def _in_terms_of(
    like: LabelSet,
    columns: np.ndarray,
    absent: np.ndarray,
    form: Form,
    distinct: np.ndarray,
    index: np.ndarray,
    where: str,
) -> np.ndarray:
    """`[item, target]` values in the kind and classes of another label set."""
    if like.kind == "continuous":
        if form == "strings":
            raise ValueError(f"{where}: continuous in training, but its values here are strings ({_some(distinct, 3)})")
        numbers = np.full(columns.shape, np.nan, dtype=np.float32)
        numbers[~absent] = columns[~absent].astype(np.float64)
        return numbers
    names = [_class_name(value) for value in distinct]
    strange = [name for name in names if name not in like.classes]
    if strange:
        raise ValueError(
            f"{where}: {', '.join(strange[:5])}{', ...' if len(strange) > 5 else ''} is no class of training, which has "
            f"{', '.join(like.classes[:5])}{', ...' if len(like.classes) > 5 else ''}"
        )
    indices = np.full(columns.shape, -1, dtype=np.int16)
    indices[~absent] = np.array([like.classes.index(name) for name in names], dtype=np.int16)[index]
    return indices


def _decide(form: Form, distinct: np.ndarray, asked: Kind | None, where: str) -> tuple[Kind, str]:
    count = len(distinct)
    if count < 2:
        what = "value" if asked == "continuous" else "class"
        raise ValueError(
            f"{where}: every example has the same value, {_class_name(distinct[0])!r}: one {what} only (the labels of a "
            "test set of its own are read with like=, the label set of training)"
        )
    values = f"{form}, {count} different values"
    if asked is not None:
        if asked not in ("binary", "multiclass", "continuous"):
            raise ValueError(f"{where}: kind must be binary, multiclass or continuous, got {asked!r}")
        if asked == "continuous" and form == "strings":
            raise ValueError(f"{where}: asked to be continuous, but its values are strings ({_some(distinct, 3)})")
        if asked == "binary" and count != 2:
            raise ValueError(f"{where}: asked to be binary, but it has {count} different values ({_some(distinct)})")
        if asked == "multiclass" and count == 2:
            return "binary", f"{values}; asked to be multiclass, and two classes are binary"
        return asked, f"{values}; asked to be {asked}"
    if count == 2:
        return "binary", values
    if form == "strings" or (form == "whole numbers" and count <= MOST_NUMERIC_CLASSES):
        return "multiclass", values
    return "continuous", values


def _refuse_row_numbers(form: Form, distinct: np.ndarray, present: np.ndarray, reason: str, where: str) -> None:
    """A column 0, 1, 2, ... is an index; regressing on it is never meant (unless the kind was asked for)."""
    consecutive = form == "whole numbers" and distinct[-1] - distinct[0] == len(distinct) - 1
    if consecutive and len(distinct) == len(present) and "asked" not in reason:
        raise ValueError(
            f"{where}: whole numbers {distinct[0]:g} to {distinct[-1]:g}, each once: this looks like a row number; "
            f"pass kind='continuous' (--kind COLUMN=continuous) if it is meant"
        )


def _class_name(value: Any) -> str:
    if isinstance(value, np.bool_ | bool):
        return "true" if value else "false"
    if isinstance(value, np.floating | float) and value == int(value):
        return str(int(value))
    return str(value)


def _some(values: np.ndarray, most: int = 5) -> str:
    shown = ", ".join(_class_name(v)[:40] for v in values[:most])
    return shown + (", ..." if len(values) > most else "")
