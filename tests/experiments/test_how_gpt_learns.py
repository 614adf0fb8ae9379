"""The experiment on few games, from the command's arguments to its tables, its page and the SAEs that ship."""

from __future__ import annotations

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probekit as pk
import saes

HERE = Path(__file__).parents[2] / "experiments" / "how_gpt_learns"


def script(name: str):
    sys.path.insert(0, str(HERE))  # where python puts it when the script is run
    try:
        spec = importlib.util.spec_from_file_location(f"how_gpt_learns_{name}", HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def run():
    return script("run")


def test_squares_fall_into_rings(run):
    assert [run.ring(s) for s in ("A1", "H8", "A4", "D8", "B2", "G4", "C3", "E4", "F6")] == [
        "corner", "corner", "edge", "edge", "inner", "inner", "centre", "centre", "centre",
    ]  # fmt: skip


def test_stability_by_the_move_number_is_what_scikit_learn_says(run):
    from sklearn.metrics import roc_auc_score

    games = pk.testbeds.othello.sample_games(60, seed=3)
    labels = games.label_set("stable_paper")
    position = np.concatenate([np.arange(len(t)) for t in games.tokens])
    found = run.auroc_of_move_number(games, position)
    edge = labels.targets.index("A2")
    known = labels.values[:, edge] >= 0
    expected = roc_auc_score(labels.values[known, edge], position[known])
    assert found["A2"] == pytest.approx(max(expected, 1 - expected), abs=1e-9)


def test_agreement_is_one_for_equal_sets_and_chance_for_random_ones(run):
    rng = np.random.default_rng(0)
    rows = [
        {"source": "trained", "question": q, "layer": 0, "seed": s, "square": str(i), "class": "mine", "told": told}
        for q, draw in (("same", lambda i, s: i < 20), ("random", lambda i, s: rng.random() < 0.3))
        for s in range(6)
        for i in range(400)
        for told in [draw(i, s)]
    ]
    found = run.agreement(pd.DataFrame(rows)).set_index("question")
    assert found.jaccard["same"] == 1
    assert found.jaccard["random"] == pytest.approx(found.chance["random"], abs=0.02)


def test_from_games_to_tables_a_page_and_shipped_saes(run, tmp_path, capsys):
    out = tmp_path / "out"
    args = Namespace(out=out, games=60, score_games=30, seeds=2, floor_seeds=1, width=32, k=8, rows=4096, data_seed=2)
    model = pk.load_model("othello-mini")
    run.run(model, args)
    layers = pd.read_csv(out / "layers.csv", header=[0, 1])
    assert len(layers) == 12  # six layers, trained and random weights
    told = pd.read_csv(out / "told.csv")
    assert set(told.source) == {"trained", "random_weights"}
    probes = pd.read_csv(out / "probes.csv", header=[0, 1])
    assert probes["value"].to_numpy().min() > 0.5
    page = (out / "report.html").read_text()
    assert "Squares told by one feature" in page
    assert "report.html" in capsys.readouterr().out

    changed = (out / "report.html").stat().st_mtime_ns
    run.run(model, args)  # again: SAEs and scores are read, not made
    assert "scoring" not in capsys.readouterr().out
    assert (out / "report.html").stat().st_mtime_ns > changed

    trained = {
        f"blocks.{i}.hook_resid_post": out / "trained" / "saes" / f"blocks.{i}.hook_resid_post" / "seed-0"
        for i in range(6)
    }
    folders = script("ship_saes").ship(trained, tmp_path / "shipped")
    assert [f.name for f in folders] == list(trained)
    read, made = saes.load(folders[3]), saes.load(trained[folders[3].name])
    assert (read.W_dec - made.W_dec).abs().max() < 0.01
