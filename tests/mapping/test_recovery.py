"""Maps against independent implementations, and against planted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probekit.activations import ArrayActivations
from probekit.mapping import LinearMap, Maps, fit, sums
from probekit.mapping.pairs import TRAIN, VALID, pair_up
from tests.mapping.worlds import planted, rotation

SHAPES = {"n": st.integers(60, 120), "d_a": st.integers(2, 50), "d_b": st.integers(2, 30), "seed": st.integers(0, 99)}
QUICK = {"controls": False, "n_boot": 100, "progress": False}


def training(
    maps: Maps, a: dict[str, np.ndarray], b: dict[str, np.ndarray], part: int = TRAIN
) -> tuple[np.ndarray, np.ndarray]:
    rows = maps.part == part
    return a["from"][rows].astype(np.float64), b["to"][rows].astype(np.float64)


def as_matrix(coef: np.ndarray, scaler: StandardScaler) -> np.ndarray:
    return coef / scaler.scale_


@settings(max_examples=20, deadline=None)
@given(**SHAPES, alpha=st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e4]))
def test_ridge_is_scikit_learns(n: int, d_a: int, d_b: int, seed: int, alpha: float) -> None:
    a, b, *_ = planted(n, d_a, d_b, noise=0.5, seed=seed)
    maps = fit(a, b, sites_a="from", sites_b="to", grid=[alpha], **QUICK)
    X, Y = training(maps, a, b)
    theirs = make_pipeline(StandardScaler(), Ridge(alpha=alpha, solver="svd")).fit(X, Y)
    ours = maps["from", "to"]
    coef = as_matrix(theirs[-1].coef_, theirs[0])
    np.testing.assert_allclose(ours.matrix.numpy(), coef, atol=1e-5 * np.abs(coef).max())
    np.testing.assert_allclose(ours.apply(X), theirs.predict(X), atol=1e-5 * np.abs(Y).max())


@settings(max_examples=20, deadline=None)
@given(n=SHAPES["n"], d=st.integers(2, 20), seed=SHAPES["seed"])
def test_orthogonal_is_scipys_procrustes(n: int, d: int, seed: int) -> None:
    a, b, *_ = planted(n, d, d, noise=0.5, seed=seed)
    maps = fit(a, b, "orthogonal", sites_a="from", sites_b="to", **QUICK)
    X, Y = training(maps, a, b)
    X, Y = X - X.mean(0), Y - Y.mean(0)
    turn, nuclear = orthogonal_procrustes(X, Y)
    found = maps["from", "to"]
    scale = found.provenance["scale"]
    assert scale == pytest.approx(nuclear / np.square(X).sum(), rel=1e-6)
    np.testing.assert_allclose(found.matrix.numpy() / scale, turn.T, atol=1e-4)


def slow_reduced_rank(X: np.ndarray, Y: np.ndarray, alpha: float, rank: int) -> np.ndarray:
    """`[d_b, d_a]` on standardised features: ridge on rows with the penalty's own below, its fit cut to `rank` by an SVD."""
    d = X.shape[1]
    X, Y = np.vstack([X, np.sqrt(alpha) * np.eye(d)]), np.vstack([Y, np.zeros((d, Y.shape[1]))])
    full = np.linalg.lstsq(X, Y, rcond=None)[0]
    axes = np.linalg.svd(X @ full, full_matrices=False)[2][:rank].T
    return (full @ axes @ axes.T).T


@settings(max_examples=20, deadline=None)
@given(**SHAPES, alpha=st.sampled_from([1e-2, 1.0, 100.0]), share=st.floats(0.05, 1.0))
def test_low_rank_is_a_slow_reference(n: int, d_a: int, d_b: int, seed: int, alpha: float, share: float) -> None:
    a, b, *_ = planted(n, d_a, d_b, noise=0.5, seed=seed)
    rank = max(1, int(share * min(d_a, d_b)))
    maps = fit(a, b, "low_rank", rank, sites_a="from", sites_b="to", grid=[alpha], **QUICK)
    X, Y = training(maps, a, b)
    scaler = StandardScaler().fit(X)
    theirs = as_matrix(slow_reduced_rank(scaler.transform(X), Y - Y.mean(0), alpha, rank), scaler)
    ours = maps["from", "to"].matrix.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    assert np.linalg.matrix_rank(ours.astype(np.float64), tol=1e-4 * np.abs(ours).max()) <= rank


