"""What every command that ends in a result prints and writes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from probekit.probes import SweepResult
    from probekit.report.blocks import Block


def finish(result: SweepResult, out: Path, *, title: str | None = None, extra_blocks: Iterable[Block] = ()) -> None:
    """Save the result and its page under `out`, print the summary and the path of the page."""
    from probekit.report.page import write_sweep_page

    try:
        result.save(out)
    except OSError as error:  # what took long to compute is kept, if there is any place for it
        aside = Path(tempfile.mkdtemp(prefix="probekit-result-"))
        result.save(aside)
        raise OSError(error.errno, f"{error.strerror or error}; it is saved to {aside} instead") from error
    page = out / "report.html"
    write_sweep_page(result, page, title=title, extra_blocks=tuple(extra_blocks), command=command_line())
    console = Console(soft_wrap=True, highlight=False)
    console.print(result.summary(), markup=False)
    console.print(f"\npage    {page.resolve()}\nresult  {(out / 'result.json').resolve()}", markup=False)


def require_folder(out: Path) -> None:
    """Refuse, before anything is computed, a folder that cannot be written to."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"-o {out}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"-o {out}: {there} cannot be written to; give another folder")


def command_line() -> str:
    """The command as typed, for the page and the manifest."""
    import shlex

    return shlex.join(["probekit", *sys.argv[1:]])
