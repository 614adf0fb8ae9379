"""`fit_grid`: every target at every site for a whole grid of regularisation, at once; `fit_grids` for several families."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from probekit.data.dataset import Kind
from probekit.probes.arrays import as_rows, as_targets
from probekit.probes.base import ClosedFormProbe, LinearProbe, warn_unconverged
from probekit.probes.parallel import side_by_side
from probekit.probes.solution import PER_PROBE, Solution
from probekit.probes.stack import ProbeStack
from probekit.probes.summary import Summary

SMALL = 1 << 23
"""Numbers in a site's rows up to which sites are fitted side by side, one thread each."""


def _difference_in_means() -> type[LinearProbe]:
    from probekit.probes.difference_in_means import DifferenceInMeans

    return DifferenceInMeans


def _lda() -> type[LinearProbe]:
    from probekit.probes.lda import LDAProbe

    return LDAProbe


def _ridge() -> type[LinearProbe]:
    from probekit.probes.ridge import RidgeProbe

    return RidgeProbe


def _logistic() -> type[LinearProbe]:
    from probekit.probes.logistic import LogisticProbe

    return LogisticProbe


FAMILIES: dict[str, Callable[[], type[LinearProbe]]] = {
    "difference_in_means": _difference_in_means,
    "lda": _lda,
    "ridge": _ridge,
    "logistic": _logistic,
}


def fit_grid(
    family: str | LinearProbe,
    X: np.ndarray | Tensor | Iterable[np.ndarray | Tensor],
    Y: np.ndarray | Tensor,
    grid: Sequence[float] | None = None,
    *,
    n_classes: int | None = None,
    kind: Kind | None = None,
    classes: Sequence[str] | None = None,
    targets: Sequence[str] = (),
    sites: Sequence[str] | None = None,
) -> ProbeStack:
    """Fit probes for all targets, sites and grid values.

    Args:
        family: `"difference_in_means"`, `"lda"`, `"ridge"`, `"logistic"`, or an estimator, whose parameters hold.
        X: `[site, n, d]`, or `[n, d]` for one site; an iterable of `[n, d]` arrays is taken one at a time, so that only
            one site need be in memory, or as many small ones as there are threads, which are then fitted side by side.
        Y: `[n, t]` integer class indices (-1 where a row is left out of a target), or floats (NaN where left out).
        grid: Values of the family's parameter (`C`, `alpha`, `shrinkage`); default: the family's own, or the one value that
            an estimator has. A family without a parameter takes none.
        n_classes: Number of classes; default: `len(classes)`, or the largest index + 1.
        kind: `binary`, `multiclass` or `continuous`; default: by `Y`'s dtype and `n_classes`.
        classes, targets, sites: Names, kept in the result.

    Returns:
        A stack with axes `[grid, site, target, output, d]`, without `site` when `X` is `[n, d]`. A class that a target
        never shows gets probability 0 there; a target that shows one class only gets the probe that always says so, with a
        warning, since one such square should not cost the other 63.

    Raises:
        ValueError: shapes, class indices, or NaN and infinite activations.
    """
    return _fitted([family], X, Y, [grid], n_classes, kind, classes, targets, sites)[0]


def fit_grids(
    families: Sequence[str | LinearProbe],
    X: np.ndarray | Tensor | Iterable[np.ndarray | Tensor],
    Y: np.ndarray | Tensor,
    grids: Sequence[Sequence[float] | None] | None = None,
    *,
    n_classes: int | None = None,
    kind: Kind | None = None,
    classes: Sequence[str] | None = None,
    targets: Sequence[str] = (),
    sites: Sequence[str] | None = None,
) -> list[ProbeStack]:
    """Fit probes of several families to the same rows: as `fit_grid` of each, with what they have in common computed once.

    The families in closed form share the scatter of a site and its eigendecomposition, most of what each would take alone.

    Args:
        families: As `family` there.
        grids: A grid for each; all as `fit_grid` has them if left out.
        X, Y, n_classes, kind, classes, targets, sites: As there.

    Returns:
        A stack a family, in their order.

    Raises:
        ValueError: as `fit_grid`; no families, or not a grid for each.
        TypeError: `families` is one name.
    """
    if isinstance(families, str):
        raise TypeError(f"families is one name, {families!r}; give a list, families=[{families!r}]")
    if len(families) == 0:
        raise ValueError("families is empty: name at least one")
    if grids is None:
        grids = [None] * len(families)
    elif len(grids) != len(families):
        raise ValueError(f"{len(families)} families but {len(grids)} grids")
    return _fitted(families, X, Y, grids, n_classes, kind, classes, targets, sites)


