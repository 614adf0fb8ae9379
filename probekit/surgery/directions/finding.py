"""Directions made from activations: between class means, from contrast pairs, principal components, an SAE's decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from probekit.activations import Activations, Moments
from probekit.models import Model
from probekit.probes.direction import Direction, model_of, row_mask
from probekit.surgery.directions.labelled import Labelled, Labels, data_of, sums_by


def difference_of_means(
    activations: Activations,
    labels: Labels,
    *,
    site: str,
    target: int | str = 0,
    classes: tuple[str, str] | None = None,
    rows: np.ndarray | None = None,
) -> Direction:
    """From the mean of one class to the mean of another.

    Its scale is the standard deviation of the rows of both classes along it, its center lies halfway between the means, its
    gap is their distance. The activations stream by twice; no more than a batch of them and a vector a class is held.

    Source: Marks & Tegmark 2023, "The Geometry of Truth" (arXiv 2310.06824), section 5, mass-mean probing without the
    covariance; Belrose 2023, "Diff-in-means concept editing is worst-case optimal".

    Args:
        activations: A store, or `ArrayActivations`.
        labels: A label set of the data, or a value for each row.
        site: Where.
        target: Name or index of the label set's target.
        classes: `(from, to)`; of two classes, by default, from the first to the second.
        rows: `[row]` bool mask, such as training rows; all if left out.

    Raises:
        KeyError: no such site, target or class.
        ValueError: continuous labels, several classes and none named, a class without rows, class means that are the same.
    """
    kept = row_mask(activations, rows)
    labelled = Labelled.of(activations, labels).target(target)
    codes, pair = labelled.pair(classes)
    codes = np.where(kept, codes, -1)
    sums, counts = sums_by(activations, site, codes, 2)
    for name, count in zip(pair, counts, strict=True):
        if not count:
            raise ValueError(f"no row of class {name!r} of {labelled.targets[0]!r}: there is no mean to take")
    means = torch.from_numpy(sums / counts[:, None])
    apart = means[1] - means[0]
    if not bool(apart.any()):
        raise ValueError(f"the means of {pair[0]!r} and {pair[1]!r} are the same at {site}: there is no direction between them")  # fmt: skip
    provenance = {
        "method": "difference of means",
        "label_set": labelled.name,
        "target": labelled.targets[0],
        "classes": list(pair),
        "rows": counts.tolist(),
        "data": data_of(activations),
    }
    found = Direction(apart, site, model=model_of(activations), provenance=provenance)
    center, gap = means.mean(0) @ found.vector.double(), apart.norm()
    return replace(found, gap=float(gap), center=float(center)).measured(activations, codes >= 0)


def contrast(
    positive: Activations,
    negative: Activations,
    *,
    site: str,
    method: Literal["mean", "pca"] = "mean",
) -> Direction:
    """From the negative to the positive side of contrast pairs: row i of the one and row i of the other make a pair.

    What a pair has in common cancels in its difference, so that few pairs do (Rimsky et al. 2023, "Steering Llama 2 via
    Contrastive Activation Addition", arXiv 2312.06681, section 3; there the rows are the activations at the answer token, here
    those of `capture(..., pool="last")`).

    `"mean"` is the mean difference. `"pca"` is the line that the differences lie nearest to, their first principal component
    about zero, pointed to the positive side (Zou et al. 2023, "Representation Engineering", arXiv 2310.01405, section 3.1,
    who turn pairs round at random before they centre, which comes to the same). About their own mean, as some
    implementations take it, the component would be blind to what all pairs share: the concept.

    Its scale is the standard deviation of both sides' rows along it. The share of pairs whose difference points along it is
    the provenance's `agree`.

    Args:
        positive, negative: Stores, or `ArrayActivations`, of paired sequences in the same order.
        site: Where.
        method: `"mean"` or `"pca"`.

    Raises:
        KeyError: no such site.
        ValueError: unequal numbers of rows or other sequences on the two sides, other models, no difference.
    """
    if method not in ("mean", "pca"):
        raise ValueError(f"method must be 'mean' or 'pca', not {method!r}")
    _refuse_unpaired(positive, negative)
    width = positive.width(site)
    if negative.width(site) != width:
        raise ValueError(f"at {site} the positive side is {width} wide, the negative {negative.width(site)}")
    n = len(positive)
    if method == "pca":
        moments = Moments(width)
        for _, one, other in _pairs(positive, negative, site):
            moments.update(one.astype(np.float64) - other, np.zeros(len(one)))
        apart = moments.x_sum / n
        values, vectors = np.linalg.eigh(moments.xx / n)
        vector = vectors[:, -1] * (1 if vectors[:, -1] @ apart >= 0 else -1)
        share = {"explained": float(values[-1] / max(values.sum(), np.finfo(np.float64).tiny))}
    else:
        apart, share = np.zeros(width), {}
        for _, one, other in _pairs(positive, negative, site):
            apart += (one.astype(np.float64) - other).sum(0) / n
        vector = apart
    if not apart.any():
        raise ValueError(f"the two sides do not differ at {site}: there is no direction between them")
    known = model_of(positive) or model_of(negative)
    data = [data_of(positive), data_of(negative)]
    provenance: dict[str, object] = {"method": f"contrast pairs, {method}", "pairs": n, **share, "data": data}
    found = Direction(torch.from_numpy(vector), site, model=known, provenance=provenance)
    # [pair]; float64 as both sides may lie far from the origin
    unit = found.vector.double().numpy()
    along = np.concatenate(
        [np.stack([one @ unit, other @ unit]) for _, one, other in _pairs(positive, negative, site)], 1
    )
    means = along.mean(1)
    return replace(
        found,
        scale=float(along.std()),
        gap=float(means[0] - means[1]),
        center=float(means.mean()),
        mean=float(means.mean()),
        provenance=provenance | {"agree": float((along[0] > along[1]).mean())},
    )


def principal_components(
    activations: Activations, *, site: str, count: int, rows: np.ndarray | None = None
) -> tuple[Direction, ...]:
    """The directions along which activations vary most, the first the most.

    The scale of each is the standard deviation along it; the share of the variance it explains is the provenance's
    `explained`. Its sign says nothing: it is set so that the largest entry is positive. Memory is two matrices `[d, d]` of
    float64.

    Args:
        activations: A store, or `ArrayActivations`.
        site: Where.
        count: How many.
        rows: `[row]` bool mask; all if left out.

    Raises:
        KeyError: no such site.
        ValueError: more components than the activations vary along.
    """
    kept = row_mask(activations, rows)
    moments = Moments(activations.width(site))
    for part, batch in activations.batches(site):
        some = batch[kept[part]]
        moments.update(some, np.zeros(len(some)))
    values, vectors = np.linalg.eigh(moments.covariance())
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    # Below a few roundings of the activations' own size there is no variance to speak of.
    noise = np.finfo(np.float64).eps * len(values) * max(float(values[0]), float(np.trace(moments.xx)) / moments.n)
    varied = int((values > noise).sum())
    if not 1 <= count <= varied:
        raise ValueError(
            f"count must lie in 1..{varied}: the {moments.n:,} rows at {site} vary along {varied} of {len(values)} directions; got {count}"
        )
    mean, directions = moments.mean(), []
    for k in range(count):
        vector = vectors[:, k] * np.sign(vectors[np.abs(vectors[:, k]).argmax(), k])
        provenance = {
            "method": "principal component",
            "number": k,
            "explained": float(values[k] / values.sum()),
            "rows": moments.n,
            "data": data_of(activations),
        }
        scale, at = float(np.sqrt(values[k])), float(mean @ vector)
        found = Direction(torch.from_numpy(vector.copy()), site, scale, mean=at, provenance=provenance)
        directions.append(replace(found, model=model_of(activations)))
    return tuple(directions)


def decoder_row(
    sae: Any,
    feature: int,
    *,
    model: Model | None = None,
    features: Any = None,
    activations: Activations | None = None,
) -> Direction:
    """The direction in which a feature of an SAE writes.

    Args:
        sae: Anything with `W_dec [feature, d]` whose `cfg.metadata` names its `hook_name`, such as a `sae_lens.SAE`. Of a
            transcoder it is the site written to, `hook_name_out`.
        feature: Which.
        model: The model; the direction then carries its fingerprint.
        features: The `SparseFeatures` that `saes.encode` made; how often the feature fires is then in the provenance.
        activations: A store or `ArrayActivations` to measure the scale on; left out, the scale is not known.

    Raises:
        KeyError: the model or the activations lack the SAE's site.
        ValueError: no such feature, one whose decoder row is zero, an SAE that names no site, or another width or model.
    """
    count, width = sae.W_dec.shape
    if not 0 <= feature < count:
        raise ValueError(f"no feature {feature}: the SAE has {count:,}, 0 to {count - 1:,}")
    metadata = getattr(getattr(sae, "cfg", None), "metadata", None)
    site = getattr(metadata, "hook_name_out", None) or getattr(metadata, "hook_name", None)
    if not site:
        raise ValueError(
            "the SAE's configuration names no site (cfg.metadata.hook_name): set it to where the SAE reads"
        )
    vector = sae.W_dec[feature].detach().float().cpu()
    if not bool(vector.any()):
        raise ValueError(f"the decoder row of feature {feature} is zero: it writes nothing")
    provenance: dict[str, object] = {"method": "decoder row", "feature": int(feature), "length": float(vector.norm())}
    trained_on = (getattr(metadata, "probekit", None) or {}).get("model_fingerprint")
    if model is not None:
        if model.site(site).width != width:
            raise ValueError(
                f"the SAE writes {width} dimensions, {site} of {model.name!r} has {model.site(site).width}"
            )
        if trained_on and trained_on != model.fingerprint:
            raise ValueError(
                f"the SAE was trained on the model {trained_on}, but {model.name!r} is {model.fingerprint}"
            )
    if features is not None:
        if features.width != count:
            raise ValueError(f"the SAE has {count:,} features, what is given as features= {features.width:,}")
        column = features.matrix[:, [feature]]
        provenance |= {"sae": features.manifest.sae, "fires": float(column.nnz / max(len(features), 1))}
    known = trained_on if model is None else model.fingerprint
    found = Direction(vector, site, model=known, provenance=provenance)
    return found if activations is None else found.measured(activations)


def _refuse_unpaired(positive: Activations, negative: Activations) -> None:
    if len(positive) != len(negative):
        raise ValueError(
            f"{len(positive):,} positive and {len(negative):,} negative rows make no pairs: capture one row a sequence "
            "(pool='last'), of the same sequences in the same order"
        )
    if not np.array_equal(positive.sequence, negative.sequence):
        row = int(np.argmax(np.asarray(positive.sequence) != np.asarray(negative.sequence)))
        raise ValueError(
            f"row {row} is of sequence {positive.sequence[row]} on the positive and {negative.sequence[row]} on the negative "
            "side: pairs need the same sequences in the same order"
        )
    one, other = model_of(positive), model_of(negative)
    if one is not None and other is not None and one != other:
        raise ValueError(f"the positive side is of the model {one}, the negative of {other}: capture both from one")


def _pairs(positive: Activations, negative: Activations, site: str) -> Any:
    """Row ranges and both sides' activations `[row, d]` float32, a batch of the positive side at a time."""
    for part, one in positive.batches(site):
        yield part, one, negative.read(site, part)
