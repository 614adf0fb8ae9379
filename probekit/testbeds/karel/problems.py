"""Problems: a program, and input-output examples of it in random worlds in which it runs without error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probekit.testbeds.karel.interpreter import ENDED, run
from probekit.testbeds.karel.language import Dialect
from probekit.testbeds.karel.programs import (
    INNER_SIDE,
    LENGTHS,
    PARTS,
    Part,
    behaviours,
    fits,
    marker_demands,
    parts_of,
    random_programs,
    relative_path,
)
from probekit.testbeds.karel.world import (
    CELLS,
    MOST_MARKERS,
    RING,
    SIZE,
    Worlds,
    join_worlds,
    marker_counts,
    random_worlds,
)

EXAMPLES = 5
"""Input-output examples in a specification, as in Jin & Rinard (arXiv 2305.11169)."""
WALL_DENSITY, MARKER_DENSITY = 0.05, 0.05
"""Share of the inner cells with a wall, and with markers, before what the program asks of its world."""
_TRIES, _LIMIT = 60, 200


@dataclass(frozen=True)
class Problems:
    """Some programs with examples of what they do.

    Attributes:
        programs: `[problem, word]` int8 words, -1 past the end.
        inputs, outputs: Worlds `[problem * example]`, the examples of a problem one after the other.
        examples: Examples a problem.
        shown: How many of them, the first ones, make up the specification; the others are *unseen*.
    """

    programs: np.ndarray
    inputs: Worlds
    outputs: Worlds
    examples: int
    shown: int

    def __post_init__(self) -> None:
        expected = len(self.programs) * self.examples
        if not 1 <= self.shown <= self.examples:
            raise ValueError(
                f"{self.shown} of {self.examples} examples cannot be shown: show at least one, at most all"
            )
        if len(self.inputs) != expected or len(self.outputs) != expected:
            raise ValueError(
                f"{len(self.programs)} problems with {self.examples} examples need {expected} inputs and outputs, got "
                f"{len(self.inputs)} and {len(self.outputs)}"
            )

    def __len__(self) -> int:
        return len(self.programs)

    def rows(self, index: np.ndarray | slice) -> Problems:
        """Some of the problems."""
        chosen = np.arange(len(self))[index]
        worlds = (chosen[:, None] * self.examples + np.arange(self.examples)).ravel()
        return Problems(
            self.programs[chosen], self.inputs.rows(worlds), self.outputs.rows(worlds), self.examples, self.shown
        )

    def example(self, number: int) -> tuple[Worlds, Worlds]:
        """Inputs and outputs `[problem]` of one example of every problem.

        Raises:
            IndexError: there is no such example.
        """
        if not 0 <= number < self.examples:
            raise IndexError(f"there is no example {number}: problems have examples 0 to {self.examples - 1}")
        chosen = slice(number, None, self.examples)
        return self.inputs.rows(chosen), self.outputs.rows(chosen)


def make_problems(programs: np.ndarray, inputs: Worlds, *, shown: int | None = None) -> Problems:
    """Problems from given programs and input worlds; the outputs are computed.

    Args:
        programs: `[problem, word]` words, -1 past the end.
        inputs: As many worlds for every program, those of a program one after the other.
        shown: Examples in the specification; all when None.

    Raises:
        RunError: a program fails in one of its worlds.
        ValueError: numbers of programs and worlds that do not go together.
    """
    if not len(programs) or len(inputs) % len(programs):
        raise ValueError(f"{len(inputs)} worlds cannot be shared out evenly among {len(programs)} programs")
    examples = len(inputs) // len(programs)
    runs = run(programs, inputs).check()
    return Problems(programs, inputs, runs.outputs, examples, examples if shown is None else shown)


def join_problems(several: Sequence[Problems]) -> Problems:
    """Problems one after the other; all with as many examples, and as many of them shown."""
    return Problems(
        _join_programs([problems.programs for problems in several]),
        join_worlds([problems.inputs for problems in several]),
        join_worlds([problems.outputs for problems in several]),
        several[0].examples,
        several[0].shown,
    )


def _join_programs(tables: Sequence[np.ndarray]) -> np.ndarray:
    longest = max(table.shape[1] for table in tables)
    return np.concatenate([np.pad(t, ((0, 0), (0, longest - t.shape[1])), constant_values=-1) for t in tables])


def random_problems(
    n: int,
    rng: np.random.Generator,
    part: Part,
    *,
    dialect: Dialect = "actions",
    lengths: tuple[int, int] = LENGTHS,
    shown: int = EXAMPLES,
    unseen: int = 0,
    wall_density: float = WALL_DENSITY,
    marker_density: float = MARKER_DENSITY,
) -> Problems:
    """Random programs of one part, with random worlds in which they run without error.

    Parts are disjoint by behaviour (`programs.behaviours`), and therefore by program, whatever the seeds. References are not
    shortened: a shorter program may do the same.

    Programs that run without error in (practically) no world are drawn again. For programs of actions the worlds are drawn
    exactly from the distribution of random worlds given that the program does not fail: because every pose from which the path
    stays inside is as likely as any other, and cells are independent, no draw is thrown away. For the dialect `control`, worlds
    are drawn until enough fit.

    Args:
        n: Number of problems.
        rng: Source of all randomness.
        part: `train`, `valid` or `test`.
        dialect, lengths: As for `random_programs`.
        shown, unseen: Examples in the specification, and further ones.
        wall_density, marker_density: Of inner cells that the program asks nothing of.
    """
    if part not in PARTS:
        raise ValueError(f"there is no part {part!r}; the parts are {', '.join(PARTS)}")
    if n < 1 or unseen < 0:
        raise ValueError(f"n must be at least 1 and unseen at least 0, got {n} and {unseen}")
    examples = shown + unseen
    programs: list[np.ndarray] = []
    inputs: list[Worlds] = []
    found = 0
    share = 1.1 if part == "train" else 45.0
    while found < n:
        drawn = random_programs(min(int((n - found) * share) + 64, 40_000), rng, dialect=dialect, lengths=lengths)
        drawn = drawn[parts_of(behaviours(drawn)) == PARTS.index(part)]
        if dialect == "actions":
            drawn = drawn[fits(drawn)][: n - found]
            if len(drawn):
                worlds = _worlds_for(np.repeat(drawn, examples, axis=0), rng, wall_density, marker_density)
        else:
            drawn, worlds = _worlds_found(drawn, examples, n - found, rng, wall_density, marker_density)
        if len(drawn):
            programs.append(drawn)
            inputs.append(worlds)
            found += len(drawn)
    return make_problems(_join_programs(programs), join_worlds(inputs), shown=shown)


def _worlds_for(programs: np.ndarray, rng: np.random.Generator, wall_density: float, marker_density: float) -> Worlds:
    """A random world for each program of actions, given that the program runs in it without error."""
    n = len(programs)
    row, column, _ = relative_path(programs)
    facing = rng.integers(0, 4, n)
    for quarter in (1, 2, 3):  # turn the path by the facing at the start
        rows, columns = [(column, -row), (-row, -column), (-column, row)][quarter - 1]
        chosen = (facing == quarter)[:, None]
        row, column = np.where(chosen, rows, row), np.where(chosen, columns, column)
    for path in (row, column):  # shift it to any place where it fits
        room = INNER_SIDE - np.ptp(path, axis=1)
        path += (1 - path.min(1) + rng.integers(0, room))[:, None]
    cells = SIZE * row + column
    world = np.arange(n)
    walls = (rng.random((n, CELLS)) < wall_density) | RING
    walls[world[:, None], cells] = False
    some = (rng.random((n, CELLS)) < marker_density) & ~walls
    base = marker_counts((n, CELLS), rng)
    markers = np.where(some, base, 0)
    low, high = marker_demands(programs, cells)
    need, room = np.zeros((n, CELLS), np.int64), np.full((n, CELLS), MOST_MARKERS)
    for action in range(programs.shape[1]):
        here = cells[:, action + 1]
        need[world, here] = np.maximum(need[world, here], -low[:, action])
        room[world, here] = np.minimum(room[world, here], MOST_MARKERS - high[:, action])
    # Counts have no memory: given that there are at least `need`, there are `need - 1` and a fresh count.
    markers = np.where(need > 0, need - 1 + base, markers)
    return Worlds(cells[:, 0], facing, walls, np.minimum(markers, room))


def _worlds_found(
    programs: np.ndarray, examples: int, most: int, rng: np.random.Generator, wall_density: float, marker_density: float
) -> tuple[np.ndarray, Worlds]:
    """The programs that run without error in enough of 60 random worlds, at most `most`, and the first such worlds of each."""
    worlds = random_worlds(
        len(programs) * _TRIES, rng, wall_density=wall_density, marker_density=max(marker_density, 0.25)
    )
    fine = (run(programs, worlds, limit=_LIMIT).outcome == ENDED).reshape(len(programs), _TRIES)
    enough = np.flatnonzero(fine.sum(1) >= examples)[:most]
    first = np.argsort(~fine[enough], axis=1, kind="stable")[:, :examples]
    return programs[enough], worlds.rows((enough[:, None] * _TRIES + first).ravel())
