"""What the cells of a label column are: numbers, booleans, words, or nothing."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

_VOID = ("na", "n/a", "#n/a", "<na>", "none", "null", "-")
"""Words that stand for "no value" in a column of numbers or booleans; in a column of words they may be a class."""


def typed(values: list[Any], classes: Sequence[str] = ()) -> list[Any]:
    """Strings of a column as numbers or booleans if all of them are; cells without a value as None.

    Where `classes` are known and hold every cell as it is written, cells stay strings. Words lose spaces around them, and
    equal words written in different Unicode forms become one.
    """
    cells = [None if is_missing(v) else _word(v) if isinstance(v, str) else v for v in values]
    if classes and all(v is None or v in classes for v in cells):
        return cells
    words = [v for v in cells if isinstance(v, str)]
    if len(words) != sum(v is not None for v in cells):
        return cells  # JSON and Hugging Face columns have types already
    known = [None if v is None or v.lower() in _VOID else v for v in cells]
    if any(v is not None for v in known):
        if {v.lower() for v in known if v is not None} <= {"true", "false"}:
            return [None if v is None else v.lower() == "true" for v in known]
        try:
            return [None if v is None else _number(v) for v in known]
        except ValueError:
            pass
    return cells


def _word(value: str) -> str:
    return unicodedata.normalize("NFC", value.strip())


def _number(word: str) -> float:
    if "_" in word:  # float() reads 1_000, but no file means that
        raise ValueError(word)
    return float(word)


def warn_of_words(name: str, column: str, values: list[Any], expected: Sequence[str]) -> None:
    """Say what may be a slip: a class that reads as "no value", and classes that differ in capitals only."""
    words = sorted({v for v in values if isinstance(v, str)} - set(expected))
    void = [word for word in words if word.lower() in _VOID]
    if void:
        warnings.warn(
            f"{name}: column {column!r} holds {', '.join(map(repr, void))}, which is taken for a class like the others; for no value, "
            "leave the cell empty",
            stacklevel=5,
        )
    alike: dict[str, list[str]] = {}
    for word in words:
        alike.setdefault(word.casefold(), []).append(word)
    for same in alike.values():
        if len(same) > 1:
            warnings.warn(
                f"{name}: column {column!r} has classes that differ in capitals only: {', '.join(map(repr, same))}; they are kept apart",
                stacklevel=5,
            )


def is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return value is None or (isinstance(value, float) and value != value)
