"""`probekit demo`: the layer sweep of the shipped Othello model, and the features of its shipped SAE."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli.demo_features import read_features, shipped_sites
from probekit.cli.demo_intervention import turn_discs
from probekit.cli.output import finish, require_folder


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("out/demo"),
    games: Annotated[int, typer.Option("--games", min=100, help="Random games to read.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same numbers.")] = 0,
) -> None:
    """Where does a model that only ever saw moves keep the Othello board? Every layer, all 64 squares, in minutes.

    Reads the shipped `othello-mini` on fresh random games: mine / theirs / empty, and stable discs, at every layer,
    beside the controls; then a disc turned inside the model, and what single features of the SAE at the best layer say.
    Writes the result, the probes and one page.

    **Example**

    - `probekit demo -o out/demo`
    """
    from probekit.models import load_model
    from probekit.probes import sweep
    from probekit.report.boards import game_beliefs
    from probekit.testbeds import othello

    require_folder(out)
    model = load_model("othello-mini")
    data = othello.sample_games(games, seed=seed)
    result = sweep(model, data, labels=["tile", "stable"], max_rows=10_000, seed=seed)

    fresh = othello.sample_games(1, seed=seed + 1)  # one more game, for the board; no figure comes from it
    (tokens,) = fresh.tokens or ()
    squares = othello.tokens_to_squares(tokens)
    tile = fresh.label_set("tile")
    board = game_beliefs(
        result.read(model, tokens, "tile"),
        tile.values,
        [othello.SQUARE_NAMES[square] for square in squares],
        classes=tile.classes,
        mover=1 - othello.replay(squares[None]).black_to_move[0].astype(int),
        title=f"A fresh random game, read at {result.best('tile').site}",
        start=30,
    )
    best = result.best("tile").site
    turned = turn_discs(model, result, seed + 2)
    features = read_features(model, result, best, seed + 1000) if best in shipped_sites() else None
    finish(
        result,
        out,
        title="Othello: the board inside othello-mini",
        extra_blocks=[board, *turned.blocks(), *(features.blocks() if features else [])],
    )
    typer.echo(f"\n{turned.summary()}")
    if features:
        typer.echo(features.summary())
