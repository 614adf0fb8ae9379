"""What a monitor says of a text and of each of its tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoredToken:
    """One token.

    Attributes:
        text: The words it stands for.
        position: In the text, from 0, special tokens with it.
        score: Log-odds of the alarm class as the probe has them, from this token's activation alone.
        probability: What the calibration makes of `score`. It was fitted to the scores of whole texts, so at a token it is a shade to
            look at, and no frequency.
        so_far: Pooled score of the text up to and with this token; NaN before its first own token.
        alarm: Whether `so_far` is over the running threshold, and the token counts.
    """

    text: str
    position: int
    score: float
    probability: float
    so_far: float
    alarm: bool


@dataclass(frozen=True)
class Scored:
    """One text.

    Attributes:
        index: Its number among those given.
        text: As given.
        tokens: In order.
        score: Pooled log-odds of the whole text.
        probability: Calibrated probability that it is of the alarm class.
        alarm: Whether `score` is over the threshold for whole texts.
        first_alarm: Position of the first token at which the alarm goes off while the text streams, by the running threshold, or None.
        p_value: How ordinary a text this strange is among those the monitor was fitted to; small: it is from elsewhere, and the
            probability says little.
        p_mahalanobis, p_neighbours: The same by each distance alone.
        out_of_domain: `p_value <= 0.05`.
        cut: Whether the text is longer than the context, and what lies beyond was not read.
    """

    index: int
    text: str
    tokens: tuple[ScoredToken, ...]
    score: float
    probability: float
    alarm: bool
    first_alarm: int | None
    p_value: float
    p_mahalanobis: float
    p_neighbours: float
    out_of_domain: bool
    cut: bool

    def __repr__(self) -> str:
        words = [f"probability {self.probability:.3f}", f"p {self.p_value:.3f}", f"{len(self.tokens)} tokens"]
        words += ["ALARM"] * self.alarm + ["out of domain"] * self.out_of_domain + ["cut"] * self.cut
        return f"<Scored {self.text[:40]!r}: {', '.join(words)}>"
