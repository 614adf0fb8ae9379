"""Streamed sums are the sums in memory, however the rows are cut, from arrays, a store or the model itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import probekit as pk
from probekit.activations import ArrayActivations, Moments, capture, capture_moments, moments_of
from probekit.data import Dataset, LabelSet

FIELDS = ("n", "x_sum", "xx", "y_sum", "yy", "xy")
SITES = ("blocks.0.hook_resid_pre", "blocks.2.hook_resid_post")


def assert_equal(one: Moments, other: Moments, rtol: float = 1e-10) -> None:
    """Equal to `rtol` of the largest entry: what sums of signed products can be held to."""
    for field in FIELDS:
        want = np.asarray(getattr(other, field))
        np.testing.assert_allclose(getattr(one, field), want, rtol=0, atol=rtol * np.abs(want).max(), err_msg=field)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_any_cut_into_batches_and_any_merge_gives_the_same(seed, cuts, classes):
    rng = np.random.default_rng(seed)
    X = rng.normal(50, 1, (60, 5)).astype(np.float32)
    Y = rng.integers(0, 3, (60, 2)) if classes else rng.normal(size=(60, 2))
    k = 3 if classes else 0
    whole = Moments(5, 2, k).update(X, Y)
    parts = [
        Moments(5, 2, k).update(x, y) for x, y in zip(np.split(X, sorted(cuts)), np.split(Y, sorted(cuts)), strict=True)
    ]
    merged = Moments(5, 2, k)
    for part in reversed(parts):
        merged = merged.merge(part)
    assert_equal(merged, whole)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 99), st.integers(1, 9), st.booleans())
def test_partial_sums_merge_in_any_grouping(data, seed, count, whole_numbers):
    """Bit for bit where every sum is a float64 exactly (whole numbers), or where the grouping is the same; else to 1e-12."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-1000, 1000, (80, 5)).astype(np.float32) if whole_numbers else rng.normal(9, 3, (80, 5))
    Y = rng.integers(-1, 3, (80, 2))
    parts = [Moments(5, 2, 3).update(X[rows], Y[rows]) for rows in np.array_split(rng.permutation(80), count)]
    order = [data.draw(st.integers(0, left - 2)) for left in range(count, 1, -1)]

    def merged() -> Moments:
        waiting = list(parts)
        for at in order:  # two neighbours become one
            waiting[at : at + 2] = [waiting[at].merge(waiting[at + 1])]
        return waiting[0]

    one, again, whole = merged(), merged(), Moments(5, 2, 3).update(X, Y)
    assert one.n + one.left_out == 80
    for field in (*FIELDS, "left_out"):
        np.testing.assert_array_equal(getattr(one, field), getattr(again, field))
        if whole_numbers:
            np.testing.assert_array_equal(getattr(one, field), getattr(whole, field))
    assert_equal(one, whole, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(0, 60), max_size=6), st.booleans(), st.data())
