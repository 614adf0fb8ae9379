"""What do SAE features of an Othello model know at each layer, and does it come back with other first weights?

    python experiments/how_gpt_learns/run.py --out out/how_gpt_learns

"How GPT learns layer by layer" (arXiv 2501.07108): SAEs on every layer of an Othello model, ten seeds each; which squares have a
feature that tells their colour (AUROC > 0.7) or stability (AUROC > 0.8); linear probes beside them; how many MLP neurons read
along a probe's direction (cosine > 0.2). Coverage and board reconstruction as in Karvonen et al. 2024 (arXiv 2408.00113). The
same architecture with random weights is the floor.

Everything is kept in OUT, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from figures import write_page
from scipy import stats

import probekit as pk
import saes
from probekit.files import write_whole
from probekit.testbeds import othello
from saes.overlap import random_directions

COLOUR, STABLE = 0.7, 0.8
"""AUROC from which the paper says that a feature tells a square's colour, or its stability."""
NEAR = 0.2
"""Cosine from which the paper counts a neuron as reading along a probe's direction."""
LEAST = 20
"""Rows of the reporting half with a label that a square must have to be counted."""
LABELS = ("tile", "mine", "theirs", "stable_paper")


def ring(square: str) -> str:
    """`corner`, `edge`, `centre` (the sixteen squares in the middle) or `inner` (between edge and centre)."""
    column, row = "ABCDEFGH".index(square[0]), int(square[1]) - 1
    on_sides = (column in (0, 7)) + (row in (0, 7))
    return "corner" if on_sides == 2 else "edge" if on_sides else "centre" if {column, row} <= {2, 3, 4, 5} else "inner"


def with_colours(games: pk.Dataset) -> pk.Dataset:
    """Add `mine` and `theirs`: filled squares only, so that knowing which squares are empty is no help."""
    tile = games.label_set("tile")
    labels = dict(games.labels)
    for name, other in (("mine", "theirs"), ("theirs", "mine")):
        code = np.full(len(tile.classes), -1)
        code[tile.classes.index(name)], code[tile.classes.index(other)] = 1, 0
        labels[name] = pk.LabelSet(name, code[tile.values], "binary", "token", (other, name), tile.targets)
    return replace(games, labels=labels)


def sae_tables(
    source: str, model: pk.Model, games: pk.Dataset, fresh: pk.Dataset, seeds: Sequence[int], args: argparse.Namespace
) -> tuple[pd.DataFrame, pd.DataFrame, dict[tuple[str, int], Any]]:
    """Train the SAEs of one model on `games` and score their features on `fresh` ones.

    Returns:
        A row a layer and seed; a row a square and class of each; the SAEs by site and seed.
    """
    out, sites = args.out / source, stream(model, "post")
    store = pk.capture(model, games, sites, out=out / "store")
    scored = pk.capture(model, fresh, sites, out=out / "scored_store")
    trained = saes.train_many(
        store, sites=sites, seeds=seeds, width=args.width, k=args.k, batch=512, rows=args.rows, out=out / "saes"
    )
    layers, squares = [], []
    for layer, seed in itertools.product(range(len(sites)), seeds):
        kept = out / "scores" / f"layer-{layer}-seed-{seed}.csv"
        if not kept.exists():
            print(f"scoring {source}, {sites[layer]}, seed {seed}", flush=True)
            save(score_features(trained[sites[layer], seed], scored, fresh), kept)
        table = pd.read_csv(kept).assign(source=source, layer=layer, seed=seed)
        layers.append(table[table.label == "all"])
        squares.append(table[table.label != "all"])
    return pd.concat(layers).dropna(axis=1, how="all"), pd.concat(squares).dropna(axis=1, how="all"), trained


