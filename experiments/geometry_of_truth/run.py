"""Is truth a linear direction in a small language model, and one that carries over between kinds of statement?

    python experiments/geometry_of_truth/run.py --model FOLDER_OR_ID_OR_GGUF --data FOLDER --out out/geometry_of_truth

Marks & Tegmark 2023 (arXiv 2310.06824), sections 4 and 5: probes of the last token, within and across data sets. FOLDER
holds `truth_*.csv` with the columns `statement` and `label`. What a sentence is about (the city, the pair of numbers, the
Spanish word) is never split between train and test: true and false sentences about it stay together.

Every sentence is read once by the model and once by the same architecture with random weights; the activations stay in
OUT/stores, and a second run starts from them.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

import probekit as pk

NAMES = ("cities", "neg_cities", "larger_than", "sp_en_trans")


def read(folder: Path, name: str) -> pk.Dataset:
    data = pk.read_csv(folder / f"truth_{name}.csv", text="statement", label="label")
    return replace(data, name=name, groups=pd.factorize(pd.Series([subject(t) for t in data.texts or ()]))[0])


def subject(statement: str) -> str:
    """What a sentence is about: the city, the two numbers in either order, or the Spanish word."""
    if city := re.match(r"The city of (.+) is (?:not )?in ", statement):
        return city[1]
    if numbers := re.match(r"(.+) is larger than (.+)\.", statement):
        return " ".join(sorted(n.lower() for n in numbers.groups()))
    if word := re.match(r"The Spanish word '(.+?)' ", statement):
        return word[1]
    raise ValueError(f"a sentence of an unknown form: {statement!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/geometry_of_truth"))
    parser.add_argument("--probe", default="logistic", help="logistic, ridge, lda or difference_in_means")
    parser.add_argument("--train", nargs="+", choices=NAMES, default=NAMES, help="data sets to train on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    began = time.perf_counter()
    data = {name: read(args.data, name) for name in NAMES}
    model = pk.load_model(args.model)
    trained, random = (
        {name: pk.capture(m, data[name], out=args.out / "stores" / kind / name, pool="last") for name in NAMES}
        for kind, m in (("trained", model), ("random", model.randomized(args.seed)))
    )
    print(f"every sentence read by both models after {(time.perf_counter() - began) / 60:.1f} min")
    within, across, without_model = [], [], []
    for name in args.train:
        options = {"probe": args.probe, "seed": args.seed}
        result, control = (
            pk.sweep(stores[name], data[name], ["label"], ood=pairs(stores, data, name), controls=controls, **options)
            for stores, controls in ((trained, True), (random, False))
        )
        result.save(args.out / name)
        result.save_page(args.out / name / "report.html")
        control.save(args.out / name / "random_weights")
        best = result.best("label", "auroc")
        at = {"trained on": name, "site": best.site}
        within.append(
            at
            | {"tied": len(best.tied), "model": figure(result, best.site, "model")}
            | {"random weights": figure(control, best.site, "model")}
            | {source: figure(result, best.site, source) for source in ("surface", "shuffled")}
            | {m: figure(result, best.site, "model", metric=m) for m in ("accuracy", "selectivity")}
        )
        across.append(at | {other: figure(result, best.site, "model", other) for other in NAMES if other != name})
        without_model.append(
            at | {other: figure(result, best.site, "surface", other) for other in NAMES if other != name}
        )
    for title, rows in (
        ("AUROC on test, at the site chosen on validation, with 95 % intervals", within),
        ("The same probes on the other data sets: AUROC", across),
        ("The surface classifier on the other data sets: AUROC", without_model),
    ):
        print(f"\n{title}\n\n{pd.DataFrame(rows).fillna('').to_markdown(index=False)}")
    print(f"\n{(time.perf_counter() - began) / 60:.1f} min in all")


def pairs(
    stores: dict[str, pk.ActivationStore], data: dict[str, pk.Dataset], name: str
) -> dict[str, tuple[pk.ActivationStore, pk.Dataset]]:
    """All data sets but the one trained on, beside their activations."""
    return {other: (stores[other], data[other]) for other in NAMES if other != name}


def figure(result: pk.SweepResult, site: str, source: str, data: str = "test", metric: str = "auroc") -> str:
    """A figure and its interval as text; `-` where there is none."""
    frame = result.to_frame()
    chosen = frame[
        (frame.metric == metric) & (frame.target == "mean") & (frame.source == source) & (frame.data == data)
    ]
    at = chosen[chosen.site == site] if source not in ("majority", "surface") else chosen
    return "-" if at.empty else "{value:.3f} ({low:.3f} to {high:.3f})".format(**at.iloc[0])


if __name__ == "__main__":
    main()
