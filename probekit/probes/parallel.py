"""Independent pieces of work side by side, where a single one is too small to keep every processor busy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")


def side_by_side(work: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """`work(item)` for every item, in order, on as many threads as PyTorch may use, each computing with one.

    PyTorch's own threads share out single operations; on small matrices they wait for each other longer than they compute, and
    an eigendecomposition hardly uses them. Whole pieces of work do not wait. An iterator is drawn from only as fast as the work is
    done: at most one item more than there are threads is alive.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(item) for item in items]
    made: list[Made] = []
    torch.set_num_threads(1)  # what new threads start with
    try:
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[Made]] = deque()
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    made.append(waiting.popleft().result())
            made += [each.result() for each in waiting]
    finally:
        torch.set_num_threads(threads)
    return made
