"""Random programs, what a program does wherever it runs, and the part of the data it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from probekit.testbeds.karel.interpreter import ENDED, run
from probekit.testbeds.karel.language import (
    ACTIONS,
    CONDITIONS,
    MOVE,
    NUMBERS,
    PICK_MARKER,
    PUT_MARKER,
    TURN_LEFT,
    TURN_RIGHT,
    WORD,
    Dialect,
    as_programs,
)
from probekit.testbeds.karel.world import CELLS, random_worlds

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")

WEIGHTS = np.array([5, 3, 3, 2, 2]) / 15
"""How often each action is drawn, as in the data of Jin & Rinard (arXiv 2305.11169): move 5, turns 3, marker actions 2."""
LENGTHS = (6, 10)
"""Least and most actions of a reference program, as in the paper."""
INNER_SIDE = 6
_SHARE = 32  # one behaviour in 32 is of valid, one of test
_PROBES = 32
_PROBE_LIMIT = 200
_PROGRAMS_AT_ONCE = 1000
_PROBE_SEED = 0x6A7E1B
_NESTING = 2


def random_programs(
    n: int, rng: np.random.Generator, *, dialect: Dialect = "actions", lengths: tuple[int, int] = LENGTHS
) -> np.ndarray:
    """Programs whose actions are drawn independently, each length equally likely.

    Args:
        n: Number of programs.
        rng: Source of all randomness.
        dialect: `actions`, or `control`, where a statement in three is a loop or a condition, nested twice at most.
        lengths: Least and most actions of a program. Words of control are not counted.

    Returns:
        `[n, word]` int8 words, -1 past the end.
    """
    least, most = lengths
    if not 1 <= least <= most:
        raise ValueError(f"lengths must be (least, most) with 1 <= least <= most, got {lengths}")
    length = rng.integers(least, most + 1, n)
    if dialect == "actions":
        actions = rng.choice(len(ACTIONS), (n, most), p=WEIGHTS).astype(np.int8)
        actions[np.arange(most) >= length[:, None]] = -1
        return actions
    return as_programs([np.array(_statements(int(actions), _NESTING, rng), np.int8) for actions in length])


def _statements(actions: int, nesting: int, rng: np.random.Generator) -> list[int]:
    """Words of statements that hold so many actions."""
    words: list[int] = []
    while actions:
        if not nesting or rng.random() > 1 / 3:
            words.append(int(rng.choice(len(ACTIONS), p=WEIGHTS)))
            actions -= 1
            continue
        inside = int(rng.integers(1, min(actions, 4) + 1))
        kind = ("repeat", "while", "if", "ifelse")[rng.integers(4)]
        if kind == "ifelse" and inside < 2:
            kind = "if"
        words.append(WORD[kind])
        if kind == "repeat":
            words.append(WORD[NUMBERS[rng.integers(1, 5)]])
        else:
            words += [WORD["not"]] * int(rng.random() < 0.25) + [WORD[CONDITIONS[rng.integers(len(CONDITIONS))]]]
        first = int(rng.integers(1, inside)) if kind == "ifelse" else inside
        words += [WORD["{"], *_statements(first, nesting - 1, rng), WORD["}"]]
        if kind == "ifelse":
            words += [WORD["else"], WORD["{"], *_statements(inside - first, nesting - 1, rng), WORD["}"]]
        actions -= inside
    return words


def relative_path(programs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a program of actions leads on an endless plane, from (0, 0) facing north.

    Args:
        programs: `[program, word]` actions, -1 past the end.

    Returns:
        row, column: `[program, word + 1]` int64, before the first and after each action (standing still past the end).
        facing: `[program, word + 1]` int64 0-3.
    """
    turn = np.select([programs == TURN_RIGHT, programs == TURN_LEFT], [1, -1], 0)
    start = np.zeros((len(programs), 1), np.int64)
    facing = np.concatenate([start, np.cumsum(turn, 1)], 1) & 3
    moving = programs == MOVE
    before = facing[:, :-1]  # a move does not turn
    row = np.concatenate([start, np.cumsum(moving * np.array([-1, 0, 1, 0])[before], 1)], 1)
    column = np.concatenate([start, np.cumsum(moving * np.array([0, 1, 0, -1])[before], 1)], 1)
    return row, column, facing


