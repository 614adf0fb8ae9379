"""5 % of the texts that are at home are flagged at the 5 % level, and many more of those from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.monitoring.domain import Domain, rank_p_values, weights_of


def cloud(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Two classes, uneven directions, one dimension far larger than the others, as in a residual stream."""
    rows = rng.normal(size=(n, d)) * np.linspace(0.2, 2, d)
    rows[:, 0] = 100 + 20 * rng.normal(size=n)
    rows[:, 1] += 3 * (rng.random(n) < 0.5)
    return rows.astype(np.float32)


@pytest.mark.parametrize("d", [8, 60])
def test_texts_at_home_are_flagged_as_often_as_said(d):
    rng = np.random.default_rng(d)
    flagged = []
    for _ in range(60):
        domain = Domain.fit(cloud(40, d, rng), cloud(59, d, rng))
        flagged.append((domain.p_values(cloud(100, d, rng)) <= 0.05).mean(0))
    mean, error = np.mean(flagged, 0), np.std(flagged, 0) / 60**0.5
    assert (mean <= 0.05 + 3 * error).all()
    assert (mean >= 0.03).all()


def test_p_values_are_uniform_at_every_level():
    rng = np.random.default_rng(0)
    p = np.concatenate([rank_p_values(rng.random((1, 2)), rng.random((19, 2))) for _ in range(4000)])
    for level in (0.05, 0.1, 0.25, 0.5, 0.8):
        share = (p <= level + 1e-9).mean(0)
        np.testing.assert_allclose(share[:2], level, atol=0.025)
        assert share[2] <= level + 0.012  # exact but for ties
        assert share[2] >= 0.75 * level


def test_dependent_distances_keep_the_promise():
    rng = np.random.default_rng(0)

    def draw(n):
        first = rng.normal(size=n)
        return np.stack([first, 0.8 * first + 0.6 * rng.normal(size=n)], 1)

    p = np.concatenate([rank_p_values(draw(1), draw(39)) for _ in range(3000)])[:, 2]
    for level in (0.05, 0.1, 0.5):
        assert abs((p <= level + 1e-9).mean() - level) < 0.03


@pytest.mark.parametrize("kind", ["even", "mixed", "strange alone"])
def test_groups_count_once(kind):
    """Texts of new groups are flagged at 0.05 as often as said, whatever share of the ranked texts their like are."""
    rng = np.random.default_rng(0)

    def draw(count):
        centre = rng.normal(size=(count, 2))
        sizes = {
            "even": np.full(count, 5),
            "mixed": rng.integers(1, 20, count),
            "strange alone": np.where(centre[:, 0] > 1.2, 1, 15),
        }[kind]
        groups = np.repeat(np.arange(count), sizes)
        return 2 * centre[groups] + 0.5 * rng.normal(size=(len(groups), 2)), groups

    p, plain = [], []
    for _ in range(1000):
        (ranked, groups), (new, _) = draw(39), draw(1)
        p.append(rank_p_values(new[:1], ranked, weights_of(groups, len(groups)))[0])
        plain.append(rank_p_values(new[:1], ranked)[0])
    flagged = (np.array(p) <= 0.05 + 1e-9).mean(0)
    assert (flagged <= 0.05 + 2.5 * (0.05 * 0.95 / 1000) ** 0.5).all()
    assert (flagged > 0.01).all()
    if kind == "strange alone":
        assert ((np.array(plain) <= 0.05 + 1e-9).mean(0)[[0, 2]] > 0.08).all()  # what it would be if each text counted


def test_weighted_p_values_are_those_of_slow_sums():
    rng = np.random.default_rng(3)
    ranked, new, groups = rng.random((20, 2)), rng.random((6, 2)), rng.integers(0, 7, 20)
    weight = np.array([1 / (groups == g).sum() for g in groups])
    found = rank_p_values(new, ranked, weights_of(groups, 20))
    for x, p in zip(new, found, strict=True):
        rows, counts = np.vstack([ranked, x]), np.append(weight, 1)
        ranks = np.array([[counts[rows[:, j] < row[j]].sum() for j in range(2)] for row in rows]).round(9)
        keys = [(max(each), min(each)) for each in ranks.tolist()]
        both = sum(w for key, w in zip(keys, counts, strict=True) if key >= keys[-1])
        single = [counts[rows[:, j] >= x[j]].sum() for j in range(2)]
        np.testing.assert_allclose(p, np.array([*single, both]) / (len(np.unique(groups)) + 1))
    np.testing.assert_array_equal(rank_p_values(new, ranked), rank_p_values(new, ranked, np.ones(20)))


def test_the_smallest_p_value_is_of_groups():
    rng = np.random.default_rng(0)
    domain = Domain.fit(rng.normal(size=(20, 4)), rng.normal(size=(12, 4)), groups=np.arange(12) // 3)
    assert (domain.groups, domain.smallest) == (4, 0.2)
    assert domain.p_values(np.full((1, 4), 100.0))[0, 0] == 0.2


def test_texts_from_elsewhere_are_flagged_clearly_more_often():
    rng = np.random.default_rng(1)
    domain = Domain.fit(cloud(100, 30, rng), cloud(100, 30, rng))
    moved = cloud(200, 30, rng)
    moved[:, 2:] += 2 * np.linspace(0.2, 2, 30)[2:]
    p = domain.p_values(moved)
    assert ((p <= 0.05).mean(0) > [0.9, 0.6, 0.9]).all()
    assert (domain.p_values(cloud(200, 30, rng))[:, 2] <= 0.05).mean() < 0.12


@pytest.mark.parametrize(("n", "d"), [(200, 12), (30, 50)])
def test_the_mahalanobis_distance_is_scikit_learns(n, d):
    from sklearn.covariance import LedoitWolf

    rng = np.random.default_rng(0)
    reference, new = rng.normal(size=(n, d)) * np.linspace(1, 3, d) + 5, rng.normal(size=(20, d))
    found = Domain.fit(reference, new[:3]).distances(new)[:, 0]
    scale = reference.std(0)
    peer = LedoitWolf().fit(reference / scale)
    np.testing.assert_allclose(found, np.sqrt(peer.mahalanobis(new / scale)), rtol=1e-4)


def test_the_neighbour_distance_is_the_fifth_nearest():
    rng = np.random.default_rng(0)
    reference, new = rng.normal(size=(40, 6)) * 5 + 1, rng.normal(size=(10, 6))
    found = Domain.fit(reference, new).distances(new)[:, 1]

    def unit(rows):
        rows = rows / reference.std(0)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    distance = np.linalg.norm(unit(new)[:, None] - unit(reference)[None], axis=2)
    np.testing.assert_allclose(found, np.sort(distance, 1)[:, 4], rtol=1e-4)


def test_few_texts_and_dead_dimensions_do_no_harm():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(10, 3)), np.ones((10, 2))], 1)
    domain = Domain.fit(rows[:4], rows[4:])
    assert domain.smallest == 1 / 7
    assert np.isfinite(domain.distances(rows)).all()
    assert (domain.p_values(rows + 100)[:, 2] == 1 / 7).all()
    assert len(Domain.fit(np.tile(rows, (200, 1)), rows).reference) == 1000
