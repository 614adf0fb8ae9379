"""`probekit report`: the page of a saved result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    result: Annotated[Path, typer.Argument(help="Folder with a result.json.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write. Default: report.html in the folder.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Title of the page.")] = None,
) -> None:
    """Write the page of a saved result again, without computing anything.

    **Example**

    - `probekit report out/ --title "Truth in SmolLM2"`
    """
    from probekit.probes import SweepResult
    from probekit.report.page import write_sweep_page

    page = out or result / "report.html"
    write_sweep_page(SweepResult.load(result), page, title=title)
    typer.echo(f"page    {page.resolve()}")
