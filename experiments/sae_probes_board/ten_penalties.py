"""How long logistic regression takes at every layer of every task with the ten penalties of sae-probes' `find_best_reg`.

    for half in 0 1; do OMP_NUM_THREADS=1 python experiments/sae_probes_board/ten_penalties.py --half $half \\
        --model FOLDER_OR_ID_OR_GGUF --weights bfloat16 --train 1024 --test 256 --read out/sae_probes_board & done; wait

The activations are those that run.py has read (`--read` is its `--out`, the model, the texts and the tasks are as there). Each call does
every second task on one thread, so that two keep two cores busy.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import probekit as pk
from probekit.leaderboard.tasks import read_tasks
from probekit.probes import LogisticProbe

GRID = tuple(float(C) for C in np.logspace(-5, 5, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", default="sae-probes", help="sae-probes, or a folder of tasks")
    parser.add_argument("--read", type=Path, required=True, help="what run.py has written")
    parser.add_argument("--half", type=int, choices=(0, 1), required=True)
    parser.add_argument("--longest", type=float, default=128)
    parser.add_argument("--weights", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--train", type=int, default=1024)
    parser.add_argument("--test", type=int, default=300)
    args = parser.parse_args()

    LogisticProbe.default_grid = (
        GRID  # the only way to have a family read at every layer with another grid than its own
    )
    out = args.read / f"ten penalties {args.half}"
    out.mkdir(exist_ok=True)
    for there in args.read.glob("store-*"):
        if not (out / there.name).exists():
            (out / there.name).symlink_to(there.resolve())
    model = pk.load_model(args.model, dtype=args.weights)
    names = sorted(read_tasks(args.tasks))[args.half :: 2]
    began = time.perf_counter()
    board = pk.board(
        args.tasks, model, families=["logistic"], settings=["normal"], tasks=names, longest=args.longest, train=args.train, test=args.test, out=out,
        compute_dtype="bfloat16" if (args.compute, args.weights) == ("bfloat16", "float32") else None,
    )  # fmt: skip
    frame = board.to_frame()
    own = frame[frame.family.eq("logistic") & frame["at"].eq("chosen") & frame.metric.eq("auroc")]
    minutes = (time.perf_counter() - began) / 60
    print(f"{len(board.curves)} tasks in {minutes:.1f} min; {len(own)} with classes, mean AUROC {own.test.mean():.4f}")


if __name__ == "__main__":
    main()