def test_planted_maps_are_recovered() -> None:
    a, b, matrix, bias = planted(n=800, noise=0.0)
    found = fit(a, b, **QUICK)["from", "to"]
    np.testing.assert_allclose(found.matrix.numpy(), matrix, atol=1e-3)
    np.testing.assert_allclose(found.bias.numpy(), bias, atol=1e-2)
    a, b, matrix, bias = planted(n=4000, noise=0.3)
    np.testing.assert_allclose(fit(a, b, **QUICK)["from", "to"].matrix.numpy(), matrix, atol=0.05)


def test_a_planted_rotation_is_recovered_with_its_scale() -> None:
    rng, turn = np.random.default_rng(0), rotation(6)
    X = rng.normal(size=(500, 6)).astype(np.float32)
    b = {"to": 2.5 * X @ turn.T + 4 + 0.01 * rng.normal(size=X.shape)}
    found = fit({"from": X}, b, "orthogonal", **QUICK)["from", "to"]
    assert found.provenance["scale"] == pytest.approx(2.5, rel=1e-3)
    np.testing.assert_allclose(found.matrix.numpy() / 2.5, turn, atol=2e-3)
    narrow = fit({"from": X}, {"to": b["to"][:, :4]}, "orthogonal", **QUICK)["from", "to"]
    turned = narrow.matrix.numpy() / narrow.provenance["scale"]
    np.testing.assert_allclose(turned @ turned.T, np.eye(4), atol=1e-5)
    wide = fit({"from": X[:, :4]}, b, "orthogonal", **QUICK)["from", "to"]
    turned = wide.matrix.numpy() / wide.provenance["scale"]
    np.testing.assert_allclose(turned.T @ turned, np.eye(4), atol=1e-5)


def test_a_planted_rank_is_found() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 12)).astype(np.float32)
    matrix = rng.normal(size=(9, 3)) @ rng.normal(size=(3, 12))
    b = {"to": X @ matrix.T + 0.5 * rng.normal(size=(2000, 9))}
    found = fit({"from": X}, b, "low_rank", **QUICK)["from", "to"]
    assert found.provenance["rank"] == 3
    np.testing.assert_allclose(found.matrix.numpy(), matrix, atol=0.1)


@pytest.mark.parametrize("kind", ["ridge", "low_rank", "orthogonal"])
def test_what_is_chosen_is_best_on_validation(kind: str) -> None:
    a, b, *_ = planted(n=90, d_a=40, d_b=6, noise=2.0, seed=3)
    options = {**QUICK, "sites_a": "from", "sites_b": "to"}
    grid = None if kind == "orthogonal" else [0.1, 1.0, 10.0, 100.0, 1000.0]
    maps = fit(a, b, kind, grid=grid, **options)
    X, Y = training(maps, a, b, VALID)
    train = training(maps, a, b)[1]

    def slow(each: LinearMap) -> float:
        """Error of validation over spread about the training mean, every dimension in units of its training deviation."""
        error, spread = (np.square((Y - guess) / train.std(0)).sum() for guess in (each.apply(X), train.mean(0)))
        return float(1 - error / spread)

    assert maps.figure("from", "to")["valid_r2"] == pytest.approx(slow(maps["from", "to"]), abs=1e-5)
    if kind == "ridge":
        each = [slow(fit(a, b, grid=[alpha], **options)["from", "to"]) for alpha in grid]
        assert maps["from", "to"].provenance["alpha"] == grid[int(np.argmax(each))]
    if kind == "low_rank":
        alpha = maps["from", "to"].provenance["alpha"]
        each = [slow(fit(a, b, kind, rank, grid=[alpha], **options)["from", "to"]) for rank in range(1, 7)]
        assert maps["from", "to"].provenance["rank"] == 1 + int(np.argmax(each))


@pytest.mark.parametrize("kind", ["ridge", "low_rank", "orthogonal"])
@pytest.mark.parametrize("memory", [1, 2000, 1 << 30])
def test_all_pairs_at_once_are_the_same_as_pair_by_pair(
    kind: str, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "CHUNK", 32)
    a, b, *_ = planted(n=150, noise=1.0)
    twin = {name: np.random.default_rng(9).normal(size=rows.shape) for name, rows in b.items()}
    together = fit(a, b, kind, twin=twin, memory=memory, n_boot=100, progress=False)
    for site_a, site_b in together:
        some = {"sites_a": site_a, "sites_b": site_b, "twin": twin, "n_boot": 100, "progress": False}
        alone = fit(a, b, kind, **some)
        for name in ("matrix", "bias"):
            one, two = (getattr(maps[site_a, site_b], name) for maps in (alone, together))
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        for source, figures in alone.figure(site_a, site_b).items():
            if source in ("map", "shuffled", "random_weights", "mean"):
                for metric, figure in figures.items():
                    assert together.figure(site_a, site_b)[source][metric] == pytest.approx(figure, abs=1e-4), (
                        source,
                        metric,
                    )


