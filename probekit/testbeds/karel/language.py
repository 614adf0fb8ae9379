"""The language: words, reading programs, and the flat instructions that the interpreter runs.

A program is a sequence of words, written with spaces or line breaks between them:

    program    = statement, {statement}
    statement  = "move" | "turn_left" | "turn_right" | "put_marker" | "pick_marker"
               | "repeat", NUMBER, block
               | "while", condition, block
               | "if", condition, block
               | "ifelse", condition, block, "else", block
    block      = "{", statement, {statement}, "}"
    condition  = ["not"], ("frontIsClear" | "leftIsClear" | "rightIsClear" | "markersPresent" | "noMarkersPresent")

NUMBER is 1 to 10. The dialect `actions` has the five actions alone, `control` everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Dialect = Literal["actions", "control"]

ACTIONS = ("move", "turn_left", "turn_right", "put_marker", "pick_marker")
CONDITIONS = ("frontIsClear", "leftIsClear", "rightIsClear", "markersPresent", "noMarkersPresent")
NUMBERS = tuple(str(number) for number in range(1, 11))
WORDS = (*ACTIONS, "repeat", "while", "if", "ifelse", "else", "not", "{", "}", *CONDITIONS, *NUMBERS)
"""All words; a program is an array of positions in this tuple. The five actions come first."""
WORD = {word: number for number, word in enumerate(WORDS)}

MOVE, TURN_LEFT, TURN_RIGHT, PUT_MARKER, PICK_MARKER, END, JUMP, BRANCH, PUSH, LOOP = range(10)
"""Instructions: the five actions under their own numbers; the end; go to `argument`; go there unless the condition holds;
begin to count down from `argument`; count down and go to `argument` unless it was the last time."""

_PIECE = re.compile(r"[{}]|[^\s{}]+")


class ProgramError(ValueError):
    """A program that cannot be read.

    Attributes:
        line: Where, counted from 1.
        token: Which token of that line, counted from 1; one past the last where the program ends too early.
    """

    def __init__(self, message: str, line: int, token: int) -> None:
        super().__init__(f"line {line}, token {token}: {message}")
        self.line = line
        self.token = token


@dataclass(frozen=True)
class Code:
    """Instructions of some programs.

    Attributes:
        operation: `[program, instruction]` int8; `END` after the last.
        argument: `[program, instruction]` int16: a place to go to, or a number of times.
        condition: `[program, instruction]` int8: for `BRANCH`, the condition, and 5 more where it is negated.
        word: `[program, instruction]` int16: which word of the program the instruction belongs to.
        depth: Most counts that are running at once.
    """

    operation: np.ndarray
    argument: np.ndarray
    condition: np.ndarray
    word: np.ndarray
    depth: int

    def __len__(self) -> int:
        return len(self.operation)


def read_program(text: str, dialect: Dialect = "control") -> np.ndarray:
    """The words of a program as `[word]` int8 numbers, after a check that it is one.

    Raises:
        ProgramError: an unknown word, a word in the wrong place, an end too early, or loops and conditions in the
            dialect `actions`; says line and token and what was expected.
    """
    _check_dialect(dialect)
    numbers, places = [], []
    lines = text.split("\n")
    for line, written in enumerate(lines, start=1):
        for token, piece in enumerate(_PIECE.findall(written), start=1):
            if piece not in WORD:
                raise ProgramError(f"unknown word {piece!r}; the actions are {', '.join(ACTIONS)}", line, token)
            numbers.append(WORD[piece])
            places.append((line, token))
    places.append((len(lines), len(_PIECE.findall(lines[-1])) + 1))
    _compile(numbers, dialect, places)
    return np.array(numbers, np.int8)


def format_program(words: Sequence[int] | np.ndarray) -> str:
    """Words as text, in one line; words below 0 are left out."""
    return " ".join(WORDS[word] for word in words if word >= 0)


def as_programs(programs: Sequence[str] | Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Programs as `[program, word]` int8, -1 past the end, from texts, lists of words, or such an array.

    Raises:
        ProgramError: a text that is no program; names which one (from 0).
        TypeError: one string instead of a sequence of them.
    """
    if isinstance(programs, str):
        raise TypeError("programs must be a sequence, not one string: wrap it in a list")
    if isinstance(programs, np.ndarray) and programs.ndim == 2:
        return programs
    rows = []
    for number, program in enumerate(programs):
        try:
            rows.append(read_program(program) if isinstance(program, str) else np.asarray(program, np.int8))
        except ProgramError as error:
            error.args = (f"program {number}, {error}",)
            raise
    table = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int8)
    for row, words in zip(table, rows, strict=True):
        row[: len(words)] = words
    return table


