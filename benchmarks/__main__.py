"""`make bench`: every benchmark in one run, written to docs/benchmarks.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import capture, features, games, layers, precision, probes, surgery
from benchmarks.table import write_page

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-python", help="interpreter of an environment with sae-probes and the like")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    print("games", flush=True)
    rows = games.measure(5_000 if arguments.quick else 50_000)
    print("probes", flush=True)
    more, notes = probes.measure(arguments.quick)
    rows += more
    print("layers", flush=True)
    more, told = layers.measure(arguments.peers_python, arguments.quick)
    notes += told
    print("capture", flush=True)
    rows += [*more, *capture.measure(arguments.quick)]
    print("features", flush=True)
    more, told = features.measure(arguments.quick)
    rows, notes = rows + more, notes + told
    print("surgery", flush=True)
    more, told = surgery.measure(arguments.quick)
    rows, notes = rows + more, notes + told
    print("precision", flush=True)
    notes += precision.measure()
    write_page(arguments.out, rows, notes)
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
