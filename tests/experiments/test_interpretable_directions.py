"""The experiment on few games and on a tiny language model, from the command's arguments to its tables and its page."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import probekit as pk
from probekit.probes import Direction
from probekit.surgery import steer
from probekit.testbeds import othello
from tests.experiments.scripts import scripts_of
from tests.models.tiny import WORDS

MODULES = ("worlds", "directions", "measures", "summary", "page", "run")
SMALL = [
    "--find", "40", "--measure", "16", "--components", "2", "--jacobian", "1", "--sequences", "1", "--iterations", "1",
    "--inputs", "2", "--random", "2", "--draws", "40",
]  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    with scripts_of("interpretable_directions", *MODULES) as found:
        yield found


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """The experiment's sources, in the words that the tiny model knows; the label can be told from the last words."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)

    def sentence(yes: int) -> str:
        return " ".join([*rng.choice(WORDS[:20], 5), *rng.choice(WORDS[20:30] if yes else WORDS[30:], 4)])

    turns = [i % 2 for i in range(120)]
    reviews = [f"{i}\t{2 if yes else -2}\t{sentence(yes)}" for i, yes in enumerate(turns)]
    (folder / "movie_review_snippets.tsv").write_text("\n".join(reviews))
    (folder / "hate_offensive_tweets.csv").write_text(
        "\n".join(["class,tweet", *(f"{0 if yes else 2},{sentence(yes)}" for yes in turns)])
    )
    for name in ("cities", "sp_en_trans", "larger_than"):
        rows = [f"{sentence(yes)},{yes}" for yes in turns]
        (folder / f"truth_{name}.csv").write_text("\n".join(["statement,label", *rows]))
    return folder


def test_the_last_token_alone_gives_what_the_whole_sequence_gives(scripts):
    model = pk.load_model("othello-mini")
    games = othello.sample_games(30, seed=5)
    site, later = "blocks.2.hook_resid_post", "blocks.4.hook_resid_post"
    vector = torch.arange(256.0) - 100
    direction = Direction(vector / vector.norm(), site, scale=40.0, model=model.fingerprint)
    tokens = [ids[: 9 + 4 * (i % 3)] for i, ids in enumerate(games.tokens)]  # padded: the lengths differ
    last = scripts.measures.LastToken(model, tokens, later)
    edit = steer(direction, model, 3.0)
    for one in (None, edit, None):  # nothing of an edit stays behind
        activations, logp = last.run(one)
        for row in (0, 1, 17):
            ids = torch.from_numpy(tokens[row].astype(np.int64))[None]
            whole = steer(direction, model, 3.0, where=[-1])
            if one is None:
                expected, read = model.hf(input_ids=ids).logits, model.run(ids, None, [later])
            else:
                with whole.applied(model):
                    expected, read = model.hf(input_ids=ids).logits, model.run(ids, None, [later])
            wanted = expected[0, -1].log_softmax(-1).detach().numpy()
            np.testing.assert_allclose(logp[row], wanted, atol=2e-3)
            np.testing.assert_allclose(activations[row], read[later][0, -1].detach().numpy(), rtol=1e-3, atol=1e-2)


def test_draws_resample_groups_and_leave_undefined_rows_out(scripts):
    group = np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(0)
    values = np.stack(
        [rng.normal(size=40)[group], rng.normal(size=200)], 1
    )  # the first is the same all through a group
    defined = np.stack([np.ones(200, bool), group < 20], 1)
    draws = scripts.measures.Draws(group, np.ones(200, bool), 2000, seed=0)
    found = draws.mean(values, defined)
    np.testing.assert_allclose(found[0], [values[:, 0].mean(), values[group < 20, 1].mean()])
    value, low, high = scripts.measures.interval(found[:, 0])
    assert low < value < high
    assert (high - low) / 4 == pytest.approx(
        values[::5, 0].std() / np.sqrt(40), rel=0.1
    )  # of 40 groups, not of 200 rows


def test_labels_of_a_board_are_the_rules(scripts):
    games = scripts.worlds.board_labels(othello.sample_games(20, seed=1))
    labels = games.label_set("labels")
    assert labels.targets[0] == "D4 mine"
    assert labels.targets[-1] == "late in the game"
    tile, legal = games.label_set("tile"), games.label_set("legal")
    at = othello.SQUARE_NAMES.index("B3")
    empty = tile.values[:, at] == tile.classes.index("empty")
    column = labels.values[:, labels.targets.index("B3 legal")]
    np.testing.assert_array_equal(column[empty], legal.values[empty, at])
    assert (column[~empty] == -1).all()
    assert (labels.values[:, 0] == 1).sum() == (tile.values[:, 27] == tile.classes.index("mine")).sum()


