"""probekit: read and edit what language models compute.

    import probekit as pk
    model = pk.load_model("othello-mini")
    games = pk.testbeds.othello.sample_games(2000, seed=0)
    result = pk.sweep(model, games, labels=["tile", "stable"])
    result.plot().show()

Names are imported when first used, so that `import probekit` costs little more than `import torch`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Dataset": "probekit.data",
    "LabelSet": "probekit.data",
    "read_csv": "probekit.data",
    "load_model": "probekit.models",
    "Model": "probekit.models",
    "capture": "probekit.activations",
    "ActivationStore": "probekit.activations",
    "ArrayActivations": "probekit.activations",
    "DifferenceInMeans": "probekit.probes",
    "LDAProbe": "probekit.probes",
    "RidgeProbe": "probekit.probes",
    "LogisticProbe": "probekit.probes",
    "ProbeStack": "probekit.probes",
    "sweep": "probekit.probes",
    "SweepResult": "probekit.probes",
    "board": "probekit.leaderboard",
    "Board": "probekit.leaderboard",
}
_PACKAGES = (
    "data",
    "models",
    "activations",
    "probes",
    "surgery",
    "testbeds",
    "leaderboard",
    "mapping",
    "monitoring",
    "report",
)

__all__ = [
    "ActivationStore",
    "ArrayActivations",
    "Board",
    "Dataset",
    "DifferenceInMeans",
    "LDAProbe",
    "LabelSet",
    "LogisticProbe",
    "Model",
    "ProbeStack",
    "RidgeProbe",
    "SweepResult",
    "__version__",
    "activations",
    "board",
    "capture",
    "data",
    "leaderboard",
    "load_model",
    "mapping",
    "models",
    "monitoring",
    "probes",
    "read_csv",
    "report",
    "surgery",
    "sweep",
    "testbeds",
]

if TYPE_CHECKING:
    from probekit import activations, data, leaderboard, mapping, models, monitoring, probes, report, surgery, testbeds
    from probekit.activations import ActivationStore, ArrayActivations
    from probekit.activations.capture import capture
    from probekit.data import Dataset, LabelSet, read_csv
    from probekit.leaderboard import Board, board
    from probekit.models import Model, load_model
    from probekit.probes import (
        DifferenceInMeans,
        LDAProbe,
        LogisticProbe,
        ProbeStack,
        RidgeProbe,
        SweepResult,
        sweep,
    )


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return importlib.import_module(f"probekit.{name}")
    raise AttributeError(f"module 'probekit' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
