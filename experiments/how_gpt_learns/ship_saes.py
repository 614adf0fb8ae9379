"""Make the SAEs that ship with `othello-mini`, one a layer, trained ten times as long as those of `run.py`.

    python experiments/how_gpt_learns/ship_saes.py --out out/shipped_saes

They are written in bfloat16 (SAELens reads them in float32) beside the model's weights, and measured on games of their own as
`run.py` measures its own. A run that was stopped goes on from OUT.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from run import COLOUR, LEAST, score_features, stream, with_colours
from safetensors.torch import load_file, save_file

import probekit as pk
import saes
from probekit.models import SHIPPED
from probekit.testbeds import othello

GAMES_SEED, FRESH_SEED = 4, 3
"""`run.py` trains on games of seed 2 and scores on those of seed 3, as is done here."""


def train(model: pk.Model, args: argparse.Namespace) -> dict[str, Path]:
    """The folders of the trained SAEs by site."""
    sites = stream(model, "post")
    store = pk.capture(model, othello.sample_games(args.games, seed=GAMES_SEED), sites, out=args.out / "store")
    saes.train_many(
        store, sites=sites, width=512, k=32, batch=512, lr=args.lr, rows=args.rows, out=args.out / "saes"
    )  # fmt: skip
    return {site: args.out / "saes" / site / "seed-0" for site in sites}


def ship(folders: Mapping[str, Path], to: Path) -> list[Path]:
    """Write the SAEs in bfloat16, one folder a site under `to`."""
    written = []
    for site, made in folders.items():
        (to / site).mkdir(parents=True, exist_ok=True)
        halved = {n: t.to(torch.bfloat16).contiguous() for n, t in load_file(made / "sae_weights.safetensors").items()}
        save_file(halved, to / site / "sae_weights.safetensors")
        for name in ("cfg.json", "training.json"):
            shutil.copy(made / name, to / site / name)
        written.append(to / site)
    return written


def measured(model: pk.Model, folders: Sequence[Path], args: argparse.Namespace) -> pd.DataFrame:
    """A row a site, of fresh games: health, coverage, reconstruction, and the share of filled squares whose colour is told."""
    games = with_colours(othello.sample_games(args.score_games, seed=FRESH_SEED))
    store = pk.capture(model, games, stream(model, "post"), out=args.out / "scored_store")
    rows: list[dict[str, Any]] = []
    for folder in folders:
        sae = saes.load(folder)
        frame = score_features(sae, store, games)
        scores, colour = frame.iloc[0], frame[frame.label.isin(["mine", "theirs"]) & (frame.positives >= LEAST)]
        health = saes.health(sae, store, model=model, data=games)
        rows.append(
            {"site": folder.name, "l0": health.l0, **scores[["unexplained", "dead", "coverage", "reconstruction"]]}
        )
        rows[-1] |= {"told": (colour.auroc > COLOUR).mean(), "dense": health.dense, "health": str(health)}
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/shipped_saes"))
    parser.add_argument("--to", type=Path, default=SHIPPED["othello-mini"] / "saes")
    parser.add_argument("--games", type=int, default=6000)
    parser.add_argument("--score-games", type=int, default=600)
    parser.add_argument("--rows", type=int, default=3_000_000, help="positions each SAE is trained on, repeats counted")
    parser.add_argument("--lr", type=float, help="default: by the width")
    args = parser.parse_args()
    model = pk.load_model("othello-mini")
    print(measured(model, ship(train(model, args), args.to), args).round(3).to_markdown(index=False))


if __name__ == "__main__":
    main()
