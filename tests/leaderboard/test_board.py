"""The board from files to ranks: planted truth is found, nothing is chosen on test, and it goes on where it stopped."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import probekit as pk
from probekit.leaderboard import files, reading
from probekit.leaderboard.families import key
from probekit.leaderboard.fitting import held_out, question_of, read_site, read_sites, read_words
from probekit.probes.estimator import Estimator
from probekit.probes.surface import C_GRID, TextBaseline
from tests.leaderboard.worlds import write_task, write_tasks
from tests.models.tiny import make_model, make_tokenizer

ASKED = {"train": 160, "test": 60, "n_boot": 100, "progress": False}
SETTINGS = ("scarcity", "imbalance", "noise", "ood")


class Nearest(Estimator):
    """The class of the nearest class mean: an estimator of one's own."""

    family = "nearest"

    def fit(self, X, y):
        X, y = np.asarray(X, np.float64), np.asarray(y)
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == c].mean(0) for c in self.classes_])
        return self

    def predict_log_proba(self, X):
        away = np.square(np.asarray(X, np.float64)[:, None] - self.means_).sum(-1)
        return -away - np.log(np.exp(-away).sum(1, keepdims=True) + 1e-300)


class Weighted(Nearest):
    def __init__(self, weights):
        self.weights = weights


@pytest.fixture(scope="module")
def model():
    return pk.load_model(make_model("llama"), tokenizer=make_tokenizer())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_tasks(tmp_path_factory.mktemp("tasks"))
    write_task(folder / "small.csv", [("the cat", 0), ("the dog", 1), ("a cat", 1)])
    return folder


