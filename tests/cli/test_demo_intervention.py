"""The disc that the demo turns: the whole way from a sweep to its blocks, on few positions."""

from __future__ import annotations

import numpy as np
import pytest

import probekit as pk
from probekit.cli import demo_intervention
from probekit.testbeds import othello


def test_the_demo_turns_discs_and_draws_the_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_intervention, "CASES", 4)
    model = pk.load_model("othello-mini")
    result = pk.sweep(
        model, othello.sample_games(80, seed=0), labels=["tile"], controls=False, n_boot=100, progress=False
    )
    found = demo_intervention.turn_discs(model, result, seed=0)
    for errors in (found.plain, found.edited, found.random):
        assert errors.shape == (4,)
        assert np.isfinite(errors).all()
    assert found.moves.shape[:2] == (2, 4)
    assert not np.array_equal(found.moves[0], found.moves[1])
    assert len(found.blocks()) == 3
