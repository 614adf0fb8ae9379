"""A `Comparison` as two files: `comparison.json` and `comparison.safetensors`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.activations.store import File, fault_of, write_tensors
from probekit.files import write_whole
from probekit.probes.intervals import Estimate
from probekit.probes.metrics import CLASS_METRICS
from saes.comparing.causal import CausalAgreement
from saes.comparing.comparison import Comparison
from saes.comparing.sparse_probes import SparseProbes
from saes.overlap import Overlap, Stability
from saes.scoring.columns import ColumnName
from saes.scoring.feature_scores import BestFeatures
from saes.scoring.reconstruction import Reconstruction

FORMAT = 1
RECORD = "comparison.json"
TENSORS = "comparison.safetensors"
_PARTS: dict[str, Any] = {
    "overlap": Overlap,
    "best": BestFeatures,
    "reconstruction": Reconstruction,
    "sparse": SparseProbes,
    "stability": Stability,
    "causal": CausalAgreement,
}
_AUROC = next(metric for metric in CLASS_METRICS if metric.name == "auroc")
_DRAWN = ("value", "draws", "clusters")


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """See `Comparison.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {} if comparison.named is None else {"named": comparison.named}
    plain: dict[str, dict[str, Any]] = {}
    for name in _PARTS:
        part = getattr(comparison, name)
        if part is None:
            continue
        plain[name] = {}
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, np.ndarray):
                arrays[f"{name}/{field.name}"] = value
            elif field.name == "estimates":
                plain[name]["probes"] = list(value)
                arrays |= {f"probe/{of}/{key}": getattr(e, key) for of, e in value.items() for key in _DRAWN}
            elif field.name != "names":
                plain[name][field.name] = value
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    document = {
        "format": FORMAT,
        "site": comparison.site,
        "sae": comparison.sae,
        "names": [[name.label_set, name.target, name.class_, name.shared] for name in comparison.names],
        "parts": plain,
        "tensors": write_tensors(folder, TENSORS, tensors).model_dump(),
    }
    write_whole(folder / RECORD, json.dumps(document, indent=1))
    return folder


def read_comparison(folder: Path) -> Comparison:
    """See `Comparison.load`."""
    from safetensors.numpy import load_file

    file = folder / RECORD
    if not file.is_file():
        raise FileNotFoundError(f"no comparison in {folder}: {RECORD} is missing")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        fault = fault_of(folder, File(**document["tensors"]))
        if document["format"] != FORMAT or fault:
            raise ValueError(f"{TENSORS} is {fault}" if fault else f"format {document['format']} is not known here")
        arrays = load_file(folder / TENSORS)
        names = tuple(ColumnName(*name) for name in document["names"])
        parts = {name: _part(name, values, arrays, names) for name, values in document["parts"].items()}
        return Comparison(document["site"], document["sae"], names, named=arrays.get("named"), **parts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder} holds no comparison that saes wrote, or a damaged one ({error})") from error


def _part(name: str, values: dict[str, Any], arrays: dict[str, np.ndarray], names: tuple[ColumnName, ...]) -> Any:
    kind = _PARTS[name]
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    found |= {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith(f"{name}/")}
    probes = found.pop("probes", None)
    if probes is not None:
        found["estimates"] = {of: Estimate(_AUROC, *(arrays[f"probe/{of}/{key}"] for key in _DRAWN)) for of in probes}
    if "names" in {field.name for field in fields(kind)}:
        found["names"] = names
    return kind(**found)
