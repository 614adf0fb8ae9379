"""Directions to compare with: does any other push of the same length do the same?

An edit along a control is made by `edit.remade(direction=control)`, at the same strength. Strengths are counted in the direction's
`scale`, so every control carries the scale of the direction it stands beside: what is added is then exactly as long.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from probekit.activations import Activations
from probekit.data.dataset import as_groups
from probekit.probes.controls import shuffle_labels
from probekit.probes.direction import Direction, model_of, row_mask, unit_vector
from probekit.surgery.directions.labelled import Labelled, Labels

_PERMUTED, _SPECTRUM, _RANDOM = 0x9E3, 0x59EC, 0x4A2D


def random_directions(direction: Direction, count: int = 20, seed: int = 0) -> list[Direction]:
    """Directions drawn evenly from all directions of the space.

    `scale`, `gap`, `center` and `mean` are those of the direction they stand beside, so that whatever an edit adds or sets is as
    large. (The mean of the data along a random direction is another; an edit that sets it, `ablate(to_mean=True)`, is better
    controlled by `spectrum_directions`, which know it.)

    Args:
        direction: The one that is to be compared.
        count: How many.
        seed: The same seed gives the same directions.
    """
    rng = np.random.default_rng([seed, _RANDOM])
    drawn = rng.standard_normal((_counted(count), len(direction)))
    return [_beside(direction, vector, "random", seed, i) for i, vector in enumerate(drawn)]


def spectrum_directions(
    direction: Direction, activations: Activations, count: int = 20, seed: int = 0, *, rows: np.ndarray | None = None
) -> list[Direction]:
    """Directions drawn from a normal distribution with the covariance of the data: a harder control.

    Activations spread along few directions, which a model reads more than others; an even draw hardly ever points there. A
    random sum of centred rows has their covariance, so no matrix is taken apart.

    `mean` is that of the data along each, and `center` lies as far from it as the direction's own from its mean.

    Args:
        activations: That have the direction's site; read a batch at a time.
        rows: `[row]` bool mask of the rows to draw from.
        direction, count, seed: As in `random_directions`.

    Raises:
        ValueError: a direction without a site, activations of another width, or ones that do not vary.
    """
    site = _site(direction, activations)
    kept = row_mask(activations, rows)
    rng = np.random.default_rng([seed, _SPECTRUM])
    mixed = np.zeros((_counted(count), len(direction)))
    total, weights, n = np.zeros(len(direction)), np.zeros((count, 1)), 0
    for part, values in activations.batches(site):
        some = values[kept[part]].astype(np.float64)
        mix = rng.standard_normal((count, len(some)))
        mixed += mix @ some
        weights += mix.sum(1, keepdims=True)
        total += some.sum(0)
        n += len(some)
    mean = total / n
    vectors = mixed - weights * mean
    if not np.isfinite(vectors).all():
        raise ValueError(f"activations at {site} have NaN or infinite values")
    if not (np.linalg.norm(vectors, axis=1) > 1e-12 * np.linalg.norm(weights * mean, axis=1)).all():
        raise ValueError(f"activations at {site} are the same in all {n:,} rows: they have no spectrum to draw from")
    return [_measured(_beside(direction, v, "spectrum", seed, i), direction, mean) for i, v in enumerate(vectors)]


def permuted_directions(
    activations: Activations,
    labels: Labels,
    site: str,
    count: int = 20,
    seed: int = 0,
    *,
    beside: Direction | None = None,
    target: int | str = 0,
    classes: tuple[str, str] | None = None,
    rows: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> list[Direction]:
    """Differences of class means for labels that were dealt out again between whole sequences.

    What the recipe of a difference of means finds in these activations where there is nothing to find. `mean` and `center` are
    those of the data along each.

    Args:
        activations: That have the site; read a batch at a time.
        labels: A label set of the sequences or tokens, or a value a row, as `difference_of_means` takes.
        site: Where.
        beside: The direction they stand beside, for its `scale` and `gap`; `evaluate` gives them the scale by itself.
        target: Which of the label set's targets.
        classes: Names of the two classes, (from, to), of more than two.
        rows: `[row]` bool mask of the rows that count.
        groups: `[sequence]` values; labels of a group stay together and are dealt out between groups. Give them where labels go
            with groups (texts of one author, statements about one city): else the control varies too little.
        count, seed: As in `random_directions`.

    Raises:
        ValueError: as `spectrum_directions`; labels that do not fit, or no row of one of the classes.
    """
    known = beside or Direction(torch.ones(activations.width(site)), site, model=model_of(activations))
    if known.site != site:
        raise ValueError(f"the direction to stand beside is of {known.site}, not of {site}")
    _site(known, activations)
    codes = Labelled.of(activations, labels).target(target).pair(classes)[0]
    together = activations.sequence if groups is None else as_groups(groups)[activations.sequence]
    kept = row_mask(activations, rows) & (codes >= 0)
    if len(np.unique(codes[kept])) < 2:
        raise ValueError(
            "the labels have no row of one of the two classes: there are no means to take the difference of"
        )
    dealt = np.stack(
        [shuffle_labels(codes[kept][:, None], together[kept], _seed(seed, i))[:, 0] for i in range(_counted(count))]
    )
    sums, n = np.zeros((2, count, len(known))), 0
    for part, values in activations.batches(site):
        some = values[kept[part]].astype(np.float64)
        here = dealt[:, n : n + len(some)]
        sums += np.stack([(here == k).astype(np.float64) @ some for k in (0, 1)])
        n += len(some)
    low, high = (sums[k] / (dealt == k).sum(1)[:, None] for k in (0, 1))
    mean = sums[:, 0].sum(0) / n
    out = []
    for i in range(count):
        control = _beside(known, high[i] - low[i], "permuted labels", seed, i)
        vector = control.vector.double().numpy()
        out.append(replace(control, mean=float(mean @ vector), center=float((high[i] + low[i]) / 2 @ vector)))
    return out


def _beside(direction: Direction, vector: np.ndarray, kind: str, seed: int, number: int) -> Direction:
    """Another vector with all that is known of a direction."""
    provenance = {"control": kind, "seed": seed, "number": number, "beside": dict(direction.provenance)}
    return replace(direction, vector=unit_vector(torch.from_numpy(vector)), provenance=provenance)


def _measured(control: Direction, direction: Direction, mean: np.ndarray) -> Direction:
    """With the mean of the data along it, and a center as far from that as the direction's own."""
    along = float(mean @ control.vector.double().numpy())
    if direction.center is None or direction.mean is None:
        return replace(control, mean=along)
    return replace(control, mean=along, center=along + direction.center - direction.mean)


def _site(direction: Direction, activations: Activations) -> str:
    if direction.site is None:
        raise ValueError("this direction names no site to read activations at: give Direction(vector, site=...)")
    if activations.width(direction.site) != len(direction):
        raise ValueError(
            f"activations at {direction.site} are {activations.width(direction.site)} wide, the direction {len(direction)}"
        )
    return direction.site


def _counted(count: int) -> int:
    if count < 1:
        raise ValueError(f"count is how many directions to draw, 1 or more, not {count}")
    return count


def _seed(seed: int, number: int) -> int:
    """A seed of its own for each permutation."""
    return int(np.random.SeedSequence([seed, _PERMUTED, number]).generate_state(1)[0])
