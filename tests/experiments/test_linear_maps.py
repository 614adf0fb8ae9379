"""The experiment on tiny models and sentences in their words: its texts, the training that resumes, its baselines, its tables."""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.experiments.scripts import scripts_of
from tests.models.tiny import WORDS, make_model, make_tokenizer

MODULES = ("texts", "small_model", "page", "run")
FEW = {"maps": 40, "probes": 60, "patched": 6, "valid": 20}
TINY = ["--vocabulary", "300", "--layers", "2", "--width", "32", "--context", "64", "--batch", "4"]


@pytest.fixture(scope="module")
def scripts():
    with scripts_of("linear_maps", *MODULES) as found:
        yield found


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The three sources, in words that the tiny model knows: a positive review says happy, an offensive tweet red."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS[:30], count))

    lines = []
    for number in range(24):
        name = WORDS[number]  # begins each sentence of its article
        lines += [f" = {name} = ", *(f" {name} {words(10)} . {name} {words(12)} ." for _ in range(8))]
    (folder / "wikitext2_valid.txt").write_text("\n".join(lines))
    rows = [f"{i}\t{2 if i % 2 else -2}\t{words(7)} {'happy' if i % 2 else 'sad'}" for i in range(240)]
    (folder / "movie_review_snippets.tsv").write_text("\n".join(rows))
    rows = [f"{1 if i % 2 else 2},@someone: {words(7)} {'red' if i % 2 else 'blue'} https://a.b/c" for i in range(240)]
    (folder / "hate_offensive_tweets.csv").write_text("\n".join(["class,tweet", *rows]))
    return folder


def train(scripts, monkeypatch, data: Path, out: Path, steps: int) -> None:
    monkeypatch.setattr(scripts.small_model, "read_texts", functools.partial(scripts.texts.read_texts, **FEW))
    monkeypatch.setattr(
        sys, "argv", ["small_model.py", "--data", str(data), "--out", str(out), "--steps", str(steps), *TINY]
    )
    scripts.small_model.main()


def test_no_text_or_article_is_in_two_parts(scripts, data) -> None:
    parts = scripts.texts.read_texts(data, 0, **FEW)
    texts = [text for part in parts.values() for text in part.texts]
    assert len(texts) == len(set(texts))
    articles = [{text.split()[0] for text in part.only("wiki").texts} for part in parts.values()]
    assert sum(map(len, articles)) == len(set.union(*articles)) == 24
    for source in ("reviews", "tweets"):
        label = parts["probes"].only(source).label
        assert len(label) == FEW["probes"]
        assert label.mean() == 0.5
    assert set(parts["maps"].label) == {-1}
    assert not any("@" in text or "http" in text for text in texts)
    with pytest.raises(ValueError, match="only 120 reviews with label 0; 200 were asked for"):
        scripts.texts.read_texts(data, 0, **FEW | {"probes": 400})


def test_a_run_in_two_parts_ends_as_one(scripts, data, tmp_path, monkeypatch) -> None:
    train(scripts, monkeypatch, data, tmp_path / "whole", 40)
    with monkeypatch.context() as patch:
        loop = scripts.small_model.train
        patch.setattr(scripts.small_model, "train", lambda *a, **k: loop(*a, **k | {"stop_at": 20}))
        train(scripts, patch, data, tmp_path / "parts", 40)  # killed after twenty steps
    (tmp_path / "parts" / "falling-to-40.safetensors").unlink()
    train(scripts, monkeypatch, data, tmp_path / "parts", 40)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two
    with pytest.raises(SystemExit, match="has done 28 steps, but --steps 30 has only 21"):
        train(scripts, monkeypatch, data, tmp_path / "whole", 30)
    monkeypatch.setattr(sys.modules[__name__], "TINY", [*TINY[:-1], "5"])
    with pytest.raises(SystemExit, match="another recipe"):
        train(scripts, monkeypatch, data, tmp_path / "whole", 40)


