"""`fit`: linear maps between all pairs of sites of two models, from paired activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from probekit.activations import Activations
from probekit.mapping.linear_map import LinearMap
from probekit.mapping.maps import Maps
from probekit.mapping.pairs import PARTS, TRAIN, VALID, Pairs, pair_up
from probekit.mapping.scoring import DISTANCES, NEAR, Distance, RowsTested, TargetTested
from probekit.mapping.solving import GRID, KINDS, Kind, Solution, Source, Target, solve
from probekit.mapping.sums import Column, Sums, read_rows, slices_of, sum_rows
from probekit.mapping.tiling import require_memory, tiles
from probekit.probes.activation_source import digest_of
from probekit.probes.direction import model_of
from probekit.progress import stepping
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
    penalties = _checked(kind, rank, grid, distance, n_boot, seed)
    pairs = pair_up(a, b, twin, sites_a, sites_b, groups, seed)
    _check_rank(pairs, rank)
    require_memory(pairs)
    tested = pairs.tested(seed)
    rows = RowsTested.of(pairs.group[tested], n_boot, seed)
    targets: list[Column] = [("b", s) for s in pairs.sites_b] + [("twin", s) for s in pairs.sites_b if pairs.twin]
    fitting = _Fitting(kind, rank, penalties, pairs, tested, rows, distance, controls, seed)
    tiled = list(tiles(pairs, targets, memory, 2 * (1 + controls)))
    summed = int(((pairs.part == TRAIN) | (pairs.part == VALID)).sum())
    steps = sum(len(each) for _, each in tiled) * summed + len(pairs.sites_a) * len(targets)
    with stepping("maps ", steps, progress) as bar:
        for sites, columns in tiled:
            fitting.fit_tile(sites, columns, lambda done: bar(None, done))
    order = [(site_a, site_b) for site_a in pairs.sites_a for site_b in pairs.sites_b]
    return Maps(
        maps={key: fitting.maps[key] for key in order},
        figures=tuple(fitting.figures[key] for key in order),
        sites_a=pairs.sites_a,
        sites_b=pairs.sites_b,
        part=pairs.part,
        group=pairs.group,
        sequence=np.array(pairs.a.sequence, np.int64),
        notes=(*pairs.notes, *_of_few_rows(pairs, kind)),
        manifest={
            "kind": kind,
            "rank": None if rank is None else int(rank),
            "seed": int(seed),
            "grid": [] if kind == "orthogonal" else list(penalties),
            "distance": distance,
            "controls": controls,
            "n_boot": n_boot,
            "groups": None if groups is None else "given",
            "split": pairs.split,
            "model_a": _model(pairs.a),
            "model_b": _model(pairs.b),
            "twin": None if pairs.twin is None else _model(pairs.twin),
            "data": _data(pairs.a),
            "rows": {name: int((pairs.part == number).sum()) for name, number in PARTS.items()},
            "tested": len(tested),
            "candidates": len(rows.pool),
            "chance": {f"top_{k}": rows.chance(k) for k in NEAR},
            "versions": versions_of("torch", "numpy"),
        },
    )


@dataclass
class _Fitting:
    """What is asked, and what is found so far."""

    kind: Kind
    rank: int | None
    penalties: tuple[float, ...]
    pairs: Pairs
    tested: np.ndarray
    rows: RowsTested
    distance: Distance
    controls: bool
    seed: int
    maps: dict[tuple[str, str], LinearMap] = field(default_factory=dict)
    figures: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def fit_tile(
        self, sites: Sequence[str], columns: Sequence[Sequence[Column]], advance: Callable[[int], None]
    ) -> None:
        """Some sites of A with all targets, some of these at a time; A's sites are decomposed once."""
        pairs, sources = self.pairs, list[Source]()
        X = [read_rows(pairs, "a", site, self.tested).double() for site in sites]
        at_a = slices_of([pairs.a.width(site) for site in sites])
        for targets in columns:
            train, valid = (
                sum_rows(
                    pairs, pairs.rows(part), sites, targets,
                    grams=not sources, shuffle=self.controls, seed=self.seed, advance=advance,
                )
                for part in (TRAIN, VALID)
            )  # fmt: skip
            sources = sources or [_source(train, valid, i, at) for i, at in enumerate(at_a)]
            at_b = slices_of([pairs.b.width(site) for _, site in targets])
            for (who, site_b), y in zip(targets, at_b, strict=True):
                target = _target(train, valid, y)
                values = read_rows(pairs, who, site_b, self.tested)
                scored = TargetTested(self.rows, values, target.mean, target.std, self.distance)
                for i, site_a in enumerate(sites):
                    pair = _Pair(sources[i], target, train, valid, at_a[i], y)
                    self._fit_pair(site_a, site_b, who, pair, X[i], scored)
                    advance(1)

    def _fit_pair(self, site_a: str, site_b: str, who: str, pair: _Pair, X: Tensor, scored: TargetTested) -> None:
        own = pair.solve(self.kind, self.penalties, self.rank)
        found = self.figures.setdefault((site_a, site_b), {"site_a": site_a, "site_b": site_b})
        found["map" if who == "b" else "random_weights"] = scored.score(own.apply(X))
        if who != "b":
            return
        found |= {name: getattr(own, name) for name in ("valid_r2", "alpha", "rank", "scale")}
        found["mean"] = scored.score(pair.target.mean.expand(len(X), -1))
        if self.controls:
            found["shuffled"] = scored.score(pair.solve(self.kind, self.penalties, self.rank, shuffled=True).apply(X))
        chosen = {n: v for n in ("alpha", "rank", "scale") if (v := getattr(own, n)) is not None}
        facts = {**chosen, "rows": pair.train.n, "seed": self.seed, "data": _data(self.pairs.a)}
        models = model_of(self.pairs.a), model_of(self.pairs.b)
        self.maps[site_a, site_b] = LinearMap(own.matrix, own.bias, self.kind, site_a, site_b, *models, facts)


