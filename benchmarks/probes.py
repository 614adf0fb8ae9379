"""64 labels at one site against a scikit-learn loop: both objectives and the held-out loss, too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.table import Row
from probekit.probes import fit_grid


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
    with on_threads(1), threadpool_limits(1):
        return _board(n, held, sample, seed)


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """PyTorch computes on so many, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
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


def _objective(X: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, scale: np.ndarray) -> float:
    """scikit-learn's objective at C=1 over n, in float64, of weights on raw features."""
    scores = X.astype(np.float64) @ coef.T.astype(np.float64) + intercept
    scores -= scores.max(1, keepdims=True)
    loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]
    return float((loss.sum() + 0.5 * np.square(coef * scale).sum()) / len(y))


def measure(quick: bool = False) -> tuple[list[Row], list[str]]:
    """The row of the table, and a note to it."""
    n = 6_000 if quick else 60_000
    row, note = board(n, held=n // 6, sample=1 if quick else 4)
    return [row], [note]
