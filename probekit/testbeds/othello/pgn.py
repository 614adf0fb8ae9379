"""Othello games in PGN: tags, then numbered pairs of moves in algebraic squares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from probekit.testbeds.othello.replay import IllegalMove, square_number
from probekit.testbeds.othello.tokens import SQUARE_NAMES

_TAG = re.compile(r'\[(\w+)\s+"(.*)"\]')
_NUMBER = re.compile(r"\d+\.+")
_RESULT = re.compile(r"\d{1,2}-\d{1,2}|\*")
_PASSES = {"--", "PASS", "PA", "PS"}


@dataclass(frozen=True)
class PgnGame:
    """One game of a PGN file.

    Attributes:
        moves: Squares 0-63 in the order played; passes are not moves.
        tags: The tag pairs, in the order of the file (`{"Black": ..., "Result": ...}`). A value is what stands between
            the outer quotes, as it is written there: files in use hold quotes inside quotes.
    """

    moves: tuple[int, ...]
    tags: Mapping[str, str] = field(default_factory=dict)


def parse_pgn(text: str) -> list[PgnGame]:
    """Read every game of a PGN text.

    Move numbers, `{comments}`, results and written passes (`--`, `pass`) are skipped. Whether the moves are legal is
    not checked here: `replay` does that.

    Raises:
        IllegalMove: a word that is neither; names game (from 0) and move (from 1).
        ValueError: no game in the text.
    """
    games: list[PgnGame] = []
    tags: dict[str, str] = {}
    moves: list[int] = []

    def close() -> None:
        if tags or moves:
            games.append(PgnGame(tuple(moves), dict(tags)))
        tags.clear()
        moves.clear()

    for line in re.sub(r"\{[^}]*\}", " ", text).splitlines():
        tag = _TAG.fullmatch(line.strip())
        if tag:
            if moves:
                close()
            tags[tag[1]] = tag[2]
            continue
        for word in _NUMBER.sub(" ", line).split():
            if word.upper() in _PASSES or _RESULT.fullmatch(word):
                continue
            try:
                moves.append(square_number(word))
            except ValueError as error:
                raise IllegalMove(
                    f"game {len(games)}, move {len(moves) + 1}: {error}", len(games), len(moves) + 1
                ) from None
        if not line.strip() and moves:
            close()
    close()
    if not games:
        raise ValueError("the text holds no PGN game")
    return games


def format_pgn(games: Iterable[PgnGame]) -> str:
    """Write games as PGN text that `parse_pgn` reads back to the same games: tags, then one pair of moves a line."""
    blocks = []
    for game in games:
        lines = [f'[{name} "{value}"]' for name, value in game.tags.items()]
        names = [SQUARE_NAMES[square] for square in game.moves]
        lines += [f"{i // 2 + 1}. {names[i]} {' '.join(names[i + 1 : i + 2])}" for i in range(0, len(names), 2)]
        blocks.append("\n".join(lines) + "\n")
    return "".join(f"{block}\n" for block in blocks)
