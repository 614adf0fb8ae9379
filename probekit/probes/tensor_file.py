"""Reading back a safetensors file that one of our classes saved; a pickle is never opened."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


def read_tensors(path: str | Path, form: str, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the metadata.

    Args:
        form: What the metadata must name as `format`.
        kind: The class that saves such files, for errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no safetensors file, or one of something else.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                raise ValueError(f"{path} is a safetensors file, but not a saved {kind}")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); save with {kind}.save") from None
