"""A behaviour found, edited, measured, searched, shipped and brought back, from the shell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import probekit as pk
from tests.cli.test_commands import probekit, without_some_labels, write_table


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    table = write_table(folder / "statements.csv")
    done = probekit(
        "edit",
        "find",
        table,
        "-t",
        "sentence",
        "-l",
        "warm",
        "-m",
        tiny_model_folder,
        "-g",
        "number",
        "-o",
        folder / "warm",
    )
    assert done.returncode == 0, done.stderr
    assert "halves" in done.stdout
    assert "the words alone tell 'warm' as well" in done.stdout  # the label is a word
    assert (
        f"probekit edit apply {folder / 'warm' / 'direction.safetensors'} -m {tiny_model_folder} --how steer"
        in done.stdout
    )
    words = [f"the {a} {b}" for a in ("cat", "dog", "city", "red") for b in ("runs", "sleeps", "of", "and", "in")]
    (folder / "prompts.txt").write_text("\n".join(words))
    (folder / "neutral.txt").write_text("\n".join(f"{w} is true or false" for w in words[:8]))
    (folder / "seen.csv").write_text(f"said\n{words[3]}\nthe sea\n")
    (folder / "words.txt").write_text("red\nblue\ncat\ndog\nis\nof\nand\n")
    return folder


def test_a_direction_at_every_layer_that_knows_its_model(found: Path, tiny_model_folder: Path) -> None:
    model = pk.load_model(tiny_model_folder)
    direction = pk.probes.direction.Direction.load(found / "warm" / "direction.safetensors")
    assert direction.model == model.fingerprint
    assert direction.scale > 0
    layers = sorted(p.stem for p in (found / "warm" / "layers").iterdir())
    assert layers == sorted(model.stream_sites)
    assert (found / "warm" / "sweep" / "report.html").exists()


def test_rows_without_a_label_are_left_out_where_that_is_asked_for(
    found: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    gaps = without_some_labels(found / "statements.csv", "warm", tmp_path / "gaps.csv")
    asked = ["edit", "find", gaps, "-t", "sentence", "-l", "warm", "-m", tiny_model_folder, "-o", tmp_path / "warm"]
    refused = probekit(*asked)
    assert refused.returncode == 1
    assert "--missing undefined" in refused.stderr
    done = probekit(*asked, "--missing", "undefined")
    assert done.returncode == 0, done.stderr
    every, some = (
        pk.probes.direction.Direction.load(folder / "warm" / "direction.safetensors") for folder in (found, tmp_path)
    )
    if every.site == some.site:
        assert 0.8 < float(every.vector @ some.vector) < 1 - 1e-7


def test_apply_evaluate_export_and_undo(found: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    direction = found / "warm" / "direction.safetensors"
    done = probekit(
        "edit",
        "apply",
        direction,
        "-m",
        tiny_model_folder,
        "--how",
        "steer",
        "--strength",
        "3",
        "--in-weights",
        "-o",
        tmp_path / "edit",
    )
    assert done.returncode == 0, done.stderr
    assert "touches" in done.stdout
    done = probekit(
        "edit", "evaluate", tmp_path / "edit", "-m", tiny_model_folder, "--prompts", found / "prompts.txt", "--neutral", found / "neutral.txt",
        "--words", found / "words.txt", "--strengths=-2,4", "--controls", "2", "--new", "5", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    refused = probekit(
        "edit", "evaluate", tmp_path / "edit", "-m", tiny_model_folder, "--prompts", found / "prompts.txt", "--neutral", found / "neutral.txt",
        "--words", found / "words.txt", "--found-on", found / "seen.csv", "-t", "said", "-o", tmp_path / "seen",
    )  # fmt: skip
    assert refused.returncode == 1
    assert "1 of 20 items are among the 2 texts that the edit was found on" in refused.stderr
    chosen = json.loads((tmp_path / "out" / "edit" / "edit.json").read_text())["strength"]
    assert chosen in (-2, 4)
    assert f"at strength {chosen:g}" in done.stdout
    done = probekit(
        "edit",
        "export",
        tmp_path / "edit",
        "-m",
        tiny_model_folder,
        "-o",
        tmp_path / "edited",
        "--texts",
        found / "neutral.txt",
    )
    assert done.returncode == 0, done.stderr
    assert "fresh process" in done.stdout
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "edited") is not None
    done = probekit("edit", "undo", tmp_path / "edited", "-o", tmp_path / "original")
    assert done.returncode == 0, done.stderr
    assert pk.load_model(tmp_path / "original").fingerprint == pk.load_model(tiny_model_folder).fingerprint
    done = probekit("edit", "export", tmp_path / "edit", "-m", tiny_model_folder, "-o", tmp_path / "edited")
    assert done.returncode == 1
    assert "nothing was written" in done.stderr


def test_words_can_be_wanted(found: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    direction = found / "warm" / "direction.safetensors"
    made = ["--how", "steer", "--strength", "3", "-o", tmp_path / "edit"]
    assert probekit("edit", "apply", direction, "-m", tiny_model_folder, *made).returncode == 0
    common = [
        "edit", "evaluate", tmp_path / "edit", "-m", tiny_model_folder, "--prompts", found / "prompts.txt", "--neutral", found / "neutral.txt",
        "--more", "--controls", "2", "--new", "5",
    ]  # fmt: skip
    done = probekit(*common, "--words", found / "words.txt", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    measures = json.loads((tmp_path / "out" / "report.json").read_text())["measures"]
    assert measures[0]["name"] == "share of wanted words"
    assert not measures[0]["less_is_wanted"]
    done = probekit(*common, "--unwanted", " cat", "-o", tmp_path / "none")
    assert done.returncode == 1
    assert "--more goes with --words" in done.stderr


def test_nothing_is_said_of_words_that_do_not_tell() -> None:
    from probekit.cli.edit_find import words_do_as_well

    rng = np.random.default_rng(0)
    y, X = rng.integers(0, 2, 300), rng.normal(size=(300, 4)).astype(np.float32)
    X[:, 0] += 4 * y
    same = tuple(" ".join(rng.choice(["cat", "dog", "red", "and"], 5)) for _ in y)
    labels = {"warm": pk.data.LabelSet("warm", y, "binary", "sequence", ("no", "yes"))}
    told = tuple(f"{text} {'hot' if one else 'cold'}" for text, one in zip(same, y, strict=True))
    for texts, site, said in ((same, "read", False), (told, "read", True), (told, "noise", False)):
        arrays = {"read": X, "noise": rng.normal(size=(300, 4)).astype(np.float32)}
        result = pk.sweep(arrays, pk.data.Dataset("d", texts=texts, labels=labels), n_boot=100, progress=False)
        assert bool(words_do_as_well(result, "warm", site)) == said


def test_search_goes_on_and_its_frontier_can_be_evaluated(found: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    arguments = [
        "edit", "search", found / "warm" / "layers", "-m", tiny_model_folder, "--prompts", found / "prompts.txt", "--neutral", found / "neutral.txt",
        "--unwanted", " cat", "--wanted", " dog",
    ]  # fmt: skip
    done = probekit(*arguments, "--trials", "4", "-o", tmp_path / "search")
    assert done.returncode == 0, done.stderr
    done = probekit(*arguments, "--trials", "8", "-o", tmp_path / "search")
    assert done.returncode == 0, done.stderr
    once = probekit(*arguments, "--trials", "8", "-o", tmp_path / "once")
    assert once.returncode == 0, once.stderr
    assert (tmp_path / "search" / "trials.csv").read_text() == (tmp_path / "once" / "trials.csv").read_text()
    menu = sorted((tmp_path / "once" / "frontier").iterdir())
    assert menu
    assert json.loads((menu[0] / "edit.json").read_text())["format"] == "probekit.edit"
    done = probekit(
        "edit", "evaluate", menu[0], "-m", tiny_model_folder, "--prompts", found / "prompts.txt", "--neutral", found / "neutral.txt",
        "--unwanted", " cat", "--wanted", " dog", "--controls", "2", "-o", tmp_path / "of the menu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "of the menu" / "report.json").read_text())
    assert any("came out of a search on one half of the items" in note for note in report["notes"])
    prompts = len((found / "prompts.txt").read_text().split("\n"))
    told = [n for n, part in zip(report["figures"]["n"], report["figures"]["part"], strict=True) if part == "report"]
    assert 0 < told[0] < prompts - 1
    done = probekit(*arguments, "--trials", "8", "--seed", "1", "-o", tmp_path / "once")
    assert done.returncode == 1
    assert "holds a search with another" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["apply", "DIRECTION", "--how", "steer"], "steer needs strength"),
        (["apply", "DIRECTION", "--how", "ablate", "--strength", "1"], "ablate has no strength"),
        (["apply", "DIRECTION", "--how", "orthogonalize", "--where", "prompt"], "every token"),
        (["apply", "DIRECTION", "--how", "ablate", "--layers", "77"], "no layer 77"),
        (["apply", "DIRECTION", "--how", "ablate", "--where", "first"], "no position"),
        (["apply", "nothing.safetensors", "--how", "ablate"], "no file"),
        (["evaluate", "nothing", "--prompts", "PROMPTS", "--neutral", "PROMPTS"], "say what the behaviour is"),
        (["evaluate", "nothing", "--prompts", "PROMPTS", "--neutral", "PROMPTS", "--unwanted", "cat"], "no saved edit"),
        (["evaluate", "nothing", "--prompts", "nowhere.txt", "--neutral", "PROMPTS", "--unwanted", "cat"], "no file"),
    ],
)
def test_what_is_wrong_is_said(
    found: Path, tiny_model_folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    files = {"DIRECTION": found / "warm" / "direction.safetensors", "PROMPTS": found / "prompts.txt"}
    given = [files.get(a, a) for a in arguments]
    done = probekit("edit", *given, "-m", tiny_model_folder, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_evaluate_never_writes_over_the_edit_it_was_given_or_over_other_files(
    found: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    done = probekit(
        "edit", "apply", found / "warm" / "direction.safetensors", "-m", tiny_model_folder, "--how", "steer", "--strength", "1",
        "-o", work / "edit",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before = {file.name: file.read_bytes() for file in (work / "edit").iterdir()}
    rest = [
        "-m", tiny_model_folder, "--prompts", found / "prompts.txt", "--neutral", found / "neutral.txt", "--unwanted", " cat",
        "--wanted", " dog", "--controls", "2", "--strengths=-1,1",
    ]  # fmt: skip
    done = probekit("edit", "evaluate", work / "edit", *rest, "-o", work)
    assert done.returncode == 1
    assert "is the edit that is evaluated" in done.stderr
    other = tmp_path / "other"
    (other / "edit").mkdir(parents=True)
    (other / "edit" / "notes.txt").write_text("mine")
    done = probekit("edit", "evaluate", work / "edit", *rest, "-o", other)
    assert done.returncode == 1
    assert "was not written by this command" in done.stderr
    assert (other / "edit" / "notes.txt").read_text() == "mine"
    assert {file.name: file.read_bytes() for file in (work / "edit").iterdir()} == before
    for _ in range(2):  # its own, of an earlier call, it replaces
        done = probekit("edit", "evaluate", work / "edit", *rest, "-o", tmp_path / "judged")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "judged" / "edit" / "edit.json").is_file()
        assert not list((tmp_path / "judged").glob(".edits-*"))
