"""Probes of whole texts against slow references: answers, shares of tokens, gradients, minima and special cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from probekit.probes import LogisticProbe
from probekit.probes.attention import AttentionProbe, attention_pool
from probekit.probes.moment import MomentProbe
from probekit.probes.texts import Texts
from probekit.probes.token_probe import TokenProbe
from probekit.probes.window import RollingMeanProbe, Windows, peak_pool
from tests.probes.some_texts import every_probe, fresh, means_of, some_texts


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
    assert loss.item() / len(y) < np.log(2)


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
