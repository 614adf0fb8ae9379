"""The tables: how much each kind of direction moves, what it moves, what disentangling does, what aligns with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import directions as kinds
import numpy as np
import pandas as pd
from directions import Found
from measures import Draws, Effect, Judge, LastToken, both_ways, interval, kl_from

from probekit.probes import Direction
from probekit.surgery import jacobian_directions
from probekit.surgery.directions.random_directions import random_directions, spectrum_directions

SAME = "same length"
COMMON_TOKEN = 2e-4
"""Mean probability that a token must have to be listed as promoted: the log-probability of rarer ones moves for no reason."""


@dataclass(frozen=True)
class Measured:
    """Directions and what they did, and the draws that intervals come from.

    Attributes:
        found: The directions.
        effects: By kind and name, by step (`"1 sd"`, `"same length"`).
        judge: Measured them.
        everywhere: Draws over all rows, for what nothing was chosen by.
        choosing, reporting: Draws over the one and the other half of the groups.
    """

    found: list[Found]
    effects: Mapping[tuple[str, str], Mapping[str, Effect]]
    judge: Judge
    everywhere: Draws
    choosing: Draws
    reporting: Draws

    def of(self, kind: str) -> list[Found]:
        return [f for f in self.found if f.kind == kind]

    def effect(self, one: Found, step: str) -> Effect:
        return self.effects[one.kind, one.name][step]

    def moved(self, one: Found, step: str, choosing: bool = False) -> np.ndarray:
        """`[1 + draw, label]` mean change of each label's reading."""
        draws = self.choosing if choosing else self.reporting
        return draws.mean(self.effect(one, step).moved, self.judge.defined)

    def own(self, one: Found, step: str = SAME) -> int:
        """The label it is meant for; for one that is meant for none, the label that it moves most on the half to choose by."""
        return one.own if one.own is not None else int(np.abs(self.moved(one, step, choosing=True)[0]).argmax())

    def other(self, one: Found, step: str = SAME) -> int:
        """The label that it moves most beside its own, on the half to choose by."""
        size = np.abs(self.moved(one, step, choosing=True)[0])
        size[self.own(one, step)] = -1
        return int(size.argmax())


def movement(m: Measured, shown: Sequence[str], steps: Sequence[str]) -> pd.DataFrame:
    """By kind: Kullback-Leibler divergence at each step, and beside random directions at the same length."""
    kl = {
        (kind, step): np.mean([m.everywhere.mean(m.effect(f, step).kl) for f in m.of(kind)], 0)
        for kind in shown
        for step in (*steps, SAME)
    }
    rows = []
    for kind in shown:
        some = m.of(kind)
        each = [m.effect(f, SAME).kl.mean() for f in some]
        row: dict[str, object] = {"kind": kind, "directions": len(some)}
        row["standard deviation"] = np.mean([f.direction.scale for f in some])
        for step in (*steps, SAME):
            row |= three(f"KL, {step}", kl[kind, step])
        row["least"], row["most"] = min(each), max(each)
        row |= three("times random", kl[kind, SAME] / kl[kinds.RANDOM, SAME])
        row |= three("times covariance", kl[kind, SAME] / kl[kinds.SPECTRUM, SAME])
        if m.judge.plain_error is not None:
            row |= three("errors", np.mean([m.everywhere.mean(m.effect(f, SAME).error) for f in some], 0))
        rows.append(row)
    return pd.DataFrame(rows)


def every_direction(m: Measured, shown: Sequence[str]) -> pd.DataFrame:
    """A row a direction: what a step of the same length does, and which label it moves."""
    rows = []
    for f in (f for kind in shown for f in m.of(kind)):
        own, others = own_and_others(m, f, SAME)
        row: dict[str, object] = {"kind": f.kind, "direction": f.name, "standard deviation": f.direction.scale}
        row |= three("KL", m.everywhere.mean(m.effect(f, SAME).kl)) | {"moves": m.judge.world.labels[m.own(f)]}
        rows.append(row | three("own", own) | three("others", others) | three("selectivity", own / others))
    return pd.DataFrame(rows)


