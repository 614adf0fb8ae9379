"""An axis of numbers with its ends known: logarithmic where ratios span much, with ticks that say the numbers themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_WIDE = 3.0  # from here on a linear axis would squeeze the ratios near 1 together


@dataclass(frozen=True)
class NumberAxis:
    """Ends of an axis, and whether it is logarithmic.

    Attributes:
        low, high: The ends (of a logarithmic axis, powers of ten).
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], *, log: bool | None = None, wide: float = _WIDE) -> NumberAxis:
        """The axis that holds the values that are finite, with room around them.

        Args:
            log: Whether it is logarithmic; None: where all values are positive and the largest is `wide` times the least.
        """
        known = [value for value in values if math.isfinite(value)] or [0.0]
        positive = min(known) > 0
        taken = positive and (max(known) / min(known) >= wide if log is None else log)
        ends = [math.log10(end) if taken else end for end in (min(known), max(known))]
        room = 0.08 * (ends[1] - ends[0]) or (0.1 if taken else 0.1 * abs(ends[0]) or 1.0)
        return cls(ends[0] - room, ends[1] + room, taken)

    def share(self, value: float) -> float:
        """Where on the axis a value lies, 0 to 1; NaN for one that has no place there."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)

    def layout(self) -> dict[str, Any]:
        """What plotly is told."""
        if not self.log:
            return {"range": [self.low, self.high]}
        ticks = self._ticks()
        return {
            "type": "log", "range": [self.low, self.high], "tickvals": ticks, "ticktext": [_tick(tick) for tick in ticks],
        }  # fmt: skip

    def _ticks(self) -> list[float]:
        decades = self.high - self.low
        steps = (1, 1.5, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2 else (1,)
        skip = max(1, math.ceil(decades / 7)) if len(steps) == 1 else 1
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        each = (step * 10.0**power for power in powers if power % skip == 0 for step in steps)
        return [tick for tick in each if self.low <= math.log10(tick) <= self.high]


def _tick(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:,.0f}" if value >= 10 else f"{value:g}"
    return f"10<sup>{round(math.log10(value))}</sup>".replace("-", "−")