def score_features(sae: Any, store: pk.ActivationStore, games: pk.Dataset) -> pd.DataFrame:
    """The best feature of every square and class, chosen on one half of the games and measured on the other.

    The first row, with label `all`, has the figures of the whole SAE.
    """
    features = saes.encode(sae, store, progress=False)
    scores = saes.score(features, [games.label_set(name) for name in LABELS])
    best = np.nan_to_num(scores.chosen.auroc, nan=-1).argmax(0)
    frame = pd.DataFrame(
        {
            "label": [name.label_set for name in scores.names],
            "square": [name.target for name in scores.names],
            "class": [name.class_ for name in scores.names],
            "feature": best,
            "auroc": scores.auroc[best, np.arange(len(best))],
            "f1": scores.f1[scores.best_feature, np.arange(len(best))],
            "positives": scores.positives,
            "occurs": scores.occurs,
        }
    )
    health, boards = saes.health(sae, store), saes.reconstruct(features, games.label_set("tile"))
    whole = {
        "label": "all",
        "coverage": frame[(frame.label == "tile") & frame.occurs].f1.mean(),
        "reconstruction": boards.mean_f1,
    }
    whole |= {"unexplained": health.variance_unexplained, "dead": health.dead}
    return pd.concat([pd.DataFrame([whole]), frame])


def stream(model: pk.Model, where: str) -> list[str]:
    """The residual stream in the middle (`mid`) or at the end (`post`) of every block."""
    return [f"blocks.{i}.hook_resid_{where}" for i in range(model.n_layers)]


def save(frame: pd.DataFrame, file: Path) -> None:
    write_whole(file, frame.to_csv(index=False))


def questions(squares: pd.DataFrame, move_number: Mapping[str, float]) -> pd.DataFrame:
    """The paper's questions of every square: a row a source, layer, seed, square and question, with `told`.

    Args:
        squares: From `sae_tables`.
        move_number: AUROC by square for stability when only the move number is known.
    """
    squares = squares[(squares.positives >= LEAST) & squares.auroc.notna()]
    by_label = dict(tuple(squares.groupby("label")))
    tile = by_label["tile"][by_label["tile"]["class"] != "empty"]
    stable = by_label["stable_paper"]
    colour = pd.concat([by_label["mine"], by_label["theirs"]])
    asked = {
        "colour, filled squares only": (colour, COLOUR),
        "colour, against all other squares": (tile, COLOUR),
        "stability": (stable, STABLE),
        "stability, better than the move number": (stable, np.maximum(STABLE, stable.square.map(move_number))),
    }
    return pd.concat(
        frame.assign(question=question, told=frame.auroc > least, ring=frame.square.map(ring))
        for question, (frame, least) in asked.items()
    )


def auroc_of_move_number(games: pk.Dataset, position: np.ndarray) -> dict[str, float]:
    """By square: late in a game more discs are stable, so that the move number alone tells much of stability."""
    labels = games.label_set("stable_paper")
    found = {}
    for i, square in enumerate(labels.targets):
        known = labels.values[:, i] >= 0
        holds, order = labels.values[known, i] == 1, stats.rankdata(position[known])
        p, n = int(holds.sum()), int((~holds).sum())
        auroc = (order[holds].sum() - p * (p + 1) / 2) / (p * n) if p and n else 0.5
        found[square] = float(max(auroc, 1 - auroc))
    return found


def agreement(asked: pd.DataFrame) -> pd.DataFrame:
    """How much the sets of squares told by two seeds overlap (Jaccard), and what sets of that size drawn at random would."""
    rows = []
    for (question, layer), part in asked[asked.source == "trained"].groupby(["question", "layer"]):
        told = part.pivot_table(index="seed", columns=["square", "class"], values="told", aggfunc="max").to_numpy(bool)
        pairs = [(a & b).sum() / max((a | b).sum(), 1) for a, b in itertools.combinations(told, 2)]
        share = told.mean()
        rows.append({"question": question, "layer": layer, "jaccard": np.mean(pairs), "chance": share / (2 - share)})
    return pd.DataFrame(rows)


def neurons_along_probes(model: pk.Model, result: pk.SweepResult, games: pk.Dataset) -> pd.DataFrame:
    """Neurons of each block's MLP whose input weights have a cosine above 0.2 with a square's mine-or-theirs direction.

    The gain of the norm before the MLP is folded into the weights, and their mean is taken out, as the norm takes it out of
    what they read. Beside them: the same count for random directions with the spectrum of the activations there.
    """
    rows = []
    store = pk.capture(model, games, stream(model, "mid"), every=7, progress=False)
    for layer, block in enumerate(model.hf.transformer.h):
        site = f"blocks.{layer}.hook_resid_mid"
        weights = (block.ln_2.weight[:, None] * block.mlp.c_fc.weight).detach().numpy()
        weights = weights - weights.mean(0)
        weights = weights / np.linalg.norm(weights, axis=0)
        stack = result.probes["mine"][site]
        directions = np.stack([stack.direction(square).vector for square in stack.targets])
        chance = (np.abs(random_directions(store.read(site)) @ weights) > NEAR).sum(1)
        for square, direction in zip(stack.targets, directions, strict=True):
            cosine = direction @ weights
            found = {"mine": (cosine > NEAR).sum(), "theirs": (cosine < -NEAR).sum(), "greatest": np.abs(cosine).max()}
            rows.append({"layer": layer, "square": square, **found, "chance": chance.mean()})
    return pd.DataFrame(rows)


