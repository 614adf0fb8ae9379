"""A robot on a grid, step by step: where a probe reads it beside where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probekit.report.blocks import Block, scripted

FACINGS = ("north", "east", "south", "west")
"""In the order of their numbers; north is up."""


@dataclass(frozen=True)
class GridStep:
    """One step of a walk.

    Attributes:
        word: What was done, as it is to be read.
        robot: The true cell of the robot, row by row from the top left.
        facing: Its true facing, 0-3 as in `FACINGS`.
        markers: `[cell]` markers that lie there.
        place: `[cell]` probability that the robot is there, as it was read.
        heading: `[4]` probability of each facing, as it was read.
    """

    word: str
    robot: int
    facing: int
    markers: Sequence[int] | np.ndarray
    place: Sequence[float] | np.ndarray
    heading: Sequence[float] | np.ndarray


def grid_walk(
    steps: Sequence[GridStep], walls: Sequence[bool] | np.ndarray, *, columns: int = 8, title: str = "", start: int = 0
) -> Block:
    """A walk on a grid: what is read beside what is true, after each step. Slider, buttons, words and arrow keys.

    Args:
        steps: In order.
        walls: `[cell]` whether there is a wall, row by row from the top left.
        columns: Of the grid.
        title: What walk this is.
        start: Step shown first.

    Raises:
        ValueError: no steps; a number of cells that does not fit; a robot outside or on a wall; a facing that there is not.
    """
    walls = np.asarray(walls, bool)
    if not len(steps):
        raise ValueError("a walk needs at least one step")
    if not len(walls) or len(walls) % columns:
        raise ValueError(f"{len(walls)} cells do not make rows of {columns}")
    for number, step in enumerate(steps):
        for name, wanted in (("markers", len(walls)), ("place", len(walls)), ("heading", len(FACINGS))):
            if np.shape(getattr(step, name)) != (wanted,):
                raise ValueError(
                    f"step {number}: {name} has shape {np.shape(getattr(step, name))}, the grid needs ({wanted},)"
                )
        if not 0 <= step.robot < len(walls) or walls[step.robot]:
            raise ValueError(f"step {number}: the robot is on cell {step.robot}, which is a wall or outside the grid")
        if not 0 <= step.facing < len(FACINGS):
            raise ValueError(f"step {number}: there is no facing {step.facing}; facings are 0 to {len(FACINGS) - 1}")
    data = {
        "title": title,
        "columns": columns,
        "rows": len(walls) // columns,
        "facings": list(FACINGS),
        "start": min(max(int(start), 0), len(steps) - 1),
        "walls": walls.astype(int).tolist(),
        "steps": [
            {
                "word": str(step.word),
                "robot": int(step.robot),
                "facing": int(step.facing),
                "markers": np.asarray(step.markers).astype(int).tolist(),
                # whole per mille keep the page small and are finer than the eye
                "place": np.rint(1000 * np.asarray(step.place, float)).astype(int).tolist(),
                "heading": np.rint(1000 * np.asarray(step.heading, float)).astype(int).tolist(),
            }
            for step in steps
        ],
    }
    here = Path(__file__).parent
    return scripted(
        data,
        (here / "grid.js").read_text(encoding="utf-8"),
        style=(here / "grid.css").read_text(encoding="utf-8"),
        label="A robot on a grid, step by step; left and right arrow keys step through it",
    )
