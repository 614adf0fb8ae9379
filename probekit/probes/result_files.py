"""A `SweepResult` as three files: `result.json`, `probes.safetensors`, `draws.safetensors`."""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as dump_tensors

from probekit.files import with_nans, with_nulls, write_whole
from probekit.probes.result import COLUMNS, LabelSummary, SiteTables, SweepResult
from probekit.probes.solution import PER_PROBE
from probekit.probes.stack import ProbeStack

FORMAT = 1
STACK_TENSORS = (*PER_PROBE, "chosen")
TENSOR_FILES = ("probes.safetensors", "draws.safetensors")


def write_result(result: SweepResult, folder: Path) -> Path:
    """See `SweepResult.save`.

    New tensor files wait beside the old ones until `result.json` is replaced, which names their checksums; then they take
    their places. Stopped anywhere, the folder holds the old result or the new one, whole.
    """
    try:
        return _write_result(result, folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC, f"the disk is full: the result is not saved to {folder} (one that was there is as it was)"
        ) from error


def _write_result(result: SweepResult, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(zip(TENSOR_FILES, (_probe_tensors(result), _draw_tensors(result)), strict=True))
    checksums = {}
    for name, content in tensors.items():
        data = dump_tensors({key: np.ascontiguousarray(value) for key, value in content.items()})
        checksums[name] = hashlib.sha256(data).hexdigest()
        write_whole(_waiting(folder, name), data)
    document = {
        "format": FORMAT,
        "manifest": _named(dict(result.manifest)),
        "notes": result.notes,
        "sites": result.sites,
        "layers": result.layers,
        "label_sets": [vars(s) for s in result.label_sets],
        "validation": with_nulls(result.validation),
        "data_names": {k: list(by) for k, by in result.tables.items()},
        "probes": {k: _family_of(by) for k, by in result.probes.items()},
        "checksums": checksums,
        "figures": {name: with_nulls(result.figures[name]) for name in COLUMNS},
    }
    write_whole(folder / "result.json", json.dumps(document, indent=1, allow_nan=False, default=_jsonable))
    for name in TENSOR_FILES:
        _waiting(folder, name).replace(folder / name)
    return folder


def _waiting(folder: Path, name: str) -> Path:
    return folder / f".{name}.new"


def read_result(folder: Path) -> SweepResult:
    """See `SweepResult.load`."""
    try:
        return _read_result(folder, folder / "result.json")
    except (KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{folder / 'result.json'} is damaged: it lacks or misplaces {error}; save the result again"
        ) from error


def _read_result(folder: Path, path: Path) -> SweepResult:
    if not path.is_file():
        raise FileNotFoundError(f"no result.json in {folder}: give the folder that SweepResult.save (or `-o`) wrote to")
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path} is not a sweep result of format {FORMAT}")
    files = {}
    for name, checksum in document["checksums"].items():
        places = [place for place in (folder / name, _waiting(folder, name)) if place.is_file()]
        found = next((d for d in map(Path.read_bytes, places) if hashlib.sha256(d).hexdigest() == checksum), None)
        if found is None:
            state = "is damaged or belongs to another result" if places else "is missing"
            raise ValueError(f"{folder / name} {state}; save the result again")
        files[name] = load_tensors(found)
    probes, draws = (files[name] for name in TENSOR_FILES)
    summaries = tuple(
        LabelSummary(**{**s, "classes": tuple(s["classes"]), "targets": tuple(s["targets"])})
        for s in document["label_sets"]
    )
    figures = {name: document["figures"][name] for name in COLUMNS}
    for name in ("value", "low", "high"):
        figures[name] = with_nans(figures[name])
    by_name = {s.name: s for s in summaries}
    return SweepResult(
        sites=tuple(document["sites"]),
        layers=tuple(document["layers"]),
        label_sets=summaries,
        figures=figures,
        validation={k: {m: np.array(with_nans(v)) for m, v in by.items()} for k, by in document["validation"].items()},
        draws={
            s.name: {key.split("/")[2]: v for key, v in draws.items() if key.startswith(f"draws/{i}/")}
            for i, s in enumerate(summaries)
        },
        tables={
            name: {
                data: SiteTables(
                    draws[f"confusion/{_index(summaries, name)}/{j}"], draws[f"bins/{_index(summaries, name)}/{j}"]
                )
                for j, data in enumerate(data_names)
            }
            for name, data_names in document["data_names"].items()
        },
        probes={
            name: {
                site: ProbeStack(
                    **{n: _tensor(probes[f"{i}/{site}/{n}"]) for n in STACK_TENSORS if f"{i}/{site}/{n}" in probes},
                    classes=by_name[name].classes,
                    kind=by_name[name].kind,
                    targets=by_name[name].targets,
                    sites=(site,),
                    grid=tuple(float(v) for v in document["probes"][name]["grid"]),
                    family=document["probes"][name]["family"],
                    parameters={k: _number(v) for k, v in document["probes"][name]["parameters"].items()},
                )
                for site in document["sites"]
            }
            for i, name in enumerate(by_name)
        },
        notes=tuple(document["notes"]),
        manifest=document["manifest"],
    )


def _index(summaries: tuple[LabelSummary, ...], name: str) -> int:
    return [s.name for s in summaries].index(name)


def _probe_tensors(result: SweepResult) -> dict[str, np.ndarray]:
    out = {}
    for i, summary in enumerate(result.label_sets):
        for site, stack in result.probes[summary.name].items():
            for name in STACK_TENSORS:
                if getattr(stack, name) is not None:
                    out[f"{i}/{site}/{name}"] = getattr(stack, name).numpy()
    return out


def _family_of(stacks: Mapping[str, ProbeStack]) -> dict[str, Any]:
    """What all probes of a label set share."""
    stack = next(iter(stacks.values()))
    shared = {"family": stack.family, "parameters": dict(stack.parameters), "grid": list(stack.grid)}
    return {key: _named(value) for key, value in shared.items()}


def _draw_tensors(result: SweepResult) -> dict[str, np.ndarray]:
    out = {}
    for i, summary in enumerate(result.label_sets):
        for metric, draws in result.draws[summary.name].items():
            out[f"draws/{i}/{metric}"] = draws
        for j, table in enumerate(result.tables.get(summary.name, {}).values()):
            out[f"confusion/{i}/{j}"] = table.confusion
            out[f"bins/{i}/{j}"] = table.bins
    return out


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.array(values))


def _named(value: Any) -> Any:
    """`value` with its numbers that JSON lacks as strings: inf, -inf, nan."""
    if isinstance(value, Mapping):
        return {str(k): _named(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_named(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf", "nan") else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
