"""A `Bottleneck` as two files: `bottleneck.json` and `bottleneck.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saes.concept_bottleneck.result import Bottleneck, Head
from saes.records import estimate_arrays, estimate_of, read_record, write_record

NAME = "bottleneck"
_PLAIN = ("label_set", "classes", "names", "count", "chosen", "level", "pool", "width")
_ARRAYS = ("features", "fires", "spread")


def write_bottleneck(bottleneck: Bottleneck, folder: Path) -> Path:
    """See `Bottleneck.save`."""
    arrays: dict[str, Any] = {name: getattr(bottleneck, name) for name in _ARRAYS}
    arrays |= {f"parts/{name}": rows for name, rows in bottleneck.parts.items()}
    for count, head in bottleneck.heads.items():
        arrays |= {f"heads/{count}/coef": head.coef, f"heads/{count}/intercept": head.intercept}
    for (source, count), by_metric in bottleneck.estimates.items():
        for metric, estimate in by_metric.items():
            arrays |= estimate_arrays(estimate, f"estimates/{source}/{count}/{metric}")
    document = {
        **{name: getattr(bottleneck, name) for name in _PLAIN},
        "C": {count: head.C for count, head in bottleneck.heads.items()},
        "estimates": [[source, count, *by_metric] for (source, count), by_metric in bottleneck.estimates.items()],
        "off": sorted(bottleneck.off),
    }
    write_record(folder, NAME, document, arrays)
    return folder


def read_bottleneck(folder: Path) -> Bottleneck:
    """See `Bottleneck.load`."""
    try:
        document, arrays = read_record(folder, NAME)
        heads = {
            int(count): Head(arrays[f"heads/{count}/coef"], arrays[f"heads/{count}/intercept"], strength)
            for count, strength in document["C"].items()
        }
        estimates = {
            (source, count): {name: estimate_of(arrays, f"estimates/{source}/{count}/{name}", name) for name in names}
            for source, count, *names in document["estimates"]
        }
        fields: dict[str, Any] = {name: document[name] for name in _PLAIN} | {name: arrays[name] for name in _ARRAYS}
        fields |= {name: tuple(document[name]) for name in ("classes", "names")}
        fields["parts"] = {name: arrays[f"parts/{name}"] for name in ("train", "valid", "test")}
        return Bottleneck(**fields, heads=heads, estimates=estimates, off=frozenset(document["off"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder} holds no bottleneck that saes wrote, or a damaged one ({error})") from error
