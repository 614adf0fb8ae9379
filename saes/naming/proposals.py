"""`Proposal`: what a source of names puts forward for a feature, before it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from saes.naming.judging import Claim


@dataclass(frozen=True)
class Proposal:
    """A name that has yet to earn itself.

    Attributes:
        claim: Which feature, and which of the rows it will be judged on the name covers.
        text: The name.
        source: `labels`, `vocabulary` or `language_model`.
        merit: Balanced accuracy on the rows it was made from, by which names of all sources are compared.
        rival: The best other description from the same source, if any.
        rival_merit: Its merit.
        measured: Figures of its evidence that the source measured itself, on the rows it will be judged on.
    """

    claim: Claim
    text: str
    source: str
    merit: float
    rival: str | None = None
    rival_merit: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
