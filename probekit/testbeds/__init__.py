"""Small worlds with exact labels, each with a trained model inside."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

SHIPPED: dict[str, Path] = {"othello-mini": Path(__file__).parent / "othello" / "weights"}
"""Folders of the models that come with the package, by the name that `probekit.load_model` takes."""

_WORLDS = ("othello",)


def __getattr__(name: str) -> ModuleType:
    if name in _WORLDS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_WORLDS]