def selectivity(m: Measured, shown: Sequence[str], step: str = SAME) -> pd.DataFrame:
    """By kind: how far the own label moves, how far the others, their ratio, and how much of it is the step handed on."""
    rows = []
    for kind in shown:
        some = m.of(kind)
        parts = [own_and_others(m, f, step) for f in some]
        own, others = (np.stack([p[k] for p in parts]) for k in (0, 1))
        first = [np.abs(m.moved(f, step)[0]).argmax() == m.own(f, step) for f in some]
        carried = [abs(m.effect(f, step).carried[m.own(f, step)]) for f in some]
        row: dict[str, object] = {"kind": kind, "directions": len(some)}
        row |= three("own", np.median(own, 0)) | three("others", np.median(others, 0))
        row |= three("selectivity", np.median(own / others, 0))
        row |= three("any label", np.median([any_label(m, f, step) for f in some], 0))
        row["own moves most"] = f"{np.sum(first)} of {len(some)}"
        right = [m.moved(f, step)[0, f.own] > 0 for f in some if f.own is not None]
        row["the right way"] = f"{np.sum(right)} of {len(right)}" if right else "–"
        row["carried"] = float(np.median(carried))
        pair = [np.concatenate(v) for v in zip(*((m.moved(f, step)[0], m.effect(f, step).carried) for f in some), strict=True)]  # fmt: skip
        row["correlation with carried"] = float(np.corrcoef(*pair)[0, 1])
        rows.append(row)
    return pd.DataFrame(rows)


def own_and_others(m: Measured, one: Found, step: str) -> tuple[np.ndarray, np.ndarray]:
    """`[1 + draw]` each: size of the change of the own label, and the mean size of the others'."""
    size, own = np.abs(m.moved(one, step)), m.own(one, step)
    return size[:, own], np.delete(size, own, 1).mean(1)


def behaviour(m: Measured, shown: Sequence[str]) -> pd.DataFrame:
    """By kind, for labels that the next token can show: change of its log odds, and of those of all else that may be said."""
    world, rows = m.judge.world, []
    for kind in shown:
        own, rest, first, right = [], [], [], []
        for f in m.of(kind):
            signed = m.reporting.mean(m.effect(f, SAME).said, world.asked)
            choosing, reporting = np.abs(m.choosing.mean(m.effect(f, SAME).said, world.asked)), np.abs(signed)
            one = int(choosing[0].argmax()) if f.own is None else world.says(f.own)
            if one is not None:
                own.append(reporting[:, one])
                rest.append(np.delete(reporting, one, 1).mean(1))
                first.append(reporting[0].argmax() == one)
                right += [signed[0, one] > 0] if f.own is not None else []
        if own:
            row: dict[str, object] = {"kind": kind, "directions": len(own)}
            row |= three("own", np.median(own, 0)) | three("others", np.median(rest, 0))
            row |= three("selectivity", np.median(np.stack(own) / np.stack(rest), 0))
            row["own moves most"] = f"{np.sum(first)} of {len(first)}"
            rows.append(row | {"the right way": f"{np.sum(right)} of {len(right)}" if right else "–"})
    return pd.DataFrame(rows)


def any_label(m: Measured, one: Found, step: str) -> np.ndarray:
    """`[1 + draw]`: the median over labels of the selectivity for each of them."""
    size = np.abs(m.moved(one, step))
    found: np.ndarray = np.median(size * (size.shape[1] - 1) / (size.sum(1, keepdims=True) - size), 1)
    return found


