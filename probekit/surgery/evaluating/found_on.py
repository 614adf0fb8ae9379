"""That no item is among the texts that an edit's direction was found on."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from probekit.data import Dataset
from probekit.probes.direction import Direction
from probekit.surgery.evaluating.behaviour import Behaviour

_WORDS = 5
"""Words from which a text that begins another counts as the same; shorter ones begin many."""

_WORD = re.compile(r"\w+")

FoundOn = Dataset | Sequence[Any]


def refuse_overlap(measures: Sequence[Behaviour], found_on: FoundOn) -> str:
    """Says over how many texts it was looked.

    An item is among them where it is one of them (capitals, spacing and punctuation aside), or, with five words or more, begins one
    of them or begins with one, as prompts do that are cut from texts; of token ids, likewise.

    Args:
        found_on: Texts, lists of token ids, or a data set of either.

    Raises:
        TypeError: items or texts that are neither texts nor token ids, or some one and some the other.
        ValueError: items that are; no texts at all.
    """
    given = (found_on.texts or found_on.tokens or ()) if isinstance(found_on, Dataset) else found_on
    if isinstance(given, str):
        raise TypeError("found_on is one string where texts are needed")
    given = list(given)
    if not given:
        raise ValueError("found_on is empty: give the texts that the edit was found on, or leave it out")
    kinds = {_kind(one, "found_on") for one in given}
    for measure in measures:
        if strange := {_kind(item, measure.name) for item in measure.items} - kinds:
            raise TypeError(
                f"{measure.name} has {strange.pop()} and found_on {kinds.pop()}: they cannot be held against each other"
            )
    known = sorted({words for one in given if (words := _words(one))})
    whole = set(known)
    for measure in measures:
        among = [item for item in measure.items if _among(_words(item), known, whole)]
        if among:
            raise ValueError(
                f"{measure.name}: {len(among)} of {len(measure)} items are among the {len(given):,} texts that the edit was found on, or "
                f"begin one of them (the first: {among[0]!r:.80}): a change on these says nothing of others. Leave them out"
            )
    return (
        f"No item is one of the {len(given):,} texts that the edit was found on, and none of {_WORDS} words or more begins one of them or "
        "begins with one."
    )


def _kind(item: Any, where: str) -> str:
    if isinstance(item, str):
        return "texts"
    if isinstance(item, Sequence | np.ndarray) and all(isinstance(i, int | np.integer) for i in item):
        return "token ids"
    raise TypeError(
        f"{where}: {item!r:.60} is neither a text nor a list of token ids, so it cannot be held against texts"
    )


def made_from(direction: Direction | None) -> str:
    """Which data an edit was made from, as far as its direction knows, where nobody said."""
    data = None if direction is None else direction.provenance.get("data")
    name = data.get("name") if isinstance(data, dict) else data
    if name:
        return f"The direction was found on {name}: items must not be among its texts, which is not checked without found_on=."
    return "Which texts the direction or the edit was made from is not known here: items must not be among them (found_on= checks)."


def _words(item: Any) -> tuple[str, ...]:
    """Of a text, its words without what stands between them; of token ids, those."""
    if isinstance(item, str):
        return tuple(_WORD.findall(item.casefold()))
    return tuple(str(int(i)) for i in item)


def _among(item: tuple[str, ...], known: list[tuple[str, ...]], whole: set[tuple[str, ...]]) -> bool:
    if item in whole:
        return True
    if len(item) >= _WORDS:
        next_one = bisect_left(known, item)
        if next_one < len(known) and known[next_one][: len(item)] == item:
            return True
    return any(item[:n] in whole for n in range(_WORDS, len(item)))
