"""Probes: linear read-outs of labels from activations, and the sweep over sites and label sets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "LinearProbe": "base",
    "ConvergenceWarning": "base",
    "DifferenceInMeans": "difference_in_means",
    "LDAProbe": "lda",
    "RidgeProbe": "ridge",
    "LogisticProbe": "logistic",
    "Direction": "direction",
    "ProbeStack": "stack",
    "fit_grid": "grid",
    "sweep": "layer_sweep",  # a module called sweep would hide the function
    "SweepResult": "result",
}

__all__ = [
    "ConvergenceWarning",
    "DifferenceInMeans",
    "Direction",
    "LDAProbe",
    "LinearProbe",
    "LogisticProbe",
    "ProbeStack",
    "RidgeProbe",
    "SweepResult",
    "fit_grid",
    "sweep",
]

if TYPE_CHECKING:
    from probekit.probes.base import ConvergenceWarning, LinearProbe
    from probekit.probes.difference_in_means import DifferenceInMeans
    from probekit.probes.direction import Direction
    from probekit.probes.grid import fit_grid
    from probekit.probes.layer_sweep import sweep
    from probekit.probes.lda import LDAProbe
    from probekit.probes.logistic import LogisticProbe
    from probekit.probes.result import SweepResult
    from probekit.probes.ridge import RidgeProbe
    from probekit.probes.stack import ProbeStack


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(f"probekit.probes.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'probekit.probes' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
