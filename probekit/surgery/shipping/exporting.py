"""An edited model as an ordinary Hugging Face folder, read back by a process of its own before it is called finished."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probekit.models import Model, load_model
from probekit.models.checkpoint import without_bars
from probekit.models.model import evaluating
from probekit.surgery.edits.activation_edit import ActivationEdit
from probekit.surgery.edits.edit import Edit, edits_on
from probekit.surgery.edits.weight_edits import WeightEdit
from probekit.surgery.shipping.files import new_folder, write_edit
from probekit.surgery.shipping.originals import keep_originals

_CHECKED_SEQUENCES, _CHECKED_TOKENS = 4, 32


@dataclass(frozen=True)
class Exported:
    """What a fresh process found in the folder.

    Attributes:
        folder: Where.
        logit_difference: Largest absolute difference to the edited model in memory, in logits, on the same tokens.
        unedited_difference: The same to the model without the edit, for comparison.
        perplexity: On the texts given, measured by the fresh process; None without texts.
        fingerprint: Of the edited model.
    """

    folder: Path
    logit_difference: float
    unedited_difference: float
    perplexity: float | None
    fingerprint: str


def export(
    model: Model | Any,
    edit: Edit,
    folder: str | Path,
    *,
    texts: Sequence[str] | None = None,
    figures: Mapping[str, object] | None = None,
    tolerance: float | None = None,
    originals: bool = True,
) -> Exported:
    """Write the edited model as a folder that `AutoModelForCausalLM.from_pretrained` reads, and the edit beside it.

    The folder gets its name only once a fresh process has loaded it with transformers alone and found the logits of the
    edited model in memory. `edit/` in it holds the edit (`load_edit`), `README.md` says what was done and measured.

    Args:
        model: The original; it is as it was afterwards.
        edit: Of weights, or one of activations that folds into weights (`ActivationEdit.to_weights`).
        folder: New, or empty.
        texts: Texts whose perplexity the fresh process measures.
        figures: What an evaluation found, for the card: name to value.
        tolerance: Largest difference in logits that is accepted, as a part of their range; None: 1e-4, or 0.02 in half precision
            (a model converted in memory also holds its rotary frequencies in half precision, a loaded one does not).
        originals: Keep the weights that are replaced in the folder, too, so that `undo_export` can make the original from it.

    Raises:
        FileExistsError: the folder holds something; nothing is written.
        ValueError: no weights compute this edit, or the folder does not give the edited model's logits.
    """
    model = load_model(model)
    folder = Path(folder)
    if on := edits_on(model):
        raise ValueError(
            f"{on[-1].name!r} is on {model.name!r}: undo it first, so that what is written is this edit and no other"
        )
    weights = edit.to_weights(model) if isinstance(edit, ActivationEdit) else edit
    if not isinstance(weights, WeightEdit):
        raise TypeError(f"an edit of kind {type(edit).__name__} cannot be exported")
    if not hasattr(model.hf, "save_pretrained") or not hasattr(model.hf, "get_output_embeddings"):
        raise ValueError(
            f"{model.name!r} is no Hugging Face causal language model, so it has no folder to be written as"
        )
    tokens = _tokens_to_check(model)
    before = _logits(model, tokens)
    with new_folder(folder) as part:
        write_edit(weights, _made(part / "edit"), model)
        if originals:
            keep_originals(weights, model, part / "edit")
        with weights.applied(model):
            edited, fingerprint = _logits(model, tokens), model.fingerprint
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*generation config.*")
                with without_bars():
                    model.hf.save_pretrained(part)
            if model.tokenizer is not None:
                model.tokenizer.save_pretrained(part)
            touched = weights.touched(model)
        found = _read_in_fresh_process(part, tokens, texts, model.context)
        difference = float((found["logits"] - edited).abs().max())
        if tolerance is None:
            tolerance = 0.02 if model.dtype.itemsize < 4 else 1e-4
        if difference > tolerance * max(1.0, float(edited.max() - edited.min())):
            raise ValueError(
                f"the folder was written, but a fresh process reads other logits from it (by up to {difference:.3g}); it was not "
                "kept. This is a fault of the export: please report it with the edit's folder"
            )
        result = Exported(folder, difference, float((edited - before).abs().max()), found["perplexity"], fingerprint)
        (part / "README.md").write_text(_card(model, weights, result, touched, figures), encoding="utf-8")
    return result


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tokens_to_check(model: Model) -> Tensor:
    length = min(_CHECKED_TOKENS, model.context or _CHECKED_TOKENS)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.vocab, (_CHECKED_SEQUENCES, length), generator=generator)


@torch.no_grad()  # type: ignore[untyped-decorator]
def _logits(model: Model, tokens: Tensor) -> Tensor:
    ids = tokens.to(model.device)
    with evaluating(model.hf):
        logits: Tensor = model.hf(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().cpu()
    return logits


_FRESH = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, given, found = sys.argv[1:4]
request = json.load(open(given + ".json"))
torch.set_num_threads(request["threads"])
dtype = getattr(torch, request["dtype"])
model, info = AutoModelForCausalLM.from_pretrained(
    folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True,
    attn_implementation=request["attention"],
)
if info["missing_keys"] or info["unexpected_keys"]:
    sys.exit(f"the folder lacks {sorted(info['missing_keys'])[:3]} or has too much: {sorted(info['unexpected_keys'])[:3]}")
model = model.to(request["device"]).eval()
tokens = load_file(given + ".safetensors")["tokens"].to(model.device)
with torch.no_grad():
    save_file({"logits": model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.float().cpu().contiguous()}, found)
    total, count = 0.0, 0
    if request["texts"]:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        for text in request["texts"]:
            ids = tokenizer(text, return_tensors="pt")["input_ids"][:, : request["context"]].to(model.device)
            if ids.shape[1] > 1:
                lost = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1].float(), ids[0, 1:], reduction="sum")
                total, count = total + float(lost), count + ids.shape[1] - 1
print(json.dumps({"nats": total, "tokens": count}))
"""


