"""A data set checks what it is given, and keeps identical sequences together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit.data import Dataset, LabelSet, as_dataset


def test_identical_texts_join_their_groups():
    data = Dataset("d", texts=("a", "b", "a", "c", "b"), groups=np.array([5, 6, 7, 8, 7]))
    # a joins groups 5 and 7, b joins 6 and 7: one group of three; c stands alone.
    assert data.groups.tolist() == [0, 0, 0, 1, 0]
    assert data.first_occurrence().tolist() == [0, 1, 0, 3, 1]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=30))
def test_joined_groups_are_the_finest_that_hold_both_relations(pairs):
    tokens, groups = [np.array([t]) for t, _ in pairs], np.array([g for _, g in pairs])
    joined = Dataset("d", tokens=tuple(tokens), groups=groups).groups
    reached = np.arange(len(pairs))  # an independent closure: spread the smallest index until nothing changes
    for _ in pairs:
        for i, (t, g) in enumerate(pairs):
            near = [j for j, (u, h) in enumerate(pairs) if u == t or h == g]
            reached[i] = reached[near].min()
    assert (joined[:, None] == joined).tolist() == (reached[:, None] == reached).tolist()


def test_groups_may_be_strings_and_are_numbered_without_holes():
    assert Dataset("d", texts=("a", "b", "c"), groups=np.array(["x", "y", "x"])).groups.tolist() == [0, 1, 0]


def test_the_fingerprint_follows_the_sequences_and_not_the_labels():
    labels = LabelSet.from_values("x", [0, 1])
    one = Dataset("d", texts=("a", "bc"))
    assert one.fingerprint() == Dataset("other", texts=("a", "bc"), labels={"x": labels}).fingerprint()
    assert one.fingerprint() != Dataset("d", texts=("ab", "c")).fingerprint()
    assert one.fingerprint() != Dataset("d", texts=("bc", "a")).fingerprint()


def test_label_functions_are_called_once_and_checked():
    calls = []

    def make():
        calls.append(1)
        return LabelSet.from_values("x", [0, 1, 0])

    data = Dataset("d", texts=("a", "b", "c"), labels={"x": make})
    assert data.label_set("x") is data.label_set("x")
    assert len(calls) == 1
    with pytest.raises(KeyError, match="no label set 'y'; it has: x"):
        data.label_set("y")
    with pytest.raises(ValueError, match="3 items, but dataset 'd' has 2 sequences"):
        Dataset("d", texts=("a", "b"), labels={"x": make}).label_set("x")


def test_token_labels_must_cover_every_token():
    labels = LabelSet.from_values("x", [0, 1, 0], level="token")
    assert Dataset("d", tokens=([1, 2], [3]), labels={"x": labels}).label_set("x") is labels
    with pytest.raises(ValueError, match="3 items, but dataset 'd' has 4 tokens"):
        Dataset("d", tokens=([1, 2], [3, 4]), labels={"x": labels})


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({}, ValueError, "exactly one"),
        ({"texts": ("a",), "tokens": ([1],)}, ValueError, "exactly one"),
        ({"texts": "abc"}, TypeError, "not one string"),
        ({"texts": ("a", " \n")}, ValueError, r"texts\[1\] is empty"),
        ({"texts": ("a", 3)}, TypeError, r"texts\[1\] is int"),
        ({"texts": ()}, ValueError, "no sequences"),
        ({"tokens": ([1], [])}, ValueError, r"tokens\[1\]"),
        ({"texts": ("a", "b"), "groups": [1]}, ValueError, "groups has 1 entries for 2 sequences"),
        ({"texts": ("a", "b"), "split": ["train", "exam"]}, ValueError, r"\['exam'\]; allowed are train"),
        ({"texts": ("a", "b"), "spans": [[0, 1], [1, 1]]}, ValueError, r"span 'span' of sequence 1 is \[1, 1\]"),
        ({"texts": ("a", "b"), "spans": {"x": [[0, 1], [0, 2]]}}, ValueError, "the sequence has 1 characters"),
        ({"tokens": ([1], [2])}, None, ""),
    ],
)
def test_bad_input_says_what_is_wrong(kwargs, error, message):
    if error is None:
        assert len(Dataset("d", **kwargs)) == 2
        return
    with pytest.raises(error, match=message):
        Dataset("d", **kwargs)


def test_lists_become_data_sets_and_one_string_does_not():
    assert as_dataset(["a", "b"]).texts == ("a", "b")
    assert as_dataset([np.array([1, 2]), [3]]).tokens[1].tolist() == [3]
    with pytest.raises(TypeError, match="one string"):
        as_dataset("abc")


def test_token_ids_that_are_no_whole_numbers_are_refused():
    with pytest.raises(TypeError, match=r"tokens\[1\] holds float64, not whole numbers"):
        Dataset("d", tokens=(np.arange(3), np.array([1.5, 2.0])))


def test_sequences_without_a_group_are_groups_of_their_own() -> None:
    for values in ([None, "a", None, "a"], [np.nan, 1.0, np.nan, 1.0]):
        data = Dataset("d", texts=[f"t{i}" for i in range(4)], groups=values)
        assert data.groups is not None
        assert data.groups[1] == data.groups[3]
        assert len(set(data.groups.tolist())) == 3


@pytest.mark.parametrize("token", [-1, 2**33 + 5])
def test_ids_that_no_token_has_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match=rf"tokens\[1\] holds .*{token}.*no token has such an id"):
        Dataset("d", tokens=[np.array([1, 2]), np.array([3, token])])


def test_half_a_character_is_refused_where_it_is():
    with pytest.raises(ValueError, match=r"texts\[1\] holds half of a character \(a lone surrogate\)"):
        Dataset("d", texts=["fine \N{GRINNING FACE}", "cut \ud83d"])


def test_some_of_the_sequences_keep_all_that_belongs_to_them():
    tokens = [np.arange(n) + 10 * n for n in (3, 1, 2)]
    of_tokens = LabelSet.from_values("of tokens", ["a", "b", "a", "b", "a", "b"], "token")
    data = Dataset(
        "some", tokens=tuple(tokens), groups=np.array([7, 8, 7]), split=np.array(["train", "test", "train"]),
        labels={"of tokens": of_tokens, "late": lambda: LabelSet.from_values("late", [0.5, 1.5, 2.25], kind="continuous")},
        surface=lambda: np.arange(6)[:, None], spans=np.array([[0, 3], [0, 1], [1, 2]]), group_names=("x", None, "x"),
    )  # fmt: skip
    taken = data.take([2, 0])
    assert [list(t) for t in taken.tokens or ()] == [[20, 21], [30, 31, 32]]
    assert taken.groups is not None
    assert taken.groups[0] == taken.groups[1]
    assert taken.label_set("of tokens").values[:, 0].tolist() == [0, 1, 0, 1, 0]
    assert taken.label_set("late").values[:, 0].tolist() == [2.25, 0.5]
    surface = taken.surface_features()
    assert surface is not None
    assert surface[:, 0].tolist() == [4, 5, 0, 1, 2]
    assert taken.spans["span"].tolist() == [[1, 2], [0, 3]]  # type: ignore[index, call-overload]
    assert taken.split.tolist() == ["train", "train"]  # type: ignore[union-attr]
    assert taken.group_names == ("x", "x")
    assert data.take(np.array([False, True, False])).group_names == (None,)


def test_taking_what_is_not_there_is_refused():
    data = Dataset("texts", texts=("one", "two"), labels={"t": LabelSet.from_values("t", ["a", "b", "a"], "token")})
    with pytest.raises(ValueError, match="no sequence of dataset 'texts' is left"):
        data.take([])
    with pytest.raises(ValueError, match="shape"):
        data.take(np.array([True, False, True]))
    with pytest.raises(IndexError):
        data.take([2])
    with pytest.raises(ValueError, match="only a model's tokenizer"):
        data.take([0]).label_set("t")
