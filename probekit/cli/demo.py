"""`probekit demo`: the layer sweep of the shipped Othello model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli.output import finish


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("out/demo"),
    games: Annotated[int, typer.Option("--games", min=100, help="Random games to read.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same numbers.")] = 0,
) -> None:
    """Where does a model that only ever saw moves keep the Othello board? Every layer, all 64 squares, in minutes.

    Reads the shipped `othello-mini` on fresh random games: mine / theirs / empty, and stable discs, at every layer,
    beside the controls. Writes the result, the probes and one page.

    **Example**

    - `probekit demo -o out/demo`
    """
    from probekit.models import load_model
    from probekit.probes import sweep
    from probekit.testbeds import othello

    model = load_model("othello-mini")
    data = othello.sample_games(games, seed=seed)
    result = sweep(model, data, labels=["tile", "stable"], seed=seed)
    finish(result, out, title="Othello: the board inside othello-mini")
