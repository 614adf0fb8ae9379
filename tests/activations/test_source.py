"""Activations that other tools captured go in as arrays, and are checked on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probekit.activations import Activations, ArrayActivations

X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def test_arrays_and_tensors_have_the_interface_of_a_store():
    given = ArrayActivations({"a": X, "b": torch.from_numpy(X).to(torch.bfloat16)}, sequence=np.arange(30) // 3)
    assert isinstance(given, Activations)
    assert given.sites == ("a", "b")
    assert (len(given), given.width("a")) == (30, 4)
    np.testing.assert_array_equal(given.read("a"), X)
    rows = np.array([7, 2, 2])
    np.testing.assert_array_equal(given.read("a", rows), X[rows])
    np.testing.assert_array_equal(
        given.read("b", X[:, 0] > 0), torch.from_numpy(X).bfloat16().float().numpy()[X[:, 0] > 0]
    )
    assert given.read("b").dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([x for _, x in given.batches("a")]), X)
    np.testing.assert_array_equal(given.sequence, np.arange(30) // 3)
    assert given.prefix.dtype == np.uint64
    assert len(set(given.prefix.tolist())) == 30  # not known, so no two are taken to be equal
    np.testing.assert_array_equal(given.item, np.arange(30))


def test_what_is_known_of_the_rows_is_kept():
    given = ArrayActivations({"a": X}, position=np.arange(30) % 3, token=torch.arange(30), prefix=np.full(30, 2**64 - 1,
                             dtype=np.uint64), item=np.arange(30)[::-1])  # fmt: skip
    assert given.position[4] == 1
    assert given.token[5] == 5
    assert given.prefix[0] == 2**64 - 1
    assert given.item[0] == 29


def test_a_site_that_is_not_there_names_the_near_ones():
    given = ArrayActivations({"blocks.1.hook_resid_post": X})
    with pytest.raises(KeyError, match=r"near it: blocks.1.hook_resid_post \(1 sites"):
        given.read("blocks.1.resid_post")


bad = X.copy()
bad[17, 2] = np.nan
endless = X.copy()
endless[3, 0] = np.inf


@pytest.mark.parametrize(
    ("arrays", "index", "error", "message"),
    [
        ({}, {}, ValueError, "at least one site"),
        (X, {}, ValueError, "must be a dict"),
        ({"a": X[:, 0]}, {}, ValueError, r"\[row, width\], got shape \(30,\); one number a row"),
        ({"a": X.reshape(5, 6, 4)}, {}, ValueError, "flatten"),
        ({"a": X[:0]}, {}, ValueError, "no activations"),
        ({"a": X, "b": X[:29]}, {}, ValueError, "different numbers of rows: {'a': 30, 'b': 29}"),
        ({"a": X, "b": bad}, {}, ValueError, "site 'b': NaN or infinite activations in row 17"),
        ({"a": torch.from_numpy(endless)}, {}, ValueError, "site 'a': NaN or infinite activations in row 3"),
        ({"a": X.astype(int)}, {}, TypeError, "floating-point, got int64"),
        ({"a": X}, {"sequence": np.arange(29)}, ValueError, r"sequence must be one value a row, \[30\]"),
        ({"a": X}, {"token": X[:, 0]}, TypeError, "token must be integers"),
    ],
)
def test_what_does_not_fit_is_refused(arrays, index, error, message):
    with pytest.raises(error, match=message):
        ArrayActivations(arrays, **index)
