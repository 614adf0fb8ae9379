"""`Task`: texts with one label each; a folder of CSV files, or the 155 tasks that the package sae-probes carries."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from probekit.data import Dataset, LabelSet, read_csv
from probekit.data.labels import Kind

LEAST = 16
"""Texts that a task must have."""
MOST_CLASSES = 100
"""Classes above which a task is refused: a figure would rest on a handful of texts a class."""
_FILE = re.compile(r"\.(csv|tsv|jsonl)(\.zst)?$")
_ELSEWHERE = re.compile(r"^(?P<task>.+?)_OOD$")
_NO_TASK = {
    "66_living-room_translations": "a list of translations, without prompts",
    "90_glue_qnli_OOD": "its classes are called '1' and 'not_entailment', which cannot be matched to the task's 0 and 1",
}
"""Files of sae-probes 0.4.2 that are no set of texts with the task's labels: named as the task, with one more word."""


@dataclass(frozen=True)
class Task:
    """Texts, each with one label; no text twice.

    Attributes:
        name: Of the task.
        texts: What the model reads.
        labels: One target of the level `sequence`.
        groups: `[text]` integers: texts of one group are never in training and test.
        elsewhere: By name, texts with the same label from elsewhere, for an out-of-distribution test.
        notes: What was left out of the file.
    """

    name: str
    texts: tuple[str, ...]
    labels: LabelSet
    groups: np.ndarray
    elsewhere: Mapping[str, Dataset] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return self.labels.kind

    @property
    def values(self) -> np.ndarray:
        """`[text]` class indices, or values."""
        values: np.ndarray = self.labels.values[:, 0]
        return values

    def __len__(self) -> int:
        return len(self.texts)


def read_task(
    path: str | Path,
    text: str = "prompt",
    label: str = "target",
    *,
    group: str | None = None,
    kind: Kind | None = None,
    name: str | None = None,
    elsewhere: Mapping[str, str | Path] | None = None,
) -> Task:
    """Read a task from one file.

    A text that occurs again with the same label is taken once; one that occurs with different labels is left out
    altogether, as no answer to it is right. Both are counted in `notes`, and so are rows without a label.

    Args:
        path: `.csv`, `.tsv` or `.jsonl`, each also with `.zst`.
        text, label, group: Columns, as for `probekit.read_csv`.
        kind: `binary`, `multiclass` or `continuous`, where the rules would tell otherwise.
        name: Left out, that of the file.
        elsewhere: By name, files with the same columns for an out-of-distribution test. One that cannot be read is left out, and
            `notes` says why.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing (names those there are); fewer than 16 texts are left, or one class only; more than
            100 classes; a class with fewer than four texts when only one other is left.
    """
    name = name or _stem(Path(path))
    whole = _read(path, text, label, group, kind=kind)
    data, notes = _once(whole, label)
    labels = data.label_set(label)
    if len(data) < LEAST:
        raise ValueError(
            f"task {name!r} has {len(data)} texts with a label of their own: a task needs {LEAST} at least, to train, to "
            "choose and to test on"
        )
    if labels.kind != "continuous":
        classes = len(labels.classes)
        if classes > MOST_CLASSES:
            raise ValueError(
                f"task {name!r} has {classes:,} classes for {len(data):,} texts: too many to tell apart. If they are numbers, read it with read_task(..., "
                'kind="continuous") and give that; else merge them, or leave the rare ones out'
            )
        counts = np.bincount(labels.values[:, 0], minlength=classes)
        if (counts >= 4).sum() < 2:
            raise ValueError(
                f"task {name!r} has {_said(labels, counts)}: two classes with four texts each are the least a test can be made of"
            )
    others = {}
    for where, file in (elsewhere or {}).items():
        try:
            other = _read(file, text, label, like=whole)
            others[where], dropped = _once(other, label, seen=set(data.texts or ()))
        except (ValueError, KeyError, OSError) as error:  # the task itself is not to be lost
            dropped = [f"{Path(file).name} is left out: {error.args[0] if error.args else error}"]
        notes += [f"{where}: {note}" for note in dropped]
    assert data.texts is not None
    assert data.groups is not None
    return Task(name, data.texts, labels, data.groups, others, tuple(notes))


