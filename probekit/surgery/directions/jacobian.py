"""`jacobian_directions`: the directions in which a model passes on the most, found without writing its Jacobian down."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.activations import Activations
from probekit.data import as_dataset
from probekit.models import Model
from probekit.models.editing import changed_at
from probekit.probes.direction import Direction

OVERSAMPLING = 8  # columns beyond those asked for (Halko, Martinsson & Tropp 2011, section 4.2)
COPIES = 32  # columns worked on at a time: as many copies of a sequence run together


class _Reached(Exception):
    """Ends the forward pass at the later site."""


def jacobian_directions(
    model: Model,
    tokens: Tensor | np.ndarray | Sequence[Any],
    *,
    site: str,
    later: str,
    count: int = 5,
    position: int = -1,
    iterations: int = 8,
    seed: int = 0,
    activations: Activations | None = None,
) -> tuple[Direction, ...]:
    """The directions at a site along which a small step changes what comes later the most, without any label.

    They are the leading right singular vectors of the Jacobian J of what passes `later` at the last position, by what passes
    `site` at one position. Over several sequences they are the leading eigenvectors of the mean of J'J, and a gain is the root
    mean square of the sequences' gains.

    J is never written down: J'J times some columns is one pass forward and three back, and randomised subspace iteration
    (Halko, Martinsson & Tropp 2011, "Finding structure with randomness", algorithm 4.4) does with a few columns more than
    `count`. Computed in the model's dtype: float16 and bfloat16 leave two digits.

    Source: Haas et al. 2023, "Discovering Interpretable Directions in the Semantic Latent Space of Diffusion Models" (arXiv
    2303.11073), section 4, unsupervised directions; Park et al. 2023, "Understanding the Latent Space of Diffusion Models
    through the Lens of Riemannian Geometry" (arXiv 2307.12868), section 3. There the site is the bottleneck of a denoiser.

    Args:
        model: Any model; edits that are on it act.
        tokens: One sequence of token ids `[pos]`, or several: `[batch, pos]` or a list of such.
        site: Where the step is taken.
        later: Where its effect is measured: a site that comes after, or `"logits"`.
        count: How many directions.
        position: Of the step in each sequence; negative from its end.
        iterations: Of the subspace. Each `residual` in the provenance says how far from an eigenvector the direction still is,
            relative to its eigenvalue.
        seed: Of the first columns.
        activations: A store or `ArrayActivations` to measure scale and mean on; left out, they are not known.

    Returns:
        The one of the largest gain first. The provenance holds `gain`, in units of the later site a unit of the site. A
        direction's sign says nothing: it is set so that the largest entry is positive.

    Raises:
        KeyError: no such site.
        ValueError: a later site that is before, or nothing of the site reaches it; a position outside a sequence; a count
            above the site's width; a site that can be read but not changed.
    """
    width = model.site(site).width
    if later != "logits":
        if model.sites.index(model.site(later).name) <= model.sites.index(site):
            raise ValueError(
                f"later={later!r} does not come after {site}: what passes there cannot feel a step at {site}"
            )
        if later.endswith("hook_resid_mid") or model.site(later).at == "normalized":
            raise ValueError(f"later={later!r} is read beside the stream: take a hook_resid_post, or 'logits'")
    if not 1 <= count <= width:
        raise ValueError(f"count must lie in 1..{width}, the width of {site}; got {count}")
    sequences = _as_sequences(tokens)
    for i, ids in enumerate(sequences):
        if not -len(ids) <= position < len(ids):
            raise ValueError(f"position {position} lies outside sequence {i}, which has {len(ids)} tokens")

    def product(columns: Tensor) -> Tensor:
        """Mean of J'J times `columns [width, k]`, float64."""
        total = torch.zeros_like(columns)
        for ids in sequences:
            for part in range(0, columns.shape[1], COPIES):
                some = columns[:, part : part + COPIES]
                total[:, part : part + COPIES] += _product(model, ids, site, later, position, some) / len(sequences)
        return total

    basis, rounds = torch.eye(width, dtype=torch.float64), 0
    if count + OVERSAMPLING < width:
        random = torch.from_numpy(np.random.default_rng(seed).normal(size=(width, count + OVERSAMPLING)))
        basis, rounds = torch.linalg.qr(random)[0], iterations
    with _still(model):
        for _ in range(rounds):
            basis = torch.linalg.qr(product(basis))[0]
        image = product(basis)
    values, mix = torch.linalg.eigh((basis.T @ image + image.T @ basis) / 2)
    values, mix = values.flip(0)[:count].clamp(min=0), mix.flip(1)[:, :count]
    if not values[0] > 0:
        raise ValueError(f"nothing that passes {site} at position {position} reaches {later!r} at the last position")
    vectors = basis @ mix
    residuals = (image @ mix - vectors * values).norm(dim=0) / values.clamp(min=torch.finfo(torch.float64).tiny)
    data = as_dataset([ids.cpu().numpy() for ids in sequences], "tokens")
    found = []
    for k in range(count):
        vector = vectors[:, k]
        provenance = {
            "method": "jacobian",
            "later": later,
            "position": position,
            "number": k,
            "gain": float(values[k].sqrt()),
            "residual": float(residuals[k]),
            "iterations": rounds,
            "seed": seed,
            "rows": len(sequences),
            "data": {"name": data.name, "fingerprint": data.fingerprint()},
        }
        sign = torch.sign(vector[vector.abs().argmax()])
        direction = Direction(sign * vector, site, model=model.fingerprint, provenance=provenance)
        found.append(direction if activations is None else direction.measured(activations))
    return tuple(found)


