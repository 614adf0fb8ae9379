"""What the board comes to, in tables."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

import probekit as pk

DRAWS = 2000


def beside(board: pk.Board, guide: str) -> pd.DataFrame:
    """Each family beside one, task by task, at the layer they share: mean difference of AUROC with its interval over tasks, Wilcoxon's p
    (after Holm), on how many tasks it is higher and lower, and on how many by more than either's interval allows."""
    frame = board.to_frame()
    mine = frame[frame.setting.eq("normal") & frame.metric.eq("auroc") & frame["at"].eq("shared")]
    wide = mine.pivot_table(index="task", columns="family", values=["test", "low", "high"])
    rows = []
    for family in wide["test"].columns.drop(guide):
        both = wide["test"][[family, guide]].dropna()
        difference = (both[family] - both[guide]).to_numpy()
        mean, low, high = _mean(difference)
        above = (wide["low"][family] > wide["test"][guide]) & (wide["high"][guide] < wide["test"][family])
        below = (wide["high"][family] < wide["test"][guide]) & (wide["low"][guide] > wide["test"][family])
        p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
        rows.append(
            {
                "family": family, "tasks": len(both), "mean difference": mean, "low": low, "high": high, "p": p,
                "higher on": int((difference > 0).sum()), "lower on": int((difference < 0).sum()),
                "clearly higher on": int(above.sum()), "clearly lower on": int(below.sum()),
            }
        )  # fmt: skip
    found = pd.DataFrame(rows).sort_values("mean difference", ascending=False, ignore_index=True)
    order = np.argsort(found.p.to_numpy())
    corrected = np.minimum(1, found.p.to_numpy()[order] * np.arange(len(order), 0, -1))
    found.loc[order, "p"] = np.maximum.accumulate(corrected)
    return found


def depths(board: pk.Board) -> pd.DataFrame:
    """Of the layers that validation chose: how many tasks fall in each quarter of the depth, the AUROC there, and that of the words alone;
    tasks that validation reads best at several layers alike, of which the first would be taken, are a row of their own."""
    best = board.best_sites()
    best = best[best.metric.eq("auroc")]
    names, valid = board.heat("logistic", "valid")
    alike = dict(
        zip(names, np.isclose(valid, np.nanmax(valid, 1, keepdims=True), rtol=0, atol=1e-9).sum(1), strict=True)
    )
    quarter = np.where(best.task.map(alike).to_numpy() > 1, 4, np.minimum((best.depth * 4).astype(int), 3))
    frame = board.to_frame()
    words = frame[frame.setting.eq("normal") & frame.family.eq("words")].groupby("task").test.first()
    rows = []
    for i, name in enumerate(["first quarter", "second", "third", "last quarter", "several layers alike"]):
        there = best[quarter == i]
        rows.append((name, len(there), there.test.mean(), words.reindex(there.task).mean()))
    return pd.DataFrame(rows, columns=["depth", "tasks", "mean AUROC", "words alone"])


def layers(board: pk.Board) -> pd.DataFrame:
    """Mean AUROC of a logistic probe over the tasks with classes at each site, on validation and on test."""
    classes = board.best_sites().query("metric == 'auroc'").task
    found = {"site": list(board.sites)}
    for what in ("valid", "test"):
        names, values = board.heat("logistic", what)
        found[what] = np.nanmean(values[np.isin(names, classes)], 0) if len(classes) else np.nan
    return pd.DataFrame(found)


def without(board: pk.Board, names: Collection[str]) -> pd.DataFrame:
    """The leaderboard at each family's own site without some tasks."""
    rows = tuple(row for row in board.rows if row["task"] not in names)
    return replace(board, rows=rows).leaderboard()


def varied(board: pk.Board, setting: str) -> pd.DataFrame:
    """A row an amount, a column a family: mean over tasks with its interval; empty where the setting was not asked for."""
    found = board.by_amount(setting)
    if found.empty:
        return found
    found["text"] = [f"{r['mean']:.3f} ({r.low:.3f} to {r.high:.3f})" for _, r in found.iterrows()]
    table = found.pivot(index="amount", columns="family", values="text").reset_index()
    tasks = found.groupby("amount").tasks.max()
    return table.assign(tasks=table.amount.map(tasks))


def elsewhere(board: pk.Board, family: str = "logistic") -> pd.DataFrame:
    """AUROC on the task's own test texts and on those from elsewhere, with intervals, and the same of the words alone."""
    frame = board.to_frame()
    mine = frame[frame["at"].eq("shared") & frame.family.isin([family, "words"]) & frame.metric.eq("auroc")]
    there = mine[mine.setting.eq("ood")]
    rows = []
    for task in there.task.unique():
        row = {"task": task}
        for name in (family, "words"):
            for setting, what in (("normal", "own"), ("ood", "elsewhere")):
                one = mine[mine.task.eq(task) & mine.family.eq(name) & mine.setting.eq(setting)]
                if len(one):
                    row[f"{name}, {what}"] = "{test:.3f} ({low:.3f} to {high:.3f})".format(**one.iloc[0])
        rows.append(row)
    return pd.DataFrame(rows)


def paired(each: pd.DataFrame) -> pd.DataFrame:
    """Two columns of AUROC, `ours` and `theirs`, over tasks: means, the mean difference with its interval, Wilcoxon's p."""
    difference = (each.ours - each.theirs).to_numpy()
    mean, low, high = _mean(difference)
    p = float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0
    row = {
        "tasks": len(each), "ours": each.ours.mean(), "theirs": each.theirs.mean(), "difference": mean, "low": low, "high": high, "p": p,
        "higher on": int((difference > 0).sum()), "lower on": int((difference < 0).sum()), "seconds of theirs": each.seconds.sum(),
    }  # fmt: skip
    return pd.DataFrame([row])


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    """With a 95 % interval by bootstrap over tasks."""
    picks = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