def permute_actions(programs: np.ndarray, meaning: Mapping[str, str]) -> np.ndarray:
    """Programs in which every action is replaced by what it is to mean; all other words stay.

    Args:
        programs: Words, any shape, -1 past the end.
        meaning: For actions, the action whose meaning each takes; actions that are not named keep theirs.

    Raises:
        ValueError: something that is no action, or a meaning given to two actions.
    """
    for word in (*meaning, *meaning.values()):
        if word not in ACTIONS:
            raise ValueError(f"{word!r} is no action; the actions are {', '.join(ACTIONS)}")
    new = [meaning.get(action, action) for action in ACTIONS]
    if len(set(new)) < len(new):
        twice = next(action for action in new if new.count(action) > 1)
        raise ValueError(f"two actions would mean {twice!r}: a permutation gives each action a meaning of its own")
    table = np.arange(-1, len(WORDS), dtype=np.int8)
    table[1 : 1 + len(ACTIONS)] = [WORD[action] for action in new]
    changed: np.ndarray = table[np.asarray(programs, np.int64) + 1]
    return changed


def compile_programs(programs: np.ndarray) -> Code:
    """Instructions for `[program, word]` words, -1 past the end.

    Raises:
        ProgramError: words that are no program; names which one (from 0) and the word, as a token of line 1.
    """
    n, length = programs.shape
    if (programs < len(ACTIONS)).all():  # actions are their own instructions
        operation = np.full((n, length + 1), END, np.int8)
        operation[:, :length] = np.where(programs >= 0, programs, END)
        nothing = np.zeros((n, length + 1), np.int16)
        return Code(
            operation, nothing, nothing.astype(np.int8), np.tile(np.arange(length + 1, dtype=np.int16), (n, 1)), 0
        )
    compiled = []
    for number, words in enumerate(programs):
        words = words[words >= 0].tolist()
        try:
            compiled.append(_compile(words, "control", [(1, place + 1) for place in range(len(words) + 1)]))
        except ProgramError as error:
            error.args = (f"program {number}, {error}",)
            raise
    longest = max(len(instructions) for instructions, _ in compiled)
    table = np.zeros((4, n, longest), np.int16)
    table[0] = END
    for number, (instructions, _) in enumerate(compiled):
        table[:, number, : len(instructions)] = np.array(instructions, np.int16).T
    operation, argument, condition, word = table
    return Code(operation.astype(np.int8), argument, condition.astype(np.int8), word, max(d for _, d in compiled))


Instruction = tuple[int, int, int, int]


def _compile(
    words: Sequence[int], dialect: Dialect, places: Sequence[tuple[int, int]]
) -> tuple[list[Instruction], int]:
    """Instructions (operation, argument, condition, word) and the depth of counts.

    Args:
        words: Numbers of words.
        dialect: What is allowed.
        places: Line and token of every word, and of the end.
    """
    out: list[Instruction] = []
    at = 0
    deepest = 0

    def error(message: str, place: int) -> ProgramError:
        return ProgramError(message, *places[place])

    def take(allowed: Sequence[str], what: str) -> str:
        nonlocal at
        if at >= len(words):
            raise error(f"the program ends where {what} should follow", at)
        word = WORDS[words[at]]
        if word not in allowed:
            raise error(f"{word!r} where {what} should follow", at)
        at += 1
        return word

    def condition() -> int:
        word = take(("not", *CONDITIONS), "a condition")
        negated = word == "not"
        if negated:
            word = take(CONDITIONS, "a condition")
        return CONDITIONS.index(word) + len(CONDITIONS) * negated

    def block(depth: int) -> None:
        nonlocal at
        take("{", "'{'")
        if at < len(words) and WORDS[words[at]] == "}":
            raise error("an empty block; it needs at least one statement", at)
        while at >= len(words) or WORDS[words[at]] != "}":
            statement(depth)
        at += 1

    def statement(depth: int) -> None:
        nonlocal at, deepest
        here = at
        word = take((*ACTIONS, "repeat", "while", "if", "ifelse"), "a statement or '}'" if here else "a statement")
        if word in ACTIONS:
            out.append((WORD[word], 0, 0, here))
            return
        if dialect == "actions":
            raise error(f"{word!r} is no action, and this dialect has actions only ({', '.join(ACTIONS)})", here)
        if word == "repeat":
            times = int(take(NUMBERS, "a number from 1 to 10"))
            deepest = max(deepest, depth + 1)
            out.append((PUSH, times, 0, here))
            start = len(out)
            block(depth + 1)
            out.append((LOOP, start, 0, here))
            return
        start = len(out)
        test = condition()
        out.append((BRANCH, -1, test, here))
        block(depth)
        if word == "while":
            out.append((JUMP, start, 0, here))
        if word == "ifelse":
            out.append((JUMP, -1, 0, here))
            over = len(out) - 1
            out[start] = (BRANCH, len(out), test, here)
            take(("else",), "'else'")
            block(depth)
            out[over] = (JUMP, len(out), 0, here)
        else:
            out[start] = (BRANCH, len(out), test, here)

    if not words:
        raise error("the program is empty; it needs at least one statement", 0)
    while at < len(words):
        statement(0)
    out.append((END, 0, 0, len(words)))
    return out, deepest


def _check_dialect(dialect: str) -> None:
    if dialect not in ("actions", "control"):
        raise ValueError(f"there is no dialect {dialect!r}: take 'actions' or 'control'")
