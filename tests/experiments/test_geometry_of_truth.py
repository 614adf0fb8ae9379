"""The experiment on a tiny model and the words it knows, from the command's arguments to its tables."""

from __future__ import annotations

import sys
from itertools import permutations, product
from pathlib import Path

import pytest

from tests.experiments.scripts import scripts_of


@pytest.fixture(scope="module")
def run():
    with scripts_of("geometry_of_truth", "run") as found:
        yield found.run


@pytest.fixture
def statements(tmp_path: Path) -> Path:
    """The four files: every city with every country, every ordered pair of numbers, every word with every translation."""
    country = {"Paris": "France", "London": "England", "Rome": "Italy", "Berlin": "Germany"}
    numbers = ["One", "Two", "Three", "Four", "Five", "Six"]
    spanish = {"gato": "cat", "perro": "dog", "rojo": "red", "verde": "green", "feliz": "happy", "triste": "sad"}
    cities = [(c, o, int(country[c] == o)) for c, o in product(country, country.values())]
    files = {
        "cities": [(f"The city of {c} is in {o}.", true) for c, o, true in cities],
        "neg_cities": [(f"The city of {c} is not in {o}.", 1 - true) for c, o, true in cities],
        "larger_than": [
            (f"{a} is larger than {b.lower()}.", int(numbers.index(a) > numbers.index(b)))
            for a, b in permutations(numbers, 2)
        ],
        "sp_en_trans": [
            (f"The Spanish word '{word}' means '{other}'.", int(meaning == other))
            for (word, meaning), other in product(spanish.items(), spanish.values())
        ],
    }
    for name, rows in files.items():
        lines = ["statement,label", *(f"{text},{true}" for text, true in rows)]
        (tmp_path / f"truth_{name}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_what_a_sentence_is_about(run) -> None:
    assert run.subject("The city of Rome is not in Italy.") == run.subject("The city of Rome is in France.") == "Rome"
    assert run.subject("Five is larger than six.") == run.subject("Six is larger than five.")
    assert run.subject("The Spanish word 'gato' means 'cat'.") == "gato"
    with pytest.raises(ValueError, match="unknown form"):
        run.subject("Rome lies in Italy.")


def test_groups_keep_a_subject_together(run, statements: Path) -> None:
    data = run.read(statements, "larger_than")
    assert data.groups is not None
    assert len(set(data.groups.tolist())) == 15  # pairs in either order
    assert len(data) == 30


def test_from_arguments_to_tables(
    run, statements: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    arguments = ["--model", str(tiny_model_folder), "--data", str(statements), "--out", str(tmp_path / "out")]
    arguments += ["--train", "larger_than", "--probe", "difference_in_means"]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    run.main()
    said = capsys.readouterr().out
    assert "AUROC on test" in said
    assert said.count("| larger_than") == 3  # a row in each of the three tables
    assert (tmp_path / "out" / "larger_than" / "report.html").is_file()
    within = next(line for line in said.splitlines() if line.startswith("| larger_than"))
    # Model, random weights, surface and shuffled labels, each with its interval.
    assert within.count(" to ") >= 4
