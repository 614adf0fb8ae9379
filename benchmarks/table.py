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
        "above 1 means that ours is faster or smaller. `make bench` measures everything again and writes this page. Rows against",
        "sae-probes, lmprobe, probelab and probekit 0.4 (of the package index) need an environment that has them",
        "(`PROBEKIT_PEERS_PYTHON=ENV/bin/python make bench`), the row against steering-vectors that package in this one; without them those rows are left out. The call a pair is `BinaryAUROC` where torchmetrics is",
        "installed, else of scikit-learn. Leave the machine to itself meanwhile.",
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
    missed = [row for row in rows if _first_aim(row) and row.ratio < _first_aim(row)]
    if missed:
        lines += ["", "Missed: " + "; ".join(f"{row.name} ({row.ratio:.2f}, aim {row.aim})" for row in missed) + "."]
    lines += ["", "Notes:", "", *(f"- {note}" for note in notes), ""]
    path.write_text("\n".join(lines))


def _first_aim(row: Row) -> float:
    """The target of an aim such as `40; 100`; 0 where there is none, or where the aim is of the figure and not of the ratio."""
    return float(row.aim.split(";")[0]) if row.aim and not math.isnan(row.ratio) else 0.0


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.2f}"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return f"{found[1]} ({platform.machine()})" if found else platform.processor() or platform.machine()
