"""SAE features: scoring them all against all labels beside a call a pair, training beside SAELens's own loop, memory.

`python -m benchmarks.features --peak-of SEQUENCES` prints the peak memory of one training and encoding.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from benchmarks.table import Row
from probekit.activations import ArrayActivations
from saes.scoring.columns import Columns
from saes.scoring.scores import at_threshold, p_values, rank

SITE = "blocks.0.hook_resid_post"


def scoring(rows: int, features: int, labels: int, sample: int, seed: int = 0) -> tuple[Row, str]:
    """32 features a row; against a call a pair on `sample` pairs (its time scales with their number): `BinaryAUROC` of torchmetrics
    where that is installed, else `roc_auc_score` of scikit-learn."""
    peer, auroc = _pair_by_pair()
    rng = np.random.default_rng(seed)
    k = min(32, features)
    fired = np.concatenate([rng.choice(features, k, replace=False) for _ in range(rows)])
    matrix = sparse.csr_array(
        (rng.random(rows * k, np.float32), fired, np.arange(rows + 1) * k), (rows, features)
    ).tocsc()
    columns = Columns((), rng.random((rows, labels)) < 0.2, None)
    start = time.perf_counter()
    found = rank(matrix, columns)
    at_threshold(matrix, columns, found.threshold)
    middle = time.perf_counter()
    p_values(matrix, columns, np.arange(rows) // 100)
    ours, tests = middle - start, time.perf_counter() - middle
    pairs = np.stack([rng.integers(0, features, sample), rng.integers(0, labels, sample)], 1)
    start, worst = time.perf_counter(), 0.0
    for feature, column in pairs:
        theirs = auroc(columns.positive[:, column], matrix[:, [feature]].toarray()[:, 0])
        worst = max(worst, abs(theirs - found.auroc[feature, column]))
    each = (time.perf_counter() - start) / sample
    total = each * features * labels
    note = (
        f"AUROC, best F1, precision and recall of all pairs; the clustered p-values take {tests:.1f} s more. {peer} computes "
        f"the AUROC only, timed on {sample} pairs ({each * 1e3:.1f} ms each); greatest difference {worst:.0e}"
    )
    name = f"{features:,} features x {labels} labels, {rows:,} rows: a call a pair"
    return Row(name, ours, total, total / ours, peer, "100"), note


def _pair_by_pair() -> tuple[str, Callable[[np.ndarray, np.ndarray], float]]:
    """A peer's AUROC of one feature and one label, and what it is called."""
    try:
        from torchmetrics.classification import BinaryAUROC
    except ImportError:
        from sklearn.metrics import roc_auc_score

        return f"scikit-learn {version('scikit-learn')}", lambda truth, score: float(roc_auc_score(truth, score))
    metric = BinaryAUROC()

    def auroc(truth: np.ndarray, score: np.ndarray) -> float:
        # float64, as it would else squash what is not between 0 and 1, and ties with it, in float32
        return float(metric(torch.from_numpy(score).double(), torch.from_numpy(truth.astype(np.int64))))

    return f"BinaryAUROC of torchmetrics {version('torchmetrics')}", auroc


def training(steps: int, batch: int = 2048, seed: int = 0) -> tuple[Row, str]:
    """Thousand rows a second of a TopK SAE (256 -> 1,024, k = 32), ours reading a store, SAELens's loop fed from memory."""
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig

    import saes
    from saes.training import _trainer_config

    X = np.random.default_rng(seed).normal(size=(batch * 20, 256)).astype(np.float32)
    store = ArrayActivations({SITE: X}, sequence=np.arange(len(X)) // 60)
    options: dict[str, Any] = {"site": SITE, "width": 1024, "k": 32, "batch": batch, "lr": 1e-3, "progress": False}
    saes.train(store, rows=3 * batch, **options)  # warm up
    start = time.perf_counter()
    saes.train(store, rows=steps * batch, **options)
    ours = steps * batch / (time.perf_counter() - start) / 1e3
    torch.manual_seed(seed)
    peer = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=256, d_sae=1024, k=32, normalize_activations="expected_average_only_in")
    )
    rows = torch.from_numpy(X).split(batch)
    endless = (part for _ in range(steps) for part in rows)
    trainer = SAETrainer(cfg=_trainer_config(steps, batch, 1e-3), sae=peer, data_provider=endless)
    trainer.cfg.n_batches_for_norm_estimate = min(steps, 50)
    start = time.perf_counter()
    trainer.fit()
    theirs = steps * batch / (time.perf_counter() - start) / 1e3
    note = "ours shuffles, keeps checkpoints and the record; the loop of SAELens only steps. The ratio here is ours / theirs"
    name = "training a TopK SAE, thousand rows a second: the loop of SAELens"
    return Row(name, ours, theirs, ours / theirs, f"sae-lens {version('sae-lens')}", "1"), note


def memory(sequences: int) -> tuple[Row, str]:
    """Megabytes that a process needs beside its program to train and encode, from a store, and from one ten times as large."""
    needed = []
    for times in (1, 10):
        command = [sys.executable, "-m", "benchmarks.features", "--peak-of", str(sequences * times)]
        needed.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]))
    once, tenfold = needed
    name = "memory of training an SAE and encoding, 10x the data against 1x, MB"
    note = (
        f"memory of training and encoding is the peak of anonymous memory above the program's own; the smaller store has {sequences} "
        f"sequences of 512 rows of 256, {sequences * 512 * 256 * 4 / 1e6:.0f} MB"
    )
    return Row(name, tenfold, once, once / tenfold, "1x of ours", "0.95"), note


def _print_peak(sequences: int) -> None:
    """Fill a store, train a small SAE on one epoch of it, encode it, and print what that took at its peak."""
    import probekit as pk
    import saes
    from benchmarks.capture import _random_llama

    torch.set_num_threads(1)
    model = pk.load_model(_random_llama(256, 256, 1, 512))
    tokens = list(np.random.default_rng(0).integers(3, 512, (sequences, 512)).astype(np.int32))
    with tempfile.TemporaryDirectory() as folder:
        store = pk.capture(model, tokens, SITE, out=Path(folder) / "store", progress=False)
        options: dict[str, Any] = {"site": SITE, "width": 128, "k": 16, "batch": 4096, "progress": False}
        saes.train(store, rows=20 * 4096, **options)  # what a first step loads for good
        before, peak, done = _anonymous(), [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                peak[0] = max(peak[0], _anonymous())

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        sae = saes.train(store, rows=len(store), **options)
        saes.encode(sae, store, out=Path(folder) / "features", progress=False)
        done.set()
        watching.join()
    print(peak[0] - before)


def _anonymous() -> float:
    """Megabytes of this process that are no pages of a file: pages of a mapped store can be dropped at any time."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1000


def measure(quick: bool = False) -> tuple[list[Row], list[str]]:
    """The rows of the table, and a note to each."""
    size = (5_000, 256, 24, 20) if quick else (100_000, 4096, 192, 100)
    results = [scoring(*size), training(20 if quick else 150), memory(30 if quick else 600)]
    return [row for row, _ in results], [note for _, note in results]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak-of", type=int, metavar="SEQUENCES", required=True)
    _print_peak(parser.parse_args().peak_of)
