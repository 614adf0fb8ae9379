"""Othello games as data for probes: tokens, exact labels after every move, and what the moves alone tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from probekit.data import Dataset, Kind, LabelSet
from probekit.testbeds.othello.engine import ENGINE_VERSION, Bits, random_games
from probekit.testbeds.othello.pgn import parse_pgn
from probekit.testbeds.othello.replay import Replay, replay
from probekit.testbeds.othello.stability import paper_stable, stable_discs
from probekit.testbeds.othello.tokens import CONTEXT, SQUARE_NAMES, TOKEN_OF_SQUARE, squares_to_tokens

SAMPLE_SEEDS = 0x07E1105A
"""First word of every seed of `sample_games`; training and its checks use other first words, so no seed given here
brings back the random stream of a training game."""
_GAMES_A_DRAW = 1024

LABEL_SETS = ("tile", "tile_absolute", "stable", "stable_paper", "flipped", "legal", "region")
"""Names of the label sets of every Othello dataset; see `games_dataset`."""


def sample_games(n: int, *, seed: int) -> Dataset:
    """Random games, each move drawn uniformly from the legal ones, as a dataset.

    The first games of a larger sample with the same seed are the games of a smaller one. The labels, and what
    happens to the last move, are those of `games_dataset`.

    Args:
        n: Number of games.
        seed: Any integer from 0 on. No value leads to a game's stream that the shipped model was trained on.

    Raises:
        ValueError: `n` below 1 or a negative seed.
    """
    if n < 1 or seed < 0:
        raise ValueError(f"sample_games needs n >= 1 and seed >= 0, got n={n}, seed={seed}")
    facts = {"world": "othello", "source": "random legal moves", "seed": seed, "engine": ENGINE_VERSION}
    return _dataset(sample_moves(n, seed=seed), f"othello-random-{n}-{seed}", facts)


def sample_moves(n: int, *, seed: int) -> np.ndarray:
    """The games of `sample_games` as `[n, 60]` int8 squares, -1 past the end of a game."""
    draws = [
        random_games(_GAMES_A_DRAW, np.random.default_rng([SAMPLE_SEEDS, seed, number]))[0]
        for number in range(-(-n // _GAMES_A_DRAW))
    ]
    return np.concatenate(draws)[:n]


def games_dataset(games: Sequence[Sequence[int | str]], name: str = "othello-games") -> Dataset:
    """Given games as a dataset.

    A sequence holds the tokens of the first 59 moves of its game (fewer where the game ended early). The 60th move
    is left out: it fills the board, nothing follows it, and the model has no position for it. A game is a group.

    The labels say what is true *after* a token's move, with the *player to move* being whoever makes the next move (the
    same player again where the other has to pass; the opponent of the last player where the game is over). All but
    `region` have a target a square, `A1` to `H8` in the order of the square numbers 0-63:

    | label set | classes | meaning |
    |---|---|---|
    | `tile` | theirs, mine, empty | disc on the square, seen from the player to move |
    | `tile_absolute` | black, white, empty | the disc's colour |
    | `stable` | not stable, stable | no move can ever turn the disc (`stability.stable_discs`: sound, not complete) |
    | `stable_paper` | not stable, stable | the seed paper's rule (`stability.paper_stable`), which ignores colour |
    | `flipped` | no, yes | the move turned the disc |
    | `legal` | no, yes | the player to move may play there |
    | `region` | corner, edge, centre | where the move was played (one target) |

    `stable` and `stable_paper` are -1, not defined, on empty squares: the question is about a disc, and a 0 there would
    let a probe score by telling occupied from empty.

    The surface features are what can be seen without the model: the square played (60 one-hot columns, in the order of
    the tokens) and the number of the move (59).

    Args:
        games: One list of squares a game, as numbers 0-63 or names (`"D3"`); passes are not written.
        name: Of the dataset.

    Raises:
        IllegalMove: names game (from 0), move (from 1) and the moves that were legal.
        ValueError: no games, or a game without moves.
    """
    for number, game in enumerate(games):
        if not len(game):
            raise ValueError(f"game {number} has no moves")
    if not len(games):
        raise ValueError("no games given")
    return _dataset(replay(games).moves, name, {"world": "othello", "source": "given games", "engine": ENGINE_VERSION})


def read_pgn(path: str | Path) -> Dataset:
    """The games of a PGN file as a dataset; labels as in `games_dataset`.

    Raises:
        FileNotFoundError: no such file.
        IllegalMove: names game (from 0), move (from 1) and the moves that were legal.
        ValueError: the file holds no game.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no PGN file at {path}")
    written = path.read_bytes()
    try:
        text = written.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = written.decode("latin-1")  # what the PGN standard (section 4.1) writes players' names in
    return games_dataset([game.moves for game in parse_pgn(text)], name=path.stem)


