"""The package's own baseline (`find_best_reg`: logistic regression, ten penalties, cross-validated) on the board's splits.

Run as a script by an interpreter that has sae-probes, it is that baseline: `python peer.py FOLDER` reads `*.npz` there, one a task, and
prints a line of JSON for each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    import probekit as pk


def beside(board: pk.Board, source: object, out: Path, python: str, train: int, test: int, seed: int) -> pd.DataFrame:
    """AUROC of both on the test texts of each task of two classes, fitted to the same training texts at the layer that tasks share.

    Args:
        out, train, test, seed: As the board was asked.
        python: Interpreter that has sae-probes.
    """
    import pandas as pd

    from probekit.leaderboard.settings import draw_pools
    from probekit.leaderboard.tasks import Task, read_tasks
    from probekit.leaderboard.texts_read import open_texts

    frame = board.to_frame()
    ours = frame[frame.setting.eq("normal") & frame["at"].eq("shared") & frame.family.eq("logistic")].set_index("task")
    tasks = {name: task for name, task in read_tasks(source).items() if isinstance(task, Task) and name in ours.index}
    pools = {name: draw_pools(task, train, test, seed) for name, task in tasks.items() if task.kind == "binary"}
    read = open_texts(out)
    with tempfile.TemporaryDirectory() as folder:
        for name, pool in pools.items():
            task, parts = tasks[name], {}
            for part, chosen in (("train", pool.train), ("test", pool.test)):
                parts[f"X_{part}"] = read.read(ours.site[name], [task.texts[i] for i in chosen]).numpy()
                parts[f"y_{part}"] = task.values[chosen].astype(int)
            np.savez(Path(folder) / f"{name}.npz", **parts)
        done = subprocess.run(
            [python, str(Path(__file__).resolve()), folder], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"the baseline failed:\n{done.stderr[-2000:]}")
    theirs = pd.DataFrame([json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")])
    theirs["ours"] = ours.test.reindex(theirs.task).to_numpy()
    return theirs


def _main(folder: str) -> None:
    import warnings

    from sae_probes.utils_training import find_best_reg

    warnings.simplefilter("ignore")
    for file in sorted(Path(folder).glob("*.npz")):
        data = np.load(file)
        start = time.perf_counter()
        found = find_best_reg(data["X_train"], data["y_train"], data["X_test"], data["y_test"])
        seconds = time.perf_counter() - start
        print(json.dumps({"task": file.stem, "theirs": float(found.metrics.test_auc), "seconds": seconds}), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
