"""`load_model`: a shipped name, a folder, a Hub id, a GGUF file, or a model that is already in memory."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from probekit.models.arithmetic import warn_if_imitated
from probekit.models.checkpoint import first_line, read_checkpoint
from probekit.models.gguf_file import read_gguf
from probekit.models.huggingface import wrap_huggingface
from probekit.models.model import Model
from probekit.models.origin import Origin
from probekit.models.transformer_lens import is_transformer_lens, wrap_transformer_lens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TESTBEDS = Path(__file__).parents[1] / "testbeds"
SHIPPED: dict[str, Path] = {f"{world}-mini": _TESTBEDS / world / "weights" for world in ("othello", "karel")}
"""Folders of the models that come with the package, by name."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_CONVERT = (
    "Pickle files can run any code when they are opened, so probekit does not read them. To convert, where you trust "
    "the file: AutoModelForCausalLM.from_pretrained(folder, use_safetensors=False).save_pretrained(new_folder)"
)


def load_model(
    source: str | Path | PreTrainedModel | Model | Any,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    device_map: str | dict[str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    blocks: str | None = None,
    tokenizer: Any = None,
) -> Model:
    """Load a language model and find its sites.

    Args:
        source: One of: the name of a shipped model (`"othello-mini"`, `"karel-mini"`); a local folder as `save_pretrained` writes it,
            with `*.safetensors`; a GGUF file, whose weights are expanded to `dtype`; a Hugging Face Hub id; a
            `PreTrainedModel`; a TransformerLens `HookedTransformer` or `TransformerBridge`.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`. A model already in memory stays in the dtype it has.
        device: `"cpu"`, `"cuda"`, ...; when None, the first GPU if there is one, else the CPU. A model already in
            memory stays where it is.
        device_map: For a model that is too large for one device, how accelerate spreads it: `"auto"` (all GPUs, then memory, then
            disk), or by module a GPU's number, `"cpu"` or `"disk"`. Sites are read and edited where their block is; weights
            that are not in memory cannot be edited.
        offload_folder: Where the parts on disk are written, if they are not read from the checkpoint itself.
        blocks: Path of the list of blocks (`"transformer.h"`), for an architecture probekit does not know.
        tokenizer: A tokenizer to use instead of the model's own, or with a model given as an object.

    Raises:
        FileNotFoundError: no such file or folder, or a folder without a model in it.
        ValueError: a file that is no model, pickled or quantised weights, an architecture whose blocks are not found, a device map
            beside a device, or of a model that is in memory or a GGUF file.
        OSError: the Hub has no such model, or cannot be reached.
    """
    spread = _spread(source, device, device_map, offload_folder)
    if isinstance(source, Model):
        return source
    if is_transformer_lens(source):
        lens: Any = source
        _refuse_conversion(next(lens.parameters()), dtype, device)
        return wrap_transformer_lens(lens, tokenizer or lens.tokenizer, lens.cfg.model_name or "HookedTransformer")
    if not isinstance(source, str | Path):
        from transformers import PreTrainedModel

        if not isinstance(source, PreTrainedModel):
            raise TypeError(
                f"load_model takes a name, a path, a transformers PreTrainedModel or a TransformerLens model, "
                f"not {type(source).__name__}"
            )
        _refuse_conversion(next(source.parameters()), dtype, device)
        return wrap_huggingface(source, tokenizer, Path(source.name_or_path or type(source).__name__).name, blocks)

    hf, own_tokenizer, name = _read(source, _as_dtype(dtype), spread)
    origin = _origin(source, dtype=dtype, device=device, blocks=blocks, tokenizer=tokenizer, **spread)
    if not spread:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            hf = hf.to(where)  # type: ignore[arg-type]
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"the model cannot be moved to device={device!r}: {first_line(error)}") from error
    model = wrap_huggingface(hf.eval(), tokenizer or own_tokenizer, name, blocks)
    warn_if_imitated(model.dtype, model.device, instead="load it in float32, which takes twice the memory")
    model.origin = origin
    return model


def _spread(source: Any, device: Any, device_map: Any, offload_folder: str | Path | None) -> dict[str, Any]:
    """What transformers is told of a model that is spread over devices; nothing for one that is not."""
    if device_map is None:
        if offload_folder is not None:
            raise ValueError("offload_folder goes with device_map: device_map='auto', or a dict with 'disk' in it")
        return {}
    if device is not None:
        raise ValueError(f"give device={str(device)!r} or device_map, not both")
    if not isinstance(source, str | Path) or str(source).endswith(".gguf"):
        what = "a GGUF file" if isinstance(source, str | Path) else "a model that is in memory"
        raise ValueError(f"device_map is for models that are loaded from a folder or the Hub, not for {what}")
    found = {"device_map": device_map}
    return found if offload_folder is None else found | {"offload_folder": str(Path(offload_folder).resolve())}


