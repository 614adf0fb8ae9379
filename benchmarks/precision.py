"""How far reduced precision moves SmolLM2-135M's residual stream, as a share of its length.

Run as `python -m benchmarks.precision`.
"""

from __future__ import annotations

import numpy as np

import probekit as pk
from benchmarks.capture import load_smollm2

SITES = (0, 1, 10, 20, 30)
TEXTS = [
    f"The city of {city} is in {country}."
    for city, country in [
        ("Krasnodar", "Russia"),
        ("Lodz", "Poland"),
        ("Durban", "South Africa"),
        ("Cali", "Colombia"),
        ("Surat", "India"),
        ("Osaka", "Peru"),
        ("Porto", "Portugal"),
        ("Quito", "Norway"),
    ]
]


def measure() -> list[str]:
    """One sentence a way of saving precision: mean change at the last token, least and largest over sites."""
    model = load_smollm2()
    sites = [model.stream_sites[i] for i in SITES]
    exact = pk.capture(model, TEXTS, sites, pool="last", progress=False)
    out = []
    for what, options in {
        "computing in bfloat16 (stored in float32)": {"compute_dtype": "bfloat16"},
        "storing in bfloat16": {"dtype": "bfloat16"},
        "storing in float16": {"dtype": "float16"},
    }.items():
        store = pk.capture(model, TEXTS, sites, pool="last", progress=False, **options)
        changes = [_change(exact.read(site), store.read(site)) for site in sites[1:]]
        out.append(f"{what} moves the residual stream by {min(changes):.2%} to {max(changes):.2%} of its length")
    return out


def _change(exact: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean(np.linalg.norm(other - exact, axis=1) / np.linalg.norm(exact, axis=1)))


if __name__ == "__main__":
    print(*measure(), sep="\n")
