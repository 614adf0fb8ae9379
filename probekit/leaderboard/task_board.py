"""`board`: many tasks, every layer, every family of probes, one model; goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.engine import Engine, check_engine, mapped
from probekit.files import with_nans
from probekit.leaderboard import files
from probekit.leaderboard.families import DEFAULT, GUIDE, WORDS, Families, Family, key, linear, named, reads
from probekit.leaderboard.fitting import Question, question_of, read_site, read_sites, read_words
from probekit.leaderboard.result import Board
from probekit.leaderboard.settings import (
    RAREST,
    SETTINGS,
    Condition,
    Pools,
    conditions,
    draw_pools,
    each_once,
    texts_of,
)
from probekit.leaderboard.tasks import Task, read_tasks
from probekit.leaderboard.texts_read import ReadTexts, read_texts
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
    the shared site only, since a handful of texts cannot choose among thirty sites.

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
    failures = {name: _reason(task) for name, task in wanted.items() if isinstance(task, Exception)}
    usable = {name: task for name, task in wanted.items() if isinstance(task, Task)}
    notes = [f"{name}: {note}" for name, task in usable.items() for note in task.notes]
    if longest is not None:
        usable = _short(model, usable, longest, seed, notes)
    pools: dict[str, Pools] = {}
    for name, task in list(usable.items()):
        try:
            pools[name] = draw_pools(task, train, test, seed)
        except ValueError as error:
            failures[name] = _reason(error)
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
    reading = _Reading(usable, pools, names, folder.resolve(), read, chosen, dtype, compute_dtype, n_boot, seed)
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

_Asked = tuple[str, tuple[str, str] | None]
"""A task; and the setting and the site to read it in, or None for every site."""


def _answers(
    reading: _Reading,
    questions: Sequence[_Asked],
    engine: Engine,
    failures: dict[str, str],
    advance: Callable[[str | None, int], None],
) -> list[dict[str, Any]]:
    """The figures of each; a task that fails is noted, and the others go on."""

    def shown() -> Iterator[_Asked]:
        for name, what in questions:
            advance(f"{_called(what)}: {name}", 0)
            yield name, what

    found: list[dict[str, Any]] = [{} for _ in questions]
    failed: dict[int, str] = {}

    def lost(why: str) -> tuple[dict[str, Any], str]:
        return {}, why

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


@dataclass
class _Reading:
    """The texts of all tasks, read once by the model, and the figures of each task. It holds no model, so that it can be sent."""

    tasks: Mapping[str, Task]
    pools: Mapping[str, Pools]
    sites: list[str]
    folder: Path
    activations: ReadTexts
    families: Mapping[str, Family]
    dtype: str
    compute_dtype: str | None
    n_boot: int
    seed: int

    def answer(self, asked: _Asked) -> tuple[dict[str, Any], str]:
        """The figures, and why there are none or some are missing."""
        name, what = asked
        try:
            found, failed = self.every_site(name) if what is None else self.at_site(name, *what)
            return found, "; ".join(f"{family}: {why}" for family, why in failed.items())
        except Exception as error:  # whatever it is, the other tasks are not to be lost
            return {}, _reason(error)

    def every_site(self, name: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Each linear family at every site, and at the one that is best for it; and why a family has no figures."""
        (condition,) = conditions(self.tasks[name], self.pools[name], "normal", self.seed)
        path, digest = files.path_of(self.folder, name, "every site"), self._digest(name, "every site", self.sites)
        kept = files.read(path, digest)
        families = self.families
        keys = {f: key(f, families.get(f, f)) for f in linear(families, self.tasks[name])}
        missing = [f for f in keys if keys[f] not in kept]
        failed: dict[str, str] = {}
        if missing:
            question = self._question(name, condition)
            X, X_test = (
                torch.stack([self.activations.read(site, texts) for site in self.sites])
                for texts in self._texts(name, condition)
            )
            for family in missing:
                what = str(families.get(family, family))
                try:
                    curve = read_sites(what, X, X_test, question)
                    best = int(np.nanargmax(curve.valid))
                    scored = read_site(what, X[best], X_test[best], question)
                except Exception as error:  # the other families are not to be lost
                    failed[family] = _reason(error)
                    continue
                kept[keys[family]] = {
                    "curve": {"valid": curve.valid, "test": curve.test},
                    **_figures(scored, condition, question, self.sites[best]),
                }
            files.write(path, digest, name, "every site", kept)
            kept = files.read(path, digest)
        return {family: kept[keys[family]] for family in keys if keys[family] in kept}, failed

    def at_site(self, name: str, setting: str, site: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Each family at one site, in all conditions of a setting; and why a family has no figures."""
        task, families = self.tasks[name], self.families
        path, digest = files.path_of(self.folder, name, setting), self._digest(name, setting, [site])
        kept = files.read(path, digest)
        keys = {f: key(f, families[f]) for f in families}
        missing = [f for f in families if keys[f] not in kept and reads(families[f], task)]
        failed: dict[str, str] = {}
        if missing:
            for condition in conditions(task, self.pools[name], setting, self.seed):
                question, texts = self._question(name, condition), self._texts(name, condition)
                X, X_test = (self.activations.read(site, some) for some in texts)
                for family in missing:
                    if family in failed:
                        continue
                    words = families[family] == WORDS
                    try:
                        scored = (
                            read_words(*texts, question) if words else read_site(families[family], X, X_test, question)
                        )
                    except Exception as error:  # the other families are not to be lost
                        failed[family] = _reason(error)
                        kept.pop(keys[family], None)  # all conditions of a setting, or none
                        continue
                    kept.setdefault(keys[family], []).append(
                        _figures(scored, condition, question, None if words else site)
                    )
            files.write(path, digest, name, setting, kept)
            kept = files.read(path, digest)
        return {family: kept[keys[family]] for family in families if keys[family] in kept}, failed

    def _digest(self, name: str, setting: str, sites: Sequence[str]) -> str:
        asked = {
            "model": self.activations.model_fingerprint, "sites": list(sites), "setting": setting, "n_boot": self.n_boot, "seed": self.seed,
            "dtype": self.dtype, "compute_dtype": self.compute_dtype,
        }  # fmt: skip
        return files.digest_of(self.tasks[name], self.pools[name], asked)

    def _question(self, name: str, condition: Condition) -> Question:
        task = self.tasks[name]
        if condition.elsewhere is None:
            truth, groups = task.values[condition.test], task.groups[condition.test]
        else:
            data = task.elsewhere[condition.elsewhere]
            labels = next(iter(data.labels))
            truth, groups = data.label_set(labels).values[condition.test, 0], data.groups[condition.test]  # type: ignore[index]
        return question_of(
            task.kind, task.labels.classes, condition.labels, task.groups[condition.train], truth, groups,
            n_boot=self.n_boot, seed=self.seed,
        )  # fmt: skip

    def _texts(self, name: str, condition: Condition) -> tuple[list[str], list[str]]:
        """To train on, and to test on."""
        task = self.tasks[name]
        where = task.texts if condition.elsewhere is None else task.elsewhere[condition.elsewhere].texts or ()
        return [task.texts[i] for i in condition.train], [where[i] for i in condition.test]


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


def _figures(scored: Any, condition: Condition, question: Question, site: str | None) -> dict[str, Any]:
    low, high = scored.estimate.interval()
    return {
        "setting": condition.setting, "amount": condition.amount, "elsewhere": condition.elsewhere, "site": site,
        "metric": question.metric.name, "value": scored.value, "valid": scored.valid, "test": float(scored.estimate.value[0]),
        "low": float(low[0]), "high": float(high[0]), "train": len(condition.train), "tested": len(condition.test),
    }  # fmt: skip


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


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error.args[0] if isinstance(error, KeyError) and error.args else error}"


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
