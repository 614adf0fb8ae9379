"""The commands end to end on a small random model, and what they say when the input is wrong."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probekit.cli import main
from probekit.probes import SweepResult
from tests.models.tiny import WORDS
from tests.saes.chat_server import dice, serving

COLOURS = ["red", "blue", "green"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def probekit(*arguments: object) -> Done:
    """Run the command line in this process: importing torch anew for every command would take longer than the command."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["probekit", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        sys.argv = before
    return Done(status, out.getvalue(), err.getvalue())


def write_table(path: Path, rows: int = 120, seed: int = 0) -> Path:
    """Sentences whose label is a word in them: readable from the embedding of a random model."""
    draw = random.Random(seed)
    every = list(itertools.product(NUMBERS, ["cat", "dog"], ["paris", "rome", "london"], NUMBERS, COLOURS))
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["sentence", "warm", "colour", "length", "number"])
        for number, animal, city, other, colour in draw.sample(every, rows):
            words = f"{number} {animal} of {city} and {other} is {colour}"
            out.writerow([words, colour == "red", colour, draw.random(), number])
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "statements.csv")


@pytest.fixture(scope="module")
def probed(table: Path, tiny_model_folder: Path) -> tuple[Path, Done]:
    out = table.parent / "out"
    done = probekit(
        "probe", table, "--text", "sentence", "--label", "warm", "--label", "colour", "--label", "length",
        "--model", tiny_model_folder, "--group", "number", "-o", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, done


def test_probe_writes_result_probes_and_page(probed: tuple[Path, Done]) -> None:
    out, done = probed
    assert json.loads((out / "result.json").read_text())
    assert list(out.rglob("*.safetensors"))
    assert "<html" in (out / "report.html").read_text()
    assert str((out / "report.html").resolve()) in done.stdout
    for word in ("binary", "multiclass", "continuous"):
        assert word in done.stdout


def test_the_screen_shows_our_own_bars_only(probed: tuple[Path, Done]) -> None:
    """Not those of the libraries, and not where a sweep keeps what it throws away."""
    err = probed[1].stderr
    assert "capture" in err
    assert "in a temporary folder" in err
    for noise in ("Loading weights", "it/s", "probekit-sweep-", "attention_mask"):
        assert noise not in err


def test_grid_rows_and_draws(table: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    common = ["-t", "sentence", "-l", "colour", "-p", "ridge", "--no-controls", "--max-rows", "40", "--n-boot", "100"]
    store = tmp_path / "store"
    done = probekit("capture", table, "-t", "sentence", "-m", tiny_model_folder, "-o", store)
    assert done.returncode == 0, done.stderr
    for command in (["probe", table, "-m", tiny_model_folder], ["sweep", store, "-d", table]):
        done = probekit(*command, *common, "--grid", "0.5,20", "-o", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        result = SweepResult.load(tmp_path / "out")
        assert result.label_set("colour").rows["train"] == 40
        assert result.manifest["arguments"]["n_boot"] == 100
        stack = result.probes["colour"][result.best("colour").site]
        assert stack.grid == (0.5, 20.0)
        done = probekit(*command, *common, "--grid", "0.5;20", "-o", tmp_path / "no")
        assert done.returncode == 1
        assert "numbers with commas between" in done.stderr


def test_warnings_are_notes(table: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(table.open()))
    with (tmp_path / "some.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(row | {"number": ""} if i < 30 else row for i, row in enumerate(rows))
    done = probekit(
        "probe", tmp_path / "some.csv", "-t", "sentence", "-l", "warm", "-m", tiny_model_folder, "--group", "number",
        "-p", "ridge", "--no-controls", "-s", "blocks.0.hook_resid_post", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "note: some.csv: column 'number' has no value in 30 of 120 rows" in done.stderr
    assert "UserWarning" not in done.stderr


def test_report_writes_the_page_again(probed: tuple[Path, object]) -> None:
    page = probed[0] / "again.html"
    done = probekit("report", probed[0], "--out", page)
    assert done.returncode == 0, done.stderr
    assert "<html" in page.read_text()


def test_capture_then_sweep(table: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    done = probekit("capture", table, "-t", "sentence", "-m", tiny_model_folder, "-o", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    done = probekit(
        "sweep",
        tmp_path / "store",
        "-d",
        table,
        "-t",
        "sentence",
        "-l",
        "colour",
        "-p",
        "ridge",
        "-o",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").exists()

    other = write_table(tmp_path / "other.csv", seed=1)
    done = probekit("sweep", tmp_path / "store", "-d", other, "-t", "sentence", "-l", "colour", "-o", tmp_path / "no")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert not (tmp_path / "no").exists()


def test_out_of_distribution_file(table: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "elsewhere.csv", seed=2)
    done = probekit(
        "probe", table, "-t", "sentence", "-l", "warm", "-m", tiny_model_folder, "--test", other, "-p", "ridge",
        "--no-controls", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "elsewhere" in (tmp_path / "out" / "result.json").read_text()


def test_test_files_are_told_apart_and_scored(table: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Files called like a part of the split, or like each other, and a file with few of the training file's numbers."""
    for number, name in enumerate(("test.csv", "a/x.csv", "b/x.csv")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_table(tmp_path / name, seed=number + 3)
    files = [part for name in ("test.csv", "a/x.csv", "b/x.csv") for part in ("--test", tmp_path / name)]
    rounded = tmp_path / "test.csv"
    rows = list(csv.DictReader(rounded.open()))
    with rounded.open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(row | {"length": i % 3} for i, row in enumerate(rows))
    done = probekit(
        "probe", table, "-t", "sentence", "-l", "warm", "-l", "length", "-m", tiny_model_folder, *files, "-p", "ridge",
        "--no-controls", "-s", "blocks.0.hook_resid_post", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {str(tmp_path / name) for name in ("test.csv", "a/x.csv", "b/x.csv")}
    assert set(SweepResult.load(tmp_path / "out").to_frame().data) == {"test", *names}


def test_a_test_file_that_does_not_fit_is_refused_before_the_capture(
    table: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    rest = ["-t", "sentence", "-l", "warm", "-m", tiny_model_folder, "--test", other, "-o", tmp_path / "out"]
    other.write_text(
        "sentence,warm\n" + "".join(f"one cat is {i} red,{'maybe' if i % 2 else 'no'}\n" for i in range(40))
    )
    done = probekit("probe", table, *rest)
    assert done.returncode == 1
    assert "other.csv: label 'warm': maybe, no is no class of training, which has false, true" in done.stderr
    assert "capture" not in done.stderr


def test_a_test_file_of_one_class_is_scored_without_auroc(table: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "warm_only.csv"
    other.write_text(
        "sentence,warm\n" + "".join(f"{a} cat of rome and {b} is red,True\n" for a in NUMBERS for b in NUMBERS)
    )
    done = probekit(
        "probe", table, "-t", "sentence", "-l", "warm", "-m", tiny_model_folder, "--test", other, "-p", "ridge",
        "--no-controls", "-s", "blocks.0.hook_resid_post", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the rows of 'warm_only' show class 'true' only" in done.stdout
    frame = SweepResult.load(tmp_path / "out").to_frame()
    there = frame[(frame.data == "warm_only") & (frame.target == "mean")].set_index("metric")["value"]
    assert there.isna()["auroc"]
    assert there["accuracy"] >= 0


def test_kind_and_missing_labels(table: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(table.open()))
    with (tmp_path / "stars.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["sentence", "stars"])
        out.writerows([row["sentence"], "" if i == 7 else i % 5 + 1] for i, row in enumerate(rows))
    common = (
        "probe",
        tmp_path / "stars.csv",
        "-t",
        "sentence",
        "-l",
        "stars",
        "-m",
        tiny_model_folder,
        "--no-controls",
    )
    common = (*common, "-s", "blocks.0.hook_resid_post", "-o", tmp_path / "out")
    done = probekit(*common)
    assert done.returncode == 1
    assert "--missing undefined" in done.stderr
    done = probekit(*common, "--missing", "undefined", "--kind", "stars=continuous")
    assert done.returncode == 0, done.stderr
    assert "continuous" in done.stdout
    for wrong, said in (("stars", "COLUMN=KIND"), ("stars=number", "COLUMN=KIND"), ("star=binary", "no label column")):
        done = probekit(*common, "--kind", wrong)
        assert done.returncode == 1
        assert said in done.stderr


def test_a_folder_that_cannot_be_written_is_refused_at_once(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_text("")
    for out in (file, file / "below"):
        done = probekit("probe", table, "-t", "sentence", "-l", "warm", "-m", "no/such/model", "-o", out)
        assert done.returncode == 1
        assert "is a file; give a folder" in done.stderr


def test_models_lists_and_describes(tiny_model_folder: Path) -> None:
    assert "othello-mini" in probekit("models").stdout
    described = probekit("models", tiny_model_folder).stdout
    assert "3 layers" in described
    assert "hook_resid_post" in described


@pytest.mark.parametrize("command", ["probe", "capture", "sweep", "report", "demo", "models"])
def test_help_has_an_example_or_says_what_it_does(command: str) -> None:
    page = probekit(command, "--help").stdout
    assert len(page) > 600
    assert "probekit " + command in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"FILE": "missing.csv"}, "missing.csv"),
        ({"-t": "sentense"}, "sentence"),
        ({"-l": "colur"}, "colour"),
        ({"-m": "no/such/folder"}, "no/such/folder"),
        ({"--test": "missing.csv"}, "missing.csv"),
        ({"-s": "blocks.7.hook_resid_post"}, "3 blocks, numbered 0 to 2"),
    ],
)
def test_wrong_input_is_one_clear_message(
    change: dict[str, str], said: str, table: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    given = {
        "FILE": str(table),
        "-t": "sentence",
        "-l": "colour",
        "-m": str(tiny_model_folder),
        "-o": str(tmp_path / "out"),
    }
    given |= change
    file = given.pop("FILE")
    done = probekit("probe", file, *[part for pair in given.items() for part in pair])
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_how_models_are_loaded_is_said_before_the_command(tiny_model_folder: Path, tmp_path: Path) -> None:
    done = probekit("models", tiny_model_folder)
    assert "tokenizer: yes; float32 on cpu" in done.stdout, done.stderr
    done = probekit("--device", "cpu", "--model-dtype", "bfloat16", "models", tiny_model_folder)
    assert "bfloat16 on cpu" in done.stdout, done.stderr
    done = probekit("--device", "auto", "models", tiny_model_folder)
    assert "float32 on" in done.stdout, done.stderr
    done = probekit("--tokenizer", tiny_model_folder, "models", "othello-mini")
    assert "tokenizer: yes" in done.stdout, done.stderr
    for given, said in (
        (["--device", "nonsense"], "--device 'nonsense' is no device"),
        (["--tokenizer", tmp_path], "no tokenizer there"),
    ):
        done = probekit(*given, "models", tiny_model_folder)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    if not torch.cuda.is_available():
        assert "PyTorch finds no GPU here" in probekit("--device", "cuda", "models", tiny_model_folder).stderr


def test_the_command_of_the_readme_works_as_written(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    command = next(line for line in readme.splitlines() if line.startswith("probekit probe "))
    rng = np.random.default_rng(0)
    rows = [f"{' '.join(rng.choice(WORDS, 7))} {('paris', 'rome')[i % 2]},{i % 2}" for i in range(120)]
    (tmp_path / "statements.csv").write_text("\n".join(["statement,label", *rows]) + "\n")
    words = command.replace("FOLDER_OR_ID", str(tiny_model_folder)).split()
    done = probekit(*words[1:])
    assert done.returncode == 0, done.stderr
    for name in ("result.json", "*.html"):
        assert list((tmp_path / "out").rglob(name)), name
    assert list((tmp_path / "out").rglob("*.safetensors"))


def without_some_labels(table: Path, column: str, out: Path) -> Path:
    """The table with every ninth value of a column taken out."""
    frame = pd.read_csv(table, dtype=str)
    frame.loc[::9, column] = ""
    frame.to_csv(out, index=False)
    return out


def test_sae_train_health_score_and_name(table: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    store, site = tmp_path / "store", "blocks.0.hook_resid_post"
    done = probekit(
        "capture", table, "-t", "sentence", "-m", tiny_model_folder, "--pool", "all", "-s", site, "-o", store
    )
    assert done.returncode == 0, done.stderr
    train = [
        "sae",
        "train",
        store,
        "-s",
        site,
        "-w",
        "32",
        "--rows",
        "6400",
        "--batch",
        "64",
        "--lr",
        "0.01",
        "--option",
        "k=4",
    ]
    done = probekit(*train, "-o", tmp_path / "sae")
    assert done.returncode == 0, done.stderr
    assert "held-out rows" in done.stdout
    assert (tmp_path / "sae" / "sae_weights.safetensors").is_file()
    done = probekit("sae", "health", tmp_path / "sae", store)
    assert "L0 4.0" in done.stdout
    of_data = ["-d", table, "-t", "sentence", "-m", tiny_model_folder, "-o", tmp_path / "floor"]
    done = probekit("sae", "floor", tmp_path / "sae", store, *of_data)
    assert done.returncode == 0, done.stderr
    floor = probekit("sae", "health", tmp_path / "floor" / "sae", tmp_path / "floor" / "store")
    assert floor.stdout.strip() in done.stdout, floor.stdout
    labels = ["-d", table, "-t", "sentence", "-l", "colour", "--features", tmp_path / "features"]
    done = probekit("sae", "score", tmp_path / "sae", store, *labels, "-o", tmp_path / "scores.csv")
    assert done.returncode == 0, done.stderr
    assert "coverage" in done.stdout
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + len(COLOURS)
    gaps = [without_some_labels(table, "colour", tmp_path / "gaps.csv") if one == table else one for one in labels]
    done = probekit("sae", "score", tmp_path / "sae", store, *gaps, "-o", tmp_path / "gaps_scored.csv")
    assert done.returncode == 1
    assert "--missing undefined" in done.stderr
    done = probekit(
        "sae", "score", tmp_path / "sae", store, *gaps, "--missing", "undefined", "-o", tmp_path / "gaps_scored.csv"
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "gaps_scored.csv").read_text().splitlines()) == 1 + len(COLOURS)
    loose = ["--least-precision", "0", "--least-recall", "0"]
    done = probekit("sae", "name", tmp_path / "sae", store, *labels, *loose, "-o", tmp_path / "names.jsonl")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "names.jsonl").is_file()
    written = ["-n", tmp_path / "names.jsonl", "-m", tiny_model_folder, "--features", tmp_path / "features"]
    done = probekit("sae", "page", tmp_path / "sae", store, *written, "-o", tmp_path / "features.html")
    assert done.returncode == 0, done.stderr
    assert "probekit sae page" in (tmp_path / "features.html").read_text(), "the command that makes it again"
    by_words = ["-m", tiny_model_folder, "--features", tmp_path / "features", "--least-accuracy", "0.5"]
    done = probekit("sae", "name", tmp_path / "sae", store, *by_words, "-o", tmp_path / "words.jsonl")
    assert done.returncode == 0, done.stderr
    grouped = [*by_words, "--group", "number", "-o", tmp_path / "grouped.jsonl"]
    done = probekit("sae", "name", tmp_path / "sae", store, *grouped)
    assert done.returncode == 1
    assert "--group names a column of a table: give --data and --text" in done.stderr
    done = probekit("sae", "name", tmp_path / "sae", store, *grouped, "-d", table, "-t", "sentence")
    assert done.returncode == 0, done.stderr
    assert '"halved": "groups"' in (tmp_path / "grouped.jsonl").read_text()
    done = probekit("sae", "name", tmp_path / "sae", store, "-o", tmp_path / "none.jsonl")
    assert done.returncode == 1
    assert "nothing to name features with" in done.stderr
    asked = [*by_words[:4], "--no-words", "--endpoint-model", "tiny", "--cache", tmp_path / "answers"]
    with serving(dice) as (url, chat):
        asked += ["--endpoint", url, "--most", "2", "-o", tmp_path / "explained.jsonl"]
        done = probekit("sae", "name", tmp_path / "sae", store, *asked)
    assert done.returncode == 0, done.stderr
    assert 0 < chat.answered == len(list((tmp_path / "answers").rglob("*.json")))
    done = probekit("sae", "name", tmp_path / "sae", store, *asked)
    assert done.returncode == 0, "all is kept: no server is needed"
    done = probekit("sae", "name", tmp_path / "sae", store, *asked, "--most", "3", "--seed", "1")
    assert done.returncode == 1
    assert f"no server answers at {url}" in done.stderr
    done = probekit("sae", "name", tmp_path / "sae", store, "--endpoint", url, "-o", tmp_path / "none.jsonl", *labels)
    assert done.returncode == 1
    assert "--endpoint also needs" in done.stderr
    small = ["--no-controls", "--n-boot", "100"]
    swept = ["sweep", store, "-d", table, "-t", "sentence", "-l", "colour", *small, "-o", tmp_path / "sweep"]
    done = probekit(*swept)
    assert done.returncode == 0, done.stderr
    held = ["--probes", tmp_path / "sweep", "--page", tmp_path / "compared.html"]
    done = probekit("sae", "compare", tmp_path / "sae", store, *labels, *held, "-o", tmp_path / "compared.csv")
    assert done.returncode == 0, done.stderr
    assert "dense probe against" in done.stdout
    assert "verdict" in (tmp_path / "compared.csv").read_text().splitlines()[0]
    assert (tmp_path / "compared.html").is_file()
    second = probekit(*train, "--seed", "1", "--seed", "2", "-o", tmp_path / "seeds")
    assert second.returncode == 0, second.stderr
    others = [part for n in (1, 2) for part in ("--other", tmp_path / "seeds" / site / f"seed-{n}")]
    fuller = [*held[:2], *others, "-m", tiny_model_folder, "-n", tmp_path / "names.jsonl"]
    done = probekit("sae", "compare", tmp_path / "sae", store, *labels, *fuller, "-o", tmp_path / "fuller.csv")
    assert done.returncode == 0, done.stderr
    assert "features over seeds: matched cosine" in done.stdout
    assert "causal_by_chance" in (tmp_path / "fuller.csv").read_text().splitlines()[0]
    head, *lines = table.read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([head, *reversed(lines)]) + "\n")
    other = ["-d", tmp_path / "other.csv", *labels[2:]]
    for command, more in (("score", []), ("name", []), ("compare", held)):
        done = probekit("sae", command, tmp_path / "sae", store, *other, *more, "-o", tmp_path / "other.out")
        assert done.returncode == 1
        assert "was captured from data" in done.stderr
        assert not (tmp_path / "other.out").exists()
    done = probekit(*train[:-1], "k", "-o", tmp_path / "other")
    assert done.returncode == 1
    assert "write NAME=VALUE" in done.stderr
    done = probekit("sae", "health", tmp_path / "nothing", store)
    assert done.returncode == 1
    assert "neither a folder nor" in done.stderr
    shard = next(Path(store).glob("shard-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-8] ^= 0xFF
    shard.write_bytes(content)
    done = probekit("sae", "health", tmp_path / "sae", store)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