@settings(max_examples=15, deadline=None)
@given(n=st.integers(20, 90), chunk=st.integers(5, 40), shift=st.floats(-100, 100))
def test_sums_in_chunks_are_sums(n: int, chunk: int, shift: float) -> None:
    rng = np.random.default_rng(n)
    a, b = ({name: (rng.normal(size=(n * 4, d)) + shift).astype(np.float32)} for name, d in (("x", 4), ("y", 3)))
    before = sums.CHUNK
    sums.CHUNK = chunk
    try:
        pairs = pair_up(a, b, None, None, None, None, 0)
        rows = pairs.rows(TRAIN)
        found = sums.sum_rows(
            pairs, rows, ["x"], [("b", "y")], grams=True, shuffle=True, seed=0, advance=lambda count: None
        )
    finally:
        sums.CHUNK = before
    X, Y = a["x"][rows].astype(np.float64), b["y"][rows].astype(np.float64)
    centers = torch.from_numpy(X.mean(0)), torch.from_numpy(Y.mean(0))
    whole = slice(None)
    X, Y = X - X.mean(0), Y - Y.mean(0)
    np.testing.assert_allclose(found.gram_about(0, whole, centers[0]), X.T @ X, atol=1e-8 * n)
    np.testing.assert_allclose(found.cross_about(whole, whole, *centers), X.T @ Y, atol=1e-8 * n)
    np.testing.assert_allclose(found.squares_about(whole, centers[1]), np.square(Y).sum(0), atol=1e-8 * n)


@pytest.mark.parametrize("chunk", [10, 512])
def test_shuffled_pairs_are_a_permutation_without_a_row_by_itself(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "CHUNK", chunk)
    n = 60
    rows = {"x": np.eye(n, dtype=np.float32)}
    pairs = pair_up(rows, rows, None, None, None, None, 0)
    taken = pairs.rows(TRAIN)
    found = sums.sum_rows(
        pairs, taken, ["x"], [("b", "x")], grams=False, shuffle=True, seed=0, advance=lambda count: None
    )
    zero = torch.zeros(n, dtype=torch.float64)
    partner = found.cross_about(slice(None), slice(None), zero, zero, shuffled=True).numpy().round(6)
    inside = partner[np.ix_(taken, taken)]
    assert set(np.unique(inside)) == {0.0, 1.0}
    assert (inside.sum(0) == 1).all()
    assert (inside.sum(1) == 1).all()
    assert not np.diagonal(inside).any()


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a chunk of training rows is ever read at once."""
    a, b, *_ = planted(n=5000)
    largest = 0

    class Watched(ArrayActivations):
        def read(self, site: str, rows: np.ndarray | slice | None = None) -> np.ndarray:
            nonlocal largest
            values = super().read(site, rows)
            largest = max(largest, len(values))
            return values

    fit(Watched(a), Watched(b), **QUICK)
    assert largest <= 1000  # the test rows


def test_a_site_that_does_not_vary_is_survived() -> None:
    a, b, *_ = planted()
    a["still"], b["still"] = np.full((300, 3), 7.3, np.float32), np.full((300, 2), -2.1, np.float32)
    for kind in ("ridge", "orthogonal", "low_rank"):
        maps = fit(a, b, kind, grid=None if kind == "orthogonal" else [0.0, 1.0], n_boot=100, progress=False)
        assert maps["still", "to"].matrix.abs().max() == 0
        assert np.isnan(maps.figure("from", "still")["map"]["r2"][0])
        assert maps.best().site_b == "to"
        assert maps.best(site_b="still").site_b == "still"
        np.testing.assert_allclose(maps["from", "still"].apply(a["from"]), b["still"], atol=1e-5)


def test_r2_is_scikit_learns() -> None:
    a, b, *_ = planted(n=200, noise=1.0)
    b["to"][:, 0] *= 100
    maps = fit(a, b, n_boot=100, progress=False)
    rows = maps.part == 2
    for site_a, site_b in maps:
        guess = maps[site_a, site_b].apply(a[site_a][rows].astype(np.float64))
        for metric, weighting in (("r2", "uniform_average"), ("r2_weighted", "variance_weighted")):
            theirs = r2_score(b[site_b][rows].astype(np.float64), guess, multioutput=weighting)
            assert maps.figure(site_a, site_b)["map"][metric][0] == pytest.approx(theirs, abs=1e-5)
