"""Running programs in worlds, many at once, with every state on the way.

All runs advance together, one instruction at a time. A run stops where its program ends, at an error, or at the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from probekit.testbeds.karel.language import (
    BRANCH,
    CONDITIONS,
    END,
    JUMP,
    LOOP,
    MOVE,
    PICK_MARKER,
    PUSH,
    PUT_MARKER,
    TURN_LEFT,
    TURN_RIGHT,
    WORDS,
    Code,
    as_programs,
    compile_programs,
)
from probekit.testbeds.karel.world import CELLS, MOST_MARKERS, STEP, Worlds, cell_name

OUTCOMES = (
    "ended",
    "moved into a wall",
    "picked a marker where there was none",
    f"put a marker where there were {MOST_MARKERS}",
    "did not end",
)
"""How a run can end, by number; all but the first are errors."""
ENDED, WALL, NONE_THERE, FULL, ENDLESS = range(5)


class RunError(ValueError):
    """A program that fails in its world.

    Attributes:
        run: Which of the runs, counted from 0.
        outcome: One of `OUTCOMES`.
    """

    def __init__(self, message: str, run: int, outcome: str) -> None:
        super().__init__(message)
        self.run = run
        self.outcome = outcome


@dataclass(frozen=True)
class Runs:
    """What happened in some runs. State 0 is the input, state `t` comes after the `t`-th action that was carried out.

    Only the robot's own cell changes at an action, so position, facing and the number of markers below the robot are
    the whole trace. States past the end of a run are -1.

    Attributes:
        worlds: The inputs.
        outputs: The worlds at the end; where a run failed, as they were just before.
        cell: `[run, state]` int8 cell of the robot.
        facing: `[run, state]` int8.
        below: `[run, state]` int8 markers on the robot's cell.
        word: `[run, action]` int16 which word of the program each action was, -1 past the end.
        outcome: `[run]` int8 positions in `OUTCOMES`.
        failed_at: `[run]` int16 the word at which a run failed, -1 where it ended.
        programs: `[run, word]` the programs.
    """

    worlds: Worlds
    outputs: Worlds
    cell: np.ndarray
    facing: np.ndarray
    below: np.ndarray
    word: np.ndarray
    outcome: np.ndarray
    failed_at: np.ndarray
    programs: np.ndarray

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def length(self) -> np.ndarray:
        """`[run]` number of actions carried out."""
        count: np.ndarray = (self.word >= 0).sum(1)
        return count

    def check(self) -> Runs:
        """These runs, if all of them ended.

        Raises:
            RunError: names run, word and what went wrong.
        """
        failed = np.flatnonzero(self.outcome != ENDED)
        if len(failed):
            run = int(failed[0])
            word = int(self.failed_at[run])
            what = OUTCOMES[self.outcome[run]]
            where = f"run {run} of {len(self)}: word {word + 1} ({WORDS[self.programs[run, word]]})"
            if self.outcome[run] == ENDLESS:
                done = f"the program does not end: it was stopped after {self.length[run]} actions, at the limit"
                raise RunError(f"{where}: {done}. Raise `limit` if it is meant to run that long", run, what)
            cell = int(self.cell[run, self.length[run]])
            raise RunError(f"{where} {what}, at {cell_name(cell)}", run, what)
        return self


def run(
    programs: Sequence[str] | Sequence[np.ndarray] | np.ndarray,
    worlds: Worlds,
    *,
    errors: Literal["stop", "pass"] = "stop",
    limit: int = 1000,
) -> Runs:
    """Run each program in its worlds.

    Args:
        programs: Texts, or words as `[program, word]` with -1 past the end.
        worlds: As many for every program, those of a program one after the other (a run each); or one, which serves all.
        errors: What an action that cannot be carried out does. `"stop"`, as in the language: the run has failed.
            `"pass"`: nothing, and the program goes on, as in the environment of Jin & Rinard (arXiv 2305.11169), where
            every program has a trace under every meaning of its actions.
        limit: Most instructions (actions, tests and counts) of a run.

    Raises:
        ProgramError: a program that cannot be read.
        ValueError: the worlds cannot be shared out evenly among the programs.
    """
    if errors not in ("stop", "pass"):
        raise ValueError(f"errors must be 'stop' or 'pass', got {errors!r}")
    words = as_programs(programs)
    if len(worlds) == 1:
        worlds = worlds.rows(np.zeros(len(words), np.int64))
    if not len(words) or len(worlds) % len(words):
        raise ValueError(
            f"{len(words)} programs and {len(worlds)} worlds: every program needs as many worlds as the others, or all of them one"
        )
    return _advance(compile_programs(words), words, worlds, errors == "pass", limit)


def _advance(code: Code, words: np.ndarray, worlds: Worlds, passing: bool, limit: int) -> Runs:
    n, width = len(worlds), code.operation.shape[1]
    base = np.repeat(np.arange(len(words)), n // len(words)) * width
    operations, arguments, code_words = code.operation.ravel(), code.argument.ravel(), code.word.ravel()
    wall, markers = worlds.walls.ravel(), worlds.markers.copy().ravel()
    cell, facing = worlds.cell.astype(np.int64), worlds.facing.astype(np.int64)
    at, done, height = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    counts = np.zeros((n, max(code.depth, 1)), np.int64)
    outcome, failed_at = np.zeros(n, np.int8), np.full(n, -1, np.int16)
    longest = words.shape[1] if not code.depth and (words < 5).all() else limit
    states = np.full((3, n, min(longest, 64) + 1), -1, np.int8)
    carried = np.full((n, states.shape[2] - 1), -1, np.int16)
    states[:, :, 0] = cell, facing, markers[np.arange(n) * CELLS + cell]
    live = np.arange(n)
    plain = longest < limit  # actions alone: nothing to test, nowhere to jump
    for _ in range(limit):
        place = base[live] + at[live]
        operation = operations[place]
        going = operation != END
        if not going.all():
            live, place, operation = live[going], place[going], operation[going]
        if not len(live):
            break
        here, turned = cell[live], facing[live]
        row = live * CELLS
        below = markers[row + here]
        error = np.zeros(len(live), np.int8)
        moving, putting, picking = operation == MOVE, operation == PUT_MARKER, operation == PICK_MARKER
        ahead = np.where(moving, here + STEP[turned], here)
        error[wall[row + ahead]] = WALL
        error[putting & (below >= MOST_MARKERS)] = FULL
        error[picking & (below <= 0)] = NONE_THERE
        fine = error == 0
        change = (putting & fine).astype(np.int8) - (picking & fine)
        markers[row + here] += change
        cell[live] = np.where(fine, ahead, here)
        facing[live] = (turned + (operation == TURN_RIGHT) - (operation == TURN_LEFT)) & 3
        following = at[live] + 1
        if plain:
            acted = live if passing else live[fine]
            acted_place = place if passing else place[fine]
        else:
            following = _control(
                code, operation, place, live, counts, height, following, wall, row, here, turned, below, arguments
            )
            action = operation < END
            chosen = action if passing else action & fine
            acted, acted_place = live[chosen], place[chosen]
        at[live] = following
        done[acted] += 1
        if len(acted) and (most := int(done[acted].max())) >= states.shape[2]:
            states = np.concatenate([states, np.full_like(states, -1)], axis=2)
            carried = np.concatenate(
                [carried, np.full((n, states.shape[2] - 1 - carried.shape[1]), -1, np.int16)], axis=1
            )
            assert most < states.shape[2]
        step = done[acted]
        states[0, acted, step], states[1, acted, step] = cell[acted], facing[acted]
        states[2, acted, step] = markers[acted * CELLS + cell[acted]]
        carried[acted, step - 1] = code_words[acted_place]
        if not passing and not fine.all():
            outcome[live[~fine]] = error[~fine]
            failed_at[live[~fine]] = code_words[place[~fine]]
            live = live[fine]
    else:
        live = live[operations[base[live] + at[live]] != END]
        outcome[live] = ENDLESS
        failed_at[live] = code_words[base[live] + at[live]]
    last = int(done.max(initial=0))
    outputs = Worlds(cell, facing, worlds.walls, markers.reshape(n, CELLS))
    places, facings, below = states[:, :, : last + 1]
    return Runs(worlds, outputs, places, facings, below, carried[:, :last], outcome, failed_at, words[base // width])


def _control(
    code: Code,
    operation: np.ndarray,
    place: np.ndarray,
    live: np.ndarray,
    counts: np.ndarray,
    height: np.ndarray,
    following: np.ndarray,
    wall: np.ndarray,
    row: np.ndarray,
    here: np.ndarray,
    turned: np.ndarray,
    below: np.ndarray,
    arguments: np.ndarray,
) -> np.ndarray:
    """`[live]` the next instruction of each run, after its tests and counts; `counts` and `height` are kept up to date."""
    argument = arguments[place].astype(np.int64)
    following = np.where(operation == JUMP, argument, following)
    testing = operation == BRANCH
    if testing.any():
        condition = code.condition.ravel()[place].astype(np.int64)
        kind, negated = condition % len(CONDITIONS), condition >= len(CONDITIONS)
        towards = np.stack([turned, (turned - 1) & 3, (turned + 1) & 3])[np.minimum(kind, 2), np.arange(len(kind))]
        clear = ~wall[row + here + STEP[towards]]
        holds = np.where(kind < 3, clear, (below > 0) == (kind == 3)) != negated
        following = np.where(testing & ~holds, argument, following)
    begin = live[operation == PUSH]
    counts[begin, height[begin]] = argument[operation == PUSH]
    height[begin] += 1
    counting = operation == LOOP
    runs = live[counting]
    counts[runs, height[runs] - 1] -= 1
    again = counts[runs, height[runs] - 1] > 0
    height[runs[~again]] -= 1
    following[counting] = np.where(again, argument[counting], following[counting])
    return following