def _read(path: str | Path, text: str, label: str, group: str | None = None, **options: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*repeat the text of an earlier row")  # counted in the notes
        return read_csv(path, text, label, group, missing="undefined", **options)


def read_tasks(
    source: str | Path | Task | Sequence[str | Path | Task],
    *,
    text: str = "prompt",
    label: str = "target",
    group: str | None = None,
) -> dict[str, Task | Exception]:
    """Tasks by name, in order of their names (numbers by size); a task that cannot be read is the error that says why.

    Args:
        source: `"sae-probes"` for the tasks of that package, which need only be installed (`pip install --no-deps
            sae-probes==0.4.2`; it is never imported); a folder of files; a file; a `Task`; or several files and tasks. A file
            `NAME_OOD.csv` beside `NAME.csv` is its out-of-distribution test.
        text, label, group: Columns of the files; of sae-probes, which has no groups, the last must be left out.

    Raises:
        FileNotFoundError: the package is not installed, or no file is there.
    """
    if isinstance(source, Task):
        return {source.name: source}
    if source == "sae-probes":
        return _of_sae_probes(_sae_probes_folder(), text, label, group)
    if isinstance(source, str | Path):
        folder = Path(source)
        if (folder / "cleaned_data").is_dir():
            return _of_sae_probes(folder, text, label, group)
        if folder.is_dir():
            return _of_files(
                sorted(f for f in folder.iterdir() if _FILE.search(f.name)), {}, text, label, group, folder
            )
        return _of_files([folder], {}, text, label, group, folder.parent)
    files = [Path(one) for one in source if isinstance(one, str | Path) and Path(one).is_file()]
    found = _of_files(files, {}, text, label, group, Path()) if files else {}
    for one in source:
        if isinstance(one, str | Path) and Path(one) in files:
            continue
        for name, task in read_tasks(one, text=text, label=label, group=group).items():
            if name in found:
                raise ValueError(f"two tasks are called {name!r}: give one of them another name")
            found[name] = task
    return found


def _sae_probes_folder() -> Path:
    spec = find_spec("sae_probes")  # says where it is without importing it
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the package sae-probes is not installed: pip install --no-deps sae-probes==0.4.2 (its data are read, it is not imported)"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _of_sae_probes(folder: Path, text: str, label: str, group: str | None) -> dict[str, Task | Exception]:
    import pandas as pd

    kinds: dict[str, Kind] = {}
    table = next(iter(folder.glob("probing_datasets_MASTER.csv*")), None)
    if table is not None:
        frame = pd.read_csv(table).dropna(subset=["Dataset save name", "Data type"])
        said: dict[str, Kind] = {"Binary": "binary", "Multiclass": "multiclass", "Continuous": "continuous"}
        for file, kind in zip(frame["Dataset save name"], frame["Data type"], strict=True):
            kinds[_stem(Path(file))] = said[str(kind).split()[0]]
    files = [f for part in ("cleaned_data", "OOD data") for f in (folder / part).glob("*") if _FILE.search(f.name)]
    tasks = _of_files([f for f in files if _stem(f) not in _NO_TASK], kinds, text, label, group, folder)
    for file in sorted({_stem(f) for f in files} & set(_NO_TASK)):
        task = tasks.get(file.rpartition("_")[0])
        if isinstance(task, Task):
            tasks[task.name] = replace(task, notes=(*task.notes, f"{file} is left out: {_NO_TASK[file]}"))
    return tasks


def _of_files(
    files: Sequence[Path], kinds: Mapping[str, Kind], text: str, label: str, group: str | None, folder: Path
) -> dict[str, Task | Exception]:
    if not files:
        raise FileNotFoundError(f"{folder} holds no .csv, .tsv or .jsonl file")
    known = {one.with_name(f"{_stem(one)}_OOD") for one in files}
    folders = dict.fromkeys(one.parent for one in files)
    beside = [file for one in folders for file in one.glob("*_OOD.*") if file.with_name(_stem(file)) in known]
    stems: dict[str, Path] = {}
    for file in dict.fromkeys((*files, *beside)):
        name = _stem(file)
        if stems.setdefault(name, file) != file:
            raise ValueError(f"two tasks are called {name!r} ({stems[name]} and {file}): give one of them another name")
    elsewhere: dict[str, dict[str, Path]] = {}
    for stem in list(stems):
        found = _ELSEWHERE.match(stem)
        if found and found["task"] in stems:
            elsewhere.setdefault(found["task"], {})["ood"] = stems.pop(stem)
    tasks: dict[str, Task | Exception] = {}
    for stem in sorted(stems, key=_by_number):
        try:
            tasks[stem] = read_task(
                stems[stem], text, label, group=group, kind=kinds.get(stem), name=stem, elsewhere=elsewhere.get(stem)
            )
        except (ValueError, KeyError, OSError) as error:
            tasks[stem] = error
    return tasks


def _stem(file: Path) -> str:
    """The name of a file of a task without its endings; as it is where they are no table's."""
    return _FILE.sub("", file.name)


def _by_number(name: str) -> tuple[int, str]:
    number = re.match(r"\d+", name)
    return (int(number[0]) if number else -1, name)


def _once(data: Dataset, label: str, seen: set[str] | None = None) -> tuple[Dataset, list[str]]:
    """Each text once, those with different labels left out, and what was left out; also texts already `seen`."""
    labels = data.label_set(label)
    values = labels.values[:, 0]
    known = ~np.isnan(values) if labels.kind == "continuous" else values >= 0
    first = data.first_occurrence()
    differs: set[int] = set()
    for i in np.flatnonzero(known & (first != np.arange(len(first)))):
        if known[first[i]] and values[i] != values[first[i]]:
            differs.add(int(first[i]))
    texts = data.texts or ()
    two_labels = np.isin(first, sorted(differs))
    again = known & (first != np.arange(len(first))) & ~two_labels
    before = np.array([text in seen for text in texts], bool) if seen else np.zeros(len(texts), bool)
    kept = np.flatnonzero(known & ~two_labels & ~again & ~before)
    counted = {
        "without a label": int((~known).sum()),
        "that occur again with the same label": int(again.sum()),
        "that occur with different labels": int((known & two_labels).sum()),
        "that the task itself has": int((before & known & ~two_labels & ~again).sum()),
    }
    notes = [f"{count:,} texts {what} are left out" for what, count in counted.items() if count]
    if not len(kept):
        raise ValueError(f"no text is left: {'; '.join(notes)}")
    return data.take(kept), notes


def _said(labels: LabelSet, counts: np.ndarray) -> str:
    shown = [f"{count} of {name!r}" for name, count in zip(labels.classes, counts, strict=True) if count][:5]
    return ", ".join(shown)
