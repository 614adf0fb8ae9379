"""SAEs read from SAELens folders and releases, and what they must fit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from probekit.data import as_dataset
from probekit.models import SHIPPED

if TYPE_CHECKING:
    from probekit.activations import Activations

WEIGHTS = "sae_weights.safetensors"
CFG = "cfg.json"
_ROWS = 16_384
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")


def load(source: str | Path) -> Any:
    """Read an SAE that SAELens or `saes.train` saved.

    Args:
        source: A folder with `cfg.json` and `sae_weights.safetensors`; `othello-mini/blocks.3.hook_resid_post` and the like,
            which are shipped with the model of that name; or `RELEASE/SAE_ID` of SAELens's list of releases, which is then
            downloaded.

    Returns:
        A `sae_lens.SAE` for inference.

    Raises:
        FileNotFoundError: no such folder, or no SAE in it (says which file is missing).
        ValueError: weights in a pickle, damaged weights, or files that are no SAE.
    """
    from sae_lens import SAE

    folder = Path(source).expanduser()
    if not folder.exists():
        release, _, name = str(source).partition("/")
        if release in SHIPPED:
            return _shipped(release, name)
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

        if release in get_pretrained_saes_directory():
            return SAE.from_pretrained(release, name)
        raise FileNotFoundError(
            f"no SAE at {source}: neither a folder nor RELEASE/SAE_ID of a release that SAELens lists"
        )
    missing = [name for name in (CFG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLES)
        if pickles:
            raise ValueError(
                f"{folder} holds {', '.join(pickles[:3])}, which may run code when it is opened, and no {' and no '.join(missing)}: load "
                "it with the library that wrote it, and save it with SAELens's save_model"
            )
        hint = "; its training is not finished: call saes.train again" if (folder / "training.json").exists() else ""
        raise FileNotFoundError(f"no SAE in {folder}: {' and '.join(missing)} missing{hint}")
    try:
        return SAE.load_from_disk(folder)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged ({error})") from error
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} holds no SAE that SAELens can read ({error})") from error


def _shipped(model: str, site: str) -> Any:
    folders = {folder.name: folder for folder in sorted((SHIPPED[model] / "saes").glob("*")) if folder.is_dir()}
    if site not in folders:
        raise FileNotFoundError(f"no SAE at {model}/{site}; shipped with {model}: {', '.join(folders)}")
    return load(folders[site])


def site_of(sae: Any, site: str | None = None) -> str:
    """The site an SAE reads: the one named, or the one its configuration names.

    Raises:
        ValueError: neither names one.
    """
    found = site or sae.cfg.metadata.get("hook_name")
    if not found:
        raise ValueError("the SAE's configuration names no site (metadata.hook_name): say which with site=")
    return str(found)


def check_fits(sae: Any, activations: Activations, site: str) -> None:
    """Refuse activations an SAE was not made for.

    Raises:
        KeyError: the activations lack the site.
        ValueError: other width, another model, or another site though the activations have the SAE's own.
    """
    width = activations.width(site)
    if width != sae.cfg.d_in:
        raise ValueError(f"the SAE reads {sae.cfg.d_in} dimensions, but activations at {site} have {width}")
    own = sae.cfg.metadata.get("hook_name")
    if own in activations.sites and _where(own) != _where(site):
        raise ValueError(
            f"the SAE reads {own}, but {site} was asked for: leave site= out (to try it at another site on purpose, set "
            "sae.cfg.metadata.hook_name)"
        )
    manifest = getattr(activations, "manifest", None)
    trained_on = (sae.cfg.metadata.get("probekit") or {}).get("model_fingerprint")
    if manifest is not None and trained_on and manifest.model_fingerprint != trained_on:
        raise ValueError(
            f"the SAE was trained on {sae.cfg.metadata.get('model_name')} ({trained_on}), but the activations are of "
            f"{manifest.model} ({manifest.model_fingerprint})"
        )


def _where(site: str) -> str:
    """The stream before a block is the stream after the one before."""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", site)
    return f"blocks.{int(found[1]) - 1}.hook_resid_post" if found and int(found[1]) else site


def check_features(sae: Any, features: Any) -> None:
    """Refuse encoded features of another SAE: their numbers would stand for other decoder vectors.

    Raises:
        ValueError: says both fingerprints.
    """
    theirs = getattr(getattr(features, "manifest", None), "sae", None)
    if theirs is not None and theirs != (ours := fingerprint(sae)):
        raise ValueError(f"the features are of the SAE with fingerprint {theirs}, not of this one ({ours})")


def check_read(activations: Any, model: Any, data: Any) -> None:
    """Refuse a model or data that activations, or encoded features, are not of: what is read of the model would be of other texts.

    Raises:
        ValueError: says which of the two differs, and both fingerprints. Of arrays nothing is known.
    """
    manifest = getattr(activations, "manifest", None)
    source = getattr(manifest, "source", None)
    known = source if source is not None else {} if manifest is None else vars(manifest)
    for what, given, theirs in (
        ("model", model, known.get("model_fingerprint")),
        ("data", None if data is None else as_dataset(data), known.get("data_fingerprint")),
    ):
        if given is None or not theirs:
            continue
        ours = given.fingerprint if what == "model" else given.fingerprint()
        if ours != theirs:
            called = f"{what} {known[what]!r}" if known.get(what) else f"a {what}".replace("a data", "data")
            raise ValueError(
                f"the activations are of {called} (fingerprint {theirs}), not of {given.name!r} (fingerprint {ours}): give the {what} that "
                "was captured"
            )


def fingerprint(sae: Any) -> str:
    """SHA-256 (first 16 hex digits) of an SAE's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_rows(activations: Activations, site: str) -> str:
    """SHA-256 (first 16 hex digits) of a site's rows and where they come from: identifies activations without a manifest.

    Prefixes do not enter it: where they were left out, those of the same arrays differ from one time to the next.
    """
    digest = hashlib.sha256()
    for name in ("sequence", "position", "token", "item"):
        digest.update(np.ascontiguousarray(getattr(activations, name)).tobytes())
    for start in range(0, len(activations), _ROWS):
        rows = slice(start, min(start + _ROWS, len(activations)))
        digest.update(np.ascontiguousarray(activations.read(site, rows)).tobytes())
    return digest.hexdigest()[:16]