def _fitted(
    families: Sequence[str | LinearProbe],
    X: np.ndarray | Tensor | Iterable[np.ndarray | Tensor],
    Y: np.ndarray | Tensor,
    grids: Sequence[Sequence[float] | None],
    n_classes: int | None,
    kind: Kind | None,
    classes: Sequence[str] | None,
    targets: Sequence[str],
    sites: Sequence[str] | None,
) -> list[ProbeStack]:
    """Warnings are of the line that called the caller of this."""
    probes = [FAMILIES[_known(family)]()() if isinstance(family, str) else family for family in families]
    kind, n_classes = _kind(Y, n_classes, kind, classes)
    values = []
    for family, probe, grid in zip(families, probes, grids, strict=True):
        if kind == "continuous" and probe.family != "ridge":
            raise ValueError(f"{probe.family} probes read classes; for continuous targets use ridge")
        if grid is None and not isinstance(family, str) and probe.grid_parameter is not None:
            grid = [getattr(probe, probe.grid_parameter)]
        values.append(_grid(probe, grid))
    many = not (isinstance(X, np.ndarray | Tensor) and X.ndim == 2)
    of = n_classes if kind != "continuous" else None
    pieces: Iterator[tuple[Tensor, Tensor]] = (
        (rows, as_targets(Y, len(rows), of))
        for rows in (as_rows(x, name=f"X of site {i}" if many else "X") for i, x in enumerate(X if many else [X]))
    )
    first = next(pieces, None)
    if first is None:
        raise ValueError("X has no sites")
    if of is not None:
        _warn_constant(first[1], targets)
    each = side_by_side if many and first[0].numel() <= SMALL and first[0].device.type == "cpu" else map
    pieces = chain([first], pieces)
    del first  # large sites are in memory one at a time

    def solve(piece: tuple[Tensor, Tensor]) -> list[Solution]:
        return _solve_site(probes, *piece, n_classes=of, grids=values)

    solutions = list(each(solve, pieces))  # [site][family]
    names = tuple(sites) if sites is not None else tuple(f"site {i}" for i in range(len(solutions))) if many else ()
    if many and len(names) != len(solutions):
        raise ValueError(f"{len(solutions)} sites in X but {len(names)} names")
    stacks = []
    for probe, grid, by_site in zip(probes, values, zip(*solutions, strict=True), strict=True):
        joined = {
            name: torch.stack([getattr(s, name) for s in by_site], 1) if many else getattr(by_site[0], name)
            for name in PER_PROBE
        }
        warn_unconverged(probe, Solution(**joined), stacklevel=4)
        stack = ProbeStack(
            **joined,
            classes=() if kind == "continuous" else tuple(classes or (str(k) for k in range(n_classes or 2))),
            kind=kind,
            targets=tuple(targets),
            axes=("grid", "site") if many else ("grid",),
            sites=names,
            grid=tuple(grid),
            family=probe.family,
            parameters=probe.get_params(),
        )
        stacks.append(stack)
    return stacks


def _known(family: str) -> str:
    if family not in FAMILIES:
        raise ValueError(f"no probe family {family!r}; there are {', '.join(FAMILIES)}")
    return family


