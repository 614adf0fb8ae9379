"""Karel's world: a robot on an 8 x 8 grid whose outer ring is wall, with walls and markers inside; for many worlds at once.

Cells are numbered 0-63 row by row from the top left; the 36 inner ones are rows and columns 1 to 6. Facings are numbered
clockwise from north, and north is up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SIZE = 8
CELLS = SIZE * SIZE
MOST_MARKERS = 10
FACINGS = ("north", "east", "south", "west")
STEP = np.array([-SIZE, 1, SIZE, -1], np.int64)
"""`[4]`: what one move adds to the number of the cell, by facing."""

RING: np.ndarray = np.pad(np.zeros((SIZE - 2, SIZE - 2), bool), 1, constant_values=True).ravel()
"""`[64]` bool: the outer ring, which is always wall."""
INNER = np.flatnonzero(~RING)
"""`[36]`: the cells inside the ring, in order."""

_ROBOTS = "^>v<"
_TEN = "X"


class WorldError(ValueError):
    """Something that is no world of Karel's."""


@dataclass(frozen=True)
class Worlds:
    """Some worlds, checked when they are made.

    Attributes:
        cell: `[world]` integer cell 0-63 of the robot.
        facing: `[world]` integer facing 0-3 of the robot.
        walls: `[world, 64]` bool; the outer ring is always wall.
        markers: `[world, 64]` int8 markers on each cell, 0 to 10.

    Raises:
        WorldError: shapes that do not fit; a robot outside the grid or on a wall; a hole in the ring; a number of
            markers outside 0..10, or markers on a wall. Names the world (from 0) and the cell.
    """

    cell: np.ndarray
    facing: np.ndarray
    walls: np.ndarray
    markers: np.ndarray

    def __post_init__(self) -> None:
        count = np.asarray(self.markers)
        if count.ndim != 2 or count.shape[1:] != (CELLS,):
            raise WorldError(f"markers must be [world, {CELLS}], got shape {count.shape}")
        n = len(count)
        wrong = (count < 0) | (count > MOST_MARKERS)
        if wrong.any():
            world, where = np.argwhere(wrong)[0]
            raise WorldError(
                f"world {world} has {count[world, where]} markers on {cell_name(where)}: a cell holds 0 to {MOST_MARKERS}"
            )
        walls = np.asarray(self.walls, bool)
        for name, array, shape in (
            ("walls", walls, (n, CELLS)),
            ("cell", np.asarray(self.cell), (n,)),
            ("facing", np.asarray(self.facing), (n,)),
        ):
            if array.shape != shape:
                raise WorldError(f"{name} must have shape {shape} for {n} worlds, got {array.shape}")
        cell, facing = np.asarray(self.cell, np.int8), np.asarray(self.facing, np.int8)
        for wrong, what in (
            ((cell < 0) | (cell >= CELLS), f"no robot on the grid (its cell lies in 0..{CELLS - 1})"),
            ((facing < 0) | (facing > 3), "a robot that faces nowhere (its facing lies in 0..3)"),
        ):
            if wrong.any():
                raise WorldError(f"world {np.flatnonzero(wrong)[0]} has {what}")
        for wrong, what in (
            (~walls & RING, "has a hole in its outer ring"),
            (walls & (count > 0), "has markers on a wall"),
        ):
            if wrong.any():
                world, where = np.argwhere(wrong)[0]
                raise WorldError(f"world {world} {what}, on {cell_name(where)}")
        inside = walls[np.arange(n), cell]
        if inside.any():
            world = int(np.flatnonzero(inside)[0])
            raise WorldError(f"world {world} has its robot on a wall, on {cell_name(cell[world])}")
        for name, array in (("cell", cell), ("facing", facing), ("walls", walls), ("markers", count.astype(np.int8))):
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.cell)

    def rows(self, index: np.ndarray | slice) -> Worlds:
        """Some of the worlds, in the order of `index`."""
        return Worlds(self.cell[index], self.facing[index], self.walls[index], self.markers[index])

    def draw(self, world: int = 0) -> str:
        """One world as eight lines of text; `read_worlds` reads it.

        `#` is wall, `.` an empty cell, `1` to `9` and `X` (ten) are markers, and `^ > v <` the robot. What the robot
        stands on, if anything, is said in a ninth line: `under the robot: 3`.
        """
        count = self.markers[world]
        signs = np.where(self.walls[world], "#", np.array([".", *"123456789", _TEN])[count])
        signs[self.cell[world]] = _ROBOTS[self.facing[world]]
        lines = ["".join(row) for row in signs.reshape(SIZE, SIZE)]
        below = int(count[self.cell[world]])
        return "\n".join([*lines, f"under the robot: {below}"] if below else lines)


def join_worlds(several: Sequence[Worlds]) -> Worlds:
    """All worlds of several, one after the other."""
    return Worlds(
        *(np.concatenate([getattr(w, name) for w in several]) for name in ("cell", "facing", "walls", "markers"))
    )


