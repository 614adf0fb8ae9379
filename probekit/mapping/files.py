"""`Maps` as two files: `maps.json` and `maps.safetensors`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from probekit.files import with_nans, with_nulls, write_whole
from probekit.mapping.linear_map import LinearMap
from probekit.mapping.maps import SOURCES, Maps

FORMAT = 1
RECORD, TENSORS = "maps.json", "maps.safetensors"


def write_maps(maps: Maps, folder: Path) -> Path:
    """See `Maps.save`. `maps.json`, which names the checksum of the tensors, comes last."""
    of_rows = {name: getattr(maps, name) for name in ("part", "group", "sequence")}
    tensors = {name: torch.from_numpy(array.copy()) for name, array in of_rows.items() if array is not None}
    for i, each in enumerate(maps.maps.values()):
        tensors |= {f"{i}/matrix": each.matrix.contiguous(), f"{i}/bias": each.bias.contiguous()}
    write_whole(folder / TENSORS, lambda path: save_file(tensors, str(path)))
    document = {
        "format": FORMAT,
        "checksum": _digest(folder / TENSORS),
        "sites_a": maps.sites_a,
        "sites_b": maps.sites_b,
        "maps": [each.facts() for each in maps.maps.values()],
        "figures": with_nulls(maps.figures),
        "notes": maps.notes,
        "manifest": with_nulls(maps.manifest),
    }
    write_whole(folder / RECORD, json.dumps(document, indent=1, allow_nan=False))
    return folder


def read_maps(folder: Path) -> Maps:
    """See `Maps.load`."""
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no maps in {folder}: {RECORD} is missing; give the folder that Maps.save wrote to"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        tensors = _tensors(folder / TENSORS, document["checksum"])
        keys = [(a, b) for a in document["sites_a"] for b in document["sites_b"]]
        maps = {
            key: LinearMap(tensors[f"{i}/matrix"], tensors[f"{i}/bias"], **facts)
            for i, (key, facts) in enumerate(zip(keys, document["maps"], strict=True))
        }
        figures = tuple(_figures(found) for found in document["figures"])
        return Maps(
            maps=maps,
            figures=figures,
            sites_a=tuple(document["sites_a"]),
            sites_b=tuple(document["sites_b"]),
            part=tensors["part"].numpy(),
            group=tensors["group"].numpy(),
            notes=tuple(document["notes"]),
            manifest=document["manifest"],
            sequence=tensors["sequence"].numpy() if "sequence" in tensors else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{path} holds no maps, or damaged ones ({error}); save them again") from error


def _tensors(path: Path, checksum: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ValueError(f"{TENSORS} is missing")
    if _digest(path) != checksum:
        raise ValueError(f"{TENSORS} is damaged or belongs to other maps")
    found: dict[str, torch.Tensor] = load_file(str(path))
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Back from JSON, where NaN is null: in figures, and in the score of validation."""
    out = dict(found)
    for source in SOURCES:
        if source in out:
            out[source] = {m: tuple(with_nans(each)) for m, each in out[source].items()}
    out["valid_r2"] = with_nans([out["valid_r2"]])[0]
    return out
