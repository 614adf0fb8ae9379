"""Groups are never divided, fractions and given parts are respected, seen prefixes do not count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.data import Dataset, LabelSet, Split, drop_seen_prefixes, split_items

PARTS = ("train", "valid", "test", "ood")

tables = st.integers(3, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, n // 2), min_size=n, max_size=n),  # group of each sequence
        st.lists(st.integers(0, n - 1), min_size=1, max_size=200),  # sequence of each row
        st.lists(st.sampled_from(PARTS), min_size=n, max_size=n),
        st.integers(0, 5),
    )
)


def _check_parts(split: Split, sequence: np.ndarray, groups: np.ndarray) -> None:
    rows = [getattr(split, part) for part in PARTS]
    everything = np.concatenate(rows)
    assert len(everything) + split.left_out == len(sequence)
    assert len(np.unique(everything)) == len(everything)
    seen = [set(groups[sequence[r]].tolist()) for r in rows]
    for i, one in enumerate(seen):
        for other in seen[i + 1 :]:
            assert not one & other


@given(tables)
def test_no_group_is_ever_in_two_parts(table):
    groups, sequence, _, seed = np.array(table[0]), np.array(table[1]), None, table[3]
    if len(np.unique(groups[sequence])) < 3:
        with pytest.raises(ValueError, match="groups cannot be split into 3 parts"):
            split_items(sequence, groups, seed)
        return
    split = split_items(sequence, groups, seed)
    _check_parts(split, sequence, groups)
    assert split.left_out == 0
    assert min(len(split.train), len(split.valid), len(split.test)) > 0
    again = split_items(sequence, groups, seed)
    assert all(np.array_equal(getattr(split, p), getattr(again, p)) for p in PARTS)


@pytest.mark.filterwarnings("ignore:the given split and the groups disagree")
@given(tables)
def test_no_group_is_in_two_parts_of_a_given_split_either(table):
    groups, sequence, given_split, seed = (np.array(x) for x in table)
    try:
        split = split_items(sequence, groups, int(seed), given=given_split)
    except ValueError as error:
        if any(text in str(error) for text in ("no row marked 'train'", "no rows are left", "cannot be split")):
            return
        raise
    _check_parts(split, sequence, groups)
    for part in ("test", "ood"):
        if (given_split == part).any():
            assert (given_split[sequence[getattr(split, part)]] == part).all()
    if not (given_split == "test").any():
        assert (given_split[sequence[split.test]] == "train").all()


def test_fractions_hold_in_rows_when_groups_are_small():
    rng = np.random.default_rng(0)
    sequence = np.repeat(np.arange(400), rng.integers(1, 30, 400))
    split = split_items(sequence, np.arange(400), seed=3, fractions=(0.5, 0.2, 0.3))
    shares = [len(getattr(split, p)) / len(sequence) for p in ("train", "valid", "test")]
    np.testing.assert_allclose(shares, [0.5, 0.2, 0.3], atol=0.02)


def test_seeds_give_different_splits():
    rows = np.arange(100)
    assert not np.array_equal(split_items(rows, rows, 0).test, split_items(rows, rows, 1).test)


def test_a_huge_group_still_leaves_every_part_something():
    groups = np.array([0] * 97 + [1, 2, 3])
    for seed in range(10):
        split = split_items(np.arange(100), groups, seed)
        assert min(len(split.train), len(split.valid), len(split.test)) > 0


def test_a_given_train_test_split_is_kept_and_valid_comes_out_of_train_by_group():
    given_split = np.array(["train"] * 80 + ["test"] * 20)
    split = split_items(np.arange(100), np.arange(100) // 2, seed=0, given=given_split)
    assert split.test.tolist() == list(range(80, 100))
    assert len(split.train) == 60
    assert len(split.valid) == 20
    assert set(split.train // 2).isdisjoint(split.valid // 2)


def test_a_text_in_both_parts_of_a_given_split_leaves_test():
    data = Dataset("d", texts=tuple("abcdefga"), split=np.array(["train"] * 6 + ["test"] * 2))
    split = split_items(np.arange(8), data.groups, given=data.split)
    assert split.left_out == 1
    assert split.test.tolist() == [6]


def test_a_given_split_that_the_groups_contradict_warns():
    given_split = np.array(["train"] * 10 + ["test"] * 10)
    groups = np.array([*range(10), *range(9), 11])
    with pytest.warns(UserWarning, match="9 rows share a group"):
        split = split_items(np.arange(20), groups, given=given_split)
    assert split.test.tolist() == [19]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fractions": (0.5, 0.2, 0.2)}, "sum to 1"),
        ({"fractions": (0.0, 0.5, 0.5)}, "train > 0"),
        ({"given": np.array(["train", "exam", "test", "test"])}, r"\['exam'\]"),
        ({"given": np.array(["test"] * 4)}, "no row marked 'train'"),
        ({"given": np.array(["train"] * 3)}, "3 entries for 4 sequences"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        split_items(np.arange(4), np.arange(4), **kwargs)


def test_a_class_that_training_lacks_is_an_error():
    labels = LabelSet.from_values("x", ["a"] * 8 + ["b"] * 8 + ["rare"] * 2)
    rows = np.arange(18)
    enough = Split(rows[:17], rows[17:17], rows[17:], rows[:0])
    enough.require_classes(labels, rows)
    with pytest.raises(ValueError, match=r"no example of 'rare' \(2 examples\) in the 16 training rows"):
        Split(rows[:16], rows[:0], rows[16:], rows[:0]).require_classes(labels, rows)
    with pytest.raises(ValueError, match="fewer than two different values"):
        Split(rows[:1], rows[:0], rows[1:], rows[:0]).require_classes(LabelSet.from_values("y", rows / 7), rows)


def test_seen_prefixes_are_dropped():
    keep = drop_seen_prefixes(np.array([1, 2, 3], np.uint64), np.array([3, 4, 1, 2**64 - 1], np.uint64))
    assert keep.tolist() == [False, True, False, True]