def behaviours(programs: Sequence[str] | np.ndarray) -> np.ndarray:
    """A number for what each program does: programs with the same number do the same.

    For a program of actions that is its *effect*, computed exactly on an endless plane with markers enough: where the robot
    stands and faces at the end relative to the start, and by how much the markers change on every cell relative to the
    start. It leaves out the way: programs that pass through other cells, and so fail in other worlds, still count as
    the same. For a program with loops or conditions it is the final state, or the error, in each of 32 fixed random
    worlds, stopped after 200 instructions.

    Returns:
        `[program]` uint64, well mixed; two effects share a number with a probability of 2**-64.
    """
    programs = as_programs(programs)
    plain = (programs < len(ACTIONS)).all(1)
    number = np.zeros(len(programs), np.uint64)
    if plain.any():
        number[plain] = _effects(programs[plain])
    if not plain.all():
        number[~plain] = _final_states(programs[~plain])
    return number


def _effects(programs: np.ndarray) -> np.ndarray:
    row, column, facing = relative_path(programs)
    place = (row << 20) + column
    change = (programs == PUT_MARKER).astype(np.int64) - (programs == PICK_MARKER)
    total = _mix((place[:, -1] << 2) + facing[:, -1] + (1 << 50))
    for action in range(programs.shape[1]):  # sums of keys modulo 2**64 do not depend on the order of the actions
        total = total + _mix(place[:, action + 1] << 2) * change[:, action].astype(np.uint64)
    return _mix(total)


def _final_states(programs: np.ndarray) -> np.ndarray:
    worlds = random_worlds(_PROBES, np.random.default_rng(_PROBE_SEED), wall_density=0.05, marker_density=0.5)
    cells, weight = np.arange(CELLS), 2 * np.arange(_PROBES, dtype=np.uint64) + np.uint64(1)
    keys_of = _mix(np.arange(CELLS * 11).reshape(CELLS, 11))
    number = np.zeros(len(programs), np.uint64)
    for first in range(0, len(programs), _PROGRAMS_AT_ONCE):
        some = programs[first : first + _PROGRAMS_AT_ONCE]
        runs = run(some, worlds.rows(np.tile(np.arange(_PROBES), len(some))), limit=_PROBE_LIMIT)
        out = runs.outputs
        keys = keys_of[cells, out.markers].sum(1)
        state: np.ndarray = _mix((out.cell.astype(np.int64) << 2) + out.facing + (1 << 50)) + keys
        failure = _mix(runs.outcome.astype(np.int64) + (1 << 51))
        seen: np.ndarray = _mix(np.where(runs.outcome == ENDED, state, failure))
        number[first : first + len(some)] = _mix((seen.reshape(len(some), _PROBES) * weight).sum(1))
    return number


def _mix(value: np.ndarray) -> np.ndarray:
    """Integers as well-mixed uint64 (the finaliser of splitmix64; Steele, Lea & Flood 2014)."""
    x = np.asarray(value).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def parts_of(numbers: np.ndarray) -> np.ndarray:
    """`[program]` int8 positions in `PARTS`, decided by the behaviour alone: of 32, one is of valid and one of test."""
    share = (np.asarray(numbers, np.uint64) >> np.uint64(40)) % np.uint64(_SHARE)
    return np.select([share == 0, share == 1], [1, 2], 0).astype(np.int8)


def fits(programs: np.ndarray) -> np.ndarray:
    """`[program]` bool: whether there is a world in which a program of actions runs without error.

    Its path must fit into the 6 x 6 inner cells, and no cell may need more than ten markers.
    """
    row, column, _ = relative_path(programs)
    low, high = marker_demands(programs, (row << 20) + column)
    fitting: np.ndarray = (
        (np.ptp(row, axis=1) < INNER_SIDE)
        & (np.ptp(column, axis=1) < INNER_SIDE)
        & ((high - low).max(1, initial=0) <= 10)
    )
    return fitting


def marker_demands(programs: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the markers on the cell of each action fall below, and rise above, their number at the start.

    Args:
        programs: `[program, word]` actions, -1 past the end.
        place: `[program, word + 1]` a number for the robot's cell before the first and after each action.

    Returns:
        low, high: `[program, word]` int64, at most and at least 0: over the actions so far on this cell.
    """
    change = (programs == PUT_MARKER).astype(np.int64) - (programs == PICK_MARKER)
    same = place[:, None, 1:] == place[:, 1:, None]  # [program, action, other action]
    earlier = np.tril(np.ones((programs.shape[1],) * 2, bool))
    balance = (same & earlier) @ change[:, :, None]
    balance = balance[:, :, 0]
    low = np.where(same & earlier, balance[:, None, :], 0).min(2, initial=0)
    high = np.where(same & earlier, balance[:, None, :], 0).max(2, initial=0)
    return low, high