def _product(model: Model, ids: Tensor, site: str, later: str, position: int, columns: Tensor) -> Tensor:
    """J'J times `columns [width, k]` for one sequence, float64.

    As many copies of the sequence as there are columns, each with a step of its own, so that one pass serves all. J times a
    column is got from two passes back: the first gives J'u as a function of u, and that one's derivative is J.
    """
    copies = ids[None].expand(columns.shape[1], -1).to(model.device)
    steps = torch.zeros(columns.shape[1], columns.shape[0], dtype=model.dtype, device=model.device, requires_grad=True)
    at = torch.zeros(copies.shape[1], dtype=model.dtype, device=model.device)
    at[position] = 1

    def step(h: Tensor) -> Tensor:
        # Some architectures keep heads apart, or flatten [batch, pos]; position embeddings pass once for the whole batch.
        wide = h.reshape(-1, len(at), steps.shape[1])
        return (wide + at[None, :, None].to(h) * steps[:, None].to(h)).view(-1, *h.shape[1:])

    with changed_at(model, site, step):
        out = _at_the_end(model, copies, later)
    if not out.requires_grad:
        raise ValueError(f"nothing that passes {site} reaches {later!r}")
    probe = torch.zeros_like(out, requires_grad=True)
    pulled = torch.autograd.grad(out, steps, probe, create_graph=True)[0]
    pushed = torch.autograd.grad(pulled, probe, columns.T.to(pulled), retain_graph=True)[0]
    back: Tensor = torch.autograd.grad(out, steps, pushed)[0]
    return back.T.to("cpu", torch.float64)


def _at_the_end(model: Model, tokens: Tensor, later: str) -> Tensor:
    """`[batch, width]`: what passes a site, or the logits, at the last position."""
    if later == "logits":
        output = model.hf(tokens)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits[:, -1]
    read: list[Tensor] = []

    def keep(h: Tensor) -> Tensor:
        read.append(h.reshape(*tokens.shape, -1)[:, -1])
        raise _Reached

    with changed_at(model, later, keep), suppress(_Reached):
        model.hf(tokens)
    return read[0]


@contextmanager
def _still(model: Model) -> Iterator[None]:
    """Gradients on, but none of any weight; dropout off; attention by matrix products, which can be derived twice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    modules = [module for module in model.hf.modules() if module.training]
    weights = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    restore: list[Callable[[], object]] = []
    try:
        for module in modules:
            module.training = False
            restore.append(functools.partial(setattr, module, "training", True))
        for weight in weights:
            weight.requires_grad_(False)
            restore.append(functools.partial(weight.requires_grad_, True))
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for undo in restore:
            undo()


def _as_sequences(tokens: Tensor | np.ndarray | Sequence[Any]) -> list[Tensor]:
    """One tensor `[pos]` of int64 a sequence."""
    if isinstance(tokens, str) or (isinstance(tokens, Sequence) and len(tokens) and isinstance(tokens[0], str)):
        raise TypeError("tokens are token ids, not text: model.tokenize(texts)[0] makes them")
    if not isinstance(tokens, Tensor | np.ndarray) and len(tokens) and not np.isscalar(tokens[0]):
        sequences = [torch.as_tensor(np.asarray(ids)) for ids in tokens]
    else:
        array = torch.as_tensor(tokens if isinstance(tokens, Tensor) else np.asarray(tokens))
        sequences = list(array) if array.ndim == 2 else [array]
    if not sequences:
        raise ValueError("there are no sequences")
    for i, ids in enumerate(sequences):
        if ids.ndim != 1 or not len(ids) or ids.is_floating_point():
            raise ValueError(f"sequence {i} must be integers [pos], got {ids.dtype} {tuple(ids.shape)}")
    return [ids.long() for ids in sequences]