def _read_in_fresh_process(
    folder: Path, tokens: Tensor, texts: Sequence[str] | None, context: int | None
) -> dict[str, Any]:
    """Load the folder with transformers alone, in a process that knows nothing of probekit."""
    import math
    import tempfile

    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    if texts and not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise ValueError("texts can only be measured on a model with a tokenizer")
    with tempfile.TemporaryDirectory() as place:
        given, found = f"{place}/given", f"{place}/found.safetensors"
        save_file({"tokens": tokens.contiguous()}, f"{given}.safetensors")
        request = {
            "texts": list(texts or []),
            "dtype": config.get("dtype") or config.get("torch_dtype") or "float32",
            "threads": torch.get_num_threads(),
            "attention": "eager" if config.get("_attn_implementation") == "eager" else None,
            "context": context or 1024,
            "device": "cpu",
        }
        Path(f"{given}.json").write_text(json.dumps(request))
        done = subprocess.run([sys.executable, "-c", _FRESH, str(folder), given, found], capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
            raise ValueError(f"a fresh process cannot read the folder: {reason}")
        said = json.loads(done.stdout.strip().splitlines()[-1])
        perplexity = math.exp(said["nats"] / said["tokens"]) if said["tokens"] else None
        return {"logits": load_file(found)["logits"], "perplexity": perplexity}


def _card(model: Model, edit: WeightEdit, result: Exported, touched: int, figures: Mapping[str, object] | None) -> str:
    """Markdown: what was done to which model, and what was measured on this folder."""
    total = sum(parameter.numel() for parameter in model.hf.parameters())
    lines = [
        f"# {model.name}, edited",
        "",
        f"**Edit.** {edit.name}. It touches {touched:,} of {total:,} parameters in {len(edit.parameters)} tensors"
        + ("; the unembedding, tied to the embedding before, has weights of its own." if edit.unties else "."),
        "",
        f"**Original.** Fingerprint `{edit.model}`; edited `{result.fingerprint}`. `edit/` holds the change alone: "
        "`probekit.surgery.load_edit` applies it to the original, and refuses any other model.",
        "",
    ]
    if edit.config.get("mlp_bias"):
        lines += [
            "**Biases.** The MLPs have biases that the original's have not (`mlp_bias` in `config.json`). transformers reads them; a "
            "loader that takes an architecture to have none may leave them out (`HookedTransformer` of TransformerLens 3.9 does, its "
            "`TransformerBridge` does not): compare its logits first.",
            "",
        ]
    lines += [
        "## Measured on this folder, by a fresh process with transformers alone",
        "",
        "| | |",
        "|---|---|",
        f"| largest difference in logits to the edited model in memory | {result.logit_difference:.3g} |",
        f"| the same to the model before the edit | {result.unedited_difference:.3g} |",
    ]
    if result.perplexity is not None:
        lines.append(f"| perplexity on the texts given | {result.perplexity:.4g} |")
    if figures:
        lines += ["", "## From the evaluation, before the export", "", "| | |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in figures.items()]
    if edit.direction is not None:
        origin = ", ".join(f"{name} {value}" for name, value in edit.direction.provenance.items())
        lines += ["", f"**Direction.** At `{edit.direction.site}`: {_cell(origin) or 'no provenance'}."]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return shown.replace("|", "\\|").replace("\n", " ")
