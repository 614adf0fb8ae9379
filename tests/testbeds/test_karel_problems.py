"""Problems: they run, their parts share nothing, their tokens read back, their labels are true."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.testbeds import karel
from probekit.testbeds.karel import programs as programs_module
from probekit.testbeds.karel.problems import MARKER_DENSITY, WALL_DENSITY
from probekit.testbeds.karel.tokens import is_word

RIGHT_LEFT = {"turn_left": "turn_right", "turn_right": "turn_left"}


@pytest.fixture(scope="module")
def problems() -> karel.Problems:
    return karel.sample_problems(200, seed=3, unseen=2)


def test_every_program_does_what_its_examples_say(problems: karel.Problems) -> None:
    runs = karel.run(problems.programs, problems.inputs).check()
    assert np.array_equal(runs.outputs.markers, problems.outputs.markers)
    assert np.array_equal(runs.outputs.cell, problems.outputs.cell)
    assert ((problems.programs >= 0).sum(1) >= 6).all()
    assert ((problems.programs >= 0).sum(1) <= 10).all()


def test_the_wide_dialect_makes_problems_too() -> None:
    wide = karel.sample_problems(20, seed=0, dialect="control")
    karel.run(wide.programs, wide.inputs).check()
    assert (wide.programs >= 5).any(1).mean() > 0.3
    data = karel.problems_dataset(wide)
    facing = data.label_set("facing").values[karel.program_rows(data)]
    never = wide.programs[wide.programs >= 0] >= 5  # control words carry out nothing
    assert (facing[never] == -1).all()
    assert (facing[~never] >= 0).mean() > 0.5


def test_worlds_are_drawn_as_if_failures_were_thrown_away() -> None:
    """The exact draw against plain rejection, for one program: the same poses, walls, and counts of markers."""
    program = karel.read_program("move pick_marker turn_left move put_marker")[None]
    n = 60_000
    rng = np.random.default_rng(0)
    every = karel.random_worlds(400_000, rng, wall_density=WALL_DENSITY, marker_density=MARKER_DENSITY)
    rejected = every.rows(karel.run(program, every).outcome == 0)
    from probekit.testbeds.karel.problems import _worlds_for

    exact = _worlds_for(np.repeat(program, n, axis=0), rng, WALL_DENSITY, MARKER_DENSITY)
    karel.run(program, exact).check()

    def shares(worlds: karel.Worlds) -> np.ndarray:
        pose = np.bincount(worlds.cell.astype(int) * 4 + worlds.facing, minlength=256)
        counts = np.bincount(worlds.markers.ravel(), minlength=11)[:6]
        return np.concatenate([pose, worlds.walls.sum(0) / 4, counts]) / len(worlds)

    a, b = shares(exact), shares(rejected)
    error = 5 * np.sqrt(np.maximum(b, 1e-4) / len(rejected)) + 5 * np.sqrt(np.maximum(a, 1e-4) / n)
    assert len(rejected) > 5000
    assert (np.abs(a - b) < error).all(), np.abs(a - b).max()


def test_parts_share_no_behaviour_whatever_the_seed() -> None:
    found = {part: karel.behaviours(karel.sample_problems(1500, seed=5, part=part).programs) for part in karel.PARTS}
    other = karel.behaviours(karel.sample_problems(1500, seed=6, part="train").programs)
    sets = {part: set(numbers.tolist()) for part, numbers in found.items()}
    assert not sets["train"] & sets["test"]
    assert not sets["train"] & sets["valid"]
    assert not sets["valid"] & sets["test"]
    assert not set(other.tolist()) & (sets["valid"] | sets["test"])
    assert len(sets["test"]) > 150
    for number, part in enumerate(karel.PARTS):
        assert (karel.parts_of(found[part]) == number).all()


def test_the_same_effect_is_the_same_behaviour() -> None:
    same = [
        "move turn_left move",
        "turn_right turn_left move turn_left move",
        "put_marker pick_marker move turn_right turn_right turn_right move",
        "turn_left move turn_right move turn_left",  # another way to the same place
    ]
    other = ["move turn_left move put_marker", "move turn_right move", "move move", "put_marker move turn_left move"]
    one, many = karel.behaviours(same), karel.behaviours(other)
    assert len(set(one.tolist())) == 1
    assert len(set(many.tolist()) | {one[0].item()}) == 5
    wide = karel.behaviours(["repeat 2 { turn_left }", "repeat 6 { turn_left }", "repeat 3 { turn_left }"])
    assert wide[0] == wide[1] != wide[2]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_behaviours_agree_with_runs(seed: int) -> None:
    """Two programs with one number end alike in every world in which neither fails."""
    rng = np.random.default_rng(seed)
    programs = karel.random_programs(600, rng, lengths=(1, 5))
    numbers = karel.behaviours(programs)
    worlds = karel.random_worlds(600, rng, wall_density=0.0, marker_density=0.9)
    order = np.argsort(numbers)
    first, second = order[:-1], order[1:]
    a, b = karel.run(programs[first], worlds.rows(first)), karel.run(programs[second], worlds.rows(first))
    both = (a.outcome == 0) & (b.outcome == 0)
    from probekit.testbeds.karel.synthesis import same_state

    alike = same_state(a.outputs, b.outputs)
    same = numbers[first] == numbers[second]
    assert alike[both & same].all()
    assert not alike[both & ~same].all()
    assert (both & same).sum() > 20


@pytest.mark.parametrize("encoding", ["facts", "grid"])
@pytest.mark.parametrize("dialect", ["actions", "control"])
def test_tokens_read_back(encoding, dialect) -> None:
    problems = karel.sample_problems(40, seed=9, dialect=dialect, unseen=1)
    tokens, lengths = karel.encode(problems, encoding)
    assert tokens.max() < karel.VOCABULARY[encoding] == len(karel.token_names(encoding))
    for i, row in enumerate(tokens):
        words, inputs, outputs = karel.decode(row, encoding)
        one = problems.rows(np.array([i]))
        assert words.tolist() == one.programs[0][one.programs[0] >= 0].tolist()
        for read, made in ((inputs, one.inputs), (outputs, one.outputs)):
            for name in ("cell", "facing", "walls", "markers"):
                assert np.array_equal(getattr(read, name), getattr(made, name)[:5])
    if encoding == "facts":
        assert lengths.mean() < 150
    assert len(set(karel.token_names(encoding))) == karel.VOCABULARY[encoding]


def test_tokens_that_are_no_problem_are_refused() -> None:
    tokens = karel.encode(karel.sample_problems(1, seed=0))[0][0]
    begins = int(np.flatnonzero(tokens == karel.PROGRAM)[0])
    for change, says in (
        (lambda t: t[t != karel.PROGRAM], "has 0"),
        (lambda t: t[:-1], "at the end, 2"),
        (lambda t: t[1:], "begins with the robot"),
        (lambda t: np.insert(t, begins, 5), f"position {begins}: token 5 .* out of place"),
        (lambda t: np.insert(t, begins, t[0]), "0 robots at the end"),
    ):
        with pytest.raises(karel.TokenError, match=says):
            karel.decode(change(tokens))
    with pytest.raises(ValueError, match="no encoding 'words'"):
        karel.encode(karel.sample_problems(1, seed=0), "words")  # type: ignore[arg-type]


def slow_states(problem: karel.Problems, meaning: dict[str, str]) -> list[tuple[int, int, str, bool, list[bool], bool]]:
    """Row, column, facing, wall ahead, walls around, marker below: of the input and after every action, in the first example.

    An action that cannot be carried out does nothing.
    """
    names = ["north", "east", "south", "west"]
    steps = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    row, column = divmod(int(problem.inputs.cell[0]), 8)
    facing = int(problem.inputs.facing[0])
    wall = problem.inputs.walls[0].reshape(8, 8)
    markers = problem.inputs.markers[0].reshape(8, 8).copy()
    states = []

    def look() -> None:
        around = [bool(wall[row + r, column + c]) for r, c in steps]
        states.append((row, column, names[facing], around[facing], around, bool(markers[row, column])))

    look()
    for word in problem.programs[0]:
        if word < 0:
            break
        action = meaning.get(karel.WORDS[word], karel.WORDS[word])
        if action == "move" and not wall[row + steps[facing][0], column + steps[facing][1]]:
            row, column = row + steps[facing][0], column + steps[facing][1]
        facing = (facing + {"turn_left": -1, "turn_right": 1}.get(action, 0)) % 4
        if action == "put_marker" and markers[row, column] < 10:
            markers[row, column] += 1
        if action == "pick_marker" and markers[row, column] > 0:
            markers[row, column] -= 1
        look()
    return states


def slow_steps(row: int, column: int, facing: int) -> list[int]:
    """Classes of the steps ahead and to the right: the plane is turned to the left until the robot faces north."""
    for _ in range(facing):
        row, column = -column, row
    return [max(-3, min(3, steps)) + 3 for steps in (-row, column)]


@pytest.mark.parametrize("meaning", [{}, RIGHT_LEFT, {"move": "turn_left", "turn_left": "move"}], ids=len)
def test_every_label_is_true(problems: karel.Problems, meaning: dict[str, str]) -> None:
    some = problems.rows(slice(0, 40))
    data = karel.problems_dataset(some, meaning=meaning)
    sets = {name: data.label_set(name) for name in karel.LABEL_SETS}
    names = ["north", "east", "south", "west"]
    item = 0
    for number, tokens in enumerate(data.tokens or ()):
        states = slow_states(some.rows(np.array([number])), meaning)
        word = 0
        for token in tokens:
            word += bool(is_word(token))
            for offset in karel.OFFSETS:
                at = {name: sets[name + (f"{offset:+d}" if offset else "")].values[item].tolist() for name in
                      ("facing", "position", "turned", "turn_to_go", "gone", "to_go", "from_start", "from_end", "wall_ahead",
                       "walls_around", "marker_below")}  # fmt: skip
                state = word + offset
                if not is_word(token) or not 0 <= state < len(states):
                    assert all(set(values) == {-1} for values in at.values())
                    continue
                row, column, facing, ahead, around, below = states[state]
                here, first, last = (names.index(s[2]) for s in (states[state], states[0], states[-1]))
                assert at == {
                    "facing": [names.index(facing)],
                    "position": [row - 1, column - 1],
                    "turned": [(here - first) % 4],
                    "turn_to_go": [(last - here) % 4],
                    "gone": slow_steps(row - states[0][0], column - states[0][1], first),
                    "to_go": slow_steps(states[-1][0] - row, states[-1][1] - column, here),
                    "from_start": [row - states[0][0] + 5, column - states[0][1] + 5],
                    "from_end": [row - states[-1][0] + 5, column - states[-1][1] + 5],
                    "wall_ahead": [ahead],
                    "walls_around": around,
                    "marker_below": [below],
                }
            item += 1


def test_a_permuted_meaning_keeps_the_tokens(problems: karel.Problems) -> None:
    true, permuted = karel.problems_dataset(problems), karel.problems_dataset(problems, meaning=RIGHT_LEFT)
    assert true.fingerprint() == permuted.fingerprint()
    a, b = true.label_set("facing").values, permuted.label_set("facing").values
    assert ((a >= 0) == (b >= 0)).all()
    assert 0.2 < (a != b)[a >= 0].mean() < 0.8


def test_in_the_robots_own_terms_all_examples_are_alike(problems: karel.Problems) -> None:
    first, third = (karel.problems_dataset(problems, example=example) for example in (0, 2))
    for name in ("turned", "turn_to_go", "gone", "to_go", "to_go+1"):
        assert np.array_equal(first.label_set(name).values, third.label_set(name).values), name
    assert not np.array_equal(first.label_set("facing").values, third.label_set("facing").values)


def test_states_begin_with_the_program(problems: karel.Problems) -> None:
    tokens, lengths = karel.encode(problems)
    words = np.flatnonzero(is_word(tokens[4]))
    for position in (0, words[0] - 1):
        with pytest.raises(
            ValueError, match=f"token {position} of problem 4 belongs to the specification.*{words[0]} to"
        ):
            karel.world_after(problems, 4, int(position))
    with pytest.raises(ValueError, match="comes after the program"):
        karel.world_after(problems, 4, int(lengths[4]) - 1)
    last = karel.world_after(problems, 4, int(words[-1]), example=6)
    assert np.array_equal(last.markers[0], problems.outputs.markers[4 * 7 + 6])
    with pytest.raises(IndexError, match="no example 7"):
        karel.world_after(problems, 4, int(words[0]), example=7)


def test_a_larger_sample_begins_with_the_smaller_one() -> None:
    small, large = karel.sample_programs(30, seed=1), karel.sample_programs(1100, seed=1)
    for a, b in zip(small.tokens or (), (large.tokens or ())[:30], strict=True):
        assert np.array_equal(a, b)
    assert karel.sample_programs(30, seed=2).fingerprint() != small.fingerprint()
    groups = large.groups
    assert groups is not None
    assert len(np.unique(groups)) == len(np.unique(karel.behaviours(karel.sample_problems(1100, seed=1).programs)))


def test_surface_features_know_the_words_so_far(problems: karel.Problems) -> None:
    data = karel.problems_dataset(problems.rows(slice(0, 5)))
    features = data.surface_features()
    assert features is not None
    rows = karel.program_rows(data)
    assert not features[~rows].any()
    words = problems.programs[:5]
    n = len(karel.WORDS)
    first = features[rows][: (words[0] >= 0).sum()]
    assert np.array_equal(first[:, :n].argmax(1), words[0][words[0] >= 0])
    assert np.array_equal(first[1:, n : 2 * n], first[:-1, :n])
    assert np.array_equal(first[:, 3 * n :], first[:, :n].cumsum(0))


def test_bad_questions_are_refused(problems: karel.Problems) -> None:
    for ask, says in (
        (lambda: karel.sample_problems(0, seed=0), "n >= 1"),
        (lambda: karel.sample_problems(1, seed=-1), "seed >= 0"),
        (lambda: karel.sample_problems(1, seed=0, part="dev"), "no part 'dev'"),
        (lambda: karel.random_programs(1, np.random.default_rng(0), lengths=(0, 3)), "lengths"),
        (lambda: karel.make_problems(problems.programs[:2], problems.inputs.rows(slice(0, 3))), "shared out evenly"),
        (lambda: karel.problems_dataset(problems, meaning={"move": "turn_left"}), "two actions would mean"),
    ):
        with pytest.raises(ValueError, match=says):
            ask()
    with pytest.raises(karel.RunError, match="moved into a wall"):
        karel.make_problems(np.zeros((1, 7), np.int8), karel.make_world((3, 3), "north"))


def test_the_world_needs_no_torch_until_a_model_is_measured() -> None:
    code = (
        "import sys; from probekit.testbeds import karel; karel.sample_programs(2, seed=0).label_set('facing');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_programs_that_fit_nowhere_are_drawn_again() -> None:
    long = karel.read_program("move " * 6)[None]
    assert not programs_module.fits(long)[0]
    assert programs_module.fits(long[:, :5])[0]
    assert not programs_module.fits(karel.read_program("put_marker " * 11)[None])[0]
