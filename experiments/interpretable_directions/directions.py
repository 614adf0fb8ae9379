"""The directions that are compared: unsupervised, labelled, disentangled, random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from worlds import World

import probekit as pk
from probekit.probes import Direction
from probekit.surgery import difference_of_means, jacobian_directions, principal_components
from probekit.surgery.directions.random_directions import random_directions, spectrum_directions

PCA, TO_LOGITS, TO_LATER = "principal components", "Jacobian of the logits", "Jacobian of the later site"
MEANS, PROBE = "difference of means", "probe"
RANDOM, SPECTRUM = "random", "random, with the data's covariance"
DISENTANGLED = {
    "means, without another's mean": (MEANS, MEANS, False),
    "means, without another's probe": (MEANS, PROBE, False),
    "probe, without another's probe": (PROBE, PROBE, False),
    "means, without all others' means": (MEANS, MEANS, True),
    "means, without all others' probes": (MEANS, PROBE, True),
    "means, without as many random ones": (MEANS, SPECTRUM, True),
}
"""What is projected out of what, and whether of all other labels; the last is the control."""


@dataclass(frozen=True)
class Found:
    """A direction, its kind, and the label it is meant for (`own`; None where it is meant for none)."""

    direction: Direction
    kind: str
    name: str
    own: int | None = None


def unsupervised(world: World, components: int, jacobian: int, sequences: int, iterations: int) -> list[Found]:
    """Principal components, and leading right singular vectors of the Jacobian over several sequences."""
    store = world.find[0]
    some = few_sequences(world, sequences)
    found = [
        Found(d, PCA, f"PC {i + 1}")
        for i, d in enumerate(principal_components(store, site=world.site, count=components))
    ]
    for kind, later, short in ((TO_LOGITS, "logits", "J logits"), (TO_LATER, world.later, "J later")):
        found += [
            Found(d, kind, f"{short} {i + 1}")
            for i, d in enumerate(
                jacobian_directions(
                    world.model, some, site=world.site, later=later, count=jacobian, iterations=iterations, activations=store
                )
            )
        ]  # fmt: skip
    return found


def few_sequences(world: World, count: int) -> list[np.ndarray]:
    """Sequences that directions are found on, evenly through the data; of games the first 16, 24 or 32 moves."""
    tokens = world.find[1].tokens or ()
    chosen = [tokens[i] for i in np.linspace(0, len(tokens) - 1, count).astype(int)]
    return chosen if world.legal is None else [ids[: 16 + 8 * (i % 3)] for i, ids in enumerate(chosen)]


def labelled(world: World, seed: int) -> tuple[list[Found], pk.SweepResult]:
    """Difference of means and logistic probe of every label, and the sweep that the probes come from."""
    store, data = world.find
    labels = data.label_set("labels")
    result = pk.sweep(store, data, "labels", sites=[world.site], controls=False, seed=seed, n_boot=200, progress=False)
    stack = result.probes["labels"][world.site]
    found = []
    for i, name in enumerate(world.labels):
        found.append(Found(difference_of_means(store, labels, site=world.site, target=name), MEANS, name, i))
        found.append(Found(stack.direction(name).measured(store), PROBE, name, i))
    return found, result


def controls(world: World, beside: Direction, count: int, seed: int) -> list[Found]:
    """Random directions, even and with the covariance of the data, each with its own standard deviation."""
    store = world.find[0]
    kinds = {RANDOM: random_directions(beside, count, seed), SPECTRUM: spectrum_directions(beside, store, count, seed)}
    return [
        Found(d.measured(store), kind, f"{kind} {i + 1}")
        for kind, drawn in kinds.items()
        for i, d in enumerate(drawn)
    ]  # fmt: skip


def disentangled(world: World, found: Sequence[Found], others: Mapping[tuple[str, int], int], seed: int) -> list[Found]:
    """Labelled directions with others projected out.

    Args:
        found: With the labelled directions.
        others: By kind and label, the other label that the direction moves most: the one that is projected out.
    """
    store = world.find[0]
    of = {(f.kind, f.own): f.direction for f in found if f.kind in (MEANS, PROBE)}
    made = []
    for kind, (base, out, every) in DISENTANGLED.items():
        for i, name in enumerate(world.labels):
            rest = [j for j in range(len(world.labels)) if j != i] if every else [others[base, i]]
            if out == SPECTRUM:
                away = spectrum_directions(of[base, i], store, len(rest), seed + i)
            else:
                away = [of[out, j] for j in rest]
            made.append(Found(of[base, i].without(*away).measured(store), kind, name, i))
    return made