def test_figures_have_significant_digits_and_no_exponent(scripts):
    assert [scripts.summary.figure(v, 3) for v in (0.0012345, 12.345, 1234.5, 0.0, float("nan"))] == [
        "0.00123", "12.3", "1234", "0", "–",
    ]  # fmt: skip


def test_from_games_to_tables_and_a_page(scripts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scripts.worlds, "SQUARES", {"mine": ("D4", "C3"), "legal": ("B3",), "stable": ("D1",)})
    monkeypatch.setattr(sys, "argv", ["run.py", "othello", "--out", str(tmp_path), *SMALL])
    scripts.run.main()
    assert "report.html" in capsys.readouterr().out
    moved = pd.read_csv(tmp_path / "movement.csv").set_index("kind")
    low, value, high = (moved["KL, same length" + end] for end in (" low", "", " high"))
    assert ((low > 0) & (low <= value) & (value <= high)).all()
    assert (moved["KL, 1 sd"] < moved["KL, 4 sd"]).all()
    table = pd.read_csv(tmp_path / "selectivity.csv").set_index("kind")
    assert table.selectivity["probe"] > table.selectivity["random"]
    assert table["the right way"]["probe"] == "5 of 5"
    variants = pd.read_csv(tmp_path / "disentangling.csv").set_index("kind")
    assert variants["out ratio"]["probe, without another's probe"] < 1
    assert pd.read_csv(tmp_path / "alignment.csv").cosine.between(0, 1).all()
    page = (tmp_path / "report.html").read_text()
    assert "What moves" in page
    assert "late in the game" in page


def test_disentangled_directions_are_orthogonal_to_what_was_taken_out(scripts):
    store = pk.ArrayActivations({"s": np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)})
    kinds, rng = scripts.directions, np.random.default_rng(1)
    labels = ("a", "b", "c", "d")
    world = SimpleNamespace(find=(store, None), labels=labels, site="s")
    found = [
        kinds.Found(Direction(torch.from_numpy(rng.normal(size=12)), "s"), kind, name, i)
        for i, name in enumerate(labels)
        for kind in (kinds.MEANS, kinds.PROBE)
    ]
    others = {(kind, i): (i + 1) % 4 for kind in (kinds.MEANS, kinds.PROBE) for i in range(4)}
    of = {(f.kind, f.own): f.direction for f in found}
    made = kinds.disentangled(world, found, others, seed=0)
    assert len(made) == 4 * len(kinds.DISENTANGLED)
    for f in made:
        base, out, every = kinds.DISENTANGLED[f.kind]
        assert f.direction.cosine(of[base, f.own]) > 0
        assert f.direction.scale > 0
        if out != kinds.SPECTRUM:
            for j in range(4) if every else [others[base, f.own]]:
                if j != f.own:
                    assert abs(f.direction.cosine(of[out, j])) < 1e-5


def test_from_texts_to_tables_and_a_page(scripts, texts, tiny_model_folder, tmp_path, monkeypatch):
    sites = ["--site", "blocks.0.hook_resid_post", "--later", "blocks.2.hook_resid_post"]
    command = ["run.py", "texts", "--model", str(tiny_model_folder), "--data", str(texts), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, *SMALL, *sites])
    scripts.run.main()
    labels = pd.read_csv(tmp_path / "labels.csv")
    assert list(labels.label) == list(scripts.worlds.TEXTS)
    assert labels.holds.between(0.4, 0.6).all()
    assert "errors" not in pd.read_csv(tmp_path / "movement.csv").columns
    assert len(pd.read_csv(tmp_path / "promoted.csv")) > 0
    assert "Next tokens" in (tmp_path / "report.html").read_text()


def test_what_a_text_is_about_stays_in_one_part(scripts, texts, tiny_model_folder):
    model = pk.load_model(tiny_model_folder)
    frame = scripts.worlds.texts(texts)
    frame["about"] = frame.text.str.split().str[0]
    parts = scripts.worlds.dealt(frame, model, (10, 10, 6), seed=0)
    firsts = [{(int(t[1]), int(np.argmax(v >= 0))) for t, v in zip(p.tokens, p.label_set("labels").values, strict=True)} for p in parts]  # fmt: skip
    assert not firsts[0] & firsts[1]
    assert not (firsts[0] | firsts[1]) & firsts[2]


def test_texts_without_a_model_are_refused(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "texts", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        scripts.run.main()
    assert "--model and --data" in capsys.readouterr().err
