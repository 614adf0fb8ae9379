"""That no item is among the texts that an edit's direction was found on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from probekit.data import Dataset
from probekit.probes.direction import Direction
from probekit.surgery.evaluating.behaviour import Behaviour

_WORDS = 5
"""Words from which a text that begins another counts as the same; shorter ones begin many."""

FoundOn = Dataset | Sequence[Any]


def refuse_overlap(measures: Sequence[Behaviour], found_on: FoundOn) -> str:
    """Says over how many texts it was looked.

    An item is among them where it is one of them (capitals and spacing aside), begins one of them, or begins with one, as
    prompts do that are cut from texts; of token ids, likewise.

    Args:
        found_on: Texts, lists of token ids, or a data set of either.

    Raises:
        ValueError: items that are.
    """
    given = (found_on.texts or found_on.tokens or ()) if isinstance(found_on, Dataset) else found_on
    if isinstance(given, str):
        raise TypeError("found_on is one string where texts are needed")
    known = sorted({words for one in given if (words := _words(one))})
    whole = set(known)
    for measure in measures:
        among = [item for item in measure.items if _among(_words(item), known, whole)]
        if among:
            raise ValueError(
                f"{measure.name}: {len(among)} of {len(measure)} items are among the {len(given):,} texts that the edit was found on, or "
                f"begin one of them (the first: {among[0]!r:.80}): a change on these says nothing of others. Leave them out"
            )
    return f"No item is, or begins, one of the {len(given):,} texts that the edit was found on."


def made_from(direction: Direction | None) -> str:
    """Which data an edit was made from, as far as its direction knows, where nobody said."""
    data = None if direction is None else direction.provenance.get("data")
    name = data.get("name") if isinstance(data, dict) else data
    if name:
        return f"The direction was found on {name}: items must not be among its texts, which is not checked without found_on=."
    return "Which texts the direction or the edit was made from is not known here: items must not be among them (found_on= checks)."


def _words(item: Any) -> tuple[str, ...]:
    """Of a text, its words; of token ids, those as words; of anything else, none."""
    if isinstance(item, str):
        return tuple(item.casefold().split())
    try:
        return tuple(str(int(i)) for i in item)
    except (TypeError, ValueError):
        return ()


def _among(item: tuple[str, ...], known: list[tuple[str, ...]], whole: set[tuple[str, ...]]) -> bool:
    if item in whole:
        return True
    if len(item) >= _WORDS:
        next_one = bisect_left(known, item)
        if next_one < len(known) and known[next_one][: len(item)] == item:
            return True
    return any(item[:n] in whole for n in range(_WORDS, len(item)))
