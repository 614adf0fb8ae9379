"""Problems as tokens and back.

A sequence is the specification, the token `<program>`, the words of the program, and `<end>`. There are two encodings of the
specification, and both can be read back.

`facts` (about 8 tokens an example) writes a token for each thing there is: the robot (place and facing in one token), each
wall inside the ring, each cell with markers (place and number in one token), then the robot at the end, and each cell whose
markers changed, with their new number. Robots of inputs and outputs have different tokens, so every token says by itself
what it is. Cells come in the order of their numbers.

`grid` (72 tokens an example) is the drawing of Jin & Rinard (arXiv 2305.11169): the 36 inner cells of input and output, row
by row. Theirs hides what the robot stands on; here the robot's token says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from probekit.testbeds.karel.language import WORDS
from probekit.testbeds.karel.problems import Problems
from probekit.testbeds.karel.world import CELLS, FACINGS, INNER, MOST_MARKERS, RING, Worlds, cell_name

Encoding = Literal["facts", "grid"]

PAD, PROGRAM, END = 0, 1, 2
FIRST_WORD = 3
"""Token of the first word of the language; `FIRST_WORD + w` is word `w`."""
_AFTER_WORDS = FIRST_WORD + len(WORDS)
_N = len(INNER)
START = _AFTER_WORDS
"""Encoding `facts`: the robot in an input; 4 tokens an inner cell, one a facing."""
WALL = START + 4 * _N
"""A wall; one token an inner cell."""
MARKERS = WALL + _N
"""Markers in an input; 10 tokens an inner cell, for 1 to 10 of them."""
STOP = MARKERS + MOST_MARKERS * _N
"""The robot in an output; 4 tokens an inner cell."""
CHANGED = STOP + 4 * _N
"""Markers in an output where they are not as in the input; 11 tokens an inner cell, for 0 to 10 of them."""

_GRID_WALL = _AFTER_WORDS
_GRID_COUNT = _GRID_WALL + 1
_GRID_ROBOT = _GRID_COUNT + MOST_MARKERS + 1

VOCABULARY = {"facts": CHANGED + (MOST_MARKERS + 1) * _N, "grid": _GRID_ROBOT + 4 * (MOST_MARKERS + 1)}
"""Number of tokens."""
CONTEXT = {"facts": 128, "grid": 416}
"""Positions of a model of this testbed."""


class TokenError(ValueError):
    """Tokens that are no problem; says where."""


def encode(problems: Problems, encoding: Encoding = "facts") -> tuple[np.ndarray, np.ndarray]:
    """Sequences of tokens for problems; of their examples, those that are shown.

    Returns:
        tokens: `[problem, position]` int32, `PAD` past the end.
        lengths: `[problem]` int64.
    """
    shown = np.arange(len(problems) * problems.examples) % problems.examples < problems.shown
    inputs, outputs = problems.inputs.rows(shown), problems.outputs.rows(shown)
    if encoding == "facts":
        examples = _facts(inputs, outputs)
    elif encoding == "grid":
        examples = np.concatenate([_grid(inputs), _grid(outputs)], axis=1)
    else:
        raise ValueError(f"there is no encoding {encoding!r}: take 'facts' or 'grid'")
    n = len(problems)
    words = np.where(problems.programs >= 0, problems.programs.astype(np.int32) + FIRST_WORD, PAD)
    slots = np.concatenate(
        [examples.reshape(n, -1), np.full((n, 1), PROGRAM), words, np.full((n, 1), END)], axis=1, dtype=np.int32
    )
    there = slots != PAD
    lengths = there.sum(1)
    tokens = np.full((n, int(lengths.max())), PAD, np.int32)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = slots[there]
    return tokens, lengths


def _facts(inputs: Worlds, outputs: Worlds) -> np.ndarray:
    """`[example, slot]` tokens, `PAD` in the slots of things that are not there."""
    place = np.searchsorted(INNER, np.stack([inputs.cell, outputs.cell]))
    inner = np.arange(_N)
    before, after = inputs.markers[:, INNER].astype(np.int32), outputs.markers[:, INNER].astype(np.int32)
    return np.concatenate(
        [
            (START + 4 * place[0] + inputs.facing)[:, None],
            np.where(inputs.walls[:, INNER], WALL + inner, PAD),
            np.where(before > 0, MARKERS + MOST_MARKERS * inner + before - 1, PAD),
            (STOP + 4 * place[1] + outputs.facing)[:, None],
            np.where(after != before, CHANGED + (MOST_MARKERS + 1) * inner + after, PAD),
        ],
        axis=1,
        dtype=np.int32,
    )


def _grid(worlds: Worlds) -> np.ndarray:
    """`[world, 36]` tokens."""
    count = worlds.markers[:, INNER].astype(np.int32)
    tokens = np.where(worlds.walls[:, INNER], _GRID_WALL, _GRID_COUNT + count)
    row, place = np.arange(len(worlds)), np.searchsorted(INNER, worlds.cell)
    tokens[row, place] = _GRID_ROBOT + (MOST_MARKERS + 1) * worlds.facing.astype(np.int32) + count[row, place]
    return tokens


def is_word(tokens: np.ndarray) -> np.ndarray:
    """Where the tokens are words of a program: bool of the same shape."""
    tokens = np.asarray(tokens)
    found: np.ndarray = (tokens >= FIRST_WORD) & (tokens < _AFTER_WORDS)
    return found


def is_output(tokens: np.ndarray) -> np.ndarray:
    """Where tokens of the encoding `facts` speak of an output: bool of the same shape."""
    found: np.ndarray = np.asarray(tokens) >= STOP
    return found


def decode(tokens: np.ndarray, encoding: Encoding = "facts") -> tuple[np.ndarray, Worlds, Worlds]:
    """Read one sequence back.

    Args:
        tokens: `[position]`; `PAD` at the end is left out.
        encoding: Of the sequence.

    Returns:
        The words `[word]` int8, and the inputs and outputs of the examples.

    Raises:
        TokenError: a token where none of its kind can be; says the position (from 0).
        WorldError: worlds that cannot be.
    """
    tokens = np.trim_zeros(np.asarray(tokens, np.int64), "b")
    if (tokens == PROGRAM).sum() != 1:
        raise TokenError(f"a sequence has one token {PROGRAM} (<program>), this one has {(tokens == PROGRAM).sum()}")
    begins = int(np.flatnonzero(tokens == PROGRAM)[0])
    words = tokens[begins + 1 :]
    if not len(words) or words[-1] != END or not is_word(words[:-1]).all():
        raise TokenError(f"after position {begins} (<program>) come words and, at the end, {END} (<end>)")
    read = _read_facts if encoding == "facts" else _read_grid
    return ((words[:-1] - FIRST_WORD).astype(np.int8), *read(tokens[:begins]))


def _read_facts(tokens: np.ndarray) -> tuple[Worlds, Worlds]:
    kinds = np.searchsorted([START, WALL, MARKERS, STOP, CHANGED, VOCABULARY["facts"]], tokens, side="right")
    names = ("robot", "wall", "markers", "robot at the end", "changed markers")
    begins = np.flatnonzero(kinds == 1)
    if not len(begins) or begins[0] != 0:
        raise TokenError("a specification begins with the robot of an input")
    table = {name: [] for name in ("cell", "facing", "walls", "before", "stop", "turned", "after")}  # type: ignore[var-annotated]
    for first, last in zip(begins, [*begins[1:], len(tokens)], strict=True):
        part, kind = tokens[first:last], kinds[first:last]
        for wrong in np.flatnonzero((kind < 1) | (kind > 5) | (np.diff(kind, prepend=0) < 0)):
            what = names[kind[wrong] - 1] if 1 <= kind[wrong] <= 5 else "no part of a specification"
            raise TokenError(f"position {first + wrong}: token {part[wrong]} ({what}) is out of place")
        if (kind == 4).sum() != 1:
            raise TokenError(f"the example at position {first} has {(kind == 4).sum()} robots at the end; it needs one")
        walls, count = RING.copy(), np.zeros(CELLS, np.int8)
        walls[INNER[part[kind == 2] - WALL]] = True
        place, number = np.divmod(part[kind == 3] - MARKERS, MOST_MARKERS)
        count[INNER[place]] = number + 1
        after = count.copy()
        place, number = np.divmod(part[kind == 5] - CHANGED, MOST_MARKERS + 1)
        after[INNER[place]] = number
        start, facing = divmod(int(part[0]) - START, 4)
        stop, turned = divmod(int(part[kind == 4][0]) - STOP, 4)
        for name, value in zip(table, (INNER[start], facing, walls, count, INNER[stop], turned, after), strict=True):
            table[name].append(value)
    made = {name: np.array(values) for name, values in table.items()}
    return (
        Worlds(made["cell"], made["facing"], made["walls"], made["before"]),
        Worlds(made["stop"], made["turned"], made["walls"], made["after"]),
    )


def _read_grid(tokens: np.ndarray) -> tuple[Worlds, Worlds]:
    if len(tokens) % (2 * _N) or not len(tokens):
        raise TokenError(f"{len(tokens)} tokens of specification: every example has {2 * _N}")
    wrong = np.flatnonzero((tokens < _GRID_WALL) | (tokens >= VOCABULARY["grid"]))
    if len(wrong):
        raise TokenError(f"position {wrong[0]}: token {tokens[wrong[0]]} is no cell of a grid")
    cells = tokens.reshape(-1, _N)
    robots = cells >= _GRID_ROBOT
    if (robots.sum(1) != 1).any():
        world = int(np.flatnonzero(robots.sum(1) != 1)[0])
        raise TokenError(f"the grid at position {world * _N} has {robots[world].sum()} robots; a world has one")
    place = robots.argmax(1)
    facing, below = np.divmod(cells[robots] - _GRID_ROBOT, MOST_MARKERS + 1)
    walls = np.tile(RING, (len(cells), 1))
    walls[:, INNER] = cells == _GRID_WALL
    markers = np.zeros((len(cells), CELLS), np.int8)
    markers[:, INNER] = np.where(robots | (cells == _GRID_WALL), 0, cells - _GRID_COUNT)
    markers[np.arange(len(cells)), INNER[place]] = below
    worlds = Worlds(INNER[place], facing, walls, markers)
    return worlds.rows(slice(0, None, 2)), worlds.rows(slice(1, None, 2))


def token_names(encoding: Encoding = "facts") -> tuple[str, ...]:
    """What every token says, for tables and pages."""
    names = ["<pad>", "<program>", "<end>", *WORDS]
    cells = [cell_name(cell) for cell in INNER]
    counts = range(MOST_MARKERS + 1)
    if encoding == "grid":
        robots = [f"robot facing {facing} on {_some(count)}" for facing in FACINGS for count in counts]
        return (*names, "wall", *(_some(count) for count in counts), *robots)
    names += [f"robot: {cell}, facing {facing}" for cell in cells for facing in FACINGS]
    names += [f"wall: {cell}" for cell in cells]
    names += [f"{_some(count)}: {cell}" for cell in cells for count in counts[1:]]
    names += [f"robot at the end: {cell}, facing {facing}" for cell in cells for facing in FACINGS]
    names += [f"now {_some(count)}: {cell}" for cell in cells for count in counts]
    return tuple(names)


def _some(count: int) -> str:
    return "no markers" if not count else "1 marker" if count == 1 else f"{count} markers"


def split_sequences(tokens: np.ndarray, lengths: Sequence[int] | np.ndarray) -> tuple[np.ndarray, ...]:
    """`[problem, position]` tokens as one array a sequence, without `PAD`."""
    return tuple(row[:length] for row, length in zip(tokens, lengths, strict=True))
