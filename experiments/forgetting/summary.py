"""Tables from what was measured. Intervals are 95 %, from a bootstrap over what items are about."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from tasks import Task

DRAWS = 1000
LEAST = 0.6
"""Accuracy of the tuned model below which there is too little to forget for a gap to mean anything."""
ERASED = ("forgotten, then erased", "erased", "permuted labels erased", "erased at every token")
OTHERS = "erased, read on other items"
Found = Mapping[str, Any]


def tables(tasks: Mapping[str, Task], found: Found, seed: int) -> dict[str, pd.DataFrame]:
    """Every table that the conditions measured so far allow."""
    out = {"forgetting": forgetting(tasks, found, seed)}
    for kind in ("forgotten", "right labels again", "erased"):
        if any(f"{kind} {name}" in found for name in tasks):
            out[f"across tasks, {kind}"] = across(tasks, found, kind, seed)
    out["what a probe reads"] = probes(tasks, found)
    out["erasing"] = erasing(tasks, found, seed)
    if any(f"{OTHERS} {name}" in found for name in tasks):
        out["read on other items"] = read_on_others(tasks, found)
    if all(f"forgotten {name}" in found for name in tasks):
        out["predictors"] = predictors(tasks, found)
    return out


def forgetting(tasks: Mapping[str, Task], found: Found, seed: int) -> pd.DataFrame:
    """Accuracy before and after, and the forget gap: of what tuning gave above guessing, the share that random labels took away."""
    rows = []
    for name, task in tasks.items():
        own = found.get(f"forgotten {name}")
        if own is None:
            continue
        before, after = found["tuned"]["answers"][name], own["answers"][name]
        random = np.array(own["labels"]) == task.tune.right
        taught = (np.array(own["to forget"]) > 0) == random
        row: dict[str, object] = {
            "task": name,
            "plain": shown(right(found["plain"]["answers"][name]), task.test.subject, seed),
            "tuned": shown(right(before), task.test.subject, seed),
            "forgotten": shown(right(after), task.test.subject, seed),
            "gap, items to forget": gap(found["tuned"]["to forget"][name], own["to forget"], task.tune.subject, seed),
            "gap, held out": gap(before, after, task.test.subject, seed),
            "gap, other tasks": other_tasks(tasks, found, f"forgotten {name}", name, seed),
            "random labels learnt": f"{taught.mean():.2f}",
            "confidence before": f"{sure(before):.2f}",
            "confidence after": f"{sure(after):.2f}",
            "AUROC before": auroc(before, task.test.right),
            "AUROC after": auroc(after, task.test.right),
            "perplexity": ratio(own["ordinary"], found["tuned"]["ordinary"], seed),
        }
        if again := found.get(f"right labels again {name}"):
            row["gap, other tasks (right labels)"] = other_tasks(tasks, found, f"right labels again {name}", name, seed)
            row["perplexity (right labels)"] = ratio(again["ordinary"], found["tuned"]["ordinary"], seed)
        rows.append(row)
    return pd.DataFrame(rows)


def across(tasks: Mapping[str, Task], found: Found, kind: str, seed: int) -> pd.DataFrame:
    """Forget gap of every task (column) after each was forgotten (row), on as many test items as were measured there."""
    rows = []
    for name in tasks:
        if own := found.get(f"{kind} {name}"):
            row: dict[str, object] = {"task": name}
            for other, task in tasks.items():
                before, after = paired(found, own, other)
                row[other] = gap(before, after, task.test.subject[: len(before)], seed)
            rows.append(row)
    return pd.DataFrame(rows)


def probes(tasks: Mapping[str, Task], found: Found) -> pd.DataFrame:
    """Test accuracy at the site that validation chose, and what the words alone give; of erased models, the highest of all sites.

    Erasers make the class means of all fitted items equal, so that what is left in the probe's training items is the opposite of what is
    left in its validation items, and validation chooses a site where nothing is read. `read_on_others` has a probe with items of its own.
    """
    rows = []
    for name in tasks:
        read = {"tuned": found["tuned"]["readable"][name]} if "tuned" in found else {}
        for kind in ("forgotten", "forgotten, then erased", "erased", "erased at every token"):
            if own := found.get(f"{kind} {name}"):
                read[kind] = own["readable"]
        row: dict[str, object] = {"task": name}
        for kind, one in read.items():
            sites = [s for s in one["sites"] if s["source"] == "model"]
            best = max(sites, key=lambda s: s["value"]) if "erased" in kind else one["best"]
            said = f"{kind} (highest of {len(sites)} sites)" if "erased" in kind else kind
            row[said] = f"{best['value']:.2f} ({best['low']:.2f} to {best['high']:.2f})"
        surface = [s for one in read.values() for s in one["sites"] if s["source"] == "surface"]
        row["words alone"] = f"{surface[0]['value']:.2f}" if surface else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def erasing(tasks: Mapping[str, Task], found: Found, seed: int) -> pd.DataFrame:
    """What LEACE at every layer does to the answers and what it costs, beside the same with permuted labels."""
    rows = []
    for name, task in tasks.items():
        for kind in ERASED:
            if own := found.get(f"{kind} {name}"):
                before, after = found["tuned"]["answers"][name], own["answers"][name]
                rows.append(
                    {
                        "task": name,
                        "condition": kind,
                        "accuracy": shown(right(after), task.test.subject, seed),
                        "AUROC": auroc(after, task.test.right),
                        "gap, held out": gap(before, after, task.test.subject, seed),
                        "gap, other tasks": other_tasks(tasks, found, f"{kind} {name}", name, seed),
                        "perplexity, at every token": ratio(own["ordinary"], found["tuned"]["ordinary"], seed),
                    }
                )
    return pd.DataFrame(rows)


def read_on_others(tasks: Mapping[str, Task], found: Found) -> pd.DataFrame:
    """What is left after LEACE for a probe with items of its own, and of the model's answers on the items fitted on and on others."""
    rows = []
    for name, task in tasks.items():
        if own := found.get(f"{OTHERS} {name}"):
            sites, best = [s for s in own["readable"]["sites"] if s["source"] == "model"], own["readable"]["best"]
            rows.append(
                {
                    "task": name,
                    "items of erasers, of the probe": "{}, {}".format(*own["items"]),
                    "probe": f"{best['value']:.2f} ({best['low']:.2f} to {best['high']:.2f})",
                    "probe, highest site": f"{max(s['value'] for s in sites):.2f}",
                    "answers, items fitted on: accuracy": f"{right(own['fitted']).mean():.2f}",
                    "AUROC": auroc(own["fitted"], own["fitted right"]),
                    "answers, test: accuracy": f"{right(own['test']).mean():.2f}",
                    "AUROC, test": auroc(own["test"], task.test.right),
                }
            )
    return pd.DataFrame(rows)


