"""`Direction`: one unit vector in the space of one site, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from probekit.probes.tensor_file import read_tensors

_FORMAT = "probekit.direction"


@dataclass(frozen=True)
class Direction:
    """A unit vector in a site's raw activation space.

    Attributes:
        vector: `[d]` float32, length 1. Whatever is given is normalised; a zero vector is refused.
        site: Name of the hook point whose activations it lives in, or None when unknown.
        scale: A natural step along the vector, in units of the activations: for a probe, how far apart the means of the
            two sides lie along it (for a continuous target, one standard deviation). 1.0 when nothing is known.
        provenance: What produced it (family, target, class, parameters); copied into whatever is made from it.
    """

    vector: Tensor
    site: str | None = None
    scale: float = 1.0
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vector = torch.as_tensor(self.vector).detach().to("cpu", torch.float64)
        if vector.ndim != 1:
            raise ValueError(f"a direction is one vector [d], got shape {tuple(vector.shape)}")
        length = float(vector.norm())
        if not np.isfinite(length) or length == 0:
            raise ValueError(
                f"a direction needs a finite vector that is not zero (its length is {length}); a probe whose weights are "
                "all zero read nothing: weaken its regularisation, or do not use it"
            )
        object.__setattr__(self, "vector", (vector / length).to(torch.float32))
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "provenance", dict(self.provenance))

    def __repr__(self) -> str:
        origin = ", ".join(f"{name} {value}" for name, value in self.provenance.items())
        return f"<Direction of {len(self)} dimensions at {self.site or 'a site not named'}, scale {self.scale:.4g}: {origin or 'no provenance'}>"

    def __len__(self) -> int:
        return len(self.vector)

    def __neg__(self) -> Direction:
        """The same line, the other way."""
        return Direction(-self.vector, self.site, self.scale, {**self.provenance, "negated": True})

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

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; everything but the vector goes into its metadata."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {
            "format": _FORMAT,
            "site": json.dumps(self.site),
            "scale": json.dumps(self.scale),
            "provenance": json.dumps(dict(self.provenance), default=str),
        }
        save_file({"vector": self.vector.contiguous()}, str(path), metadata=metadata)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """Read a file that `save` wrote.

        Raises:
            ValueError: the file is not a saved direction (a pickle is never opened).
        """
        tensors, metadata = read_tensors(path, _FORMAT, "Direction")
        facts = {key: json.loads(metadata[key]) for key in ("site", "scale", "provenance")}
        return cls(tensors["vector"], facts["site"], facts["scale"], facts["provenance"])
