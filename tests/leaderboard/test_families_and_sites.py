"""What a board shares out and keeps apart: sites, families of one's own, conditions that cannot be asked, texts that cannot be read."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.leaderboard import reading, task_board
from probekit.leaderboard.families import key, named
from probekit.leaderboard.result import Board
from probekit.leaderboard.settings import conditions, draw_pools
from probekit.leaderboard.tasks import read_task
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
    def made(factor):
        source = f"class Mine(Nearest):\n    def fit(self, X, y):\n        return super().fit({factor} * X, y)\n"
        space = {"Nearest": Nearest, "__name__": "__main__"}
        exec(source, space)
        return space["Mine"]()

    one, same, other = made(1), made(1), made(2)
    assert key("mine", one) == key("mine", same)
    assert key("mine", one) != key("mine", other)
    first, second = (key("mine", Weighted(weights)) for weights in (lambda x: x, lambda x: 2 * x))
    assert first != second
    assert key("mlp", MLPProbe()).startswith(
        "mlp: MLPProbe {"
    )  # code of this package is told by the format of the files


def test_what_cannot_be_asked_costs_the_rest_of_a_setting_nothing(model, tmp_path):
    """The first texts of each class, so many as are few, are of one group: nothing could be held out to choose on."""
    rng = np.random.default_rng(0)
    some = texts(rng, 240)
    rows = [(text, last_word(text), f"{last_word(text)}{i % 3}") for i, text in enumerate(some)]
    with (tmp_path / "few.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "target", "about"), *rows])
    task = read_task(tmp_path / "few.csv", group="about")
    pools = draw_pools(task, 150, 60, 0)
    assert not set(task.groups[pools.train]) & set(task.groups[pools.test])
    known = [c.amount for c in conditions(task, pools, "scarcity", 0)]
    impossible = {known[0]}

    def refuse(self, name, condition):
        if condition.amount in impossible:
            raise ValueError("too few groups")
        return real(self, name, condition)

    real = reading.Reading._question
    asked = {"families": ["logistic"], "settings": ["scarcity"], "sites": ["blocks.0.hook_resid_pre"], **ASKED}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading.Reading, "_question", refuse)
        board = pk.board(task, model, out=tmp_path / "some", **asked)
        assert not board.failures
        assert sorted(board.to_frame().query("setting == 'scarcity'").amount) == known[1:]
        impossible |= set(known)
        board = pk.board(task, model, out=tmp_path / "none", **asked)
        assert "too few groups" in board.failures["few"]


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
    with pytest.raises(ValueError, match=r"not finite .*float16 ends at .*The text is '.*city.*Leave its task out"):
        pk.board(tmp_path / "t.csv", model, out=tmp_path / "out", families=["logistic"], **ASKED)
