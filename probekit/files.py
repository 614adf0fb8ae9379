"""Files that are there whole or not at all, and numbers as JSON holds them."""

from __future__ import annotations

import math
import os
import platform
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old one or the new one.

    It is written beside its place (as `.NAME.….tmp`), flushed to the disk, and renamed into it.

    Args:
        path: Its folder is made where it is missing.
        content: Text (as UTF-8), bytes, or what writes them to the path that it is handed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        _flush(temporary, os.O_RDWR)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent, os.O_RDONLY)


def remove_unfinished(folder: Path) -> None:
    """Delete what `write_whole` had not finished when its process was killed. No other may be writing there."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def _flush(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def with_nulls(value: Any) -> Any:
    """`value` as JSON has it, whatever it is made of: null stands for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(k): with_nulls(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [with_nulls(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nans(values: Iterable[float | None]) -> list[float]:
    """Numbers back from `with_nulls`: NaN stands for null."""
    return [math.nan if v is None else v for v in values]