def cell_name(cell: int | np.integer) -> str:
    """`row 2, column 5` for cell 21."""
    return "row {}, column {}".format(*divmod(int(cell), SIZE))


def make_world(
    robot: tuple[int, int] | None,
    facing: str,
    walls: Iterable[tuple[int, int]] = (),
    markers: Mapping[tuple[int, int], int] | None = None,
) -> Worlds:
    """One world from rows and columns, 0 to 7 from the top left.

    Args:
        robot: Row and column of the robot.
        facing: `north`, `east`, `south` or `west`.
        walls: Row and column of each wall inside the outer ring.
        markers: How many markers lie on a cell.

    Raises:
        WorldError: no robot, a facing that there is not, a place outside the grid, and whatever `Worlds` refuses.
    """
    if robot is None:
        raise WorldError("the world has no robot: give its row and column")
    if facing not in FACINGS:
        raise WorldError(f"{facing!r} is no facing: the robot faces {', '.join(FACINGS)}")
    wall, count = RING.copy(), np.zeros(CELLS, np.int64)
    for place in walls:
        wall[_cell(place)] = True
    for place, markers_there in (markers or {}).items():
        count[_cell(place)] = markers_there
    return Worlds(np.array([_cell(robot)]), np.array([FACINGS.index(facing)]), wall[None], count[None])


def _cell(place: tuple[int, int]) -> int:
    row, column = place
    if not (0 <= row < SIZE and 0 <= column < SIZE):
        raise WorldError(f"row {row}, column {column} lies outside the grid: both go from 0 to {SIZE - 1}")
    return SIZE * row + column


def read_worlds(drawings: Sequence[str]) -> Worlds:
    """Worlds from drawings, as `Worlds.draw` makes them.

    Raises:
        WorldError: not eight lines of eight signs, an unknown sign, no robot or two, a count out of range. Names the
            drawing (from 0), and the line and sign (from 1).
    """
    if isinstance(drawings, str):
        raise TypeError("drawings must be a sequence of strings, one a world, not one string: wrap it in a list")
    cells, facings, walls, markers = [], [], [], []
    for number, drawing in enumerate(drawings):
        lines = drawing.strip().split("\n")
        below = 0
        if len(lines) == SIZE + 1:
            said, _, value = lines.pop().partition(":")
            if said.strip() != "under the robot" or not value.strip().isdigit():
                raise WorldError(f"drawing {number}, line 9: expected 'under the robot: COUNT'")
            below = int(value)
        if len(lines) != SIZE or any(len(line) != SIZE for line in lines):
            raise WorldError(f"drawing {number} is not {SIZE} lines of {SIZE} signs")
        signs = "".join(lines)
        robots = [cell for cell, sign in enumerate(signs) if sign in _ROBOTS]
        if len(robots) != 1:
            raise WorldError(
                f"drawing {number} has {len(robots) or 'no'} robot{'s' * (len(robots) > 1)}; a world has one (^ > v <)"
            )
        count = np.zeros(CELLS, np.int64)
        for cell, sign in enumerate(signs):
            if sign == _TEN or sign.isdigit():
                count[cell] = MOST_MARKERS if sign == _TEN else int(sign)
            elif sign not in "#." + _ROBOTS:
                line, column = divmod(cell, SIZE)
                raise WorldError(f"drawing {number}, line {line + 1}, sign {column + 1}: {sign!r} means nothing")
        count[robots[0]] = below
        cells.append(robots[0])
        facings.append(_ROBOTS.index(signs[robots[0]]))
        walls.append([sign == "#" for sign in signs])
        markers.append(count)
    if not cells:
        raise WorldError("no drawings given")
    return Worlds(np.array(cells), np.array(facings), np.array(walls), np.stack(markers))


def random_worlds(
    n: int, rng: np.random.Generator, *, wall_density: float = 0.1, marker_density: float = 0.1
) -> Worlds:
    """Worlds in which the robot stands anywhere inside, facing any way, and cells are walls or hold markers independently.

    Args:
        n: Number of worlds.
        rng: Source of all randomness.
        wall_density: Probability of a wall on an inner cell other than the robot's.
        marker_density: Probability of markers on an inner cell without a wall. How many there are is `marker_counts`.
    """
    cell, facing = rng.choice(INNER, n), rng.integers(0, 4, n)
    walls = (rng.random((n, CELLS)) < wall_density) | RING
    walls[np.arange(n), cell] = False
    there = (rng.random((n, CELLS)) < marker_density) & ~walls
    return Worlds(cell, facing, walls, np.where(there, marker_counts((n, CELLS), rng), 0))


def marker_counts(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of markers on cells that have some: 1 in two of three cases, then 2, 3, ... each a third as often, 10 at most."""
    return np.minimum(rng.geometric(2 / 3, shape), MOST_MARKERS)
