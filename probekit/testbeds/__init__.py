"""Small worlds with exact labels, each with a trained model inside."""

from __future__ import annotations

import importlib
from types import ModuleType

_WORLDS = ("karel", "othello")


def __getattr__(name: str) -> ModuleType:
    if name in _WORLDS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_WORLDS]
