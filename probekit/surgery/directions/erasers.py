"""`Eraser`, an affine map after which a concept cannot be read, and `leace`, which makes the smallest such map."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from probekit.activations import Activations
from probekit.probes.direction import model_of, plain, row_mask
from probekit.probes.tensor_file import read_tensors
from probekit.surgery.directions.labelled import Labelled, Labels, data_of
from probekit.surgery.edits.affine import AffineMap

_FORMAT = "probekit.eraser"
# Singular values of the whitened cross-covariance below this are rounding. concept-erasure leaves what is below 0.01, which a
# probe on enough rows still reads.
_ROUNDING = 1e-7


@dataclass(frozen=True)
class Eraser:
    """Erases a concept from the activations of one site.

    Attributes:
        map: What it does to an activation.
        site: Where.
        model: Fingerprint of the model that the activations were of; None when unknown.
        provenance: Method, labels, rows and data, and what the method found.
    """

    map: AffineMap
    site: str
    model: str | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        said = self.provenance
        what = f"{said.get('method', 'eraser')} of {said.get('label_set', 'a concept')}"
        return f"<Eraser at {self.site}, rank {self.map.rank} of {self.map.width} dimensions: {what}>"

    def __call__(self, h: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Erase from activations `[..., d]`; a tensor gives a tensor and an array an array, of the same dtype."""
        if h.shape[-1] != self.map.width:
            raise ValueError(f"activations are {h.shape[-1]} wide, the eraser of {self.site} {self.map.width}")
        if isinstance(h, Tensor):
            return self.map(h)
        return cast(np.ndarray, self.map(torch.from_numpy(np.ascontiguousarray(h))).numpy())

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: `left`, `right` `[d, k]` and `bias` `[d]`, float64, the rest as metadata."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"site": self.site, "model": self.model, "provenance": plain(dict(self.provenance))}
        metadata = {"format": _FORMAT, **{k: json.dumps(v, allow_nan=False) for k, v in facts.items()}}
        tensors = {name: getattr(self.map, name).contiguous() for name in ("left", "right", "bias")}
        save_file(tensors, str(path), metadata=metadata)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Eraser:
        """Read a file that `save` wrote.

        Raises:
            ValueError: the file is not a saved eraser (a pickle is never opened).
        """
        tensors, metadata = read_tensors(path, _FORMAT, "Eraser")
        facts = {name: json.loads(metadata[name]) for name in ("site", "model", "provenance")}
        return cls(AffineMap(tensors["left"], tensors["right"], tensors["bias"]), **facts)


def leace(
    activations: Activations,
    labels: Labels,
    *,
    sites: Sequence[str] | str | None = None,
    target: int | str | None = None,
    rows: np.ndarray | None = None,
    shrinkage: bool = True,
) -> dict[str, Eraser]:
    """Least-squares concept erasure: the smallest edit after which no linear probe does better than guessing.

    On the rows it was fitted on that is exact: afterwards the class means are equal (a continuous label has no covariance
    with any dimension), and the best linear probe under any convex loss is a constant. On other rows it holds as far as their
    means and covariances are those of the fitted ones. It says nothing of probes that are not linear.

    Source: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form" (arXiv 2306.03819), sections 3
    and 4; fitted by their library `concept-erasure`, streamed in float64. Its trace constraint is left out: the exact map never
    adds variance. Shrinking the covariance leaves it as exact, since the edit only has to take out the whole of the
    cross-covariance, whatever it is whitened with; with fewer rows than a few a dimension the edit comes out smaller on rows
    that it was not fitted on.

    Args:
        activations: A store, or `ArrayActivations`.
        labels: A label set of the data, or a value for each row. Rows without a label are left out.
        sites: Where; all sites of the activations if left out.
        target: Name or index of one target; all targets at once if left out.
        rows: `[row]` bool mask, such as training rows; all if left out.
        shrinkage: Whether to shrink the covariance towards a multiple of the identity (Bodnar et al. 2014, arXiv 1308.2608).

    Returns:
        An eraser a site. Its rank is at most the number of classes less one a target, or one a continuous target.

    Raises:
        KeyError: no such site or target.
        ValueError: a target that shows one class (or value) only, NaN or infinite activations.
    """
    kept = row_mask(activations, rows)
    labelled = Labelled.of(activations, labels)
    labelled = labelled if target is None else labelled.target(target)
    known = labelled.defined()
    left_out = int((kept & ~known).sum())
    kept &= known
    refuse_constant(labelled, kept)
    concept = columns_of(labelled, kept)
    names = list(dict.fromkeys([sites] if isinstance(sites, str) else sites or activations.sites))
    warn_if_few(int(kept.sum()), max(activations.width(site) for site in names))

    def batches(site: str) -> Iterator[Batch]:
        for part, values in activations.batches(site):
            some = np.flatnonzero(kept[part])
            yield part.start + some, torch.from_numpy(values[some]), torch.from_numpy(concept[part][some])

    said = {"left_out": left_out, "data": data_of(activations)}
    return {
        site: fitted(site, batches(site), labelled, model_of(activations), shrinkage=shrinkage, **said)
        for site in names
    }


