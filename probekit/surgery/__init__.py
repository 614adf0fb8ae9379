"""Does it matter? Edits along directions, in activations and in weights, each of them undone bit for bit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "ActivationEdit": "activation_edits",
    "AffineMap": "affine",
    "Behaviour": "behaviour",
    "Edit": "edit",
    "EditReport": "edit_report",
    "Eraser": "erasers",
    "Exported": "exporting",
    "Reliability": "reliability",
    "Search": "searching",
    "WeightEdit": "weight_edits",
    "Where": "where",
    "ablate": "activation_edits",
    "contrast": "directions",
    "decoder_row": "directions",
    "difference_of_means": "directions",
    "edits_on": "edit",
    "erase": "activation_edits",
    "evaluate": "evaluation",
    "export": "exporting",
    "fix": "activation_edits",
    "inlp": "nullspace",
    "jacobian_directions": "jacobian",
    "leace": "erasers",
    "load_edit": "files",
    "lora": "tuning",
    "mezo": "tuning",
    "orthogonalize": "folding",
    "patch": "activation_edits",
    "permuted_directions": "random_directions",
    "principal_components": "directions",
    "read_control_vector": "control_vector",
    "reflect": "activation_edits",
    "replace_rows": "rows",
    "row_cosines": "rows",
    "save_control_vector": "control_vector",
    "save_edit": "files",
    "scale_and_shift": "channels",
    "scale_heads": "rows",
    "scale_neurons": "rows",
    "search": "searching",
    "set_feature": "activation_edits",
    "shift_embeddings": "rows",
    "shift_rows": "rows",
    "spectrum_directions": "random_directions",
    "split_half_reliability": "reliability",
    "steer": "activation_edits",
    "together": "joining",
    "undo_export": "originals",
}
_MODULES = ("behaviours", "damage")
"""What an edit is measured by; their names (`perplexity`, `choices`) are read best with the module before them."""

__all__ = [
    "ActivationEdit",
    "AffineMap",
    "Behaviour",
    "Edit",
    "EditReport",
    "Eraser",
    "Exported",
    "Reliability",
    "Search",
    "WeightEdit",
    "Where",
    "ablate",
    "behaviours",
    "contrast",
    "damage",
    "decoder_row",
    "difference_of_means",
    "edits_on",
    "erase",
    "evaluate",
    "export",
    "fix",
    "inlp",
    "jacobian_directions",
    "leace",
    "load_edit",
    "lora",
    "mezo",
    "orthogonalize",
    "patch",
    "permuted_directions",
    "principal_components",
    "read_control_vector",
    "reflect",
    "replace_rows",
    "row_cosines",
    "save_control_vector",
    "save_edit",
    "scale_and_shift",
    "scale_heads",
    "scale_neurons",
    "search",
    "set_feature",
    "shift_embeddings",
    "shift_rows",
    "spectrum_directions",
    "split_half_reliability",
    "steer",
    "together",
    "undo_export",
]

if TYPE_CHECKING:
    from probekit.surgery import behaviours, damage
    from probekit.surgery.activation_edits import ActivationEdit, ablate, erase, fix, patch, reflect, set_feature, steer
    from probekit.surgery.affine import AffineMap
    from probekit.surgery.behaviour import Behaviour
    from probekit.surgery.channels import scale_and_shift
    from probekit.surgery.control_vector import read_control_vector, save_control_vector
    from probekit.surgery.directions import contrast, decoder_row, difference_of_means, principal_components
    from probekit.surgery.edit import Edit, edits_on
    from probekit.surgery.edit_report import EditReport
    from probekit.surgery.erasers import Eraser, leace
    from probekit.surgery.evaluation import evaluate
    from probekit.surgery.exporting import Exported, export
    from probekit.surgery.files import load_edit, save_edit
    from probekit.surgery.folding import orthogonalize
    from probekit.surgery.jacobian import jacobian_directions
    from probekit.surgery.joining import together
    from probekit.surgery.nullspace import inlp
    from probekit.surgery.originals import undo_export
    from probekit.surgery.random_directions import permuted_directions, spectrum_directions
    from probekit.surgery.reliability import Reliability, split_half_reliability
    from probekit.surgery.rows import (
        replace_rows,
        row_cosines,
        scale_heads,
        scale_neurons,
        shift_embeddings,
        shift_rows,
    )
    from probekit.surgery.searching import Search, search
    from probekit.surgery.tuning import lora, mezo
    from probekit.surgery.weight_edits import WeightEdit
    from probekit.surgery.where import Where


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(f"probekit.surgery.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"probekit.surgery.{name}")
    raise AttributeError(f"module 'probekit.surgery' has no attribute {name!r}; it has: {', '.join(__all__)}")
