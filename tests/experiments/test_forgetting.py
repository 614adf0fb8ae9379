"""The experiment on a tiny model and sentences in its words, from the command's arguments to its tables and its page."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probekit as pk
from tests.experiments.scripts import scripts_of
from tests.models.tiny import WORDS, make_model, make_tokenizer

MODULES = ("tasks", "tuning", "conditions", "summary", "page", "run")


@pytest.fixture(scope="module")
def scripts():
    with scripts_of("forgetting", *MODULES) as found:
        yield found


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The experiment's sources, in words that the tiny model knows."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    names = [" ".join(pair) for pair in itertools.permutations(WORDS[11:21], 2)]
    countries = ("France", "Italy")
    for file, form in {"cities": "The city of {} is in {}.", "neg_cities": "The city of {} is not in {}."}.items():
        rows = [f"{form.format(name, country)},{int(country == 'France')}" for name in names for country in countries]
        (folder / f"truth_{file}.csv").write_text("\n".join(["statement,label", *rows]))
    rows = [f"The Spanish word '{name}' means '{word}'.,{i}" for name in names for i, word in enumerate(("cat", "dog"))]
    (folder / "truth_sp_en_trans.csv").write_text("\n".join(["statement,label", *rows]))
    rows = [f"{a} is larger than {b}.,{int(a > b)}" for a, b in itertools.permutations(names[:12], 2)]
    (folder / "truth_larger_than.csv").write_text("\n".join(["statement,label", *rows]))
    texts = [" ".join([*rng.choice(WORDS[:20], 5), "happy" if i % 2 else "sad"]) for i in range(200)]
    (folder / "movie_review_snippets.tsv").write_text(
        "\n".join(f"{i}\t{2 if i % 2 else -2}\t{text}" for i, text in enumerate(texts))
    )
    (folder / "hate_offensive_tweets.csv").write_text(
        "\n".join(["class,tweet", *(f"{2 if i % 2 else 1},{text}" for i, text in enumerate(texts))])
    )
    (folder / "wikitext2_valid.txt").write_text("\n".join(" ".join(rng.choice(WORDS, 50)) for _ in range(14)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer()
    tokenizer.add_tokens(["positive", "negative", "yes", "no"])
    make_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_no_subject_is_in_two_parts_and_answers_are_balanced(scripts, data):
    found = scripts.tasks.read_tasks(data, 0, tune=24, fit=40, test=24)
    assert len(found) == 6
    for task in found.values():
        assert task.tune.right.mean() == task.fit.right.mean() == task.test.right.mean() == 0.5
        parts = [prompt for part in (task.tune, task.fit, task.test) for prompt in part.prompts]
        assert len(set(parts)) == len(parts)
    for name, negated in ((" is in", False), (" is not in", True)):
        task = found["negated cities" if negated else "cities"]
        cities = [{p.split(name)[0] for p in part.prompts} for part in (task.tune, task.fit, task.test)]
        assert len(set.union(*cities)) == sum(map(len, cities))


def test_random_labels_are_right_for_half_of_each_answer(scripts, data):
    items = scripts.tasks.read_tasks(data, 0, 24, 40, 24)["cities"].tune
    labels = scripts.tuning.random_labels(items, 3)
    for answer in (0, 1):
        assert (labels[items.right == answer] == answer).mean() == 0.5
    np.testing.assert_array_equal(labels, scripts.tuning.random_labels(items, 3))


def test_the_model_learns_the_answers_it_is_taught(scripts, data, folder):
    model = pk.load_model(folder)
    task = scripts.tasks.read_tasks(data, 0, 24, 40, 24)["cities"]
    before = scripts.conditions.odds(model, task, task.tune)
    scripts.tuning.tune(model, scripts.tuning.pairs(task, task.tune), epochs=12, learning_rate=3e-3, say=lambda _: None)
    model = pk.load_model(model.hf, tokenizer=model.tokenizer)
    after = scripts.conditions.odds(model, task, task.tune)
    assert np.mean(np.array(after) > 0) > 0.95
    assert np.mean(after) > np.mean(before) + 1


def test_a_gap_is_the_share_of_what_tuning_gave(scripts):
    gap = scripts.summary.one_gap
    assert gap(0.9, 0.9) == 0
    assert gap(0.9, 0.5) == 1
    assert gap(0.9, 0.7) == pytest.approx(0.5)
    assert np.isnan(gap(0.5, 0.5))
    rho, p = scripts.summary.spearman(np.arange(5.0), np.arange(5.0) ** 3)
    assert rho == pytest.approx(1)
    assert p == pytest.approx(2 / 120)


@pytest.mark.filterwarnings("ignore:at blocks")  # erasing all that a tiny model knows is loud
def test_from_texts_to_tables_and_a_page(scripts, data, folder, tmp_path, capsys, monkeypatch):
    arguments = ["run.py", "--model", str(folder), "--data", str(data), "--out", str(tmp_path), "--tune", "24", "--fit", "40", "--test", "24"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*arguments, "--epochs", "8", "--learning-rate", "3e-3"])
    read = scripts.tasks.read_tasks
    monkeypatch.setattr(scripts.run, "read_tasks", lambda *given: dict(itertools.islice(read(*given).items(), 3)))
    monkeypatch.setattr(scripts.conditions, "PROBED", 10)
    monkeypatch.setattr(scripts.conditions, "OTHERS", 12)
    monkeypatch.setattr(scripts.summary, "DRAWS", 50)
    scripts.run.main()
    first = capsys.readouterr().out
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "conditions").iterdir()}
    assert len(kept) == 2 + 3 * 7
    others = pd.read_csv(tmp_path / "read_on_other_items.csv").set_index("task")
    fitted, probed = map(int, others.loc["cities", "items of erasers, of the probe"].split(", "))
    assert fitted >= 40  # and what else is about their cities
    assert probed >= 10
    table = pd.read_csv(tmp_path / "forgetting.csv").set_index("task")
    assert float(table.loc["cities", "tuned"].split()[0]) > 0.9
    assert float(table.loc["cities", "gap, items to forget"].split()[0]) > 0.3
    erased = pd.read_csv(tmp_path / "what_a_probe_reads.csv").set_index("task")
    assert float(erased.loc["cities", "tuned"].split()[0]) > float(
        erased.filter(regex="^erased .highest").loc["cities"].iloc[0].split()[0]
    )
    assert "What random labels make a model forget" in (tmp_path / "report.html").read_text()
    scripts.run.main()  # nothing is measured twice, and the tables come out the same
    assert kept == {file: file.stat().st_mtime_ns for file in (tmp_path / "conditions").iterdir()}
    assert capsys.readouterr().out.split("## forgetting")[1] == first.split("## forgetting")[1]
