"""Do two figures rise and fall together over training? Correlation of short series, with an interval that respects their order.

The points of a training run are no independent draws: neighbours resemble each other, and there are a dozen. So the
interval comes from a circular moving-block bootstrap (Politis & Romano 1992; Künsch 1989 for blocks): runs of neighbouring points, the
last followed by the first, are drawn with replacement until there are as many as in the series, and all figures of a point stay
together. Draws of r are spread around `atanh(r)`, and the interval is `tanh(atanh(r) -+ t * sd)`, with the quantile of Student's t for
as many degrees of freedom as there are whole blocks, less one: ends of the draws themselves lie far too close together for a dozen points.

What the interval does *not* know: two figures that both only rise correlate whatever they have to do with each other, and no
bootstrap of one training run can tell. That is what the partial correlations are for: what is left of both after a straight line
in the loss, or in the logarithm of the step.

`coverage` measures how often the interval holds zero for series that have nothing to do with each other. Of 2,000 pairs of
first-order autoregressive series of so many points:

| autocorrelation of neighbours | 10 points | 14 points | 20 points |
|---|---|---|---|
| 0 | 99 % | 97 % | 95 % |
| 0.5 | 99 % | 96 % | 94 % |
| 0.8 | 97 % | 91 % | 85 % |
| 0.95 | 95 % | 83 % | 74 % |

So with a dozen points it is about right for series that forget within a few points, and too narrow for those that do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
FEWEST = 6
"""Points below which no interval is given."""


@dataclass(frozen=True)
class Relation:
    """A correlation over training.

    Attributes:
        value: Pearson's r, of what is left after `given` where something is; NaN where one of the series does not vary.
        low, high: 95 % interval; NaN with fewer than 6 points.
        points: How many there are.
        block: Points of a block.
        given: What was taken out of both.
    """

    value: float
    low: float
    high: float
    points: int
    block: int
    given: str = ""

    def __str__(self) -> str:
        about = f", given {self.given}" if self.given else ""
        interval = "no interval" if np.isnan(self.low) else f"{self.low:.2f} to {self.high:.2f}"
        return f"r = {self.value:.2f} ({interval}; {self.points} points only, blocks of {self.block}){about}"


def relation(
    x: np.ndarray, y: np.ndarray, given: dict[str, np.ndarray] | None = None, *, draws: int = 2000, seed: int = 0
) -> Relation:
    """Correlation of two series in the order of training.

    Args:
        x, y: `[point]`.
        given: Series `[point]` by name; a straight line in them is taken out of `x` and `y` first (partial correlation).
        draws: Bootstrap draws.
        seed: Of the draws.

    Raises:
        ValueError: series of different lengths, or fewer than three points.
    """
    given = given or {}
    x, y, *others = (np.asarray(one, np.float64) for one in (x, y, *given.values()))
    if any(one.shape != x.shape or x.ndim != 1 for one in (y, *others)) or len(x) < 3:
        raise ValueError(
            f"series need one shape [point] with 3 points or more, got {[len(s) for s in (x, y, *others)]}"
        )
    n, block = len(x), block_length(len(x))
    series = np.stack([x, y, *others])
    value = float(correlations(series))
    low, high = float("nan"), float("nan")
    if n >= FEWEST and not np.isnan(value):
        low, high = _interval(value, correlations(series[:, circular_blocks(n, block, draws, seed)]), n, block)
    return Relation(value, float(low), float(high), n, block, " and ".join(given))


def block_length(points: int) -> int:
    """Points of a block: the cube root of their number, which is the rate of Künsch (1989), rounded up."""
    return int(np.ceil(points ** (1 / 3) - 1e-9))


def circular_blocks(points: int, block: int, draws: int, seed: int) -> np.ndarray:
    """`[draw, point]` which points each draw takes: blocks of neighbours, the last point followed by the first."""
    starts = np.random.default_rng([seed, 0x5E81E5]).integers(0, points, (draws, -(-points // block)))
    return ((starts[..., None] + np.arange(block)) % points).reshape(draws, -1)[:, :points]


def correlations(series: np.ndarray) -> np.ndarray:
    """`[...]` correlation of the first two of `[series, ..., point]`, after a straight line in all others; NaN where one is constant."""
    centred = series - series.mean(-1, keepdims=True)
    scale = np.sqrt((series**2).mean(-1, keepdims=True))
    x, y, *others = centred
    smallest = 1e-10 * scale
    taken: list[np.ndarray] = []
    for other, least in zip(
        others, smallest[2:], strict=True
    ):  # Gram and Schmidt, so that what is taken out is uncorrelated
        for before in taken:
            other = _without(other, before)
        taken.append(np.where(np.sqrt((other**2).mean(-1, keepdims=True)) > least, other, 0.0))
    for other in taken:
        x, y = _without(x, other), _without(y, other)
    lengths = [np.sqrt((one**2).mean(-1)) for one in (x, y)]
    there = (lengths[0] > smallest[0, ..., 0]) & (lengths[1] > smallest[1, ..., 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, np.clip((x * y).mean(-1) / (lengths[0] * lengths[1]), -1, 1), np.nan)


def _without(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What is left of one series after a multiple of another, both with mean zero."""
    size = (other**2).sum(-1, keepdims=True)
    return one - other * np.where(size > 0, (one * other).sum(-1, keepdims=True) / np.where(size > 0, size, 1), 0)


def _interval(value: np.ndarray, drawn: np.ndarray, points: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends from draws `[..., draw]` of values `[...]`."""
    turned = np.arctanh(np.clip(drawn, -1 + 1e-9, 1 - 1e-9))
    half = stats.t.ppf((1 + LEVEL) / 2, max(points // block - 1, 1)) * _spread(turned)
    middle = np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9))
    return np.tanh(middle - half), np.tanh(middle + half)


def _spread(turned: np.ndarray) -> np.ndarray:
    """Standard deviation of the draws over their last axis; draws of one block twice over, with r = 1, must not decide: half the
    range from the 16th to the 84th percentile."""
    low, high = np.nanquantile(turned, (0.1587, 0.8413), axis=-1)
    return (high - low) / 2


def coverage(
    points: int, autocorrelation: float, relations: float = 0.0, *, pairs: int = 2000, draws: int = 500, seed: int = 0
) -> float:
    """How often the interval holds the true correlation, over pairs of first-order autoregressive normal series.

    Args:
        points: Of each series.
        autocorrelation: Of neighbours, below 1.
        relations: The true correlation of the two series.
    """
    rng = np.random.default_rng([seed, points])
    steps = rng.normal(size=(2, pairs, points + 50))
    steps[1] = relations * steps[0] + np.sqrt(1 - relations**2) * steps[1]
    series = np.zeros_like(steps)
    for t in range(1, points + 50):
        series[..., t] = autocorrelation * series[..., t - 1] + steps[..., t]
    series, block = series[..., -points:], block_length(points)
    low, high = _interval(
        correlations(series), correlations(series[..., circular_blocks(points, block, draws, seed)]), points, block
    )
    return float(((low <= relations) & (relations <= high)).mean())