def _origin(source: str | Path, *, device: str | torch.device | None, **options: Any) -> Origin:
    """How another process loads the same: a path from the root, and no number of a GPU, since each has its own."""
    path = Path(source).expanduser()
    named = str(source) in SHIPPED or not path.exists()
    kind = None if device is None else torch.device(device).type
    return Origin(str(source) if named else str(path.resolve()), {**options, "device": kind})


def _read(source: str | Path, dtype: torch.dtype, spread: dict[str, Any]) -> tuple[PreTrainedModel, Any, str]:
    """Model, tokenizer and name of what `source` names."""
    if str(source) in SHIPPED:
        return *_read_folder(SHIPPED[str(source)], dtype, spread), str(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return *_read_folder(path, dtype, spread), path.resolve().name
    if path.is_file():
        if path.suffix in _PICKLES:
            raise ValueError(f"{path} is a pickle file. {_CONVERT}")
        if path.suffix == ".safetensors":
            raise ValueError(f"{path} holds weights without a configuration: give the folder it lies in, {path.parent}")
        return *read_gguf(path, dtype), path.stem
    if isinstance(source, Path) or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", source) or path.suffix == ".gguf":
        raise FileNotFoundError(f"no model at {path}: there is no such file or folder")
    if "/" not in source and (near := difflib.get_close_matches(source, SHIPPED, n=1)):
        raise ValueError(f"there is no shipped model {source!r}; did you mean {near[0]!r}?")
    return *_read_hub(source, dtype, spread), source


def _read_folder(folder: Path, dtype: torch.dtype, spread: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    from transformers import AutoTokenizer

    names = sorted(file.name for file in folder.iterdir())
    config_file = folder / "config.json"
    if not config_file.is_file():
        ggufs = [name for name in names if name.endswith(".gguf")]
        if ggufs:
            hint = f"give the GGUF file itself: {folder / ggufs[0]}"
        elif "adapter_config.json" in names:
            hint = "it is an adapter: merge it into its base model first (peft: merge_and_unload, then save_pretrained)"
        else:
            hint = f"it holds {', '.join(names[:5]) or 'nothing'}"
        raise FileNotFoundError(f"{folder} holds no model: there is no config.json; {hint}")
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if name.endswith(_PICKLES)]
        if pickles:
            raise ValueError(f"{folder} holds its weights as a pickle ({pickles[0]}). {_CONVERT}")
        raise FileNotFoundError(f"{folder} has a config.json but no weights (*.safetensors)")
    try:
        config = json.loads(config_file.read_text())
    except ValueError as error:
        raise ValueError(f"{config_file} is not JSON: {error}") from error
    _refuse_quantised(config, folder)
    try:
        hf = read_checkpoint(folder, dtype, use_safetensors=True, local_files_only=True, **spread)
    except Exception as error:
        wrong = next((n for n in names if n.endswith(".safetensors") and not _is_safetensors(folder / n)), None)
        if wrong is not None:
            raise ValueError(
                f"{folder / wrong} is not a safetensors file (damaged, or a pickle of another name); it was not opened"
            ) from error
        raise ValueError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error
    has_tokenizer = any(name.startswith(("tokenizer", "vocab", "spiece", "merges")) for name in names)
    return hf, AutoTokenizer.from_pretrained(folder, local_files_only=True) if has_tokenizer else None


def _is_safetensors(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            return True
    except SafetensorError:
        return False


def _read_hub(name: str, dtype: torch.dtype, spread: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name)
        _refuse_quantised(config.to_dict(), name)
        hf = read_checkpoint(name, dtype, use_safetensors=True, **spread)
    except OSError as error:
        raise OSError(
            f"{name!r} is neither a shipped model ({', '.join(SHIPPED)}), "
            f"nor a file or folder here, and the Hugging Face Hub did not give it: {first_line(error)} Without a "
            f"network, download it elsewhere (`hf download {name} --local-dir FOLDER`) and pass the folder; a model "
            f"with pickled weights only must be converted first (save_pretrained writes safetensors)"
        ) from error
    except ValueError as error:
        raise ValueError(f"the model {name} cannot be loaded: {first_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):
        tokenizer = None
    return hf, tokenizer


def _refuse_quantised(config: dict[str, Any], where: object) -> None:
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        raise ValueError(
            f"the model {where} is quantised ({method}). Load its unquantised original, a GGUF file (which is "
            f"expanded), or load it with transformers and pass the model object"
        )


def _refuse_conversion(weight: torch.Tensor, dtype: str | torch.dtype, device: str | torch.device | None) -> None:
    if dtype != "float32" and _as_dtype(dtype) != weight.dtype:
        raise ValueError(f"the model given is in {weight.dtype}, not {dtype}: convert it before (model.to(...))")
    if device is not None and torch.device(device).type != weight.device.type:
        raise ValueError(f"the model given is on {weight.device}, not {device}: move it before (model.to(...))")


def _as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = _DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    return found
