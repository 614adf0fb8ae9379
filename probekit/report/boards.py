"""Square worlds: how well each square is read at each layer, and one game with what the model believes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.report import wording
from probekit.report.blocks import Block
from probekit.report.matrices import color_range
from probekit.report.scores import Scores

_SQUARE = re.compile(r"(?:^|[^a-z0-9])([a-z])(\d{1,2})\]?$", re.IGNORECASE)

# Matplotlib's cividis at nine points (Nunez, Anderton & Renslow 2018), as plotly's "Cividis" has it.
_CIVIDIS = (
    (0, 32, 76),
    (0, 48, 111),
    (65, 77, 107),
    (89, 97, 111),
    (124, 123, 120),
    (151, 144, 116),
    (187, 175, 99),
    (225, 204, 85),
    (255, 233, 69),
)

# Fill of a piece by the name of its class; None is an empty square. "mine" is given the mover's colour.
PIECES: dict[str, str | None] = {"black": "#15181c", "white": "#f6f4ee", "empty": None, "none": None}


def board_order(targets: Sequence[str]) -> tuple[int, int, np.ndarray] | None:
    """`(rows, columns, square [target])` when the targets are squares of a board (counted row by row), else None.

    A square's name ends in a letter for the column and a number for the row, from 1: `d3`, `tile[D3]`. Some squares may
    be missing (those whose label never varies are not probed), up to half of them.
    """
    matches = [_SQUARE.search(t) for t in targets]
    if len(targets) < 4 or not all(matches):
        return None
    places = [(int(m[2]) - 1, ord(m[1].lower()) - ord("a")) for m in matches if m]
    rows, columns = max(r for r, _ in places) + 1, max(c for _, c in places) + 1
    if min(places)[0] < 0 or len(set(places)) < len(places) or 2 * len(places) < rows * columns:
        return None
    return rows, columns, np.array([r * columns + c for r, c in places])


def board_accuracy(
    values: np.ndarray, titles: Sequence[str], *, metric: str = "accuracy", best: int | None = None
) -> Block:
    """One small board a layer, coloured by how well each square is read there; all boards share one scale.

    Args:
        values: `[layer, row, column]` scores; NaN where there is none.
        titles: `[layer]` names of the layers.
        metric: What the scores are, for their format and the legend.
        best: Index of the layer to mark.
    """
    values = np.asarray(values, float)
    if values.ndim != 3 or len(values) != len(titles):
        raise ValueError(f"values must be [layer, row, column] for {len(titles)} titles, got shape {values.shape}")
    low, high = color_range(values)
    boards = [
        {
            "title": title,
            "best": i == best,
            "squares": [
                {
                    "x": c,
                    "y": r,
                    "fill": _fill((board[r, c] - low) / (high - low)),
                    "name": square_name(r, c),
                    "text": wording.format_score(board[r, c], metric),
                    "short": "–" if np.isnan(board[r, c]) else _short(board[r, c], metric),
                    "ink": _ink((board[r, c] - low) / (high - low)),
                }
                for r in range(board.shape[0])
                for c in range(board.shape[1])
            ],
        }
        for i, (title, board) in enumerate(zip(titles, values, strict=True))
    ]
    return Block(
        "boards",
        {
            "boards": boards,
            "rows": values.shape[1],
            "columns": values.shape[2],
            "metric": wording.metric_name(metric),
            "low": wording.format_score(low, metric),
            "high": wording.format_score(high, metric),
            "ramp": ", ".join(_fill(k / 8) for k in range(9)),
        },
    )


@dataclass(frozen=True)
class Position:
    """A board and the moves a model holds likely on it.

    Attributes:
        title: What it shows.
        discs: `[square]` `"black"`, `"white"` or None, row by row from the top left.
        moves: `[square]` probability of playing there.
        legal: `[square]` bool: what the rules allow on this board.
        turned: Index of the disc that was turned, to mark it.
    """

    title: str
    discs: Sequence[str | None]
    moves: Sequence[float]
    legal: Sequence[bool]
    turned: int | None = None


def position_boards(positions: Sequence[Position], caption: str = "", columns: int = 8) -> Block:
    """Boards side by side: discs, each empty square as dark as the model holds a move there likely, legal moves ringed."""
    drawn = []
    for one in positions:
        most = max((float(m) for m in one.moves), default=1.0) or 1.0
        squares = [
            {
                "x": i % columns,
                "y": i // columns,
                "disc": None if disc is None else PIECES[disc],
                "shade": round(float(one.moves[i]) / most, 3),
                "legal": bool(one.legal[i]),
                "turned": i == one.turned,
                "text": f"{square_name(i // columns, i % columns)}: "
                + (disc or f"{100 * float(one.moves[i]):.1f} %, {'legal' if one.legal[i] else 'not legal'}"),
            }
            for i, disc in enumerate(one.discs)
        ]
        drawn.append({"title": one.title, "squares": squares})
    rows = -(-len(positions[0].discs) // columns) if positions else 0
    return Block("positions", {"boards": drawn, "rows": rows, "columns": columns, "caption": caption})


def sweep_boards(scores: Scores, label_set: str, metric: str, best_site: str | None = None) -> Block | None:
    """`board_accuracy` of a label set of a sweep, or None where its targets are not the squares of a board."""
    order = board_order(scores.targets(label_set))
    if order is None:
        return None
    rows, columns, squares = order
    sites = scores.sites(label_set)
    table = np.full((len(sites), rows * columns), np.nan)
    table[:, squares] = scores.table(label_set, metric).T
    boards = table.reshape(len(sites), rows, columns)
    best = sites.index(best_site) if best_site in sites else None
    return board_accuracy(boards, [wording.site_name(s) for s in sites], metric=metric, best=best)


def game_beliefs(
    belief: np.ndarray,
    truth: np.ndarray,
    moves: Sequence[str],
    *,
    classes: Sequence[str] = ("black", "white", "empty"),
    mover: Sequence[int] | None = None,
    shape: tuple[int, int] = (8, 8),
    title: str = "",
    start: int = 0,
) -> Block:
    """One game, move by move: the board the model believes in beside the true one. Slider, buttons and arrow keys.

    Args:
        belief: `[move, square, class]` probabilities after each move, squares row by row from the top left.
        truth: `[move, square]` class indices; -1 where unknown.
        moves: `[move]` names of the moves (`"d3"`); a name that is a square is marked on the boards.
        classes: Names in index order. `black`, `white` and `empty` are drawn as such, `mine` and `theirs` in the
            colours of `mover`; any other class gets a colour of its own.
        mover: `[move]` whose discs are "mine" at that position: 0 black, 1 white. Needed for mine and theirs.
        shape: Rows and columns of the board.
        title: What game this is.
        start: Move shown first.

    Raises:
        ValueError: shapes that do not fit together.
    """
    belief, truth = np.asarray(belief, float), np.asarray(truth)
    squares = shape[0] * shape[1]
    if belief.shape != (len(moves), squares, len(classes)) or truth.shape != (len(moves), squares):
        raise ValueError(
            f"{len(moves)} moves on {shape[0]} x {shape[1]} squares with {len(classes)} classes need belief "
            f"{(len(moves), squares, len(classes))} and truth {(len(moves), squares)}, "
            f"got {belief.shape} and {truth.shape}"
        )
    if not len(moves):
        raise ValueError("a game needs at least one move")
    belief, truth, classes = _absolute(belief, truth, tuple(classes), mover)
    data: dict[str, Any] = {
        "rows": shape[0],
        "columns": shape[1],
        "classes": list(classes),
        "colors": piece_colors(classes),
        "start": int(start),
        "moves": [str(m) for m in moves],
        # whole per mille keep the page small and are finer than the eye
        "belief": np.rint(1000 * belief).astype(int).tolist(),
        "truth": truth.astype(int).tolist(),
        "names": [square_name(r, c) for r in range(shape[0]) for c in range(shape[1])],
    }
    return Block("game", {"game": data, "title": title})


def _absolute(
    belief: np.ndarray, truth: np.ndarray, classes: tuple[str, ...], mover: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Mine and theirs turned into black and white, so that a disc keeps its colour from one move to the next."""
    if not {"mine", "theirs"} <= set(classes):
        return belief, truth, classes
    if mover is None or len(mover) != len(belief):
        raise ValueError(
            f"classes {classes} are relative to the mover: give mover, 0 (black) or 1 (white), "
            f"one for each of {len(belief)} moves"
        )
    mine, theirs = classes.index("mine"), classes.index("theirs")
    swap = np.arange(len(classes))
    swap[[mine, theirs]] = theirs, mine
    white = np.asarray(mover) == 1
    belief, truth = belief.copy(), truth.copy()
    belief[white] = belief[white][..., swap]
    truth[white] = np.where(truth[white] >= 0, swap[truth[white]], -1)
    names = {"mine": "black", "theirs": "white"}
    return belief, truth, tuple(names.get(c, c) for c in classes)


