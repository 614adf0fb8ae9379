"""An edit as a folder: `edit.json` and `edit.safetensors`, which apply to the original model elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probekit.models import Model, load_model
from probekit.probes.direction import Direction
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.affine import AffineMap
from probekit.surgery.edits.edit import Edit
from probekit.surgery.edits.making import remaker
from probekit.surgery.edits.weight_edits import AddedBias, FoldedMap, Part, Replacement, Shift, WeightEdit
from probekit.surgery.edits.where import Where
from probekit.versions import versions_of

_FORMAT = "probekit.edit"
_PARTS = {kind.__name__: kind for kind in (FoldedMap, Shift, Replacement, AddedBias)}


class _Tensors:
    """Tensors by the name they get in the file; one that is used twice is kept once."""

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def name(self, tensor: Tensor) -> str:
        if id(tensor) not in self._names:
            name = f"t{len(self.named)}"
            self._names[id(tensor)] = name
            self.named[name] = tensor.detach().cpu().contiguous().clone()
        return self._names[id(tensor)]


def save_edit(edit: Edit, folder: str | Path, model: Model | Any | None = None) -> Path:
    """Write an edit as a folder of two files.

    Args:
        folder: New, or empty.
        model: The model the edit is for; given, the file says how many numbers the edit touches.

    Raises:
        FileExistsError: the folder holds something.
        TypeError: an edit that is more than numbers: a function, a patch, an SAE's feature.
    """
    with new_folder(Path(folder)) as part:
        write_edit(edit, part, model)
    return Path(folder)


def write_edit(edit: Edit, folder: Path, model: Model | Any | None = None) -> None:
    """As `save_edit`, into a folder that is there."""
    from safetensors.torch import save_file

    tensors = _Tensors()
    facts: dict[str, Any] = {
        "format": _FORMAT,
        "version": 1,
        **edit.describe(),
        "versions": versions_of("torch", "transformers"),
    }
    facts.pop("parameters", None)
    facts["recipe"] = _recipe_facts(edit.recipe, tensors)
    facts["searched"] = edit.searched
    facts["direction"] = None if edit.direction is None else _direction_facts(edit.direction, tensors)
    if isinstance(edit, WeightEdit):
        facts["config"] = edit.config
        facts["details"] = edit.details
        facts["parts"] = [_part_facts(part, tensors) for part in edit.parts]
        facts["touched"] = None if model is None else edit.touched(load_model(model))
    elif isinstance(edit, ActivationEdit):
        facts["changes"] = {}
        for site, change in edit.changes.items():
            if not isinstance(change, AffineMap):
                raise TypeError(f"{edit.name!r} is more than numbers and cannot be saved: keep what made it")
            facts["changes"][site] = _map_facts(change, tensors)
        facts["where"] = _where_facts(edit.where.to_json(), tensors)
    else:
        raise TypeError(f"an edit of kind {type(edit).__name__} cannot be saved")
    save_file(tensors.named, str(folder / "edit.safetensors"), metadata={"format": _FORMAT})
    facts["sha256"] = hashlib.sha256((folder / "edit.safetensors").read_bytes()).hexdigest()
    (folder / "edit.json").write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")


def load_edit(folder: str | Path, model: Model | Any | None = None) -> Edit:
    """Read an edit that `save_edit` wrote; `edit.applied(model)` then refuses any model but the one it was made for.

    Args:
        folder: What `save_edit` wrote.
        model: The model it is for; given, the edit can also be made again with another strength or direction (`remade`), where
            the file says how.

    Raises:
        FileNotFoundError: no such folder, or no edit in it.
        ValueError: the files do not belong together, or are no saved edit.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in ("edit.json", "edit.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no saved edit: there is no {name}")
    try:
        facts = json.loads((folder / "edit.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'edit.json'} is not JSON: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise ValueError(f"{folder / 'edit.json'} is no saved edit")
    if facts.get("version") != 1:
        raise ValueError(
            f"{folder} was written by another version of probekit (format {facts.get('version')}, this reads 1)"
        )
    if hashlib.sha256((folder / "edit.safetensors").read_bytes()).hexdigest() != facts.get("sha256"):
        raise ValueError(f"{folder / 'edit.safetensors'} is not the file that edit.json was written for: it was changed or cut")  # fmt: skip
    try:
        return _edit_from(facts, load_file(str(folder / "edit.safetensors")), model)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{folder / 'edit.json'} is no whole edit: {type(error).__name__} {error}") from None


def _edit_from(facts: dict[str, Any], tensors: dict[str, Tensor], model: Model | Any | None) -> Edit:
    direction = None if facts["direction"] is None else _direction(facts["direction"], tensors)
    recipe = _recipe(facts.get("recipe"), tensors)
    common: dict[str, Any] = {"direction": direction, "strength": facts["strength"]}
    if recipe is not None and model is not None:
        common["remake"] = remaker(recipe, direction, facts["strength"], load_model(model))
    edit: Edit
    if facts["kind"] == "weights":
        edit = WeightEdit(
            facts["name"],
            facts["model"],
            [_part(one, tensors) for one in facts["parts"]],
            unties=facts["unties"],
            config=facts["config"],
            details=facts["details"],
            **common,
        )
        edit.recipe, edit.searched = recipe, bool(facts.get("searched"))
        return edit
    where = Where.from_json(**_where(facts["where"], tensors))
    changes = {site: _map(one, tensors) for site, one in facts["changes"].items()}
    edit = ActivationEdit(facts["name"], facts["model"], changes, where, **common)
    edit.recipe, edit.searched = recipe, bool(facts.get("searched"))
    return edit


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name only once everything is in it.

    Raises:
        FileExistsError: there is something of that name, and it is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "exists and is not empty" if folder.is_dir() else "is a file"
        raise FileExistsError(f"{folder} {what}: give another folder, nothing was written")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        for file in part.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors writes for the owner only
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _map_facts(change: AffineMap, tensors: _Tensors) -> dict[str, str]:
    return {"left": tensors.name(change.left), "right": tensors.name(change.right), "bias": tensors.name(change.bias)}


def _map(facts: dict[str, str], tensors: dict[str, Tensor]) -> AffineMap:
    return AffineMap(tensors[facts["left"]], tensors[facts["right"]], tensors[facts["bias"]])


def _part_facts(part: Part, tensors: _Tensors) -> dict[str, Any]:
    facts: dict[str, Any] = {"part": type(part).__name__}
    for field in fields(part):
        value = getattr(part, field.name)
        if field.init:
            facts[field.name] = (
                tensors.name(value)
                if isinstance(value, Tensor)
                else _map_facts(value, tensors)
                if isinstance(value, AffineMap)
                else value
            )
    return facts


def _part(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Part:
    kind = _PARTS[facts["part"]]
    values = {name: value for name, value in facts.items() if name != "part"}
    for name in ("rows", "vector", "values"):
        if values.get(name) is not None:
            values[name] = tensors[values[name]]
    if "map" in values:
        values["map"] = _map(values["map"], tensors)
    made: Part = kind(**values)
    return made


def _recipe_facts(recipe: Any, tensors: _Tensors) -> Any:
    """A recipe as JSON; the directions of the parts of a joined edit are in it, and the probe that says where."""
    if recipe is None:
        return None
    if recipe["how"] != "together":
        return {**recipe, "where": _where_facts(recipe["where"], tensors)} if "where" in recipe else recipe
    parts = [
        part
        | {
            "recipe": _recipe_facts(part["recipe"], tensors),
            "direction": None if part["direction"] is None else _direction_facts(part["direction"], tensors),
        }
        for part in recipe["parts"]
    ]
    return {"how": "together", "parts": parts}


def _recipe(facts: Any, tensors: dict[str, Tensor]) -> Any:
    if facts is None:
        return None
    if facts["how"] != "together":
        return {**facts, "where": _where(facts["where"], tensors)} if "where" in facts else facts
    parts = [
        part
        | {
            "recipe": _recipe(part["recipe"], tensors),
            "direction": None if part["direction"] is None else _direction(part["direction"], tensors),
        }
        for part in facts["parts"]
    ]
    return {"how": "together", "parts": parts}


def _where_facts(where: dict[str, Any], tensors: _Tensors) -> dict[str, Any]:
    fires = where["fires"]
    return where | {"fires": None if fires is None else tensors.name(fires)}


def _where(facts: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    fires = facts.get("fires")
    return facts | {"fires": None if fires is None else tensors[fires]}


def _direction_facts(direction: Direction, tensors: _Tensors) -> dict[str, Any]:
    facts = {field.name: getattr(direction, field.name) for field in fields(direction)}
    return facts | {"vector": tensors.name(direction.vector), "provenance": dict(direction.provenance)}


def _direction(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Direction:
    return Direction(**(facts | {"vector": tensors[facts["vector"]].to(torch.float32)}))
