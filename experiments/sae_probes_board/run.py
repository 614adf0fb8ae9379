"""Which probes read 155 real tasks best, at which layer, with how many examples, and does anything beat logistic regression?

    python experiments/sae_probes_board/run.py --model FOLDER_OR_ID_OR_GGUF --out out/sae_probes_board

The tasks of Kantamneni et al. 2025, "Are sparse autoencoders useful? A case study in sparse probing" (arXiv 2502.16681), as the package
sae-probes 0.4.2 carries them (`pip install --no-deps sae-probes==0.4.2`; it is read, not imported). With `--peer-python`, the
package's own baseline is fitted to the same activations and the same splits. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import peer
import tables

import probekit as pk
from probekit.leaderboard.families import DEFAULT, OTHERS

PEER = "The package's own baseline on the same splits: AUROC"
SETTINGS = ("normal", "scarcity", "imbalance", "noise", "ood")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", nargs="+", default=["sae-probes"], help="sae-probes, or folders and files of tasks")
    parser.add_argument("--out", type=Path, default=Path("out/sae_probes_board"))
    parser.add_argument("--longest", type=float, default=128, help="leave out tasks of longer texts, in tokens")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="bfloat16", help="of matrix products")
    parser.add_argument(
        "--weights",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what the model is loaded in; bfloat16 rounds its stream, too, and is faster still where the processor has it",
    )
    parser.add_argument("--train", type=int, default=1024)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: by the workers of a cluster (see docs/scaling.md)",
    )
    parser.add_argument("--peer-python", help="an interpreter that has sae-probes and what it needs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    began, started = time.perf_counter(), time.time()
    model = pk.load_model(args.model, dtype=args.weights)
    source = args.tasks[0] if len(args.tasks) == 1 else args.tasks
    asked = {
        "longest": args.longest, "train": args.train, "test": args.test, "out": args.out, "seed": args.seed,
        "engine": args.engine,
        "compute_dtype": "bfloat16" if (args.compute, args.weights) == ("bfloat16", "float32") else None,
    }  # fmt: skip
    linear = pk.board(source, model, families=DEFAULT, settings=["normal"], **asked)
    print(f"\nfrom the start, in minutes (nan where it was there before): texts read {_until(args.out, 'store-*/shard-*', started):.1f}, every layer of every "
        f"task {_until(args.out, 'every site/*', started):.1f}, one layer and the words {_until(args.out, 'normal/*', started):.1f}", flush=True)  # fmt: skip
    wide = pk.board(source, model, families=(*DEFAULT, *OTHERS), settings=["normal"], **asked)
    varied = pk.board(source, model, families=DEFAULT, settings=args.settings, **asked)
    rest = tuple(row for row in varied.rows if row["setting"] != "normal")
    manifest = {**wide.manifest, "arguments": {**wide.manifest["arguments"], "settings": list(args.settings)}}
    board = replace(
        wide, rows=wide.rows + rest, failures={**linear.failures, **wide.failures, **varied.failures},
        notes=tuple(dict.fromkeys(wide.notes + varied.notes)), manifest=manifest,
    )  # fmt: skip
    board.save(args.out / "board")
    title = f"{len(board.curves)} tasks: linear probes at every layer, others at one"
    board.save_page(args.out / "board.html", title=title, command=shlex.join(["python", *sys.argv]))
    board.to_frame().to_csv(args.out / "board.csv", index=False)
    parts = {
        "Each family at its own best layer: AUROC": board.leaderboard(),
        "All families at one layer: AUROC": board.leaderboard(at="shared"),
        "Does anything beat logistic regression?": tables.beside(board, "logistic"),
        "Where tasks are read best (logistic)": tables.depths(board),
        "Every site (logistic): mean AUROC": tables.layers(board),
        "Without one class against the rest, and 38: AUROC": tables.without(
            board, {n for n in board.curves if dependent(n)}
        ),
        **{f"{setting}: mean AUROC": tables.varied(board, setting) for setting in ("scarcity", "imbalance", "noise")},
        "Texts from elsewhere: AUROC (logistic)": tables.elsewhere(board),
    }
    if (board.to_frame().metric == "r2").any():
        parts["Numbers at one layer: r2"] = board.leaderboard(at="shared", metric="r2")
    if args.peer_python is not None:
        beside = peer.beside(board, source, args.out, args.peer_python, args.train, args.test, args.seed)
        beside.to_csv(args.out / "peer.csv", index=False)
        parts[PEER] = tables.paired(beside)
    (args.out / "tables.json").write_text(json.dumps({k: json.loads(v.to_json(orient="records")) for k, v in parts.items()}, indent=1))  # fmt: skip
    for title, frame in parts.items():
        print(f"\n## {title}\n\n{frame.to_string(index=False, float_format='%.3f') if len(frame) else '(none)'}")
    print("\n".join(["", *(f"failed: {name}: {why}" for name, why in board.failures.items())]))
    print(f"{board.to_frame().task.nunique()} tasks; {(time.perf_counter() - began) / 60:.1f} min in all")
    if board.failures:
        raise SystemExit(1)


def _until(folder: Path, files: str, started: float) -> float:
    """Minutes until the last of these files was written."""
    last = max((file.stat().st_mtime for file in folder.glob(files)), default=started)
    return (last - started) / 60 if last > started else float("nan")


def dependent(task: str) -> bool:
    """Whether a task of sae-probes is one class of another task against the rest (114 to 156), or 37 once more (38)."""
    number = task.split("_")[0]
    return number.isdecimal() and (int(number) == 38 or 114 <= int(number) <= 156)


if __name__ == "__main__":
    pd.set_option("display.width", 200)
    main()
