"""`LinearMap`: from the activations of one model at one site to those of another model at one of its sites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from probekit.probes.direction import Direction, plain
from probekit.probes.stack import ProbeStack
from probekit.probes.tensor_file import read_tensors

_FORMAT = "probekit.linearmap"
_NAMES = ("kind", "site_a", "site_b", "model_a", "model_b")

Rows = TypeVar("Rows", np.ndarray, Tensor)


@dataclass(frozen=True, repr=False)
class LinearMap:
    """`y = matrix x + bias`: activations of model A in, activations of model B out.

    Attributes:
        matrix: `[d_b, d_a]` float32.
        bias: `[d_b]` float32, in units of B's activations.
        kind: `ridge`, `orthogonal`, `low_rank`, or `identity`.
        site_a, site_b: Names of the sites it leads from and to; None where unknown.
        model_a, model_b: Fingerprints of the two models; None where unknown.
        provenance: What it was fitted on and with (penalty, rank, scale, rows).
    """

    matrix: Tensor
    bias: Tensor
    kind: str
    site_a: str | None = None
    site_b: str | None = None
    model_a: str | None = None
    model_b: str | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        matrix, bias = (torch.as_tensor(v).detach().to("cpu", torch.float32) for v in (self.matrix, self.bias))
        if matrix.ndim != 2 or bias.shape != matrix.shape[:1] or 0 in matrix.shape:
            raise ValueError(
                f"a map has a matrix [d_b, d_a] and a bias [d_b], got {tuple(matrix.shape)} and {tuple(bias.shape)}"
            )
        if not (torch.isfinite(matrix).all() and torch.isfinite(bias).all()):
            raise ValueError("this map has NaN or infinite numbers")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "provenance", dict(self.provenance))

    @classmethod
    def identity(cls, width: int, site_a: str | None = None, site_b: str | None = None) -> LinearMap:
        """The map that leaves activations of `width` dimensions as they are."""
        return cls(torch.eye(width), torch.zeros(width), "identity", site_a, site_b)

    @property
    def widths(self) -> tuple[int, int]:
        """`d_a` and `d_b`."""
        return self.matrix.shape[1], self.matrix.shape[0]

    def __repr__(self) -> str:
        where = f"{self.site_a or 'a site not named'} to {self.site_b or 'a site not named'}"
        said = ", ".join(
            f"{name} {self.provenance[name]:.4g}"
            for name in ("alpha", "rank", "scale")
            if isinstance(self.provenance.get(name), int | float)
        )
        return f"<LinearMap {self.kind}, {where}: {self.widths[0]} to {self.widths[1]} dimensions{f', {said}' if said else ''}>"

    def apply(self, X: Rows) -> Rows:
        """Activations of A `[..., d_a]` as B would have them, `[..., d_b]`, on X's device; float64 stays float64.

        Raises:
            ValueError: X has another width.
        """
        rows = X if isinstance(X, Tensor) else torch.from_numpy(np.ascontiguousarray(X))
        if rows.shape[-1:] != self.matrix.shape[1:]:
            raise ValueError(f"X is {tuple(rows.shape)}; this map takes [..., {self.widths[0]}]")
        dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        matrix, bias = (part.to(rows.device, dtype) for part in (self.matrix, self.bias))
        out = rows.to(dtype) @ matrix.T + bias
        return cast(Rows, out if isinstance(X, Tensor) else out.numpy())

    def direction(self, direction: Direction) -> Direction:
        """Where a step along a direction of A leads in B: `matrix v`, made of length one.

        This carries *displacements*, such as steering vectors. What a probe reads is no displacement: to read B with a probe
        of A, map B's activations to A (a map fitted the other way round) and see `pull_back`. Scale, gap, center and mean are
        not known in B (`Direction.measured` finds out the scale); `provenance["mapped"]["length"]` is how long a step of one
        is in B.

        Source: Chen, Merullo, Stolfo & Pavlick 2025, "Transferring Linear Features Across Language Models With Model
        Stitching" (arXiv 2506.06609), who carry steering vectors and probes through affine maps between residual streams.

        Raises:
            ValueError: a direction of another site, model or width, or one that the map takes to nothing.
        """
        for what, theirs, ours in (("site", direction.site, self.site_a), ("model", direction.model, self.model_a)):
            if theirs is not None and ours is not None and theirs != ours:
                raise ValueError(f"the direction's {what} is {theirs}, but this map leads from {ours}")
        if len(direction) != self.widths[0]:
            raise ValueError(f"the direction has {len(direction)} dimensions, this map takes {self.widths[0]}")
        vector = self.matrix.double() @ direction.vector.double()
        length = float(vector.norm())
        if length <= 1e-7 * float(self.matrix.double().norm()):
            raise ValueError(
                "the map takes this direction to nothing: B has no such direction, as far as the map knows"
            )
        mapped = {"kind": self.kind, "from": self.site_a, "model": self.model_a, "length": length}
        provenance = {**direction.provenance, "mapped": mapped}
        return Direction(vector, self.site_b, model=self.model_b, provenance=provenance)

    def pull_back(self, probes: ProbeStack) -> ProbeStack:
        """Probes of B as probes of A that read through this map: `scores(x) = probes.scores(apply(x))`.

        Args:
            probes: A stack of one site, B's; a grid axis may lead.

        Returns:
            The same targets and classes at `site_a`. What was known of the data along the probes is not known here.

        Raises:
            ValueError: probes of several sites, of another site or of another width.
        """
        if "site" in probes.axes:
            raise ValueError("these probes are of several sites: take those of the map's, probes.at(map.site_b)")
        if probes.sites and self.site_b is not None and probes.sites[0] != self.site_b:
            raise ValueError(f"these probes read {probes.sites[0]}, but this map leads to {self.site_b}")
        if probes.coef.shape[-1] != self.widths[1]:
            raise ValueError(f"these probes read {probes.coef.shape[-1]} dimensions, this map gives {self.widths[1]}")
        coef = probes.coef.double()
        return replace(
            probes,
            coef=coef @ self.matrix.double(),
            intercept=probes.intercept.double() + coef @ self.bias.double(),
            sites=() if self.site_a is None else (self.site_a,),
            gap=None,
            deviation=None,
            mean=None,
        )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; everything but matrix and bias goes into its metadata."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"matrix": self.matrix.contiguous(), "bias": self.bias.contiguous()}
        save_file(tensors, str(path), metadata={"format": _FORMAT, "map": json.dumps(self.facts(), allow_nan=False)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> LinearMap:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a saved map (a pickle is never opened).
        """
        tensors, metadata = read_tensors(path, _FORMAT, "LinearMap")
        return cls(tensors["matrix"], tensors["bias"], **json.loads(metadata["map"]))

    def facts(self) -> dict[str, object]:
        """Everything but the numbers, as JSON has it."""
        facts: dict[str, object] = {name: getattr(self, name) for name in _NAMES}
        return facts | {"provenance": plain(dict(self.provenance))}