def probe_auroc(result: pk.SweepResult, sites: Sequence[str]) -> pd.DataFrame:
    """Mean AUROC over squares of the probes at each layer, on test games, with its interval."""
    frame = result.to_frame()
    kept = frame[
        (frame.metric == "auroc") & (frame.source == "model") & (frame.data == "test") & (frame.target == "mean")
    ]
    return kept[kept.site.isin(sites)].assign(layer=lambda f: f.site.map(list(sites).index))


def run(model: pk.Model, args: argparse.Namespace) -> None:
    """All stages, and the tables and the page in `args.out`."""
    games = othello.sample_games(args.games, seed=args.data_seed)
    fresh = with_colours(othello.sample_games(args.score_games, seed=args.data_seed + 1))
    posts, mids = stream(model, "post"), stream(model, "mid")
    if not (args.out / "probes" / "result.json").exists():
        store = pk.capture(model, games, [*posts, *mids], out=args.out / "probe_store", every=3)
        pk.sweep(store, with_colours(games), ["mine", "stable_paper"], probe="ridge", controls=False).save(
            args.out / "probes"
        )
    result = pk.SweepResult.load(args.out / "probes")

    layers, squares, trained = sae_tables("trained", model, games, fresh, range(args.seeds), args)
    floor = sae_tables("random_weights", model.randomized(0), games, fresh, range(args.floor_seeds), args)
    layers, squares = pd.concat([layers, floor[0]]), pd.concat([squares, floor[1]])
    move = np.concatenate([np.arange(len(tokens)) for tokens in fresh.tokens or ()])
    asked = questions(squares, auroc_of_move_number(fresh, move))
    stability = [saes.stability([trained[site, seed] for seed in range(args.seeds)]) for site in posts]
    tables = {
        "layers": layers.groupby(["source", "layer"])[["coverage", "reconstruction", "unexplained", "dead"]].agg(
            ["mean", "min", "max"]
        ),
        "told": asked.groupby(["source", "question", "layer"]).told.mean().unstack("layer"),
        "rings": asked.groupby(["source", "question", "ring", "layer"]).told.mean().unstack("layer"),
        "best_feature": squares.groupby(["source", "label", "layer"]).auroc.mean().unstack("layer"),
        "probes": probe_auroc(result, posts).pivot_table(index="label_set", columns="layer", values=["value", "low", "high"]),
        "agreement": agreement(asked),
        "neurons": neurons_along_probes(model, result, fresh).groupby("layer")[["mine", "theirs", "greatest", "chance"]].mean(),
        "decoders": pd.DataFrame({"cosine": [s.cosine.mean() for s in stability], "chance": [s.chance for s in stability]}),
    }  # fmt: skip
    for name, table in tables.items():
        save(table.reset_index(), args.out / f"{name}.csv")
        print(f"\n{name}\n\n{table.round(3).to_markdown()}")
    print(f"\npage: {write_page(args.out / 'report.html', layers, asked, squares, probe_auroc(result, posts), tables)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/how_gpt_learns"))
    parser.add_argument("--games", type=int, default=2000)
    parser.add_argument("--score-games", type=int, default=600, help="further games, to score the features on")
    parser.add_argument("--seeds", type=int, default=10, help="SAEs a layer, from other first weights")
    parser.add_argument("--floor-seeds", type=int, default=2, help="SAEs a layer of the model with random weights")
    parser.add_argument(
        "--width", type=int, default=512, help="features of an SAE: twice the model's width, as in the paper"
    )
    parser.add_argument("--k", type=int, default=32, help="features that fire at a position")
    parser.add_argument("--rows", type=int, default=300_000, help="positions each SAE is trained on, repeats counted")
    parser.add_argument("--data-seed", type=int, default=2, help="of the games")
    run(pk.load_model("othello-mini"), parser.parse_args())


if __name__ == "__main__":
    main()
