"""A `Monitor` as two files: `monitor.json` and `monitor.safetensors`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as dump_tensors

from probekit.files import write_whole
from probekit.monitoring.calibration import Calibration
from probekit.monitoring.domain import Domain
from probekit.monitoring.evidence import Evidence
from probekit.monitoring.monitor import Monitor
from probekit.monitoring.readout import Readout

FORMAT = 1
RECORD, TENSORS = "monitor.json", "monitor.safetensors"
_PLAIN = (
    "model_name",
    "fingerprint",
    "classes",
    "pool",
    "warm_up",
    "threshold",
    "running_threshold",
    "notes",
    "manifest",
)
_DOMAIN = ("mean", "scale", "axes", "variance", "reference", "ranked", "weight")

_MADE_BY = (
    "make one with `probekit monitor TABLE -t TEXT -l LABEL -m MODEL -o FOLDER`, or with probekit.monitoring.fit(probe, model, texts, "
    "labels).save(folder)"
)


def write_monitor(monitor: Monitor, folder: Path) -> Path:
    """See `Monitor.save`. `monitor.json`, which names the checksum of the tensors, comes last; each file is replaced as a whole."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder")
    arrays = {f"domain/{name}": getattr(monitor.domain, name) for name in _DOMAIN} | {
        "weights": monitor.readout.weights
    }
    if monitor.calibration.knots is not None:
        arrays["knots"] = monitor.calibration.knots
    data = dump_tensors({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    document = {
        "format": FORMAT,
        "checksum": hashlib.sha256(data).hexdigest(),
        **{name: getattr(monitor, name) for name in _PLAIN},
        "site": monitor.readout.site,
        "bias": monitor.readout.bias,
        "calibration": {name: getattr(monitor.calibration, name) for name in ("how", "slope", "offset")},
        "floor": monitor.domain.floor,
        "evidence": monitor.evidence.to_json(),
    }
    text = json.dumps(_written(document), indent=1, allow_nan=False, ensure_ascii=False)
    write_whole(folder / TENSORS, data)
    write_whole(folder / RECORD, text)
    return folder


def read_monitor(folder: Path) -> Monitor:
    """See `Monitor.load`."""
    path = folder / RECORD
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file, and a monitor is a folder (a pickle is never opened): give one that is, or {_MADE_BY}"
        )
    if not path.is_file():
        there = sorted(p.name for p in folder.iterdir())[:5] if folder.is_dir() else []
        hint = f"it holds {', '.join(there) or 'nothing'}" if folder.is_dir() else "there is no such folder"
        hint += f"; {_MADE_BY}"
        if "result.json" in there:
            hint = "it holds a sweep: probekit.monitoring.fit(SweepResult.load(folder), model, texts, labels).save(...) makes one of it"
        raise FileNotFoundError(f"{folder} holds no monitor ({RECORD}): {hint}")
    try:
        document = _read(json.loads(path.read_bytes()))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        arrays = _arrays(folder / TENSORS, document["checksum"])
        if "domain/weight" not in arrays:  # written before groups were weighed: each ranked text counts alone
            arrays["domain/weight"] = np.ones(len(arrays["domain/ranked"]))
        facts = {name: document[name] for name in _PLAIN}
        return Monitor(
            readout=Readout(arrays["weights"], document["bias"], document["site"]),
            calibration=Calibration(**document["calibration"], knots=arrays.get("knots")),
            domain=Domain(**{name: arrays[f"domain/{name}"] for name in _DOMAIN}, floor=document["floor"]),
            evidence=Evidence.from_json(document["evidence"]),
            **{**facts, "classes": tuple(facts["classes"]), "notes": tuple(facts["notes"])},
        )
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{path} holds no monitor, or a damaged one ({error}); save it again") from error


def _arrays(path: Path, checksum: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"{TENSORS} is missing")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError(f"{TENSORS} is damaged or belongs to another monitor")
    found: dict[str, np.ndarray] = load_tensors(data)
    return found


def _written(value: Any) -> Any:
    """As JSON holds it: numbers that are not finite are strings."""
    if isinstance(value, Mapping):
        return {str(k): _written(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_written(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["number"]) if set(value) == {"number"} else {k: _read(v) for k, v in value.items()}
    return [_read(v) for v in value] if isinstance(value, list) else value
