"""One sparse autoencoder on the best layer: which of its features say what holds in the world, and what are they called?

Features are trained on programs of the part `valid` and scored on those of the part `test` that were probed. Of these, half choose each label's feature and its threshold,
the other half is reported. Beside each stands the linear probe of the same site, and the best feature of the same architecture with random weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import probekit as pk
import saes
from probekit.testbeds import karel
from probekit.testbeds.karel.tokens import Encoding

LABELS = ("turned", "turned+1", "turn_to_go", "gone", "to_go", "wall_ahead", "marker_below")
KEYS = ["label_set", "target", "class"]


def experiment(
    model: pk.Model, site: str, scored: pk.ActivationStore, floor_scored: pk.ActivationStore, problems: karel.Problems,
    probes: pk.SweepResult, floor_probes: pk.SweepResult, encoding: Encoding, out: Path,
    *, programs: int, width: int, k: int, rows: int, labels: tuple[str, ...] = LABELS,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:  # fmt: skip
    """Train the SAE and its floor, score and name.

    Args:
        site: Where.
        scored, floor_scored: Stores of `problems` of the model and of the one with random weights.
        probes, floor_probes: Sweeps of these.
        out: Folder for SAEs and their activations.
        programs, width, k, rows: Programs to train on; features, how many of them fire, and rows trained on, repeats counted.
        labels: Label sets.

    Returns:
        `beside` of the features, the probes, and the floor of both; names of features; health of the SAE.
    """
    trained_on = karel.sample_programs(programs, seed=5, part="valid", encoding=encoding)
    store = pk.capture(model, trained_on, site, out=out / "store", rows=karel.program_rows(trained_on), progress=False)
    batch = min(1024, len(store) // 2)
    sae = saes.train(
        store, site=site, width=width, k=k, rows=rows, batch=batch, lr=2e-3, out=out / "sae", progress=False
    )
    floor = saes.floor(sae, store, model, trained_on, out=out / "floor", progress=False)
    data = karel.problems_dataset(problems, encoding=encoding)
    asked = [data.label_set(name) for name in labels]
    features = saes.encode(sae, scored, progress=False)
    found = saes.score(features, asked, groups=data.groups).to_frame()
    by_chance = saes.score(saes.encode(floor.sae, floor_scored, progress=False), asked, groups=data.groups).to_frame()
    names = saes.name(sae, features, asked, groups=data.groups, least_precision=0.5, least_recall=0.1, progress=False)
    health = saes.health(sae, scored)
    facts = {"unexplained": float(health.variance_unexplained), "dead": float(health.dead), "named": float(len(names))}
    frame = names.to_frame() if len(names) else pd.DataFrame(columns=["feature", "text"])
    return beside(found, by_chance, probe_f1(probes, site, labels), probe_f1(floor_probes, site, labels)), frame, facts


def beside(
    features: pd.DataFrame, floor: pd.DataFrame, probes: pd.DataFrame, floor_probes: pd.DataFrame
) -> pd.DataFrame:
    """A row a class: the best feature with intervals, and the F1 of the probe and of the two with random weights."""
    kept = [*KEYS, "feature", "f1", "f1_low", "f1_high", "auroc", "auroc_low", "auroc_high", "positives"]
    found = features[kept]
    for name, frame in (("random_weights", floor), ("probe", probes), ("probe_random_weights", floor_probes)):
        other = frame.rename(columns={"f1": f"{name}_f1", "auroc": f"{name}_auroc"})
        columns = [c for c in (f"{name}_f1", f"{name}_auroc") if c in other]
        found = found.merge(other[[*KEYS, *columns]], on=KEYS, how="left", validate="one_to_one")
    return found


def probe_f1(probes: pk.SweepResult, site: str, labels: tuple[str, ...]) -> pd.DataFrame:
    """F1 of each class on the sweep's test programs, from counts of what the probe chose; of two classes, of the second."""
    rows: list[dict[str, Any]] = []
    for name in labels:
        summary = probes.label_set(name)
        table = probes.confusion(name, site)
        table = table[table.data == "test"]
        for target in summary.targets:
            part = table[table.target == target]
            for class_ in summary.classes[1:] if len(summary.classes) == 2 else summary.classes:
                true, chosen = part.true == class_, part.predicted == class_
                both, either = part.n[true & chosen].sum(), part.n[true].sum() + part.n[chosen].sum()
                f1 = 2 * both / either if either else np.nan
                rows.append({"label_set": name, "target": target, "class": class_, "f1": f1})
    return pd.DataFrame(rows)
