"""`Readout`: a probe of two classes as the one affine map that a monitor reads with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.models import Model
from probekit.monitoring.running import POOLS
from probekit.probes.base import LinearProbe
from probekit.probes.result import SweepResult


@dataclass(frozen=True)
class Readout:
    """A probe of two classes as one affine map.

    Attributes:
        weights: `[d]` float32; `activation @ weights + bias` is the log-odds of the alarm class, as the probe has them.
        bias: In the same unit.
        site: Where.
    """

    weights: np.ndarray
    bias: float
    site: str

    def scores(self, activations: Tensor) -> Tensor:
        """Log-odds `[...]` float32 of activations `[..., d]`, on their device."""
        weights = torch.from_numpy(self.weights).to(activations.device)
        return activations.float() @ weights + self.bias


@dataclass(frozen=True)
class Asked:
    """What is monitored.

    Attributes:
        classes: The quiet one, and the one that raises the alarm.
        pool: What the probe was trained on, if known.
        origin: Where the probe came from, for the manifest.
    """

    readout: Readout
    classes: tuple[str, str]
    pool: str | None
    origin: dict[str, Any]


def readout_of(
    probe: Any, model: Model, site: str | None, label_set: str | None, target: int | str, alarm_class: object
) -> Asked:
    """The probe as a read-out towards the alarm class; see `fit` for the arguments and what is refused."""
    origin: dict[str, Any] = {}
    pool = None
    if isinstance(probe, SweepResult):
        probe, pool, origin = _of_sweep(probe, model, site, label_set, target)
        site = probe.site_
    if not isinstance(probe, LinearProbe):
        raise TypeError(
            f"a monitor is made of a fitted LinearProbe or a SweepResult, not of a {type(probe).__name__}"
            + ("; give the linear probe in it, .probe_" if hasattr(probe, "probe_") else "")
        )
    if not hasattr(probe, "coef_"):
        raise ValueError(f"this {type(probe).__name__} is not fitted yet: call fit first")
    names = [str(c) for c in probe.classes_] if hasattr(probe, "classes_") else []
    if len(names) != 2:
        what = f"{len(names)} classes" if names else "a continuous target"
        raise ValueError(
            f"a monitor needs a probe of two classes, and this one is of {what}: fit one of a class against the rest"
        )
    site = site or probe.site_
    if site is None:
        raise ValueError("this probe does not know where it reads: give site='blocks.3.hook_resid_post'")
    width = model.site(site).width
    if probe.n_features_in_ != width:
        raise ValueError(
            f"the probe reads {probe.n_features_in_} numbers, and {site} of {model.name!r} is {width} wide: it is of another "
            "site or model"
        )
    wanted = names[1] if alarm_class is None else _name_of(alarm_class, names)
    sign = 1.0 if wanted == names[1] else -1.0
    weights = (sign * probe.scale_ * probe.coef_[0].astype(np.float64)).astype(np.float32)
    bias = sign * probe.scale_ * float(probe.intercept_[0])
    quiet = names[0] if wanted == names[1] else names[1]
    origin = {"family": probe.family, "target": probe.target_, **origin}
    return Asked(Readout(weights, bias, site), (quiet, wanted), pool, origin)


def _of_sweep(
    result: SweepResult, model: Model, site: str | None, label_set: str | None, target: int | str
) -> tuple[LinearProbe, str | None, dict[str, Any]]:
    names = [summary.name for summary in result.label_sets]
    if label_set is None and len(names) > 1:
        raise ValueError(f"this sweep has several label sets: give label_set=, one of {', '.join(names)}")
    summary = result.label_set(label_set or names[0])
    if summary.kind != "binary":
        raise ValueError(
            f"a monitor needs a probe of two classes, and {summary.name!r} is {summary.kind}: sweep one class against the rest"
        )
    probed = (result.manifest.get("model") or {}).get("fingerprint")
    if probed not in (None, model.fingerprint):
        raise ValueError(
            f"the sweep was of another model ({result.manifest['model'].get('name')!r}, {probed}) than {model.name!r} "
            f"({model.fingerprint}): its probes mean nothing there"
        )
    place = site or result.best(summary.name).site
    if place not in result.probes[summary.name]:
        raise KeyError(f"the sweep has no probe at {place!r}; its sites are {', '.join(result.sites)}")
    pool = (result.manifest.get("arguments") or {}).get("pool")
    pool = pool or (result.manifest.get("store") or {}).get("pool")
    if pool is None and summary.level == "sequence" and "model" in result.manifest:
        pool = "last"  # what a sweep of a model takes unless told otherwise
    pool = pool if pool in POOLS else None
    origin = {"sweep": result.manifest.get("title"), "label_set": summary.name}
    return result.probes[summary.name][place].probe(target), pool, origin


def _name_of(value: object, names: Sequence[str]) -> str:
    if str(value) in names:
        return str(value)
    raise KeyError(f"the probe has no class {value!r}; its classes are {', '.join(names)}")
