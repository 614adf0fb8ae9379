"""What probes of whole texts promise: slow references, special cases, shares of tokens, invariances, errors."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
from torch import Tensor

from probekit.probes import ConvergenceWarning, LogisticProbe
from probekit.probes.attention import AttentionProbe, attention_pool
from probekit.probes.moment import MomentProbe
from probekit.probes.texts import Texts
from probekit.probes.token_probe import TokenProbe
from probekit.probes.window import MultiMaxProbe, RollingMeanProbe, Windows, peak_pool

PROBES = [
    AttentionProbe(C=0.1),
    AttentionProbe(heads=2, C=0.1),
    MultiMaxProbe(C=0.1),
    MultiMaxProbe(heads=2, C=0.1),
    RollingMeanProbe(window=3, C=0.1),
    MomentProbe(rank=4, C=0.1),
    MomentProbe(rank=4, C=0.1, heads=2),
    MomentProbe(order=1, C=0.1),
]
every_probe = pytest.mark.parametrize("probe", PROBES, ids=[repr(p).split(", tol")[0] for p in PROBES])


def fresh(probe: TokenProbe) -> TokenProbe:
    return type(probe)(**probe.get_params())


def some_texts(n: int = 60, d: int = 6, classes: int = 2, seed: int = 0, dtype: str = "float64"):
    """`X, y, sequence`: texts of 1 to 12 tokens with uneven scales and offsets, rows of all texts mixed up."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    sequence = rng.permutation(np.repeat(np.arange(n), rng.integers(1, 13, n)))
    X = rng.normal(size=(len(sequence), d))
    X[np.arange(len(X)), y[sequence]] += 1
    return (X * rng.uniform(0.1, 30, d) + rng.normal(size=d) * 20).astype(dtype), y, sequence


