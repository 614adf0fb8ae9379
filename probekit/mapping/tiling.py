"""How many maps there is memory for, and how many are fitted at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from probekit.mapping.pairs import Pairs
from probekit.mapping.sums import Column


def require_memory(pairs: Pairs) -> None:
    """Refuse more maps than the machine could hold.

    Raises:
        MemoryError: says how large they are.
    """
    wide_a, wide_b = (
        sum(x.width(s) for s in sites) for x, sites in ((pairs.a, pairs.sites_a), (pairs.b, pairs.sites_b))
    )
    needed, there = 4 * wide_a * wide_b, _memory_of_machine()
    if there is not None and needed > there:
        raise MemoryError(
            f"{len(pairs.sites_a)} x {len(pairs.sites_b)} maps take {needed / 1e9:.0f} GB, and this machine has {there / 1e9:.0f} GB: "
            "name fewer sites with sites_a= and sites_b="
        )


def _memory_of_machine() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system says
        return None


def tiles(
    pairs: Pairs, targets: Sequence[Column], memory: int, copies: int
) -> Iterator[tuple[tuple[str, ...], list[tuple[Column, ...]]]]:
    """Sites of A, and with each some targets after others, so that their cross products fit the memory."""
    wide_a, wide_b = (
        max(x.width(s) for s in sites) for x, sites in ((pairs.a, pairs.sites_a), (pairs.b, pairs.sites_b))
    )
    several = max(1, memory // (8 * copies * wide_a * wide_b))  # pairs of sites at a time
    count_a = min(len(pairs.sites_a), several)
    count_b = max(1, several // count_a)
    for i in range(0, len(pairs.sites_a), count_a):
        each = [tuple(targets[j : j + count_b]) for j in range(0, len(targets), count_b)]
        yield pairs.sites_a[i : i + count_a], each
