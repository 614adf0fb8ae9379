"""Ways to turn a disc at the last position of a batch of cases, each an edit of activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import probekit as pk
import saes
from probekit.surgery import ActivationEdit
from probekit.testbeds import othello

MINE, THEIRS = "mine", "theirs"


@dataclass(frozen=True)
class Lines:
    """At one site, for each square: the unit vector from theirs to mine, and where the probe changes its mind along it.

    Attributes:
        vectors: `[64, d]`.
        centers: `[64]`.
    """

    vectors: Tensor
    centers: Tensor


def boundaries(result: pk.SweepResult, sites: Sequence[str]) -> dict[str, Lines]:
    """The boundary between mine and theirs of each square's linear probe, at each site."""
    found = {}
    for site in sites:
        stack = result.probes["tile"][site]
        mine, theirs = stack.classes.index(MINE), stack.classes.index(THEIRS)
        weights = stack.coef[:, mine] - stack.coef[:, theirs]
        offset = stack.intercept[:, mine] - stack.intercept[:, theirs]
        length = weights.norm(dim=1)
        found[site] = Lines(weights / length[:, None], -offset / length)
    return found


def random_lines(lines: dict[str, Lines], seed: int) -> dict[str, Lines]:
    """Random unit vectors in place of the probes'."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for site, one in lines.items():
        vectors = torch.randn(one.vectors.shape, generator=generator)
        made[site] = Lines(vectors / vectors.norm(dim=1, keepdim=True), one.centers)
    return made


def reflect(
    model: pk.Model,
    lines: dict[str, Lines],
    cases: othello.Cases,
    sites: Sequence[str],
    strength: float,
    like: dict[str, Lines] | None = None,
) -> ActivationEdit:
    """Mirror the last position at the boundary of its square; strength 1 is the mirror image.

    An activation that lies on the wanted side already stays.

    Args:
        like: Move as far as these lines would, along `lines`: for random directions of equal norm.
    """
    here = (torch.arange(len(cases)), torch.from_numpy(cases.length - 1))
    square, mine = torch.from_numpy(cases.square), torch.from_numpy(cases.mine)

    def change_at(site: str):
        measured, moved = (like or lines)[site], lines[site]

        def change(h: Tensor) -> Tensor:
            last = h[here]
            past = (last * measured.vectors[square]).sum(1) - measured.centers[square]
            past = torch.where(mine, past.clamp(min=0), past.clamp(max=0))
            changed = h.clone()
            changed[here] = last - 2 * strength * past[:, None] * moved.vectors[square]
            return changed

        return change

    return ActivationEdit(f"turn a disc (x{strength:g})", model, {site: change_at(site) for site in sites})


def class_means(model: pk.Model, games: pk.Dataset, sites: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """At each site, for each square, the mean activation where its disc is mine, and where it is theirs: `[64, d]` each."""
    tile = games.label_set("tile")
    found = {}
    for site, moments in pk.activations.capture_moments(model, games, tile, list(sites), progress=False).items():
        means = torch.from_numpy(np.nan_to_num(moments.class_means())).float()
        found[site] = (means[:, tile.classes.index(MINE)], means[:, tile.classes.index(THEIRS)])
    return found


def move_to_mean(
    model: pk.Model,
    means: dict[str, tuple[Tensor, Tensor]],
    cases: othello.Cases,
    sites: Sequence[str],
    strength: float,
) -> ActivationEdit:
    """Set the coordinate along the difference of the class means: at strength 1 to the mean of the wanted class."""
    here = (torch.arange(len(cases)), torch.from_numpy(cases.length - 1))
    square, mine = torch.from_numpy(cases.square), torch.from_numpy(cases.mine)[:, None]

    def change_at(site: str):
        of_mine, of_theirs = (m[square] for m in means[site])
        now, then = torch.where(mine, of_mine, of_theirs), torch.where(mine, of_theirs, of_mine)
        way = (then - now) / (then - now).norm(dim=1, keepdim=True).clamp(min=1e-6)
        middle, half = ((then + now) / 2 * way).sum(1), ((then - now) / 2 * way).sum(1)

        def change(h: Tensor) -> Tensor:
            last = h[here]
            changed = h.clone()
            changed[here] = last + (middle + strength * half - (last * way).sum(1))[:, None] * way
            return changed

        return change

    return ActivationEdit(f"move to the mean (x{strength:g})", model, {site: change_at(site) for site in sites})


def fit_networks(
    model: pk.Model, games: pk.Dataset, sites: Sequence[str], seed: int, epochs: int = 6
) -> dict[str, nn.Module]:
    """At each site a network of one hidden layer that reads all 64 squares: `[row, d] -> [row, 64, 3]`.

    Li et al. 2022, section 3.2 (there with 128 or 256 hidden units).
    """
    store = pk.capture(model, games, list(sites), every=2, progress=False)
    tile = games.label_set("tile")
    target = torch.from_numpy(tile.values[store.item].astype(np.int64))
    networks = {}
    for site in sites:
        torch.manual_seed(seed)
        x = torch.from_numpy(store.read(site))
        mean, std = x.mean(0), x.std(0) + 1e-6
        net = nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, 64 * len(tile.classes)))
        optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
        steps = epochs * (len(x) // 512)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        for step in range(steps):
            if step % (len(x) // 512) == 0:
                order = torch.randperm(len(x))
            rows = order[(step % (len(x) // 512)) * 512 :][:512]
            logits = net((x[rows] - mean) / std).view(len(rows), 64, -1)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), target[rows].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        first = net[0]
        with torch.no_grad():  # the standardisation goes into the first layer
            first.bias -= first.weight @ (mean / std)
            first.weight /= std
        networks[site] = net.requires_grad_(False)
    return networks


def descend(
    model: pk.Model,
    networks: dict[str, nn.Module],
    cases: othello.Cases,
    sites: Sequence[str],
    rate: float,
    steps: int = 60,
) -> ActivationEdit:
    """Change the last position, layer after layer, until the network reads the board with the disc turned.

    Li et al. 2022, section 4.1: gradient descent on the probe's loss for the wanted board, at a layer and all after it. The
    wanted board is what the network reads, but for the turned square.
    """
    here = (torch.arange(len(cases)), torch.from_numpy(cases.length - 1))
    square = torch.from_numpy(cases.square)
    classes = othello.sample_games(1, seed=0).label_set("tile").classes
    wanted_class = torch.where(torch.from_numpy(cases.mine), classes.index(THEIRS), classes.index(MINE))

    def change_at(site: str):
        net = networks[site]

        def change(h: Tensor) -> Tensor:
            with torch.enable_grad():
                x = h[here].detach().clone().requires_grad_(True)
                wanted = net(x).view(len(x), 64, -1).argmax(-1).detach()
                wanted[torch.arange(len(x)), square] = wanted_class
                optimiser = torch.optim.Adam([x], lr=rate)
                for _ in range(steps):
                    logits = net(x).view(len(x), 64, -1)
                    loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
            changed = h.clone()
            changed[here] = x.detach()
            return changed

        return change

    return ActivationEdit(f"descend at rate {rate:g}", model, {site: change_at(site) for site in sites})


@dataclass(frozen=True)
class Features:
    """At one site, which feature of the SAE says mine, and which theirs, of each square.

    Attributes:
        sae: The SAE.
        mine, theirs: `[64]` feature with the best F1 for the class.
        value: `[feature]` mean of the feature where it is active.
    """

    sae: object
    mine: Tensor
    theirs: Tensor
    value: Tensor


def fit_features(model: pk.Model, games: pk.Dataset, sites: Sequence[str]) -> dict[str, Features]:
    """The features that say most of each square, by F1 on random games."""
    tile = games.label_set("tile")
    found = {}
    for site in sites:
        sae = saes.load(f"othello-mini/{site}")
        encoded = saes.encode(sae, pk.capture(model, games, site, progress=False))
        scores = saes.score(encoded, tile)
        best = {class_: torch.full((64,), -1) for class_ in (MINE, THEIRS)}
        for column, name in enumerate(scores.names):
            if name.class_ in best:
                best[name.class_][tile.targets.index(name.target)] = int(scores.best_feature[column])
        matrix = encoded.matrix
        total, count = np.asarray(matrix.sum(0)).ravel(), np.asarray((matrix > 0).sum(0)).ravel()
        value = torch.from_numpy(total / np.maximum(count, 1)).float()
        found[site] = Features(sae, best[MINE], best[THEIRS], value)
    return found


def swap_features(
    model: pk.Model, features: dict[str, Features], cases: othello.Cases, sites: Sequence[str], strength: float
) -> ActivationEdit:
    """Take out the feature that says what the disc is, put in the one that says what it is to be, at its mean value."""
    here = (torch.arange(len(cases)), torch.from_numpy(cases.length - 1))
    square, mine = torch.from_numpy(cases.square), torch.from_numpy(cases.mine)

    def change_at(site: str):
        one = features[site]
        old = torch.where(mine, one.mine[square], one.theirs[square])
        new = torch.where(mine, one.theirs[square], one.mine[square])

        def change(h: Tensor) -> Tensor:
            with torch.no_grad():
                codes = one.sae.encode(h[here])
            rows = torch.arange(len(cases))
            less = codes[rows, old] * (old >= 0)
            more = (one.value[new] - codes[rows, new]) * (new >= 0)
            step = more[:, None] * one.sae.W_dec[new].detach() - less[:, None] * one.sae.W_dec[old].detach()
            changed = h.clone()
            changed[here] = h[here] + strength * step
            return changed

        return change

    return ActivationEdit(f"swap features (x{strength:g})", model, {site: change_at(site) for site in sites})
