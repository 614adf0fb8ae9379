"""A `Comparison` as two files: `comparison.json` and `comparison.safetensors`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from saes.comparing.causal import CausalAgreement
from saes.comparing.comparison import Comparison
from saes.comparing.sparse_probes import SparseProbes
from saes.overlap import Overlap, Stability
from saes.records import estimate_arrays, estimate_of, read_record, write_record
from saes.scoring.columns import ColumnName
from saes.scoring.feature_scores import BestFeatures
from saes.scoring.reconstruction import Reconstruction

NAME = "comparison"
_PARTS: dict[str, Any] = {
    "overlap": Overlap,
    "best": BestFeatures,
    "reconstruction": Reconstruction,
    "sparse": SparseProbes,
    "stability": Stability,
    "causal": CausalAgreement,
}


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """See `Comparison.save`."""
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
                for of, estimate in value.items():
                    arrays |= estimate_arrays(estimate, f"probe/{of}")
            elif field.name != "names":
                plain[name][field.name] = value
    document = {
        "site": comparison.site,
        "sae": comparison.sae,
        "names": [[name.label_set, name.target, name.class_, name.shared] for name in comparison.names],
        "parts": plain,
    }
    write_record(folder, NAME, document, arrays)
    return folder


def read_comparison(folder: Path) -> Comparison:
    """See `Comparison.load`."""
    try:
        document, arrays = read_record(folder, NAME)
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
        found["estimates"] = {of: estimate_of(arrays, f"probe/{of}", "auroc") for of in probes}
    if "names" in {field.name for field in fields(kind)}:
        found["names"] = names
    return kind(**found)
