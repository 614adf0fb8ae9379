"""`board`: many tasks, every layer, every family of probes, one model; goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probekit.engine import Engine, check_engine, mapped
from probekit.files import with_nans
from probekit.leaderboard.families import DEFAULT, GUIDE, Families, named
from probekit.leaderboard.reading import Asked, Reading, reason
from probekit.leaderboard.result import Board
from probekit.leaderboard.settings import (
    RAREST,
    SETTINGS,
    Pools,
    conditions,
    draw_pools,
    each_once,
    texts_of,
)
from probekit.leaderboard.tasks import Task, read_tasks
from probekit.leaderboard.texts_read import read_texts
from probekit.models import Model, load_model
from probekit.progress import stepping
from probekit.versions import versions_of


def board(
    source: str | Path | Task | Sequence[str | Path | Task],
    model: Model | Any,
    *,
    settings: Sequence[str] = ("normal",),
    families: Families = DEFAULT,
    sites: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    longest: float | None = None,
    text: str = "prompt",
    label: str = "target",
    group: str | None = None,
    train: int = 1024,
    test: int = 300,
    out: str | Path,
    dtype: str = "float16",
    compute_dtype: str | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    engine: Engine = "local",
    progress: bool = True,
) -> Board:
    """Read every task from every site of a model with every family of probes.

    A task's texts are split by group into a pool to train on and one to test on, as balanced as can be; no text is in it twice, and a text
    with two labels is in neither. The model reads the last token of each text once, whatever the number of tasks and settings that
    share it. Penalties and sites are chosen on a fifth of the training pool (by cross-validation of fewer than 128), then the probe
    is fitted again to all of it; the figure is of the test pool.

    Each family is scored twice in the setting `normal`: at the site that is best for it (`chosen`), and at one `shared` site, which
    is where a logistic probe (of numbers, ridge) reads the *other* tasks of classes (of numbers) best. The other settings, and families that are no linear probe, are scored at
    the shared site only, since a handful of texts cannot choose among thirty sites. Conditions of theirs that groups leave nothing to choose
    on are left out.

    Args:
        source: `"sae-probes"`, a folder of CSV files, a file, tasks, or several of these (see `read_tasks`).
        model: From `load_model`, or what that takes.
        settings: Some of `normal`, `scarcity`, `imbalance`, `noise`, `ood`; `normal` is always among them.
        families: Names of linear families, `"words"` for what the text alone tells, of others (`elastic_net`, `k_sparse`, `mlp`,
            `kernel_ridge`), or by name estimators of your own with scikit-learn's protocol: `fit`, `get_params`, and `predict_log_proba`
            of classes. `logistic` is always among them: what it reads of the other tasks says which site they share.
        sites: Where to read; the model's stream sites if left out.
        tasks: Names of those to do; all if left out.
        longest: Tasks whose texts have more tokens in the mean are left out, and said.
        text, label: Columns of the files.
        group: Column whose values must not be split between training and test; left out, equal texts only are kept together. Texts from
            elsewhere are tested on whole: there it keeps nothing apart.
        train, test: Texts of each task at most.
        out: Folder: the activations, a file a task and setting, and `board.json`, which is of the last call. The same call goes on
            where it stopped, and does what is missing where more is asked, or where a task has been mended or added.
        dtype: What activations are stored as.
        compute_dtype: `bfloat16` runs the model's matrix products in it: faster on machines that have its instructions (see `capture`).
        n_boot: Bootstrap draws, over groups of test texts.
        seed: Of the pools, the wrong labels and the bootstrap.
        engine: As in `capture`: `"ray"` has the texts read by the workers of a cluster, shard by shard, and then the tasks done by
            them, one a worker at a time. The figures are the same, and a board begun one way goes on the other.
        progress: Whether to draw bars (on stderr).

    Returns:
        The board. Tasks that failed are in `failures`, with the reason; the same call tries them again.

    Raises:
        FileNotFoundError: no tasks there.
        ImportError, ConnectionError: `engine="ray"` without Ray, or without a cluster.
        ValueError: no such setting, family or task; every task fails; the folder holds the activations of another model, or at other
            sites.
        KeyError: no such site.
    """
    check_engine(engine)
    asked = tuple(s for s in SETTINGS if s in {"normal", *settings})
    if unknown := set(settings) - set(SETTINGS):
        raise ValueError(f"there is no setting {min(unknown)!r}; there are {', '.join(SETTINGS)}")
    chosen = named(families)
    model = load_model(model)
    names = [model.site(s).name for s in sites] if sites is not None else list(model.stream_sites)
    several = [source] if isinstance(source, str | Path | Task) else list(source)
    found = read_tasks(source, text=text, label=label, group=group)
    if unknown := set(tasks or ()) - set(found):
        raise ValueError(f"there is no task {min(unknown)!r}; there are {', '.join(list(found)[:10])}, ...")
    wanted = {name: task for name, task in found.items() if tasks is None or name in tasks}
    failures = {name: reason(task) for name, task in wanted.items() if isinstance(task, Exception)}
    usable = {name: task for name, task in wanted.items() if isinstance(task, Task)}
    notes = [f"{name}: {note}" for name, task in usable.items() for note in task.notes]
    if longest is not None:
        usable = _short(model, usable, longest, seed, notes)
    pools: dict[str, Pools] = {}
    for name, task in list(usable.items()):
        try:
            pools[name] = draw_pools(task, train, test, seed)
        except ValueError as error:
            failures[name] = reason(error)
            del usable[name]
    if not usable:
        raise ValueError("no task can be read: " + "; ".join(f"{n}: {why}" for n, why in list(failures.items())[:5]))
    folder = Path(out)
    read = read_texts(
        model, each_once(usable, pools), names, folder, dtype=dtype, compute_dtype=compute_dtype, engine=engine, progress=progress
    )  # fmt: skip
    for name, task in usable.items():
        if cut := read.cut(texts_of(task, pools[name]), model.context):
            notes.append(
                f"{name}: {cut:,} texts fill the {model.context:,} tokens that the model can read; what lies beyond is left out, and "
                "they are read where they were cut"
            )
    reading = Reading(usable, pools, names, folder.resolve(), read, chosen, dtype, compute_dtype, n_boot, seed)
    every: dict[str, dict[str, dict[str, Any]]] = {}
    with stepping("board", len(usable) * (1 + len(asked)), progress) as advance:
        at_sites = dict(
            zip(usable, _answers(reading, [(n, None) for n in usable], engine, failures, advance), strict=True)
        )
        guide = _guide({name: found for name, found in at_sites.items() if found}, names)
        advance(None, len(asked) * (len(usable) - len(guide)))
        questions = [(name, (setting, guide[name])) for setting in asked for name in guide]
        for (name, (setting, _)), found in zip(
            questions, _answers(reading, questions, engine, failures, advance), strict=True
        ):
            every.setdefault(setting, {})[name] = found
    for setting in asked:
        if not any(True for name in usable for _ in conditions(usable[name], pools[name], setting, seed)):
            notes.append(f"the setting {setting!r} applies to none of the tasks{_NEEDS.get(setting, '')}")
    result = Board(
        rows=tuple(_rows(usable, at_sites, every)),
        curves={name: {f: found["curve"] for f, found in each.items() if "curve" in found} for name, each in at_sites.items()},
        sites=tuple(names),
        failures=failures,
        notes=tuple(notes),
        manifest={
            "model": {"name": model.name, "fingerprint": model.fingerprint},
            "source": [one.name if isinstance(one, Task) else str(one) for one in several],
            "arguments": {
                "settings": asked, "families": list(chosen), "train": train, "test": test, "longest": longest, "dtype": dtype,
                "compute_dtype": compute_dtype, "n_boot": n_boot, "seed": seed,
            },
            "versions": versions_of("torch", "transformers", "numpy", "scikit-learn"),
        },
    )  # fmt: skip
    result.save(folder)
    return result


_NEEDS = {
    "scarcity": ": none has more than 8 texts to train on, and two for each class among them",
    "imbalance": f": none has two classes, and texts enough that {RAREST} of the rarer one are in training and in test",
    "noise": ": none has classes",
    "ood": ": none has texts from elsewhere (a file NAME_OOD.csv beside NAME.csv)",
}


def _answers(
    reading: Reading,
    questions: Sequence[Asked],
    engine: Engine,
    failures: dict[str, str],
    advance: Callable[[str | None, int], None],
) -> list[dict[str, Any]]:
    """The figures of each; a task that fails is noted, and the others go on."""

    def shown() -> Iterator[Asked]:
        for name, what in questions:
            advance(f"{_called(what)}: {name}", 0)
            yield name, what

    found: list[dict[str, Any]] = [{} for _ in questions]
    failed: dict[int, str] = {}

    def lost(number: int, why: str) -> tuple[dict[str, Any], str]:
        return reading.kept(questions[number]), why

    for number, (figures, failure) in mapped(reading.answer, shown(), engine, lost=lost):
        found[number] = figures
        if failure:
            failed[number] = failure
        advance(None, 1)
    for number, failure in sorted(failed.items()):
        name, what = questions[number]
        failures[name] = f"{_called(what)}: {failure}"
    return found


def _called(what: tuple[str, str] | None) -> str:
    return "every site" if what is None else what[0]


def _guide(at_sites: Mapping[str, Mapping[str, Any]], sites: Sequence[str]) -> dict[str, str]:
    """For each task, the site where the others of its metric are read best on their validation rows; its own best where it has no others."""
    curves, metric = {}, {}
    for name, families in at_sites.items():
        found = families.get(GUIDE) or next(iter(families.values()))
        curve = np.array(with_nans(found["curve"]["valid"]), float)
        curves[name] = curve - np.nanmean(curve)  # so that a hard task counts as much as an easy one
        metric[name] = found["metric"]  # R2 has no floor: a few tasks of numbers would outvote all others
    out = {}
    for name in curves:
        others = [curve for other, curve in curves.items() if other != name and metric[other] == metric[name]]
        others = others or [curves[name]]
        out[name] = sites[int(np.nanargmax(np.mean(others, axis=0)))]
    return out


def _rows(
    tasks: Mapping[str, Task], at_sites: Mapping[str, Mapping[str, Any]], every: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    for name, task in tasks.items():
        own = {"task": name, "kind": task.kind}
        for family, found in at_sites[name].items():
            yield own | {"family": family, "at": "chosen"} | {k: v for k, v in found.items() if k != "curve"}
        for by_task in every.values():
            for family, figures in by_task.get(name, {}).items():
                for figure in figures:
                    yield own | {"family": family, "at": "shared"} | figure


def _short(model: Model, tasks: dict[str, Task], longest: float, seed: int, notes: list[str]) -> dict[str, Task]:
    """Tasks whose texts have no more tokens in the mean, over two hundred of them."""
    kept = {}
    for name, task in tasks.items():
        some = np.random.default_rng(seed).permutation(len(task))[:200]
        tokens, _ = model.tokenize([task.texts[i] for i in some])
        mean = float(np.mean([len(ids) for ids in tokens]))
        if mean <= longest:
            kept[name] = task
        else:
            notes.append(f"{name} is left out: its texts have {mean:.0f} tokens in the mean, more than {longest:g}")
    return kept
