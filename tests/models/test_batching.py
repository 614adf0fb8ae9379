"""Batches of texts of different lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probekit.models.batching import batches, nats, padded, unless_full

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(LENGTHS, st.integers(1, 100))
def test_every_text_is_in_one_batch_and_none_is_over_the_budget(lengths: list[int], most: int) -> None:
    found = batches(lengths, most)
    assert sorted(i for members in found for i in members) == list(range(len(lengths)))
    for members in found:
        assert len(members) == 1 or len(members) * max(lengths[i] for i in members) <= most


@given(LENGTHS, st.booleans())
def test_what_is_padded_comes_back_by_its_mask(lengths: list[int], left: bool) -> None:
    texts = [np.arange(1, n + 1) for n in lengths]
    tokens, mask = padded(texts, left=left, fill=-1)
    for row, own, text in zip(tokens, mask, texts, strict=True):
        assert row[own].tolist() == text.tolist()
        assert (row[~own] == -1).all()
        assert own[-1 if left else 0]
    assert (unless_full(mask) is None) == (len(set(lengths)) == 1)


def test_nats_are_those_of_cross_entropy() -> None:
    logits, targets = torch.randn(3, 5, 11), torch.randint(11, (3, 5))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    assert nats(logits, targets).flatten().tolist() == pytest.approx(expected.tolist(), rel=1e-5)