def means_of(X: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    return np.stack([X[sequence == t].mean(0) for t in range(sequence.max() + 1)])


def slow_scores(probe: TokenProbe, X: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    """`[text, output]` from the fitted attributes, one text and one token after the other."""
    scores = []
    for t in range(sequence.max() + 1):
        tokens = X[sequence == t]
        if isinstance(probe, AttentionProbe):
            score = probe.intercept_.copy()
            for h, query in enumerate(probe.query_):
                logits = tokens @ query
                weights = np.exp(logits - logits.max())
                score += probe.coef_[:, h] @ (weights / weights.sum() @ tokens)
        elif isinstance(probe, MomentProbe):
            score = probe.intercept_ + probe.coef_ @ tokens.mean(0)
            if probe.order == 2:
                parts = (tokens - tokens.mean(0)) @ probe.projection_
                rank = parts.shape[1]
                covariance = (sum(np.outer(p, p) for p in parts) + np.eye(rank)) / len(parts) - np.eye(rank)
                score = score + (probe.covariance_coef_ * covariance).sum((1, 2))
        else:
            size = min(getattr(probe, "window", 1), len(tokens))
            passages = [tokens[i : i + size].mean(0) for i in range(len(tokens) - size + 1)]
            of_class = np.array([sum(max(w @ p for p in passages) for w in heads) for heads in probe.coef_])
            score = (of_class[1:] - of_class[:1] if len(of_class) == 2 else of_class) + probe.intercept_
        scores.append(score)
    return np.array(scores)


@every_probe
@pytest.mark.parametrize("classes", [2, 3])
def test_answers_are_those_of_a_slow_reference_on_raw_activations(probe, classes):
    X, y, sequence = some_texts(classes=classes)
    fitted = fresh(probe).fit(X, y, sequence=sequence)
    new_X, _, new_sequence = some_texts(n=30, classes=classes, seed=1)
    slow = slow_scores(fitted, new_X, new_sequence)
    scores = fitted.decision_function(new_X, sequence=new_sequence)
    assert scores.shape == ((30,) if classes == 2 else (30, 3))
    np.testing.assert_allclose(scores.reshape(30, -1), slow, rtol=1e-7, atol=1e-7)
    log_proba = fitted.predict_log_proba(new_X, sequence=new_sequence)
    np.testing.assert_allclose(np.exp(log_proba).sum(1), 1, atol=1e-7)
    predicted = fitted.predict(new_X, sequence=new_sequence)
    np.testing.assert_array_equal(predicted, fitted.classes_[log_proba.argmax(1)])
    if classes == 2:
        np.testing.assert_array_equal(predicted == 1, scores > 0)
    assert fitted.converged_


@every_probe
@pytest.mark.parametrize("classes", [2, 3])
def test_shares_of_tokens_sum_up_to_the_answer(probe, classes):
    X, y, sequence = some_texts(classes=classes)
    fitted = fresh(probe).fit(X, y, sequence=sequence)
    shares = fitted.token_scores(X, sequence)
    assert shares.shape == ((len(X),) if classes == 2 else (len(X), 3))
    summed = np.zeros((60, *shares.shape[1:]))
    np.add.at(summed, sequence, shares)
    np.testing.assert_allclose(summed, fitted.decision_function(X, sequence=sequence), rtol=1e-7, atol=1e-7)


def slow_attention(scores: Tensor, texts: list[slice], heads: int, outputs: int) -> Tensor:
    found = []
    for text in texts:
        weights = torch.softmax(scores[text, :heads], 0)
        found.append((weights[:, None] * scores[text, heads:].view(-1, outputs, heads)).sum((0, 2)))
    return torch.stack(found)


def slow_peaks(scores: Tensor, texts: list[slice], heads: int, classes: int, size: int, b: Tensor | None) -> Tensor:
    found = []
    for text in texts:
        tokens = scores[text]
        width = min(size, len(tokens))
        means = torch.stack([tokens[i : i + width].mean(0) for i in range(len(tokens) - width + 1)])
        peaks = means.amax(0) if b is None else (means * b).exp().mean(0).log() / b
        found.append(peaks.view(classes, heads).sum(1))
    scores = torch.stack(found)
    return scores[:, 1:] - scores[:, :1] if classes == 2 else scores


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["attention", "max", "windows", "soft max", "soft windows"])
def test_pools_and_their_gradients_are_those_of_autograd(classes, heads, kind):
    random = torch.Generator().manual_seed(0)
    texts = Texts.of(np.repeat(np.arange(5), [1, 7, 2, 4, 12]), 26)
    runs = [slice(int(a), int(b)) for a, b in zip(texts.offsets[:-1], texts.offsets[1:], strict=True)]
    outputs = 1 if classes == 2 else classes
    columns = heads * (1 + outputs) if kind == "attention" else heads * classes
    scores = torch.randn(26, columns, dtype=torch.float64, generator=random, requires_grad=True)
    if kind == "attention":
        pool = attention_pool(texts, heads, outputs)
        slow = slow_attention(scores, runs, heads, outputs)
    else:
        size = 3 if "windows" in kind else 1
        b = torch.linspace(0.5, 4, columns, dtype=torch.float64) if "soft" in kind else None
        pool = peak_pool(Windows.of(texts, size), heads, classes, b)
        slow = slow_peaks(scores, runs, heads, classes, size, b)
    found, back = pool(scores.detach())
    torch.testing.assert_close(found, slow.detach())
    gradient = torch.randn(found.shape, dtype=torch.float64, generator=random)
    torch.testing.assert_close(back(gradient), torch.autograd.grad(slow, scores, gradient)[0])


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_stands_at_a_minimum_of_its_loss(heads):
    X, y, sequence = some_texts(n=80)
    C, query_C = 0.3, 0.1
    probe = AttentionProbe(heads, C, query_C, tol=1e-7).fit(X, y, sequence=sequence)
    unit = means_of(X, sequence).std(0)
    query = torch.tensor(probe.query_ * X.std(0), requires_grad=True)
    values = torch.tensor(probe.coef_[0] * unit, requires_grad=True)
    constant = torch.tensor(probe.intercept_ + probe.coef_[0].sum(0) @ X.mean(0), requires_grad=True)
    z = torch.from_numpy((X - X.mean(0)) / X.std(0))
    loss = (query**2).sum() / (heads * query_C) / 2 + (values**2).sum() * heads / C / 2
    for t, label in enumerate(y):
        tokens = z[sequence == t]
        read = torch.softmax(tokens @ query.T, 0).T @ (tokens * torch.from_numpy(X.std(0) / unit))
        loss = loss + torch.nn.functional.softplus((1 - 2 * int(label)) * ((read * values).sum() + constant))[0]
    for gradient in torch.autograd.grad(loss / len(y), (query, values, constant)):
        assert float(gradient.abs().max()) < 2e-7
    assert float(loss) / len(y) < np.log(2)


@pytest.mark.parametrize("classes", [2, 3])
def test_special_cases_are_the_logistic_probe_on_mean_tokens(classes):
    X, y, sequence = some_texts(classes=classes, n=100)
    for C in (0.01, 1.0):
        means = means_of(X, sequence)
        pooled = LogisticProbe(C, tol=1e-8).fit(means, y).decision_function(means)
        for probe in (
            MomentProbe(order=1, C=C, tol=1e-8),
            AttentionProbe(C=C, query_C=1e-9, tol=1e-8),
            AttentionProbe(heads=3, C=C, query_C=1e-9, tol=1e-8),
            RollingMeanProbe(window=12, C=C, tol=1e-8),
        ):
            scores = probe.fit(X, y, sequence=sequence).decision_function(X, sequence=sequence)
            np.testing.assert_allclose(scores, pooled, atol=1e-4, err_msg=repr(probe))
    alone = np.arange(len(means))  # texts of one token each
    scores = AttentionProbe(C=1.0, tol=1e-8).fit(means, y, sequence=alone).decision_function(means, sequence=alone)
    np.testing.assert_allclose(scores, pooled, atol=1e-4)


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