@dataclass(frozen=True)
class _Pair:
    """A site of A and one of B, with the sums they stand in and where in these."""

    source: Source
    target: Target
    train: Sums
    valid: Sums
    x: slice
    y: slice

    def solve(self, kind: Kind, penalties: Sequence[float], rank: int | None, *, shuffled: bool = False) -> Solution:
        crosses = [
            sums.cross_about(self.x, self.y, self.source.mean, self.target.mean, shuffled=shuffled)
            for sums in (self.train, self.valid)
        ]
        return solve(kind, self.source, self.target, crosses[0], crosses[1], penalties, rank)


def _checked(
    kind: str, rank: object, grid: Sequence[float] | None, distance: str, n_boot: int, seed: object
) -> tuple[float, ...]:
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
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")
    if kind == "orthogonal" and grid is not None:
        raise ValueError("an orthogonal map has no penalty: leave grid out")
    penalties = tuple(float(value) for value in (GRID if grid is None else grid))
    if not penalties or not all(np.isfinite(value) and value >= 0 for value in penalties):
        raise ValueError(f"grid must hold penalties that are finite and not negative, got {list(penalties)}")
    return penalties


def _check_rank(pairs: Pairs, rank: int | None) -> None:
    if rank is None:
        return
    narrow = min(x.width(s) for x, sites in ((pairs.a, pairs.sites_a), (pairs.b, pairs.sites_b)) for s in sites)
    train = int((pairs.part == TRAIN).sum())
    if rank > narrow:
        raise ValueError(f"rank {rank} is more than the {narrow} dimensions of the narrowest site")
    if rank >= train:
        raise ValueError(f"rank {rank} needs more than the {train} training rows there are")


def _source(train: Sums, valid: Sums, i: int, at: slice) -> Source:
    mean = train.x_shift[at] + train.x[at] / train.n
    return Source(train.n, mean, train.gram_about(i, at, mean), valid.gram_about(i, at, mean))


def _target(train: Sums, valid: Sums, at: slice) -> Target:
    mean = train.y_shift[at] + train.y[at] / train.n
    return Target(train.n, mean, train.squares_about(at, mean), valid.squares_about(at, mean))


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
    rows = {"rows": len(activations), "sequences": digest_of(activations.sequence)}
    if manifest is None:
        return rows
    return {"name": manifest.data, "fingerprint": manifest.data_fingerprint, "pool": manifest.pool, **rows}
