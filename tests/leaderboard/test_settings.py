"""Pools and conditions: no text in both, balanced as far as can be, and each setting what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.data import LabelSet
from probekit.leaderboard.fitting import held_out
from probekit.leaderboard.settings import SETTINGS, SHARES, WRONG, conditions, draw_pools
from probekit.leaderboard.tasks import Task
from probekit.probes.held_out import fold_of_rows, group_codes


def made(values: np.ndarray, groups: np.ndarray | None = None) -> Task:
    n = len(values)
    labels = LabelSet.from_values("target", values)
    return Task("made", tuple(f"text {i}" for i in range(n)), labels, np.arange(n) if groups is None else groups)


@settings(deadline=None)  # the first call imports scikit-learn
@given(
    n=st.integers(40, 300),
    classes=st.integers(2, 4),
    size=st.integers(1, 4),
    rare=st.floats(0.2, 0.5),
    seed=st.integers(0, 9),
)
def test_no_text_and_no_group_is_in_both_pools(n, classes, size, rare, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice(classes, n, p=[rare, *[(1 - rare) / (classes - 1)] * (classes - 1)])
    if len(np.unique(values)) < 2:
        return
    task = made(np.array([f"c{v}" for v in values]), np.arange(n) // size)
    if np.bincount(task.values.astype(int)).min() < 4 * size:  # so rare that there may be no group for either pool
        return
    pools = draw_pools(task, 128, 40, seed)
    assert not set(task.groups[pools.train]) & set(task.groups[pools.test])
    assert len(pools.train) <= 128
    assert len(pools.test) <= 40
    assert len(np.unique(pools.train)) == len(pools.train)
    if task.kind == "binary":
        counts = np.bincount(task.values[pools.train].astype(int), minlength=2)
        assert abs(counts[0] - counts[1]) <= 1
        for k in (4, 8, 16):  # any beginning is balanced, too
            few = task.values[pools.train[:k]]
            if len(few) == k:
                assert few.sum() == k // 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([60] * 5, [60] * 5), ([30] * 10, [30] * 10), ([100] * 2, [100] * 2), ([60] * 6, [10, 11]), ([40] * 8, [20, 20]),
        ([100] * 6, [30, 30, 30]),
    ],
)  # fmt: skip
def test_groups_of_one_class_each_are_in_both_pools(first, second):
    of_group = np.repeat(np.arange(len(first) + len(second)), [*first, *second])
    task = made(np.array([f"c{group >= len(first)}" for group in of_group]), of_group)
    for seed in range(20):
        pools = draw_pools(task, 1024, 300, seed)
        assert not set(task.groups[pools.train]) & set(task.groups[pools.test])
        for pool in (pools.train, pools.test):
            assert len(np.unique(task.values[pool])) == 2


def test_what_is_held_out_to_choose_on_shows_two_classes_where_groups_allow_it():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(8), rng.integers(16, 50, 8))
        labels = (groups % 2).astype(int)
        labels[rng.random(len(labels)) < 0.02] ^= 1 if seed % 2 else 0
        held = held_out(labels, groups, "binary", seed)
        assert (held.sum(1) == 1).all() or held.shape[1] == 1
        folds = fold_of_rows(labels, group_codes(groups, len(labels)), 5, seed)
        can = [len(np.unique(labels[folds == k])) > 1 and len(np.unique(labels[folds != k])) > 1 for k in range(5)]
        assert held.shape[1] == (1 if any(can) else 5)
        if any(can):
            assert len(np.unique(labels[held[:, 0]])) == 2
            assert len(np.unique(labels[~held[:, 0]])) == 2


@pytest.fixture(scope="module")
def task() -> Task:
    return made(np.arange(2000) % 2)


def test_little_is_the_beginning_of_much(task):
    pools = draw_pools(task, 1024, 300, 0)
    assert (len(pools.train), len(pools.test)) == (1024, 300)
    found = list(conditions(task, pools, "scarcity", 0))
    assert [c.amount for c in found] == [8, 16, 32, 64, 128, 256, 512]
    for condition in found:
        assert np.array_equal(condition.train, pools.train[: int(condition.amount)])
        assert np.array_equal(condition.test, pools.test)


@pytest.mark.parametrize(("train", "test"), [(100, 200), (200, 100), (600, 400)])
def test_a_small_task_is_split_in_the_proportion_asked_for(train, test):
    task = made(np.arange(240) % 2)
    pools = draw_pools(task, train, test, 0)
    share = max(0.2, test / (train + test))
    assert abs(len(pools.test) / min(240, len(pools.train) + len(pools.test)) - share) < 0.06


def test_one_large_group_is_no_test_by_itself():
    groups = np.concatenate([np.zeros(400, int), 1 + np.arange(600) // 10])
    for seed in range(8):
        pools = draw_pools(made(np.arange(1000) % 2, groups), 700, 300, seed)
        assert len(np.unique(groups[pools.test])) > 10


def test_unbalanced_sets_have_the_share_they_say_and_one_size(task):
    found = list(conditions(task, draw_pools(task, 1024, 300, 0), "imbalance", 0))
    assert [c.amount for c in found] == list(SHARES)
    assert len({len(c.train) for c in found}) == 1
    for condition in found:
        assert abs(condition.labels.mean() - condition.amount) < 0.01
        assert abs(task.values[condition.test].mean() - condition.amount) < 0.02


def test_a_share_that_too_few_texts_of_a_class_would_have_is_left_out():
    small = made(np.arange(60) % 2)
    found = list(conditions(small, draw_pools(small, 160, 60, 0), "imbalance", 0))
    assert [c.amount for c in found] == [0.5]
    for condition in found:
        assert np.bincount(condition.labels.astype(int)).min() >= 4
        assert abs(condition.labels.mean() - condition.amount) < 0.05


def test_wrong_labels_are_as_many_as_it_says_and_only_in_training(task):
    pools = draw_pools(task, 1024, 300, 0)
    for condition in conditions(task, pools, "noise", 0):
        wrong = condition.labels != task.values[condition.train]
        assert abs(wrong.mean() - condition.amount) < 0.001
        assert np.array_equal(condition.test, pools.test)
    three = made(np.array(["a", "b", "c"] * 100))
    for condition in conditions(three, draw_pools(three, 128, 40, 0), "noise", 0):
        assert abs((condition.labels != three.values[condition.train]).mean() - condition.amount) < 0.01


def test_settings_that_do_not_apply_have_no_condition():
    numbers = made(np.random.default_rng(0).normal(size=100))
    pools = draw_pools(numbers, 64, 20, 0)
    assert [len(list(conditions(numbers, pools, s, 0))) for s in SETTINGS] == [1, 3, 0, 0, 0]
    assert len(WRONG) == 5
    with pytest.raises(ValueError, match="no setting 'rare'; there are normal, scarcity"):
        list(conditions(numbers, pools, "rare", 0))
