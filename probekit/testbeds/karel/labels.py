"""What is true of the robot after every word of a program, in the past and in the future."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from probekit.data import Kind, LabelSet
from probekit.testbeds.karel.interpreter import Runs, run
from probekit.testbeds.karel.language import ACTIONS, format_program, permute_actions
from probekit.testbeds.karel.problems import Problems
from probekit.testbeds.karel.tokens import Encoding, encode, is_word
from probekit.testbeds.karel.world import CELLS, FACINGS, SIZE, STEP, Worlds

OFFSETS = (-2, -1, 0, 1, 2)
"""Actions from the word to the state that a label speaks of; 0 is the state right after the word."""

_INNER = tuple(str(number) for number in range(1, SIZE - 1))
_APART = tuple(f"{number:+d}" if number else "0" for number in range(2 - SIZE + 1, SIZE - 2))
_AXES = ("row", "column")
TURNS = ("ahead", "right", "back", "left")
"""Where a facing points, seen by a robot with another: classes of `turned` and `turn_to_go`."""
FAR = 3
"""Steps ahead and to the right from which on `gone` and `to_go` count no further."""
_STEPS = tuple(f"{number:+d}" if number else "0" for number in range(-FAR, FAR + 1))
_OWN_AXES = ("ahead", "right")
_YES_NO = ("no", "yes")


@dataclass(frozen=True)
class States:
    """The state that belongs to each word of each program, in one example's world.

    Attributes:
        runs: One run a problem.
        state: `[problem, word]` int64: number of the state in `runs`, -1 where there is none.
    """

    runs: Runs
    state: np.ndarray

    def at(self, values: np.ndarray) -> np.ndarray:
        """`[problem, word]` of `[run, state]` values; -1 where there is no state."""
        taken = np.take_along_axis(values.astype(np.int64), np.maximum(self.state, 0), 1)
        return np.where(self.state >= 0, taken, -1)


def states_after(runs: Runs, offset: int = 0) -> States:
    """The state `offset` actions after each word was carried out (for the first time, where a loop repeats it).

    Words that were never carried out, and words that are no actions, have none; nor is there one before the input or
    after the end.
    """
    n, words = runs.programs.shape
    first = np.full((n, words), -1, np.int64)
    for step in range(runs.word.shape[1] - 1, -1, -1):
        there = np.flatnonzero(runs.word[:, step] >= 0)
        first[there, runs.word[there, step]] = step
    state = first + 1 + offset
    return States(runs, np.where((first >= 0) & (state >= 0) & (state <= runs.length[:, None]), state, -1))


def label_set(name: str, problems: Problems, runs: Runs, encoding: Encoding) -> LabelSet:
    """One label set, aligned to the tokens of the encoded problems; see `dataset.problems_dataset`."""
    base, offset = _parse_name(name)
    kind, classes, targets, values_of = _DEFINITIONS[base]
    values = values_of(states_after(runs, offset))
    tokens, lengths = encode(problems, encoding)
    there = np.arange(tokens.shape[1]) < lengths[:, None]
    aligned = np.full((int(lengths.sum()), values.shape[-1]), -1, np.int16)
    aligned[is_word(tokens)[there]] = values[problems.programs >= 0]
    return LabelSet(name, aligned, kind, "token", classes, targets)


def label_names() -> tuple[str, ...]:
    """`facing`, `facing-1`, `facing+1`, ...: every label at every offset, those at 0 first."""
    order = sorted(OFFSETS, key=abs)
    return tuple(f"{base}{offset:+d}" if offset else base for offset in order for base in _DEFINITIONS)


def _parse_name(name: str) -> tuple[str, int]:
    for sign in "+-":
        base, found, number = name.rpartition(sign)
        if found:
            return base, int(sign + number)
    return name, 0


def runs_of(problems: Problems, example: int, meaning: Mapping[str, str] | None) -> Runs:
    """The runs that labels are read from.

    With the true meaning no program fails. Under a permuted one, an action that cannot be carried out does nothing,
    so that every word has a state (Jin & Rinard's environment does so under every meaning).
    """
    inputs, _ = problems.example(example)
    programs = permute_actions(problems.programs, meaning) if meaning else problems.programs
    return run(programs, inputs, errors="pass" if meaning else "stop").check()


def world_after(
    problems: Problems, problem: int, position: int, *, example: int = 0, encoding: Encoding = "facts"
) -> Worlds:
    """The true world after a token of a program, to be drawn beside what a probe reads there.

    Args:
        problems: Problems whose programs have actions only.
        problem: Which of them.
        position: Of the token in the encoded sequence, from 0.
        example: In which example's world.
        encoding: That `position` counts in.

    Returns:
        One world.

    Raises:
        ValueError: the token comes before the first word of the program, where no state is defined, or after the last; or the
            program has loops or conditions, so that a token may stand for many states or none.
    """
    chosen = problems.rows(np.array([problem]))
    tokens, lengths = encode(chosen, encoding)
    words = np.flatnonzero(is_word(tokens[0]))
    if not words[0] <= position <= words[-1]:
        where = (
            "belongs to the specification or to <program>" if 0 <= position < words[0] else "comes after the program"
        )
        raise ValueError(
            f"token {position} of problem {problem} {where}: states are defined after the program's words, tokens {words[0]} to "
            f"{words[-1]} of {lengths[0]}"
        )
    if (chosen.programs >= len(ACTIONS)).any():
        raise ValueError(
            f"problem {problem} has loops or conditions ({format_program(chosen.programs[0])}): run it, and read `Runs.word`"
        )
    return run(chosen.programs[:, : position - words[0] + 1], chosen.example(example)[0]).check().outputs


def _position(states: States) -> np.ndarray:
    return _row_and_column(states, lambda row, column: (row - 1, column - 1))


def _from_start(states: States) -> np.ndarray:
    return _row_and_column(states, lambda row, column: (row - row[:, :1] + 5, column - column[:, :1] + 5))


def _from_end(states: States) -> np.ndarray:
    last = states.runs.length[:, None]
    return _row_and_column(states, lambda *axes: tuple(axis - np.take_along_axis(axis, last, 1) + 5 for axis in axes))


def _row_and_column(states: States, classes: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]) -> np.ndarray:
    """`[problem, word, 2]` classes made of the robot's row and column in every state."""
    row, column = np.divmod(states.runs.cell.astype(np.int64), SIZE)
    return np.stack([states.at(axis) for axis in classes(row, column)], axis=-1)


def _turned(states: States) -> np.ndarray:
    facing = states.runs.facing.astype(np.int64)
    return states.at((facing - facing[:, :1]) % 4)[..., None]


def _turn_to_go(states: States) -> np.ndarray:
    facing = states.runs.facing.astype(np.int64)
    last = np.take_along_axis(facing, states.runs.length[:, None], 1)
    return states.at((last - facing) % 4)[..., None]


def _gone(states: States) -> np.ndarray:
    runs = states.runs
    row, column = np.divmod(runs.cell.astype(np.int64), SIZE)
    return _steps(states, row - row[:, :1], column - column[:, :1], runs.facing[:, :1])


def _to_go(states: States) -> np.ndarray:
    runs, last = states.runs, states.runs.length[:, None]
    row, column = (np.take_along_axis(a, last, 1) - a for a in np.divmod(runs.cell.astype(np.int64), SIZE))
    return _steps(states, row, column, runs.facing)


def _steps(states: States, row: np.ndarray, column: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """`[problem, word, 2]` classes of a way `[run, state]`: steps ahead and to the right for a robot of that facing."""
    ahead, right = seen_by(row, column, facing.astype(np.int64))
    return np.stack([states.at(np.clip(axis, -FAR, FAR) + FAR) for axis in (ahead, right)], axis=-1)


def seen_by(row: np.ndarray, column: np.ndarray, facing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A way in rows and columns as steps ahead and to the right of a robot that faces 0-3 (north, east, south, west)."""
    ways = [-row, column, row, -column]  # how far it goes north, east, south, west
    ahead, right = (np.select([(facing + turn) % 4 == side for side in range(4)], ways) for turn in (0, 1))
    return ahead, right


def _wall_in(states: States, direction: np.ndarray | int) -> np.ndarray:
    """`[run, state]` whether the cell next to the robot's is wall, in a direction 0-3."""
    runs = states.runs
    ahead = np.clip(runs.cell.astype(np.int64) + STEP[direction], 0, CELLS - 1)  # past the end the cell is -1
    wall: np.ndarray = np.take_along_axis(runs.worlds.walls, ahead, 1)
    return wall


_DEFINITIONS: dict[str, tuple[Kind, tuple[str, ...], tuple[str, ...], Callable[[States], np.ndarray]]] = {
    "facing": ("multiclass", FACINGS, ("facing",), lambda s: s.at(s.runs.facing)[..., None]),
    "position": ("multiclass", _INNER, _AXES, _position),
    "turned": ("multiclass", TURNS, ("turned",), _turned),
    "turn_to_go": ("multiclass", TURNS, ("turn to go",), _turn_to_go),
    "gone": ("multiclass", _STEPS, _OWN_AXES, _gone),
    "to_go": ("multiclass", _STEPS, _OWN_AXES, _to_go),
    "from_start": ("multiclass", _APART, _AXES, _from_start),
    "from_end": ("multiclass", _APART, _AXES, _from_end),
    "wall_ahead": ("binary", _YES_NO, ("wall ahead",), lambda s: s.at(_wall_in(s, s.runs.facing))[..., None]),
    "walls_around": (
        "binary", _YES_NO, FACINGS, lambda s: np.stack([s.at(_wall_in(s, side)) for side in range(4)], axis=-1)
    ),
    "marker_below": ("binary", _YES_NO, ("marker below",), lambda s: s.at(s.runs.below > 0)[..., None]),
}  # fmt: skip
