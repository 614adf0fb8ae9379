"""`Board`: the figures of many tasks, families ranked, where each task is read best."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.files import write_whole
from probekit.leaderboard.ranks import Ranks, rank_families

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = 1
RECORD = "board.json"
SHOWN = 10
"""Notes that the summary reads out."""
COLUMNS = (
    "task", "kind", "family", "at", "setting", "amount", "elsewhere", "site", "metric", "value", "valid", "test", "low", "high",
    "train", "tested",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Board:
    """Families of probes on many tasks.

    Attributes:
        rows: A dict a figure, with the keys of `to_frame`.
        curves: By task and linear family, `valid` and `test` at every site.
        sites: In forward order.
        failures: Tasks that failed, and why.
        notes: What was left out.
        manifest: Model, arguments, versions.
    """

    rows: tuple[Mapping[str, Any], ...]
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]]
    sites: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """A row a figure: task, kind, family, at (`chosen` or `shared` site), setting, amount (of what varies in the setting),
        elsewhere, site, metric, value (of the family's parameter), valid, test with `low` and `high`, train and tested (texts)."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(COLUMNS))

    def ranks(self, setting: str = "normal", at: str = "chosen", metric: str = "auroc") -> Ranks:
        """Families ranked over the tasks that all of them read.

        Args:
            setting: Conditions of a setting are averaged within a task.
            at: `"chosen"`: each family at its own best site; `"shared"`: all at the same, with words and estimators of your own.
            metric: `auroc` of classes, or `r2` of numbers.

        Raises:
            ValueError: there is no such figure.
        """
        frame = self.to_frame()
        known = frame.setting.eq(setting) & frame.metric.eq(metric) & frame["at"].eq(at)
        if not known.any():
            raise ValueError(
                f"there is no {metric} at the {at} site in the setting {setting!r}; there are "
                + ", ".join(sorted({f"{r.metric} {r.at} {r.setting}" for r in frame.itertuples()}))
            )
        table = frame[known].pivot_table(index="task", columns="family", values="test", sort=False)
        table = table[
            [f for f in table if table[f].notna().sum() * 2 > len(table)]
        ]  # a family that reads few tasks would cost all
        return rank_families(tuple(map(str, table.columns)), table.to_numpy())

    def leaderboard(self, setting: str = "normal", at: str = "chosen", metric: str = "auroc") -> pd.DataFrame:
        """Families, best first: mean score over tasks with its 95 % interval, mean rank, and whether the family's rank is within the
        critical difference of the best one's (Nemenyi); `p` is of the pair with the best (Wilcoxon, Holm)."""
        import pandas as pd

        ranks = self.ranks(setting, at, metric)
        return pd.DataFrame(
            {
                "family": ranks.families,
                f"mean {metric}": ranks.mean,
                "low": ranks.low,
                "high": ranks.high,
                "rank": ranks.rank,
                "as good as the best": ranks.rank - ranks.rank[0] <= ranks.difference,
                "p against the best": ranks.pairs[0],
                "tasks": ranks.tasks,
            }
        )

    def best_sites(self, family: str = "logistic") -> pd.DataFrame:
        """Where each task is read best by a family (chosen on validation): task, site, depth in 0..1, valid, test with its interval."""
        frame = self.to_frame()
        mine = frame[frame["at"].eq("chosen") & frame.family.eq(family)]
        depth = {site: i / max(len(self.sites) - 1, 1) for i, site in enumerate(self.sites)}
        columns = ["task", "site", "depth", "metric", "valid", "test", "low", "high"]
        return mine.assign(depth=mine.site.map(depth))[columns].reset_index(drop=True)

    def by_amount(self, setting: str, metric: str = "auroc") -> pd.DataFrame:
        """Mean score over tasks by what varies in a setting: family, amount, mean, low, high (over tasks), tasks.

        The tasks are the same for all amounts: those that have every amount which half of the tasks have. Amounts that some of these
        lack (more examples than their pool, say) are left out. They are the same for all families, too: those that every family has which
        has half of them; the others are left out.
        """
        import pandas as pd

        frame = self.to_frame()
        mine = frame[frame.setting.eq(setting) & frame.metric.eq(metric) & frame["at"].eq("shared")]
        there = mine[["task", "amount"]].drop_duplicates()
        common = there.amount.value_counts()
        common = common[2 * common >= there.task.nunique()].index
        count = there[there.amount.isin(common)].groupby("task").size()
        mine = mine[mine.amount.isin(common) & mine.task.isin(count[count == len(common)].index)]
        known = mine[mine.test.notna()].groupby(["family", "task"]).size().eq(len(common))
        table = known.unstack("family", fill_value=False)
        table = table.loc[:, 2 * table.sum() >= len(table)]
        while len(table.columns) > 1 and not table.all(axis=1).any():
            table = table.drop(columns=table.sum().idxmin())
        mine = mine[mine.family.isin(table.columns) & mine.task.isin(table.index[table.all(axis=1)])]
        rng, rows = np.random.default_rng(0), []
        for (family, amount), part in mine.groupby(["family", "amount"], sort=False):
            scores = part.test.dropna().to_numpy()
            draws = rng.choice(scores, (1000, len(scores))).mean(1) if len(scores) > 1 else np.array([np.nan])
            low, high = np.quantile(draws, [0.025, 0.975])
            rows.append((family, amount, scores.mean() if len(scores) else np.nan, low, high, len(scores)))
        return pd.DataFrame(rows, columns=["family", "amount", "mean", "low", "high", "tasks"])

    def heat(self, family: str = "logistic", what: str = "test") -> tuple[list[str], np.ndarray]:
        """Tasks, and `[task, site]` the family's figure there; `what` is `test` (never chosen by) or `valid`."""
        names = [name for name, families in self.curves.items() if family in families]
        rows = [[np.nan if v is None else v for v in self.curves[name][family][what]] for name in names]
        return names, np.array(rows, float).reshape(len(names), len(self.sites))

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<Board of {len(self.curves)} tasks at {len(self.sites)} sites{failed}; .summary() reads it out>"

    def summary(self) -> str:
        """The board in a few lines."""
        lines = [repr(self)[1:].split(";")[0]]
        for at, metric in (("chosen", "auroc"), ("shared", "auroc"), ("chosen", "r2")):
            try:
                ranks = self.ranks(at=at, metric=metric)
            except ValueError:
                continue
            what = "each at its own site" if at == "chosen" else "all at one site"
            count = f"{ranks.tasks} task{'s' * (ranks.tasks != 1)}"
            differ = f" (ranks differ from {ranks.difference:.2f} on)" if len(ranks.families) > 1 else ""
            lines.append(f"  {metric}, {what}, {count}{differ}:")
            for i, family in enumerate(ranks.families):
                lines.append(
                    f"    {family:<22} {ranks.mean[i]:.3f}"
                    + (
                        f" ({ranks.low[i]:.3f} to {ranks.high[i]:.3f}), rank {ranks.rank[i]:.2f}"
                        if ranks.tasks > 1
                        else ""
                    )
                )
        lines += [f"  note: {note}" for note in self.notes[:SHOWN]]
        if len(self.notes) > SHOWN:
            lines.append(f"  and {len(self.notes) - SHOWN} more notes of this kind (.notes, and on the page)")
        lines += [f"  failed: {name}: {why}" for name, why in self.failures.items()]
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Families by mean rank with their critical difference."""
        from probekit.report.board_figures import critical_difference

        return critical_difference(self.ranks())

    def save_page(self, path: str | os.PathLike[str], *, title: str | None = None, command: str | None = None) -> Path:
        """Write ranks, curves, the heat map of tasks and sites, and all figures as one HTML file that opens without a network."""
        from probekit.report.board_page import save_board_page

        return save_board_page(self, path, title=title, command=command)

    def save(self, folder: str | Path) -> Path:
        """Write `board.json` to a folder, made if need be."""
        folder = Path(folder)
        document = {
            "format": FORMAT, "rows": [dict(r) for r in self.rows], "curves": self.curves, "sites": self.sites,
            "failures": dict(self.failures), "notes": self.notes, "manifest": self.manifest,
        }  # fmt: skip
        write_whole(folder / RECORD, json.dumps(document, default=str, allow_nan=False))
        return folder

    @staticmethod
    def load(folder: str | Path) -> Board:
        """Read what `save` (and `board`) wrote.

        Raises:
            FileNotFoundError: no board there.
            ValueError: a damaged one.
        """
        path = Path(folder) / RECORD
        if not path.is_file():
            raise FileNotFoundError(f"there is no board in {folder}: {RECORD} is missing")
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.pop("format") != FORMAT:
                raise ValueError("its format is not known here")
            document |= {name: tuple(document[name]) for name in ("rows", "sites", "notes")}
            return Board(**document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no board, or a damaged one ({error})") from error
