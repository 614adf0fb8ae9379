"""The page of a board: which family wins where, at which layer, and what scarce, unbalanced or wrong labels do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.report import blocks, board_figures
from probekit.report.blocks import Block, Page

if TYPE_CHECKING:
    import pandas as pd

    from probekit.leaderboard.result import Board

_METRICS = {"auroc": "classes", "r2": "numbers"}


def save_board_page(
    board: Board, path: str | os.PathLike[str], *, title: str | None = None, command: str | None = None
) -> Path:
    """See `Board.save_page`."""
    model = str((board.manifest.get("model") or {}).get("name", "the model"))
    page = Page(title or f"{len(board.curves)} tasks read from {model}", "Every layer, every family of probes")
    page.add(blocks.text(_answer(board), strong=True))
    if board.failures:
        page.add(blocks.notes([f"{name} failed: {why}" for name, why in board.failures.items()]))
    page.heading("Families")
    page.text(
        "A dot is a family's mean rank over tasks; families joined by a bar do not differ at the 5 % level (Friedman's test, then Nemenyi's "
        "critical difference). Each task counts once. Scores are of test texts; penalties and layers were chosen on others."
    )
    named = {
        f"{_METRICS[metric]}, {_at(at)}": _ranked(board, at, metric)
        for metric in _METRICS
        for at in ("chosen", "shared")
    }
    page.add(blocks.tabs({name: block for name, block in named.items() if block is not None}))
    amounts = {setting: [m for m in _METRICS if len(board.by_amount(setting, m))] for setting in board_figures.AMOUNTS}
    if any(amounts.values()):
        page.heading("Little, unbalanced, and wrong")
        page.text("Mean over tasks at the shared site, with 95 % intervals over tasks.")
        page.add(
            blocks.tabs(
                {
                    setting if metric == "auroc" else f"{setting}, numbers": blocks.figure(
                        board_figures.by_amount(board, setting, metric)
                    )
                    for setting, metrics in amounts.items()
                    for metric in metrics
                }
            )
        )
    frame = board.to_frame()
    elsewhere = frame[frame.setting.eq("ood")]
    if len(elsewhere):
        page.heading("Texts from elsewhere")
        page.table(
            _elsewhere(frame),
            "The same probe on its own test texts and on those from elsewhere, both at the shared site.",
        )
    page.heading("Tasks and layers")
    family = "logistic" if any("logistic" in each for each in board.curves.values()) else "ridge"
    page.text(
        f"Test scores of the {board_figures.said(family)} probe at every layer, to look at: the layer that counts was chosen on validation texts, so "
        "the best of a row is a little too good. Sorted by the best."
    )
    for metric in _METRICS:
        if any(row["metric"] == metric for row in board.rows if row["family"] == family and row["at"] == "chosen"):
            page.figure(board_figures.tasks_by_site(board, family, metric))
    page.figure(board_figures.best_depths(board, [family]), "The layer that validation chose, counted over tasks.")
    shown = frame[frame["at"].eq("chosen")].drop(columns=["at", "setting", "amount", "elsewhere", "value"])
    page.add(blocks.details(f"All {len(shown):,} scores at chosen sites", blocks.table(shown)))
    page.heading("What was left out")
    page.add(blocks.details(f"{len(board.notes)} notes", blocks.notes(list(board.notes), "Nothing.")))
    page.heading("Make it again")
    if command:
        page.add(blocks.code(command))
    page.add(blocks.facts({**(board.manifest.get("model") or {}), **(board.manifest.get("arguments") or {}), **(board.manifest.get("versions") or {})}))  # fmt: skip
    return page.write(path).resolve()


def _at(at: str) -> str:
    return "each at its own layer" if at == "chosen" else "all at one layer"


def _ranked(board: Board, at: str, metric: str) -> Block | None:
    try:
        ranks = board.ranks(at=at, metric=metric)
    except ValueError:
        return None
    table = blocks.table(board.leaderboard(at=at, metric=metric))
    if len(ranks.families) < 2:
        return table
    p = "" if ranks.p != ranks.p else f" Friedman's test that all are the same: p = {ranks.p:.2g}."
    return blocks.columns(blocks.figure(board_figures.critical_difference(ranks), f"{ranks.tasks} tasks.{p}"), table)


def _answer(board: Board) -> str:
    try:
        ranks = board.ranks()
    except ValueError:
        return f"{len(board.curves)} tasks."
    best = ranks.families[0]
    same = [
        f
        for f, rank in zip(ranks.families[1:], ranks.rank[1:], strict=True)
        if rank - ranks.rank[0] <= ranks.difference
    ]
    sites = board.best_sites(best)
    depth = sites.depth.median()
    words = f"{board_figures.said(best)} reads {ranks.tasks} tasks of classes with a mean AUROC of {ranks.mean[0]:.3f} ({ranks.low[0]:.3f} to {ranks.high[0]:.3f}), "
    words += f"the middle one of them {depth:.0%} of the way through the layers. "
    return words + (
        f"Not to be told apart from it: {', '.join(map(board_figures.said, same))}."
        if same
        else "Every other family ranks behind it."
    )


def _elsewhere(frame: pd.DataFrame) -> pd.DataFrame:
    """The score on the task's own test texts beside that on texts from elsewhere."""
    shared = frame[frame["at"].eq("shared")]
    own = shared[shared.setting.eq("normal")].set_index(["task", "family"])[["test", "low", "high"]]
    other = shared[shared.setting.eq("ood")].set_index(["task", "family"])[["test", "low", "high", "tested"]]
    both = own.join(other, suffixes=("", " elsewhere"), how="inner").reset_index()
    return both.rename(columns={"test": "own texts", "test elsewhere": "elsewhere", "tested": "texts elsewhere"})