def disentangling(m: Measured, others: Mapping[tuple[str, int], int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """By variant, and by variant and label: movement of the own label and of what was projected out, before and after."""
    rows, each = [], []
    for kind, (base, _, every) in kinds.DISENTANGLED.items():
        before = {f.own: f for f in m.of(base)}
        columns: dict[str, list[np.ndarray]] = {k: [] for k in ("own0", "own1", "out0", "out1", "sel0", "sel1", "kl0", "kl1")}  # fmt: skip
        for f in m.of(kind):
            assert f.own is not None
            out = others[base, f.own]
            for i, one in enumerate((before[f.own], f)):
                own, rest = own_and_others(m, one, SAME)
                gone = rest if every else np.abs(m.moved(one, SAME)[:, out])
                kl = m.everywhere.mean(m.effect(one, SAME).kl)
                for key, value in (("own", own), ("out", gone), ("sel", own / rest), ("kl", kl)):
                    columns[f"{key}{i}"].append(value)
            figures = {k: float(v[-1][0]) for k, v in columns.items()}
            name = "all others" if every else m.judge.world.labels[out]
            cosine = before[f.own].direction.cosine(f.direction)
            each.append({"kind": kind, "label": f.name, "out": name, "cosine": cosine} | figures)
        table = {k: np.stack(v) for k, v in columns.items()}
        row: dict[str, object] = {"kind": kind}
        for key in ("own", "out", "kl"):
            row |= three(f"{key} before", table[f"{key}0"].mean(0)) | three(f"{key} after", table[f"{key}1"].mean(0))
            row |= three(f"{key} ratio", table[f"{key}1"].mean(0) / table[f"{key}0"].mean(0))
        for i, when in enumerate(("before", "after")):
            row |= three(f"selectivity {when}", np.median(table[f"sel{i}"], 0))
        row |= three("selectivity gained", np.median(table["sel1"], 0) - np.median(table["sel0"], 0))
        row["falls"] = f"{(table['out1'][:, 0] < table['out0'][:, 0]).sum()} of {len(table['out0'])}"
        row["more selective"] = f"{(table['sel1'][:, 0] > table['sel0'][:, 0]).sum()} of {len(table['sel0'])}"
        rows.append(row)
    return pd.DataFrame(rows), pd.DataFrame(each)


def alignment(m: Measured, draws: int, seed: int) -> pd.DataFrame:
    """Largest |cosine| of each unsupervised direction with a labelled one, beside what random vectors reach."""
    store, beside = m.judge.world.find[0], m.of(kinds.MEANS)[0].direction
    rows = []
    for base in (kinds.MEANS, kinds.PROBE):
        labelled = np.stack([f.direction.vector.numpy() for f in m.of(base)])
        floor = {}
        for name, drawn in (
            ("random 95 %", random_directions(beside, draws, seed + 1)),
            ("covariance 95 %", spectrum_directions(beside, store, draws, seed + 1)),
        ):
            cosine = np.abs(np.stack([d.vector.numpy() for d in drawn]) @ labelled.T)
            floor[name] = float(np.quantile(cosine.max(1), 0.95))
        for f in m.found:
            if f.kind in (kinds.PCA, kinds.TO_LOGITS, kinds.TO_LATER):
                cosine = np.abs(labelled @ f.direction.vector.numpy())
                near = m.of(base)[int(cosine.argmax())].name
                rows.append({"with": base, "direction": f.name, "cosine": float(cosine.max()), "label": near} | floor)
    return pd.DataFrame(rows)


def transfer(m: Measured, length: float, count: int, iterations: int, draws: int, seed: int) -> pd.DataFrame:
    """Jacobian directions of single inputs, added to their own input and to others; beside other kinds on the same inputs."""
    world = m.judge.world
    short = [i for i in range(len(world.tokens)) if len(world.tokens[i]) <= 32]
    chosen = np.random.default_rng(seed).permutation(short)[:count]
    tokens = [world.tokens[i] for i in chosen]
    each = [
        jacobian_directions(
            world.model, ids, site=world.site, later=world.later, count=1, iterations=iterations, activations=world.find[0]
        )[0]
        for ids in tokens
    ]  # fmt: skip
    last = LastToken(world.model, tokens, world.later)
    plain = last.run()[1]
    groups: dict[str, list[Direction]] = {"Jacobian of one input": each}
    for kind in (kinds.TO_LATER, kinds.PCA, kinds.MEANS, kinds.SPECTRUM, kinds.RANDOM):
        groups[kind] = [f.direction for f in m.of(kind)[:count]]
    boot = Draws(np.arange(len(tokens)), np.ones(len(tokens), bool), draws, seed)
    rows = []
    for kind, some in groups.items():
        kl, alike = (np.stack(a) for a in zip(*(at_inputs(last, plain, m, d, length) for d in some), strict=True))
        row: dict[str, object] = {"kind": kind, "directions": len(some)}
        if some is each:
            vectors = np.stack([d.vector.numpy() for d in some])
            row["cosine between"] = float(np.abs(vectors @ vectors.T)[np.triu_indices(len(some), 1)].mean())
            own, rest = np.diag(kl), (kl.sum(0) - np.diag(kl)) / (len(some) - 1)
            row |= three("KL, own input", boot.mean(own)) | three("KL", boot.mean(rest))
            row |= three("own over others", boot.mean(own) / boot.mean(rest))
            row |= three("same change", boot.mean(np.diag(alike)))
        else:
            row |= three("KL", boot.mean(kl.mean(0))) | three("same change", boot.mean(alike.mean(0)))
        rows.append(row)
    return pd.DataFrame(rows)


def at_inputs(
    last: LastToken, plain: np.ndarray, m: Measured, direction: Direction, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """`[input]` each: divergence, and how far the change of log-probabilities correlates with that in the other inputs."""
    (_, up), (_, down) = both_ways(last.run, m.judge.world.model, direction, length)
    cosine = np.corrcoef((up - down) / 2)
    return (kl_from(plain, up) + kl_from(plain, down)) / 2, (cosine.sum(1) - 1) / (len(plain) - 1)


def promoted(m: Measured, shown: Sequence[str], most: int) -> pd.DataFrame:
    """Next tokens that a step makes likelier and less likely, and how many of the former in both halves of the data."""
    world = m.judge.world
    likely = np.exp(m.judge.plain).mean(0) > COMMON_TOKEN
    rows = []
    for f in (f for kind in shown for f in m.of(kind)):
        halves = m.effect(f, SAME).shift
        order = [int(t) for t in np.argsort(halves.mean(0), kind="stable") if likely[t]]
        tops = [set(np.argsort(np.where(likely, half, -np.inf))[-most:].tolist()) for half in halves]
        row = {"kind": f.kind, "direction": f.name}
        row["up"] = ", ".join(repr(world.token_name(int(t))) for t in order[::-1][:most])
        row["down"] = ", ".join(repr(world.token_name(int(t))) for t in order[:most])
        row["in both halves"] = len(tops[0] & tops[1])
        rows.append(row)
    return pd.DataFrame(rows)


def three(name: str, draws: np.ndarray) -> dict[str, float]:
    """A value and its interval as three columns."""
    value, low, high = interval(draws)
    return {name: value, f"{name} low": low, f"{name} high": high}


def words(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """Values and their intervals as one column of text."""
    out = {}
    for name in table.columns:
        if name.endswith((" low", " high")) and name.rsplit(" ", 1)[0] in table:
            continue
        if f"{name} low" in table:
            out[name] = [
                f"{figure(v, digits)} ({figure(a, digits)} to {figure(b, digits)})" if v == v else "–"
                for v, a, b in zip(table[name], table[f"{name} low"], table[f"{name} high"], strict=True)
            ]
        else:
            out[name] = [figure(v, digits) if isinstance(v, float) else v for v in table[name]]
    return pd.DataFrame(out)


def figure(value: float, digits: int) -> str:
    """So many significant digits, without an exponent."""
    if value != value:
        return "–"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{places}f}"
