"""A result as two files: a JSON record, and the tensors that it names with their checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.activations.store import File, fault_of, write_tensors
from probekit.files import write_whole
from probekit.probes.intervals import Estimate
from probekit.probes.metrics import CLASS_METRICS

FORMAT = 1
_METRICS = {metric.name: metric for metric in CLASS_METRICS}
_DRAWN = ("value", "draws", "clusters")


def write_record(folder: Path, name: str, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write `NAME.safetensors`, then `NAME.json`, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    json.dumps(dict(document))  # what cannot be written is refused before anything is
    tensors = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}
    file = write_tensors(folder, f"{name}.safetensors", tensors)
    whole = {"format": FORMAT, **document, "tensors": file.model_dump()}
    write_whole(folder / f"{name}.json", json.dumps(whole, indent=1))


def read_record(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `write_record` wrote.

    Raises:
        FileNotFoundError: there is none.
        KeyError, TypeError, ValueError: a damaged one.
    """
    from safetensors.numpy import load_file

    record = folder / f"{name}.json"
    if not record.is_file():
        raise FileNotFoundError(f"no {name} in {folder}: {record.name} is missing")
    document = json.loads(record.read_text(encoding="utf-8"))
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']} is not known here")
    file = File(**document["tensors"])
    if fault := fault_of(folder, file):
        raise ValueError(f"{file.name} is {fault}")
    return document, load_file(folder / file.name)


def estimate_arrays(estimate: Estimate, key: str) -> dict[str, np.ndarray]:
    """An estimate as arrays under `KEY/...`."""
    return {f"{key}/{part}": getattr(estimate, part) for part in _DRAWN}


def estimate_of(arrays: Mapping[str, np.ndarray], key: str, metric: str) -> Estimate:
    """The estimate that `estimate_arrays` took apart; `metric` is the name of a metric of classes."""
    return Estimate(_METRICS[metric], *(arrays[f"{key}/{part}"] for part in _DRAWN))
