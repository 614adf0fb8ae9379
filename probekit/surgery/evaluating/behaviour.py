"""`Behaviour`: something a model does, scored item by item, so that an edited model and the plain one compare in pairs."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from probekit.data.dataset import Dataset
from probekit.models import Model

SELECT = 0.5
"""Share of the groups that choices (of a strength) are made on; the others are reported."""

Prompt: TypeAlias = str | Sequence[int]
"""A text, or token ids."""


class Behaviour(ABC):
    """What `evaluate` measures: one score an item (a prompt, a text), NaN where there is none.

    The behaviour that an edit is to change is one, and so is each side effect: a behaviour that should not change.

    Attributes:
        name: In a few words, for tables: `"sentiment of the continuation"`.
        unit: Of a score: `"share of words"`.
        less_is_wanted: Whether a lower score is what is wanted. Of a side effect: whether a higher one is damage.
        compare: How two models are compared: `"difference"` of mean scores; or `"ratio"` of their exponentials, for scores that
            are mean negative log-likelihoods (the ratio of perplexities).
        unit_range: Whether scores lie in 0..1.
        groups: `[item]` integers. Items of one group stand in one part, and intervals resample groups. Items that are the same
            share a group.
        in_select: `[item]` bool: the part that choices are made on; the other part is what is reported. All False where there
            is one group only.
        source: Another behaviour whose last measure this one reads (the generated texts), or None.
    """

    compare: Literal["difference", "ratio"] = "difference"
    unit_range: bool = False
    source: Behaviour | None = None

    def __init__(
        self,
        name: str,
        unit: str,
        items: Sequence[object],
        *,
        less_is_wanted: bool = False,
        groups: object = None,
        seed: int = 0,
        select: float = SELECT,
    ) -> None:
        if isinstance(items, str):
            raise TypeError(f"{name}: one string where a list of texts is needed")
        if not len(items):
            raise ValueError(f"{name}: there is nothing to measure")
        if not 0 < select < 1:
            raise ValueError(
                f"select is the share of the groups that choices are made on, between 0 and 1, not {select}"
            )
        self.name, self.unit, self.less_is_wanted = name, unit, less_is_wanted
        self.items: list[Any] = list(items)
        texts = tuple(item if isinstance(item, str) else repr(_listed(item)) for item in self.items)
        self.groups = cast(np.ndarray, Dataset(name, texts=texts, groups=cast(Any, groups)).groups)
        self.in_select = _selected(self.groups, seed, select)
        self._weights: np.ndarray | None = None
        self._key: list[object] = [list(texts), self.in_select.tolist(), self.groups.tolist()]

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}, {len(self)} items>"

    @property
    def parts(self) -> np.ndarray:
        """`[item]` of `"select"` and `"report"`."""
        return np.where(self.in_select, "select", "report")

    @property
    def weights(self) -> np.ndarray:
        """`[item]` float64: what each item counts in a mean (its number of tokens); known once it was measured."""
        return np.ones(len(self)) if self._weights is None else self._weights

    @abstractmethod
    def measure(self, model: Model) -> np.ndarray:
        """`[item]` float64 scores of the model as it is now; NaN where an item could not be scored."""

    def prepare(self, model: Model) -> None:  # noqa: B027  # most have nothing to prepare
        """Read what is needed of the plain model; called before it is edited."""

    def forget(self) -> None:  # noqa: B027
        """Let go of what `prepare` read, which may be large."""

    def finish(self, model: Model, scores: np.ndarray) -> np.ndarray:
        """What became of the scores once the edit is off again, for what is judged by the plain model."""
        return scores

    def with_prefix(self, prefix: str) -> Behaviour | None:
        """The same behaviour with a text put before every prompt (prompting, as a baseline); None where there is no prompt."""
        return None

    def only(self, part: Literal["select", "report"]) -> Any:
        """The same behaviour on the items of one part: for choosing without running the model on what is reported.

        Raises:
            ValueError: no item is of this part.
        """
        rows = np.flatnonzero(self.parts == part)
        if not len(rows):
            raise ValueError(f"{self.name}: no item is of the {part} part, since all are of one group")
        return self._of_items(rows)

    def _of_items(self, rows: np.ndarray) -> Any:
        """A copy with some of the items; subclasses see to what else they have by item."""
        other = self._copy()
        other.items = [self.items[i] for i in rows]
        other.groups = np.unique(self.groups[rows], return_inverse=True)[1]
        other.in_select = self.in_select[rows]
        other._weights = None
        other._key = [*self._key, rows.tolist()]
        return other

    def describe(self) -> dict[str, object]:
        """JSON values that say what is measured; `digest` changes with the items and all settings."""
        digest = hashlib.sha256()
        for part in self._key:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
            digest.update(b"\0")
        return {
            "kind": type(self).__name__,
            "name": self.name,
            "unit": self.unit,
            "items": len(self),
            "digest": digest.hexdigest()[:16],
        }

    def _copy(self, **changes: object) -> Any:
        """A copy with some attributes changed."""
        other = copy.copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        other._key = [*self._key, sorted((k, repr(v)) for k, v in changes.items() if not isinstance(v, Behaviour))]
        return other


def as_scores(given: object, count: int, name: str) -> np.ndarray:
    """What a scorer gave as `[item]` float64: None is NaN.

    Raises:
        TypeError: something else than numbers and None.
        ValueError: another number of scores, or infinite ones.
    """
    values = list(cast(Any, given))
    for value in values:
        if value is not None and (isinstance(value, str) or np.ndim(value) != 0):
            raise TypeError(f"{name}: the scorer gave {value!r}; give a number a text, or None where it has none")
    scores = np.array([np.nan if value is None else float(value) for value in values], np.float64)
    if len(scores) != count:
        raise ValueError(
            f"{name}: the scorer gave {len(scores)} scores for {count} items; give None where there is none"
        )
    if np.isinf(scores).any():
        raise ValueError(f"{name}: the scorer gave an infinite score for item {int(np.argmax(np.isinf(scores)))}")
    return scores


def _selected(groups: np.ndarray, seed: int, share: float) -> np.ndarray:
    """`[item]` bool: whole groups, in shuffled order, until the share of them is reached; at least one, never all."""
    count = int(groups.max()) + 1
    if count < 2:
        return np.zeros(len(groups), bool)
    order = np.random.default_rng([seed, 0x5E1]).permutation(count)
    chosen = order[: min(max(round(share * count), 1), count - 1)]
    return np.isin(groups, chosen)


def all_text(items: Sequence[object]) -> bool:
    """Whether all items are texts, so that text can be put before them."""
    return all(isinstance(item, str) for item in items)


def _listed(item: object) -> object:
    return item.tolist() if isinstance(item, np.ndarray) else item