def predictors(tasks: Mapping[str, Task], found: Found) -> pd.DataFrame:
    """What is known of a task beforehand, against its forget gap on held-out items: rank correlation over the tasks."""
    gaps, known, names = [], [], []
    for name in tasks:
        before, after = paired(found, found[f"forgotten {name}"], name)
        if right(before).mean() < LEAST:
            continue
        names.append(name)
        gaps.append(one_gap(right(before).mean(), right(after).mean()))
        known.append(
            {
                "accuracy of the tuned model": right(before).mean(),
                "confidence of the tuned model": sure(before),
                "confidence of the plain model": sure(found["plain"]["answers"][name]),
                "variability of the representations": found["tuned"]["variability"][name],
            }
        )
    frame = pd.DataFrame(known)
    rows = []
    for column in frame:
        rho, p = spearman(frame[column].to_numpy(), np.array(gaps))
        each = {name: round(float(value), 3) for name, value in zip(names, frame[column], strict=True)}
        rows.append(
            {"known beforehand": column, "Spearman with the gap": round(rho, 2), "p (all orders)": round(p, 3)} | each
        )
    rows.append(
        {"known beforehand": "(the gap)"} | {name: round(float(g), 3) for name, g in zip(names, gaps, strict=True)}
    )
    return pd.DataFrame(rows).astype(object).fillna("–")


def spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Rank correlation and its exact two-sided p, over all orders."""
    a, b = (pd.Series(v).rank().to_numpy() for v in (x, y))
    if not a.std() or not b.std():
        return float("nan"), float("nan")
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    rho = float((a * b).mean())
    null = np.array([(a * b[list(order)]).mean() for order in permutations(range(len(b)))])
    return rho, float((np.abs(null) >= abs(rho) - 1e-12).mean())


def probe_curves(found: Found) -> dict[str, pd.DataFrame]:
    """By task: accuracy of a probe at each site, in every condition."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for condition, one in found.items():
        read = one.get("readable", {})
        if condition == "tuned":
            for name, of_task in read.items():
                curves.setdefault(name, []).extend({"condition": "tuned", **row} for row in of_task["sites"])
        elif read and not condition.startswith(OTHERS):
            kind = max((k for k in (*ERASED, "forgotten") if condition.startswith(k + " ")), key=len)
            name = condition[len(kind) + 1 :]
            curves.setdefault(name, []).extend({"condition": kind, **row} for row in read["sites"])
    return {name: pd.DataFrame(rows).query("source == 'model'") for name, rows in curves.items()}


def paired(found: Found, own: Mapping[str, Any], task: str) -> tuple[np.ndarray, np.ndarray]:
    """Log odds of the same test items in the tuned model and in a condition."""
    after = np.array(own["answers"][task])
    return np.array(found["tuned"]["answers"][task])[: len(after)], after


def right(odds: Any) -> np.ndarray:
    return (np.asarray(odds) > 0).astype(float)


def sure(odds: Any) -> float:
    """Mean probability of the likelier of the two answers, 0.5 to 1."""
    return float((1 / (1 + np.exp(-np.abs(np.asarray(odds))))).mean())


def one_gap(before: float, after: float) -> float:
    return (before - after) / (before - 0.5) if before > 0.5 else float("nan")


def gap(before: Any, after: Any, subject: np.ndarray, seed: int) -> str:
    a, b = right(before), right(after)
    if a.mean() < LEAST:
        return "–"
    draws = [one_gap(a[rows].mean(), b[rows].mean()) for rows in resampled(subject, seed)]
    return interval(one_gap(a.mean(), b.mean()), draws)


def other_tasks(tasks: Mapping[str, Task], found: Found, condition: str, own: str, seed: int) -> str:
    """Mean forget gap of the other tasks (of those that the tuned model can do `LEAST` or better)."""
    pairs = []
    for name in tasks:
        if name != own:
            before, after = (right(v) for v in paired(found, found[condition], name))
            if before.mean() >= LEAST:
                rows = list(resampled(tasks[name].test.subject[: len(before)], seed))
                pairs.append((before, after, rows))
    if not pairs:
        return "–"
    value = float(np.mean([one_gap(b.mean(), a.mean()) for b, a, _ in pairs]))
    draws = [np.mean([one_gap(b[rows[i]].mean(), a[rows[i]].mean()) for b, a, rows in pairs]) for i in range(DRAWS)]
    return interval(value, draws)


def auroc(odds: Any, answer: Any) -> str:
    """Of the odds of the first answer: what is left of the task whatever the model is inclined to say."""
    first_is_right = np.asarray(answer) == 0
    return f"{roc_auc_score(first_is_right, np.where(first_is_right, odds, -np.asarray(odds))):.2f}"


def ratio(after: list[float], before: list[float], seed: int) -> str:
    """Of perplexities, over paragraphs."""
    apart = np.subtract(after, before)
    draws = [np.exp(apart[rows].mean()) for rows in resampled(np.arange(len(apart)), seed)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{np.exp(apart.mean()):.3g} ({low:.3g} to {high:.3g})"


def shown(values: np.ndarray, subject: np.ndarray, seed: int) -> str:
    return interval(float(values.mean()), [values[rows].mean() for rows in resampled(subject, seed)])


def resampled(subject: np.ndarray, seed: int) -> list[np.ndarray]:
    """Rows of each draw: subjects are drawn again, all their items with them."""
    rng = np.random.default_rng([seed, 0xB0])
    members = [np.flatnonzero(subject == s) for s in np.unique(subject)]
    return [np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]) for _ in range(DRAWS)]


def interval(value: float, draws: Any) -> str:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
