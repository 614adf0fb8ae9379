"""`ProbeStack`: the fitted probes of many targets, and of many sites and grid values, as one tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probekit.data.dataset import Kind
from probekit.probes.arrays import as_rows
from probekit.probes.base import LinearProbe, log_proba
from probekit.probes.direction import Direction
from probekit.probes.solution import PER_PROBE
from probekit.probes.tensor_file import read_tensors

_FORMAT = "probekit.probestack"


@dataclass(frozen=True)
class ProbeStack:
    """Linear probes on raw activations, with axes `[grid?, site?, target, output, d]`.

    `grid` and `site` are there or not, as `axes` says: `fit_grid` gives `("grid", "site")` or `("grid",)`, `select`
    takes the grid away, `at` the site. There is one output for binary and continuous targets, one a class otherwise.

    Attributes:
        coef: `[..., target, output, d]` float32.
        intercept: `[..., target, output]` float32; -inf for a class that training never saw.
        kind: `binary`, `multiclass` or `continuous`.
        classes: Class names in index order; empty for continuous targets.
        targets: Target names.
        axes: Which of `grid`, `site` lead, in this order.
        sites: Site names (one without a `site` axis, if known).
        grid: Values of the family's parameter along the `grid` axis.
        family: `ridge`, `logistic`, `lda`, `difference_in_means`.
        parameters: Parameters of the estimator that was fitted.
        chosen: `[..., target]` value of the grid that `select` took; None before.
        scale: `[..., target]`: scores times scale are logits.
        gap, deviation, mean: `[..., target, output]`: what a `Direction` knows of the data along it (`scale` there is the
            deviation); NaN where not known, as in files from before they were kept.
        converged, n_iter: `[..., target]` of the solver.
    """

    coef: Tensor
    intercept: Tensor
    classes: tuple[str, ...]
    kind: Kind
    targets: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    grid: tuple[float, ...] = ()
    family: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    chosen: Tensor | None = None
    scale: Tensor | None = None
    gap: Tensor | None = None
    deviation: Tensor | None = None
    mean: Tensor | None = None
    converged: Tensor | None = None
    n_iter: Tensor | None = None

    def __post_init__(self) -> None:
        if self.coef.ndim != 3 + len(self.axes) or self.intercept.shape != self.coef.shape[:-1]:
            raise ValueError(
                f"coef must be [{', '.join([*self.axes, 'target', 'output', 'd'])}] and intercept the same without d; "
                f"got {tuple(self.coef.shape)} and {tuple(self.intercept.shape)}"
            )
        outputs = len(self.classes) if self.kind == "multiclass" else 1
        if self.coef.shape[-2] != outputs:
            raise ValueError(
                f"{self.kind} probes of classes {self.classes} have {outputs} outputs, got {self.coef.shape[-2]}"
            )
        lead = self.coef.shape[:-2]
        names = self.targets or tuple(str(i) for i in range(lead[-1]))
        if len(names) != lead[-1]:
            raise ValueError(f"{lead[-1]} targets but {len(names)} target names")
        object.__setattr__(self, "coef", self.coef.to("cpu", torch.float32))
        object.__setattr__(self, "intercept", self.intercept.to("cpu", torch.float32))
        object.__setattr__(self, "targets", tuple(names))
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))
        defaults = {
            "scale": torch.ones(lead),
            **dict.fromkeys(("gap", "deviation", "mean"), torch.full(self.intercept.shape, torch.nan)),
            "converged": torch.ones(lead, dtype=torch.bool),
            "n_iter": torch.zeros(lead, dtype=torch.int64),
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            object.__setattr__(self, name, default if value is None else value.to("cpu", default.dtype))

    def __repr__(self) -> str:
        axes = zip((*self.axes, "target", "output", "d"), self.coef.shape, strict=True)
        shape = ", ".join(f"{name} {size}" for name, size in axes)
        return f"<ProbeStack of {self.family or 'linear'} probes, {self.kind}: [{shape}]{_at(self.sites)}>"

    # Reading activations

    def scores(self, X: np.ndarray | Tensor) -> Tensor:
        """Linear scores `[grid?, site?, n, target, output]` of activations `[n, d]`, or `[site, n, d]` with a site axis."""
        rows = self._rows(X)
        *lead, targets, outputs, width = self.coef.shape
        flat = self.coef.reshape(-1, len(rows), targets * outputs, width)  # [grid, site, ...]; both may be 1
        intercept = self.intercept.reshape(-1, len(rows), 1, targets * outputs)
        # One matrix product a site for all of the grid, so that the activations are read once.
        scores = torch.stack(
            [
                (x @ flat[:, s].reshape(-1, width).T).view(len(x), len(flat), -1).transpose(0, 1)
                for s, x in enumerate(rows)
            ],
            1,
        )
        return scores.add_(intercept).view(*lead, -1, targets, outputs)

    def log_proba(self, X: np.ndarray | Tensor) -> Tensor:
        """Log-probabilities `[grid?, site?, n, target, class]`."""
        if self.kind == "continuous":
            raise ValueError("continuous targets have no probabilities; use predict or scores")
        assert self.scale is not None
        return log_proba(self.scores(X) * self.scale[..., None, :, None])

    def predict(self, X: np.ndarray | Tensor) -> Tensor:
        """Class indices (int64), or values of continuous targets (float32): `[grid?, site?, n, target]`."""
        scores = self.scores(X)
        if self.kind == "multiclass":
            return scores.argmax(-1)
        return scores[..., 0] if self.kind == "continuous" else (scores[..., 0] > 0).long()

    def loss(self, X: np.ndarray | Tensor, Y: np.ndarray | Tensor, chunk: int = 4096) -> Tensor:
        """Mean log-loss (classes) or mean squared error (continuous) `[grid?, site?, target]`, float64.

        Args:
            X: as `scores` takes.
            Y: `[n, target]` class indices, -1 where left out; or values, NaN where left out.
            chunk: Rows scored at a time, which bounds the memory.
        """
        rows = self._rows(X)
        labels = torch.as_tensor(np.asarray(Y)) if not isinstance(Y, Tensor) else Y.cpu()
        labels = labels[:, None] if labels.ndim == 1 else labels
        if labels.shape != (rows[0].shape[0], len(self.targets)):
            raise ValueError(
                f"Y must be [{rows[0].shape[0]} rows, {len(self.targets)} targets], got {tuple(labels.shape)}"
            )
        total = torch.zeros(self.coef.shape[:-2], dtype=torch.float64)
        counted = ~labels.isnan() if self.kind == "continuous" else labels >= 0
        for start in range(0, len(labels), chunk):
            part, known = labels[start : start + chunk], counted[start : start + chunk]
            x = (
                torch.stack([r[start : start + chunk] for r in rows])
                if "site" in self.axes
                else rows[0][start : start + chunk]
            )
            if self.kind == "continuous":
                error = (self.scores(x)[..., 0] - torch.where(known, part, 0)).square()
            else:
                error = -self.log_proba(x)
                index = part.clamp(min=0).long()[..., None].expand(*error.shape[:-1], 1)
                error = error.gather(-1, index)[..., 0]
            total += (error * known).sum(-2, dtype=torch.float64)
        return total / counted.sum(0)

    def _rows(self, X: np.ndarray | Tensor) -> list[Tensor]:
        ndim = len(X.shape)
        if "site" not in self.axes:
            return [as_rows(X, width=self.coef.shape[-1]).to("cpu", torch.float32)]
        if ndim != 3 or len(X) != len(self.sites):
            raise ValueError(
                f"these probes are of {len(self.sites)} sites: X must be [site, n, d], got {tuple(X.shape)}; "
                "for one site, take stack.at(site) first"
            )
        return [as_rows(x, width=self.coef.shape[-1]).to("cpu", torch.float32) for x in X]

    # Taking parts

    def select(self, index: int | np.ndarray | Tensor) -> ProbeStack:
        """Take one grid value for each probe: `index` is an int or `[site?, target]`; the result has no grid axis."""
        if "grid" not in self.axes:
            raise ValueError("this stack has no grid axis to select from")
        picked = torch.as_tensor(np.asarray(index)).long().expand(self.coef.shape[1:-2])
        if int(picked.min()) < 0 or int(picked.max()) >= len(self.grid):
            raise IndexError(f"grid index out of range 0..{len(self.grid) - 1}")
        taken = {}
        for name in PER_PROBE:
            tensor: Tensor = getattr(self, name)
            where = picked.view(1, *picked.shape, *[1] * (tensor.ndim - 1 - picked.ndim)).expand(1, *tensor.shape[1:])
            taken[name] = tensor.gather(0, where)[0]
        chosen = torch.tensor(self.grid, dtype=torch.float64)[picked]
        return replace(self, **taken, axes=self.axes[1:], chosen=chosen)

    def at(self, site: int | str) -> ProbeStack:
        """The probes of one site; the result has no site axis."""
        if "site" not in self.axes:
            raise ValueError("this stack is of one site only")
        if isinstance(site, str) and site not in self.sites:
            raise KeyError(f"no site {site!r}; the sites are {', '.join(self.sites)}")
        i = self.sites.index(site) if isinstance(site, str) else site
        axis = self.axes.index("site")
        taken = {name: getattr(self, name).select(axis, i) for name in PER_PROBE}
        chosen = None if self.chosen is None else self.chosen.select(axis, i)
        return replace(
            self, **taken, axes=tuple(a for a in self.axes if a != "site"), sites=(self.sites[i],), chosen=chosen
        )

    def probe(
        self,
        target: int | str = 0,
        *,
        like: LinearProbe | None = None,
        classes: Sequence[object] | np.ndarray | None = None,
    ) -> LinearProbe:
        """One target's probe as a fitted estimator.

        Args:
            target: Name or index.
            like: Estimator whose class and parameters it gets; default: the stack's family and parameters.
            classes: Labels for `classes_` instead of the class names; when fewer than the stack has, they are the
                indices of the classes to keep.
        """
        t = self._single(target)
        scale, converged, n_iter = (getattr(self, name)[t] for name in ("scale", "converged", "n_iter"))
        probe = self._estimator(like)
        if self.chosen is not None and probe.grid_parameter:
            setattr(probe, probe.grid_parameter, float(self.chosen[t]))
        outputs = {name: getattr(self, name)[t] for name in ("coef", "intercept", "gap", "deviation", "mean")}
        if self.kind != "continuous":
            probe.classes_ = np.array(self.classes if classes is None else classes)
            kept = len(probe.classes_)
            if kept < len(self.classes):
                rows = torch.as_tensor(np.asarray(classes)).long()
                outputs = {name: values[rows] for name, values in outputs.items()}
            if kept == 2 and len(outputs["coef"]) == 2:
                differ = ("coef", "intercept")
                outputs = {n: v[1:] - v[:1] if n in differ else v[1:] for n, v in outputs.items()}
        for name, values in outputs.items():
            setattr(probe, f"{name}_", values.numpy().copy())
        probe.scale_, probe.converged_, probe.n_iter_ = float(scale), bool(converged), int(n_iter)
        probe.n_features_in_ = self.coef.shape[-1]
        probe.site_, probe.target_ = (self.sites[0] if self.sites else None), self.targets[t]
        return probe

    def direction(self, target: int | str = 0, class_: str | None = None, against: str | None = None) -> Direction:
        """Unit vector of one target, towards `class_` (default: the second of two); see `LinearProbe.direction`."""
        return self.probe(target).direction(class_, against)

    def _single(self, target: int | str) -> int:
        if self.axes:
            steps = {"grid": "select a grid value (.select)", "site": "take one site (.at)"}
            raise ValueError(
                f"this stack still has axes {self.axes}: first {' and '.join(steps[a] for a in self.axes)}"
            )
        if isinstance(target, str):
            if target not in self.targets:
                raise KeyError(f"no target {target!r}; the targets are {', '.join(self.targets[:20])}")
            return self.targets.index(target)
        return target

    def _estimator(self, like: LinearProbe | None) -> LinearProbe:
        from probekit.probes.grid import FAMILIES

        if like is not None:
            return type(like)(**like.get_params())
        if self.family not in FAMILIES:
            raise ValueError(f"no estimator for family {self.family!r}; pass like=")
        return FAMILIES[self.family]()(**self.parameters)

    # Files

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; names and parameters go into its metadata as JSON."""
        from safetensors.torch import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).contiguous() for name in PER_PROBE}
        if self.chosen is not None:
            tensors["chosen"] = self.chosen.contiguous()
        facts = {f: getattr(self, f) for f in ("kind", "classes", "targets", "axes", "sites", "grid", "family")}
        facts["parameters"] = dict(self.parameters)
        save_file(tensors, str(path), metadata={"format": _FORMAT, "stack": json.dumps(facts)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> ProbeStack:
        """Read a file that `save` wrote.

        Raises:
            ValueError: the file is not a saved stack (a pickle is never opened).
        """
        tensors, metadata = read_tensors(path, _FORMAT, "ProbeStack")
        facts = json.loads(metadata["stack"])
        lists = {k: tuple(v) for k, v in facts.items() if isinstance(v, list)}
        return cls(**{**facts, **lists}, **tensors)


def _at(sites: Sequence[str]) -> str:
    return f" at {sites[0]}" + (f" to {sites[-1]}" if len(sites) > 1 else "") if sites else ""
