"""The experiment on small tasks and a tiny model, from the command's arguments to its tables."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probekit as pk
from probekit.activations import shards as activations_shards
from probekit.probes import LogisticProbe, RidgeProbe
from tests.experiments.scripts import scripts_of
from tests.leaderboard.worlds import write_tasks

BASELINE = """
from types import SimpleNamespace
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

def find_best_reg(X, y, X_test, y_test):
    probe = LogisticRegression(C=0.01, max_iter=500).fit(X, y)
    return SimpleNamespace(metrics=SimpleNamespace(test_auc=roc_auc_score(y_test, probe.predict_proba(X_test)[:, 1])))
"""


@pytest.fixture(scope="module")
def scripts():
    with scripts_of("sae_probes_board", "run", "peer", "tables", "ten_penalties") as found:
        yield found


def test_from_arguments_to_tables(scripts, tiny_model_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    package = tmp_path / "peer" / "sae_probes"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "utils_training.py").write_text(BASELINE)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    arguments = [
        "--model",
        str(tiny_model_folder),
        "--tasks",
        str(write_tasks(tmp_path / "tasks")),
        "--out",
        str(tmp_path / "out"),
    ]
    arguments += ["--compute", "float32", "--train", "160", "--test", "60", "--peer-python", sys.executable]
    arguments += ["--settings", "normal", "scarcity", "ood"]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    scripts.run.main()
    said = capsys.readouterr().out
    assert "4 tasks;" in said
    minutes = re.search(r"texts read (\S+), every layer of every task (\S+), one layer and the words (\S+)\n", said)
    assert 0 <= float(minutes[1]) <= float(minutes[2]) <= float(minutes[3])
    tables = json.loads((tmp_path / "out" / "tables.json").read_text())
    families = {row["family"] for row in tables["Does anything beat logistic regression?"]}
    assert families == {
        "difference_in_means",
        "lda",
        "ridge",
        "words",
        "elastic_net",
        "k_sparse",
        "mlp",
        "kernel_ridge",
    }
    (paired,) = tables["The package's own baseline on the same splits: AUROC"]
    assert paired["tasks"] == 2  # of two classes
    each = pd.read_csv(tmp_path / "out" / "peer.csv").set_index("task")
    assert paired["ours"] == pytest.approx(each.ours.mean())
    assert each.loc["last", ["ours", "theirs"]].min() > 0.6
    assert tables["scarcity: mean AUROC"][0]["amount"] == 8
    assert tables["imbalance: mean AUROC"] == []
    assert [row["task"] for row in tables["Texts from elsewhere: AUROC (logistic)"]] == ["last"]
    assert sum(row["tasks"] for row in tables["Where tasks are read best (logistic)"]) == 3
    by_site = tables["Every site (logistic): mean AUROC"]
    assert [row["site"] for row in by_site] == list(pk.Board.load(tmp_path / "out" / "board").sites)
    assert max(row["valid"] for row in by_site) > 0.6
    assert {row["family"] for row in tables["Numbers at one layer: r2"]} >= {"ridge", "words"}
    page = (tmp_path / "out" / "board.html").read_text()
    assert "--settings normal scarcity ood" in page, "the command that makes it again"
    assert pk.Board.load(tmp_path / "out" / "board").manifest["arguments"]["settings"] == ["normal", "scarcity", "ood"]


def test_a_task_read_alike_at_several_layers_is_counted_apart(scripts) -> None:
    row = {
        "kind": "binary",
        "family": "logistic",
        "at": "chosen",
        "setting": "normal",
        "metric": "auroc",
        "valid": 1.0,
        "low": 0.5,
        "high": 1.0,
    }
    curve = {"one": [0.5, 1.0, 1.0], "two": [0.5, 0.6, 0.9], "3_three": [0.8, 0.6, 0.6]}
    best = {"one": ("b", 0.95), "two": ("c", 0.85), "3_three": ("a", 0.75)}
    board = pk.Board(
        tuple(row | {"task": name, "site": site, "test": test} for name, (site, test) in best.items()),
        {name: {"logistic": {"valid": c, "test": c}} for name, c in curve.items()},
        ("a", "b", "c"),
    )
    found = scripts.tables.depths(board).set_index("depth")
    assert found.tasks.to_dict() == {
        "first quarter": 1,
        "second": 0,
        "third": 0,
        "last quarter": 1,
        "several layers alike": 1,
    }
    assert found.loc["several layers alike", "mean AUROC"] == 0.95
    assert scripts.tables.layers(board).valid.round(6).tolist() == [0.6, 0.733333, 0.833333]
    assert [
        scripts.run.dependent(n) for n in ("38_arith_difficulty", "114_x", "156_y", "157_z", "37_arith", "mine")
    ] == [True] * 3 + [False] * 3


def test_pairs_of_tasks_are_compared_as_they_should_be(scripts) -> None:
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.5, 0.9, 60)
    each = pd.DataFrame({"ours": theirs + 0.02 + 0.01 * rng.normal(size=60), "theirs": theirs, "seconds": 1.0})
    row = scripts.tables.paired(each).iloc[0]
    assert row.low < 0.02 < row.high
    assert row.p < 1e-6
    assert row["higher on"] + row["lower on"] == 60
    same = scripts.tables.paired(each.assign(ours=theirs)).iloc[0]
    assert (same.difference, same.p, same["higher on"]) == (0, 1, 0)


def test_ten_penalties_on_the_activations_that_were_read(
    scripts, tiny_model_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    tasks, read = write_tasks(tmp_path / "tasks"), tmp_path / "out"
    asked = [
        "--model",
        str(tiny_model_folder),
        "--tasks",
        str(tasks),
        "--compute",
        "float32",
        "--train",
        "160",
        "--test",
        "60",
    ]
    pk.board(tasks, str(tiny_model_folder), families=["ridge"], settings=["normal"], train=160, test=60, out=read)
    monkeypatch.setattr(LogisticProbe, "default_grid", LogisticProbe.default_grid)  # put back afterwards
    monkeypatch.setattr(activations_shards, "run_batch", None)  # nothing is read again
    chosen = set()
    for half in ("0", "1"):
        monkeypatch.setattr(sys, "argv", ["ten_penalties.py", *asked, "--read", str(read), "--half", half])
        scripts.ten_penalties.main()
        for file in read.glob(f"ten penalties {half}/every site/*.json"):
            chosen |= {family["value"] for family in json.loads(file.read_text())["families"].values()}
    assert len(re.findall(r"\d tasks in \d+\.\d min", capsys.readouterr().out)) == 2
    assert chosen <= set(scripts.ten_penalties.GRID) | set(RidgeProbe.default_grid)
    assert chosen & set(scripts.ten_penalties.GRID)
