"""Tasks from files: each text once, what was left out counted, and what is no task refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.leaderboard import Task, read_task, read_tasks
from probekit.leaderboard.settings import draw_pools
from tests.leaderboard.worlds import last_word, texts, write_task, write_tasks


@pytest.fixture
def some() -> list[str]:
    return texts(np.random.default_rng(0), 60)


def test_a_text_counts_once_and_two_labels_are_no_label(tmp_path, some):
    rows = [(text, last_word(text)) for text in some]
    rows += [(some[0], last_word(some[0])), (some[1], 1 - last_word(some[1])), (some[2], "")]
    task = read_task(write_task(tmp_path / "a.csv", rows))
    assert isinstance(task, Task)
    assert len(task) == 59
    assert some[1] not in task.texts
    assert some[2] in task.texts
    assert task.notes == (
        "1 texts without a label are left out",
        "1 texts that occur again with the same label are left out",
        "2 texts that occur with different labels are left out",
    )
    truth = {text: last_word(text) for text in some}
    assert [truth[text] for text in task.texts] == task.values.tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (3, "has 3 texts with a label of their own: a task needs 16"),
        ("one class", "every example has the same value"),
        ("many", "has 60 classes for 60 texts: too many to tell apart"),
        ("rare", "two classes with four texts each"),
        ("columns", "no column 'prompt'; its columns are: text, target"),
    ],
)
def test_what_is_no_task_is_refused(tmp_path, some, rows, message):
    file = tmp_path / "a.csv"
    if rows == "columns":
        write_task(file, [(text, last_word(text)) for text in some], ("text", "target"))
    elif rows == "one class":
        write_task(file, [(text, 1) for text in some])
    elif rows == "many":
        write_task(file, [(text, f"class {i}") for i, text in enumerate(some)])
    elif rows == "rare":
        write_task(file, [(text, int(i < 3)) for i, text in enumerate(some)])
    else:
        write_task(file, [(text, i % 2) for i, text in enumerate(some[:rows])])
    with pytest.raises((ValueError, KeyError)) as caught:
        read_task(file, kind="multiclass" if rows == "many" else None)
    if rows != "many":
        assert message in str(caught.value)


def test_too_many_classes_are_refused_with_what_to_do(tmp_path):
    some = texts(np.random.default_rng(1), 300)
    write_task(tmp_path / "a.csv", [(text, f"class {i % 150}") for i, text in enumerate(some)])
    with pytest.raises(
        ValueError,
        match=r"150 classes for 300 texts: too many to tell apart\. If they are numbers, read it with read_task",
    ):
        read_task(tmp_path / "a.csv")


def test_a_folder_is_its_tasks_and_one_that_fails_does_not_cost_the_others(tmp_path):
    folder = write_tasks(tmp_path / "tasks")
    write_task(folder / "10_small.csv", [("a", 0), ("b", 1)])
    (folder / "notes.txt").write_text("not a task")
    found = read_tasks(folder)
    assert list(found) == ["last", "noise", "number", "three", "10_small"]
    assert {name: task.kind for name, task in found.items() if isinstance(task, Task)} == {
        "last": "binary", "noise": "binary", "number": "continuous", "three": "multiclass",
    }  # fmt: skip
    assert isinstance(found["10_small"], ValueError)
    last = found["last"]
    assert isinstance(last, Task)
    assert set(last.elsewhere) == {"ood"}
    assert not set(last.elsewhere["ood"].texts) & set(last.texts)
    with pytest.raises(FileNotFoundError, match="holds no"):
        read_tasks(tmp_path)


def test_the_files_of_sae_probes_are_read_without_importing_it(tmp_path, some):
    data = tmp_path / "data"
    rows = [(text, last_word(text)) for text in some]
    write_task(data / "cleaned_data" / "2_last.csv", rows)
    write_task(data / "cleaned_data" / "1_years.csv", [(text, 1900 + i % 15) for i, text in enumerate(some)])
    write_task(data / "OOD data" / "2_last_OOD.csv", [(f"{text} so", label) for text, label in rows])
    write_task(
        data / "probing_datasets_MASTER.csv",
        [("cleaned_data/2_last.csv", "Binary Classification"), ("cleaned_data/1_years.csv", "Continuous Data")],
        ("Dataset save name", "Data type"),
    )
    found = read_tasks(data)
    assert list(found) == ["1_years", "2_last"]
    assert found["1_years"].kind == "continuous"  # fifteen whole numbers would be classes
    assert len(found["2_last"].elsewhere["ood"]) == 60


def test_files_of_sae_probes_that_are_no_tasks_are_said(tmp_path, some):
    rows = [(text, last_word(text)) for text in some]
    write_task(tmp_path / "cleaned_data" / "90_glue_qnli.csv", rows)
    write_task(tmp_path / "OOD data" / "90_glue_qnli_OOD.csv", rows)
    (task,) = read_tasks(tmp_path).values()
    assert not task.elsewhere
    assert any(note.startswith("90_glue_qnli_OOD is left out: its classes") for note in task.notes)


def test_a_bad_test_from_elsewhere_does_not_cost_the_task(tmp_path, some):
    write_task(tmp_path / "a.csv", [(text, i % 2) for i, text in enumerate(some[:40])])
    write_task(tmp_path / "a_OOD.csv", [(f"{text} so", "yes" if i % 2 else "no") for i, text in enumerate(some[:40])])
    (task,) = read_tasks(tmp_path).values()
    assert (len(task), dict(task.elsewhere)) == (40, {})
    assert any(note.startswith("ood: a_OOD.csv is left out: ") and "yes" in note for note in task.notes)


def test_where_sae_probes_is_not_installed_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("probekit.leaderboard.tasks.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps sae-probes"):
        read_tasks("sae-probes")


def test_a_group_is_never_in_both_pools(tmp_path):
    rows = [
        (f"{a} is {b} than {c}", int(a > c), f"{min(a, c)}-{max(a, c)}")
        for a in "abcdefg"
        for c in "abcdefg"
        for b in ("more", "no less")
    ]
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,target,pair\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    task = read_tasks(tmp_path, group="pair")["pairs"]
    assert isinstance(task, Task)
    pools = draw_pools(task, 60, 20, 0)
    train, test = ({rows[i][2] for i in pool} for pool in (pools.train, pools.test))
    assert len(train) > 10
    assert len(test) > 3
    assert not train & test
    missing = read_tasks(tmp_path, group="subject")["pairs"]
    assert isinstance(missing, KeyError | ValueError)
    assert "subject" in str(missing)


def test_a_test_from_elsewhere_is_found_beside_its_file(tmp_path, some):
    for name in ("a", "a_OOD"):
        write_task(tmp_path / f"{name}.csv", [(f"{name} {text}", i % 2) for i, text in enumerate(some[:40])])
    one, other = tmp_path / "a.csv", tmp_path / "a_OOD.csv"
    for source in (one, [one], [one, other], tmp_path):
        found = read_tasks(source)
        assert {name: list(task.elsewhere) for name, task in found.items()} == {"a": ["ood"]}
    assert list(read_tasks([other])) == ["a_OOD"]
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"two tasks are called 'a' \(.*a.csv and .*a.jsonl\)"):
        read_tasks(tmp_path)
