"""What a board shares out and keeps apart: sites, families of one's own, conditions that cannot be asked, texts that cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.data import LabelSet
from probekit.leaderboard import task_board
from probekit.leaderboard.families import key, named
from probekit.leaderboard.result import Board
from probekit.leaderboard.settings import Pools, draw_pools
from probekit.leaderboard.tasks import Task
from probekit.probes import MLPProbe
from tests.leaderboard.test_board import ASKED, Nearest, Weighted
from tests.leaderboard.worlds import last_word, texts, write_task
from tests.models.tiny import make_model, make_tokenizer


@pytest.fixture(scope="module")
def model():
    return pk.load_model(make_model("llama"), tokenizer=make_tokenizer())


def test_tasks_of_classes_and_of_numbers_choose_the_site_for_their_own_kind():
    """Curves on which any other rule would say another site."""

    def task(metric, curve, **more):
        return {"logistic" if metric == "auroc" else "ridge": {"metric": metric, "curve": {"valid": curve}}, **more}

    lda = {"metric": "auroc", "curve": {"valid": [1.0, 0.0, 0.0]}}
    found = {
        "a": {"lda": lda, **task("auroc", [0.5, 0.6, 0.5], lda=lda)},
        "b": {"lda": lda, **task("auroc", [0.5, 0.5, 0.8])},
        "c": {"lda": lda, **task("auroc", [0.9, 0.91, 0.9])},
        "number": task("r2", [9.0, -9.0, -9.0]),
    }
    sites = ["s0", "s1", "s2"]
    assert task_board._guide(found, sites) == {"a": "s2", "b": "s1", "c": "s2", "number": "s0"}
    two = {**found, "other": task("r2", [0.0, 0.1, 0.3])}
    assert task_board._guide(two, sites) == {"a": "s2", "b": "s1", "c": "s2", "number": "s2", "other": "s0"}


def test_the_logistic_probe_is_always_there_under_its_own_name():
    assert list(named({"difference": "difference_in_means", "mine": "logistic"})) == ["logistic", "difference", "mine"]
    assert list(named({"mine": "ridge", "logistic": "logistic"})) == ["mine", "logistic"]


def test_a_probe_of_ones_own_with_other_code_is_another_probe():
    def made(factor, sizes=(1,), static=0):
        source = f"""class Mine(Nearest):
    sizes = {list(sizes)}
    def fit(self, X, y, k={factor}):
        return super().fit(k * X, y)
    @staticmethod
    def helper(x):
        return x in {{"a", "b", "c"}} or {static}
"""
        space = {"Nearest": Nearest, "__name__": "__main__"}
        exec(source, space)
        return space["Mine"]()

    def scaled(k):
        return lambda x: k * x

    assert key("mine", made(1)) == key("mine", made(1))
    assert len({key("mine", one) for one in (made(1), made(2), made(1, (2,)), made(1, static=1))}) == 4
    others = [lambda x: x, lambda x: 2 * x, lambda x, k=1: k * x, lambda x, k=2: k * x, scaled(1), scaled(2)]
    assert len({key("mine", Weighted(weights)) for weights in others}) == len(others)
    assert key("mine", Weighted(scaled(2))) == key("mine", Weighted(scaled(2)))
    assert "lower" in key("mine", Weighted(str.lower))
    assert key("mlp", MLPProbe()).startswith(
        "mlp: MLPProbe {"
    )  # code of this package is told by the format of the files


def test_the_key_is_the_same_in_every_process():
    code = "from probekit.leaderboard.families import key; from tests.leaderboard.test_board import Nearest; print(key('n', Nearest()))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {key("n", Nearest())}


def test_what_cannot_be_asked_costs_the_rest_of_a_setting_nothing(model, tmp_path):
    """The first eight texts are of one group a class: without either, one class is left."""
    some = texts(np.random.default_rng(0), 400)
    labels = np.array([last_word(text) for text in some])
    group = np.array([f"{label}{i % 9}" for i, label in enumerate(labels)])
    values = LabelSet.from_values("target", labels)
    task = Task("few", tuple(some), values, np.unique(group, return_inverse=True)[1])
    pools = draw_pools(task, 160, 60, 0)
    in_train = group[pools.train]
    one = [next(g for g in np.unique(in_train) if g.startswith(k) and (in_train == g).sum() >= 4) for k in "01"]
    first = np.stack([np.flatnonzero(in_train == g)[:4] for g in one], 1).ravel()
    rest = np.setdiff1d(np.arange(len(pools.train)), first)
    asked = {"families": ["logistic"], "settings": ["scarcity"], "sites": ["blocks.0.hook_resid_pre"], **ASKED}
    ordered = Pools(pools.train[np.concatenate([first, rest])], pools.test)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(task_board, "draw_pools", lambda *given: ordered)
        board = pk.board(task, model, out=tmp_path / "some", **asked)
    assert not board.failures
    assert sorted(board.to_frame().query("setting == 'scarcity'").amount) == [16, 32, 64, 128]


def test_a_task_that_leaves_nothing_to_choose_on_fails_and_is_not_ranked(model, tmp_path):
    some = texts(np.random.default_rng(0), 400)
    labels = np.array([last_word(text) for text in some])
    group = 2 * labels + np.arange(400) % 2  # two groups a class, of which one is in the test
    task = Task("few", tuple(some), LabelSet.from_values("target", labels), group)
    board = pk.board(task, model, out=tmp_path, families=["logistic"], sites=["blocks.0.hook_resid_pre"], **ASKED)
    assert "one class only is left to train on" in board.failures["few"]
    assert not board.rows


def test_a_curve_is_over_the_same_tasks_for_all_families():
    rows = [
        {"task": task, "family": family, "setting": "scarcity", "amount": amount, "at": "shared", "metric": "auroc", "test": test}
        for family, task, test in (("a", "easy", 0.9), ("a", "hard", 0.5), ("b", "easy", 0.9), ("rare", "easy", 0.9))
        for amount in (8.0, 16.0)
    ]  # fmt: skip
    rows += [
        {**row, "task": f"easy {k}"}
        for k in range(3)
        for row in rows
        if row["task"] == "easy" and row["family"] != "rare"
    ]
    found = Board(tuple(rows), {}, ("s",)).by_amount("scarcity")
    assert set(found.family) == {"a", "b"}
    assert set(found.tasks) == {4}
    assert np.allclose(found["mean"], 0.9)


def test_a_text_whose_activations_are_not_finite_is_named(tmp_path):
    model = pk.load_model(make_model("llama"), tokenizer=make_tokenizer())
    with torch.no_grad():
        model.hf.model.embed_tokens.weight[model.tokenize(["city"])[0][0][-1]] = 1e6  # float16 ends at 65,504
    rng = np.random.default_rng(0)
    some = texts(rng, 60)
    write_task(tmp_path / "t.csv", [(text, last_word(text)) for text in some])
    with pytest.raises(
        ValueError, match=r"not finite .*float16 ends at .*The text is '.*city.*In a new folder .*leave its task out"
    ):
        pk.board(tmp_path / "t.csv", model, out=tmp_path / "out", families=["logistic"], **ASKED)
