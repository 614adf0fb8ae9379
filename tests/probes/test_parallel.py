"""Sites fitted side by side: the same numbers as one after the other, errors as they are, threads as they were."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from probekit.probes import fit_grid
from probekit.probes.parallel import side_by_side


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_work_is_done_in_order_with_one_thread_each() -> None:
    made = side_by_side(lambda item: (item, torch.get_num_threads()), range(7))
    assert made == [(item, 1) for item in range(7)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_comes_through_and_threads_are_as_before() -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise ValueError("piece 3")
        return item

    with pytest.raises(ValueError, match="piece 3"):
        side_by_side(fail, range(6))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_iterator_is_not_drawn_ahead_of_the_work() -> None:
    alive: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            alive.append(item)
            yield item

    def work(item: int) -> int:
        assert len(alive) <= item + 2 + 2  # two are worked on, one waits to be handed in
        return item

    assert side_by_side(work, items()) == list(range(20))


def test_sites_side_by_side_give_the_bits_of_one_thread() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5, 120, 30)).astype(np.float32)
    y = (X[2, :, 0] + rng.normal(size=120) > 0).astype(int)
    before, stacks = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        stacks.append(fit_grid("logistic", X, y, [0.1, 1.0]))
    torch.set_num_threads(before)
    one, two = stacks
    assert torch.equal(one.coef, two.coef)
    assert one.n_iter is not None
    assert two.n_iter is not None
    assert torch.equal(one.n_iter, two.n_iter)


def test_a_bad_site_is_named_and_unfinished_sites_do_not_hide_it() -> None:
    X = np.zeros((3, 8, 2), np.float32)
    X[2, 4, 1] = np.nan
    with pytest.raises(ValueError, match="X of site 2 has NaN"):
        fit_grid("logistic", (x for x in X), np.arange(8) % 2)
