"""What probes of whole texts promise: invariances, scikit-learn's protocol, errors, memory."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch

from probekit.probes import ConvergenceWarning
from probekit.probes.attention import AttentionProbe
from probekit.probes.moment import MomentProbe
from probekit.probes.window import MultiMaxProbe, RollingMeanProbe
from tests.probes.some_texts import every_probe, fresh, some_texts


@every_probe
def test_the_order_of_texts_and_of_their_rows_is_no_matter(probe):
    X, y, sequence = some_texts(n=40)
    rng = np.random.default_rng(5)
    fitted = fresh(probe).fit(X, y, sequence=sequence)
    scores, shares = fitted.decision_function(X, sequence=sequence), fitted.token_scores(X, sequence)
    # Texts renumbered, and rows of all texts interleaved another way, tokens of a text in their order.
    new_number = rng.permutation(40)
    slots = rng.permutation(sequence)
    rows = np.empty(len(X), int)
    for t in range(40):
        rows[np.flatnonzero(slots == t)] = np.flatnonzero(sequence == t)
    moved = fresh(probe).fit(X[rows], y[np.argsort(new_number)], sequence=new_number[slots])
    np.testing.assert_allclose(
        moved.decision_function(X[rows], sequence=new_number[slots])[new_number], scores, atol=5e-3
    )
    np.testing.assert_allclose(
        fitted.decision_function(X[rows], sequence=new_number[slots])[new_number], scores, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(fitted.token_scores(X[rows], new_number[slots]), shares[rows], rtol=1e-9, atol=1e-9)
    shuffled = rng.permutation(len(X))  # tokens within texts too
    again = fitted.decision_function(X[shuffled], sequence=sequence[shuffled])
    if isinstance(probe, RollingMeanProbe):
        assert np.abs(again - scores).max() > 0.01
    else:
        np.testing.assert_allclose(again, scores, rtol=1e-9, atol=1e-9)


@every_probe
def test_units_origin_and_class_names_do_not_matter(probe):
    X, y, sequence = some_texts(n=80)
    scores = fresh(probe).fit(X, y, sequence=sequence).decision_function(X, sequence=sequence)
    scaled = X * 7.5 - 300
    other = fresh(probe).fit(scaled, y, sequence=sequence).decision_function(scaled, sequence=sequence)
    np.testing.assert_allclose(other, scores, atol=5e-3)
    swapped = fresh(probe).fit(X, 1 - y, sequence=sequence).decision_function(X, sequence=sequence)
    if getattr(probe, "heads", 1) == 1 or isinstance(probe, MomentProbe):  # heads start with noise, class by class
        np.testing.assert_allclose(swapped, -scores, atol=5e-3)
    named = fresh(probe).fit(X, np.where(y == 1, "yes", "no"), sequence=sequence)
    assert named.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(named.predict(X, sequence=sequence) == "yes", scores > 0)


@every_probe
def test_fits_are_repeatable_and_take_torch(probe):
    X, y, sequence = some_texts(dtype="float32")
    a = fresh(probe).fit(X, y, sequence=sequence)
    b = fresh(probe).fit(torch.from_numpy(X), torch.from_numpy(y), sequence=torch.from_numpy(sequence))
    np.testing.assert_array_equal(a.coef_, b.coef_)
    np.testing.assert_array_equal(a.predict_proba(X, sequence=sequence), b.predict_proba(X, sequence=sequence))
    assert a.coef_.dtype == np.float32
    assert a.n_features_in_ == 6
    if getattr(probe, "heads", 1) > 1 and not isinstance(probe, MomentProbe):
        assert np.abs(fresh(probe).set_params(seed=1).fit(X, y, sequence=sequence).coef_ - a.coef_).max() > 0


@every_probe
def test_scikit_learn_protocol(probe):
    from sklearn.base import clone, is_classifier
    from sklearn.utils.validation import check_is_fitted

    copy = clone(probe)
    assert copy is not probe
    assert copy.get_params() == probe.get_params()
    assert is_classifier(copy)
    assert copy.grid_parameter == "C"
    X, y, sequence = some_texts()
    accuracy = copy.fit(X, y, sequence=sequence).score(X, y, sequence=sequence)
    assert accuracy == np.mean(copy.predict(X, sequence=sequence) == y)
    check_is_fitted(copy)


@every_probe
def test_bad_input_is_named(probe):
    X, y, sequence = some_texts(n=30)
    one = fresh(probe)
    with pytest.raises(ValueError, match="not fitted"):
        one.predict(X, sequence=sequence)
    with pytest.raises(TypeError, match="sequence= is missing"):
        one.fit(X, y)
    with pytest.raises(TypeError, match="must be integers"):
        one.fit(X, y, sequence=sequence / 1.0)
    with pytest.raises(ValueError, match=f"X has {len(X)} rows, sequence has shape"):
        one.fit(X, y, sequence=sequence[:-1])
    with pytest.raises(ValueError, match=r"sequence numbers 30 texts, y has 29 labels"):
        one.fit(X, y[:-1], sequence=sequence)
    with pytest.raises(ValueError, match="one label a text, not a token"):
        one.fit(X, y[sequence], sequence=sequence)
    with pytest.raises(ValueError, match=r"1 of 31 texts have no row \(first: \[7\]\)"):
        one.fit(X, np.insert(y, 7, 0), sequence=sequence + (sequence >= 7))
    with pytest.raises(ValueError, match="numbered from 0"):
        one.fit(X, y, sequence=sequence - 1)
    with pytest.raises(ValueError, match=r"goes up to 1000000029, .*return_inverse"):
        one.fit(X, y, sequence=sequence + 1_000_000_000)
    with pytest.raises(ValueError, match=r"one class only \(1\)"):
        one.fit(X, np.ones(30, int), sequence=sequence)
    broken = X.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values in 1 of .* \(first: \[7\]\)"):
        one.fit(broken, y, sequence=sequence)
    with pytest.raises(ValueError, match="missing"):
        one.fit(X, np.where(y == 1, np.nan, 0.0), sequence=sequence)
    one.fit(X, y, sequence=sequence)
    with pytest.raises(ValueError, match="2 features, this probe was fitted on 6"):
        one.predict(X[:, :2], sequence=sequence)
    with pytest.raises(ValueError, match="y has 29 labels"):
        one.score(X, y[:-1], sequence=sequence)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (AttentionProbe(heads=0), "heads must be a whole number from 1, got 0"),
        (AttentionProbe(C=0), "C and query_C must be positive"),
        (MultiMaxProbe(heads=1.5), "heads must be a whole number"),  # type: ignore[arg-type]
        (MultiMaxProbe(C=-1), "C must be positive"),
        (RollingMeanProbe(window=0), "window must be a whole number"),
        (MomentProbe(rank=0), "rank must be a whole number"),
        (MomentProbe(order=3), "order must be 1"),
        (MomentProbe(C=0), "C must be positive"),
    ],
)
def test_parameters_are_checked(probe, message):
    X, y, sequence = some_texts()
    with pytest.raises(ValueError, match=message):
        probe.fit(X, y, sequence=sequence)


def test_what_did_not_converge_is_said():
    X, y, sequence = some_texts()
    for probe in (AttentionProbe(max_iter=2), MultiMaxProbe(max_iter=2), MomentProbe(max_iter=1)):
        with pytest.warns(ConvergenceWarning, match=f"this {probe.family} probe did not meet its tolerance"):
            assert not probe.fit(X, y, sequence=sequence).converged_


@every_probe
def test_features_and_texts_that_say_nothing_do_no_harm(probe):
    X, y, sequence = some_texts(dtype="float32")
    X[:, 2] = 123.4  # the same in every token
    fitted = fresh(probe).fit(X, y, sequence=sequence)
    assert np.isfinite(fitted.decision_function(X, sequence=sequence)).all()
    assert fitted.score(X, y, sequence=sequence) > 0.6
    alike = np.tile(X[:1], (len(X), 1))
    if isinstance(probe, MomentProbe) and probe.order == 2:
        with pytest.raises(ValueError, match="all alike"):
            fresh(probe).fit(alike, y, sequence=sequence)
        with pytest.raises(ValueError, match="every text has one token"):
            fresh(probe).fit(X[:60], y, sequence=np.arange(60))
        return
    share = fresh(probe).fit(alike, y, sequence=sequence).predict_proba(alike, sequence=sequence)[:, 1]
    np.testing.assert_allclose(share, y.mean(), atol=1e-3)


@every_probe
def test_memory_does_not_grow_with_the_longest_text(probe):
    rng = np.random.default_rng(0)
    lengths = np.r_[20_000, np.ones(4000, int)]  # padded, these would be 80 million rows
    sequence = np.repeat(np.arange(4001), lengths)
    X = rng.normal(size=(len(sequence), 4)).astype(np.float32)
    y = np.arange(4001) % 2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fitted = fresh(probe).set_params(C=1e-4).fit(X, y, sequence=sequence)
    assert fitted.predict(X, sequence=sequence).shape == (4001,)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
