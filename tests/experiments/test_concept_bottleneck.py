"""The experiment on a tiny model and a few texts, from the command's arguments to its tables and its pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import saes
from tests.experiments.scripts import scripts_of
from tests.models.tiny import WORDS


@pytest.fixture(scope="module")
def run():
    with scripts_of("concept_bottleneck", "run") as scripts:
        yield scripts.run


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Reviews that are positive where they say one word, and tweets whose class is told by another."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)

    def sentence(word: str | None) -> str:
        words = list(rng.choice(WORDS[2:], 12))
        if word is not None:
            words[int(rng.integers(2, 11))] = word
        return " ".join(words)

    rated = [int(rng.integers(2)) for _ in range(260)]
    lines = [f"{i}\t{1.5 if good else -1.5}\t{sentence(WORDS[0] if good else None)}" for i, good in enumerate(rated)]
    lines.append(f"260\t0.1\t{sentence(None)}")
    (folder / "movie_review_snippets.tsv").write_text("\n".join(lines))
    classes = [int(rng.integers(3)) for _ in range(260)]
    said = {0: WORDS[0], 1: WORDS[1], 2: None}
    rows = ["class,tweet", *(f'{one},"{sentence(said[one])}"' for one in classes)]
    (folder / "hate_offensive_tweets.csv").write_text("\n".join(rows))
    return folder


def test_neutral_reviews_are_left_out_and_equal_texts_stay_together(run, texts):
    data = run.movie_reviews(texts, 10_000, 0)
    assert len(data) == 260
    assert set(np.unique(data.split)) == {"train", "valid", "test"}
    twice = run.dataset("twice", "class", [(f"text {i % 20}", "xy"[i % 2]) for i in range(60)], 60, 0)
    for text in set(twice.texts):
        where = {part for part, one in zip(twice.split, twice.texts, strict=True) if one == text}
        assert len(where) == 1


def test_from_texts_to_tables_and_pages(run, texts, tiny_model_folder, tmp_path, capsys, monkeypatch):
    def lenient(sae, model, rows, encoder):  # a random model of width 32 has no feature that earns a name
        words = saes.Vocabulary(model=model)
        return saes.name(sae, rows, vocabulary=words, decode=model, least_accuracy=0, false_names=1)

    monkeypatch.setattr(run, "names_of", lenient)
    monkeypatch.setattr(run, "COUNTS", (1, 2, 4))
    arguments = [
        "--model", str(tiny_model_folder), "--data", str(texts), "--out", str(tmp_path), "--layer", "0", "--width", "64",
        "--k", "2", "--rows", "150000",
    ]  # fmt: skip
    run.main(arguments)
    said = capsys.readouterr().out
    for title in ("# movie reviews", "# tweets", "bag of words: accuracy", "concepts - dense", "pooled by mean"):
        assert title in said
    for name in ("movie_reviews", "tweets"):
        assert "Make it again" in (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert (tmp_path / name / "bottleneck.json").exists()
