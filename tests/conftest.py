"""Fixtures that several parts of the test suite share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny", Path(__file__).parent / "models" / "tiny.py")


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama (3 blocks of width 32, context 24) and a word-level tokenizer."""
    return tiny.save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")
