"""Files are read whole and typed, and whatever is wrong with one is said with its place."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from probekit.data import from_hf, read_csv

ROWS = [("The sky is blue.", 1, "a", 0.5), ("Grass is red.", 0, "a", 1.5), ("Häuser, “groß”", 1, "b", 2.25),
        ("Two\nlines", 0, "c", -3.0)]  # fmt: skip
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def write(path: Path, rows=ROWS, header=("text", "label", "group", "score"), delimiter=",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


@pytest.fixture
def statements(tmp_path):
    return write(tmp_path / "statements.csv")


def test_texts_labels_groups_and_the_file_hash(statements):
    data = read_csv(statements, text="text", label=["label", "score"], group="group")
    assert data.texts == tuple(row[0] for row in ROWS)
    assert data.label_set("label").kind == "binary"
    assert data.label_set("label").values[:, 0].tolist() == [1, 0, 1, 0]
    assert data.label_set("score").kind == "continuous"
    assert data.label_set("score").values[:, 0].tolist() == [0.5, 1.5, 2.25, -3.0]
    assert data.groups.tolist() == [0, 0, 1, 2]
    assert data.name == "statements.csv"
    assert data.facts["files"] == [
        {"name": "statements.csv", "sha256": hashlib.sha256(statements.read_bytes()).hexdigest()}
    ]


def test_every_format_reads_the_same(statements, tmp_path):
    write(tmp_path / "s.tsv", delimiter="\t")
    (tmp_path / "s.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(("text", "label", "group", "score"), row, strict=True))) for row in ROWS)
        + "\n\n",
        encoding="utf-8",
    )
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + statements.read_bytes())
    for name in ("statements.csv", "s.tsv", "s.jsonl"):
        (tmp_path / f"{name}.zst").write_bytes(zstandard.compress((tmp_path / name).read_bytes()))
    want = read_csv(statements, "text", ["label", "score"])
    for name in ("s.tsv", "s.jsonl", "bom.csv", "statements.csv.zst", "s.tsv.zst", "s.jsonl.zst"):
        got = read_csv(tmp_path / name, "text", ["label", "score"])
        assert got.fingerprint() == want.fingerprint(), name
        for label in want.labels:
            assert got.label_set(label).kind == want.label_set(label).kind, name
            np.testing.assert_array_equal(got.label_set(label).values, want.label_set(label).values)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).filter(str.strip),
                min_size=4, max_size=12, unique=True))  # fmt: skip
def test_any_text_survives_a_csv(tmp_path_factory, texts):
    path = write(tmp_path_factory.mktemp("any") / "any.csv", [(t, i % 2, "", "") for i, t in enumerate(texts)])
    assert read_csv(path, "text", "label").texts == tuple(texts)


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [
        (["0", "1", "1", "0"], "binary", ("0", "1")),
        (["True", "false", "TRUE", "False"], "binary", ("false", "true")),
        (["1e3", "2.5", "-1", "7"], "continuous", ()),
        (["1", "2", "x", "x", "1", "2"], "multiclass", ("1", "2", "x")),
        (["NA", "None", "NA", "None"], "binary", ("NA", "None")),
    ],
)
def test_columns_are_typed_as_a_whole(tmp_path, cells, kind, classes):
    path = write(tmp_path / "t.csv", [(f"text {i}", cell, "", "") for i, cell in enumerate(cells)])
    labels = read_csv(path, "text", "label").label_set("label")
    assert (labels.kind, labels.classes) == (kind, classes)


def test_files_of_a_pattern_are_read_in_order_and_a_pattern_without_a_match_is_an_error(tmp_path):
    write(tmp_path / "b.csv", ROWS[2:])
    write(tmp_path / "a.csv", ROWS[:2])
    data = read_csv(tmp_path / "*.csv", "text", "label")
    assert data.texts == tuple(row[0] for row in ROWS)
    assert [file["name"] for file in data.facts["files"]] == ["a.csv", "b.csv"]
    with pytest.raises(FileNotFoundError, match=r"the pattern .* matches no file"):
        read_csv(tmp_path / "*.jsonl", "text", "label")
    with pytest.raises(FileNotFoundError, match="the pattern"):
        read_csv([tmp_path / "a.csv", tmp_path / "none-*.csv"], "text", "label")
    with pytest.raises(FileNotFoundError, match="empty list"):
        read_csv([], "text", "label")


def test_a_missing_file_names_its_neighbours(statements):
    with pytest.raises(FileNotFoundError, match=r"near it: statements\.csv"):
        read_csv(statements.with_name("statement.csv"), "text", "label")
    with pytest.raises(FileNotFoundError, match="nor a folder"):
        read_csv(statements.parent / "nowhere" / "s.csv", "text", "label")


@pytest.mark.parametrize("argument", ["text", "label", "group", "split", "span"])
def test_a_missing_column_names_the_near_ones_and_all(statements, argument):
    columns = {"text": "text", "label": "label", argument: "lable"}
    with pytest.raises(
        KeyError, match=r"no column 'lable'; did you mean 'label'\? its columns are: text, label, group"
    ):
        read_csv(statements, **columns)


def test_an_empty_text_names_its_line(tmp_path):
    path = write(tmp_path / "t.csv", [("a\nb", 0, "", ""), ("  ", 1, "", "")])
    with pytest.raises(ValueError, match=r"t.csv line 4: the text \(column 'text'\) is empty"):
        read_csv(path, "text", "label")


@pytest.mark.parametrize("cell", ["", "nan", "NaN"])
def test_missing_labels_name_their_lines_or_are_kept_as_undefined(tmp_path, cell):
    path = write(tmp_path / "t.csv", [("a", 0, "", ""), ("b", cell, "", ""), ("c", 1, "", ""), ("d", 1, "", "")])
    with pytest.raises(ValueError, match=r"no value in 1 of 4 rows \(line 3\)"):
        read_csv(path, "text", "label")
    labels = read_csv(path, "text", "label", missing="undefined").label_set("label")
    assert labels.values[:, 0].tolist() == [0, -1, 1, 1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["same"] * 6, "one class only"),
        ([f"id {i}" for i in range(6)], "looks like an id or free text"),
        (list(range(30)), "row number"),
    ],
)
def test_label_columns_that_are_none_are_refused(tmp_path, column, message):
    path = write(tmp_path / "t.csv", [(f"text {i}", cell, "", "") for i, cell in enumerate(column)])
    with pytest.raises(ValueError, match=message):
        read_csv(path, "text", "label")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"text,label\na,0\nb\n", "line 3 has 1 field, but there are 2 columns"),
        ("t.csv", b'text,label\na,0\n"b,1\n', "malformed in or after line 3"),
        ("t.csv", b"text,text\na,0\n", "more than one column called 'text'"),
        ("t.csv", b"text,label\n", "has no rows"),
        ("t.csv", b"", "has no rows"),
        ("t.csv", b"text,label\nok,1\ncaf\xe9,0\n", "line 3 is not UTF-8"),
        ("t.csv", "text,label\na,0\n".encode("utf-16-le"), "NUL"),
        ("t.jsonl", b'{"text": "a", "label": 0}\n{"text": \n', "line 2 is not JSON"),
        ("t.jsonl", b"[1]\n", "line 1 holds a list"),
        ("t.jsonl", b'{"text": 3, "label": 0}\n', "line 1: column 'text' holds 3, not a text"),
        ("t.csv.zst", b"text,label\n", "not a Zstandard file"),
        ("t.parquet", b"x", "only .csv, .tsv and .jsonl"),
    ],
)
def test_malformed_files_say_where(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / name, "text", "label")


def test_files_of_one_data_set_have_the_same_columns(statements):
    write(statements.with_name("x.csv"), [("a", 1)], ("text", "truth"))
    with pytest.raises(ValueError, match=r"x.csv has the columns text, truth, but statements.csv has"):
        read_csv([statements, statements.with_name("x.csv")], "text", "label")


def test_duplicates_are_reported_kept_and_grouped(tmp_path):
    path = write(tmp_path / "t.csv", [("a", 0, "", ""), ("b", 1, "", ""), ("a", 1, "", ""), ("c", 0, "", "")])
    with pytest.warns(UserWarning, match=r"1 rows repeat .*line 4 repeats line 2.* another value of label"):
        data = read_csv(path, "text", "label")
    assert data.facts["duplicates"] == 1
    assert data.groups[0] == data.groups[2]


@pytest.mark.parametrize("words", [["train", "dev", "test", "ood"], ["TRAIN", "validation", "Test", "ood"]])
def test_split_columns_are_read(tmp_path, words):
    path = write(tmp_path / "t.csv", [(f"t{i}", i % 2, w, "") for i, w in enumerate(words)])
    assert read_csv(path, "text", "label", split="group").split.tolist() == ["train", "valid", "test", "ood"]


def test_a_true_false_split_column_marks_the_test_rows(tmp_path):
    path = write(tmp_path / "t.csv", [(f"t{i}", i % 2, w, "") for i, w in enumerate(["False", "True", "False"])])
    assert read_csv(path, "text", "label", split="group").split.tolist() == ["train", "test", "train"]
    write(path, [("a", 0, "train", ""), ("b", 1, "exam", "")])
    with pytest.raises(ValueError, match="line 3: column 'group' says 'exam'"):
        read_csv(path, "text", "label", split="group")


def test_a_span_column_is_found_in_the_text(tmp_path):
    path = write(tmp_path / "t.csv", [("Paris is big", 0, "Paris", ""), ("In old rome", 1, "Rome", "")])
    data = read_csv(path, "text", "label", span="group")
    assert [t[a:b] for t, (a, b) in zip(data.texts, data.spans["group"], strict=True)] == ["Paris", "rome"]
    write(path, [("Paris is big", 0, "Paris", ""), ("In old rome", 1, "Oslo", "")])
    with pytest.raises(ValueError, match=r"line 3: 'Oslo' .* does not occur"):
        read_csv(path, "text", "label", span="group")


def test_a_file_without_a_header_takes_names(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("1\t0\tfirst\n2\t1\tsecond\n", encoding="utf-8")
    data = read_csv(path, "text", "label", columns=["id", "label", "text"])
    assert data.texts == ("first", "second")


def test_hugging_face_data_sets_keep_class_names_and_splits():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    part = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]}, features=features)
    data = from_hf(part, "text", "label")
    assert data.label_set("label").classes == ("neg", "pos")
    assert data.label_set("label").values[:, 0].tolist() == [0, 1, 1, 0]
    both = from_hf(datasets.DatasetDict(train=part.select([0, 1]), validation=part.select([2]), test=part.select([3])),
                   "text", "label")  # fmt: skip
    assert both.split.tolist() == ["train", "train", "valid", "test"]
    with pytest.raises(TypeError, match="DatasetDict"):
        from_hf([{"text": "a"}], "text", "label")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not there")
@pytest.mark.filterwarnings("ignore:.*repeat the text")
def test_real_files_read():
    data = read_csv(SHARED / "truth_cities.csv", "statement", "label", span="city")
    assert len(data) == 1496
    assert data.label_set("label").kind == "binary"
    tweets = read_csv(SHARED / "hate_offensive_tweets.csv", "tweet", "class")
    assert len(tweets) == 24783
    assert tweets.label_set("class").kind == "multiclass"
    places = read_csv(SHARED / "world_place.csv", "name", ["latitude", "entity_type"], split="is_test")
    assert [places.label_set(n).kind for n in places.labels] == ["continuous", "multiclass"]
    assert len(places) == 39585


def test_kind_overrides_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("text,stars,other\n" + "".join(f"text {i},{i % 5},{i % 5}\n" for i in range(50)))
    read = read_csv(path, "text", ["stars", "other"], kind={"stars": "continuous"})
    assert [read.label_set(name).kind for name in ("stars", "other")] == ["continuous", "multiclass"]
    assert read_csv(path, "text", "stars", kind="continuous").label_set("stars").kind == "continuous"
    with pytest.raises(ValueError, match="kind names 'star', which is no label column"):
        read_csv(path, "text", "stars", kind={"star": "continuous"})
    with pytest.raises(ValueError, match="kind must be binary, multiclass or continuous, got 'number'"):
        read_csv(path, "text", "stars", kind="number")  # type: ignore[arg-type]


def test_empty_groups_are_groups_of_their_own(tmp_path: Path) -> None:
    rows = ["a one,1,x", "a two,0,", "a three,1,x", "a four,0, ", "a five,1,nan", "a six,0,1"]
    (tmp_path / "some.csv").write_text("text,label,author\n" + "\n".join(rows) + "\n")
    with pytest.warns(
        UserWarning, match=r"'author' has no value in 3 of 6 rows \(line 3, line 5, line 6\); each of them"
    ):
        data = read_csv(tmp_path / "some.csv", text="text", label="label", group="author")
    groups = data.groups.tolist()
    assert groups[0] == groups[2]
    assert len(set(groups)) == 5
    assert data.facts["ungrouped"] == 3


def test_a_test_file_keeps_the_classes_of_training(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(8)]

    def write(name: str, **columns: list[object]) -> Path:
        lines = [",".join(["text", *columns])]
        lines += [",".join(map(str, (t, *row))) for t, *row in zip(texts, *columns.values(), strict=False)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    trained = {
        "flag": ["true", "false"] * 4,
        "stars": [1, 2, 3, 4] * 2,
        "code": ["01", "1", "x", "x"] * 2,
        "size": [0.5, 1, 2, 3, 4, 5, 6, 7],
    }
    train = read_csv(write("train.csv", **trained), text="text", label=list(trained))
    few = {"flag": ["TRUE"] * 4, "stars": ["2.0", 2, 2, 2], "code": ["01", "1", "01", "1"], "size": [3, 3, 3, 3]}
    test = read_csv(write("test.csv", **few), text="text", label=list(few), like=train)
    for name in few:
        here, there = test.label_set(name), train.label_set(name)
        assert (here.kind, here.classes) == (there.kind, there.classes)
    assert test.label_set("flag").values[:, 0].tolist() == [1] * 4
    assert test.label_set("stars").values[:, 0].tolist() == [1] * 4
    assert test.label_set("code").values[:, 0].tolist() == [0, 1, 0, 1]
    assert test.label_set("size").values[:, 0].tolist() == [3.0] * 4
    with pytest.raises(ValueError, match=r"wrong.csv: label 'flag': maybe is no class of training"):
        read_csv(write("wrong.csv", flag=["maybe"] * 4), text="text", label="flag", like=train)


@pytest.mark.parametrize("void", ["NA", "None", "null", "n/a", "<NA>", "-"])
@pytest.mark.parametrize("values", [["0", "1"], ["true", "false"], ["0.5", "1.25"]])
def test_a_word_for_no_value_among_numbers_is_a_missing_label(tmp_path: Path, void: str, values: list[str]) -> None:
    rows = [f"t{i},{values[i % 2]}" for i in range(40)]
    rows[7] = f"t7,{void}"
    (tmp_path / "some.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=r"no value in 1 of 40 rows \(line 9\)"):
        read_csv(tmp_path / "some.csv", text="text", label="label")
    data = read_csv(tmp_path / "some.csv", text="text", label="label", missing="undefined", kind=None)
    values_there = data.label_set("label").values[:, 0]
    assert np.flatnonzero((values_there < 0) | np.isnan(values_there.astype(float))).tolist() == [7]


def test_spaces_and_unicode_forms_do_not_make_classes_and_capitals_are_said(tmp_path: Path) -> None:
    words = ["café", "cafe\u0301", " tea", "tea ", "tea", "Tea"]
    lines = [f"t{i},{word}" for i, word in enumerate(words * 4)]
    (tmp_path / "some.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="differ in capitals only: 'Tea', 'tea'; they are kept apart"):
        data = read_csv(tmp_path / "some.csv", text="text", label="label")
    assert data.label_set("label").classes == ("Tea", "café", "tea")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text;label\na;0\n", r"one column, 'text;label'; the fields seem to be separated by ';': save it with commas"),
        ("text\tlabel\na\t0\n", r"separated by '\\t': save it as .tsv"),
    ],
)
def test_another_delimiter_is_recognised(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "some.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "some.csv", text="text", label="label")


def test_lines_of_spaces_are_no_rows_and_a_label_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("text,label\na,0\n   \nb,1\n\n")
    data = read_csv(tmp_path / "some.csv", text="text", label="label")
    assert len(data) == 2
    assert data.facts["columns"] == {"text": "text", "label": ["label"], "group": None, "split": None, "span": []}
    with pytest.raises(ValueError, match="'label' is given twice"):
        read_csv(tmp_path / "some.csv", text="text", label=["label", "label"])
    with pytest.raises(ValueError, match="'text' is the text itself"):
        read_csv(tmp_path / "some.csv", text="text", label="text")
