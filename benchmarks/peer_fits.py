"""One label at several sites with ten penalties, as each package that people use fits it; run by an interpreter that has them.

`python peer_fits.py GIVEN.npz` prints a line of JSON a package: its version, seconds a site, and the AUROC on test of each site.
Packages that are not installed are left out. Nothing of this project is imported: one of the packages has its name.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

GRID = np.logspace(5, -5, 10)
Scores = Callable[[np.ndarray], np.ndarray]
"""From activations `[n, d]` to scores `[n]` of class 1."""


def sae_probes(X: np.ndarray, y: np.ndarray, train: int, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Its own search: splits the training rows as it likes."""
    from sae_probes.utils_training import find_best_reg

    return np.array([find_best_reg(x[:train], y[:train], x[train:], y[train:]).metrics.test_auc for x in X])


def scikit_learn(C: float, X: np.ndarray, y: np.ndarray) -> Scores:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(X, y).decision_function


def lmprobe(C: float, X: np.ndarray, y: np.ndarray) -> Scores:
    from lmprobe.probe import Probe

    probe = Probe(classifier="logistic_regression", classifier_kwargs={"C": C}).fit_from_activations(X, y)
    return lambda rows: probe.predict_proba_from_activations(rows)[:, 1]


def probelab(C: float, X: np.ndarray, y: np.ndarray) -> Scores:
    import torch
    from probelab.activations import Activations
    from probelab.probes import Logistic

    def given(rows: np.ndarray) -> Any:
        return Activations.from_tensor(torch.from_numpy(rows))

    probe = Logistic(C=C).fit(given(X), torch.from_numpy(y))
    return lambda rows: probe.predict(given(rows)).numpy()


def probekit_of_the_index(
    X: np.ndarray, y: np.ndarray, train: int, inside: np.ndarray, outside: np.ndarray
) -> np.ndarray:
    """All sites in one batch, a penalty after the other."""
    import torch
    from sklearn.metrics import roc_auc_score

    from probekit.fitters.batch.logistic import fit_logistic_batch

    ranks, fitted = [], []
    for C in GRID:
        found = fit_logistic_batch(torch.from_numpy(X[:, inside]), torch.from_numpy(y[inside]), c_param=float(C))
        each = [probe.predict_score(x[outside]) for probe, x in zip(found, X, strict=True)]
        ranks.append([roc_auc_score(y[outside], said) for said in each])
        fitted.append(found)
    chosen = np.argmax(ranks, 0)
    best: np.ndarray = np.array(
        [
            roc_auc_score(y[train:], fitted[c][i].predict_score(x[train:]))
            for i, (c, x) in enumerate(zip(chosen, X, strict=True))
        ]
    )
    return best


def a_penalty_at_a_time(
    fit: Callable[[float, np.ndarray, np.ndarray], Scores],
    X: np.ndarray,
    y: np.ndarray,
    train: int,
    inside: np.ndarray,
    outside: np.ndarray,
) -> np.ndarray:
    """The loop that a user writes: each site, each penalty, the best by AUROC on the rows held out."""
    from sklearn.metrics import roc_auc_score

    found = []
    for x in X:
        each = [fit(float(C), x[inside], y[inside]) for C in GRID]
        best = int(np.argmax([roc_auc_score(y[outside], said(x[outside])) for said in each]))
        found.append(roc_auc_score(y[train:], each[best](x[train:])))
    return np.array(found)


def main(given: str) -> None:
    import torch

    data = np.load(given)
    torch.set_num_threads(int(data["threads"]))
    warnings.simplefilter("ignore")
    X, y, train = data["X"], data["y"], int(data["train"])
    parts = {"train": train, "inside": data["inside"], "outside": data["outside"]}
    loops = {"scikit-learn": scikit_learn, "lmprobe": lmprobe, "probelab": probelab}
    whole = {"sae-probes": sae_probes, "probekit": probekit_of_the_index}
    for name in (*whole, *loops):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        do = whole[name] if name in whole else lambda *a, fit=loops[name], **k: a_penalty_at_a_time(fit, *a, **k)
        try:
            do(X[:1, :, :8].copy(), y, **parts)  # imports, and threads that start
            start = time.perf_counter()
            auroc = do(X, y, **parts)
        except Exception as error:  # its own fault, or ours: the row is left out, and that is said
            print(
                json.dumps({"package": name, "version": found, "error": f"{type(error).__name__}: {error}"}), flush=True
            )
            continue
        seconds = (time.perf_counter() - start) / len(X)
        print(json.dumps({"package": name, "version": found, "seconds": seconds, "auroc": auroc.tolist()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
