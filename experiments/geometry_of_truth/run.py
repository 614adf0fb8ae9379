"""Is truth a linear direction in a small language model, and one that carries over between kinds of statement?

    python experiments/geometry_of_truth/run.py --model FOLDER_OR_ID_OR_GGUF --data FOLDER --out out/geometry_of_truth

Marks & Tegmark 2023 (arXiv 2310.06824), sections 4 and 5: probes of the last token, within and across data sets. FOLDER
holds `truth_*.csv` with the columns `statement` and `label`. What a sentence is about (the city, the pair of numbers, the
Spanish word) is never split between train and test: true and false sentences about it stay together.
"""

from __future__ import annotations

import argparse
import re
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

    model = pk.load_model(args.model)
    data = {name: read(args.data, name) for name in NAMES}
    within, across = [], []
    for name in args.train:
        others = {other: data[other] for other in NAMES if other != name}
        result = pk.sweep(model, data[name], ["label"], ood=others, probe=args.probe, seed=args.seed)
        result.save(args.out / name)
        result.save_page(args.out / name / "report.html")
        best = result.best("label", "auroc")
        within.append({"trained on": name, "site": best.site, "tied": len(best.tied), **controls(result, best.site)})
        across.append(
            {"trained on": name, "site": best.site, **{d: figure(result, best.site, "model", d) for d in others}}
        )
    print("AUROC on test, at the site chosen on validation, with 95 % intervals\n")
    print(pd.DataFrame(within).to_markdown(index=False))
    print("\nThe same probes on the other data sets\n")
    print(pd.DataFrame(across).fillna("").to_markdown(index=False))


def figure(result: pk.SweepResult, site: str, source: str, data: str = "test") -> str:
    """AUROC and its interval as text; `-` where the control has none."""
    frame = result.to_frame()
    chosen = frame[
        (frame.metric == "auroc") & (frame.target == "mean") & (frame.source == source) & (frame.data == data)
    ]
    at = chosen[chosen.site == site] if source not in ("majority", "surface") else chosen
    return "-" if at.empty else "{value:.3f} ({low:.3f} to {high:.3f})".format(**at.iloc[0])


def controls(result: pk.SweepResult, site: str) -> dict[str, str]:
    return {source: figure(result, site, source) for source in ("model", "shuffled", "random_weights", "surface")}


if __name__ == "__main__":
    main()