def _kind(Y: object, n_classes: int | None, kind: Kind | None, classes: Sequence[str] | None) -> tuple[Kind, int]:
    floating = Y.dtype.is_floating_point if isinstance(Y, Tensor) else np.asarray(Y).dtype.kind == "f"
    if kind == "continuous" or (kind is None and floating):
        return "continuous", 0
    if kind not in (None, "binary", "multiclass"):
        raise ValueError(f"kind must be binary, multiclass or continuous, got {kind!r}")
    if not isinstance(Y, Tensor) and np.asarray(Y).dtype.kind not in "iub":
        raise TypeError(
            f"Y must be [row, target] whole numbers (class indices, -1 where left out) or floats, got {np.asarray(Y).dtype}; labels "
            "of words go through an estimator's fit, or LabelSet.from_values"
        )
    largest = int(Y.max() if isinstance(Y, Tensor) else np.max(np.asarray(Y)))
    count = n_classes or (len(classes) if classes is not None else max(largest + 1, 2))
    if classes is not None and len(classes) != count:
        raise ValueError(f"{count} classes but {len(classes)} class names: {list(classes)}")
    if count < 2 or (kind == "binary" and max(count, largest + 1) != 2):
        raise ValueError(f"kind is {kind or 'classes'}, but there are {max(count, largest + 1)} classes")
    return ("binary" if count == 2 else "multiclass"), count


def _grid(probe: LinearProbe, grid: Sequence[float] | None) -> list[float]:
    if probe.grid_parameter is None:
        if grid is not None and len(grid) > 1:
            raise ValueError(f"{probe.family} has no parameter to choose: leave grid out")
        return [0.0]
    if isinstance(grid, int | float | str):
        raise TypeError(f"grid is one value, {grid!r}; give a list, grid=[{grid!r}]")
    values = [float(v) for v in (grid if grid is not None else probe.default_grid)]
    if not values:
        raise ValueError("grid is empty")
    return values


def _warn_constant(labels: Tensor, targets: Sequence[str]) -> None:
    largest = labels.max(0).values
    constant = ((labels == largest) | (labels < 0)).all(0).nonzero().flatten().tolist()
    if constant:
        names = [targets[t] if targets else str(t) for t in constant[:10]]
        warnings.warn(
            f"{len(constant)} of {labels.shape[1]} targets show one class only ({', '.join(names)}): their probe is constant",
            UserWarning,
            stacklevel=4,
        )


def _solve_site(
    probes: Sequence[LinearProbe], X: Tensor, Y: Tensor, n_classes: int | None, grids: Sequence[Sequence[float]]
) -> list[Solution]:
    """Solve targets in groups that share their classes and, unless the family takes masks, the rows left out."""
    solutions = [_blank(X.shape[1], Y.shape[1], n_classes, len(grid)) for grid in grids]
    takes_masks = [probe._takes_masks(*X.shape) for probe in probes]
    for masks in (False, True):
        some = [i for i, takes in enumerate(takes_masks) if takes == masks]
        if not some:
            continue
        for columns, rows, present in _groups(Y, n_classes, masks):
            parts = _solve_group(
                [probes[i] for i in some], X, Y, columns, rows, present, n_classes, [grids[i] for i in some]
            )
            for i, part in zip(some, parts, strict=True):
                _scatter(solutions[i], columns, present, n_classes, part)
    return solutions


def _blank(d: int, t: int, n_classes: int | None, g: int) -> Solution:
    """Probes that are still to be found."""
    outputs = n_classes if n_classes is not None and n_classes > 2 else 1
    shape = (g, t, outputs)
    return Solution(
        coef=torch.zeros(*shape, d, dtype=torch.float64),
        intercept=torch.zeros(shape, dtype=torch.float64),
        scale=torch.ones(shape[:2], dtype=torch.float64),
        gap=torch.zeros(shape, dtype=torch.float64),
        deviation=torch.full(shape, torch.nan, dtype=torch.float64),
        mean=torch.full(shape, torch.nan, dtype=torch.float64),
        converged=torch.ones(shape[:2], dtype=torch.bool),
        n_iter=torch.zeros(shape[:2], dtype=torch.int64),
    )


