"""A `Bottleneck` as two files: `bottleneck.json` and `bottleneck.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.activations.store import File, fault_of, write_tensors
from probekit.files import write_whole
from probekit.probes.intervals import Estimate
from probekit.probes.metrics import CLASS_METRICS
from saes.concept_bottleneck.result import Bottleneck, Head

FORMAT = 1
RECORD = "bottleneck.json"
TENSORS = "bottleneck.safetensors"
_PLAIN = ("label_set", "classes", "names", "count", "chosen", "level", "pool", "width")
_ARRAYS = ("features", "fires", "spread")


def write_bottleneck(bottleneck: Bottleneck, folder: Path) -> Path:
    """See `Bottleneck.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: getattr(bottleneck, name) for name in _ARRAYS}
    arrays |= {f"parts/{name}": rows for name, rows in bottleneck.parts.items()}
    for count, head in bottleneck.heads.items():
        arrays |= {f"heads/{count}/coef": head.coef, f"heads/{count}/intercept": head.intercept}
    for (source, count), by_metric in bottleneck.estimates.items():
        for metric, estimate in by_metric.items():
            for part in ("value", "draws", "clusters"):
                arrays[f"estimates/{source}/{count}/{metric}/{part}"] = getattr(estimate, part)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    document = {
        "format": FORMAT,
        **{name: getattr(bottleneck, name) for name in _PLAIN},
        "C": {count: head.C for count, head in bottleneck.heads.items()},
        "estimates": [[source, count, *by_metric] for (source, count), by_metric in bottleneck.estimates.items()],
        "off": sorted(bottleneck.off),
        "tensors": write_tensors(folder, TENSORS, tensors).model_dump(),
    }
    write_whole(folder / RECORD, json.dumps(document, indent=1))
    return folder


def read_bottleneck(folder: Path) -> Bottleneck:
    """See `Bottleneck.load`."""
    from safetensors.numpy import load_file

    file = folder / RECORD
    if not file.is_file():
        raise FileNotFoundError(f"no bottleneck in {folder}: {RECORD} is missing")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        fault = fault_of(folder, File(**document["tensors"]))
        if document["format"] != FORMAT or fault:
            raise ValueError(f"{TENSORS} is {fault}" if fault else f"format {document['format']} is not known here")
        arrays = load_file(folder / TENSORS)
        heads = {
            int(count): Head(arrays[f"heads/{count}/coef"], arrays[f"heads/{count}/intercept"], strength)
            for count, strength in document["C"].items()
        }
        metrics = {metric.name: metric for metric in CLASS_METRICS}
        estimates = {
            (source, count): {
                name: Estimate(
                    metrics[name],
                    *(arrays[f"estimates/{source}/{count}/{name}/{part}"] for part in ("value", "draws", "clusters")),
                )
                for name in names
            }
            for source, count, *names in document["estimates"]
        }
        fields: dict[str, Any] = {name: document[name] for name in _PLAIN} | {name: arrays[name] for name in _ARRAYS}
        fields |= {name: tuple(document[name]) for name in ("classes", "names")}
        fields["parts"] = {name: arrays[f"parts/{name}"] for name in ("train", "valid", "test")}
        return Bottleneck(**fields, heads=heads, estimates=estimates, off=frozenset(document["off"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder} holds no bottleneck that saes wrote, or a damaged one ({error})") from error