def piece_colors(classes: Sequence[str]) -> list[str | None]:
    """Fill of each class's pieces, None for an empty square; classes that are no pieces get colours of their own."""
    spare = iter(("#e3a008", "#3a9bc1", "#c2497f", "#7a5195", "#00805d", "#c26a00") * (len(classes) // 6 + 1))
    return [PIECES[c] if c in PIECES else next(spare) for c in classes]


def square_name(row: int, column: int) -> str:
    """`(2, 3)` -> `"d3"`: rows from the top, as Othello counts them."""
    return f"{chr(ord('a') + column)}{row + 1}"


def _short(value: float, metric: str) -> str:
    return f"{100 * value:.0f}" if wording.is_percent(metric) else f"{value:.2f}".lstrip("0")


def _fill(share: float) -> str:
    """Cividis at `share` in 0..1, as a CSS colour; a faint grey for NaN."""
    if np.isnan(share):
        return "#8a919c33"
    at = min(max(share, 0.0), 1.0) * (len(_CIVIDIS) - 1)
    i = min(int(at), len(_CIVIDIS) - 2)
    mixed = (round(a + (b - a) * (at - i)) for a, b in zip(_CIVIDIS[i], _CIVIDIS[i + 1], strict=True))
    return "#" + "".join(f"{v:02x}" for v in mixed)


def _ink(share: float) -> str:
    """A colour that can be read on `_fill`."""
    return "#8a919c" if np.isnan(share) else "#ffffff" if share < 0.55 else "#15181c"