Batch: TypeAlias = tuple[np.ndarray, Tensor, Tensor]
"""Numbers of some rows `[row]`, their activations `[row, d]`, and of what is to be erased from them, `[row, column]` float64."""


def fitted(
    site: str, batches: Iterable[Batch], labelled: Labelled, model: str | None, *, shrinkage: bool, **said: object
) -> Eraser:
    """The LEACE eraser of one site, from batches of rows in float64, on the device that the activations are on.

    Args:
        labelled: Names what is erased.
        model: Fingerprint of the model.
        said: More for the provenance, or other words in it.

    Raises:
        ValueError: NaN or infinite activations.
    """
    from concept_erasure import LeaceFitter

    fitter = None
    for rows, values, columns in batches:
        if not len(rows):
            continue
        device = torch.device("cpu") if values.device.type == "mps" else values.device  # which has no float64
        batch = values.to(device, torch.float64)
        if fitter is None:
            fitter = LeaceFitter(
                batch.shape[1],
                columns.shape[1],
                dtype=torch.float64,
                device=device,
                shrinkage=shrinkage,
                constrain_cov_trace=False,
                svd_tol=_ROUNDING,
            )
        if not bool(torch.isfinite(batch.sum())):
            row = rows[int(torch.isfinite(batch).all(1).int().argmin())]
            raise ValueError(f"activations at {site} are NaN or infinite in row {row}")
        fitter.update(batch, columns.to(device))
    assert fitter is not None
    found, mean, n = fitter.eraser, fitter.mean_x, int(fitter.n)
    used = found.proj_left.abs().sum(0) > 0
    left, right = found.proj_left[:, used], found.proj_right[used]
    change = AffineMap(-left, right.T, left @ (right @ mean))
    covariance = fitter.sigma_xx_ / (n - 1)
    moved = torch.trace(left @ (right @ covariance @ right.T) @ left.T) / torch.trace(covariance)
    provenance: dict[str, object] = {
        "method": "LEACE",
        "label_set": labelled.name,
        "targets": list(labelled.targets),
        "classes": list(labelled.classes),
        "rows": n,
        "rank": change.rank,
        "moved": float(moved),  # mean squared length of the edit, of the activations' variance
        "shrinkage": shrinkage,
    }
    return Eraser(change, site, model, provenance | said)


def warn_if_few(rows: int, width: int) -> None:
    """Warn the caller of who calls this where an eraser is fitted on fewer than two rows a dimension."""
    if rows < 2 * width:
        others = "hardly from others" if rows <= width else "in part only from others"
        warnings.warn(
            f"LEACE is fitted on {rows:,} rows of {width:,} dimensions: it erases from those rows, but {others}; take several "
            "rows a dimension, and look at what a probe reads of rows that it was not fitted on",
            stacklevel=3,
        )


def refuse_constant(labelled: Labelled, kept: np.ndarray) -> None:
    """Refuse labels that show one value only in the rows `[row]` bool that are kept."""
    if not kept.any():
        raise ValueError(f"no row has a label of every target of {labelled.name!r}: name one target")
    for name, column in zip(labelled.targets, labelled.values[kept].T, strict=True):
        if (column == column[0]).all():
            what = "value" if labelled.kind == "continuous" else f"class, {labelled.classes[int(column[0])]!r}"
            raise ValueError(f"target {name!r} shows one {what} only in these rows: there is nothing to erase")


def columns_of(labelled: Labelled, kept: np.ndarray) -> np.ndarray:
    """`[row, column]` float64 of what is to be erased: indicators of classes (one of two), or values in standard deviations."""
    values = labelled.values
    if labelled.kind == "continuous":  # in deviations, so that what counts as rounding does not depend on their unit
        columns: np.ndarray = (values - values[kept].mean(0)) / values[kept].std(0)
    else:
        wanted = np.arange(len(labelled.classes))[1 if len(labelled.classes) == 2 else 0 :]
        columns = (values[:, :, None] == wanted).reshape(len(values), -1).astype(np.float64)
    return columns