def _dataset(moves: np.ndarray, name: str, facts: Mapping[str, object]) -> Dataset:
    kept = moves[:, :CONTEXT]
    tokens = squares_to_tokens(kept)
    lengths = (kept >= 0).sum(1)
    world = _Labels(moves)
    return Dataset(
        name,
        tokens=tuple(row[:length] for row, length in zip(tokens, lengths, strict=True)),
        groups=np.arange(len(moves)),
        labels={label: partial(world.label_set, label) for label in LABEL_SETS},
        surface=partial(surface_features, kept),
        facts=dict(facts),
    )


class _Labels:
    """Label sets of some games, each computed when asked for from one shared replay."""

    def __init__(self, moves: np.ndarray) -> None:
        self._moves = moves
        self._replay: Replay | None = None

    def label_set(self, name: str) -> LabelSet:
        if self._replay is None:
            self._replay = replay(self._moves[:, :CONTEXT])
        kind, classes, compute = _DEFINITIONS[name]
        values = compute(self._replay)
        targets = SQUARE_NAMES if values.shape[1] == 64 else ("square played",)
        return LabelSet(name, values, kind, "token", classes, targets)


def unpack(sets: Bits) -> np.ndarray:
    """`[...]` uint64 as `[..., 64]` int16, 1 where the set holds the square."""
    sets = np.ascontiguousarray(sets, "<u8")
    return np.unpackbits(sets[..., None].view(np.uint8), axis=-1, bitorder="little").astype(np.int16)


def _three(first: Callable[[Replay], Bits], second: Callable[[Replay], Bits], games: Replay) -> np.ndarray:
    """Class 0 where the first set holds a disc, 1 where the second does, 2 elsewhere."""
    there = games.played
    classes: np.ndarray = 2 - 2 * unpack(first(games)[there]) - unpack(second(games)[there])
    return classes


def _on_discs(sets: Bits, games: Replay) -> np.ndarray:
    """Yes or no on discs, not defined on empty squares."""
    there = games.played
    filled = unpack((games.own | games.opp)[there])
    return np.where(filled == 1, unpack(sets[there]), np.int16(-1))


def _region(games: Replay) -> np.ndarray:
    square = games.moves[games.played].astype(np.int16)
    outer = (np.isin(square % 8, (0, 7))).astype(np.int16) + np.isin(square // 8, (0, 7))
    return (2 - outer)[:, None]


_YES_NO = ("no", "yes")
_STABLE = ("not stable", "stable")
_DEFINITIONS: dict[str, tuple[Kind, tuple[str, ...], Callable[[Replay], np.ndarray]]] = {
    "tile": ("multiclass", ("theirs", "mine", "empty"), partial(_three, lambda g: g.opp, lambda g: g.own)),
    "tile_absolute": ("multiclass", ("black", "white", "empty"), partial(_three, lambda g: g.black, lambda g: g.white)),
    "stable": ("binary", _STABLE, lambda g: _on_discs(stable_discs(g.own, g.opp), g)),
    "stable_paper": ("binary", _STABLE, lambda g: _on_discs(paper_stable(g.own | g.opp), g)),
    "flipped": ("binary", _YES_NO, lambda g: unpack(g.flipped[g.played])),
    "legal": ("binary", _YES_NO, lambda g: unpack(g.legal[g.played])),
    "region": ("multiclass", ("corner", "edge", "centre"), _region),
}


def surface_features(moves: np.ndarray) -> np.ndarray:
    """`[token, 60 + 59]` float32: the square of each move and its number, one-hot.

    Args:
        moves: `[game, ply]` squares, -1 past the end; up to 59 plies.
    """
    game, ply = np.nonzero(moves >= 0)
    features = np.zeros((len(game), 60 + CONTEXT), np.float32)
    row = np.arange(len(game))
    features[row, TOKEN_OF_SQUARE[moves[game, ply]] - 1] = 1
    features[row, 60 + ply] = 1
    return features
