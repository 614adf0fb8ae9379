"""`Direction`: one unit vector in the space of one site, what is known of the data along it, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from probekit.probes.tensor_file import read_tensors

if TYPE_CHECKING:
    from probekit.activations import Activations

_FORMAT = "probekit.direction"
_FACTS = ("scale", "gap", "center", "mean")
_OFF = 5e-3  # a unit vector's length is one but for rounding, of bfloat16 too
_LEFT = 1e-4  # of a vector's length: less than this beside the others is rounding of float32, not a direction


def unit_vector(vector: Tensor) -> Tensor:
    """A vector divided by its length, float64, for a direction whose facts are along the unit vector; zero stays zero, and is refused there."""
    exact = vector.detach().cpu().to(torch.float64)
    length = float(exact.norm())
    return exact / length if length > 0 else exact


@dataclass(frozen=True)
class Direction:
    """A unit vector in a site's raw activation space.

    Attributes:
        vector: `[d]` float32, length 1. A longer or shorter one is normalised when nothing else is known; it is refused beside
            `scale`, `gap`, `center` or `mean`, which would be taken for coordinates along the unit vector. Zero is refused.
        site: Name of the hook point whose activations it lives in, or None when unknown.
        scale: Standard deviation of the data along the vector, in units of the activations; None when unknown. Strengths of
            edits are counted in it.
        gap: How far apart the two class means lie along the vector; None where there are no classes.
        center: Coordinate along the vector at which the probe changes its mind (its score is zero); for a difference of
            means, halfway between the means. None where nothing changes its mind.
        mean: Coordinate of the mean of the data.
        model: Fingerprint of the model whose space it is.
        provenance: What produced it (family, target, class, parameters); copied into whatever is made from it.
    """

    vector: Tensor
    site: str | None = None
    scale: float | None = None
    gap: float | None = None
    center: float | None = None
    mean: float | None = None
    model: str | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = torch.as_tensor(self.vector).detach().cpu()
        vector = given.to(torch.float64)
        if vector.ndim != 1:
            raise ValueError(f"a direction is one vector [d], got shape {tuple(vector.shape)}")
        length = float(vector.norm())
        if not np.isfinite(length) or length == 0:
            why = (
                "a probe whose weights are all zero read nothing: weaken its regularisation, or do not use it"
                if length == 0
                else "it holds NaN or infinity, which come from activations or a fit that overflowed"
            )
            raise ValueError(f"a direction needs a finite vector that is not zero (its length is {length}); {why}")
        # What is of length one already stays as it is, bit for bit, however often it is saved and read.
        unit = given.dtype == torch.float32 and abs(length - 1) < 2**-22
        object.__setattr__(self, "vector", given.clone() if unit else (vector / length).to(torch.float32))
        for name in _FACTS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _finite(name, value))
        if self.scale is not None and self.scale <= 0:
            raise ValueError(
                f"scale is the standard deviation of the data along the vector and must be above zero, got {self.scale}; "
                "leave it out where it is not known"
            )
        known = [name for name in _FACTS if getattr(self, name) is not None]
        if known and abs(length - 1) > _OFF:
            raise ValueError(
                f"the vector has length {length:.4g}, and {', '.join(known)} would be taken for coordinates along the unit vector: "
                "give the vector divided by its length and the facts as they are along that, or the vector alone and "
                "`.measured(activations)`"
            )
        object.__setattr__(self, "provenance", dict(self.provenance))

    def __repr__(self) -> str:
        known = ", ".join(f"{name} {getattr(self, name):.4g}" for name in _FACTS if getattr(self, name) is not None)
        origin = ", ".join(f"{name} {value}" for name, value in self.provenance.items())
        where = f"{len(self)} dimensions at {self.site or 'a site not named'}, {known or 'scale not known'}"
        return f"<Direction of {where}: {origin or 'no provenance'}>"

    def __len__(self) -> int:
        return len(self.vector)

    def __neg__(self) -> Direction:
        """The same line, the other way: coordinates change their sign, scale and gap do not."""
        return replace(
            self,
            vector=-self.vector,
            center=None if self.center is None else -self.center,
            mean=None if self.mean is None else -self.mean,
            provenance={**self.provenance, "negated": not self.provenance.get("negated", False)},
        )

    def project(self, X: np.ndarray | Tensor) -> np.ndarray:
        """Coordinate of each activation along the vector: `[..., d]` -> `[...]` float32."""
        rows = torch.as_tensor(X).to("cpu", torch.float32)
        if rows.shape[-1] != len(self):
            raise ValueError(f"activations are {rows.shape[-1]} wide, the direction {len(self)}")
        return cast(np.ndarray, (rows @ self.vector).numpy())

    def cosine(self, other: Direction) -> float:
        """Cosine similarity with another direction of the same space."""
        if len(other) != len(self):
            raise ValueError(f"directions of different spaces: widths {len(self)} and {len(other)}")
        return float(self.vector @ other.vector)

    def measured(self, activations: Activations, rows: np.ndarray | None = None) -> Direction:
        """The same direction with `scale` and `mean` of captured activations.

        Args:
            activations: A store, or `ArrayActivations`, that has the direction's site; read a batch at a time.
            rows: `[row]` bool mask of the rows to measure on; all if left out.

        Raises:
            KeyError: the activations lack the direction's site.
            ValueError: a direction that names no site, activations of another model or width, no rows, or activations that
                do not vary along the vector.
        """
        if self.site is None:
            raise ValueError(
                "this direction names no site to measure at: give Direction(vector, site='blocks.3.hook_resid_post')"
            )
        known = model_of(activations)
        if self.model is not None and known is not None and self.model != known:
            raise ValueError(
                f"the direction was found in the model {self.model}, but these activations are of {known}: measure it on "
                "activations of its own model"
            )
        if activations.width(self.site) != len(self):
            raise ValueError(
                f"activations at {self.site} are {activations.width(self.site)} wide, the direction {len(self)}"
            )
        n, mean, deviation = spread_along(self.vector.double().numpy(), activations, self.site, rows)
        if not deviation > 0:
            raise ValueError(f"the {n:,} activations at {self.site} do not vary along this direction: it has no scale")
        return replace(self, scale=deviation, mean=mean, model=self.model or known)

    def without(self, *others: Direction) -> Direction:
        """What is left of the direction beside others: it is made orthogonal to all of them (Gram-Schmidt).

        A step along the result leaves the coordinates along the others as they are. Scale, gap, center and mean are not
        known afterwards; `measured` finds out the scale.

        Source: Haas et al. 2023, "Discovering Interpretable Directions in the Semantic Latent Space of Diffusion Models"
        (arXiv 2303.11073), who disentangle directions by such projections.

        Raises:
            ValueError: nothing is left, or directions of another width, site or model.
        """
        for other in others:
            if len(other) != len(self):
                raise ValueError(f"directions of different spaces: widths {len(self)} and {len(other)}")
            for what, ours, theirs in (("site", self.site, other.site), ("model", self.model, other.model)):
                if ours is not None and theirs is not None and ours != theirs:
                    raise ValueError(
                        f"directions of different spaces: this one's {what} is {ours}, the other's {theirs}"
                    )
        if not others:
            return self
        vector = self.vector.double()
        # Singular vectors rather than Gram-Schmidt one by one: others that say the same thing twice do no harm.
        _, sizes, basis = torch.linalg.svd(torch.stack([o.vector.double() for o in others]), full_matrices=False)
        basis = basis[sizes > _LEFT * sizes[0]]
        for _ in range(2):  # once more against rounding
            vector = vector - (basis @ vector) @ basis
        left = float(vector.norm())
        if left < _LEFT:
            raise ValueError(
                f"nothing is left of this direction beside the {len(others)} others: it lies in their span"
            )
        said = [{**other.provenance, "site": other.site} for other in others]
        provenance = {**self.provenance, "without": said, "length_left": left}
        return Direction(vector, self.site, model=self.model, provenance=provenance)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; everything but the vector goes into its metadata."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"format": _FORMAT, "provenance": json.dumps(plain(dict(self.provenance)), allow_nan=False)}
        metadata |= {name: json.dumps(getattr(self, name), allow_nan=False) for name in ("site", *_FACTS, "model")}
        save_file({"vector": self.vector.contiguous()}, str(path), metadata=metadata)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """Read a file that `save` wrote.

        Raises:
            ValueError: the file is not a saved direction (a pickle is never opened).
        """
        tensors, metadata = read_tensors(path, _FORMAT, "Direction")
        names = ("site", *_FACTS, "model", "provenance")
        facts: dict[str, Any] = {name: json.loads(metadata[name]) for name in names if name in metadata}
        if "gap" not in facts:  # before there was a gap, `scale` held it; for continuous targets it held a deviation
            provenance = facts.get("provenance", {})
            old = facts.pop("scale", None)
            if "class" in provenance:
                facts["gap"] = old
            elif "family" in provenance:
                facts["scale"] = old or None
        return cls(tensors["vector"], **facts)


def model_of(activations: object) -> str | None:
    """Fingerprint of the model that activations were captured from; None where they do not know."""
    found: str | None = getattr(getattr(activations, "manifest", None), "model_fingerprint", None)
    return found


def spread_along(
    vector: np.ndarray, activations: Activations, site: str, rows: np.ndarray | None = None
) -> tuple[int, float, float]:
    """Number of rows, and mean and standard deviation (divided by n) of their coordinates along a vector.

    Args:
        vector: `[d]` float64.
        rows: `[row]` bool mask; None for all.

    Raises:
        ValueError: a mask that does not fit or picks no row; NaN or infinite activations.
    """
    kept = row_mask(activations, rows)
    n, mean, squares = 0, 0.0, 0.0
    for part, values in activations.batches(site):
        some = kept[part]
        if not some.any():
            continue
        along = values[some].astype(np.float64) @ vector
        if not np.isfinite(along).all():
            first = part.start + int(np.flatnonzero(some)[np.argmin(np.isfinite(along))])
            raise ValueError(f"activations at {site} are NaN or infinite in row {first}")
        new, centre = len(along), float(along.mean())
        # Two batches' sums of squares about their own means, put together (Chan, Golub & LeVeque 1983).
        squares += float(np.square(along - centre).sum()) + (centre - mean) ** 2 * n * new / (n + new)
        mean += (centre - mean) * new / (n + new)
        n += new
    return n, mean, float(np.sqrt(squares / n))


def row_mask(activations: Activations, rows: np.ndarray | None) -> np.ndarray:
    """`rows` as a `[row]` bool mask that picks something; all rows for None.

    Raises:
        ValueError: no mask of that many booleans, or one that picks none.
    """
    kept = np.ones(len(activations), dtype=bool) if rows is None else np.asarray(rows)
    if kept.dtype != bool or kept.shape != (len(activations),):
        raise ValueError(f"rows must be a mask of {len(activations)} booleans, got {kept.dtype} {kept.shape}")
    if not kept.any():
        raise ValueError(f"rows picks none of the {len(activations):,} rows")
    return kept


def plain(value: Any) -> Any:
    """`value` as JSON has it: numbers that are not finite, and whatever JSON does not know, as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and np.isfinite(value) else str(value)


def _finite(name: str, value: object) -> float:
    try:
        number = float(cast(float, value))
    except (TypeError, ValueError):
        raise TypeError(f"{name} of a direction is a number, not {value!r}") from None
    if not np.isfinite(number):
        raise ValueError(f"{name} of a direction must be a finite number, got {number}; leave it out where not known")
    return number
