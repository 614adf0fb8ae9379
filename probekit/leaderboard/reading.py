"""`Reading`: the texts of all tasks as a model read them, and what probes make of them, a task and setting at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.leaderboard import files
from probekit.leaderboard.families import WORDS, Family, key, linear, reads
from probekit.leaderboard.fitting import Question, SiteScores, question_of, read_site, read_sites, read_words
from probekit.leaderboard.settings import Condition, Pools, conditions
from probekit.leaderboard.tasks import Task
from probekit.leaderboard.texts_read import ReadTexts

Asked = tuple[str, tuple[str, str] | None]
"""A task; and the setting and the site to read it in, or None for every site."""


@dataclass
class Reading:
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

    def answer(self, asked: Asked) -> tuple[dict[str, Any], str]:
        """The figures, and why there are none or some are missing."""
        name, what = asked
        try:
            found, failed = self.every_site(name) if what is None else self.at_site(name, *what)
            return found, "; ".join(f"{family}: {why}" for family, why in failed.items())
        except Exception as error:  # whatever it is, the other tasks are not to be lost
            return {}, reason(error)

    def kept(self, asked: Asked) -> dict[str, Any]:
        """The figures that are there already."""
        return _figures_in(*self._file(*asked), self._keys(*asked))

    def every_site(self, name: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Each linear family at every site, and at the one that is best for it; and why a family has no figures."""
        (condition,) = conditions(self.tasks[name], self.pools[name], "normal", self.seed)
        path, digest = self._file(name, None)
        kept, keys = files.read(path, digest), self._keys(name, None)
        missing = [f for f in keys if keys[f] not in kept]
        failed: dict[str, str] = {}
        if missing:
            question = self._question(name, condition)
            X, X_test = (
                torch.stack([self.activations.read(site, texts) for site in self.sites])
                for texts in self._texts(name, condition)
            )
            what = {family: str(self.families.get(family, family)) for family in missing}
            curves, failed = _together(missing, lambda some: read_sites([what[f] for f in some], X, X_test, question))
            for family, curve in curves.items():
                try:
                    best = int(np.nanargmax(curve.valid))
                    scored = read_site(what[family], X[best], X_test[best], question)
                except Exception as error:  # the other families are not to be lost
                    failed[family] = reason(error)
                    continue
                kept[keys[family]] = {
                    "curve": {"valid": curve.valid, "test": curve.test},
                    **_figures(scored, condition, question, self.sites[best]),
                }
            files.write(path, digest, name, "every site", kept)
        return _figures_in(path, digest, keys), failed

    def at_site(self, name: str, setting: str, site: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Each family at one site, in all conditions of a setting; and why a family has no figures."""
        task, families = self.tasks[name], self.families
        path, digest = self._file(name, (setting, site))
        kept, keys = files.read(path, digest), self._keys(name, (setting, site))
        missing = [f for f in families if keys[f] not in kept and reads(families[f], task)]
        failed: dict[str, str] = {}
        if missing:
            for condition, question in self._asked(name, setting):
                texts = self._texts(name, condition)
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
                        failed[family] = reason(error)
                        kept.pop(keys[family], None)  # all conditions of a setting, or none
                        continue
                    kept.setdefault(keys[family], []).append(
                        _figures(scored, condition, question, None if words else site)
                    )
            files.write(path, digest, name, setting, kept)
        return _figures_in(path, digest, keys), failed

    def _asked(self, name: str, setting: str) -> list[tuple[Condition, Question]]:
        """The conditions of a setting that can be asked: few texts of one group, say, leave none to choose on.

        Raises:
            ValueError: there are conditions, and none can be.
        """
        found, why = [], None
        for condition in conditions(self.tasks[name], self.pools[name], setting, self.seed):
            try:
                found.append((condition, self._question(name, condition)))
            except ValueError as error:
                why = error
        if why is not None and not found:
            raise why
        return found

    def _keys(self, name: str, what: tuple[str, str] | None) -> dict[str, str]:
        """By family that can be asked, what its figures are kept under."""
        families = self.families if what is not None else linear(self.families, self.tasks[name])
        return {family: key(family, self.families.get(family, family)) for family in families}

    def _file(self, name: str, what: tuple[str, str] | None) -> tuple[Path, str]:
        """Where figures are kept, and the digest of what they are made from."""
        setting, sites = ("every site", list(self.sites)) if what is None else (what[0], [what[1]])
        asked = {
            "model": self.activations.model_fingerprint, "sites": sites, "setting": setting, "n_boot": self.n_boot, "seed": self.seed,
            "dtype": self.dtype, "compute_dtype": self.compute_dtype,
        }  # fmt: skip
        return files.path_of(self.folder, name, setting), files.digest_of(self.tasks[name], self.pools[name], asked)

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


def _together(
    families: Sequence[str], read: Callable[[Sequence[str]], Sequence[SiteScores]]
) -> tuple[dict[str, SiteScores], dict[str, str]]:
    """What is read of all families at once; where that fails, of each by itself, and why one has none."""
    try:
        return dict(zip(families, read(families), strict=True)), {}
    except Exception as error:  # whatever it is, the other families are not to be lost
        if len(families) == 1:
            return {}, {families[0]: reason(error)}
    found: dict[str, SiteScores] = {}
    failed: dict[str, str] = {}
    for family in families:
        alone, why = _together([family], read)
        found.update(alone)
        failed.update(why)
    return found, failed


def _figures_in(path: Path, digest: str, keys: Mapping[str, str]) -> dict[str, Any]:
    there = files.read(path, digest)
    return {family: there[k] for family, k in keys.items() if k in there}


def _figures(scored: Any, condition: Condition, question: Question, site: str | None) -> dict[str, Any]:
    low, high = scored.estimate.interval()
    return {
        "setting": condition.setting, "amount": condition.amount, "elsewhere": condition.elsewhere, "site": site,
        "metric": question.metric.name, "value": scored.value, "valid": scored.valid, "test": float(scored.estimate.value[0]),
        "low": float(low[0]), "high": float(high[0]), "train": len(condition.train), "tested": len(condition.test),
    }  # fmt: skip


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error.args[0] if isinstance(error, KeyError) and error.args else error}"
