"""What a capture says while it runs: what it will take, then a bar."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Estimate:
    """What a capture will take: bytes of memory beside the model, bytes of disk."""

    memory: int
    disk: int


class Bar:
    """What is said while capturing: memory and disk before, the time as soon as one batch has shown how fast it goes, then a bar;
    nothing if not wanted."""

    def __init__(self, wanted: bool, total: int, what: str) -> None:
        self._wanted, self._what, self._timed = wanted, what, False
        if wanted:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("capture"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._progress.add_task("capture", total=total)

    def announce(self, estimate: Estimate, path: Path | None) -> None:
        """Say what it will take, before it starts."""
        disk = "nothing stored" if path is None else f"{readable_size(estimate.disk)} of disk in {_place(path)}"
        self._say(f"capture: {self._what}; {readable_size(estimate.memory)} of memory beside the model, {disk}")

    def time(self, seconds: float) -> None:
        """Say, once, how long it will take, and draw the bar."""
        if self._wanted and not self._timed:
            self._say(f"capture: about {_duration(seconds)}, by the first batch")
            self._progress.start()
        self._timed = True

    def _say(self, words: str) -> None:
        if self._wanted:
            self._progress.console.print(words, highlight=False, markup=False, soft_wrap=True)

    def advance(self, tokens: int) -> None:
        if self._wanted:
            self._progress.advance(self._task, tokens)

    def close(self) -> None:
        if self._wanted:
            self._progress.stop()


def _place(path: Path) -> str:
    """The folder, unless it is one that goes away by itself."""
    own = Path(tempfile.gettempdir())
    temporary = any(folder.parent == own and folder.name.startswith("probekit-") for folder in (path, *path.parents))
    return "a temporary folder" if temporary else str(path)


def readable_size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
