"""Fixtures that several parts of the test suite share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.tiny import save_tiny_model


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama (3 blocks of width 32, context 24) and a word-level tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")
