"""Which directions of a residual stream move one thing and leave the rest: those of a PCA, of a Jacobian, of labels?

    python experiments/interpretable_directions/run.py othello --out out/directions_othello
    python experiments/interpretable_directions/run.py texts --model MODEL.gguf --data DATA --out out/directions_texts

Haas et al. 2023, "Discovering Interpretable Directions in the Semantic Latent Space of Diffusion Models" (arXiv 2303.11073), carried
over from the bottleneck of a denoiser to one site of a language model. Directions are found on one part of the data, the probes
that read what moves are fitted on another, and what they move is measured on a third: steps both ways at the last token of
each sequence. Labels that a direction moves most, and others to project out, are chosen on half of that third part and reported on
the other half.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import directions as kinds
import numpy as np
import page
import pandas as pd
import summary
from directions import Found
from measures import Draws, Effect, Judge
from summary import SAME, Measured
from worlds import World, othello_world, text_world

from probekit.surgery import split_half_reliability
from probekit.versions import versions_of

STANDARD = (1, 2, 4)
"""Lengths of steps in standard deviations of the data along the direction."""
COMMON = 0.25
"""The length that is the same for all directions, as a share of how far activations lie from their mean (root mean square)."""
SIZES = {
    "find": ("games (or texts of a kind) to find directions on, and as many to fit probes on", 400, 400),
    "measure": ("games (or texts of a kind) to measure on", 100, 24),
    "components": ("principal components", 8, 8),
    "jacobian": ("directions of each Jacobian", 8, 4),
    "sequences": ("sequences that a Jacobian is the mean of", 9, 4),
    "iterations": ("of the Jacobian's subspace", 6, 4),
    "inputs": ("inputs with a Jacobian direction of their own", 12, 8),
    "random": ("random directions of each of the two sorts", 20, 8),
}
SHOWN = (kinds.PCA, kinds.TO_LOGITS, kinds.TO_LATER, kinds.MEANS, kinds.PROBE, kinds.SPECTRUM, kinds.RANDOM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=("othello", "texts"))
    parser.add_argument("--model", help="for texts: SmolLM2-135M as a GGUF file, a folder, or a Hub id")
    parser.add_argument("--data", type=Path, help="for texts: folder with the reviews, the tweets and the statements")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--site", help="where directions are found and added")
    parser.add_argument("--later", help="where probes read what they moved")
    for name, what in SIZES.items():
        parser.add_argument(f"--{name}", type=int, help=f"{what[0]}; {what[1]} for othello, {what[2]} for texts")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.world == "texts" and not (args.model and args.data):
        parser.error("texts need --model and --data")
    for name, (_, *sizes) in SIZES.items():
        if getattr(args, name) is None:
            setattr(args, name, sizes[args.world == "texts"])
    began = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.world == "othello":
        site, later = args.site or "blocks.2.hook_resid_post", args.later or "blocks.4.hook_resid_post"
        world = othello_world(site, later, args.find, args.measure, args.seed, args.out)
    else:
        site, later = args.site or "blocks.14.hook_resid_post", args.later or "blocks.22.hook_resid_post"
        world = text_world(args.model, args.data, site, later, args.find, args.measure, args.seed, args.out)
    tables, facts, measured = compare(world, args)
    facts["minutes"] = (time.perf_counter() - began) / 60
    for name, table in tables.items():
        table.to_csv(args.out / f"{name}.csv", index=False)
        if name not in ("each", "disentangling_by_label", "promoted"):  # long; on the page
            print(f"\n{name}\n\n{summary.words(table).to_markdown(index=False)}")
    (args.out / "facts.json").write_text(json.dumps(facts, indent=1, default=str) + "\n")
    page.write(args.out / "report.html", measured, tables, facts, SHOWN)
    print(f"\n{facts['minutes']:.1f} min; page: {args.out / 'report.html'}")


def compare(world: World, args: argparse.Namespace) -> tuple[dict[str, pd.DataFrame], dict[str, object], Measured]:
    """All directions found, measured and tabulated."""
    began = time.perf_counter()

    def say(words: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {words}", flush=True)

    judge = Judge(world, args.seed)
    say(f"{len(world.tokens)} sequences to measure on, {len(world.labels)} labels")
    labelled, sweep = kinds.labelled(world, args.seed)
    say("labelled directions found")
    found = kinds.unsupervised(world, args.components, args.jacobian, args.sequences, args.iterations) + labelled
    say("unsupervised directions found")
    found += kinds.controls(world, labelled[0].direction, args.random, args.seed)
    spread = float(np.sqrt(world.find[0].read(world.site).var(0).sum()))
    length = COMMON * spread
    every = np.ones(len(judge.group), bool)
    draws = [Draws(judge.group, rows, args.draws, args.seed) for rows in (every, judge.choose, ~judge.choose)]
    effects: dict[tuple[str, str], dict[str, Effect]] = {}
    measured = Measured(found, effects, judge, *draws)
    for f in found:
        steps = {f"{k} sd": k * float(f.direction.scale or 0) for k in STANDARD} | {SAME: length}
        effects[f.kind, f.name] = {step: judge.effect(f.direction, size) for step, size in steps.items()}
    say(f"{len(found)} directions measured")
    others = {(f.kind, f.own): measured.other(f) for f in labelled if f.own is not None}
    for f in kinds.disentangled(world, labelled, others, args.seed):
        effects[f.kind, f.name] = {SAME: judge.effect(f.direction, length)}
        found.append(f)
    say("disentangled directions measured")
    variants, each = summary.disentangling(measured, others)
    tables = {
        "each": summary.every_direction(measured, SHOWN),
        "movement": summary.movement(measured, SHOWN, [f"{k} sd" for k in STANDARD]),
        "selectivity": summary.selectivity(measured, SHOWN),
        "selectivity_1sd": summary.selectivity(measured, SHOWN, "1 sd"),
        "behaviour": summary.behaviour(measured, (*SHOWN, *kinds.DISENTANGLED)),
        "disentangling": variants,
        "disentangling_by_label": each,
        "alignment": summary.alignment(measured, 500, args.seed),
        "transfer": summary.transfer(measured, length, args.inputs, args.iterations, args.draws, args.seed),
        "labels": labels(world, judge, labelled, sweep, args.seed),
        "promoted": summary.promoted(measured, (kinds.MEANS, kinds.PROBE, kinds.PCA, kinds.TO_LOGITS, kinds.TO_LATER), 8),
    }  # fmt: skip
    say("tables made")
    facts = {
        "model": world.model.name,
        "fingerprint": world.model.fingerprint,
        "site": world.site,
        "later": world.later,
        "rows to find on": len(world.find[0]),
        "rows to fit the reading probes on": len(world.read[0]),
        "rows measured": len(world.tokens),
        "groups measured": len(np.unique(world.group)),
        "same length": length,
        "usual distance from the mean": spread,
        "Jacobian residuals": [
            f.direction.provenance["residual"] for f in found if "residual" in f.direction.provenance
        ],
        "Jacobian gains": [f.direction.provenance["gain"] for f in found if "gain" in f.direction.provenance],
        "plain errors": None if judge.plain_error is None else float(judge.plain_error.mean()),
        "versions": versions_of("torch", "transformers"),
        "seed": args.seed,
    }
    return tables, facts, measured


def labels(world: World, judge: Judge, labelled: list[Found], sweep: object, seed: int) -> pd.DataFrame:
    """How often a label holds, how well probes read it, and whether two halves of the data give the same direction."""
    store, data = world.find
    frame = sweep.to_frame()
    frame = frame[(frame.metric == "auroc") & (frame.source == "model") & (frame.data == "test")].set_index("target")
    rows = []
    for i, name in enumerate(world.labels):
        mean, probe = (
            next(f.direction for f in labelled if f.own == i and f.kind == k) for k in (kinds.MEANS, kinds.PROBE)
        )
        half = split_half_reliability(store, data.label_set("labels"), site=world.site, target=name, groups=data.groups, seed=seed)  # fmt: skip
        values = world.values[:, i]
        rows.append(
            {
                "label": name,
                "rows": int((values >= 0).sum()),
                "holds": float((values == 1).sum() / (values >= 0).sum()),
                "AUROC at the site": float(frame.value[name]),
                "AUROC later, rows measured": float(judge.auroc[i]),
                "halves' cosine": half.cosine,
                "mean and probe cosine": mean.cosine(probe),
                "other cosine": max(
                    (abs(mean.cosine(f.direction)), f.name) for f in labelled if f.kind == kinds.MEANS and f.own != i
                )[0],
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
