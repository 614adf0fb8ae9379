"""`fit`: linear maps between all pairs of sites of two models, from paired activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.activations import Activations
from probekit.mapping.linear_map import LinearMap
from probekit.mapping.maps import Maps
from probekit.mapping.pairs import TRAIN, VALID, Pairs, pair_up
from probekit.mapping.scoring import DISTANCES, NEAR, Distance, Figure, RowsTested, TargetTested
from probekit.mapping.solving import GRID, KINDS, Kind, Solution, Source, Target, solve
from probekit.mapping.sums import Column, Sums, read_rows, slices_of, sum_rows
from probekit.probes.direction import model_of
from probekit.versions import versions_of

Paired = Activations | Mapping[str, Any] | str | Path


def fit(
    a: Paired,
    b: Paired,
    kind: Kind = "ridge",
    rank: int | None = None,
    sites_a: Sequence[str] | str | None = None,
    sites_b: Sequence[str] | str | None = None,
    groups: object = None,
    seed: int = 0,
    *,
    twin: Paired | None = None,
    grid: Sequence[float] | None = None,
    distance: Distance = "cosine",
    controls: bool = True,
    n_boot: int = 1000,
    memory: int = 1 << 30,
    progress: bool = True,
) -> Maps:
    """Map model A's activations to model B's, at all pairs of sites.

    Rows are paired: row i of `a` and row i of `b` are of the same text, with `pool="last"` or `"mean"`, or of the same place in
    it (`paired_tokens`). They are split by group into training (the maps), validation (the penalty, the rank) and test (every
    figure); rows whose whole prefix occurs before, in either model's tokens, count nowhere.

    Sums over rows are gathered once, a few hundred rows at a time, for as many pairs of sites as fit `memory`, so that memory
    does not grow with the rows; all pairs share A's eigendecompositions.

    The idea is LiMBeR's (Merullo, Castricato, Eickhoff & Pavlick 2022, "Linearly Mapping from Image to Text Space", arXiv
    2209.15162, which maps an image encoder to a language model's input), taken to two language models, as in Chen, Merullo,
    Stolfo & Pavlick 2025 (arXiv 2506.06609).

    Controls: the same map fitted to `shuffled` pairs (what can be had without any correspondence), to a `random_weights` twin
    of B (what any network computes from the same text), and the `mean` of B as prediction.

    Args:
        a, b: A store or its path, `ArrayActivations`, or a dict from sites to arrays `[row, width]`: of the same texts.
        kind: `ridge`: least squares with a penalty on A's standardised features; `orthogonal`: a rotation with one scale (and
            shifts), no penalty; `low_rank`: ridge of reduced rank.
        rank: Of `low_rank`; chosen on validation if left out.
        sites_a, sites_b: Names; all that the activations have if left out.
        groups: `[sequence]` values; sequences of one group are never split. Or the `Dataset`, whose groups and split hold.
        seed: Of split, shuffling and bootstrap.
        twin: Activations of B's random-weights twin (`model_b.randomized(0)`) for the same rows and sites.
        grid: Penalties to choose from; a wide one if left out.
        distance: Of retrieval, `cosine` or `euclidean`.
        controls: Whether maps to shuffled pairs are fitted; they double the time.
        n_boot: Bootstrap draws, at least 100.
        memory: Bytes that sums may take while they are gathered (what is always needed comes on top).
        progress: Whether to draw a bar (on stderr).

    Raises:
        KeyError: unknown sites.
        TypeError: no activations.
        ValueError: other kinds or ranks than there can be; activations of other texts; too few rows; NaN.
        MemoryError: more maps than the machine could hold.
    """
    penalties = _checked(kind, rank, grid, distance, n_boot)
    pairs = pair_up(a, b, twin, sites_a, sites_b, groups, seed)
    _check_sizes(pairs, rank)
    tested = pairs.tested(seed)
    rows = RowsTested.of(pairs.group[tested], n_boot, seed)
    targets: list[Column] = [("b", s) for s in pairs.sites_b] + [("twin", s) for s in pairs.sites_b if pairs.twin]
    maps: dict[tuple[str, str], LinearMap] = {}
    figures: dict[tuple[str, str], dict[str, Any]] = {}
    facts = {"seed": seed, "rows": int((pairs.part == TRAIN).sum()), "data": _data(pairs.a)}
    tiles = list(_tiles(pairs, targets, memory, 2 * (1 + controls)))
    fitted = pairs.part[(pairs.part == TRAIN) | (pairs.part == VALID)]
    passes = sum(len(each) for _, each in tiles) * len(fitted)
    with _bar(progress, passes + len(pairs.sites_a) * len(targets)) as advance:
        for sites, tile in tiles:
            sources: dict[str, Source] = {}
            X = {site: read_rows(pairs, "a", site, tested).double() for site in sites}
            for some in tile:
                train, valid = (
                    sum_rows(
                        pairs, pairs.rows(part), sites, some, grams=not sources, shuffle=controls, seed=seed, advance=advance
                    )
                    for part in (TRAIN, VALID)
                )
                at_a = slices_of([pairs.a.width(site) for site in sites])
                at_b = slices_of([pairs.b.width(site) for _, site in some])
                if not sources:
                    sources = {site: _source(train, valid, i, at_a[i]) for i, site in enumerate(sites)}
                for (who, site_b), y in zip(some, at_b, strict=True):
                    target = _target(train, valid, y)
                    scored = TargetTested(rows, read_rows(pairs, who, site_b, tested), target.mean, target.std, distance)
                    for site_a, x in zip(sites, at_a, strict=True):
                        source = sources[site_a]

                        def solved(shuffled: bool, source: Source = source, target: Target = target,
                                   x: slice = x, y: slice = y, train: Sums = train, valid: Sums = valid) -> Solution:  # fmt: skip
                            crosses = (
                                s.cross_about(x, y, source.mean, target.mean, shuffled=shuffled) for s in (train, valid)
                            )
                            return solve(kind, source, target, *crosses, penalties, rank)

                        found = figures.setdefault((site_a, site_b), {"site_a": site_a, "site_b": site_b})
                        own = solved(False)
                        found["map" if who == "b" else "random_weights"] = _score(own, X[site_a], scored)
                        if who == "b":
                            found |= {name: getattr(own, name) for name in ("valid_r2", "alpha", "rank", "scale")}
                            found["mean"] = scored.score(target.mean.expand(len(tested), -1))
                            if controls:
                                found["shuffled"] = _score(solved(True), X[site_a], scored)
                            maps[site_a, site_b] = _as_map(own, kind, site_a, site_b, pairs, facts)
                        advance(1)
    order = [(site_a, site_b) for site_a in pairs.sites_a for site_b in pairs.sites_b]
    return Maps(
        maps={key: maps[key] for key in order},
        figures=tuple(figures[key] for key in order),
        sites_a=pairs.sites_a,
        sites_b=pairs.sites_b,
        part=pairs.part,
        notes=(*pairs.notes, *_of_few_rows(pairs, kind)),
        manifest={
            "kind": kind,
            "rank": rank,
            "seed": seed,
            "grid": list(penalties),
            "distance": distance,
            "controls": controls,
            "n_boot": n_boot,
            "groups": None if groups is None else "given",
            "model_a": _model(pairs.a),
            "model_b": _model(pairs.b),
            "twin": None if pairs.twin is None else _model(pairs.twin),
            "data": _data(pairs.a),
            "rows": {name: int((pairs.part == i).sum()) for i, name in enumerate(("train", "valid", "test"))},
            "tested": len(tested),
            "candidates": len(rows.pool),
            "chance": {f"top_{k}": rows.chance(k) for k in NEAR},
            "versions": versions_of("torch", "numpy"),
        },
    )


def _checked(kind: str, rank: object, grid: Sequence[float] | None, distance: str, n_boot: int) -> tuple[float, ...]:
    if kind not in KINDS:
        raise ValueError(f"no kind of map {kind!r}; there are {', '.join(KINDS)}")
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
    if rank is not None:
        if kind != "low_rank":
            raise ValueError(f"rank goes with kind='low_rank', not with {kind!r}")
        if not isinstance(rank, int | np.integer) or isinstance(rank, bool) or rank < 1:
            raise ValueError(f"rank must be a whole number of at least 1, got {rank!r}")
    if n_boot < 100:
        raise ValueError(f"n_boot must be at least 100, got {n_boot}")
    if kind == "orthogonal" and grid is not None:
        raise ValueError("an orthogonal map has no penalty: leave grid out")
    penalties = tuple(float(value) for value in (GRID if grid is None else grid))
    if not penalties or not all(np.isfinite(value) and value >= 0 for value in penalties):
        raise ValueError(f"grid must hold penalties that are finite and not negative, got {list(penalties)}")
    return penalties


def _check_sizes(pairs: Pairs, rank: int | None) -> None:
    widths_a, widths_b = ({s: x.width(s) for s in sites} for x, sites in ((pairs.a, pairs.sites_a), (pairs.b, pairs.sites_b)))
    if rank is not None:
        narrow = min(*widths_a.values(), *widths_b.values())
        train = int((pairs.part == TRAIN).sum())
        if rank > narrow:
            raise ValueError(f"rank {rank} is more than the {narrow} dimensions of the narrowest site")
        if rank >= train:
            raise ValueError(f"rank {rank} needs more than the {train} training rows there are")
    needed = 4 * sum(widths_a.values()) * sum(widths_b.values())
    there = _memory_of_machine()
    if there is not None and needed > there:
        raise MemoryError(
            f"{len(widths_a)} x {len(widths_b)} maps take {needed / 1e9:.0f} GB, and this machine has {there / 1e9:.0f} GB: name "
            "fewer sites with sites_a= and sites_b="
        )


def _memory_of_machine() -> int | None:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system says
        return None


def _tiles(
    pairs: Pairs, targets: Sequence[Column], memory: int, copies: int
) -> Iterator[tuple[tuple[str, ...], list[tuple[Column, ...]]]]:
    """Sites of A, and with each some targets after others, so that their cross products fit the memory."""
    wide_a, wide_b = (max(x.width(s) for s in sites) for x, sites in ((pairs.a, pairs.sites_a), (pairs.b, pairs.sites_b)))
    several = max(1, memory // (8 * copies * wide_a * wide_b))  # pairs of sites at a time
    count_a = min(len(pairs.sites_a), several)
    count_b = max(1, several // count_a)
    for i in range(0, len(pairs.sites_a), count_a):
        each = [tuple(targets[j : j + count_b]) for j in range(0, len(targets), count_b)]
        yield pairs.sites_a[i : i + count_a], each


def _source(train: Sums, valid: Sums, i: int, at: slice) -> Source:
    mean = train.x_shift[at] + train.x[at] / train.n
    return Source(train.n, mean, train.gram_about(i, at, mean), valid.gram_about(i, at, mean))


def _target(train: Sums, valid: Sums, at: slice) -> Target:
    mean = train.y_shift[at] + train.y[at] / train.n
    return Target(train.n, mean, train.squares_about(at, mean), valid.squares_about(at, mean))


def _score(solution: Solution, X: Tensor, scored: TargetTested) -> Mapping[str, Figure]:
    return scored.score(X @ solution.matrix.T + solution.bias)


def _as_map(
    found: Solution, kind: str, site_a: str, site_b: str, pairs: Pairs, facts: Mapping[str, object]
) -> LinearMap:
    chosen = {n: v for n in ("alpha", "rank", "scale") if (v := getattr(found, n)) is not None}
    return LinearMap(
        found.matrix, found.bias, kind, site_a, site_b, model_of(pairs.a), model_of(pairs.b), {**chosen, **facts}
    )


def _of_few_rows(pairs: Pairs, kind: str) -> list[str]:
    train = int((pairs.part == TRAIN).sum())
    widest = max(pairs.a.width(site) for site in pairs.sites_a)
    if train > widest:
        return []
    more = ": the rotation is arbitrary in directions that these rows do not span" if kind == "orthogonal" else ""
    return [f"{train:,} training rows for up to {widest:,} dimensions of A{more}"]


def _model(activations: Activations) -> dict[str, object]:
    manifest = getattr(activations, "manifest", None)
    if manifest is None:
        return {"name": None, "fingerprint": None}
    return {"name": manifest.model, "fingerprint": manifest.model_fingerprint}


def _data(activations: Activations) -> dict[str, object]:
    manifest = getattr(activations, "manifest", None)
    if manifest is None:
        return {"rows": len(activations)}
    return {"name": manifest.data, "fingerprint": manifest.data_fingerprint, "pool": manifest.pool}


@contextmanager
def _bar(wanted: bool, total: int) -> Iterator[Callable[[int], None]]:
    if not wanted:
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("maps"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda steps: bar.advance(task, steps)
