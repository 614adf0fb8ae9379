"""One line of the benchmark table, and the page it stands on."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """What was measured, both figures, theirs / ours (above 1 is better), the aim, whose figure `theirs` is."""

    name: str
    ours: float
    theirs: float
    ratio: float
    versions: str
    aim: str = ""


def write_page(path: Path, rows: Sequence[Row], notes: Sequence[str]) -> None:
    """Write the table of one run, with the machine and the versions, as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Each row is one run of ours and of theirs on the same machine, one after the other; the ratio is theirs / ours, so",
        "above 1 means that ours is faster or smaller. `make bench` measures everything again and writes this page.",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {_processor()}, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, torch {version('torch')}, scikit-learn {version('scikit-learn')}, transformers "
        f"{version('transformers')}, transformer-lens {version('transformer-lens')}.",
        "",
        "| what | ours | theirs | ratio | aim | theirs is |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.ours:,.2f} | {_figure(row.theirs)} | {_figure(row.ratio)} | {row.aim or '-'} "
            f"| {row.versions} |"
        )
    lines += ["", "Notes:", "", *(f"- {note}" for note in notes), ""]
    path.write_text("\n".join(lines))


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.2f}"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return f"{found[1]} ({platform.machine()})" if found else platform.processor() or platform.machine()
