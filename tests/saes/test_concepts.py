"""The choice of concepts: a submodular utility, and a lazy greedy choice that is the plain one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.feature_selection import f_classif

from saes.concept_bottleneck.concepts import Utility, choose_concepts, class_separation, squared_correlation


@st.composite
def utilities(draw, most: int = 9):
    count = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([0, 3]))  # few different numbers, so that gains are equal often
    scores, similarity = rng.random(count), rng.random((count, count))
    if levels:
        scores, similarity = np.round(scores * levels), np.round(similarity * levels) / levels
    return Utility(scores, similarity, draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])))


def plain_greedy(utility: Utility, count: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        covered = utility.covered(chosen)
        left = [c for c in range(len(utility)) if c not in chosen]
        chosen.append(max(left, key=lambda c: utility.gain(c, covered)))
    return chosen


@settings(max_examples=200, deadline=None)
@given(utilities(most=25))
def test_lazy_greedy_chooses_what_plain_greedy_chooses(utility):
    assert choose_concepts(utility, len(utility)).tolist() == plain_greedy(utility, len(utility))


@settings(max_examples=200, deadline=None)
@given(utilities(), st.data())
def test_the_utility_is_monotone_and_submodular(utility, data):
    """Adding a concept never hurts, and helps a set no less than a set that contains it."""
    everything = list(range(len(utility)))
    larger = data.draw(st.sets(st.sampled_from(everything)))
    smaller = {c for c in larger if data.draw(st.booleans())}
    concept = data.draw(st.sampled_from(everything))
    gain = [utility.value({*s, concept}) - utility.value(s) for s in (smaller, larger)]
    assert gain[1] >= -1e-12
    assert gain[0] >= gain[1] - 1e-12 or concept in larger
    if concept not in larger:
        assert utility.gain(concept, utility.covered(larger)) == pytest.approx(gain[1], abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(utilities(), st.data())
def test_greedy_is_worth_63_percent_of_the_best_choice(utility, data):
    count = data.draw(st.integers(1, len(utility)))
    best = max(utility.value(s) for s in combinations(range(len(utility)), count))
    assert utility.value(choose_concepts(utility, count)) >= (1 - 1 / np.e) * best - 1e-12


def test_the_utility_runs_from_nothing_to_one():
    rng = np.random.default_rng(0)
    shared = squared_correlation(sparse.csc_array(rng.random((50, 6))))
    utility = Utility(rng.random(6), shared, 0.4)
    assert utility.value([]) == 0
    assert utility.value(range(6)) == pytest.approx(1)


def test_few_gains_are_worked_out_again(monkeypatch):
    """What laziness is for: of 200 concepts nearly all gains are worked out once."""
    rng = np.random.default_rng(0)
    utility = Utility(rng.random(200), np.eye(200))
    calls = []
    gain = Utility.gain
    monkeypatch.setattr(Utility, "gain", lambda self, c, covered: calls.append(c) or gain(self, c, covered))
    choose_concepts(utility, 20)
    assert len(calls) <= 200 + 20


def test_diversity_passes_over_a_copy():
    """The second best concept repeats the best one: it is taken only where nothing is given for diversity."""
    scores, similarity = np.array([1.0, 0.9, 0.5]), np.eye(3)
    similarity[0, 1] = similarity[1, 0] = 1.0
    assert choose_concepts(Utility(scores, similarity, 0.0), 2).tolist() == [0, 1]
    assert set(choose_concepts(Utility(scores, similarity, 0.9), 2).tolist()) & {2}


@pytest.mark.parametrize("classes", [2, 4])
def test_class_separation_is_scikit_learns_f_statistic(classes):
    rng = np.random.default_rng(classes)
    x = (rng.random((300, 7)) < 0.3) * rng.random((300, 7))
    x[:, 6] = 2.5  # never varies
    y = rng.integers(classes, size=300)
    share = class_separation(sparse.csc_array(x), y, classes)
    f, _ = f_classif(x[:, :6], y)
    assert share[:6] / (1 - share[:6]) * (300 - classes) / (classes - 1) == pytest.approx(f)
    assert share[6] == 0


def test_squared_correlation_is_numpys():
    rng = np.random.default_rng(0)
    x = (rng.random((200, 5)) < 0.4) * rng.random((200, 5)) * [1, 1e-4, 1e4, 1, 1]
    x[:, 4] = 0
    shared = squared_correlation(sparse.csc_array(x))
    assert shared[:4, :4] == pytest.approx(np.corrcoef(x[:, :4].T) ** 2)
    assert (shared[4] == 0).all()
    assert (shared[:, 4] == 0).all()


def test_what_is_no_utility_is_refused():
    with pytest.raises(ValueError, match="must be \\[concept\\]"):
        Utility(np.ones(3), np.ones((3, 2)))
    with pytest.raises(ValueError, match="not be monotone"):
        Utility(np.array([1.0, -1.0]), np.eye(2))
    with pytest.raises(ValueError, match="not be monotone"):
        Utility(np.array([1.0, np.nan]), np.eye(2))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Utility(np.ones(2), np.eye(2), 1.5)
    with pytest.raises(ValueError, match="4 concepts cannot be chosen from 2"):
        choose_concepts(Utility(np.ones(2), np.eye(2)), 4)
