"""The files of an experiment as modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@contextmanager
def scripts_of(experiment: str, *modules: str) -> Iterator[SimpleNamespace]:
    """Files of an experiment, found as python finds them when its script is run; other experiments have such names too."""
    before = {name: sys.modules.pop(name) for name in modules if name in sys.modules}
    sys.path.insert(0, str(EXPERIMENTS / experiment))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in modules})
    finally:
        sys.path.remove(str(EXPERIMENTS / experiment))
        for name in modules:
            sys.modules.pop(name, None)
        sys.modules.update(before)
