"""`Names`: what features are called, with the evidence that earned each name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from probekit.files import with_nulls, write_whole

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T")


@dataclass(frozen=True)
class Evidence:
    """How well a name says when its feature fires, on rows that played no part in choosing it.

    A feature fires where its activation is at least `threshold`; a name *covers* the rows of which what it says is true.
    Intervals are 95 %, bootstrapped over sequences; `_low` is the lower end.

    Attributes:
        precision: Share of the rows where the feature fires that the name covers.
        recall: Share of the rows that the name covers where the feature fires.
        f1: Of both.
        balanced_accuracy: Of telling from the name whether the feature fires: mean of the share of firing rows covered and
            of silent rows not covered. "Never" and "always" score 0.5.
        hard_accuracy: The same with only those silent rows where one of the nearest other features fires; NaN if none.
        shuffled: Mean balanced accuracy, for this feature, of the names of others: what any name scores. Of a name from a
            language model: that of the name of one other feature on the same windows.
        threshold: Of the feature.
        rows: Rows where the feature fires.
        p: One-sided: does the name cover firing rows more often than silent ones? Clustered by sequence.
        q: The share of names with no association at all among those given when all with a q up to this one are: Benjamini and
            Hochberg's rule over all features and candidates, of which those that say too little to be names never count as found.
        fuzzing: Of a name from a language model: balanced accuracy of telling marks on the tokens where the feature fires from
            marks on others. None for other names.

    What a name from a language model covers is known at the windows that the model was asked about, as many firing as silent
    ones, half of the silent ones hard; an answer that cannot be read counts as wrong (of the control: as half right). Precision
    and accuracies are of those windows. Recall and F1 would depend on how many of each were asked about, and are NaN.
    """

    precision: float
    recall: float
    f1: float
    balanced_accuracy: float
    hard_accuracy: float
    precision_low: float
    recall_low: float
    balanced_accuracy_low: float
    hard_accuracy_low: float
    threshold: float
    rows: int
    p: float
    q: float = float("nan")
    shuffled: float = float("nan")
    fuzzing: float | None = None

    @property
    def strictest_accuracy(self) -> float:
        """The lowest of `hard_accuracy`, `balanced_accuracy` and `fuzzing`, of those that there are; NaN if there is none."""
        given = (self.hard_accuracy, self.balanced_accuracy, math.nan if self.fuzzing is None else self.fuzzing)
        return min((figure for figure in given if not math.isnan(figure)), default=math.nan)


@dataclass(frozen=True)
class Check:
    """What happened when the feature was taken out of the running model where it fires (see `saes.intervene`).

    Attributes:
        what: What was read of the model: log odds of the labels by probes or of the next word, or how near the activation at
            a later site is to the word's own, from 0 (the mean word) to 1.
        effect: Change of it, mean over rows; a name that holds has it below zero.
        low, high: 95 % interval, bootstrapped over sequences: of this feature and this readout, and no proof by itself.
        control: The same change when another feature that fires there is taken out instead, by a step as long.
        beyond_high: Upper end of the 95 % interval of `effect - control`, paired by row: below zero where it falls further.
        rows: Rows looked at.
        p: Share of other names (or, where there are few, of other features) of which what they say falls at least as far.
        q: The same after the correction over all names checked together (Benjamini-Hochberg).
    """

    what: str
    effect: float
    low: float
    high: float
    control: float
    beyond_high: float
    rows: int
    p: float
    q: float = float("nan")

    @property
    def holds(self) -> bool:
        """Whether what the name says falls, beyond the control and beyond what other names say, at q <= 0.05."""
        return self.high < 0 and self.beyond_high < 0 and self.q <= 0.05


@dataclass(frozen=True)
class Name:
    """What one feature is called.

    Attributes:
        feature: Its number.
        text: The name.
        source: Where the name comes from: `labels`, `vocabulary` or `language_model`.
        kind: `precise` (precision of at least 0.95) or `fair`.
        evidence: What earned it.
        merit: Balanced accuracy on the half it was made from (of a language model's name, by detection).
        rival: The best other description from the same source that is not a part of this one, if any.
        rival_merit: Its merit.
        check: What taking the feature out of the model did, where that was tried.
    """

    feature: int
    text: str
    source: str
    kind: str
    evidence: Evidence
    merit: float
    rival: str | None = None
    rival_merit: float | None = None
    check: Check | None = None


@dataclass(frozen=True)
class Names:
    """The names of an SAE's features; a feature that earned none has none.

    Attributes:
        names: In order of features.
        width: Features of the SAE.
        site: What it reads.
        notes: What a source could not name, and why.
        seed, halved: How the sequences were halved: by which seed, and whether each by itself (`sequences`), by `groups`, or by
            the `split` that the data came with.
        judged: Fingerprint of the rows that judged them.
    """

    names: tuple[Name, ...]
    width: int
    site: str = ""
    notes: tuple[str, ...] = ()
    seed: int = 0
    halved: str = "sequences"
    judged: str = ""

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
        """A row a name: feature, text, source, kind, merit, rival, rival_merit, the evidence, and `check_...` where one was made."""
        import pandas as pd

        rows = []
        for name in self.names:
            row = asdict(name)
            evidence, check = row.pop("evidence"), row.pop("check") or {}
            rows.append(row | evidence | {f"check_{key}": value for key, value in check.items()})
        if not rows:
            columns = [field.name for field in fields(Name) if field.name not in ("evidence", "check")]
            return pd.DataFrame(columns=[*columns, *(field.name for field in fields(Evidence))])
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> None:
        """Write JSON lines: a head, then a name a line; what is not a number is null. The file is there whole, or not at all."""
        head = {key: getattr(self, key) for key in ("width", "site", "notes", "seed", "halved", "judged")}
        lines = [json.dumps(head)]
        lines += [json.dumps(with_nulls(asdict(name)), allow_nan=False) for name in self.names]
        write_whole(Path(path), "\n".join(lines) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Names:
        """Read what `save` wrote.

        Raises:
            ValueError: no names there.
        """
        try:
            head, *lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
            halving = head.get("seed", 0), head.get("halved", "sequences"), head.get("judged", "")
            return cls(tuple(map(_read, lines)), head["width"], head["site"], tuple(head.get("notes", ())), *halving)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no names that saes wrote ({error})") from error


def _read(line: dict[str, Any]) -> Name:
    check = line.get("check")
    parts = {"evidence": _with_nan(Evidence, line["evidence"]), "check": check and _with_nan(Check, check)}
    return _with_nan(Name, line | parts)


def _with_nan(kind: type[_T], values: dict[str, Any]) -> _T:
    """An instance whose numbers are NaN where the file has null; fields that may be None stay so."""
    numbers = {field.name for field in fields(kind) if field.type == "float"}  # type: ignore[arg-type]
    return kind(**{key: math.nan if value is None and key in numbers else value for key, value in values.items()})
