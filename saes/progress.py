"""A bar on stderr for what takes long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def tracked(things: Sequence[_T], what: str, show: bool) -> Iterator[_T]:
    """The things, one after the other, with a bar that says how far it is; none where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (show and console.is_terminal)) as bar:
        yield from bar.track(things, description=what)
