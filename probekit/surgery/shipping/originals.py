"""The weights an exported edit replaced, kept beside it, so that the original folder can be made from the edited one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probekit.models import Model, load_model
from probekit.models.checkpoint import without_bars
from probekit.surgery.edits.weight_edits import AddedBias, WeightEdit
from probekit.surgery.shipping.files import load_edit, new_folder

_FILE = "originals.safetensors"


def keep_originals(edit: WeightEdit, model: Model, folder: Path) -> None:
    """Write what `edit` is about to replace in `model` beside the edit in `folder`: touched rows only."""
    from safetensors.torch import save_file

    known = dict(model.hf.named_parameters())
    kept: dict[str, Tensor] = {}
    for i, part in enumerate(edit.parts):
        if not isinstance(part, AddedBias):
            whole = known[part.parameter].detach()
            rows = whole if part.rows is None else whole.index_select(part.axis, part.rows.to(whole.device))
            kept[str(i)] = rows.cpu().contiguous().clone()
    before = {name: getattr(model.hf.config, name) for name in edit.config}
    facts = {"config": before, "dtype": str(model.dtype).removeprefix("torch.")}
    save_file(kept, str(folder / _FILE), metadata={"format": "probekit.originals", "facts": json.dumps(facts)})


@torch.no_grad()  # type: ignore[untyped-decorator]
def undo_export(folder: str | Path, out: str | Path) -> Path:
    """Make the original model's folder from an exported one, bit for bit.

    Args:
        folder: What `export` wrote, with its `edit/` inside.
        out: New, or empty.

    Raises:
        FileNotFoundError: no edit, or none of its originals, in the folder.
        FileExistsError: `out` holds something.
        ValueError: the weights that come out are not the original's: the folder was changed after the export.
    """
    from probekit.probes.tensor_file import read_tensors

    folder, out = Path(folder), Path(out)
    if folder.is_dir() and not (folder / "edit").exists():
        raise FileNotFoundError(
            f"{folder} has no edit/ inside: it is not what `export` wrote, or is an original that was brought back already"
        )
    edit = load_edit(folder / "edit")
    if not isinstance(edit, WeightEdit):
        raise ValueError(f"{folder / 'edit'} is an edit of activations: it is in no weights")
    if not (folder / "edit" / _FILE).is_file():
        raise FileNotFoundError(
            f"{folder} was exported without the weights it replaced (originals=False): take the original from where it came"
        )
    kept, metadata = read_tensors(folder / "edit" / _FILE, "probekit.originals", "set of originals")
    facts = json.loads(metadata["facts"])
    with new_folder(out) as part:
        model = load_model(folder, dtype=facts["dtype"], device="cpu")
        put_back(model, edit, kept, facts["config"])
        if model.fingerprint != edit.model:
            raise ValueError(
                f"what comes out is {model.fingerprint}, the original was {edit.model}: {folder} was changed after the export, or "
                "saved by another version of transformers"
            )
        with without_bars():
            model.hf.save_pretrained(part)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(part)
    return out


def put_back(model: Model, edit: WeightEdit, kept: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write the originals over the edited weights of a model."""
    known = dict(model.hf.named_parameters())
    for i, part in reversed(list(enumerate(edit.parts))):
        if isinstance(part, AddedBias):
            model.hf.get_submodule(part.parameter.removesuffix(".bias")).bias = None
            continue
        whole: nn.Parameter = known[part.parameter]
        if part.rows is None:
            whole.copy_(kept[str(i)])
        else:
            whole.index_copy_(part.axis, part.rows.to(whole.device), kept[str(i)].to(whole.device))
    for name, value in config.items():
        setattr(model.hf.config, name, value)
    if edit.unties:
        model.hf.config.tie_word_embeddings = True
        model.hf.get_output_embeddings().weight = model.hf.get_input_embeddings().weight
