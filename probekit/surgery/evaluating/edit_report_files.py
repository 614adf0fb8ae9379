"""An `EditReport` as two files: `report.json`, `scores.safetensors`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as dump_tensors

from probekit.files import with_nans, with_nulls, write_whole
from probekit.probes.direction import plain
from probekit.surgery.evaluating.edit_report import COLUMNS, TEST_COLUMNS, EditReport, MeasureFacts, Verdict

_FORMAT = "probekit.editreport"


def write_report(report: EditReport, folder: Path) -> Path:
    """See `EditReport.save`. Each file is replaced as a whole; `report.json`, with the checksum of the other, comes last."""
    conditions = list(report.scores)
    tensors = {
        f"scores/{i}/{j}": np.ascontiguousarray(report.scores[condition][measure.name])
        for i, condition in enumerate(conditions)
        for j, measure in enumerate(report.measures)
    }
    tensors |= {f"select/{j}": report.parts[measure.name].astype(np.uint8) for j, measure in enumerate(report.measures)}
    data = dump_tensors(tensors)
    document = {
        "format": _FORMAT,
        "version": 1,
        "edit": plain(dict(report.edit)),
        "measures": [asdict(measure) for measure in report.measures],
        "figures": {name: with_nulls(report.figures[name]) for name in COLUMNS},
        "tests": {name: with_nulls(report.tests[name]) for name in TEST_COLUMNS},
        "verdict": asdict(report.verdict),
        "examples": [dict(example) for example in report.examples],
        "conditions": conditions,
        "notes": list(report.notes),
        "manifest": plain(dict(report.manifest)),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_whole(folder / "scores.safetensors", data)
    write_whole(folder / "report.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return folder


def read_report(folder: Path) -> EditReport:
    """See `EditReport.load`."""
    path = folder / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"no report.json in {folder}: give the folder that EditReport.save wrote to")
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT or document.get("version") != 1:
        raise ValueError(f"{path} is not a report of an edit (version 1)")
    scores = folder / "scores.safetensors"
    data = scores.read_bytes() if scores.is_file() else b""
    if hashlib.sha256(data).hexdigest() != document.get("sha256"):
        raise ValueError(
            f"{scores} {'is damaged or belongs to another report' if data else 'is missing'}; save the report again"
        )
    try:
        return _report(document, load_tensors(data))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: it lacks or misplaces {error}; save the report again") from error


def _report(document: dict[str, Any], tensors: dict[str, np.ndarray]) -> EditReport:
    measures = tuple(MeasureFacts(**facts) for facts in document["measures"])
    verdict = document["verdict"]
    texts = ("measure", "condition", "kind", "control", "part", "strength")
    return EditReport(
        edit=document["edit"],
        measures=measures,
        figures={
            name: document["figures"][name] if name in texts else with_nans(document["figures"][name])
            for name in COLUMNS
        },
        tests={
            name: document["tests"][name] if name in texts else with_nans(document["tests"][name])
            for name in TEST_COLUMNS
        },
        verdict=Verdict(**{**verdict, "worth": tuple(verdict["worth"])}),
        examples=tuple(document["examples"]),
        scores={
            condition: {measure.name: tensors[f"scores/{i}/{j}"] for j, measure in enumerate(measures)}
            for i, condition in enumerate(document["conditions"])
        },
        parts={measure.name: tensors[f"select/{j}"].astype(bool) for j, measure in enumerate(measures)},
        notes=tuple(document["notes"]),
        manifest=document["manifest"],
    )
