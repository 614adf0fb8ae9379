"""The floor: what the same pipeline finds in the same architecture with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.activations import ActivationStore, capture
from probekit.data import Dataset, as_dataset
from saes.loading import check_fits, site_of
from saes.rows import token_ids
from saes.training import train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probekit.models import Model


@dataclass(frozen=True)
class Floor:
    """An SAE of the model with random weights, and the activations it was trained on.

    `saes.health`, `saes.score`, `saes.name`, ... of these two say what a figure is worth without any learning.

    Attributes:
        sae: A `sae_lens.SAE` of the same recipe.
        activations: Of the same rows.
    """

    sae: Any
    activations: ActivationStore


def floor(
    sae: Any,
    activations: ActivationStore,
    model: Model,
    data: Dataset | Sequence[str] | Sequence[np.ndarray],
    *,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Floor:
    """Capture the same rows from the model with fresh random weights, and train an SAE on them by the same recipe.

    Features of such a model see which token stands where and little else, so that names they earn are no sign of
    learning (Karvonen et al. 2024 use the same floor for Othello).

    Args:
        sae: From `saes.train`, which keeps its recipe in the SAE's configuration.
        activations: The store it was trained on.
        model, data: What the store was captured from.
        out: Folder, for the `store` and the `sae`; what it holds already is not made again. Left out, nothing is kept but
            what is returned.
        seed: Of the random weights.
        progress: Whether to draw bars (on stderr).

    Raises:
        KeyError: the store lacks the SAE's site.
        ValueError: an SAE that does not know its recipe; a store of another model or other data.
        TypeError: arrays in place of a store.
    """
    recipe = (sae.cfg.metadata.get("probekit") or {}).get("recipe")
    if recipe is None:
        raise ValueError(
            "this SAE's configuration does not hold the recipe of its training (saes.train writes it): capture "
            f"model.randomized({seed}) and train an SAE on it as this one was trained"
        )
    if not isinstance(activations, ActivationStore):
        raise TypeError("the floor captures the same rows again, so it needs the activation store, not arrays")
    data = as_dataset(data)
    activations.check(model=model, data=data)
    site, manifest = site_of(sae), activations.manifest
    check_fits(sae, activations, site)
    folder = None if out is None else Path(out)
    store = capture(
        model.randomized(seed),
        data,
        site,
        out=None if folder is None else folder / "store",
        pool=manifest.pool,
        every=manifest.every,
        rows=_kept(activations, model, data),
        dtype=manifest.dtype,
        compute_dtype=manifest.compute_dtype or None,
        token_budget=manifest.token_budget,
        progress=progress,
    )
    settings = {name: value for name, value in recipe.items() if name != "options"} | recipe["options"]
    where = None if folder is None else folder / "sae"
    return Floor(train(store, site=site, out=where, progress=progress, **settings), store)


def _kept(activations: ActivationStore, model: Model, data: Dataset) -> np.ndarray | None:
    """The mask with which `capture` keeps the rows that a store holds; None where none was given."""
    if not activations.manifest.selection:
        return None
    if activations.manifest.pool != "all":
        kept, rows = np.zeros(len(data), bool), activations.sequence
    else:
        kept, rows = np.zeros(sum(map(len, token_ids(model, data))), bool), activations.item
    kept[rows] = True
    return kept
