"""Directions among decoder vectors: planted ones are found, random ones are what chance says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import saes


class Decoder:
    def __init__(self, vectors: np.ndarray) -> None:
        self.W_dec = torch.from_numpy(vectors.astype(np.float32))


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_decoder_vector_and_a_mix_of_four_are_found():
    decoder = random(0, 100, 40) * 3
    unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    vectors = np.stack([-2 * unit[17], unit[[3, 5, 8, 13]].sum(0), random(1, 40)])
    found = saes.overlap(vectors, Decoder(decoder), random(2, 500, 40), counts=(1, 4, 64))
    assert found.counts == (1, 4), "more features than dimensions span everything"
    assert found.feature[0] == 17
    assert found.cosine[0] == pytest.approx(-1, abs=1e-6)
    assert found.p[0] < 0.01
    assert found.in_span[0] == pytest.approx([1, 1], abs=1e-6)
    assert found.in_span[1, 1] > 0.9 > found.in_span[1, 0]
    assert abs(abs(found.cosine[2]) - found.chance) < 0.2
    assert found.p[2] > 0.01


def test_chance_knows_the_spectrum_of_the_activations():
    plane = np.zeros((100, 40))
    plane[:, :2] = random(0, 100, 2)
    flat = np.zeros((500, 40))
    flat[:, :2] = random(1, 500, 2)
    vector = np.zeros((1, 40))
    vector[0, :2] = random(2, 2)
    assert saes.overlap(vector, Decoder(plane), flat).p[0] > 0.02, "near a decoder vector, as anything in the plane is"
    assert saes.overlap(vector, Decoder(plane), random(1, 500, 40)).p[0] < 0.01


def test_features_that_come_back_are_told_from_those_that_do_not():
    kept, order = random(0, 30, 20), np.random.default_rng(1).permutation(50)
    one = np.vstack([kept, random(2, 20, 20)])
    other = np.vstack([kept + 0.05 * random(3, 30, 20), random(4, 20, 20)])[order]
    found = saes.stability([Decoder(one), Decoder(other)])
    assert found.cosine[:30].min() > 0.95
    assert found.cosine[30:].mean() < 0.7
    assert (order[found.matches[0, :30]] == np.arange(30)).all()
    assert 0.6 < found.chance < 0.85
    assert sorted(found.matches[0]) == list(range(50)), "one to one"


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the SAE reads 40 dimensions"):
        saes.overlap(random(0, 2, 39), Decoder(random(1, 10, 40)), random(2, 50, 40))
    with pytest.raises(ValueError, match="two or more SAEs of one shape"):
        saes.stability([Decoder(random(0, 10, 4)), Decoder(random(0, 12, 4))])


def test_where_there_is_nothing_to_compare_figures_are_nan():
    decoder = random(0, 30, 10)
    vectors = np.stack([decoder[3], np.zeros(10), np.full(10, np.nan)])
    found = saes.overlap(vectors, Decoder(decoder), random(1, 200, 10), counts=(1, 4))
    assert found.feature.tolist() == [3, -1, -1]
    assert found.cosine[0] == pytest.approx(1)
    for figure in (found.cosine, found.p, found.in_span):
        assert not np.isnan(figure[0]).any()
        assert np.isnan(figure[1:]).all()
    constant = saes.overlap(vectors, Decoder(decoder), np.full((200, 10), 0.1, np.float32))
    assert np.isnan([constant.chance, *constant.p, *constant.chance_in_span]).all()
    assert constant.cosine[0] == pytest.approx(1)


def test_values_that_are_not_finite_are_refused():
    decoder, rows, vectors = random(0, 30, 10), random(1, 200, 10), random(2, 4, 10)
    for which, place, said in (
        (rows, (7, 2), "activation row 7 is NaN or infinite"),
        (decoder, (4, 0), "decoder vector 4 is NaN or infinite"),
        (vectors, (1, 1), "direction 1 is NaN or infinite"),
    ):
        kept = which[place]
        which[place] = np.nan
        with pytest.raises(ValueError, match=said):
            saes.overlap(vectors, Decoder(decoder), rows)
        which[place] = kept
    assert np.isfinite(saes.overlap(vectors, Decoder(decoder), rows).p).all()
    broken = decoder.copy()
    broken[0, 0] = np.inf
    with pytest.raises(ValueError, match="decoder vector 0"):
        saes.stability([Decoder(decoder), Decoder(broken)])
    with pytest.raises(ValueError, match="no activations"):
        saes.overlap(vectors, Decoder(decoder), rows[:0])