def test_parts_merge_in_any_grouping_and_order(seed, cuts, whole_numbers, data):
    """Bit for bit where the sums are exact (whole numbers), and to float64 rounding otherwise."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-9, 9, (60, 5)).astype(np.float32) if whole_numbers else rng.normal(50, 1, (60, 5))
    Y = rng.integers(-1, 3, (60, 2))
    parts = [
        Moments(5, 2, 3).update(x, y) for x, y in zip(np.split(X, sorted(cuts)), np.split(Y, sorted(cuts)), strict=True)
    ]
    while len(parts) > 1:
        one = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        other = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.insert(data.draw(st.integers(0, len(parts))), one.merge(other))
    whole = Moments(5, 2, 3).update(X, Y)
    assert parts[0].left_out == whole.left_out
    assert_equal(parts[0], whole, rtol=0 if whole_numbers else 1e-14 * 60)


def test_sums_and_what_is_derived_from_them():
    rng = np.random.default_rng(0)
    X = rng.normal(3, 2, (200, 4))
    Y = np.stack([rng.integers(0, 2, 200), rng.integers(1, 3, 200)], axis=1)
    m = Moments(4, 2, 3).update(X, Y)
    np.testing.assert_allclose(m.mean(), X.mean(0))
    np.testing.assert_allclose(m.covariance(), np.cov(X.T, bias=True))
    np.testing.assert_array_equal(m.y_sum, [np.bincount(y, minlength=3) for y in Y.T])
    means = m.class_means()
    for t in range(2):
        for c in range(3):
            members = X[Y[:, t] == c]
            np.testing.assert_allclose(means[t, c], members.mean(0) if len(members) else np.nan)
        centred = X - means[t][Y[:, t]]
        np.testing.assert_allclose(m.within_covariance(t), centred.T @ centred / 200)
    V = rng.normal(size=(200, 3))
    c = Moments(4, 3).update(X, V)
    np.testing.assert_allclose(c.cross_covariance()[:, 0], (V - V.mean(0)).T @ (X - X.mean(0)) / 200, atol=1e-12)
    np.testing.assert_allclose(c.yy[:, 0], (V**2).sum(0))


def test_a_large_mean_does_not_drown_the_covariance():
    X = (np.random.default_rng(0).normal(0, 1, (5000, 3)) + 3000).astype(np.float32)
    m = Moments(3)
    for part in np.array_split(X, 50):
        m.update(part, np.zeros(len(part)))
    np.testing.assert_allclose(m.covariance(), np.cov(X.astype(np.float64).T, bias=True), rtol=1e-6, atol=1e-6)


def test_rows_without_a_label_are_left_out_and_counted():
    X = np.arange(8.0).reshape(4, 2)
    m = Moments(2, 1, 2).update(X, np.array([0, -1, 1, -1]))
    assert (m.n, m.left_out) == (2, 2)
    np.testing.assert_array_equal(m.x_sum, X[0] + X[2])
    c = Moments(2).update(X, np.array([0.5, np.nan, 1, 2]))
    assert (c.n, c.left_out) == (3, 1)


@pytest.fixture(scope="module")
def world(tiny_model_folder):
    rng = np.random.default_rng(0)
    games = tuple(rng.integers(0, 64, rng.integers(1, 24)) for _ in range(50))
    flat = np.concatenate(games)
    labels = {
        "third": LabelSet.from_values("third", np.stack([flat % 3, flat // 3 % 3], 1), level="token"),
        "length": LabelSet.from_values("length", np.array([len(g) for g in games]) / 7),
    }
    return pk.load_model(str(tiny_model_folder)), Dataset("games", tokens=games, labels=labels)


@pytest.mark.parametrize(("label", "pool"), [("third", "all"), ("length", "mean"), ("length", "all")])
def test_one_pass_over_the_model_is_the_same_as_in_memory(world, label, pool):
    model, data = world
    labels = data.label_set(label)
    streamed = capture_moments(model, data, label, SITES, pool=pool, token_budget=50, progress=False)
    store = capture(model, data, SITES, pool=pool, progress=False)
    item = store.item if labels.level == "token" else store.sequence
    from_store = moments_of(store, labels)
    from_arrays = moments_of(
        ArrayActivations({s: store.read(s) for s in SITES}, sequence=store.sequence, item=store.item), labels
    )
    for site in SITES:
        memory = Moments(32, labels.values.shape[1], len(labels.classes)).update(store.read(site), labels.values[item])
        assert_equal(streamed[site], memory, rtol=1e-6)
        assert_equal(from_store[site], memory)
        assert_equal(from_arrays[site], memory)


def test_parts_by_mask_add_up_to_the_whole(world):
    model, data = world
    half = np.arange(50) % 2 == 0
    whole = capture_moments(model, data, "third", SITES[1], progress=False)[SITES[1]]
    parts = [capture_moments(model, data, "third", SITES[1], rows=m, progress=False)[SITES[1]] for m in (half, ~half)]
    assert_equal(parts[0].merge(parts[1]), whole, rtol=1e-6)
    store = capture(model, data, SITES[1], progress=False)
    some = moments_of(store, data.label_set("third"), rows=half[store.sequence])[SITES[1]]
    assert_equal(some, parts[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Moments(0), "width >= 1"),
        (lambda: Moments(3, 1, 1), "classes 0"),
        (lambda: Moments(3).update(np.zeros((4, 2)), np.zeros(4)), "Moments of width 3"),
        (lambda: Moments(3, 2).update(np.zeros((4, 3)), np.zeros(4)), "2 targets"),
        (lambda: Moments(3, 1, 2).update(np.zeros((4, 3)), np.zeros(4)), "integer indices"),
        (lambda: Moments(3, 1, 2).update(np.zeros((1, 3)), np.array([2])), "class index 2"),
        (lambda: Moments(1).update(np.array([[1.0], [np.nan]]), np.zeros(2)), r"not finite in rows \[1\]"),
        (lambda: Moments(3).merge(Moments(4)), "cannot merge"),
        (lambda: Moments(3).mean(), "hold no rows"),
        (lambda: Moments(3).update(np.zeros((1, 3)), np.zeros(1)).class_means(), "continuous"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_of_other_data_are_refused(world):
    model, data = world
    store = capture(model, data, SITES[1], progress=False)
    with pytest.raises(ValueError, match="has 2 items, but the activations refer to"):
        moments_of(store, data.label_set("third").rows(np.arange(2)))
