"""Label values are told apart into kinds, and what cannot be labels is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probekit.data import LabelSet


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([True, False, True], "binary", ("false", "true")),
        ([0, 1, 1, 0], "binary", ("0", "1")),
        ([1.0, 0.0, 1.0], "binary", ("0", "1")),
        (["yes", "no", "yes", "no"], "binary", ("no", "yes")),
        ([2, 0, 1, 2, 0, 1], "multiclass", ("0", "1", "2")),
        ([-1, 0, 1, -1, 0, 1], "multiclass", ("-1", "0", "1")),
        (["b", "a", "c"] * 2, "multiclass", ("a", "b", "c")),
        (["10", "9", "10", "9", "8", "8"], "multiclass", ("10", "8", "9")),
        ([0.5, 1.5, 2.25], "continuous", ()),
        ([*range(0, 42, 2)], "continuous", ()),
        (np.arange(21) ** 2, "continuous", ()),
        (torch.tensor([0, 1, 2, 0, 1, 2]), "multiclass", ("0", "1", "2")),
    ],
)
def test_the_kind_follows_the_documented_rules_and_says_why(values, kind, classes):
    labels = LabelSet.from_values("x", values)
    assert labels.kind == kind
    assert labels.classes == classes
    assert f"{len(np.unique(np.asarray(values)))} different values" in labels.reason
    if kind == "continuous":
        np.testing.assert_array_equal(labels.values[:, 0], np.asarray(values, dtype=np.float32))
    else:
        names = [str(v).lower().removesuffix(".0") for v in np.asarray(values).tolist()]
        assert [labels.classes[i] for i in labels.values[:, 0]] == names


@given(
    st.lists(st.sampled_from(["Is the sky blue?", "Paris", "12", "true"]), min_size=8).filter(lambda v: len(set(v)) > 1)
)
def test_strings_are_classes_whatever_they_say(values):
    labels = LabelSet.from_values("x", values)
    assert labels.kind == ("binary" if len(set(values)) == 2 else "multiclass")
    assert [labels.classes[i] for i in labels.values[:, 0]] == values


def test_several_targets_share_classes_and_keep_their_columns():
    labels = LabelSet.from_values("board", [["e", "m"], ["t", "m"], ["e", "e"]], targets=["a1", "b1"])
    assert labels.classes == ("e", "m", "t")
    assert labels.values.tolist() == [[0, 1], [2, 1], [0, 0]]
    assert labels.targets == ("a1", "b1")


@pytest.mark.parametrize("missing", [None, float("nan"), "", "  "])
def test_missing_labels_are_refused_by_item_or_kept_as_undefined(missing):
    values = ["a", "b", missing, "a", "b", missing]
    with pytest.raises(ValueError, match=r"2 of 6 items have no value \(items 2, 5\)"):
        LabelSet.from_values("x", values)
    labels = LabelSet.from_values("x", values, missing="undefined")
    assert labels.values[:, 0].tolist() == [0, 1, -1, 0, 1, -1]
    assert labels.defined()[:, 0].tolist() == [True, True, False, True, True, False]


def test_missing_numbers_stay_nan():
    labels = LabelSet.from_values("x", [0.5, np.nan, 1.25, 7], missing="undefined")
    assert labels.kind == "continuous"
    assert labels.defined()[:, 0].tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["a"] * 9, None, "one class only"),
        ([3.5] * 9, "continuous", "one value only"),
        ([f"id-{i}" for i in range(50)], None, "looks like an id or free text"),
        (["a", "b", "c"], None, "too few examples"),
        (range(100), None, "looks like a row number"),
        ([0, 1, 2] * 4, "binary", r"asked to be binary, but it has 3 different values \(0, 1, 2\)"),
        (["a", "b"] * 4, "continuous", "its values are strings"),
        ([1, "a"] * 4, None, r"several types \(int, str\)"),
        ([True, 1.5] * 4, None, "several types"),
        ([1.0, np.inf, 2.5], None, "infinite"),
        ([], None, "no item has a value"),
        ([None, None], None, "2 of 2 items have no value"),
        ([[[1]]], None, r"\[item\] or \[item, target\]"),
    ],
)
def test_what_cannot_be_labels_is_refused(values, kind, message):
    with pytest.raises(ValueError, match=message):
        LabelSet.from_values("x", values, kind=kind)


def test_row_numbers_are_taken_when_asked_for():
    assert LabelSet.from_values("x", range(100), kind="continuous").kind == "continuous"


def test_one_string_is_not_a_list_of_labels():
    with pytest.raises(TypeError, match="one string"):
        LabelSet.from_values("x", "positive")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"values": np.zeros((2, 2, 2), int), "classes": ("a", "b")}, "shape"),
        ({"values": np.array([0, 2]), "classes": ("a", "b")}, r"-1\.\.1"),
        ({"values": np.array([0, 1]), "classes": ("a", "b", "c")}, "names 3 classes"),
        ({"values": np.array([0, 1]), "classes": ("a", "b"), "targets": ("x", "y")}, "2 target names"),
    ],
)
def test_a_label_set_checks_itself(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LabelSet("x", kind="binary", level="sequence", **kwargs)


def test_float_classes_are_refused_in_the_constructor():
    with pytest.raises(TypeError, match="from_values"):
        LabelSet("x", np.array([0.0, 1.0]), "binary", "sequence", ("a", "b"))


def test_a_test_set_is_read_in_the_classes_of_training() -> None:
    trained = LabelSet.from_values("warm", ["yes", "no", "perhaps", "no", "yes", "perhaps"])
    few = LabelSet.from_values("warm", ["yes", "yes", ""], missing="undefined", like=trained)
    assert few.classes == ("no", "perhaps", "yes")
    assert few.kind == "multiclass"
    assert few.values[:, 0].tolist() == [2, 2, -1]
    numbers = LabelSet.from_values("size", [0.5, 1.5, 2.5])
    assert LabelSet.from_values("size", [3, 3, 3], like=numbers).values[:, 0].tolist() == [3, 3, 3]
    flags = LabelSet.from_values("flag", [True, False, True])
    assert LabelSet.from_values("flag", [True, True], like=flags).values[:, 0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="maybe is no class of training, which has no, perhaps, yes"):
        LabelSet.from_values("warm", ["yes", "maybe"], like=trained)
    with pytest.raises(ValueError, match="continuous in training, but its values here are strings"):
        LabelSet.from_values("size", ["a", "b"], like=numbers)


@pytest.mark.parametrize("values", [[[0, 1], [1, 0, 1]], [[0, 1], 1], [0, [1, 2]], [np.zeros(3), np.zeros(2)]])
def test_lists_of_different_lengths_are_told_where(values: list[object]) -> None:
    with pytest.raises(ValueError, match=r"label 'x': item 0 has .* value.*, item 1 has .* one flat list"):
        LabelSet.from_values("x", values)
