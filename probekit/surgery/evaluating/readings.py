"""What probes read in held-out text while a model is edited: the concept that was meant, and others that were not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probekit.models import Model
from probekit.surgery.evaluating.behaviour import SELECT, Behaviour, Prompt, all_text
from probekit.surgery.evaluating.running import pieces, pooled

if TYPE_CHECKING:
    from probekit.probes.base import LinearProbe
    from probekit.probes.stack import ProbeStack


class Reading(Behaviour):
    """See `reading`."""

    def __init__(
        self, texts: Sequence[Prompt], probe: LinearProbe, site: str, pool: str, class_: object, **options: Any
    ) -> None:
        classes = probe.classes_.tolist() if hasattr(probe, "classes_") else []
        if class_ is not None and class_ not in classes:
            raise ValueError(f"the probe has no class {class_!r}; it has {classes or 'a continuous target'}")
        if class_ is None and len(classes) > 2:
            raise ValueError(
                f"the probe has {len(classes)} classes: name the one that is read, class_= one of {classes}"
            )
        if probe.site_ is not None and probe.site_ != site:
            raise ValueError(f"the probe was fitted at {probe.site_}, not at {site}")
        self.index = None if not classes else len(classes) - 1 if class_ is None else classes.index(class_)
        what = "value" if self.index is None else f"probability of {classes[self.index]}"
        options["name"] = options["name"] or f"{what} read at {site}"
        super().__init__(unit="value" if self.index is None else "probability", items=texts, **options)
        self.unit_range = self.index is not None
        self.probe, self.site, self.pool, self.prefix = probe, site, pool, ""
        if pool not in ("last", "mean"):
            raise ValueError(f"pool must be 'last' or 'mean', not {pool!r}")
        self._key += [site, pool, self.index, probe.coef_.tobytes(), probe.intercept_.tobytes(), float(probe.scale_)]

    def measure(self, model: Model) -> np.ndarray:
        given = pieces(model, self.items, prefix=self.prefix or None)
        read = pooled(model, given, [self.site], self.pool)[self.site]
        finite = np.isfinite(read).all(1)
        scores = np.full(len(self), np.nan)
        if finite.any():
            rows = read[finite]
            scores[finite] = (
                self.probe.predict(rows) if self.index is None else self.probe.predict_proba(rows)[:, self.index]
            )
        return scores

    def with_prefix(self, prefix: str) -> Reading | None:
        return self._copy(prefix=prefix + self.prefix) if all_text(self.items) else None


def reading(
    texts: Sequence[Prompt],
    probe: LinearProbe | ProbeStack | tuple[ProbeStack, int | str],
    site: str,
    *,
    pool: Literal["last", "mean"] = "last",
    class_: object = None,
    name: str = "",
    less_is_wanted: bool = False,
    groups: object = None,
    seed: int = 0,
    select: float = SELECT,
) -> Reading:
    """What a probe reads in held-out texts: does the model itself take up the change downstream?

    Args:
        texts: That neither the probe nor the direction was fitted on.
        probe: A fitted probe; a `ProbeStack` of one target, or a stack and a target.
        site: Where it reads; later than the edit. At the edited site itself it would read what was just written there.
        pool: What is read of a text; as the probe was fitted.
        class_: Whose probability; the second of two when left out. Of a continuous target, its value is read.
        name, less_is_wanted, groups, seed, select: As in `generations`.

    Raises:
        ValueError: a probe of another site, or no such class.
    """
    fitted: Any = probe
    if isinstance(probe, tuple):
        fitted = probe[0].probe(probe[1])
    elif not hasattr(probe, "coef_"):
        if len(fitted.targets) != 1:
            raise ValueError(f"the stack has {len(fitted.targets)} targets: give (stack, target)")
        fitted = fitted.probe(0)
    options = {"name": name, "less_is_wanted": less_is_wanted, "groups": groups, "seed": seed, "select": select}
    return Reading(texts, fitted, site, pool, class_, **options)


class OtherProbes(Behaviour):
    """See `other_probes`."""

    unit_range = True

    def __init__(
        self, texts: Sequence[Prompt], probes: Mapping[str, LinearProbe], labels: Mapping[str, Sequence[Any]],
        sites: Mapping[str, str], pool: str, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(unit="share right", items=texts, **options)
        self.probes, self.sites, self.pool, self.prefix = dict(probes), dict(sites), pool, ""
        self.labels = {name: list(labels[name]) for name in probes}
        for name, values in self.labels.items():
            if len(values) != len(self):
                raise ValueError(f"probe {name!r}: {len(values)} labels for {len(self)} texts")
        self._key += [
            self.labels,
            self.sites,
            pool,
            *(p.coef_.tobytes() + p.intercept_.tobytes() for p in probes.values()),
        ]

    def measure(self, model: Model) -> np.ndarray:
        given = pieces(model, self.items, prefix=self.prefix or None)
        read = pooled(model, given, list(dict.fromkeys(self.sites.values())), self.pool)
        right = np.full((len(self.probes), len(self)), np.nan)
        for row, (name, probe) in enumerate(self.probes.items()):
            rows = read[self.sites[name]]
            ok = np.isfinite(rows).all(1) & np.array(
                [value is not None and value == value for value in self.labels[name]]
            )
            if ok.any():
                truth = np.array([value for value, known in zip(self.labels[name], ok, strict=True) if known])
                right[row, ok] = probe.predict(rows[ok]) == truth
        known = ~np.isnan(right)
        return np.where(known.any(0), np.where(known, right, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)

    def with_prefix(self, prefix: str) -> OtherProbes | None:
        return self._copy(prefix=prefix + self.prefix) if all_text(self.items) else None

    def _of_items(self, rows: np.ndarray) -> Any:
        other = super()._of_items(rows)
        other.labels = {name: [values[i] for i in rows] for name, values in self.labels.items()}
        return other


def other_probes(
    texts: Sequence[Prompt],
    probes: Mapping[str, LinearProbe],
    labels: Mapping[str, Sequence[Any]],
    *,
    site: str | None = None,
    pool: Literal["last", "mean"] = "last",
    name: str = "",
    groups: object = None,
    seed: int = 0,
    select: float = SELECT,
) -> OtherProbes:
    """Share of unrelated probes that are still right about held-out text.

    Args:
        texts: That the probes were not fitted on.
        probes: By name, fitted probes of classes.
        labels: By the same names, a label a text in terms of the probe's `classes_`; None where there is none.
        site: Where they read; where each was fitted (`probe.site_`) when left out.
        pool: As the probes were fitted.
        name, groups, seed, select: As in `generations`.

    Raises:
        KeyError: a probe without labels.
        ValueError: no probes, a continuous one, or one that does not know its site.
    """
    if not probes:
        raise ValueError("other_probes needs probes")
    sites = {}
    for key, probe in probes.items():
        if key not in labels:
            raise KeyError(f"no labels for the probe {key!r}")
        if not hasattr(probe, "classes_"):
            raise ValueError(f"probe {key!r} is of a continuous target and is never right or wrong")
        found = site or probe.site_
        if found is None:
            raise ValueError(f"probe {key!r} does not know where it was fitted: give site=")
        sites[key] = found
    name = name or (f"probe of {next(iter(probes))}" if len(probes) == 1 else f"{len(probes)} other probes")
    return OtherProbes(texts, probes, labels, sites, pool, name=name, groups=groups, seed=seed, select=select)