@pytest.fixture(scope="module")
def found(model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("board")
    families = {"ridge": "ridge", "logistic": "logistic", "words": "words", "nearest": Nearest()}
    return pk.board(folder, model, settings=SETTINGS, families=families, out=out, **ASKED), out


def test_planted_tasks_are_read_and_noise_is_not(found):
    board, _ = found
    best = board.best_sites().set_index("task")
    assert best.test["last"] > 0.8
    assert best.test["three"] > 0.75
    assert abs(best.test["noise"] - 0.5) < 0.22  # two and a half standard errors of 50 texts; over many draws see below
    ridge = board.best_sites("ridge").set_index("task")
    assert ridge.test["number"] > 0.8
    assert ridge.metric["number"] == "r2"


def test_a_task_that_fails_is_said_and_the_others_go_on(found):
    board, _ = found
    assert list(board.failures) == ["small"]
    assert "a task needs 16" in board.failures["small"]
    assert set(board.curves) == {"last", "noise", "number", "three"}
    assert "failed: small" in board.summary()


def test_each_setting_has_its_conditions_and_families(found):
    frame = found[0].to_frame()
    shared = frame[frame["at"] == "shared"]
    assert set(shared.family) == {"ridge", "logistic", "words", "nearest"}
    last = shared[shared.task.eq("last") & shared.family.eq("nearest")]
    assert last.groupby("setting").size().to_dict() == {
        "normal": 1,
        "scarcity": 5,
        "imbalance": 3,
        "noise": 5,
        "ood": 1,
    }
    assert shared[shared.family == "words"].site.isna().all()
    assert set(shared[shared.task.eq("number")].family) == {"ridge", "words"}
    chosen = frame[frame["at"] == "chosen"]
    assert set(chosen.family) == {"ridge", "logistic"}
    assert (frame.low <= frame.test + 1e-12).all()
    assert (frame.test <= frame.high + 1e-12).all()


def test_other_families_go_by_their_names_and_one_with_other_parameters_is_fitted_again(model, folder, tmp_path):
    asked = {
        "sites": ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"],
        "tasks": ["last", "number"],
        "out": tmp_path,
        **ASKED,
    }
    board = pk.board(folder, model, families=["k_sparse", "elastic_net", "kernel_ridge", "mlp"], **asked)
    frame = board.to_frame().query("at == 'shared'").set_index(["task", "family"])
    assert set(frame.loc["last"].index) == {"logistic", "k_sparse", "elastic_net", "kernel_ridge", "mlp"}
    assert set(frame.loc["number"].index) == {"kernel_ridge", "mlp"}  # numbers have no classes to tell apart
    assert frame.loc["last"].test.min() > 0.7
    again = pk.board(folder, model, families={"k_sparse": pk.probes.KSparseProbe(k=1)}, **asked).to_frame()
    narrow = again.query("at == 'shared' and family == 'k_sparse'").test.item()
    assert narrow < frame.loc[("last", "k_sparse")].test


def test_figures_are_never_of_another_family(model, folder, tmp_path):
    asked = {"sites": ["blocks.0.hook_resid_pre"], "tasks": ["last"], "out": tmp_path, **ASKED}
    found = {}
    for family in ("difference_in_means", "ridge"):
        frame = pk.board(folder, model, families={"mine": family}, **asked).to_frame()
        found[family] = frame.query("family == 'mine' and at == 'chosen'").test.item()
    assert found["ridge"] > found["difference_in_means"]
    with pytest.raises(ValueError, match="the name of another family"):
        pk.board(folder, model, families={"logistic": "ridge"}, **asked)
    one, other = (key("mine", Weighted(np.arange(3000) * scale)) for scale in (1, 2))
    assert one != other
    assert one == key("mine", Weighted(np.arange(3000)))


def test_the_shared_site_is_where_the_others_are_read_best(found):
    board, _ = found
    frame = board.to_frame()
    curves = {
        name: np.array(families.get("logistic", families.get("ridge"))["valid"], float)
        for name, families in board.curves.items()
    }
    for name in curves:
        others = np.mean([c - c.mean() for other, c in curves.items() if other != name], axis=0)
        said = frame[frame.task.eq(name) & frame["at"].eq("shared") & frame.family.eq("ridge")].site.unique()
        assert said.tolist() == [board.sites[int(others.argmax())]]


def test_the_same_call_does_nothing_twice_and_a_larger_one_only_what_is_missing(found, model, folder, monkeypatch):
    board, out = found
    families = {"ridge": "ridge", "logistic": "logistic", "words": "words", "nearest": Nearest()}

    def never(*args, **kwargs):
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        for name in ("read_sites", "read_site", "read_words"):
            patched.setattr(reading, name, never)
        again = pk.board(folder, model, settings=SETTINGS, families=families, out=out, **ASKED)
    assert again.to_frame().equals(board.to_frame())
    assert pk.Board.load(out).to_frame().equals(board.to_frame())
    counted = []
    with monkeypatch.context() as patched:
        real = reading.read_sites
        patched.setattr(
            reading, "read_sites", lambda families, *args: counted.append(families) or real(families, *args)
        )
        larger = pk.board(folder, model, families={**families, "lda": "lda"}, out=out, **ASKED)
    assert counted == [["lda"]] * 3
    assert "lda" in larger.leaderboard().family.tolist()


def test_a_task_that_was_mended_or_added_is_read_without_the_others(model, tmp_path, monkeypatch):
    tasks = write_tasks(tmp_path / "tasks")
    good = (tasks / "last.csv").read_text()
    (tasks / "last.csv").write_text(good.replace("prompt,target", "prompt,answer"))
    asked = {"families": ["ridge"], "settings": ["ood"], "out": tmp_path / "out", **ASKED}
    first = pk.board(tasks, model, tasks=["last", "three"], **asked)
    assert "target" in first.failures["last"]
    assert set(first.curves) == {"three"}
    (tasks / "last.csv").write_text(good)
    second = pk.board(tasks, model, tasks=["last", "three"], **asked)
    whole = pk.board(tasks, model, **asked)
    assert not second.failures
    assert set(whole.curves) == {"last", "noise", "number", "three"}
    alone = pk.board(tasks, model, **{**asked, "out": tmp_path / "alone"})
    sizes = [len(json.loads((tmp_path / "out" / f"store-{k}.json").read_text())) for k in (1, 2, 3)]
    assert sum(sizes) == len(json.loads((tmp_path / "alone" / "store-1.json").read_text()))
    for name, families in alone.curves.items():
        np.testing.assert_allclose(
            np.array(whole.curves[name]["ridge"]["valid"], float),
            np.array(families["ridge"]["valid"], float),
            atol=2e-3,
        )
    (tmp_path / "out" / "store-2.json").write_text("[1")
    with pytest.raises(
        ValueError, match=r"store-2.json is no list of texts, or a damaged one: delete it and the folder"
    ):
        pk.board(tasks, model, **asked)


def test_a_family_that_fails_costs_no_other_and_is_tried_again(model, folder, tmp_path, monkeypatch):
    class Fails(Nearest):
        def fit(self, X, y):
            if broken and len(X) < 60:
                raise RuntimeError("too few")
            return super().fit(X, y)

    broken = True
    asked = {"tasks": ["last"], "settings": ["scarcity"], "out": tmp_path, **ASKED}
    families = {"ridge": "ridge", "fails": Fails()}
    first = pk.board(folder, model, families=families, **asked)
    assert first.failures == {"last": "scarcity: fails: RuntimeError: too few"}
    frame = first.to_frame().query("at == 'shared'")
    assert set(frame.query("setting == 'scarcity'").family) == {"ridge", "logistic"}
    assert set(frame.query("setting == 'normal'").family) == {"ridge", "logistic", "fails"}
    broken, fitted, real = False, [], reading.read_site
    with monkeypatch.context() as patched:
        patched.setattr(reading, "read_site", lambda family, *a: fitted.append(family) or real(family, *a))
        second = pk.board(folder, model, families=families, **asked)
    assert not second.failures
    assert {type(family) for family in fitted} == {Fails}


def test_an_estimator_of_scikit_learn_is_a_family(model, folder, tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    board = pk.board(folder, model, tasks=["last", "three"], families={"theirs": theirs}, out=tmp_path, **ASKED)
    frame = board.to_frame().query("at == 'shared' and family == 'theirs'").set_index("task")
    assert not board.failures
    assert frame.loc["last"].test > 0.7
    with pytest.raises(TypeError, match="has no get_params: derive it"):
        pk.board(folder, model, families={"mine": SimpleNamespace(fit=None)}, out=tmp_path, **ASKED)


def test_texts_that_were_cut_and_settings_without_a_task_are_said(folder, tmp_path):
    hf = make_model("llama")
    hf.config.max_position_embeddings = 5
    short = pk.load_model(hf, tokenizer=make_tokenizer())
    with pytest.warns(UserWarning, match="longer than the 5 tokens"):
        board = pk.board(
            folder, short, tasks=["three"], families=["ridge"], settings=["imbalance", "ood"], out=tmp_path, **ASKED
        )
    cut, *others = board.notes
    assert re.fullmatch(r"three: \d+ texts fill the 5 tokens that the model can read; .*", cut)
    assert [note.split(":")[0] for note in others] == [
        f"the setting {name!r} applies to none of the tasks" for name in ("imbalance", "ood")
    ]


@pytest.mark.parametrize("n", [12, 300])
def test_the_words_are_trained_on_all_that_a_probe_is_trained_on(n):
    rng = np.random.default_rng(n)
    some = [" ".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(n + 100)]
    y = np.array(["a" in text for text in some], int)
    question = question_of("binary", ("0", "1"), y[:n], np.arange(n), y[n:], np.arange(100), n_boot=50, seed=0)
    found = read_words(some[:n], some[n:], question)
    said = TextBaseline(some[:n]).fitted(y[:n], found.value, 2)(some[n:])
    assert found.value in C_GRID
    assert found.estimate.value[0] == pytest.approx(roc_auc_score(y[n:], said[:, 1] - said[:, 0]))


def test_amounts_are_compared_on_the_same_tasks():
    def row(task, amount, test):
        given = {"setting": "scarcity", "metric": "auroc", "at": "shared", "family": "ridge"}
        return given | {"task": task, "amount": amount, "test": test}

    easy = [row("easy", 8, 0.9), row("easy", 16, 0.95)]
    hard = [row("hard", 8, 0.5), row("hard", 16, 0.55), row("hard", 32, 0.6), row("hard", 64, 0.65)]
    other = [row("other", 8, 0.6), row("other", 16, 0.65), row("other", 32, 0.7)]
    found = pk.Board((*easy, *hard, *other), {}, ()).by_amount("scarcity").set_index("amount")
    assert found["mean"].to_dict() == pytest.approx({8: 0.55, 16: 0.6, 32: 0.65})
    assert (found.tasks == 2).all()


def test_a_killed_board_goes_on_and_ends_the_same(model, folder, tmp_path, monkeypatch):
    asked = {"families": ["ridge", "logistic"], "settings": ["scarcity"], **ASKED}
    whole = pk.board(folder, model, out=tmp_path / "whole", **asked)
    real, left = reading.read_site, [7]

    def killed(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(reading, "read_site", killed)
        with pytest.raises(KeyboardInterrupt):
            pk.board(folder, model, out=tmp_path / "killed", **asked)
    assert pk.board(folder, model, out=tmp_path / "killed", **asked).to_frame().equals(whole.to_frame())


def test_files_of_another_question_or_cut_ones_are_not_taken_for_this_one(tmp_path):
    path = files.path_of(tmp_path, "a/b", "normal")
    files.write(path, "digest", "a/b", "normal", {"ridge": [{"test": float("nan")}]})
    assert files.read(path, "digest") == {"ridge": [{"test": None}]}
    assert files.read(path, "another") == {}
    path.write_text(path.read_text()[:-5])
    assert files.read(path, "digest") == {}
    assert files.path_of(tmp_path, "a-b", "normal") != path


def test_long_tasks_are_left_out_and_said(model, folder, tmp_path):
    write_task(tmp_path / "long" / "long.csv", [(" ".join(["the cat runs"] * 9 + [str(i)]), i % 2) for i in range(40)])
    board = pk.board(
        [folder / "noise.csv", tmp_path / "long"], model, longest=15, out=tmp_path / "out", families=["ridge"], **ASKED
    )
    assert list(board.curves) == ["noise"]
    assert any(note.startswith("long is left out: its texts have") for note in board.notes)


def test_the_page_and_the_command(found, model, folder, tmp_path):
    from typer.testing import CliRunner

    from probekit.cli.app import app

    board, _ = found
    page = board.save_page(tmp_path / "page.html", command="probekit board <b>").read_text()
    assert "critical difference" in page
    assert "probekit board <b>" not in page
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    said = CliRunner().invoke(
        app,
        ["board", str(folder), "-m", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--train", "100", "--test", "40", "--n-boot", "100"],
    )  # fmt: skip
    assert said.exit_code == 1  # one task fails
    assert "small" in said.output
    assert (tmp_path / "out" / "board.html").exists()
    assert json.loads((tmp_path / "out" / "board.json").read_text())["failures"]
    lines = (tmp_path / "out" / "board.csv").read_text().splitlines()
    assert lines[0].startswith("task,kind,family,at,setting")


# One condition


def planted(n=400, d=12, sites=3, seed=0, classes=2):
    """Activations `[site, n, d]` of which the middle site tells the class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    X = rng.normal(size=(sites, n, d)).astype(np.float32)
    X[1, np.arange(n), y] += 2
    return torch.from_numpy(X), y


def asked_of(y, test, kind="binary", classes=("a", "b")):
    return question_of(kind, classes, y, np.arange(len(y)), test, np.arange(len(test)), n_boot=200, seed=0)


@pytest.mark.parametrize("family", ["difference_in_means", "lda", "ridge", "logistic"])
@pytest.mark.parametrize("n", [24, 300])
def test_a_site_is_found_and_read_as_scikit_learn_would(family, n):
    from sklearn.metrics import roc_auc_score

    X, y = planted(n + 100)
    question = asked_of(y[:n], y[n:])
    (curve,) = read_sites([family], X[:, :n], X[:, n:], question)
    if n > 100:
        assert curve.valid.argmax() == 1
        assert curve.test[1] > 0.85
    scored = read_site(family, X[1, :n], X[1, n:], question)
    again = pk.probes.fit_grid(
        family, X[1, :n], y[:n, None], None if scored.value == 0 else [scored.value], n_classes=2
    ).select(0)
    said = again.log_proba(X[1, n:])[:, 0, 1].numpy()
    assert float(scored.estimate.value[0]) == pytest.approx(roc_auc_score(y[n:], said), abs=1e-6)


def test_an_estimator_is_chosen_by_the_same_rule_and_keeps_the_order_of_classes():
    X, y = planted(300, classes=3)
    question = asked_of(y[:200], y[200:], "multiclass", ("a", "b", "c"))
    mine = read_site(Nearest(), X[1, :200], X[1, 200:], question)
    theirs = read_site("difference_in_means", X[1, :200], X[1, 200:], question)
    assert abs(float(mine.estimate.value[0]) - float(theirs.estimate.value[0])) < 0.05
    # Labels turned about change nothing of the ranking by classes.
    assert float(mine.estimate.value[0]) > 0.85


def test_a_linear_family_that_fails_at_every_site_costs_no_other(model, folder, tmp_path, monkeypatch):
    def fails(self, summary, grid):
        raise RuntimeError("singular")

    monkeypatch.setattr("probekit.probes.lda.LDAProbe._solve_summary", fails)
    asked = {"tasks": ["last"], "settings": ["normal"], "out": tmp_path, **ASKED}
    board = pk.board(folder, model, families=["ridge", "lda", "logistic"], **asked)
    assert "lda: RuntimeError: singular" in board.failures["last"]
    assert set(board.to_frame().query("setting == 'normal'").family) == {"ridge", "logistic"}
    assert set(board.curves["last"]) == {"ridge", "logistic"}


def test_noise_is_at_chance_over_many_draws():
    values = []
    for seed in range(20):
        X, _ = planted(220, seed=seed)
        y = np.random.default_rng([seed, 1]).integers(0, 2, 220)
        question = asked_of(y[:120], y[120:])
        (curve,) = read_sites(["logistic"], X[:, :120], X[:, 120:], question)
        best = int(curve.valid.argmax())
        values.append(float(read_site("logistic", X[best, :120], X[best, 120:], question).estimate.value[0]))
    assert abs(np.mean(values) - 0.5) < 0.04  # the best of three sites by validation is no better than chance on test


def test_rows_of_a_group_are_held_out_together():
    rng = np.random.default_rng(0)
    for n in (30, 400):
        y, groups = rng.integers(0, 2, n), np.arange(n) // 3
        held = held_out(y, groups, "binary", 0)
        assert held.shape == (n, 4 if n < 128 else 1)
        assert held.sum(1).max() <= 1
        for fold in held.T:
            assert not set(groups[fold]) & set(groups[~fold])


def test_what_cannot_be_asked_is_refused(model, folder, tmp_path):
    for asked, message in (
        ({"settings": ["rare"]}, "no setting 'rare'"),
        ({"families": ["forest"]}, "no family 'forest'"),
        ({"families": []}, "families is empty"),
        ({"tasks": ["lost"]}, "no task 'lost'"),
        ({"tasks": ["small"]}, "no task can be read: small"),
        ({"longest": 1.0}, "no task can be read"),
    ):
        with pytest.raises(ValueError, match=message):
            pk.board(folder, model, out=tmp_path, **ASKED | asked)
    with pytest.raises(TypeError, match="has no fit"):
        pk.board(folder, model, out=tmp_path, families={"mine": 3}, **ASKED)
    with pytest.raises(FileNotFoundError, match=r"board\.json is missing"):
        pk.Board.load(tmp_path / "nothing")
    (tmp_path / "board.json").write_text("{}")
    with pytest.raises(ValueError, match="is no board"):
        pk.Board.load(tmp_path)
