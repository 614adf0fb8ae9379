"""The experiment on a tiny training run, from its folder to the two tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from probekit.testbeds import karel
from probekit.testbeds.karel import train
from tests.experiments.scripts import scripts_of


@pytest.fixture(scope="module")
def script():
    with scripts_of("program_semantics", "run") as found:
        yield found.run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "is_kept", lambda step: step == 2)
        patch.setattr(train, "_PROBLEMS_A_DRAW", 16)
        recipe = train.Recipe(layers=1, width=16, heads=2, batch=4, precision="float32")
        train.run(recipe, folder, stop_at=3, cooldown=2, log_every=10, evaluate_every=1000)
    return folder


def test_every_model_is_measured_under_every_meaning_and_not_twice(script, trained, tmp_path, monkeypatch) -> None:
    sizes = script.Sizes(generated=6, probed=60, labels=("facing+1",), permuted=("facing",), draws=100)
    written, probed = script.run(trained, tmp_path, sizes)
    assert written.step.tolist() == [2, 5]
    assert (written.rate == 0).all()
    assert set(probed.step) == {2, 5}
    assert set(probed.meaning) == set(script.MEANINGS)
    assert set(probed.label_set[probed.meaning == "true"]) == {"facing", "facing+1"}
    assert set(probed.label_set[probed.meaning == "turns swapped"]) == {"facing"}
    monkeypatch.setattr(karel, "synthesise", None)  # what was measured is read back
    again, _ = script.run(trained, tmp_path, sizes)
    assert again.equals(written)


def test_the_command_says_what_is_missing(script, tmp_path, monkeypatch) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["run.py", "--run", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        script.main()


def test_meanings_are_permutations_that_keep_the_marker_actions(script) -> None:
    words = karel.read_program("move turn_left turn_right put_marker pick_marker")
    for meaning in script.MEANINGS.values():
        changed = karel.permute_actions(words, meaning)
        assert sorted(changed) == sorted(words)
        assert changed[3:].tolist() == words[3:].tolist()