def test_the_baselines_are_those_of_a_slow_count(scripts, data) -> None:
    parts = scripts.texts.read_texts(data, 0, **FEW)
    tokenizer = scripts.small_model.make_tokenizer(parts["train"].texts, 300)
    stream = np.concatenate([tokenizer(text)["input_ids"] for text in parts["train"].texts])
    model = scripts.small_model.make_model(len(tokenizer), 1, 32, 64, 0).eval()
    found = scripts.small_model.perplexities(model, tokenizer, stream, parts["valid"], 0)
    size, single = len(tokenizer), Counter(stream.tolist())
    after: dict[int, Counter[int]] = defaultdict(Counter)
    for one, two in itertools.pairwise(stream.tolist()):
        after[one][two] += 1
    unigram = {token: (single[token] + 1) / (len(stream) + size) for token in range(size)}
    for before in list(after)[:5]:
        assert sum(_bigram(after[before], unigram, token) for token in range(size)) == pytest.approx(1)
    cost = {"unigram": 0.0, "bigram": 0.0}
    tokens = 0
    for text in parts["valid"].texts:
        ids = tokenizer(text)["input_ids"][:64]
        for one, two in itertools.pairwise(ids):
            cost["unigram"] -= np.log(unigram[two])
            cost["bigram"] -= np.log(_bigram(after[one], unigram, two))
            tokens += 1
    assert found["all"]["tokens"] == tokens
    for name, nats in cost.items():
        value, low, high = found["all"][name]
        assert value == pytest.approx(np.exp(nats / tokens))
        assert low < value < high
    assert found["all"]["small model"][0] == pytest.approx(size, rel=0.2)  # untrained: about as good as guessing


def _bigram(counts: Counter[int], unigram: dict[int, float], token: int) -> float:
    total = sum(counts.values())
    if not total:
        return unigram[token]
    return max(counts[token] - 0.75, 0) / total + 0.75 * len(counts) / total * unigram[token]


def test_from_texts_to_tables_and_a_page(scripts, data, tmp_path, monkeypatch, capsys) -> None:
    make_model("llama").save_pretrained(tmp_path / "large")
    make_tokenizer().save_pretrained(tmp_path / "large")
    train(scripts, monkeypatch, data, tmp_path / "small", 60)
    monkeypatch.setattr(scripts.run, "read_texts", functools.partial(scripts.texts.read_texts, **FEW))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "run.py",
            "--model",
            str(tmp_path / "large"),
            "--small",
            str(tmp_path / "small"),
            "--data",
            str(data),
            "--out",
            str(tmp_path / "out"),
            "--every",
            "1",
        ],
    )
    scripts.run.main()
    first = capsys.readouterr().out
    maps = pd.read_csv(tmp_path / "out" / "maps.csv").set_index(["way", "kind", "to"])
    # Both read the same words: what a small model's embedding holds follows from the large one's, shuffled rows tell nothing.
    row = maps.loc["to small", "ridge", "blocks.0.hook_resid_pre"]
    assert row["r2 low"] > 0.3 > 0.05 > row["shuffled r2"]
    assert row["top_1"] > row["chance"]
    probes = pd.read_csv(tmp_path / "out" / "probes.csv")
    assert set(probes.source) == {"map", "own", "home"}
    assert set(probes.kind) == {"ridge", "low_rank", "orthogonal", "ridge, shuffled"}
    assert set(probes.way) == set(scripts.run.WAYS)
    # The label is a word of the text.
    assert probes[(probes.source == "own") & (probes.way == "to small")].value.min() > 0.8
    patched = pd.read_csv(tmp_path / "out" / "patched.csv")
    assert set(patched.condition) == {"plain", "mapped", "shuffled", "mean"}
    assert np.isfinite(patched.perplexity).all()
    assert "Linear maps between two language models" in (tmp_path / "out" / "report.html").read_text()
    assert set(json.loads((tmp_path / "small" / "perplexity.json").read_text())) == {"all", "wiki", "reviews", "tweets"}
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "measures").iterdir()}
    assert len(kept) == 1 + 2 * (8 + 2) + 2 + 2 + 3 + 1
    scripts.run.main()  # nothing is measured twice, and the tables come out the same
    assert kept == {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "measures").iterdir()}
    assert (
        capsys.readouterr().out.split("## maps")[1].split(" min in")[0][:-4]
        == first.split("## maps")[1].split(" min in")[0][:-4]
    )
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--seed", "1"])
    with pytest.raises(SystemExit, match="a run with other settings"):
        scripts.run.main()
