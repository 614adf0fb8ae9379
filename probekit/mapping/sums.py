"""Sums over paired rows, gathered a few hundred rows at a time: what every map follows from, whatever the number of rows.

All are float64 and about a shift near the mean, so that little is lost when they are centred.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probekit.activations import Activations
from probekit.mapping.pairs import Pairs

CHUNK = 512
"""Rows read at a time. It does not follow from the memory there is, so that shuffled pairs are the same in any tiling."""

Column = tuple[str, str]
"""Whose activations (`"b"` or `"twin"`) and at which site: something that maps lead to."""


@dataclass
class Sums:
    """Over `n` rows, of the source's columns X and of the targets' columns Y, several sites beside each other.

    Attributes:
        x_shift, y_shift: `[columns]` what was taken off the rows before they were summed.
        x, y: `[columns]` sums.
        yy: `[columns of Y]` sums of squares.
        cross: `[columns of X, columns of Y]`.
        shuffled: The same with the rows of Y in another order, or None.
        grams: By site of the source `[d_a, d_a]` sums of outer products; empty where not asked for.
    """

    n: int
    x_shift: Tensor
    y_shift: Tensor
    x: Tensor
    y: Tensor
    yy: Tensor
    cross: Tensor
    shuffled: Tensor | None
    grams: list[Tensor]

    def gram_about(self, site: int, columns: slice, center: Tensor) -> Tensor:
        """`[d_a, d_a]`: sum of `(x - center)(x - center)'` of one site."""
        return _moved(self.grams[site], self.x[columns], self.x[columns], self.n, *[center - self.x_shift[columns]] * 2)

    def cross_about(self, x: slice, y: slice, x_center: Tensor, y_center: Tensor, *, shuffled: bool = False) -> Tensor:
        """`[d_a, d_b]`: sum of `(x - x_center)(y - y_center)'` of one pair of sites, in pairs as they are or shuffled."""
        cross = self.shuffled if shuffled else self.cross
        assert cross is not None
        return _moved(cross[x, y], self.x[x], self.y[y], self.n, x_center - self.x_shift[x], y_center - self.y_shift[y])

    def squares_about(self, y: slice, center: Tensor) -> Tensor:
        """`[d_b]`: sum of `(y - center)^2`."""
        moved = center - self.y_shift[y]
        return self.yy[y] - 2 * moved * self.y[y] + self.n * moved.square()


def _moved(products: Tensor, x: Tensor, y: Tensor, n: int, x_by: Tensor, y_by: Tensor) -> Tensor:
    return torch.addr(products, x, y_by, alpha=-1).addr_(x_by, y - n * y_by, alpha=-1)


def sum_rows(
    pairs: Pairs,
    rows: np.ndarray,
    sites: Sequence[str],
    targets: Sequence[Column],
    *,
    grams: bool,
    shuffle: bool,
    seed: int,
    advance: Callable[[int], None],
) -> Sums:
    """One pass over some rows of the pairs.

    Args:
        rows: Ascending row numbers.
        sites: Of A.
        targets: Where maps are to lead.
        grams: Whether the outer products of the source are summed too; once a site is enough.
        shuffle: Whether Y is also summed in another order.
        advance: Told how many rows are done.
    """
    from_a, to_b = [(pairs.a, site) for site in sites], [(_activations(pairs, who), site) for who, site in targets]
    total: Sums | None = None
    ends = np.linspace(0, len(rows), -(-len(rows) // CHUNK) + 1).round().astype(int).tolist()
    for number, (start, stop) in enumerate(itertools.pairwise(ends)):
        taken = rows[start:stop]
        X, Y = _read(from_a, taken), _read(to_b, taken)
        if total is None:
            total = _empty(X, Y, [pairs.a.width(site) for site in sites] if grams else [], shuffle)
        X, Y = X - total.x_shift, Y - total.y_shift
        total.n += len(taken)
        total.x += X.sum(0)
        total.y += Y.sum(0)
        total.yy += Y.square().sum(0)
        total.cross.addmm_(X.T, Y)
        if total.shuffled is not None:
            other = _partners(rows, start, stop, np.random.default_rng([seed, 0x5FF1E, number]))
            total.shuffled.addmm_(X.T, _read(to_b, other) - total.y_shift)
        at = 0
        for gram in total.grams:
            part = X[:, at : at + len(gram)]
            gram.addmm_(part.T, part)
            at += len(gram)
        advance(len(taken))
    assert total is not None
    return total


def _empty(X: Tensor, Y: Tensor, widths: Sequence[int], shuffle: bool) -> Sums:
    """Nothing summed yet, about the means of the first rows; with grams of sites of these widths."""
    cross = torch.zeros(X.shape[1], Y.shape[1], dtype=torch.float64)
    return Sums(
        n=0,
        x_shift=X.mean(0),
        y_shift=Y.mean(0),
        x=torch.zeros_like(cross[:, 0]),
        y=torch.zeros_like(cross[0]),
        yy=torch.zeros_like(cross[0]),
        cross=cross,
        shuffled=torch.zeros_like(cross) if shuffle else None,
        grams=[torch.zeros(width, width, dtype=torch.float64) for width in widths],
    )


def _partners(rows: np.ndarray, start: int, stop: int, rng: np.random.Generator) -> np.ndarray:
    """For each of `rows[start:stop]` another row, every one taken once over all chunks.

    Rows of half the way through the data, in random order: near rows may come from the same text. Where all rows are one
    chunk, a random cycle, in which none is its own partner.
    """
    count = stop - start
    if count == len(rows):
        order = rng.permutation(count)
        partner = np.empty_like(order)
        partner[order] = np.roll(order, 1)
        return rows[partner]
    other = rows[(np.arange(start, stop) + len(rows) // 2) % len(rows)]
    return rng.permutation(other)


def _activations(pairs: Pairs, who: str) -> Activations:
    found = pairs.twin if who == "twin" else pairs.b
    assert found is not None
    return found


def _read(columns: Sequence[tuple[Activations, str]], rows: np.ndarray) -> Tensor:
    """`[row, columns]` float64, the sites beside each other.

    Raises:
        ValueError: NaN or infinite activations; names site and row.
    """
    parts = []
    for activations, site in columns:
        values = torch.from_numpy(np.asarray(activations.read(site, rows)))
        if not torch.isfinite(values.sum(dtype=torch.float64)):
            bad = (~torch.isfinite(values)).any(1).nonzero().flatten()
            raise ValueError(f"NaN or infinite activations at {site} in row {int(rows[int(bad[0])])}")
        parts.append(values)
    return torch.cat(parts, 1).double()


def read_rows(pairs: Pairs, who: str, site: str, rows: np.ndarray) -> Tensor:
    """`[row, width]` float32 of `"a"`, `"b"` or `"twin"`, checked."""
    return _read([(pairs.a if who == "a" else _activations(pairs, who), site)], rows).float()


def slices_of(widths: Sequence[int]) -> list[slice]:
    """Where each of the sites beside each other stands."""
    ends = np.cumsum(widths)
    return [slice(int(end - width), int(end)) for end, width in zip(ends, widths, strict=True)]
