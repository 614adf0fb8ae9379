"""What is measured of a model, the same in every condition: answers on all tasks, ordinary text, what a probe reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tasks import Items, Task

import probekit as pk
from probekit.surgery import behaviours, damage

OTHERS = 48
"""Items of each task that is not the model's own."""
PROBED = 100
"""Least items to fit a probe on."""


def odds(model: pk.Model, task: Task, items: Items) -> list[float]:
    """Log odds, in nats, of the right answer against the wrong one; above 0 is right."""
    first = behaviours.next_token(items.prompts, [task.answers[0]], [task.answers[1]]).measure(model)
    return [float(v) for v in np.where(items.right == 0, first, -first)]


def answers(model: pk.Model, tasks: Mapping[str, Task], own: str | None = None) -> dict[str, list[float]]:
    """Log odds by task: of the own task (of all where there is none) on all test items, of the others on some of them."""
    parts = {n: task.test if own in (None, n) else task.test.first(OTHERS) for n, task in tasks.items()}
    return {name: odds(model, tasks[name], part) for name, part in parts.items()}


def ordinary(model: pk.Model, texts: list[str]) -> list[float]:
    """Mean negative log-likelihood (nats a token) of each of some paragraphs."""
    return [float(v) for v in damage.perplexity(texts, 64).measure(model)]


def readable(model: pk.Model, task: Task, seed: int) -> dict[str, Any]:
    """What a linear probe reads of the right answer at the last token, at every third site.

    It is fitted on items the model was never tuned on, its penalty and its site are chosen on a fifth of those, and it is
    reported on the test items, beside what words alone give and what shuffled labels give.
    """
    data, sites = dataset(task, seed), model.stream_sites[::3]
    store = pk.capture(model, data, sites=sites, pool="last", progress=False)
    result = pk.sweep(store, data, "right answer", seed=seed, progress=False)
    best = result.best("right answer", metric="accuracy")
    frame = result.to_frame().query("target == 'mean' and metric == 'accuracy' and data == 'test'")
    keep = frame[["site", "source", "value", "low", "high"]].astype(object)
    rows = keep.where(keep.notna(), None).to_dict("records")
    return {"best": {"site": best.site, "value": best.value, "low": best.low, "high": best.high}, "sites": rows}


def dataset(task: Task, seed: int) -> pk.Dataset:
    """Fit and test items as one data set with a split of its own."""
    fit, test = task.fit, task.test
    rng = np.random.default_rng([seed, 0xDA])
    subjects = rng.permutation(np.unique(fit.subject))
    valid = np.isin(fit.subject, subjects[: len(subjects) // 5])
    right = np.concatenate([fit.right, test.right]).astype(int)
    return pk.Dataset(
        task.name,
        texts=(*fit.prompts, *test.prompts),
        labels={"right answer": pk.LabelSet.from_values("right answer", right)},
        groups=np.concatenate([fit.subject, test.subject + fit.subject.max() + 1]),
        split=np.concatenate([np.where(valid, "valid", "train"), np.full(len(test), "test")]),
    )


def variability(model: pk.Model, task: Task) -> float:
    """Variance of the last token's activations over the items to forget, of their mean squared length; after the last block."""
    store = pk.capture(model, task.tune.prompts, sites=model.stream_sites[-1], pool="last", progress=False)
    h = np.concatenate([values for _, values in store.batches(model.stream_sites[-1])]).astype(np.float64)
    return float(h.var(0).sum() / (h**2).sum(1).mean())


def paragraphs(data: Path, count: int, words: int = 45) -> list[str]:
    """Beginnings of paragraphs of WikiText-2."""
    lines = [line.strip() for line in (data / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()]
    long = [" ".join(line.split()[:words]) for line in lines if len(line.split()) >= words and not line.startswith("=")]
    return [long[i] for i in np.linspace(0, len(long) - 1, count).astype(int)]
