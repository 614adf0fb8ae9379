"""Worlds and programs: what is read is what was written, and bad input is refused where it stands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.testbeds import karel
from probekit.testbeds.karel.language import as_programs, compile_programs

ACTIONS = st.lists(st.sampled_from(karel.ACTIONS), min_size=1, max_size=14)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_drawing_reads_back(seed: int) -> None:
    worlds = karel.random_worlds(5, np.random.default_rng(seed), marker_density=0.5)
    again = karel.read_worlds([worlds.draw(i) for i in range(5)])
    for name in ("cell", "facing", "walls", "markers"):
        assert np.array_equal(getattr(again, name), getattr(worlds, name))


def test_a_world_is_drawn_as_one_expects() -> None:
    world = karel.make_world((2, 3), "east", walls=[(1, 1)], markers={(2, 3): 4, (6, 6): 10})
    assert world.draw().split("\n") == [
        "########", "##.....#", "#..>...#", "#......#", "#......#", "#......#", "#.....X#", "########",
        "under the robot: 4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: karel.make_world(None, "north"), "no robot"),
        (lambda: karel.make_world((1, 1), "up"), "'up' is no facing.*north, east"),
        (lambda: karel.make_world((0, 3), "north"), "world 0 has its robot on a wall, on row 0, column 3"),
        (lambda: karel.make_world((1, 8), "north"), "row 1, column 8 lies outside"),
        (lambda: karel.make_world((1, 1), "north", markers={(2, 2): 11}), "11 markers on row 2, column 2.*0 to 10"),
        (lambda: karel.make_world((1, 1), "north", markers={(2, 2): -1}), "-1 markers"),
        (lambda: karel.make_world((1, 1), "north", walls=[(2, 2)], markers={(2, 2): 1}), "markers on a wall"),
        (lambda: karel.read_worlds(["########\n" * 8]), "drawing 0 has no robot"),
        (lambda: karel.read_worlds([karel.make_world((1, 1), "north").draw().replace("^", "?")]), "no robot"),
        (lambda: karel.read_worlds([karel.make_world((1, 1), "north").draw().replace("^.", "^z")]), r"line 2, sign 3: 'z'"),
        (lambda: karel.read_worlds(["####"]), "not 8 lines of 8 signs"),
        (lambda: karel.read_worlds([karel.make_world((1, 1), "north").draw() + "\nunder the robot: 12"]), "12 markers"),
        (lambda: karel.Worlds(np.array([9]), np.array([0]), np.zeros((1, 64), bool), np.zeros((1, 64))), "hole in its outer ring"),
        (lambda: karel.Worlds(np.array([-1]), np.array([0]), np.ones((1, 64), bool), np.zeros((1, 64))), "no robot on the grid"),
    ],
)  # fmt: skip
def test_bad_worlds_are_refused(make, says: str) -> None:
    with pytest.raises(karel.WorldError, match=says):
        make()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_program_reads_back(seed: int) -> None:
    for words in karel.random_programs(5, np.random.default_rng(seed), dialect="control", lengths=(1, 12)):
        words = words[words >= 0]
        assert karel.read_program(karel.format_program(words)).tolist() == words.tolist()
        assert karel.read_program(karel.format_program(words).replace("{", "{\n")).tolist() == words.tolist()


@pytest.mark.parametrize(
    ("text", "line", "token", "says"),
    [
        ("move\njump", 2, 1, "unknown word 'jump'; the actions are move, turn_left"),
        ("", 1, 1, "empty"),
        ("repeat 3 move", 1, 3, r"'move' where '\{' should follow"),
        ("repeat 11 { move }", 1, 2, "unknown word '11'"),
        ("repeat move { move }", 1, 2, "'move' where a number from 1 to 10 should follow"),
        ("while {move}", 1, 2, "where a condition should follow"),
        ("if not\n  not frontIsClear { move }", 2, 1, "'not' where a condition should follow"),
        ("move {", 1, 2, "where a statement"),
        ("repeat 2 { move\n", 2, 1, r"ends where a statement or '\}' should follow"),
        ("ifelse frontIsClear { move } move", 1, 6, "where 'else' should follow"),
        ("if markersPresent { }", 1, 4, "an empty block"),
    ],
)
def test_a_program_that_does_not_parse_says_where(text: str, line: int, token: int, says: str) -> None:
    with pytest.raises(karel.ProgramError, match=says) as error:
        karel.read_program(text)
    assert (error.value.line, error.value.token) == (line, token)


def test_the_small_dialect_has_no_loops() -> None:
    with pytest.raises(karel.ProgramError, match=r"line 1, token 2: 'repeat' is no action"):
        karel.read_program("move repeat 2 { move }", "actions")
    with pytest.raises(ValueError, match="no dialect 'loops'"):
        karel.read_program("move", "loops")  # type: ignore[arg-type]
    with pytest.raises(karel.ProgramError, match="program 1, line 1, token 1: unknown word 'fly'"):
        as_programs(["move", "fly"])
    with pytest.raises(karel.ProgramError, match=r"program 0, line 1, token 2: .* where a number"):
        compile_programs(np.array([[5, 17, 5]], np.int8))


def test_runs_that_fail_say_where() -> None:
    world = karel.make_world((1, 1), "north")
    for program, says in (
        ("turn_right move turn_left move", r"run 0 of 1: word 4 \(move\) moved into a wall, at row 1, column 2"),
        ("pick_marker", r"word 1 \(pick_marker\) picked a marker where there was none, at row 1, column 1"),
        ("repeat 10 { put_marker } put_marker", r"word 6 .* put a marker where there were 10"),
        ("while frontIsClear { move } while not frontIsClear { turn_left turn_right }", "does not end.*Raise `limit`"),
    ):
        with pytest.raises(karel.RunError, match=says):
            karel.run([program], world).check()
    with pytest.raises(karel.RunError, match="stopped after 2 actions, at the limit"):
        karel.run(["turn_left turn_left turn_left"], world, limit=2).check()
    assert karel.run(["turn_left turn_left"], world, limit=2).check().length.tolist() == [2]
    with pytest.raises(ValueError, match="2 programs and 3 worlds: every program needs"):
        karel.run(["move", "move"], karel.random_worlds(3, np.random.default_rng(0)))


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, seed=st.integers(0, 2**32 - 1))
def test_a_meaning_and_its_inverse_change_nothing(actions: list[str], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(karel.ACTIONS))
    meaning = {action: karel.ACTIONS[i] for action, i in zip(karel.ACTIONS, order, strict=True)}
    words = karel.read_program(" ".join(actions))
    changed = karel.permute_actions(words, meaning)
    assert [karel.WORDS[w] for w in changed] == [meaning[a] for a in actions]
    back = {new: old for old, new in meaning.items()}
    assert np.array_equal(karel.permute_actions(changed, back), words)


def test_a_meaning_is_a_permutation_of_actions() -> None:
    programs = karel.random_programs(4, np.random.default_rng(0), dialect="control")
    same = karel.permute_actions(programs, {})
    assert np.array_equal(same, programs)
    with pytest.raises(ValueError, match="two actions would mean 'move'"):
        karel.permute_actions(programs, {"turn_left": "move"})
    with pytest.raises(ValueError, match="'jump' is no action"):
        karel.permute_actions(programs, {"jump": "move"})
