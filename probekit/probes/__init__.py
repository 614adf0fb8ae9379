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
    "AttentionProbe": "attention",
    "MomentProbe": "moment",
    "MultiMaxProbe": "window",
    "RollingMeanProbe": "window",
    "TokenProbe": "token_probe",
    "CalibratedProbe": "calibrated",
    "ConformalSets": "conformal",
    "CodeLength": "code_length",
    "ElasticNetProbe": "elastic_net",
    "Estimator": "estimator",
    "KernelRidgeProbe": "kernel_ridge",
    "KSparseProbe": "k_sparse",
    "MLPProbe": "mlp",
    "MultiLayerProbe": "multi_layer",
    "ProbeStack": "stack",
    "fit_grid": "grid",
    "load_probe": "estimator_files",
    "sweep": "layer_sweep",  # a module called sweep would hide the function
    "SweepResult": "result",
}

__all__ = [
    "AttentionProbe",
    "CalibratedProbe",
    "CodeLength",
    "ConformalSets",
    "ConvergenceWarning",
    "DifferenceInMeans",
    "Direction",
    "ElasticNetProbe",
    "Estimator",
    "KSparseProbe",
    "KernelRidgeProbe",
    "LDAProbe",
    "LinearProbe",
    "LogisticProbe",
    "MLPProbe",
    "MomentProbe",
    "MultiLayerProbe",
    "MultiMaxProbe",
    "ProbeStack",
    "RidgeProbe",
    "RollingMeanProbe",
    "SweepResult",
    "TokenProbe",
    "fit_grid",
    "load_probe",
    "sweep",
]

if TYPE_CHECKING:
    from probekit.probes.attention import AttentionProbe
    from probekit.probes.base import ConvergenceWarning, LinearProbe
    from probekit.probes.calibrated import CalibratedProbe
    from probekit.probes.code_length import CodeLength
    from probekit.probes.conformal import ConformalSets
    from probekit.probes.difference_in_means import DifferenceInMeans
    from probekit.probes.direction import Direction
    from probekit.probes.elastic_net import ElasticNetProbe
    from probekit.probes.estimator import Estimator
    from probekit.probes.estimator_files import load_probe
    from probekit.probes.grid import fit_grid
    from probekit.probes.k_sparse import KSparseProbe
    from probekit.probes.kernel_ridge import KernelRidgeProbe
    from probekit.probes.layer_sweep import sweep
    from probekit.probes.lda import LDAProbe
    from probekit.probes.logistic import LogisticProbe
    from probekit.probes.mlp import MLPProbe
    from probekit.probes.moment import MomentProbe
    from probekit.probes.multi_layer import MultiLayerProbe
    from probekit.probes.result import SweepResult
    from probekit.probes.ridge import RidgeProbe
    from probekit.probes.stack import ProbeStack
    from probekit.probes.token_probe import TokenProbe
    from probekit.probes.window import MultiMaxProbe, RollingMeanProbe


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(f"probekit.probes.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'probekit.probes' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
