"""Retrieval against a slow loop, intervals, and the controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.mapping import fit
from probekit.mapping.scoring import NEAR, RowsTested, TargetTested
from tests.mapping.worlds import planted

QUICK = {"n_boot": 200, "progress": False}


def slow_hits(asked: np.ndarray, there: np.ndarray, distance: str) -> np.ndarray:
    """`[row, k]`: whether row i of `there` is among the k nearest to row i of `asked`, row by row."""
    out = np.zeros((len(asked), len(NEAR)))
    for i, row in enumerate(asked):
        apart = []
        for other in there:
            cosine = row @ other / (np.linalg.norm(row) * np.linalg.norm(other))
            apart.append(1 - cosine if distance == "cosine" else np.linalg.norm(row - other))
        place = sorted(range(len(there)), key=apart.__getitem__).index(i)
        out[i] = [place < k for k in NEAR]
    return out


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(6, 30), d=st.integers(2, 9), seed=st.integers(0, 99), noise=st.floats(0.1, 2.0),
    distance=st.sampled_from(["cosine", "euclidean"]),
)  # fmt: skip
def test_retrieval_is_a_slow_loops(m: int, d: int, seed: int, noise: float, distance: str) -> None:
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=d), np.exp(rng.normal(size=d))
    Y = rng.normal(size=(m, d)) * std + mean
    guess = Y + noise * rng.normal(size=(m, d)) * std
    rows = RowsTested.of(np.arange(m), 100, 0)
    target = TargetTested(rows, torch.from_numpy(Y).float(), torch.from_numpy(mean), torch.from_numpy(std), distance)
    found = target.hits(torch.from_numpy(guess)[rows.pool]).numpy()
    np.testing.assert_array_equal(found, slow_hits((guess - mean) / std, (Y - mean) / std, distance))
    assert target.score(torch.from_numpy(guess))["top_1"][0] == pytest.approx(found[:, 0].mean(), abs=1e-6)


def test_equal_candidates_share_the_hit() -> None:
    Y = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1], [-1, 0], [0, -1], [1, 1]])
    target = TargetTested(RowsTested.of(np.arange(7), 100, 0), Y, torch.zeros(2), torch.ones(2), "cosine")
    assert target.hits(Y)[:, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1, 1, 1, 1])
    assert target.hits(Y)[:, 1].tolist() == [1.0] * 7


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_mean_finds_by_chance(distance: str) -> None:
    a, b, *_ = planted()
    maps = fit(a, b, distance=distance, **QUICK)
    chance = maps.manifest["chance"]
    assert chance == {"top_1": 1 / 60, "top_5": 5 / 60}
    for figures in maps.figures:
        for metric, share in chance.items():
            assert figures["mean"][metric][0] == pytest.approx(share, abs=1e-6)
        assert -0.2 < figures["mean"]["r2"][0] <= 0


def test_a_model_to_itself_is_the_identity() -> None:
    a, *_ = planted()
    maps = fit(a, a, **QUICK)
    for site in a:
        figures = maps.figure(site, site)["map"]
        assert figures["r2"][0] == pytest.approx(1, abs=1e-6)
        assert figures["top_1"] == (1.0, pytest.approx(0.025 ** (1 / 60)), 1.0)
        np.testing.assert_allclose(maps[site, site].matrix, np.eye(7), atol=1e-3)
    assert maps.figure("from", "other")["map"]["r2"][0] < 0.05
    orthogonal = fit(a, a, "orthogonal", **QUICK)
    assert orthogonal["from", "from"].provenance["scale"] == pytest.approx(1)
    assert orthogonal.figure("from", "from")["map"]["r2"][0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", ["ridge", "orthogonal", "low_rank"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffled_pairs_say_nothing(kind: str, seed: int) -> None:
    a, b, *_ = planted(n=1500, noise=0.1, seed=seed)
    maps = fit(a, b, kind, seed=seed, **QUICK)
    figures = maps.figure("from", "to")
    assert figures["map"]["r2"][0] > (0.6 if kind == "orthogonal" else 0.95)
    # A rotation has no penalty that validation could raise, so that chance shows more.
    assert figures["shuffled"]["r2"][0] <= (0.05 if kind == "orthogonal" else 0.02)
    assert figures["shuffled"]["r2"][0] < figures["map"]["r2"][1]
    chance = maps.manifest["chance"]["top_5"]
    count = maps.manifest["candidates"]
    assert figures["shuffled"]["top_5"][0] < chance + 4 * np.sqrt(chance / count) + 3 * 5 / count


def test_pairs_that_are_shuffled_before_say_nothing_either() -> None:
    a, b, *_ = planted(n=1500)
    order = np.random.default_rng(0).permutation(1500)
    maps = fit(a, {name: rows[order] for name, rows in b.items()}, **QUICK)
    assert maps.table().max() <= 0.02
    assert maps.table("top_1").max() < 0.03


def test_maps_to_the_random_twin_stand_beside() -> None:
    a, b, *_ = planted(noise=0.1)
    rng = np.random.default_rng(1)
    twin = {
        "to": (a["from"] @ rng.normal(size=(7, 5)) + rng.normal(size=(300, 5))).astype(np.float32),
        "other": b["other"],
    }
    maps = fit(a, b, twin=twin, **QUICK)
    frame = maps.to_frame().set_index(["site_a", "site_b"])
    alone = fit(a, twin, **QUICK)
    for key in maps:
        for metric in ("r2", "top_1", "top_5"):
            assert frame.loc[key, f"random_weights_{metric}"] == pytest.approx(
                alone.figure(*key)["map"][metric][0], abs=1e-6
            )
    assert {"r2_low", "top_5_high", "shuffled_r2_low", "chance_1", "chance_5", "mean_r2", "tested"} <= set(
        frame.columns
    )
    bare = fit(a, b, controls=False, **QUICK).to_frame()
    assert not [name for name in bare.columns if name.startswith(("shuffled", "random"))]


def test_intervals_are_a_full_bootstrap_over_groups() -> None:
    a, b, *_ = planted(n=400, noise=3.0)
    groups = np.repeat(np.arange(100), 4)
    b["to"] += 3 * np.repeat(np.random.default_rng(4).normal(size=(100, 5)), 4, 0).astype(np.float32)
    maps = fit(a, b, groups=groups, n_boot=2000, progress=False)
    assert all(len(np.unique(maps.part[groups == g])) == 1 for g in range(100))
    rows = np.flatnonzero(maps.part == 2)
    guess, Y = maps["from", "to"].apply(a["from"][rows]), b["to"][rows]
    rng, drawn, each = np.random.default_rng(1), [], np.unique(groups[rows])
    spread = np.square(Y - Y.mean(0))
    error = np.square(Y - guess)
    members = {g: np.flatnonzero(groups[rows] == g) for g in each}
    for _ in range(2000):
        some = np.concatenate([members[g] for g in rng.choice(each, len(each))])
        weights = 1 / spread.sum(0)
        drawn.append(1 - (error[some] * weights).sum() / (spread[some] * weights).sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    value, *ends = maps.figure("from", "to")["map"]["r2"]
    assert ends[0] < value < ends[1]
    assert ends == pytest.approx([low, high], abs=0.15 * (high - low))


def test_one_group_has_no_interval() -> None:
    a, b, *_ = planted(n=100)
    groups = np.r_[np.arange(70), np.full(30, 70)]
    maps = fit(
        a, b, groups=groups, n_boot=100, seed=next(s for s in range(50) if _last_is_test(groups, s)), progress=False
    )
    assert np.isnan(maps.figure("from", "to")["map"]["r2"][1]) == (len(np.unique(groups[maps.part == 2])) == 1)


def _last_is_test(groups: np.ndarray, seed: int) -> bool:
    from probekit.data import split_items

    return 99 in split_items(np.arange(len(groups)), groups, seed).test


def test_many_test_rows_are_drawn_from() -> None:
    a, b, *_ = planted(n=12_000)
    maps = fit(a, b, sites_a="from", controls=False, **QUICK)
    assert maps.manifest["rows"]["test"] == 2400
    assert (maps.manifest["tested"], maps.manifest["candidates"]) == (2000, 1000)
    assert any("2,000 of 2,400 test rows" in note for note in maps.notes)
    assert maps.figure("from", "to")["map"]["top_1"][0] > 0.5
