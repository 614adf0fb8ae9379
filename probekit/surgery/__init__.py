"""Does it matter? Edits along directions, in activations and in weights, each of them undone bit for bit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "ActivationEdit": "edits.activation_edit",
    "AffineMap": "edits.affine",
    "Behaviour": "evaluating.behaviour",
    "Edit": "edits.edit",
    "EditReport": "evaluating.edit_report",
    "Eraser": "directions.erasers",
    "Exported": "shipping.exporting",
    "Reliability": "directions.reliability",
    "Search": "evaluating.searching",
    "WeightEdit": "edits.weight_edits",
    "Where": "edits.where",
    "ablate": "edits.linear",
    "contrast": "directions.finding",
    "decoder_row": "directions.finding",
    "difference_of_means": "directions.finding",
    "edits_on": "edits.edit",
    "erase": "edits.linear",
    "evaluate": "evaluating.evaluation",
    "export": "shipping.exporting",
    "fix": "edits.linear",
    "inlp": "directions.nullspace",
    "jacobian_directions": "directions.jacobian",
    "leace": "directions.erasers",
    "load_edit": "shipping.files",
    "lora": "evaluating.tuning",
    "mezo": "evaluating.tuning",
    "orthogonalize": "edits.folding",
    "patch": "edits.substitution",
    "permuted_directions": "directions.random_directions",
    "principal_components": "directions.finding",
    "read_control_vector": "directions.control_vector",
    "reflect": "edits.linear",
    "replace_rows": "edits.rows",
    "row_cosines": "edits.rows",
    "save_control_vector": "directions.control_vector",
    "save_edit": "shipping.files",
    "scale_and_shift": "edits.channels",
    "scale_heads": "edits.rows",
    "scale_neurons": "edits.rows",
    "scrub": "directions.scrubbing",
    "search": "evaluating.searching",
    "set_feature": "edits.substitution",
    "shift_embeddings": "edits.rows",
    "shift_rows": "edits.rows",
    "spectrum_directions": "directions.random_directions",
    "split_half_reliability": "directions.reliability",
    "steer": "edits.linear",
    "together": "edits.joining",
    "undo_export": "shipping.originals",
}
_MODULES = {"behaviours": "evaluating.behaviours", "damage": "evaluating.damage"}
"""What an edit is measured by; their names (`perplexity`, `choices`) are read best with the module before them."""

__all__ = [
    "ActivationEdit",
    "AffineMap",
    "Behaviour",
    "Direction",
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
    "scrub",
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
    from probekit.probes.direction import Direction
    from probekit.surgery.directions.control_vector import read_control_vector, save_control_vector
    from probekit.surgery.directions.erasers import Eraser, leace
    from probekit.surgery.directions.finding import contrast, decoder_row, difference_of_means, principal_components
    from probekit.surgery.directions.jacobian import jacobian_directions
    from probekit.surgery.directions.nullspace import inlp
    from probekit.surgery.directions.random_directions import permuted_directions, spectrum_directions
    from probekit.surgery.directions.reliability import Reliability, split_half_reliability
    from probekit.surgery.directions.scrubbing import scrub
    from probekit.surgery.edits.activation_edit import ActivationEdit
    from probekit.surgery.edits.affine import AffineMap
    from probekit.surgery.edits.channels import scale_and_shift
    from probekit.surgery.edits.edit import Edit, edits_on
    from probekit.surgery.edits.folding import orthogonalize
    from probekit.surgery.edits.joining import together
    from probekit.surgery.edits.linear import ablate, erase, fix, reflect, steer
    from probekit.surgery.edits.rows import (
        replace_rows,
        row_cosines,
        scale_heads,
        scale_neurons,
        shift_embeddings,
        shift_rows,
    )
    from probekit.surgery.edits.substitution import patch, set_feature
    from probekit.surgery.edits.weight_edits import WeightEdit
    from probekit.surgery.edits.where import Where
    from probekit.surgery.evaluating import behaviours, damage
    from probekit.surgery.evaluating.behaviour import Behaviour
    from probekit.surgery.evaluating.edit_report import EditReport
    from probekit.surgery.evaluating.evaluation import evaluate
    from probekit.surgery.evaluating.searching import Search, search
    from probekit.surgery.evaluating.tuning import lora, mezo
    from probekit.surgery.shipping.exporting import Exported, export
    from probekit.surgery.shipping.files import load_edit, save_edit
    from probekit.surgery.shipping.originals import undo_export


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(f"probekit.surgery.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"probekit.surgery.{_MODULES[name]}")
    if name == "Direction":
        return importlib.import_module("probekit.probes.direction").Direction
    raise AttributeError(f"module 'probekit.surgery' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