def _groups(
    Y: Tensor, n_classes: int | None, masks: bool
) -> Iterator[tuple[list[int], Tensor | None, list[int] | None]]:
    """`(columns, rows kept or None for all, classes present)`."""
    labelled = ~Y.isnan() if n_classes is None else Y >= 0
    complete = labelled.all(0).tolist()
    occurs = torch.stack([(k == Y).any(0) for k in range(n_classes or 0)] or [labelled.any(0)], 1)
    groups: dict[tuple[bytes, tuple[int, ...]], list[int]] = {}
    for column in range(Y.shape[1]):
        mask = b"" if masks or complete[column] else labelled[:, column].numpy().tobytes()
        present: tuple[int, ...] = () if n_classes is None else tuple(occurs[column].nonzero().flatten().tolist())
        groups.setdefault((mask, present), []).append(column)
    for (masked, shown), columns in groups.items():
        rows = labelled[:, columns[0]] if masked else None
        yield columns, rows, None if n_classes is None else list(shown)


def _solve_group(
    probes: Sequence[LinearProbe],
    X: Tensor,
    Y: Tensor,
    columns: list[int],
    rows: Tensor | None,
    present: list[int] | None,
    n_classes: int | None,
    grids: Sequence[Sequence[float]],
) -> list[Solution] | list[None]:
    """A solution a probe; families in closed form get theirs from one summary of the rows."""
    if present is not None and len(present) == 1:
        return [None] * len(probes)
    labels = Y if len(columns) == Y.shape[1] else Y[:, columns]
    if rows is not None:
        X, labels = X[rows.to(X.device)], labels[rows]
    if present is not None and len(present) != n_classes:
        index = torch.full((n_classes + 1,), -1, dtype=labels.dtype)  # type: ignore[operator]
        index[present] = torch.arange(len(present), dtype=labels.dtype)
        labels = index[labels.long()]  # -1 stays the last entry, -1
    labels, count = labels.to(X.device), None if present is None else len(present)
    summary: Summary | None = None
    solutions = []
    for probe, grid in zip(probes, grids, strict=True):
        if isinstance(probe, ClosedFormProbe) and type(probe)._solve is ClosedFormProbe._solve:
            summary = summary or Summary.of_rows(X, labels, count)
            solutions.append(probe._solve_summary(summary, grid))
        else:
            solutions.append(probe._solve(X, labels, count, grid))
    return solutions


def _scatter(
    whole: Solution, columns: list[int], present: list[int] | None, n_classes: int | None, part: Solution | None
) -> None:
    """Put a group's probes where they belong, spreading the classes present over all the outputs."""
    if part is None:  # one class only
        assert present is not None
        if whole.intercept.shape[2] == 1:
            whole.intercept[:, columns] = float("inf") if present[0] == 1 else float("-inf")
        else:
            whole.intercept[:, columns] = float("-inf")
            whole.intercept[:, columns, present[0]] = 0.0
        return
    for name in ("scale", "converged", "n_iter"):
        getattr(whole, name)[:, columns] = getattr(part, name).cpu()
    outputs = {name: getattr(part, name).cpu() for name in ("coef", "intercept", "gap", "deviation", "mean")}
    if present is None or len(present) == n_classes:
        for name, values in outputs.items():
            getattr(whole, name)[:, columns] = values
        return
    if outputs["coef"].shape[2] == 1:  # two of many classes: one output becomes two
        first = {"coef": -0.5, "intercept": -0.5, "mean": -1.0, "gap": 1.0, "deviation": 1.0}
        second = {"coef": 0.5, "intercept": 0.5}
        outputs = {n: torch.cat([first[n] * v, second.get(n, 1.0) * v], 2) for n, v in outputs.items()}
    whole.intercept[:, columns] = float("-inf")
    for i, k in enumerate(present):
        for name, values in outputs.items():
            getattr(whole, name)[:, columns, k] = values[:, :, i]
