"""The bar that shows how far a run of many steps is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stepping(title: str, total: int, show: bool) -> Iterator[Callable[[str | None, int], None]]:
    """A bar of `total` steps on stderr, named `title`.

    Gives `advance(text, steps)`: `text` says what is being worked on (printed as it is; `None` keeps
    the last one). Without `show` nothing is printed and `advance` does nothing.
    """
    if not show:
        yield lambda text, steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def advance(text: str | None, steps: int) -> None:
            bar.update(task, advance=steps, description=text)

        yield advance
