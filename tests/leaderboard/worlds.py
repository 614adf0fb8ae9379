"""Small tasks about the words of texts, as files, and a tiny model to read them with."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.models.tiny import WORDS


def texts(rng: np.random.Generator, count: int) -> list[str]:
    """Different texts of four to eight words."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choice(WORDS, rng.integers(4, 9)))] = None
    return list(found)


def write_task(file: Path, rows: list[tuple[object, object]], header: tuple[str, str] = ("prompt", "target")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    return file


def last_word(text: str) -> int:
    """What the embedding of the last token tells."""
    return int(text.split()[-1] < "m")


def write_tasks(folder: Path, seed: int = 0) -> Path:
    """Four tasks (two classes, three, numbers, and one that no probe can read) and one test from elsewhere."""
    rng = np.random.default_rng(seed)

    def task(name: str, count: int, label: Callable[[str], object]) -> None:
        write_task(folder / f"{name}.csv", [(text, label(text)) for text in texts(rng, count)])

    task("last", 300, last_word)
    task("last_OOD", 80, last_word)
    task("noise", 200, lambda text: int(rng.integers(2)))
    task("three", 240, lambda text: ["few", "some", "many"][WORDS.index(text.split()[-1]) % 3])
    task("number", 240, lambda text: round(WORDS.index(text.split()[-1]) + float(rng.normal()), 3))
    return folder
