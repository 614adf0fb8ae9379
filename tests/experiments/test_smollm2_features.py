"""The experiment on a tiny model and a few texts, from the command's arguments to its tables and its page."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests.models.tiny import WORDS

SCRIPT = Path(__file__).parents[2] / "experiments" / "smollm2_features" / "run.py"


@pytest.fixture(scope="module")
def run():
    import sys

    spec = importlib.util.spec_from_file_location("smollm2_features_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """The experiment's four sources, in the words that the tiny model knows."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)

    def sentence(words: int) -> str:
        return " ".join(rng.choice(WORDS, words))

    (folder / "wikitext2_valid.txt").write_text("\n".join(["", " = Title = ", *(sentence(22) for _ in range(150))]))
    reviews = [f"{i}\t{rng.choice([-1, -0.2, 0.9])}\t{sentence(15)}" for i in range(60)]
    (folder / "movie_review_snippets.tsv").write_text("\n".join(reviews))
    tweets = ["class,tweet", *(f'{rng.integers(3)},"{sentence(12)}"' for _ in range(60))]
    (folder / "hate_offensive_tweets.csv").write_text("\n".join(tweets))
    truths = ["statement,label", *(f"{sentence(10)},{rng.integers(2)}" for _ in range(60))]
    (folder / "truth_cities.csv").write_text("\n".join(truths))
    return folder


def test_texts_are_drawn_by_their_share_and_keep_their_labels(run, texts, tiny_model_folder):
    import probekit as pk

    model = pk.load_model(tiny_model_folder)
    data, ids = run.mixed(texts, model, 2000, seed=0)
    source = data.label_set("the source").values
    tokens = np.array([sum(len(one) for one, s in zip(ids, source, strict=True) if s == i) for i in range(4)])
    np.testing.assert_allclose(tokens / tokens.sum(), list(run.SHARES.values()), atol=0.03)
    known = data.label_set("the statement").values >= 0
    assert (source[known] == 3).all()
    again, _ = run.mixed(texts, model, 2000, seed=0)
    assert again.fingerprint() == data.fingerprint()


def test_the_token_alone_tells_a_feature_that_reads_it_and_not_one_that_is_noise(run):
    from types import SimpleNamespace

    from scipy import sparse

    rng = np.random.default_rng(0)
    token, sequence = rng.integers(0, 30, 6000), np.arange(6000) // 20
    fires = np.stack([np.isin(token, [3, 7]), rng.random(6000) < 0.1], 1)
    found = run.accuracy_by_token(
        SimpleNamespace(
            matrix=sparse.csc_array(fires.astype(np.float32)),
            width=2,
            token=token,
            sequence=sequence,
            prefix=np.arange(6000, dtype=np.uint64),
        )
    )
    assert found[0] == 1
    assert found[1] == pytest.approx(0.5, abs=0.05)


def test_from_texts_to_tables_and_a_page(run, texts, tiny_model_folder, tmp_path, capsys):
    small = ["--tokens", "4000", "--layer", "1", "--width", "48", "--k", "6", "--rows", "8192", "--batch", "512"]
    command = ["--model", str(tiny_model_folder), "--data", str(texts), "--out", str(tmp_path / "out"), *small]
    made = run.main(command)
    assert set(made) == {"real", "random"}
    assert made["real"].names.width == 48
    said = capsys.readouterr().out
    assert "recovered" in said
    assert "# shares" in said
    assert (tmp_path / "out" / "features.html").stat().st_size > 10_000
    again = run.main(command)  # all is kept
    assert [n.text for n in again["real"].names] == [n.text for n in made["real"].names]
