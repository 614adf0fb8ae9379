"""Is the board kept as mine / theirs or as black / white? Every layer of othello-mini, on random and championship games.

    python experiments/othello_linear_probes/run.py --out out/othello_linear_probes [--pgn championship.pgn]

Nanda, Lee & Wattenberg 2023 (arXiv 2309.00941), section 3: linear probes for mine / theirs / empty against
black / white / empty.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

import probekit as pk
from probekit.testbeds import othello

LABELS = ("tile", "tile_absolute", "tile_filled", "tile_absolute_filled")


def with_filled_squares(games: pk.Dataset) -> pk.Dataset:
    """Add the same labels for filled squares only: two classes, so that chance is one half for both questions."""
    labels = dict(games.labels)
    for name in ("tile", "tile_absolute"):
        every = games.label_set(name)
        colours = [i for i, class_ in enumerate(every.classes) if class_ != "empty"]
        recode = [colours.index(i) if i in colours else -1 for i in range(len(every.classes))]
        values = pd.Series([*recode, -1]).to_numpy()[every.values]
        labels[f"{name}_filled"] = pk.LabelSet(
            f"{name}_filled", values, "binary", every.level, tuple(every.classes[i] for i in colours), every.targets
        )
    return replace(games, labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/othello_linear_probes"))
    parser.add_argument("--pgn", type=Path, help="championship games (WTHOR as PGN); left out when not given")
    parser.add_argument("--games", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    model = pk.load_model("othello-mini")
    games = with_filled_squares(othello.sample_games(args.games, seed=args.seed))
    ood = {"championship": with_filled_squares(othello.read_pgn(args.pgn))} if args.pgn else None
    result = pk.sweep(model, games, labels=LABELS, ood=ood, seed=args.seed)
    result.save(args.out)
    result.save_page(args.out / "report.html")
    frame = result.to_frame()
    mean = frame[(frame.metric == "accuracy") & (frame.target == "mean")]
    print(f"\naccuracy by site\n\n{table(mean[mean.source == 'model'], ['data', 'label_set'])}")
    for label in LABELS:
        best = result.best(label).site
        at_best = mean[(mean.label_set == label) & ((mean.site == best) | mean.site.isna())]
        print(f"\n{label} at {best}, beside its controls\n\n{table(at_best, ['data', 'source'])}")


def table(frame: pd.DataFrame, rows: list[str]) -> str:
    """Markdown: accuracy in per cent with its interval, sites in columns."""
    lines = ["| " + " | ".join(rows) + " | site | accuracy | 95 % interval |", "|---" * (len(rows) + 3) + "|"]
    for record in frame.sort_values([*rows, "layer"]).to_dict("records"):
        cells = [str(record[name]) for name in rows]
        lines.append(
            f"| {' | '.join(cells)} | {record['site'] if isinstance(record['site'], str) else '-'} | {record['value']:.1%} | {record['low']:.1%} to {record['high']:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
