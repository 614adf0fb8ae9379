"""The vectorised interpreter against a slow one that walks the program as it is written, and worlds as dictionaries."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import pytest

from probekit.testbeds.karel.interpreter import OUTCOMES, run
from probekit.testbeds.karel.language import format_program
from probekit.testbeds.karel.programs import random_programs
from probekit.testbeds.karel.world import Worlds, random_worlds

PROGRAMS = int(os.environ.get("KAREL_ORACLE_PROGRAMS", "5000"))
AHEAD = {"north": (-1, 0), "east": (0, 1), "south": (1, 0), "west": (0, -1)}
CLOCKWISE = ["north", "east", "south", "west"]


class Failed(Exception):
    pass


@dataclass
class SlowKarel:
    """One robot in one world: the rules written down as one would explain them."""

    place: tuple[int, int]
    facing: str
    walls: set[tuple[int, int]]
    markers: dict[tuple[int, int], int]
    passing: bool
    limit: int
    ticks: int = 0
    trace: list[tuple[tuple[int, int], str, int, int]] = field(default_factory=list)

    def neighbour(self, turn: int) -> tuple[int, int]:
        row, column = AHEAD[CLOCKWISE[(CLOCKWISE.index(self.facing) + turn) % 4]]
        return self.place[0] + row, self.place[1] + column

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks > self.limit:
            raise Failed("did not end")

    def fail(self, why: str) -> None:
        if not self.passing:
            raise Failed(why)

    def act(self, action: str, number: int) -> None:
        self.tick()
        here = self.markers.get(self.place, 0)
        if action == "move":
            if self.neighbour(0) in self.walls:
                self.fail("moved into a wall")
            else:
                self.place = self.neighbour(0)
        elif action == "turn_left":
            self.facing = CLOCKWISE[CLOCKWISE.index(self.facing) - 1]
        elif action == "turn_right":
            self.facing = CLOCKWISE[(CLOCKWISE.index(self.facing) + 1) % 4]
        elif action == "put_marker":
            if here == 10:
                self.fail("put a marker where there were 10")
            else:
                self.markers[self.place] = here + 1
        else:
            assert action == "pick_marker"
            if here == 0:
                self.fail("picked a marker where there was none")
            else:
                self.markers[self.place] = here - 1
        self.trace.append((self.place, self.facing, self.markers.get(self.place, 0), number))

    def holds(self, words: list[str]) -> bool:
        self.tick()
        if words[0] == "not":
            self.ticks -= 1
            return not self.holds(words[1:])
        return {
            "frontIsClear": lambda: self.neighbour(0) not in self.walls,
            "leftIsClear": lambda: self.neighbour(-1) not in self.walls,
            "rightIsClear": lambda: self.neighbour(1) not in self.walls,
            "markersPresent": lambda: self.markers.get(self.place, 0) > 0,
            "noMarkersPresent": lambda: self.markers.get(self.place, 0) == 0,
        }[words[0]]()

    def body(self, words: list[str], start: int) -> int:
        """Where the block that opens at `start` closes."""
        assert words[start] == "{"
        depth = 0
        for place in range(start, len(words)):
            depth += (words[place] == "{") - (words[place] == "}")
            if not depth:
                return place
        raise AssertionError

    def do(self, words: list[str], first: int, last: int) -> None:
        at = first
        while at < last:
            word = words[at]
            if word in ("move", "turn_left", "turn_right", "put_marker", "pick_marker"):
                self.act(word, at)
                at += 1
                continue
            opening = words.index("{", at)
            closing = self.body(words, opening)
            head = words[at + 1 : opening]
            if word == "repeat":
                self.tick()
                for _ in range(int(head[0])):
                    self.do(words, opening + 1, closing)
                    self.tick()
            elif word == "while":
                while self.holds(head):
                    self.do(words, opening + 1, closing)
                    self.tick()
            elif word == "if":
                if self.holds(head):
                    self.do(words, opening + 1, closing)
            else:
                assert word == "ifelse"
                assert words[closing + 1] == "else"
                second = self.body(words, closing + 2)
                if self.holds(head):
                    self.do(words, opening + 1, closing)
                    self.tick()
                else:
                    self.do(words, closing + 3, second)
                closing = second
            at = closing + 1


def slow_run(program: str, worlds: Worlds, number: int, passing: bool, limit: int) -> tuple[SlowKarel, str]:
    place = lambda cell: divmod(int(cell), 8)  # noqa: E731
    robot = SlowKarel(
        place(worlds.cell[number]),
        CLOCKWISE[worlds.facing[number]],
        {place(cell) for cell in np.flatnonzero(worlds.walls[number])},
        {place(cell): int(worlds.markers[number, cell]) for cell in np.flatnonzero(worlds.markers[number])},
        passing,
        limit,
    )
    words = program.split()
    try:
        robot.do(words, 0, len(words))
    except Failed as error:
        return robot, str(error)
    return robot, "ended"


@pytest.mark.parametrize("errors", ["stop", "pass"])
@pytest.mark.parametrize("dialect", ["actions", "control"])
def test_every_state_agrees_on_random_programs(dialect: str, errors: str) -> None:
    rng = np.random.default_rng([3, dialect == "control", errors == "stop"])
    programs = random_programs(PROGRAMS, rng, dialect=dialect, lengths=(1, 14))
    worlds = random_worlds(PROGRAMS, rng, wall_density=0.05, marker_density=0.5)
    limit = 150
    runs = run(programs, worlds, errors=errors, limit=limit)
    outputs, lengths = runs.outputs, runs.length  # computed for all programs at every asking
    seen: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    for number in range(PROGRAMS):
        robot, outcome = slow_run(format_program(programs[number]), worlds, number, errors == "pass", limit)
        assert OUTCOMES[runs.outcome[number]] == outcome, format_program(programs[number])
        seen[outcome] += 1
        length = len(robot.trace)
        assert lengths[number] == length
        states = zip(
            runs.cell[number, 1:], runs.facing[number, 1:], runs.below[number, 1:], runs.word[number], strict=True
        )
        fast = [(divmod(int(c), 8), CLOCKWISE[f], int(b), int(w)) for c, f, b, w in states if f >= 0]
        assert fast == robot.trace
        assert divmod(int(outputs.cell[number]), 8) == robot.place
        assert CLOCKWISE[outputs.facing[number]] == robot.facing
        count = np.zeros((8, 8), int)
        for place, markers in robot.markers.items():
            count[place] = markers
        assert np.array_equal(outputs.markers[number].reshape(8, 8), count)
    assert seen["ended"] > PROGRAMS / 10
    if errors == "stop":
        assert min(seen["moved into a wall"], seen["picked a marker where there was none"]) > PROGRAMS / 50
    if dialect == "control":
        assert seen["did not end"] > PROGRAMS / 100
        assert (runs.word[:, 1:] <= runs.word[:, :-1])[runs.word[:, 1:] >= 0].any()  # something was repeated


def test_no_more_than_ten_markers_on_a_cell() -> None:
    program = " ".join(["put_marker"] * 12)
    world = random_worlds(1, np.random.default_rng(0), marker_density=0.0)
    runs = run([program], world)
    robot, outcome = slow_run(program, world, 0, False, 100)
    assert OUTCOMES[runs.outcome[0]] == outcome == "put a marker where there were 10"
    assert runs.length[0] == len(robot.trace) == 10
    assert runs.outputs.markers[0].max() == 10
