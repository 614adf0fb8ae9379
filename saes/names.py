"""`Names`: what features are called, with the evidence that earned each name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evidence:
    """Figures of a name on rows that played no part in choosing it.

    Attributes:
        precision: Share of the rows where the feature fires (above `threshold`) that the name covers.
        recall: Share of the rows that the name covers where the feature fires.
        f1: Of both.
        precision_low, recall_low: Lower ends of 95 % intervals, bootstrapped over sequences.
        threshold: Of the feature.
        rows: Rows where the feature fires.
        p: One-sided, clustered by sequence.
        q: The same controlled over all features (Benjamini-Hochberg).
    """

    precision: float
    recall: float
    f1: float
    precision_low: float
    recall_low: float
    threshold: float
    rows: int
    p: float
    q: float = float("nan")

    def of_q(self, q: float) -> Evidence:
        return replace(self, q=q)


@dataclass(frozen=True)
class Name:
    """What one feature is called.

    Attributes:
        feature: Its number.
        text: The name.
        source: Where the name comes from: `labels`, `vocabulary` or `language_model`.
        kind: `precise` (precision of at least 0.95) or `fair`.
        evidence: What earned it.
        rival: The best other description that is not a part of this one, if any.
        rival_f1: Its F1 on the rows for choosing.
    """

    feature: int
    text: str
    source: str
    kind: str
    evidence: Evidence
    rival: str | None = None
    rival_f1: float | None = None


@dataclass(frozen=True)
class Names:
    """The names of an SAE's features; a feature that earned none has none.

    Attributes:
        names: In order of features.
        width: Features of the SAE.
        site: What it reads.
    """

    names: tuple[Name, ...]
    width: int
    site: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Name]:
        return iter(self.names)

    def __getitem__(self, feature: int) -> Name | None:
        """The name of a feature, or None."""
        if not 0 <= feature < self.width:
            raise IndexError(f"feature {feature} of an SAE with {self.width:,}")
        return next((name for name in self.names if name.feature == feature), None)

    def __repr__(self) -> str:
        return f"Names({len(self):,} of {self.width:,} features of {self.site or 'an SAE'})"

    def to_frame(self) -> pd.DataFrame:
        """A row a name: feature, text, source, kind, rival, rival_f1 and the figures of the evidence."""
        import pandas as pd

        rows = []
        for name in self.names:
            row = asdict(name)
            rows.append({**row, **row.pop("evidence")})
        return pd.DataFrame(rows).drop(columns="evidence", errors="ignore")

    def save(self, path: str | Path) -> None:
        """Write JSON lines: a head, then a name a line."""
        lines = [json.dumps({"width": self.width, "site": self.site})]
        lines += [json.dumps(asdict(name)) for name in self.names]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Names:
        """Read what `save` wrote.

        Raises:
            ValueError: no names there.
        """
        try:
            head, *lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
            names = tuple(Name(**{**line, "evidence": Evidence(**line["evidence"])}) for line in lines)
            return cls(names, head["width"], head["site"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no names that saes wrote ({error})") from error
