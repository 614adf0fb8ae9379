"""Does it matter? Edits along directions, in activations and in weights, each of them undone bit for bit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "ActivationEdit": "activation_edits",
    "AffineMap": "affine",
    "Edit": "edit",
    "Exported": "exporting",
    "WeightEdit": "weight_edits",
    "Where": "where",
    "ablate": "activation_edits",
    "edits_on": "edit",
    "erase": "activation_edits",
    "export": "exporting",
    "fix": "activation_edits",
    "load_edit": "files",
    "orthogonalize": "folding",
    "patch": "activation_edits",
    "reflect": "activation_edits",
    "replace_rows": "rows",
    "row_cosines": "rows",
    "save_edit": "files",
    "scale_and_shift": "channels",
    "scale_heads": "rows",
    "scale_neurons": "rows",
    "set_feature": "activation_edits",
    "shift_embeddings": "rows",
    "shift_rows": "rows",
    "steer": "activation_edits",
    "undo_export": "originals",
}

__all__ = [
    "ActivationEdit",
    "AffineMap",
    "Edit",
    "Exported",
    "WeightEdit",
    "Where",
    "ablate",
    "edits_on",
    "erase",
    "export",
    "fix",
    "load_edit",
    "orthogonalize",
    "patch",
    "reflect",
    "replace_rows",
    "row_cosines",
    "save_edit",
    "scale_and_shift",
    "scale_heads",
    "scale_neurons",
    "set_feature",
    "shift_embeddings",
    "shift_rows",
    "steer",
    "undo_export",
]

if TYPE_CHECKING:
    from probekit.surgery.activation_edits import ActivationEdit, ablate, erase, fix, patch, reflect, set_feature, steer
    from probekit.surgery.affine import AffineMap
    from probekit.surgery.channels import scale_and_shift
    from probekit.surgery.edit import Edit, edits_on
    from probekit.surgery.exporting import Exported, export
    from probekit.surgery.files import load_edit, save_edit
    from probekit.surgery.folding import orthogonalize
    from probekit.surgery.originals import undo_export
    from probekit.surgery.rows import (
        replace_rows,
        row_cosines,
        scale_heads,
        scale_neurons,
        shift_embeddings,
        shift_rows,
    )
    from probekit.surgery.weight_edits import WeightEdit
    from probekit.surgery.where import Where


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(f"probekit.surgery.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'probekit.surgery' has no attribute {name!r}; it has: {', '.join(__all__)}")
